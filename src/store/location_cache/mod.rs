//! The location cache: key -> live version and its blobs, in one fixed-size table that every reactor reads without locks
//! (PROTOCOL.md, "The location cache").
//!
//! Only the metadata desk writes, through the one `CacheWriter`; reactors never fill it. It is exact while this process is
//! the only writer of the database: a key is absent from before the transaction that may alter it until its outcome is
//! known, and a lookup's answer goes in only if no such transaction touched the place since the lookup was sent. Entries
//! that do not fit a slot are not cached; a key without a live version is not cached either.
//!
//! Where others write too, every entry has the time at which it was asked for, and readers say how old it may be (`Trust`):
//! an overwrite by another process is seen when the entry has that age at the latest, one of this process as if it were exact.
//! An entry that must not be answered stays as a memory, for reads while the database does not answer.

mod entry;
mod slots;

use super::record::Located;
use crate::base::text_hash::text_hash;
use crate::base::{BackendName, Tick};
use entry::Names;
use slots::{PAYLOAD_BYTES, Slots, WAYS};
use std::sync::Arc;
use std::time::Duration;

pub use slots::SLOT_BYTES;

/// What of the table is answered in the place of the database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Everything: no other process writes to the database.
    Exact,
    /// What the database said less than so long ago (`location_cache.max_staleness`).
    Within(Duration),
    /// Nothing: it is a memory.
    Nothing,
}

/// The readers' side, shared by all threads.
#[derive(Debug)]
pub struct LocationCache {
    slots: Slots,
    names: Names,
    seed: u64,
}

impl LocationCache {
    /// A table of at most `max_bytes` (`location_cache.max_size`; too few for one set: no cache), and its only writer.
    /// `seed` makes collisions unpredictable to clients. Memory is used as slots are filled.
    pub fn new(max_bytes: u64, seed: u64) -> (Arc<Self>, CacheWriter) {
        let sets = usize::try_from(max_bytes).unwrap_or(usize::MAX) / (SLOT_BYTES * WAYS);
        let cache = Arc::new(Self { slots: Slots::new(sets), names: Names::default(), seed });
        let writer = CacheWriter {
            cache: cache.clone(),
            victims: vec![0; sets],
            generations: vec![0; sets],
            held: vec![0; sets],
            scratch: Vec::with_capacity(PAYLOAD_BYTES),
        };
        (cache, writer)
    }

    /// Fills `into` with the live version of a key, as far as what stands here is trusted; false if the desk must be asked.
    /// `now` is only asked for where it matters. Allocates nothing once the buffers of `into` have grown to what it is asked for.
    pub fn answer(
        &self,
        trust: Trust,
        now: impl FnOnce() -> Tick,
        bucket: &str,
        key: &str,
        into: &mut Located,
    ) -> bool {
        match trust {
            Trust::Exact => self.get(bucket, key, into),
            Trust::Within(age) => {
                let now = now();
                self.find(bucket, key, into, |as_of| as_of.is_some_and(|as_of| now.since(as_of) < age))
            }
            Trust::Nothing => false,
        }
    }

    /// The same whatever its age.
    pub fn get(&self, bucket: &str, key: &str, into: &mut Located) -> bool {
        self.find(bucket, key, into, |_| true)
    }

    fn find(&self, bucket: &str, key: &str, into: &mut Located, is_good: impl Fn(Option<Tick>) -> bool) -> bool {
        if self.slots.sets() == 0 {
            return false;
        }
        let tag = self.tag(bucket, key);
        let mut bytes = [0; PAYLOAD_BYTES];
        for slot in self.slots.slots_of(tag) {
            if self.slots.tag(slot) != tag {
                continue;
            }
            if let Some((length, as_of)) = self.slots.read(slot, &mut bytes)
                && let Some(rest) = entry::of_key(&bytes[..length], bucket, key)
            {
                return is_good(as_of) && entry::read(rest, &self.names, into).is_some();
            }
        }
        false
    }

    /// Never 0: that is an empty slot's.
    fn tag(&self, bucket: &str, key: &str) -> u64 {
        text_hash(self.seed, &[bucket, key]) | 1
    }
}

/// What a lookup must bring back to be cached: nothing was written there since it was sent.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    tag: u64,
    generation: u32,
    as_of: Tick,
}

/// The only one that writes. Not `Clone`, made once per table.
#[derive(Debug)]
pub struct CacheWriter {
    cache: Arc<LocationCache>,
    /// Which slot of a set is filled next.
    victims: Vec<u8>,
    /// Counts what was done to a set, so that a lookup's answer that was overtaken is not filled in.
    generations: Vec<u32>,
    /// Per set, its keys in transactions whose outcome is not known: nothing is filled in meanwhile.
    held: Vec<u32>,
    scratch: Vec<u8>,
}

