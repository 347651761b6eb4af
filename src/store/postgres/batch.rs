//! A batch: load its rows, decide as the reference implementation does, write what changed. Decided on rows that have changed
//! meanwhile, it is decided anew: nothing is locked while we think, and a conflict means that somebody else got on.

use super::super::memory::tables::Tables;
use super::super::port::{Applied, ApplyError, BatchId, Change, Outcome};
use super::super::rules::{BATCH_KEPT, FORGET_UPLOADS_MAX, UPLOAD_KEPT};
use super::diff::Diff;
use super::footprint::Footprint;
use super::load::{Loaded, load};
use super::rows::Columns;
use super::sessions::{Blamed, Session, Sql, sql};
use super::write::{self, Around, Forget, Statements, Unwritten, statements};
use super::{PostgresStore, shares};
use crate::base::{BackendName, Failure, Incarnation};
use std::cell::Cell;
use std::time::Duration;
use tokio_postgres::Row;

/// A batch that others keep overtaking is given up after so many attempts.
const ATTEMPTS_MAX: u32 = 50;
const AGAIN_AFTER: Duration = Duration::from_millis(1);
/// Rounds in which shares are refilled or taken back for one batch.
const ROOM_ROUNDS_MAX: u32 = 8;
/// Batches whose outcomes are remembered, beside those whose answers were lost.
const REMEMBERED: usize = 16;
/// Blob ids are taken from the counter in blocks.
const BLOB_IDS: i64 = 1000;

static TAKE_IDS: Sql =
    sql!("UPDATE counters SET value = value + $1 WHERE name = 'blob' RETURNING value - $1, value", INT8);
static LOOK_FOR: Sql = sql!(
    "INSERT INTO batches (id, at, outcome) VALUES ($1, now_millis(), 'void') ON CONFLICT (id) DO NOTHING RETURNING 1",
    BYTEA
);
static OUTCOME: Sql = sql!("SELECT outcome FROM batches WHERE id = $1", BYTEA);

/// Ids that were taken from the counter and that no batch has been given yet: above the first, up to the second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BlobIds {
    last: i64,
    end: i64,
}

/// Those of one batch: so many above the first. What it has not used is given back when it ends, if the next are still there.
struct IdsOfBatch<'s> {
    of: &'s Cell<BlobIds>,
    after: i64,
    end: i64,
    used: Cell<i64>,
}

impl IdsOfBatch<'_> {
    fn used_to(&self, last: i64) {
        assert!(last <= self.end, "more blobs were added than ids were taken");
        self.used.set(last);
    }
}

impl Drop for IdsOfBatch<'_> {
    fn drop(&mut self) {
        let ids = self.of.get();
        if ids.last == self.end {
            self.of.set(BlobIds { last: self.used.get(), ..ids });
        }
    }
}

/// A batch that was sent, and its outcomes if it was committed.
pub(super) struct Sent {
    id: BatchId,
    applied: Applied,
    /// It is to be asked for still.
    is_lost: bool,
}

/// A decided batch.
struct Decided {
    outcomes: Vec<Outcome>,
    /// The incarnation's mark as this process was told it before it loaded.
    told_mark: i64,
    before: Tables,
    loaded: Loaded,
}

/// A committed batch.
struct Written {
    charged: Vec<(BackendName, u64)>,
    /// Of the rows that it wrote, if it was told.
    mark: Option<i64>,
}

pub(super) fn id_bytes(id: BatchId) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&id.0.to_be_bytes());
    bytes[8..].copy_from_slice(&id.1.to_be_bytes());
    bytes
}

