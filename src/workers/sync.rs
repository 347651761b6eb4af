//! Compares what a backend holds with what the database says of it (`sync`; PROTOCOL.md, "Rewound database").
//!
//! One walk over the backend's listing, page by page, each merged with the rows of its range, which are read after the
//! page: bytes are never there before their row. What no row names is adopted: the newest version of a key wins, what the
//! database knows to be overwritten or deleted is not revived. Then, in a second walk, copies whose bytes are gone are dropped,
//! after a look at the exact name: not before every backend was adopted from, because the last copy takes with it what only the
//! database knows of an object, and an object that was moved has another. Objects that were assembled from parts are adopted
//! between the two: they may be newer than their names say, so that whatever displaced them by its name might be older, and
//! would have their bytes deleted. Every difference is told, so that an operator sees
//! what only the age of a backup explains.

mod unfinished;

use crate::backend::port::BlobHead;
use crate::base::{BackendName, BlobId, BucketName, Clock, Dice, Failure, Nonce, ObjectKey, Version, blob_name};
use crate::config::view::View;
use crate::handlers::concurrent;
use crate::handlers::placing;
use crate::handlers::ports::{Ports, Worker};
use crate::store::port::{
    Adopt, Adopted, Answer, BlobRow, Bytes, DropCopy, Metadata, Query, Renew, SetRestored, WRITER_GONE,
};
use crate::store::record::{BlobAt, BlobState, Located, ObjectRecord};
use md5::{Digest, Md5};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Rows of one page of the database's.
const ROWS: u32 = 1000;
/// Differences of one page that are looked at and settled at once.
const AT_ONCE: usize = 16;
/// How often it is looked whether a write has ended.
const LOOK: Duration = Duration::from_millis(200);
/// Terms of a lease in which writes that were met under way have to end. Those of a run that the backup knows as living end
/// within one.
const TERMS_MAX: u32 = 3;

/// What is to be compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    pub backends: Vec<BackendName>,
    /// Only this bucket's; and where objects that somebody else put there are imported to. None: names of our own form of
    /// every bucket, and nothing else.
    pub bucket: Option<BucketName>,
    /// Only keys that begin so.
    pub prefix: String,
    /// Tell, and change nothing.
    pub dry_run: bool,
    /// The database was restored from a backup: held until every backend was compared.
    pub restored: bool,
}

impl Plan {
    /// Every backend of the configuration, after the database was restored from a backup.
    pub fn after_restore(view: &View, dry_run: bool) -> Self {
        let backends = view.backends.iter().map(|one| one.name.clone()).collect();
        Self { backends, bucket: None, prefix: String::new(), dry_run, restored: true }
    }
}

/// What `sync` found at one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// The database did not know the key.
    Imported,
    /// A newer version of a key that the database knows: it took its place.
    Newer,
    /// One more copy of what the database knows.
    Copy,
    /// Something newer is, or was, live: its bytes will be deleted.
    Outdated,
    /// Which is newer cannot be said, or the key is neither in the name nor beside the bytes: nothing deletes it.
    Unclear,
    /// The bytes of this copy are gone; there are others.
    CopyGone,
    /// The bytes of the last copy are gone, and the object with them.
    ObjectGone,
    /// Other bytes than the database says: left alone.
    Differs,
    /// What a write that was cut off left beside the blobs, and no row names: deleted.
    Unfinished,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A page was compared; names of the backend's listing so far.
    Progress {
        backend: String,
        listed: u64,
    },
    Item {
        backend: String,
        found: Found,
        key: String,
        name: String,
        size: u64,
    },
    /// The last one of a run that came to its end.
    Result(Counts),
    /// The last one of a run that did not.
    Failed {
        error: String,
        counts: Counts,
    },
}

