//! What is computed and verified over one body in one pass: what the client declared of it, and what we need to know
//! ourselves. Built by the write handlers, driven by whoever moves the bytes (`Exchange`), which withholds the last of them
//! until `end` has found the body right. Never does IO.

use super::body_error::BodyError;
use super::checksum::{Algorithm, Algorithms, Checksum, Declared, Digests, Inspector};
use super::error_code::S3Error;

/// What the backend that will take the body does for us, as measured (`backend/standing.rs`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Help {
    /// It refuses a body that has not the SHA-256 that its PUT was signed with.
    pub verifies_sha256: bool,
    /// It refuses a body that has not the checksum of this kind that its PUT declares.
    pub verifies_checksums: Algorithms,
    /// Its entity tag is the body's MD5; the handler compares it with Content-MD5.
    pub tells_md5: bool,
}

pub struct BodyCheck {
    declared: Declared,
    elsewhere: Algorithms,
    /// The declared checksum that only the backend will check.
    left: Option<Checksum>,
    inspector: Inspector,
    /// Of a body that was looked at to its end.
    digests: Option<Digests>,
    trailer: Option<Checksum>,
}

impl BodyCheck {
    /// Everything that was declared is checked here; for bodies that go to no backend (XML).
    pub fn of_declared(declared: Declared) -> Self {
        Self::new(declared, Algorithms::NONE, Help::default())
    }

    /// For a body that nobody needs to look at.
    pub fn unseen() -> Self {
        Self::of_declared(Declared::default())
    }

    /// For a body that goes to a backend: what was declared is checked and `wanted` computed, except where the backend
    /// helps. Without help for it, MD5 is always computed when wanted.
    pub fn new(declared: Declared, wanted: Algorithms, help: Help) -> Self {
        let mut elsewhere = Algorithms::NONE;
        if help.tells_md5 && declared.checksum.is_none_or(|one| one.algorithm() != Algorithm::Md5) {
            elsewhere = elsewhere.with(Algorithm::Md5);
        }
        if help.verifies_sha256 && declared.content_sha256.is_some() && !declares_another_sha256(&declared) {
            elsewhere = elsewhere.with(Algorithm::Sha256);
        }
        if declared.trailer.is_some_and(|trailer| elsewhere.contains(trailer)) {
            // Its value comes when the backend has been told already.
            elsewhere = elsewhere.without(Algorithms::NONE.and(declared.trailer));
        }
        let here = declared.algorithms().and(wanted.iter()).without(elsewhere);
        // Over bytes that are looked at anyway a checksum costs little, and what was checked here needs nobody's word.
        let left = declared.checksum.filter(|one| {
            let alone = Algorithms::NONE.with(one.algorithm());
            help.verifies_checksums.contains(one.algorithm()) && here == alone
        });
        if let Some(left) = left {
            elsewhere = elsewhere.with(left.algorithm());
        }
        let here = here.without(elsewhere);
        Self { declared, elsewhere, left, inspector: Inspector::new(here), digests: None, trailer: None }
    }

    /// The declared checksum that is left to the backend: its PUT must declare it.
    pub fn left_to_backend(&self) -> Option<Checksum> {
        self.left
    }

    /// Whether the bytes must pass through `update`. If not, they may be spliced.
    pub fn must_look(&self) -> bool {
        !self.inspector.is_idle()
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.inspector.update(bytes);
    }

    /// The verdict, before the last bytes are handed on. `trailer` is the trailing checksum, if one came. Called once, also
    /// when nothing had to be looked at.
    pub fn end(&mut self, trailer: Option<Checksum>) -> Result<(), S3Error> {
        let digests = std::mem::take(&mut self.inspector).finish();
        self.declared.check(&digests, trailer, self.elsewhere)?;
        self.digests = Some(digests);
        self.trailer = trailer;
        Ok(())
    }

    /// What was found over the whole body. None if nobody asked for it, or the body has not ended.
    pub fn found(&self, algorithm: Algorithm) -> Option<Checksum> {
        self.digests.as_ref().and_then(|digests| digests.of(algorithm))
    }

