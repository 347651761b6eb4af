//! Signed heads of whole GETs, kept for a moment: an object that many ask for is asked of its backend with the same head
//! again and again, and signing it is a good part of what a small GET costs.
//!
//! A signature holds for a quarter of an hour (S3, "Authenticating Requests: Using the Authorization Header"), and a blob's
//! name never means other bytes, so a head may be sent again as it is.

use crate::base::Timestamp;
use crate::base::text_hash::text_hash;

/// Far below what backends allow, whatever their clocks say.
const KEPT_FOR_SECONDS: u64 = 30;
/// A power of two. A full table takes a quarter of a mebibyte.
const PLACES: usize = 256;
/// Longer heads are rare and not kept.
const HEAD_BYTES_KEPT_MAX: usize = 1024;

/// One for each core and backend.
#[derive(Default)]
pub struct KeptHeads {
    /// Empty until the first one is kept.
    places: Vec<Kept>,
}

#[derive(Clone, Default)]
struct Kept {
    name: String,
    signed_at: Timestamp,
    head: Vec<u8>,
}

fn place_of(name: &str) -> usize {
    text_hash(0, &[name]) as usize % PLACES
}

impl KeptHeads {
    /// The head of a whole GET of `name`, if it was signed not long before `now` (or after it: clocks are put back).
    pub fn find(&self, name: &str, now: Timestamp) -> Option<&[u8]> {
        let kept = self.places.get(place_of(name))?;
        let is_fresh = kept.signed_at.seconds().abs_diff(now.seconds()) <= KEPT_FOR_SECONDS;
        (is_fresh && kept.name == name).then_some(&kept.head)
    }

    /// Keeps it in place of another one.
    pub fn keep(&mut self, name: &str, signed_at: Timestamp, head: &[u8]) {
        if head.len() > HEAD_BYTES_KEPT_MAX {
            return;
        }
        self.places.resize_with(PLACES, Kept::default);
        let kept = &mut self.places[place_of(name)];
        name.clone_into(&mut kept.name);
        kept.signed_at = signed_at;
        kept.head.clear();
        kept.head.extend_from_slice(head);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp { millis: 1_764_000_000_000 };

    #[test]
    fn a_head_is_had_again_for_a_moment() {
        let mut kept = KeptHeads::default();
        assert_eq!(kept.find("photos/a!1", NOW), None);
        kept.keep("photos/a!1", NOW, b"GET /a");
        assert_eq!(kept.find("photos/a!1", NOW), Some(&b"GET /a"[..]));
        assert_eq!(kept.find("photos/a!2", NOW), None);
        let wait = Duration::from_secs(KEPT_FOR_SECONDS);
        assert!(kept.find("photos/a!1", NOW.plus(wait)).is_some());
        assert_eq!(kept.find("photos/a!1", NOW.plus(2 * wait)), None);
        assert_eq!(kept.find("photos/a!1", NOW.minus(2 * wait)), None, "a clock that was put back");
        kept.keep("photos/a!1", NOW.plus(2 * wait), b"GET /later");
        assert_eq!(kept.find("photos/a!1", NOW.plus(2 * wait)), Some(&b"GET /later"[..]));
    }

    #[test]
    fn many_names_share_the_places_and_none_is_mistaken_for_another() {
        let mut kept = KeptHeads::default();
        let names: Vec<String> = (0..4 * PLACES).map(|number| format!("photos/{number:06}!0")).collect();
        for name in &names {
            kept.keep(name, NOW, name.as_bytes());
        }
        let found: Vec<&String> = names.iter().filter(|name| kept.find(name, NOW).is_some()).collect();
        assert!((PLACES / 2..=PLACES).contains(&found.len()), "{} of {}", found.len(), names.len());
        assert!(found.iter().all(|name| kept.find(name, NOW) == Some(name.as_bytes())));
        kept.keep("photos/long!0", NOW, &[b'x'; HEAD_BYTES_KEPT_MAX + 1]);
        assert_eq!(kept.find("photos/long!0", NOW), None);
    }
}
