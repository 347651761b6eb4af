//! Signing keys: derived from a secret for a day, a region and a service, and kept per core.
//!
//! The cache compares the secret itself, so a changed secret takes effect with the next request, and it is filled only
//! with keys that a caller asks it to keep: forged requests cannot push the real keys out.

use super::Hex;
use super::hex;
use crate::base::Secret;
use crate::base::text_hash::text_hash;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use zeroize::Zeroizing;

/// A derived key, ready to sign: the two halves of HMAC are already past the key's block.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

impl SigningKey {
    /// `day` is `YYYYMMDD`. Four HMACs, about 2 us.
    pub fn derive(secret: &Secret, day: &[u8; 8], region: &str, service: &str) -> Self {
        let text = secret.expose().as_bytes();
        let mut first = Zeroizing::new(Vec::with_capacity(4 + text.len()));
        first.extend_from_slice(b"AWS4");
        first.extend_from_slice(text);
        let mut key = Self::from_bytes(&first);
        for part in [&day[..], region.as_bytes(), service.as_bytes(), b"aws4_request"] {
            key = Self::from_bytes(&*Zeroizing::new(key.mac(part)));
        }
        key
    }

    /// HMAC-SHA256 of `message`.
    pub fn mac(&self, message: &[u8]) -> [u8; 32] {
        let mut state = self.0.clone();
        state.update(message);
        state.finalize().into_bytes().into()
    }

    /// The signature of a string to sign, as it is written in headers.
    pub fn sign(&self, string_to_sign: &[u8]) -> Hex {
        hex(&self.mac(string_to_sign))
    }

    fn from_bytes(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

/// What a key is derived from, for service `s3`.
#[derive(Clone, Copy)]
pub struct KeyOf<'a> {
    /// Only tells where to look; the secret decides.
    pub access_key: &'a str,
    pub secret: &'a Secret,
    pub day: [u8; 8],
    pub region: &'a str,
}

impl KeyOf<'_> {
    pub fn derive(&self) -> SigningKey {
        SigningKey::derive(self.secret, &self.day, self.region, "s3")
    }
}

/// The derived keys of one core: a fixed number of slots, four places for each access key, the oldest given up first.
pub struct KeyCache {
    slots: Box<[Option<Kept>]>,
    turn: usize,
}

struct Kept {
    secret: Secret,
    day: [u8; 8],
    region: Box<str>,
    key: SigningKey,
}

impl KeyCache {
    const SETS: usize = 64;
    const WAYS: usize = 4;

    pub fn new() -> Self {
        Self { slots: (0..Self::SETS * Self::WAYS).map(|_| None).collect(), turn: 0 }
    }

    /// The key, if it was kept.
    pub fn find(&self, of: &KeyOf<'_>) -> Option<&SigningKey> {
        self.place(of).and_then(|place| self.slots[place].as_ref()).map(|kept| &kept.key)
    }

    fn place(&self, of: &KeyOf<'_>) -> Option<usize> {
        Self::places(of).find(|&place| self.slots[place].as_ref().is_some_and(|kept| kept.is(of)))
    }

    /// Keeps a key that was derived `of` these parts. A key of another day for the same secret and region makes room.
    pub fn keep(&mut self, of: &KeyOf<'_>, key: SigningKey) {
        let places = &mut self.slots[Self::places(of)];
        let stale = places.iter().position(|place| place.as_ref().is_none_or(|kept| kept.is_predecessor(of)));
        self.turn = (self.turn + 1) % Self::WAYS;
        let kept = Kept { secret: of.secret.clone(), day: of.day, region: of.region.into(), key };
        places[stale.unwrap_or(self.turn)] = Some(kept);
    }

    /// The key, derived and kept if it was not there. For signing, where every request is our own.
    pub fn find_or_derive(&mut self, of: &KeyOf<'_>) -> &SigningKey {
        let place = self.place(of).or_else(|| {
            self.keep(of, of.derive());
            self.place(of)
        });
        let kept = place.and_then(|place| self.slots[place].as_ref());
        &kept.expect("a key that was just kept is found").key
    }

    fn places(of: &KeyOf<'_>) -> std::ops::Range<usize> {
        let hash = text_hash(0, &[of.access_key, of.region]);
        let first = (hash as usize % Self::SETS) * Self::WAYS;
        first..first + Self::WAYS
    }
}

impl Default for KeyCache {
    fn default() -> Self {
        Self::new()
    }
}

impl Kept {
    fn is(&self, of: &KeyOf<'_>) -> bool {
        self.day == of.day && *self.region == *of.region && self.secret == *of.secret
    }

    fn is_predecessor(&self, of: &KeyOf<'_>) -> bool {
        self.day < of.day && *self.region == *of.region && self.secret == *of.secret
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(secret: &'a Secret, day: &[u8; 8], region: &'a str) -> KeyOf<'a> {
        KeyOf { access_key: "AKIDEXAMPLE", secret, day: *day, region }
    }

    #[test]
    fn derivation_gives_the_documented_key() {
        // "Deriving the signing key" of the AWS documentation, with service iam.
        let secret = Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let key = SigningKey::derive(&secret, b"20150830", "us-east-1", "iam");
        let string_to_sign = b"AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/iam/aws4_request\n\
            f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59";
        let want = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";
        assert_eq!(std::str::from_utf8(&key.sign(string_to_sign)), Ok(want));
    }

    #[test]
    fn a_kept_key_is_found_by_all_of_its_parts_only() {
        let (secret, changed) = (Secret::new("one"), Secret::new("two"));
        let mut cache = KeyCache::new();
        let parts = of(&secret, b"20261122", "us-east-1");
        assert!(cache.find(&parts).is_none());
        cache.keep(&parts, parts.derive());
        assert_eq!(cache.find(&parts).map(|key| key.sign(b"x")), Some(parts.derive().sign(b"x")));
        for other in [
            of(&changed, b"20261122", "us-east-1"),
            of(&secret, b"20261123", "us-east-1"),
            of(&secret, b"20261122", "us-east-2"),
        ] {
            assert!(cache.find(&other).is_none());
            assert_eq!(cache.find_or_derive(&other).sign(b"x"), other.derive().sign(b"x"));
        }
    }

    #[test]
    fn a_full_set_gives_up_one_place_and_keeps_working() {
        let secrets: Vec<Secret> = (0..50).map(|n| Secret::new(format!("secret {n}"))).collect();
        let mut cache = KeyCache::new();
        for secret in &secrets {
            let parts = of(secret, b"20261122", "r");
            assert_eq!(cache.find_or_derive(&parts).sign(b"x"), parts.derive().sign(b"x"));
        }
    }

    #[test]
    fn a_new_day_takes_the_place_of_the_old() {
        let secret = Secret::new("one");
        let mut cache = KeyCache::new();
        for day in [b"20261122", b"20261123", b"20261124"] {
            cache.find_or_derive(&of(&secret, day, "r"));
        }
        assert_eq!(cache.slots.iter().flatten().count(), 1);
    }
}
