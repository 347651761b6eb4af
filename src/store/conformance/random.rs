//! Random sequences of changes on two implementations, compared outcome by outcome, and query by query.
//!
//! A step is a few numbers; what they mean is decided by what has happened so far (which blobs were begun, which uploads
//! are open), so that most steps have something to do. Ids are given out in the same order by every implementation, so
//! outcomes are equal or wrong.

use super::super::memory::MemoryStore;
use super::super::postgres::cluster::OnPostgres;
use super::super::record::PartRecord;
use super::*;
use crate::base::{PartNumber, UploadId, Version};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

const KEYS: [&str; 3] = ["k", "k/", "l"];
const BACKENDS: [&str; 3] = ["a", "b", "c"];

/// What the numbers of a step are drawn from.
type Numbers = (u8, u16, u16, u16);

/// What is known of the run, from outcomes.
#[derive(Default)]
struct Known {
    incarnation: i64,
    rolls: u64,
    /// Blobs that were ever begun, with key and version; those that have not been ended; those that became live.
    begun: Vec<(ObjectKey, Begun)>,
    open: Vec<(ObjectKey, Begun)>,
    live: Vec<(ObjectKey, Begun)>,
    uploads: Vec<Upload>,
    completing: Vec<Upload>,
    /// As which version, each time.
    started: Vec<(UploadId, Version)>,
    /// Attempts that have not been ended, and parts that were committed.
    attempts: Vec<(Upload, PartNumber, Nonce, u64)>,
    parts: Vec<(Upload, PartNumber, String)>,
    due: Vec<DueCleanup>,
}

fn pick<T>(from: &[T], number: u16) -> Option<&T> {
    from.get(usize::from(number).checked_rem(from.len())?)
}

/// Mostly one of the last few, where things are still going on.
fn recent<T>(from: &[T], number: u16) -> Option<&T> {
    let window = if number.is_multiple_of(5) { from.len() } else { 3 };
    pick(&from[from.len().saturating_sub(window)..], number)
}

/// Mostly one of `likely`, sometimes any.
fn mostly<'a, T>(likely: &'a [T], any: &'a [T], number: u16) -> Option<&'a T> {
    if number.is_multiple_of(7) { recent(any, number) } else { recent(likely, number) }
}

impl Known {
    fn roll(&mut self) -> u64 {
        self.rolls += 1;
        self.rolls
    }

    fn candidates(number: u16) -> Vec<Candidate> {
        let order = ["a", "b", "c", "a", "b"];
        let from = usize::from(number % 3);
        on(&order[from..from + 1 + usize::from(number / 3 % 3)])
    }

    /// Mostly the living one.
    fn incarnation(&self, number: u16) -> Incarnation {
        Incarnation(if number % 32 == 7 { self.incarnation - 1 } else { self.incarnation })
    }

    fn condition(number: u16, begun: &[(ObjectKey, Begun)]) -> WriteCondition {
        let etag = || pick(begun, number / 16).map(|(_, begun)| begun.version.as_str().to_owned()).unwrap_or_default();
        match number % 16 {
            0 => WriteCondition { must_not_exist: true, ..WriteCondition::default() },
            1 => WriteCondition { etag_in: Some(vec![etag()]), ..WriteCondition::default() },
            2 => WriteCondition { etag_not_in: vec![etag()], ..WriteCondition::default() },
            3 => WriteCondition { size_is: Some(u64::from(number / 16 % 4) * 100), ..WriteCondition::default() },
            _ => WriteCondition::default(),
        }
    }

    fn change(&mut self, (kind, x, y, z): Numbers) -> Option<Change> {
        match kind {
            0..=19 => self.write(kind, x, y, z),
            20..=27 => self.copy(kind, x, y, z),
            28..=47 => self.multipart(kind, x, y, z),
            48..=57 => self.upkeep(kind, x, y),
            _ => self.operate(kind, x, y, z),
        }
    }