impl PostgresStore {
    /// Cancel: NOT safe.
    pub(super) async fn batch(&self, id: BatchId, changes: &[Change]) -> Result<Applied, ApplyError> {
        let began = (self.tick)();
        let session = self.sessions.get().await.map_err(ApplyError::NotApplied)?;
        let mut footprint = Footprint::of(changes);
        let ids = self.ids_for(&session, footprint.new_blobs).await.map_err(ApplyError::NotApplied)?;
        let (mut attempts, mut rounds, mut rewound) = (0, 0, false);
        let mut overtaken: Option<Failure> = None;
        loop {
            let decided = self.decide(&session, &footprint, ids.after, changes).await;
            let decided = decided.map_err(ApplyError::NotApplied)?;
            if self.was_rewound(decided.loaded.has_row, decided.loaded.mark, decided.told_mark) {
                self.hold_rewound(&session).await.map_err(ApplyError::NotApplied)?;
                rewound = true;
            }
            if rewound || decided.loaded.mark.is_none() && self.incarnation.get() != Incarnation(0) {
                // The fence of everything that this run does, its background jobs included.
                self.tenure.end();
                return Err(ApplyError::NotApplied(Failure::overloaded(
                    "this run's lease has ended; it registers anew",
                )));
            }
            if rounds < ROOM_ROUNDS_MAX {
                rounds += 1;
                let improved = self.make_room(&session, &decided, changes, &mut footprint).await;
                if improved.map_err(ApplyError::NotApplied)? {
                    continue;
                }
            }
            // What was loaded in time and has changed since is stale.
            let left = self.decide_within.saturating_sub((self.tick)().since(began));
            if left.is_zero() {
                let late = || Failure::metadata("postgres: a batch was not decided in time");
                return Err(ApplyError::NotApplied(overtaken.unwrap_or_else(late)));
            }
            let lock_within = overtaken.as_ref().map(|_| left);
            let last = decided.loaded.tables.last_blob;
            let written = self.commit(&session, id, &footprint, &decided, changes, lock_within).await;
            match written {
                Ok(Written { charged, mark }) => {
                    ids.used_to(last);
                    let Decided { outcomes, before, loaded, .. } = decided;
                    if let Some(mark) = mark {
                        let begun = footprint.begun.iter();
                        self.recall.borrow_mut().keep(begun, &before, loaded, mark, (self.tick)());
                    }
                    let applied = Applied { outcomes, charged };
                    self.remember(id, applied.clone());
                    return Ok(applied);
                }
                Err(Unwritten::Stale(failure)) => {
                    attempts += 1;
                    tracing::debug!(changes = changes.len(), cause = %failure, "a batch is decided anew");
                    if attempts == ATTEMPTS_MAX {
                        return Err(ApplyError::NotApplied(failure));
                    }
                    // Apart from each other, as chance has it.
                    let apart = u32::from(id_bytes(id)[attempts as usize % 16] % 8);
                    tokio::time::sleep(AGAIN_AFTER * apart * attempts.min(4)).await;
                    overtaken = Some(failure);
                }
                Err(Unwritten::Refused(failure)) => {
                    // It may be that another has used our numbers: a standby took over that had not seen them taken.
                    self.leave_ids();
                    return Err(ApplyError::NotApplied(failure));
                }
                Err(Unwritten::Unknown(failure)) => {
                    session.give_up();
                    ids.used_to(last);
                    self.remember(id, Applied { outcomes: decided.outcomes, charged: Vec::new() });
                    self.answer_is_lost(id);
                    return Err(ApplyError::Unknown(failure));
                }
            }
        }
    }

    async fn decide(
        &self,
        session: &Session,
        wanted: &Footprint,
        ids_after: i64,
        changes: &[Change],
    ) -> Result<Decided, Failure> {
        // Before it is loaded: batches under way beside this one raise it.
        let told_mark = self.told_mark.get();
        let clock = self.clock.as_ref().map(|clock| clock());
        let recalled = self.recall.borrow_mut().take(&wanted.keys, (self.tick)());
        let mut loaded = load(session, wanted, recalled, self.incarnation.get(), self.rules, clock).await?;
        self.latest.set(self.latest.get().max(loaded.now));
        loaded.now = self.latest.get();
        loaded.tables.last_blob = ids_after;
        let before = loaded.tables.clone();
        let outcomes = changes.iter().map(|change| loaded.tables.carry_out(loaded.now, change.clone())).collect();
        Ok(Decided { outcomes, told_mark, before, loaded })
    }