impl Event {
    /// The same, if it is the last one, with how many items were not told before.
    pub fn with_untold(mut self, items: u64) -> Self {
        if let Self::Result(counts) | Self::Failed { counts, .. } = &mut self {
            counts.untold = items;
        }
        self
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counts {
    pub listed: u64,
    pub known: u64,
    pub imported: u64,
    pub newer: u64,
    pub copies: u64,
    pub outdated: u64,
    pub unclear: u64,
    pub copies_gone: u64,
    pub objects_gone: u64,
    pub differs: u64,
    pub unfinished: u64,
    /// Names that are none of this run's: other buckets, other prefixes, our own files.
    pub ignored: u64,
    /// Items that were not told, because whoever listens had too many to read already.
    pub untold: u64,
    pub dry_run: bool,
    /// The database was held as restored, and is not any more.
    pub released: bool,
}

impl Counts {
    fn add(&mut self, found: Found) {
        *match found {
            Found::Imported => &mut self.imported,
            Found::Newer => &mut self.newer,
            Found::Copy => &mut self.copies,
            Found::Outdated => &mut self.outdated,
            Found::Unclear => &mut self.unclear,
            Found::CopyGone => &mut self.copies_gone,
            Found::ObjectGone => &mut self.objects_gone,
            Found::Differs => &mut self.differs,
            Found::Unfinished => &mut self.unfinished,
        } += 1;
    }
}

/// A name of a listing, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Named {
    bucket: BucketName,
    /// None: the name holds only the key's hash. What travelled with the bytes may say it (backend/travel.rs).
    key: Option<ObjectKey>,
    /// None: not of our own form.
    version: Option<Version>,
}

/// Carries the plan out; `tell` hears of everything and answers whether anybody still listens. The last event says how it
/// ended. Cancel: NOT safe, as every worker.
pub async fn run<P: Ports>(ports: &P, plan: &Plan, mut tell: impl FnMut(Event) -> bool) {
    let mut counts = Counts { dry_run: plan.dry_run, ..Counts::default() };
    let last = match compare_all(ports, plan, &mut counts, &mut tell).await {
        Ok(()) => Event::Result(counts),
        Err(failure) => Event::Failed { error: failure.to_string(), counts },
    };
    let _ = tell(last); // nobody may be left to hear it
}

async fn compare_all<P: Ports>(
    ports: &P,
    plan: &Plan,
    counts: &mut Counts,
    tell: &mut impl FnMut(Event) -> bool,
) -> Result<(), Failure> {
    if plan.restored && !plan.dry_run {
        hold(ports, true).await?;
        // Deletes that any run has decided on before are sent by then, or never will be.
        if let Some(until) = ports.mandate().until {
            ports.clock().sleep(until.since(ports.clock().tick()) + LOOK).await;
        }
        judge(ports).await?;
    }
    let restored = is_held(ports).await?;
    let (mut with_missing, mut assembled) = (Vec::new(), Vec::new());
    for backend in &plan.backends {
        let mut walk = Walk::new(ports, plan, backend, restored, Round::Adopt, counts, tell);
        walk.walk().await?;
        if walk.missing {
            with_missing.push(backend);
        }
        assembled.extend(walk.assembled.into_iter().map(|(key, one)| (key, backend, one)));
    }
    for (backend, differences) in newest_first(assembled) {
        Walk::new(ports, plan, backend, restored, Round::Assembled, counts, tell).settle(differences).await?;
    }
    for backend in with_missing {
        Walk::new(ports, plan, backend, restored, Round::Drop, counts, tell).walk().await?;
    }
    for backend in &plan.backends {
        unfinished::remove(ports, plan, backend, counts, tell).await?;
    }
    if plan.restored && !plan.dry_run {
        hold(ports, false).await?;
        counts.released = true;
    }
    if !plan.dry_run {
        ports.wake(Worker::Cleanup);
        ports.wake(Worker::Replicate);
    }
    Ok(())
}

async fn blobs_after<P: Ports>(ports: &P, backend: &BackendName, after: String) -> Result<Vec<BlobRow>, Failure> {
    match ports.meta().query(Query::Blobs { backend: backend.clone(), after, max: ROWS }).await? {
        Answer::Blobs(rows) => Ok(rows),
        _ => Err(Failure::ourselves("a query was answered with another's answer")),
    }
}

/// Whose marker was not seen is not compared: what is not there need not be gone.
fn must_be_usable<P: Ports>(ports: &P, backend: &BackendName) -> Result<(), Failure> {
    if ports.standing().usable(placing::index_of(ports, backend)) {
        return Ok(());
    }
    Err(Failure::backend(format!("backend {} is not in order: see admin status", backend.as_str())))
}

async fn hold<P: Ports>(ports: &P, restored: bool) -> Result<(), Failure> {
    match ports.meta().step(SetRestored { restored }).await? {
        Ok(_) => Ok(()),
        Err(refusal) => Err(Failure::ourselves(format!("holding the database was refused: {refusal:?}"))),
    }
}

/// Whether the database is held as restored. Cancel: safe.
pub(super) async fn is_held<P: Ports>(ports: &P) -> Result<bool, Failure> {
    Ok(matches!(ports.meta().query(Query::Restored).await?, Answer::Restored(true)))
}

/// Ends runs that the backup knows and that live no more, so that what they had reserved can be adopted: it may have been
/// committed after the backup. A run that is registering anew, because the database was put back under it, is waited for.
async fn judge<P: Ports>(ports: &P) -> Result<(), Failure> {
    let (since, term) = (ports.clock().tick(), ports.view().write_path.lease);
    loop {
        let renew = Renew { incarnation: ports.incarnation(), judge: true, leave: false };
        if ports.meta().step(renew).await?.is_ok() {
            return Ok(());
        }
        if ports.clock().tick().since(since) >= term {
            return Err(Failure::ourselves("this instance is not registered with the database"));
        }
        ports.clock().sleep(LOOK).await;
    }
}

/// What a walk over a backend is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    /// What no row names; rows without bytes, and what was assembled from parts, are only noted.
    Adopt,
    /// What was assembled from parts.
    Assembled,
    /// Rows without bytes.
    Drop,
}