impl CacheWriter {
    /// Before a transaction that may alter the key: it is absent from now on, until `release`.
    pub fn hold(&mut self, bucket: &str, key: &str) {
        if let Some(tag) = self.count_held(bucket, key) {
            self.remove(tag);
        }
    }

    /// After that transaction, before anybody is told of it.
    pub fn release(&mut self, bucket: &str, key: &str) {
        if let Some(tag) = self.count_released(bucket, key) {
            self.remove(tag);
        }
    }

    /// As `hold`, but the key stays as a memory; until `trust_again`.
    pub fn distrust(&mut self, bucket: &str, key: &str) {
        if let Some(tag) = self.count_held(bucket, key) {
            let slots = &self.cache.slots;
            slots.slots_of(tag).filter(|&slot| slots.tag(slot) == tag).for_each(|slot| slots.set_too_old(slot));
            self.touch(tag);
        }
    }

    /// As `release`: what is asked from now on is trusted again, what was asked before is not filled in.
    pub fn trust_again(&mut self, bucket: &str, key: &str) {
        if let Some(tag) = self.count_released(bucket, key) {
            self.touch(tag);
        }
    }

    /// The key's tag, if there is a table.
    fn count_held(&mut self, bucket: &str, key: &str) -> Option<u64> {
        let tag = self.cache.tag(bucket, key);
        let held = self.held.get_mut(self.cache.slots.set_of(tag))?;
        *held += 1;
        Some(tag)
    }

    fn count_released(&mut self, bucket: &str, key: &str) -> Option<u64> {
        let tag = self.cache.tag(bucket, key);
        let held = self.held.get_mut(self.cache.slots.set_of(tag))?;
        *held = held.checked_sub(1)?;
        Some(tag)
    }

    /// The key is absent from now on, until it is filled by what is asked or told after this.
    pub fn forget(&mut self, bucket: &str, key: &str) {
        if !self.generations.is_empty() {
            self.remove(self.cache.tag(bucket, key));
        }
    }

    /// A lookup has found nothing; what is remembered of the key is wrong, if it was there when the lookup was sent.
    pub fn found_nothing(&mut self, place: Place) {
        let slots = &self.cache.slots;
        let untouched = self.generations.get(slots.set_of(place.tag)) == Some(&place.generation);
        if untouched && slots.slots_of(place.tag).any(|slot| slots.tag(slot) == place.tag) {
            self.remove(place.tag);
        }
    }

    fn touch(&mut self, tag: u64) {
        let generation = &mut self.generations[self.cache.slots.set_of(tag)];
        *generation = generation.wrapping_add(1);
    }

    fn remove(&mut self, tag: u64) {
        self.touch(tag);
        let slots = &self.cache.slots;
        for slot in slots.slots_of(tag) {
            if slots.tag(slot) == tag {
                slots.set_tag(slot, 0);
            }
        }
    }

    /// When a lookup is sent, which is `now`.
    pub fn place(&self, bucket: &str, key: &str, now: Tick) -> Place {
        let tag = self.cache.tag(bucket, key);
        let set = self.cache.slots.set_of(tag);
        Place { tag, generation: self.generations.get(set).copied().unwrap_or(0), as_of: now }
    }

    /// When it was answered. Nothing happens if the key may have been altered meanwhile, if what was asked later stands there, or
    /// if the entry does not fit.
    pub fn fill(&mut self, place: Place, bucket: &str, key: &str, located: &Located) -> bool {
        let slots = &self.cache.slots;
        let set = slots.set_of(place.tag);
        let untouched = self.generations.get(set) == Some(&place.generation);
        if !untouched || self.held[set] > 0 {
            return false;
        }
        let same = slots.slots_of(place.tag).find(|&slot| slots.tag(slot) == place.tag);
        if same.and_then(|slot| slots.as_of(slot)).is_some_and(|as_of| as_of > place.as_of) {
            return false;
        }
        self.scratch.clear();
        let written = entry::write(&mut self.scratch, &self.cache.names, bucket, key, located);
        if written.is_none() || self.scratch.len() > PAYLOAD_BYTES {
            return false;
        }
        let empty = || slots.slots_of(place.tag).find(|&slot| slots.tag(slot) == 0);
        let slot = same.or_else(empty).unwrap_or_else(|| {
            let victim = &mut self.victims[set];
            *victim = (*victim + 1) % WAYS as u8;
            set * WAYS + usize::from(*victim)
        });
        // The slot answers for nobody while it changes hands.
        slots.set_tag(slot, 0);
        slots.write(slot, place.as_of, &self.scratch);
        slots.set_tag(slot, place.tag);
        true
    }

    pub fn cache(&self) -> &Arc<LocationCache> {
        &self.cache
    }

    /// Backends that entries may name; others are met as they come.
    pub fn intern(&self, backend: &BackendName) {
        self.cache.names.index_of(backend);
    }
}

#[cfg(test)]
mod tests;
