//! What one core has found on the backends while the database does not answer, so that each key is searched once: for
//! `circuit_breaker.cache_ttl`, and never beyond the outage.

use crate::base::Tick;
use crate::store::record::Located;
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

/// Keys that are remembered; beyond, all are forgotten and searched again.
const KEYS_MAX: usize = 8 * 1024;

#[derive(Debug, Default)]
pub struct Searched(RefCell<State>);

#[derive(Debug, Default)]
struct State {
    outage: (u64, u64),
    /// By bucket and key; None: every backend said that there is nothing.
    keys: HashMap<(String, String), (Tick, Option<Located>)>,
}

impl Searched {
    /// What a search of this outage (`DatabaseState::age`) has found, if that still holds. The inner None: nothing is there.
    pub fn get(&self, outage: Option<(u64, u64)>, bucket: &str, key: &str, now: Tick) -> Option<Option<Located>> {
        let state = self.0.borrow();
        let (until, found) = state.keys.get(&(bucket.to_owned(), key.to_owned()))?;
        (outage == Some(state.outage) && now < *until).then(|| found.clone())
    }

    pub fn put(&self, outage: (u64, u64), bucket: &str, key: &str, until: Tick, found: Option<Located>) {
        let mut state = self.0.borrow_mut();
        if state.outage != outage || state.keys.len() >= KEYS_MAX {
            state.keys.clear();
            state.outage = outage;
        }
        state.keys.insert((bucket.to_owned(), key.to_owned()), (until, found));
    }

    /// Up to a fifth more or less, so that many keys are not searched again at once.
    pub fn jittered(ttl: Duration, roll: u64) -> Duration {
        ttl.mul_f64(0.8 + 0.4 * (roll % 1_000) as f64 / 1_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_holds_for_its_time_and_its_outage() {
        let searched = Searched::default();
        let at = |nanos| Tick { nanos };
        let found = Some(Located { size: 7, ..Located::empty() });
        searched.put((1, 0), "bkt", "k", at(100), found.clone());
        searched.put((1, 0), "bkt", "gone", at(100), None);
        assert_eq!(searched.get(Some((1, 0)), "bkt", "k", at(99)), Some(found));
        assert_eq!(
            searched.get(Some((1, 0)), "bkt", "gone", at(99)),
            Some(None),
            "that nothing is there is remembered too"
        );
        assert_eq!(searched.get(Some((1, 0)), "bkt", "k", at(100)), None, "too old");
        assert_eq!(searched.get(Some((2, 0)), "bkt", "k", at(1)), None, "another outage");
        assert_eq!(searched.get(None, "bkt", "k", at(1)), None, "none at all");
        assert_eq!(searched.get(Some((1, 0)), "bk", "tk", at(1)), None);
        searched.put((2, 0), "bkt", "other", at(100), None);
        assert_eq!(searched.get(Some((2, 0)), "bkt", "k", at(1)), None, "forgotten with its outage");
        for i in 0..2 * KEYS_MAX {
            searched.put((2, 0), "bkt", &format!("k{i}"), at(100), None);
        }
        assert!(searched.0.borrow().keys.len() <= KEYS_MAX);
    }

    #[test]
    fn times_differ_by_a_fifth() {
        let times = [0, 500, 999].map(|roll| Searched::jittered(Duration::from_secs(100), roll).as_millis());
        assert_eq!(times, [80_000, 100_000, 119_960]);
    }
}