    fn write(&mut self, kind: u8, x: u16, y: u16, z: u16) -> Option<Change> {
        let incarnation = self.incarnation(z);
        let nonce = Nonce::from_roll(self.roll());
        let likely = mostly(&self.open, &self.begun, y);
        let condition = Self::condition(z / 32, &self.begun);
        Some(match kind {
            0..=7 => {
                let failed = likely.filter(|_| x % 8 < 2);
                let instead_of =
                    failed.map(|(_, begun)| GivenUp { blob: begun.blob.id, may_appear: y.is_multiple_of(2) });
                let of_failed = failed.filter(|_| !z.is_multiple_of(9)).map(|(key, _)| key.clone());
                let key = of_failed.unwrap_or(key(pick(&KEYS, x)?));
                let size = [0, 1, 100, 450, 999, 1001][usize::from(y % 6)];
                let candidates = Self::candidates(x / 8);
                let (bucket, in_stored) = (bucket(), false);
                BeginWrite { incarnation, bucket, in_stored, key, size, candidates, condition, nonce, instead_of }
                    .into()
            }
            8..=14 => {
                let (key, begun) = likely?;
                let mut blobs = vec![Written { blob: begun.blob.id, version_id: format!("v{}", y % 3) }];
                if x.is_multiple_of(16) {
                    blobs.push(Written { blob: recent(&self.begun, x / 16)?.1.blob.id, version_id: String::new() });
                }
                let etag = begun.version.as_str().to_owned();
                let record = ObjectRecord { headers: vec![("x".into(), y.to_string())], ..ObjectRecord::default() };
                CommitWrite { incarnation, bucket: bucket(), key: key.clone(), blobs, etag, record, condition }.into()
            }
            15..=16 => {
                let given_up = GivenUp { blob: likely?.1.blob.id, may_appear: x.is_multiple_of(2) };
                AbandonWrite { incarnation, given_up, reason: format!("r{x}") }.into()
            }
            17 => Delete { bucket: bucket(), key: key(pick(&KEYS, x)?), condition }.into(),
            18 => {
                let tags = vec![("t".to_owned(), y.to_string())];
                SetTags { bucket: bucket(), key: key(pick(&KEYS, x)?), tags }.into()
            }
            _ => return None,
        })
    }

    fn copy(&mut self, kind: u8, x: u16, y: u16, z: u16) -> Option<Change> {
        let incarnation = self.incarnation(z);
        let nonce = Nonce::from_roll(self.roll());
        let likely = if matches!(kind, 22..=24) { &self.open } else { &self.live };
        let (key, begun) = mostly(likely, &self.begun, y)?.clone();
        let blob = begun.blob.id;
        Some(match kind {
            20..=21 => {
                let (version, candidates) = (begun.version, Self::candidates(x));
                BeginCopy { incarnation, bucket: bucket(), key, version, candidates, nonce }.into()
            }
            22..=24 => {
                let written = Written { blob, version_id: format!("v{}", x % 3) };
                CommitCopy { incarnation, bucket: bucket(), key, written }.into()
            }
            _ => {
                let not_counted = if x.is_multiple_of(5) { vec![name(pick(&BACKENDS, x / 5)?)] } else { vec![] };
                let floor = u32::from(x % 3);
                RemoveCopy { bucket: bucket(), key, blob, floor, not_counted, reason: "trim".into() }.into()
            }
        })
    }

    fn multipart(&mut self, kind: u8, x: u16, y: u16, z: u16) -> Option<Change> {
        let incarnation = self.incarnation(z);
        let nonce = Nonce::from_roll(self.roll());
        let condition = Self::condition(z / 32, &self.begun);
        if kind <= 29 {
            return Some(Change::from(CreateUpload {
                bucket: bucket(),
                in_stored: false,
                key: key(pick(&KEYS, x)?),
                upload: UploadId::from_rolls(0, if z.is_multiple_of(19) { 1 } else { self.roll() }),
                candidates: Self::candidates(y),
                nonce,
                record: ObjectRecord::default(),
                checksum_algorithm: x.is_multiple_of(2).then(|| "CRC32".into()),
                checksum_full_object: y.is_multiple_of(2),
                uploads_max: u32::from(z % 7),
            }));
        }
        let likely = if kind >= 43 { &self.completing } else { &self.uploads };
        let one = mostly(likely, &self.uploads, y)?.clone();
        let (upload, bucket, key) = (one.upload, one.bucket, one.key);
        Some(match kind {
            30 => SetBackendUpload { upload, backend_upload: format!("b{x}") }.into(),
            31..=33 => {
                let number = PartNumber::new(1 + x % 3)?;
                let size = [0, 1, 100, 300][usize::from(z % 4)];
                BeginPart { incarnation, bucket, key, upload, number, size, nonce }.into()
            }
            34..=38 => {
                let (of, number, nonce, size) = recent(&self.attempts, x)?.clone();
                let size = if z % 16 == 3 { size + 1 } else { size };
                let part = PartRecord {
                    number: number.get(),
                    size,
                    etag: format!("e{}", z % 2),
                    backend_etag: String::new(),
                    checksums: Vec::new(),
                    modified_ms: 0,
                };
                CommitPart { incarnation, upload: of.upload, nonce, part }.into()
            }
            39 => {
                let (of, number, nonce, _) = recent(&self.attempts, x)?.clone();
                let may_have_replaced = z.is_multiple_of(2);
                AbandonPart { incarnation, upload: of.upload, number, nonce, may_have_replaced }.into()
            }
            40..=42 => self.complete(x, condition, z)?.into(),
            43..=45 => {
                let record = ObjectRecord { parts: x, ..ObjectRecord::default() };
                let (version_id, etag) = (format!("v{}", x % 3), format!("final{x}"));
                let version = self.started_as(&upload, y)?;
                FinishComplete { bucket, key, upload, version, version_id, etag, record, condition }.into()
            }
            46 => ReopenUpload { version: self.started_as(&upload, z)?, upload }.into(),
            _ if x.is_multiple_of(3) => AbortStale { upload, age: Duration::from_secs(u64::from(z % 40)) }.into(),
            _ => AbortUpload { bucket, key, upload }.into(),
        })
    }