    pub fn md5(&self) -> Option<[u8; 16]> {
        self.found(Algorithm::Md5).as_ref().and_then(Checksum::md5)
    }

    /// The checksum that the client sent with the body, as a header or as its trailer: kept with the object and returned.
    /// Only after `end` has found it right.
    pub fn sent_checksum(&self) -> Option<Checksum> {
        self.digests.as_ref().and(self.declared.checksum.or(self.trailer))
    }

    /// The MD5 that the client declared, for comparison with what a backend tells.
    pub fn declared_md5(&self) -> Option<[u8; 16]> {
        self.declared.content_md5.as_ref().and_then(Checksum::md5)
    }

    pub fn declared_sha256(&self) -> Option<[u8; 32]> {
        self.declared.content_sha256.as_ref().and_then(|checksum| checksum.as_bytes().try_into().ok())
    }

    /// Computes over a body that is in hand what this pass left to a backend that then failed, and checks it.
    pub fn finish_alone(&mut self, body: &[u8], wanted: Algorithms) -> Result<(), S3Error> {
        let Some(found) = self.digests else { return Err(BodyError::Incomplete.into()) };
        let missing = self.declared.algorithms().and(wanted.iter());
        let missing = Algorithms::NONE.and(missing.iter().filter(|&one| found.of(one).is_none()));
        if missing.is_empty() {
            return Ok(());
        }
        let mut again = Self::new(self.declared, wanted, Help::default());
        again.update(body);
        again.end(self.trailer)?;
        *self = again;
        Ok(())
    }
}

/// An `x-amz-checksum-sha256` that is not the hash that the signature covers: only one of them can be right.
fn declares_another_sha256(declared: &Declared) -> bool {
    declared.checksum.is_some_and(|one| one.algorithm() == Algorithm::Sha256 && Some(one) != declared.content_sha256)
}

#[cfg(test)]
mod tests {
    use super::super::checksum::Digester;
    use super::super::error_code::ErrorCode;
    use super::*;

    const BODY: &[u8] = b"the body";
    const GOOD: Help = Help { verifies_sha256: true, verifies_checksums: Algorithms::NONE, tells_md5: true };
    const POOR: Help = Help { verifies_sha256: false, verifies_checksums: Algorithms::NONE, tells_md5: false };

    fn of(algorithm: Algorithm) -> Option<Checksum> {
        Some(Digester::of(algorithm, BODY))
    }

    fn wrong(algorithm: Algorithm) -> Option<Checksum> {
        Some(Digester::of(algorithm, b"another"))
    }

    fn md5() -> Algorithms {
        Algorithms::NONE.with(Algorithm::Md5)
    }

    #[test]
    fn what_the_backend_does_is_not_done_twice() {
        let nothing = Declared::default();
        let sha = Declared { content_sha256: of(Algorithm::Sha256), ..nothing };
        let both = Declared { checksum: of(Algorithm::Sha256), ..sha };
        let contradiction = Declared { checksum: wrong(Algorithm::Sha256), ..sha };
        let crc = Declared { checksum: of(Algorithm::Crc32), ..nothing };
        let content_md5 = Declared { content_md5: of(Algorithm::Md5), ..nothing };
        let trailer = Declared { trailer: Some(Algorithm::Sha256), ..sha };
        let best = Help { verifies_checksums: Algorithms::NONE.with(Algorithm::Crc32), ..GOOD };
        for (declared, help, must_look) in [
            (nothing, GOOD, false),
            (nothing, POOR, true),
            (sha, GOOD, false),
            (sha, Help { verifies_sha256: false, ..GOOD }, true),
            (both, GOOD, false),
            (contradiction, GOOD, true),
            (crc, GOOD, true),
            (crc, best, false),
            (crc, Help { tells_md5: false, ..best }, true),
            (Declared { checksum: of(Algorithm::Crc32c), ..nothing }, best, true),
            (Declared { trailer: Some(Algorithm::Crc32), ..nothing }, best, true),
            (Declared { checksum: of(Algorithm::Crc32), ..sha }, best, false),
            (content_md5, GOOD, false),
            (trailer, GOOD, true),
        ] {
            assert_eq!(BodyCheck::new(declared, md5(), help).must_look(), must_look, "{declared:?} {help:?}");
        }
    }