    /// Whether shares were refilled or taken back, or more rows must be looked at: then the batch is decided anew.
    async fn make_room(
        &self,
        session: &Session,
        decided: &Decided,
        changes: &[Change],
        footprint: &mut Footprint,
    ) -> Result<bool, Failure> {
        let Decided { before, loaded, .. } = decided;
        let me = self.incarnation.get();
        let mut improved = false;
        for (name, share) in
            loaded.tables.shares.iter().filter(|((_, of), _)| *of == me).map(|((name, _), one)| (name, one))
        {
            let had = before.shares.get(&(name.clone(), me)).map_or(0, |one| one.granted);
            if let Some(backend) = loaded.backends.id(name).filter(|_| share.granted > had) {
                shares::refill(session, backend, me, share.granted).await?;
                improved = true;
            }
        }
        if improved {
            return Ok(true);
        }
        for (change, outcome) in changes.iter().zip(&decided.outcomes) {
            let of_upload = |upload: &_| loaded.tables.uploads.get(upload).map(|row| row.blob.backend.clone());
            let Some((candidates, size)) = Footprint::miss_room(change, outcome, of_upload) else { continue };
            let limited = |name: &BackendName| {
                loaded.tables.backends.get(name).is_some_and(|row| row.bytes_limit > 0 && !row.draining)
            };
            for name in candidates.into_iter().filter(limited) {
                let missing = (size as i64).saturating_sub(loaded.tables.room(&name)).max(1);
                let looked = footprint.room.get(&name).copied();
                if let (None, Some(backend)) = (looked, loaded.backends.id(&name)) {
                    shares::take_back(session, backend, me).await?;
                }
                if looked.is_none_or(|looked| looked < missing) {
                    footprint.room.insert(name, missing);
                    improved = true;
                }
            }
        }
        Ok(improved)
    }

    async fn commit(
        &self,
        session: &Session,
        id: BatchId,
        footprint: &Footprint,
        decided: &Decided,
        changes: &[Change],
        lock_within: Option<Duration>,
    ) -> Result<Written, Unwritten> {
        let Decided { before, loaded, .. } = decided;
        let diff = Diff::between(before, &loaded.tables);
        let forgets = changes.iter().any(|change| matches!(change, Change::ForgetOld(_)));
        let around = Around {
            id: id_bytes(id),
            incarnation: self.incarnation.get(),
            keys: footprint.keys.iter().collect(),
            uploads: footprint.uploads.iter().map(|upload| upload.as_str().to_owned()).collect(),
            told: loaded.tables.touched.iter().cloned().collect(),
            adopts: !footprint.named.is_empty(),
            forget: forgets.then(|| Forget {
                batches_before: loaded.now.minus(BATCH_KEPT),
                uploads_before: loaded.now.minus(UPLOAD_KEPT),
                uploads_max: FORGET_UPLOADS_MAX,
            }),
        };
        let Statements { all, raises, tells } = statements(&around, before, loaded, &diff);
        let answers = write::commit(session, all, lock_within).await?;
        // The batch is committed, whatever can be read of its charges and its mark.
        let raised = raises.and_then(|at| answers[at].first()?.try_get::<_, i64>(0).ok());
        if let Some(mark) = raised {
            self.told_mark.set(self.told_mark.get().max(mark));
            self.told_at.set(self.told_at.get().max(loaded.now));
        }
        let mut charged = read_charges(answers[tells..].iter().flatten());
        charged.retain(|(name, _)| around.told.contains(name) && self.is_latest(name, raised));
        let mark = answers.get(tells).and_then(|rows| rows.first()?.try_get(2).ok());
        Ok(Written { charged, mark })
    }