struct Walk<'w, P, T> {
    ports: &'w P,
    plan: &'w Plan,
    backend: &'w BackendName,
    restored: bool,
    round: Round,
    /// A row without bytes was met.
    missing: bool,
    /// Bytes of writes that had not ended when they were met.
    under_way: Vec<Difference>,
    /// What was assembled from parts, by bucket and key.
    assembled: Vec<(String, Difference)>,
    counts: &'w mut Counts,
    tell: &'w mut T,
}

/// What became of a difference.
enum Settled {
    /// The key, where only the bytes themselves told it.
    Told(Found, Option<ObjectKey>),
    /// By somebody else meanwhile.
    Already,
    /// Its key, which the name did not tell, is none of this run's.
    Ignored,
    /// Its write has not ended: nobody knows yet.
    UnderWay,
    /// It was assembled from parts, for this bucket and key: its turn comes.
    Assembled(String),
}

impl Settled {
    fn told(found: Found) -> Self {
        Self::Told(found, None)
    }
}

/// A name that no row knows, or a row whose name was not listed.
#[derive(Clone)]
enum Difference {
    Unknown { name: String, size: u64, named: Named },
    Missing(BlobRow),
    Differs { row: BlobRow, size: u64 },
}

/// What is to be adopted one after the other: of each key the newest name first, because whatever is adopted later and is not
/// newer by its name is left alone. Keys stand in no order, so that one of each may be settled at once.
fn newest_first(mut assembled: Vec<(String, &BackendName, Difference)>) -> Vec<(&BackendName, Vec<Difference>)> {
    let version = |one: &Difference| match one {
        Difference::Unknown { named, .. } => named.version,
        Difference::Missing(_) | Difference::Differs { .. } => None,
    };
    assembled.sort_by(|(one, _, a), (other, _, b)| one.cmp(other).then_with(|| version(b).cmp(&version(a))));
    let mut turns: BTreeMap<(usize, &BackendName), Vec<Difference>> = BTreeMap::new();
    let (mut turn, mut of) = (0, String::new());
    for (key, backend, one) in assembled {
        turn = if key == of { turn + 1 } else { 0 };
        turns.entry((turn, backend)).or_default().push(one);
        of = key;
    }
    turns.into_iter().map(|((_, backend), differences)| (backend, differences)).collect()
}