    #[test]
    fn a_checksum_is_left_to_the_backend_only_where_nothing_else_must_be_seen() {
        let best = Help { verifies_checksums: Algorithms::NONE.with(Algorithm::Crc32), ..GOOD };
        let crc = Declared { checksum: wrong(Algorithm::Crc32), ..Declared::default() };
        let mut check = BodyCheck::new(crc, md5(), best);
        assert_eq!((check.left_to_backend(), check.must_look()), (crc.checksum, false));
        check.end(None).expect("the backend will refuse it");
        assert_eq!(check.sent_checksum(), crc.checksum, "kept with the object once the backend has taken it");
        let seen = Help { tells_md5: false, ..best };
        assert_eq!(BodyCheck::new(crc, md5(), seen).left_to_backend(), None);
        assert_eq!(verdict(crc, seen, None), Err(ErrorCode::BadDigest));
    }

    fn verdict(declared: Declared, help: Help, trailer: Option<Checksum>) -> Result<(), ErrorCode> {
        let mut check = BodyCheck::new(declared, md5(), help);
        BODY.chunks(3).for_each(|piece| check.update(piece));
        check.end(trailer).map_err(|error| error.code)
    }

    #[test]
    fn a_wrong_body_is_refused() {
        let nothing = Declared::default();
        let bad_sha = Declared { content_sha256: wrong(Algorithm::Sha256), ..nothing };
        let bad_md5 = Declared { content_md5: wrong(Algorithm::Md5), ..nothing };
        let bad_crc = Declared { checksum: wrong(Algorithm::Crc32c), ..nothing };
        let trailer = Declared { trailer: Some(Algorithm::Crc32), ..nothing };
        for (declared, help, sent, want) in [
            (nothing, POOR, None, Ok(())),
            (bad_sha, POOR, None, Err(ErrorCode::XAmzContentSHA256Mismatch)),
            (bad_sha, GOOD, None, Ok(())), // the backend will refuse it
            (bad_md5, POOR, None, Err(ErrorCode::BadDigest)),
            (bad_md5, GOOD, None, Ok(())), // the handler will compare
            (bad_crc, GOOD, None, Err(ErrorCode::BadDigest)),
            (trailer, GOOD, of(Algorithm::Crc32), Ok(())),
            (trailer, GOOD, wrong(Algorithm::Crc32), Err(ErrorCode::BadDigest)),
            (trailer, GOOD, None, Err(ErrorCode::MalformedTrailerError)),
        ] {
            assert_eq!(verdict(declared, help, sent), want, "{declared:?} {help:?} {sent:?}");
        }
    }

    #[test]
    fn a_body_in_hand_is_checked_later_where_the_helper_failed() {
        let sent = Declared { content_sha256: of(Algorithm::Sha256), ..Declared::default() };
        let mut check = BodyCheck::new(sent, md5(), GOOD);
        check.update(BODY);
        check.end(None).expect("nothing to find wrong yet");
        assert_eq!(check.md5(), None);
        check.finish_alone(BODY, md5()).expect("the body is right");
        assert_eq!(check.md5(), of(Algorithm::Md5).as_ref().and_then(Checksum::md5));

        let wrong_hash = Declared { content_sha256: wrong(Algorithm::Sha256), ..Declared::default() };
        let mut check = BodyCheck::new(wrong_hash, md5(), GOOD);
        check.update(BODY);
        check.end(None).expect("left to the backend");
        let refusal = check.finish_alone(BODY, md5()).map_err(|error| error.code);
        assert_eq!(refusal, Err(ErrorCode::XAmzContentSHA256Mismatch));
    }
}