    /// Mostly the last version, sometimes a former one; one that no upload has if it was never started.
    fn started_as(&self, upload: &UploadId, number: u16) -> Option<Version> {
        let of_it = self.started.iter().filter(|(of, _)| of == upload).map(|(_, version)| *version);
        let of_it: Vec<Version> = of_it.collect();
        let last = of_it.last().copied().unwrap_or(Version::from_parts(1, 1));
        if number % 5 == 1 { pick(&of_it, number / 5).copied() } else { Some(last) }
    }

    /// Mostly with the parts that the upload has.
    fn complete(&self, x: u16, condition: WriteCondition, z: u16) -> Option<StartComplete> {
        let (of, ..) = recent(&self.parts, x)?;
        let of_upload = self.parts.iter().filter(|(one, ..)| one.upload == of.upload);
        let mut manifest: Vec<_> = of_upload.map(|(_, number, etag)| (*number, etag.clone())).collect();
        manifest.sort();
        match x % 16 {
            0 => drop(manifest.pop()),
            1 => manifest.push((PartNumber::new(3)?, "e0".into())),
            2 => manifest.reverse(),
            3 => manifest.iter_mut().for_each(|(_, etag)| etag.push('x')),
            _ => {}
        }
        Some(StartComplete {
            bucket: of.bucket.clone(),
            key: of.key.clone(),
            upload: of.upload.clone(),
            manifest,
            condition,
            enforce_min_part_size: z % 16 == 5,
        })
    }

    fn upkeep(&mut self, kind: u8, x: u16, y: u16) -> Option<Change> {
        Some(match kind {
            48..=51 => {
                let due = recent(&self.due, x)?;
                CleanupDone { blob: due.blob.id, found: due.found }.into()
            }
            52 => CleanupFailed { blob: recent(&self.due, x)?.blob.id, error: format!("e{y}") }.into(),
            53 if x.is_multiple_of(2) => {
                let limits = [("a", [1000, 700, 0, 1500]), ("b", [1000, 1000, 300, 0]), ("c", [0, 0, 5000, 0])];
                let configured = limits.iter().enumerate().filter(|(i, _)| y / 4 % 7 != *i as u16);
                let limit = |(_, (backend, limits)): (usize, &(&str, [u64; 4]))| BackendLimit {
                    name: name(backend),
                    bytes_limit: limits[usize::from(y % 4)],
                };
                let backends = configured.map(limit).collect();
                if x.is_multiple_of(4) {
                    Register { deployment: format!("d{x}"), backends }.into()
                } else {
                    SetLimits { backends }.into()
                }
            }
            54 => SetDraining { backend: name(pick(&BACKENDS, x)?), draining: y.is_multiple_of(8) }.into(),
            55 => {
                let measured = y.is_multiple_of(2);
                let facts = super::super::record::BackendFacts { measured, ..Default::default() };
                RecordFacts { backend: name(pick(&BACKENDS, x)?), facts }.into()
            }
            56 => {
                let usage = Usage { api_requests: u64::from(x), egress_bytes: u64::from(y), ingress_bytes: 1 };
                let backends = vec![(name(pick(&BACKENDS, x)?), usage)];
                RecordUsage { incarnation: Incarnation(self.incarnation), period: "2026-11".into(), backends }.into()
            }
            57 => ForgetOld.into(),
            _ => return None,
        })
    }