impl<'w, P: Ports, T: FnMut(Event) -> bool> Walk<'w, P, T> {
    fn new(
        ports: &'w P,
        plan: &'w Plan,
        backend: &'w BackendName,
        restored: bool,
        round: Round,
        counts: &'w mut Counts,
        tell: &'w mut T,
    ) -> Self {
        let (under_way, assembled) = (Vec::new(), Vec::new());
        Self { ports, plan, backend, restored, round, missing: false, under_way, assembled, counts, tell }
    }

    async fn walk(&mut self) -> Result<(), Failure> {
        let mut after = String::new();
        loop {
            must_be_usable(self.ports, self.backend)?;
            let page = self.ports.list(self.backend, "", &after).await?;
            let listed: BTreeMap<String, u64> = page.blobs.into_iter().collect();
            let until = page.next.as_ref().map(|_| listed.keys().next_back().cloned().unwrap_or_default());
            let differences = self.merge(listed, &after, until.as_deref()).await?;
            self.settle(differences).await?;
            let progress = Event::Progress { backend: self.backend.as_str().to_owned(), listed: self.counts.listed };
            if !(self.tell)(progress) {
                return Err(Failure::ourselves("nobody listens any more"));
            }
            match page.next {
                Some(next) => after = next,
                None => break,
            }
        }
        self.wait_for_writes().await
    }

    /// Before the hold is released: what was being written has been committed or given up, and what was given up, adopted.
    async fn wait_for_writes(&mut self) -> Result<(), Failure> {
        let since = self.ports.clock().tick();
        while self.plan.restored && !self.under_way.is_empty() {
            if self.ports.clock().tick().since(since) >= self.ports.view().write_path.lease * TERMS_MAX {
                let (count, backend) = (self.under_way.len(), self.backend.as_str());
                return Err(Failure::ourselves(format!("writes are under way on backend {backend} ({count} objects)")));
            }
            self.ports.clock().sleep(LOOK).await;
            judge(self.ports).await?;
            let again = std::mem::take(&mut self.under_way);
            self.settle(again).await?;
        }
        Ok(())
    }

    /// The differences between a page and the rows of its range: after `after`, up to `until` (None: to the end).
    async fn merge(
        &mut self,
        mut listed: BTreeMap<String, u64>,
        after: &str,
        until: Option<&str>,
    ) -> Result<Vec<Difference>, Failure> {
        let adopts = self.round == Round::Adopt;
        if adopts {
            self.counts.listed += listed.len() as u64;
        }
        let mut differences = Vec::new();
        let mut row_after = after.to_owned();
        loop {
            let rows = blobs_after(self.ports, self.backend, row_after).await?;
            let more = rows.len() == ROWS as usize;
            row_after = rows.last().map(|row| row.blob.name.clone()).unwrap_or_default();
            let beyond = until.is_some_and(|until| row_after.as_str() > until);
            for row in rows.into_iter().filter(|row| until.is_none_or(|until| row.blob.name.as_str() <= until)) {
                if !adopts {
                    let is_missing = row.state == BlobState::Live && !listed.contains_key(&row.blob.name);
                    if is_missing && self.is_wanted(&row.bucket, Some(&row.key)) {
                        differences.push(Difference::Missing(row));
                    }
                    continue;
                }
                if !self.is_wanted(&row.bucket, Some(&row.key)) {
                    self.counts.ignored += u64::from(listed.remove(&row.blob.name).is_some());
                    continue;
                }
                match listed.get(&row.blob.name).copied() {
                    None => self.missing |= row.state == BlobState::Live,
                    // Left in the listing: it is looked at like an unknown one.
                    Some(_) if self.may_have_been_committed(&row) => {}
                    Some(size) => {
                        listed.remove(&row.blob.name);
                        self.counts.known += 1;
                        if row.state == BlobState::Live && row.bytes != size {
                            differences.push(Difference::Differs { row, size });
                        }
                    }
                }
            }
            if !more || beyond {
                break;
            }
        }
        for (name, size) in listed.into_iter().filter(|_| adopts) {
            match self.named(&name) {
                Some(named) => differences.push(Difference::Unknown { name, size, named }),
                None => self.counts.ignored += 1,
            }
        }
        Ok(differences)
    }