    /// Whether nothing later is known of what is charged there: batches that are under way together raise the mark in the order
    /// of their commits, and may be answered in another.
    fn is_latest(&self, backend: &BackendName, mark: Option<i64>) -> bool {
        let Some(mark) = mark else { return true };
        let mut charged_at = self.charged_at.borrow_mut();
        match charged_at.get_mut(backend) {
            Some(latest) if *latest > mark => return false,
            Some(latest) => *latest = mark,
            None => drop(charged_at.insert(backend.clone(), mark)),
        }
        true
    }

    // ---- ids -----------------------------------------------------------------------------------------------------

    /// So many for one batch. Others may have taken the block behind what is left: then the rest is left out.
    async fn ids_for(&self, session: &Session, wanted: i64) -> Result<IdsOfBatch<'_>, Failure> {
        let mut ids = self.blob_ids.get();
        if ids.end - ids.last < wanted {
            let rows = session.query(&TAKE_IDS, &[&wanted.max(BLOB_IDS)]).await.blamed()?;
            let row = rows.first().ok_or_else(|| Failure::metadata("postgres: the counters are gone"))?;
            let mut columns = Columns::of(row);
            let (last, end): (i64, i64) = (columns.value()?, columns.value()?);
            // Another batch of ours may have been given some meanwhile, or taken a block too.
            ids = self.blob_ids.get();
            let joined = ids.end == last && ids.end > 0;
            ids = BlobIds { last: if joined { ids.last } else { last }, end };
        }
        let (after, end) = (ids.last, ids.last + wanted);
        self.blob_ids.set(BlobIds { last: end, ..ids });
        Ok(IdsOfBatch { of: &self.blob_ids, after, end, used: Cell::new(after) })
    }

    /// The next ones are taken from the counter anew. At any time, also while a batch is being written.
    pub(super) fn leave_ids(&self) {
        self.blob_ids.set(BlobIds::default());
    }

    // ---- lost answers --------------------------------------------------------------------------------------------

    /// What a batch did if it was committed: a lost answer concerns one of the last, or is remembered until it is asked for.
    pub(super) fn remember(&self, id: BatchId, applied: Applied) {
        let mut sent = self.sent.borrow_mut();
        sent.push_back(Sent { id, applied, is_lost: false });
        if sent.len() > REMEMBERED
            && let Some(known) = sent.iter().position(|one| !one.is_lost)
        {
            sent.remove(known);
        }
    }

    /// Others may run before anybody hears what became of this one.
    pub(super) fn answer_is_lost(&self, id: BatchId) {
        self.sent.borrow_mut().iter_mut().filter(|one| one.id == id).for_each(|one| one.is_lost = true);
    }

    /// Inserting the batch's id waits until a transaction that has inserted it ends; if nobody has, nobody will.
    /// Cancel: safe.
    pub(super) async fn look_for(&self, id: BatchId) -> Result<Option<Applied>, Failure> {
        let session = self.sessions.get().await?;
        let bytes = id_bytes(id).to_vec();
        let void = session.query(&LOOK_FOR, &[&bytes]).await.blamed()?;
        let is_there = void.is_empty() && {
            let rows = session.query(&OUTCOME, &[&bytes]).await.blamed()?;
            rows.first().is_some_and(|row| matches!(row.try_get(0), Ok("applied")))
        };
        let mut sent = self.sent.borrow_mut();
        if !is_there {
            sent.retain(|one| one.id != id);
            return Ok(None);
        }
        let Some(found) = sent.iter_mut().find(|one| one.id == id) else {
            return Err(Failure::ourselves("the outcomes of that batch are forgotten"));
        };
        found.is_lost = false;
        Ok(Some(found.applied.clone()))
    }
}

/// Bytes charged in all, per backend.
pub(super) fn read_charges<'r>(rows: impl IntoIterator<Item = &'r Row>) -> Vec<(BackendName, u64)> {
    let read = |row: &Row| {
        let mut columns = Columns::of(row);
        let name = BackendName::new(columns.value().ok()?);
        Some((name, columns.count().ok()?))
    };
    rows.into_iter().filter_map(read).collect()
}