    fn operate(&mut self, kind: u8, x: u16, y: u16, z: u16) -> Option<Change> {
        Some(match kind {
            58 if x.is_multiple_of(2) => Requeue { blob: recent(&self.due, y)?.blob.id }.into(),
            58 => WriteOff { blob: recent(&self.due, y)?.blob.id }.into(),
            59 => FinishDrain { backend: name(pick(&BACKENDS, x)?) }.into(),
            60 if y.is_multiple_of(4) => {
                let of = recent(&self.uploads, x)?;
                let (bucket, key, blob) = (of.bucket.clone(), of.key.clone(), of.blob.id);
                drop_copy(bucket, key, blob, z).into()
            }
            60 => {
                let (key, begun) = mostly(&self.live, &self.begun, x)?;
                drop_copy(bucket(), key.clone(), begun.blob.id, z).into()
            }
            61..=62 => self.adopt(x, y, z)?.into(),
            64 => {
                let ask = |backend: &str, number: u16| BudgetAsk {
                    backend: name(backend),
                    counter: ["api_requests", "egress_bytes", "pool:a"][usize::from(number % 3)].into(),
                    limit: [1000, 0, 70_000][usize::from(number / 3 % 3)],
                    holds: u64::from(number % 977),
                    used: u64::from(number % 499),
                    under_way: u64::from(number % 61),
                    least: u64::from(number % 7),
                    waiting: u64::from(number % 89),
                    slice: u64::from(y % 300),
                };
                let asks = vec![ask(pick(&BACKENDS, x)?, y), ask(pick(&BACKENDS, y)?, x)];
                let period = ["2026-11", "2026-12", "2026-10", "2026-07"][usize::from(x % 9 / 2 % 4)].into();
                LeaseBudgets { incarnation: Incarnation(1 + i64::from(y % 3)), period, asks }.into()
            }
            63 => SetRestored { restored: x.is_multiple_of(2) }.into(),
            _ => return None,
        })
    }

    /// Something that somebody else put there; a copy that has no row, of a version that is or was known; or bytes of a row.
    fn adopt(&mut self, x: u16, y: u16, z: u16) -> Option<Adopt> {
        let nonce = Nonce::from_roll(self.roll());
        let backend = name(pick(&BACKENDS, z)?);
        let known = recent(&self.begun, x);
        let (key, version) = match known {
            Some((key, begun)) => (key.clone(), Some(begun.version)),
            None => (key(pick(&KEYS, x)?), None),
        };
        let (backend, name, version) = match (y % 8, known) {
            (0, _) | (_, None) => (backend, key.as_str().to_owned(), None),
            (1..=4, Some((_, begun))) => (begun.blob.backend.clone(), begun.blob.name.clone(), version),
            _ => (backend, format!("{}!{}", key.as_str(), nonce.as_str()), version),
        };
        let record = ObjectRecord { headers: vec![("x".into(), y.to_string())], ..ObjectRecord::default() };
        let foreign_etag = if version.is_none() { "theirs" } else { "" }.to_owned();
        let (assembled, size, etag) = (y.is_multiple_of(5), u64::from(z % 4) * 300, format!("found{y}"));
        Some(Adopt {
            bucket: bucket(),
            key,
            backend,
            name,
            version,
            assembled,
            size,
            etag,
            foreign_etag,
            record,
            nonce,
        })
    }