    /// After a restore: what recovery gave up, and uploads, may have been committed after the backup.
    fn may_have_been_committed(&self, row: &BlobRow) -> bool {
        let given_up = matches!(row.state, BlobState::Doomed | BlobState::Dead) && row.reason == WRITER_GONE;
        self.restored && (given_up || row.state == BlobState::Reserved)
    }

    fn is_wanted(&self, bucket: &BucketName, key: Option<&ObjectKey>) -> bool {
        self.plan.bucket.as_ref().is_none_or(|one| one == bucket)
            && key.is_none_or(|key| key.as_str().starts_with(&self.plan.prefix))
    }

    /// None: none of this run's.
    fn named(&self, name: &str) -> Option<Named> {
        let named = take_apart(name).or_else(|| self.foreign(name))?;
        self.is_wanted(&named.bucket, named.key.as_ref()).then_some(named)
    }

    /// A name that somebody else gave: below a bucket's name it is that bucket's, else the whole of it is a key.
    fn foreign(&self, name: &str) -> Option<Named> {
        let bucket = self.plan.bucket.as_ref()?;
        if name.starts_with(blob_name::OWN_PREFIX) {
            return None;
        }
        let key = match name.split_once('/') {
            Some((first, rest)) if first == bucket.as_str() => rest,
            Some((first, _)) if self.ports.view().buckets.iter().any(|one| one.name.as_str() == first) => return None,
            _ => name,
        };
        Some(Named { bucket: bucket.clone(), key: Some(ObjectKey::parse(key)?), version: None })
    }

    async fn settle(&mut self, differences: Vec<Difference>) -> Result<(), Failure> {
        let this = &*self;
        let mut found = Vec::with_capacity(differences.len());
        let (mut ignored, mut under_way, mut assembled, mut failed) = (0, Vec::new(), Vec::new(), None);
        let work = differences.iter().map(|one| this.settle_one(one));
        concurrent::each(AT_ONCE, work, |place, outcome| match outcome {
            Ok(Settled::Told(what, key)) => found.push((place, what, key)),
            Ok(Settled::Already) => {}
            Ok(Settled::Ignored) => ignored += 1,
            Ok(Settled::UnderWay) => under_way.push(differences[place].clone()),
            Ok(Settled::Assembled(key)) => assembled.push((key, differences[place].clone())),
            Err(failure) => failed = Some(failure),
        })
        .await;
        self.counts.ignored += ignored;
        self.under_way.append(&mut under_way);
        self.assembled.append(&mut assembled);
        found.sort_by_key(|(place, ..)| *place);
        for (place, what, told_key) in found {
            self.counts.add(what);
            let (key, name, size) = match &differences[place] {
                Difference::Unknown { name, size, named } => {
                    let key = named.key.as_ref().or(told_key.as_ref()).map_or("?", ObjectKey::as_str);
                    (format!("{}/{key}", named.bucket.as_str()), name.clone(), *size)
                }
                Difference::Missing(row) => (key_of(row), row.blob.name.clone(), row.bytes),
                Difference::Differs { row, size } => (key_of(row), row.blob.name.clone(), *size),
            };
            let _ =
                (self.tell)(Event::Item { backend: self.backend.as_str().to_owned(), found: what, key, name, size });
        }
        failed.map_or(Ok(()), Err)
    }

    async fn settle_one(&self, difference: &Difference) -> Result<Settled, Failure> {
        match difference {
            Difference::Unknown { name, named, .. } => self.adopt(name, named).await,
            Difference::Missing(row) => self.drop_missing(row).await,
            Difference::Differs { .. } => Ok(Settled::told(Found::Differs)),
        }
    }

