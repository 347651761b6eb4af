//! The location cache: key -> live version and its blobs, in one fixed-size table that every reactor reads without locks
//! (PROTOCOL.md, "The location cache").
//!
//! Only the metadata desk writes, through the one `CacheWriter`; reactors never fill it. It is exact while this process is
//! the only writer of the database: a key is absent from before the transaction that may alter it until its outcome is
//! known, and a lookup's answer goes in only if no such transaction touched the place since the lookup was sent. Entries
//! that do not fit a slot are not cached; a key without a live version is not cached either.

mod entry;
mod slots;

use super::record::Located;
use crate::base::BackendName;
use crate::base::text_hash::text_hash;
use entry::Names;
use slots::{PAYLOAD_BYTES, Slots, WAYS};
use std::sync::Arc;

pub use slots::SLOT_BYTES;

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
            held: Vec::new(),
            scratch: Vec::with_capacity(PAYLOAD_BYTES),
        };
        (cache, writer)
    }

    /// Fills `into` with the live version of a key; false if the desk must be asked. Allocates nothing once the buffers of
    /// `into` have grown to what it is asked for.
    pub fn get(&self, bucket: &str, key: &str, into: &mut Located) -> bool {
        if self.slots.sets() == 0 {
            return false;
        }
        let tag = self.tag(bucket, key);
        let mut bytes = [0; PAYLOAD_BYTES];
        for slot in self.slots.slots_of(tag) {
            if self.slots.tag(slot) != tag {
                continue;
            }
            if let Some(length) = self.slots.read(slot, &mut bytes)
                && let Some(rest) = entry::of_key(&bytes[..length], bucket, key)
            {
                return entry::read(rest, &self.names, into).is_some();
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
}

/// The only one that writes. Not `Clone`, made once per table.
#[derive(Debug)]
pub struct CacheWriter {
    cache: Arc<LocationCache>,
    /// Which slot of a set is filled next.
    victims: Vec<u8>,
    /// Counts what was done to a set, so that a lookup's answer that was overtaken is not filled in.
    generations: Vec<u32>,
    /// Keys in transactions whose outcome is not known.
    held: Vec<u64>,
    scratch: Vec<u8>,
}

impl CacheWriter {
    /// Before a transaction that may alter the key: it is absent from now on, until `release`.
    pub fn hold(&mut self, bucket: &str, key: &str) {
        if !self.generations.is_empty() {
            let tag = self.cache.tag(bucket, key);
            self.held.push(tag);
            self.remove(tag);
        }
    }

    /// After that transaction, before anybody is told of it.
    pub fn release(&mut self, bucket: &str, key: &str) {
        let tag = self.cache.tag(bucket, key);
        if let Some(at) = self.held.iter().position(|one| *one == tag) {
            self.held.swap_remove(at);
            self.remove(tag);
        }
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

    fn remove(&mut self, tag: u64) {
        let slots = &self.cache.slots;
        let generation = &mut self.generations[slots.set_of(tag)];
        *generation = generation.wrapping_add(1);
        for slot in slots.slots_of(tag) {
            if slots.tag(slot) == tag {
                slots.set_tag(slot, 0);
            }
        }
    }

    /// When a lookup is sent.
    pub fn place(&self, bucket: &str, key: &str) -> Place {
        let tag = self.cache.tag(bucket, key);
        let set = self.cache.slots.set_of(tag);
        Place { tag, generation: self.generations.get(set).copied().unwrap_or(0) }
    }

    /// When it was answered. Nothing happens if the key may have been altered meanwhile, or the entry does not fit.
    pub fn fill(&mut self, place: Place, bucket: &str, key: &str, located: &Located) -> bool {
        let slots = &self.cache.slots;
        let set = slots.set_of(place.tag);
        let untouched = self.generations.get(set) == Some(&place.generation);
        if !untouched || self.held.contains(&place.tag) {
            return false;
        }
        self.scratch.clear();
        let written = entry::write(&mut self.scratch, &self.cache.names, bucket, key, located);
        if written.is_none() || self.scratch.len() > PAYLOAD_BYTES {
            return false;
        }
        let same = slots.slots_of(place.tag).find(|&slot| slots.tag(slot) == place.tag);
        let empty = || slots.slots_of(place.tag).find(|&slot| slots.tag(slot) == 0);
        let slot = same.or_else(empty).unwrap_or_else(|| {
            let victim = &mut self.victims[set];
            *victim = (*victim + 1) % WAYS as u8;
            set * WAYS + usize::from(*victim)
        });
        // The slot answers for nobody while it changes hands.
        slots.set_tag(slot, 0);
        slots.write(slot, &self.scratch);
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