    fn learn(&mut self, change: &Change, outcome: &Outcome) {
        match (change, outcome) {
            (Change::BeginWrite(BeginWrite { key, .. }), Outcome::BeginWrite(Ok(begun)))
            | (Change::BeginCopy(BeginCopy { key, .. }), Outcome::BeginCopy(Ok(begun))) => {
                self.begun.push((key.clone(), begun.clone()));
                self.open.push((key.clone(), begun.clone()));
            }
            (Change::CommitWrite(one), Outcome::CommitWrite(outcome)) => {
                let ended = |begun: &Begun| one.blobs.iter().any(|written| written.blob == begun.blob.id);
                let of_these = self.open.extract_if(.., |(_, begun)| ended(begun));
                self.live.extend(of_these.filter(|_| matches!(outcome, Ok(Committed::Live { .. }))));
            }
            (Change::CommitCopy(one), Outcome::CommitCopy(outcome)) => {
                let of_this = self.open.extract_if(.., |(_, begun)| begun.blob.id == one.written.blob);
                self.live.extend(of_this.filter(|_| outcome.is_ok()));
            }
            (Change::AbandonWrite(one), _) => self.open.retain(|(_, begun)| begun.blob.id != one.given_up.blob),
            (Change::RemoveCopy(one), Outcome::RemoveCopy(Ok(_))) => {
                self.live.retain(|(_, begun)| begun.blob.id != one.blob);
            }
            (Change::Delete(one), Outcome::Delete(Ok(_))) => self.live.retain(|(key, _)| *key != one.key),
            (_, Outcome::Register(Ok(registered))) => {
                self.incarnation = registered.incarnation.0;
                self.open.clear();
            }
            (_, Outcome::CreateUpload(Ok(upload))) => self.uploads.push(upload.clone()),
            (Change::BeginPart(one), Outcome::BeginPart(Ok(begun))) => {
                self.attempts.push((begun.upload.clone(), one.number, begun.nonce, one.size));
            }
            (Change::CommitPart(one), Outcome::CommitPart(outcome)) => {
                let of_this = self.attempts.extract_if(.., |(_, _, nonce, _)| *nonce == one.nonce);
                let committed: Vec<_> = of_this.filter(|_| outcome.is_ok()).collect();
                for (upload, number, ..) in committed {
                    self.parts.retain(|(of, other, _)| of.upload != upload.upload || *other != number);
                    self.parts.push((upload, number, one.part.etag.clone()));
                }
            }
            (Change::AbandonPart(one), _) => self.attempts.retain(|(_, _, nonce, _)| *nonce != one.nonce),
            (_, Outcome::StartComplete(Ok(CompleteStarted::Go { upload, version, .. }))) => {
                self.completing.push(upload.clone());
                self.started.push((upload.upload.clone(), *version));
            }
            (Change::FinishComplete(one), Outcome::FinishComplete(outcome)) => {
                let of_this = self.completing.extract_if(.., |known| known.upload == one.upload);
                // The blob of a completed upload can be copied and removed like any other.
                if let (Some(upload), Ok(committed)) = (of_this.last(), outcome) {
                    let begun = Begun { version: committed.version(), blob: upload.blob };
                    self.begun.push((one.key.clone(), begun.clone()));
                    self.live.push((one.key.clone(), begun));
                }
            }
            _ => {}
        }
    }

    /// Everything that a caller can see.
    fn queries(&self) -> Vec<Query> {
        let backends = || BACKENDS.iter().map(|one| name(one)).collect::<Vec<_>>();
        let mut queries = vec![
            Query::Status { period: "2026-11".into() },
            Query::Usage { period: "2026-11".into() },
            Query::Usage { period: "2026-07".into() },
            Query::Audit,
            Query::DueCleanups { on: backends(), max: 1000 },
            Query::DueCleanups { on: vec![name("b")], max: 1 },
            Query::NextCleanup { on: backends() },
            Query::Cleanups { dead: true, backend: None, after: BlobId(0), max: 1000 },
            Query::Cleanups { dead: false, backend: Some(name("a")), after: BlobId(1), max: 3 },
            Query::OverReplicated { factor: 1, counted: backends(), after: None, max: 2 },
            Query::Restored,
            Query::Reserved { incarnation: Incarnation(self.incarnation), after: BlobId(0), max: 1000 },
            Query::PartAttempts { incarnation: Incarnation(self.incarnation), after: (String::new(), 0), max: 1000 },
            Query::UnderReplicated { factor: 2, counted: backends(), after: None, max: 2 },
            Query::UnderReplicatedCount { factor: 3, counted: vec![name("a")], max: 2 },
            Query::List(ListQuery { bucket: BUCKET.into(), delimiter: "/".into(), max: 10, ..ListQuery::default() }),
        ];
        for key in KEYS {
            queries.push(Query::Lookup { bucket: BUCKET.into(), key: key.into() });
        }
        for backend in BACKENDS {
            queries.push(Query::Blobs { backend: name(backend), after: String::new(), max: 1000 });
        }
        let versions: std::collections::BTreeSet<(&str, Version)> =
            self.begun.iter().rev().take(8).map(|(key, begun)| (key.as_str(), begun.version)).collect();
        for (key, version) in versions {
            queries.push(Query::Copies { bucket: BUCKET.into(), key: key.into(), version });
        }
        for upload in self.uploads.iter().rev().take(4) {
            queries.push(Query::Upload { upload: upload.upload.clone() });
            queries.push(Query::Parts { upload: upload.upload.clone(), after: 0, max: 2 });
        }
        queries
    }
}