    async fn drop_missing(&self, row: &BlobRow) -> Result<Settled, Failure> {
        if self.ports.head(&row.blob).await?.is_some() {
            return Ok(Settled::Already);
        }
        must_be_usable(self.ports, self.backend)?;
        if self.plan.dry_run {
            let mut located = Located::empty();
            let is_live = self.ports.meta().lookup(row.bucket.as_str(), row.key.as_str(), &mut located).await?;
            let others = located.blobs.iter().any(|blob| blob.id != row.blob.id);
            let found = if others { Found::CopyGone } else { Found::ObjectGone };
            return Ok(if is_live { Settled::told(found) } else { Settled::Already });
        }
        let drop = DropCopy {
            bucket: row.bucket.clone(),
            key: row.key.clone(),
            blob: row.blob.id,
            bytes: Bytes::Gone,
            only_live: true,
            reason: "bytes gone".to_owned(),
        };
        Ok(match self.ports.meta().step(drop).await? {
            Ok(dropped) if dropped.object_ended => Settled::told(Found::ObjectGone),
            Ok(_) => Settled::told(Found::CopyGone),
            Err(_) => Settled::Already,
        })
    }

    async fn adopt(&self, name: &str, named: &Named) -> Result<Settled, Failure> {
        let blob = BlobAt {
            id: BlobId(0),
            backend: self.backend.clone(),
            name: name.to_owned(),
            foreign_etag: String::new(),
            version_id: String::new(),
        };
        // Its row, and its bytes, may have ended since it was listed.
        let Some(head) = self.ports.head(&blob).await? else { return Ok(Settled::Already) };
        let beside = head.key.as_deref().and_then(|key| proven_key(name, &named.bucket, key));
        let Some(key) = named.key.as_ref().or(beside.as_ref()) else { return Ok(Settled::told(Found::Unclear)) };
        if !self.is_wanted(&named.bucket, Some(key)) {
            return Ok(Settled::Ignored);
        }
        if self.plan.dry_run {
            return Ok(Settled::Told(self.would_be(named, key).await?, beside));
        }
        if head.assembled && named.version.is_some() && self.round == Round::Adopt {
            return Ok(Settled::Assembled(format!("{}/{}", named.bucket.as_str(), key.as_str())));
        }
        let assembled = head.assembled && !self.has_newer_copy(named, key, &head).await?;
        let adopt = Adopt {
            bucket: named.bucket.clone(),
            key: key.clone(),
            backend: self.backend.clone(),
            name: name.to_owned(),
            version: named.version,
            assembled,
            size: head.size,
            etag: self.etag_of(name, &head.etag),
            foreign_etag: if named.version.is_none() { head.etag } else { String::new() },
            record: head.record,
            nonce: Nonce::from_roll(self.ports.dice().roll()),
        };
        let found = match self.ports.meta().step(adopt).await? {
            Ok(Adopted::Live { displaced: false, .. }) => Found::Imported,
            Ok(Adopted::Live { displaced: true, .. }) => Found::Newer,
            Ok(Adopted::Copy) => Found::Copy,
            Ok(Adopted::Outdated) => Found::Outdated,
            Ok(Adopted::Unclear) => Found::Unclear,
            Ok(Adopted::Known) => return Ok(Settled::Already),
            Ok(Adopted::UnderWay) => return Ok(Settled::UnderWay),
            Err(refusal) => return Err(Failure::ourselves(format!("{name} was refused: {refusal:?}"))),
        };
        Ok(Settled::Told(found, beside))
    }

    /// Whether what is live looks like a copy of this object that was assembled from parts: a copy is one body, under a name
    /// that is as new as the completion.
    async fn has_newer_copy(&self, named: &Named, key: &ObjectKey, head: &BlobHead) -> Result<bool, Failure> {
        let Some(version) = named.version else { return Ok(false) };
        let mut live = Located::empty();
        let is_live = self.ports.meta().lookup(named.bucket.as_str(), key.as_str(), &mut live).await?;
        let travels = |record: &ObjectRecord| (record.headers.clone(), record.user_metadata.clone());
        let looks_alike = live.size == head.size && travels(&live.record) == travels(&head.record);
        Ok(is_live && looks_alike && version < live.version)
    }