fn drop_copy(bucket: BucketName, key: ObjectKey, blob: BlobId, number: u16) -> DropCopy {
    let bytes = if number.is_multiple_of(2) { Bytes::Gone } else { Bytes::Deleted };
    DropCopy { bucket, key, blob, bytes, only_live: number.is_multiple_of(3), reason: "dropped".into() }
}

fn compare<S: MetadataStore>(steps: &[Vec<Numbers>], make: fn(TestClock, Rules) -> S) -> Result<(), TestCaseError> {
    let clock = TestClock::new();
    let rules = Rules::default();
    let model = MemoryStore::new(clock.clone(), rules);
    let store = make(clock.clone(), rules);
    let mut known = Known::default();
    let limits = [("a", 1000), ("b", 1000), ("c", 0)];
    let backends = limits.map(|(one, bytes_limit)| BackendLimit { name: name(one), bytes_limit }).into();
    let mut batches = vec![vec![Change::from(Register { deployment: "d".into(), backends })]];
    for (i, numbers) in std::iter::once(&Vec::new()).chain(steps).enumerate() {
        if i > 0 {
            // A step whose first number is above the changes lets time pass.
            let waits = numbers.iter().filter(|one| one.0 >= 65);
            waits
                .for_each(|one| clock.advance(Duration::from_secs([1, 60, 300, 1200, 90_000][usize::from(one.1 % 5)])));
            batches.push(independent(numbers.iter().filter_map(|one| known.change(*one)).collect()));
        }
        let changes: Arc<[Change]> = batches.pop().expect("one was pushed").into();
        let id = BatchId(1, i as u64);
        let want = wait_for(model.apply(id, changes.clone())).expect("the model never fails");
        let got = wait_for(store.apply(id, changes.clone()));
        let got = got.map_err(|error| TestCaseError::fail(format!("{error:?} from {changes:?}")))?;
        prop_assert_eq!(&got, &want, "of {:?}", changes);
        for (change, outcome) in changes.iter().zip(&got.outcomes) {
            known.learn(change, outcome);
        }
        for query in known.queries() {
            let mut want = wait_for(model.query(query.clone())).expect("the model never fails");
            let got = wait_for(store.query(query.clone())).expect("the query is answered");
            if let (Answer::Audit(want), Answer::Audit(got)) = (&mut want, &got) {
                // How much is granted beyond what is charged is a database's own affair, within the limit.
                want.iter_mut().zip(got).for_each(|(want, got)| want.granted = got.granted);
            }
            prop_assert_eq!(&got, &want, "{:?} after {:?}", query, changes);
            match got {
                Answer::DueCleanups(due) => known.due.extend(due),
                Answer::Audit(books) => check_invariants(&books)?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// The desk never puts two changes with a common subject into one batch.
fn independent(changes: Vec<Change>) -> Vec<Change> {
    let mut taken: Vec<Change> = Vec::new();
    for change in changes {
        let subjects = change.subjects();
        let meets = |other: &Change| {
            let others = other.subjects();
            let everything = |subjects: &[Option<Subject<'_>>; 2]| subjects.contains(&Some(Subject::Everything));
            everything(&subjects)
                || everything(&others)
                || subjects.iter().flatten().any(|one| others.contains(&Some(*one)))
        };
        if !taken.iter().any(meets) {
            taken.push(change);
        }
    }
    taken
}

fn check_invariants(books: &[BackendAudit]) -> Result<(), TestCaseError> {
    for one in books {
        prop_assert_eq!(one.charged, one.rows_bytes as i64, "{:?}", one);
        prop_assert_eq!(&one.counters, &one.counted);
        if one.bytes_limit > 0 {
            prop_assert!(one.granted <= one.bytes_limit as i64, "{:?}", one);
        }
    }
    Ok(())
}

fn run<S: MetadataStore>(cases: u32, make: fn(TestClock, Rules) -> S) {
    let numbers = (0_u8..69, any::<u16>(), any::<u16>(), any::<u16>());
    let steps = prop::collection::vec(prop::collection::vec(numbers, 1..6), 1..80);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
    TestRunner::new(config).run(&steps, |steps| compare(&steps, make)).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn sqlite_does_what_the_model_does() {
    run(40, OnDisk::new);
}

/// Each case makes its tables anew.
#[test]
fn postgres_does_what_the_model_does() {
    run(15, OnPostgres::new);
}