    /// What a run that changes something would most likely find.
    async fn would_be(&self, named: &Named, key: &ObjectKey) -> Result<Found, Failure> {
        let mut located = Located::empty();
        let is_live = self.ports.meta().lookup(named.bucket.as_str(), key.as_str(), &mut located).await?;
        Ok(match named.version {
            _ if !is_live => Found::Imported,
            None => Found::Unclear,
            Some(version) => match version.cmp(&located.version) {
                std::cmp::Ordering::Greater => Found::Newer,
                std::cmp::Ordering::Equal => Found::Copy,
                std::cmp::Ordering::Less => Found::Outdated,
            },
        })
    }

    /// What clients will see: the backend's, where that is what they saw; else one that no client takes for the body's MD5.
    fn etag_of(&self, name: &str, told: &str) -> String {
        let index = placing::index_of(self.ports, self.backend);
        if !told.is_empty() && (self.ports.standing().etag_is_md5(index) || told.contains('-')) {
            return told.to_owned();
        }
        let mut hex = data_encoding::HEXLOWER.encode(&Md5::digest(name.as_bytes()));
        hex.push_str("-1");
        hex
    }
}

fn key_of(row: &BlobRow) -> String {
    format!("{}/{}", row.bucket.as_str(), row.key.as_str())
}

/// A name of our own form (base/blob_name.rs). None for any other.
fn take_apart(name: &str) -> Option<Named> {
    let version = blob_name::version_of(name)?;
    let (stem, _) = name.rsplit_once('!')?;
    let (bucket, escaped) = stem.split_once('/')?;
    let bucket = BucketName::parse(bucket)?;
    if escaped.starts_with(blob_name::HASHED_FOLDER) {
        let hashed = Named { bucket, key: None, version: Some(version) };
        return blob_name::hash_in(name).map(|_| hashed);
    }
    let key = escaped.replace("!!", "!");
    // An odd run of `!` belongs to no key.
    let is_ours = blob_name::stem(bucket.as_str(), &key, true) == format!("{stem}!");
    let key = ObjectKey::parse(&key).filter(|_| is_ours)?;
    Some(Named { bucket, key: Some(key), version: Some(version) })
}

/// The key that is said to be under a hashed name, if it is: its hash proves it, whoever said so.
fn proven_key(name: &str, bucket: &BucketName, said: &str) -> Option<ObjectKey> {
    let is_its_hash = name.starts_with(&blob_name::stem(bucket.as_str(), said, false));
    ObjectKey::parse(said).filter(|_| is_its_hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let version = Version::from_parts(1_790_000_000_000, 7);
        for key in ["k", "a/b!c", "!", "!!", "a!", "ä ö", "x!01ARZ3NDEKTSV4RRFFQ69G5FAV0123456789"] {
            let name = blob_name::mint("bkt", key, true, version, Nonce::from_roll(9));
            let got = take_apart(&name).unwrap_or_else(|| panic!("{name} is ours"));
            assert_eq!((got.key.as_ref().map(ObjectKey::as_str), got.version), (Some(key), Some(version)), "{name}");
        }
        let hashed =
            take_apart(&blob_name::mint("bkt", "//", false, version, Nonce::from_roll(9))).expect("it is ours");
        assert_eq!((hashed.bucket.as_str(), hashed.key), ("bkt", None));
        let unlike = "bkt/.s3o-h/0123!01ARZ3NDEKTSV4RRFFQ69G5FAV0123456789";
        assert_eq!(take_apart(unlike), None, "no hash is so short, no key has such a segment");
        for foreign in ["k", "bkt/k", "bkt/k!0123", ".s3o/id", "BKT/k!01ARZ3NDEKTSV4RRFFQ69G5FAV0123456789"] {
            assert_eq!(take_apart(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_hash_proves_its_key_and_no_other() {
        let bucket = BucketName::parse("bkt").expect("a bucket's name");
        let name = blob_name::mint("bkt", "a//b", false, Version::from_parts(1, 7), Nonce::from_roll(9));
        assert_eq!(proven_key(&name, &bucket, "a//b"), ObjectKey::parse("a//b"));
        for lie in ["", "a/b", "a//c", "a//b!"] {
            assert_eq!(proven_key(&name, &bucket, lie), None, "{lie:?}");
        }
    }
}
