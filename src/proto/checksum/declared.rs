//! What a request says about its body's checksums, in headers or as a trailer to come, and whether the body agrees.

use super::{Algorithm, Algorithms, Checksum, Digests};
use crate::proto::body_error::BodyError;
use crate::proto::fields::{Fields, Sole};
use crate::proto::sigv4::PayloadMode;

/// The checksums that a request declares for its body.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Declared {
    /// Content-MD5.
    pub content_md5: Option<Checksum>,
    /// `x-amz-content-sha256`, when it is a hash.
    pub content_sha256: Option<Checksum>,
    /// The one `x-amz-checksum-…` header.
    pub checksum: Option<Checksum>,
    /// The checksum that comes after the body, by `x-amz-trailer`.
    pub trailer: Option<Algorithm>,
}

impl Declared {
    /// From the headers of a request with a body. `payload` is what the signature said.
    pub fn parse<H: Fields + ?Sized>(headers: &H, payload: PayloadMode) -> Result<Self, BodyError> {
        let mut declared = Self::default();
        if let PayloadMode::DeclaredSha256(digest) = payload {
            declared.content_sha256 = Checksum::new(Algorithm::Sha256, &digest);
        }
        let (mut md5, mut trailer, mut sdk_algorithm) = (Sole::Absent, Sole::Absent, Sole::Absent);
        for (name, value) in headers.fields() {
            if name.eq_ignore_ascii_case(b"content-md5") {
                md5.add(value);
            } else if name.eq_ignore_ascii_case(b"x-amz-trailer") {
                trailer.add(value);
            } else if name.eq_ignore_ascii_case(b"x-amz-sdk-checksum-algorithm") {
                sdk_algorithm.add(value);
            } else if is_checksum_value(name) {
                let algorithm = Algorithm::from_header(name).ok_or(BodyError::UnsupportedChecksum)?;
                let parsed = Checksum::parse(algorithm, value.trim_ascii());
                let checksum = parsed.ok_or(BodyError::InvalidChecksumHeader(algorithm))?;
                if declared.checksum.replace(checksum).is_some() {
                    return Err(BodyError::SeveralChecksums);
                }
            }
        }
        declared.content_md5 = parse_content_md5(md5)?;
        declared.trailer = parse_trailer(trailer, payload)?;
        if declared.trailer.is_some() && declared.checksum.is_some() {
            return Err(BodyError::ChecksumAndTrailer);
        }
        declared.check_sdk_algorithm(sdk_algorithm)?;
        Ok(declared)
    }

    /// The checksum that comes after the body, whatever else the headers say: those of CompleteMultipartUpload are not its
    /// body's.
    pub fn trailer_of<H: Fields + ?Sized>(headers: &H, payload: PayloadMode) -> Result<Option<Algorithm>, BodyError> {
        if !payload.is_streaming() {
            return Ok(None);
        }
        let mut trailer = Sole::Absent;
        for (name, value) in headers.fields() {
            if name.eq_ignore_ascii_case(b"x-amz-trailer") {
                trailer.add(value);
            }
        }
        parse_trailer(trailer, payload)
    }

    /// What must be computed over the body to check it.
    pub fn algorithms(&self) -> Algorithms {
        let values = [self.content_md5, self.content_sha256, self.checksum];
        Algorithms::NONE.and(values.into_iter().flatten().map(|checksum| checksum.algorithm())).and(self.trailer)
    }

    /// Whether the body is what was declared. `trailer` is the trailing checksum as received. `digests` must hold what
    /// [`Self::algorithms`] asked for, less those that somebody else has checked; one that is missing does not match.
    pub fn check(
        &self,
        digests: &Digests,
        trailer: Option<Checksum>,
        checked_elsewhere: Algorithms,
    ) -> Result<(), BodyError> {
        let differs = |declared: Option<Checksum>| {
            declared.is_some_and(|checksum| {
                !checked_elsewhere.contains(checksum.algorithm()) && digests.of(checksum.algorithm()) != Some(checksum)
            })
        };
        if trailer.map(|checksum| checksum.algorithm()) != self.trailer {
            return Err(BodyError::MalformedTrailer);
        }
        if differs(self.content_md5) {
            return Err(BodyError::ContentMd5Mismatch);
        }
        for checksum in [self.checksum, trailer] {
            if let Some(checksum) = checksum
                && differs(Some(checksum))
            {
                return Err(BodyError::ChecksumMismatch(checksum.algorithm()));
            }
        }
        if differs(self.content_sha256) { Err(BodyError::ContentSha256Mismatch) } else { Ok(()) }
    }

    /// The SDKs name the algorithm of the checksum that they send; one that they do not send was lost on the way.
    fn check_sdk_algorithm(&self, header: Sole<'_>) -> Result<(), BodyError> {
        let value = match header {
            Sole::Absent => return Ok(()),
            Sole::One(value) => value,
            Sole::Several => return Err(BodyError::InvalidSdkAlgorithm),
        };
        let named = std::str::from_utf8(value).ok().and_then(Algorithm::parse);
        let named = named.ok_or(BodyError::InvalidSdkAlgorithm)?;
        match self.trailer.or(self.checksum.map(|checksum| checksum.algorithm())) {
            Some(sent) if sent == named => Ok(()),
            Some(_) => Err(BodyError::InvalidSdkAlgorithm),
            // Content-MD5 is a checksum of its own; old SDKs send it in place of the one that they name.
            None if self.content_md5.is_some() => Ok(()),
            None => Err(BodyError::SdkAlgorithmAlone),
        }
    }
}

/// `x-amz-checksum-algorithm`, `-mode` and `-type` speak about checksums and are none.
fn is_checksum_value(name: &[u8]) -> bool {
    let prefix = b"x-amz-checksum-";
    let kind = name.get(..prefix.len()).filter(|start| start.eq_ignore_ascii_case(prefix));
    kind.is_some_and(|_| {
        let kind = &name[prefix.len()..];
        ![&b"algorithm"[..], b"mode", b"type"].iter().any(|word| kind.eq_ignore_ascii_case(word))
    })
}

fn parse_content_md5(header: Sole<'_>) -> Result<Option<Checksum>, BodyError> {
    match header {
        Sole::Absent => Ok(None),
        Sole::One(value) => Checksum::parse(Algorithm::Md5, value).map(Some).ok_or(BodyError::InvalidContentMd5),
        Sole::Several => Err(BodyError::InvalidContentMd5),
    }
}

fn parse_trailer(header: Sole<'_>, payload: PayloadMode) -> Result<Option<Algorithm>, BodyError> {
    let value = match header {
        Sole::Absent => return Ok(None),
        Sole::One(value) => value,
        Sole::Several => return Err(BodyError::SeveralChecksums),
    };
    if value.contains(&b',') {
        return Err(BodyError::SeveralChecksums);
    }
    let algorithm = Algorithm::from_header(value).ok_or(BodyError::UnsupportedTrailer)?;
    match payload {
        PayloadMode::StreamingSigned { trailer: true } | PayloadMode::StreamingUnsignedTrailer => Ok(Some(algorithm)),
        _ => Err(BodyError::MalformedTrailer),
    }
}

/// Any headers may come; what is accepted asks for no more than it can check.
pub fn fuzz_one(input: &[u8]) {
    let (payload, lines) = input.split_first().unwrap_or((&0, &[]));
    let payload = match payload % 4 {
        0 => PayloadMode::Unsigned,
        1 => PayloadMode::StreamingUnsignedTrailer,
        2 => PayloadMode::StreamingSigned { trailer: true },
        _ => PayloadMode::DeclaredSha256([0; 32]),
    };
    let headers: Vec<(&[u8], &[u8])> = lines
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.iter().position(|&byte| byte == b':').map(|at| (&line[..at], &line[at + 1..])))
        .collect();
    if let Ok(declared) = Declared::parse(&headers, payload) {
        assert!(declared.trailer.is_none() || declared.checksum.is_none());
        assert!(declared.trailer.is_none() || payload.is_streaming());
        assert!(declared.checksum.is_none_or(|checksum| declared.algorithms().contains(checksum.algorithm())));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Digester, Inspector};
    use super::*;

    const BODY: &[u8] = b"123456789";

    /// The verdict on a body of "123456789" with these headers and this trailer.
    fn verdict(
        headers: &[(&str, &str)],
        payload: PayloadMode,
        trailer: Option<Checksum>,
    ) -> Result<Declared, BodyError> {
        let declared = Declared::parse(headers, payload)?;
        let mut inspector = Inspector::new(declared.algorithms());
        inspector.update(BODY);
        declared.check(&inspector.finish(), trailer, Algorithms::NONE)?;
        Ok(declared)
    }

    fn check(headers: &[(&str, &str)], payload: PayloadMode, want: Result<(), BodyError>) {
        assert_eq!(verdict(headers, payload, None).map(|_| ()), want, "{headers:?} {payload:?}");
    }

    const PLAIN: PayloadMode = PayloadMode::Unsigned;
    const MD5: (&str, &str) = ("Content-MD5", "JfnnlDI7RTiF9RgfG2JNCw==");
    const CRC32: (&str, &str) = ("x-amz-checksum-crc32", "y/Q5Jg==");

    #[test]
    fn every_algorithm_right_and_wrong() {
        for algorithm in Algorithm::ALL {
            let right = Digester::of(algorithm, BODY).to_base64();
            let wrong = Digester::of(algorithm, b"other").to_base64();
            check(&[(algorithm.header(), &right)], PLAIN, Ok(()));
            check(&[(algorithm.header(), &format!("  {right} "))], PLAIN, Ok(()));
            check(&[(algorithm.header(), &wrong)], PLAIN, Err(BodyError::ChecksumMismatch(algorithm)));
            for bad in ["", "x", &right[1..], &format!("{right}{right}")] {
                check(&[(algorithm.header(), bad)], PLAIN, Err(BodyError::InvalidChecksumHeader(algorithm)));
            }
        }
    }

    #[test]
    fn content_md5() {
        check(&[MD5], PLAIN, Ok(()));
        check(&[("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==")], PLAIN, Err(BodyError::ContentMd5Mismatch));
        for bad in ["", "not base64", "25f9e794323b453885f5181f1b624d0b", "YWJyYWNhZGFicmE="] {
            check(&[("Content-MD5", bad)], PLAIN, Err(BodyError::InvalidContentMd5));
        }
        check(&[MD5, MD5], PLAIN, Err(BodyError::InvalidContentMd5));
        check(&[MD5, CRC32], PLAIN, Ok(()));
    }

    #[test]
    fn content_sha256() {
        let of = |bytes: &[u8]| {
            let digest = Digester::of(Algorithm::Sha256, bytes);
            PayloadMode::DeclaredSha256(digest.as_bytes().try_into().expect("a SHA-256 has 32 bytes"))
        };
        check(&[], of(BODY), Ok(()));
        check(&[CRC32], of(BODY), Ok(()));
        check(&[], of(b""), Err(BodyError::ContentSha256Mismatch));
        let sha256 = Digester::of(Algorithm::Sha256, BODY).to_base64();
        check(&[("x-amz-checksum-sha256", &sha256)], of(b""), Err(BodyError::ContentSha256Mismatch));
    }

    #[test]
    fn one_checksum_only() {
        let crc32c = ("x-amz-checksum-crc32c", "4waSgw==");
        check(&[CRC32, crc32c], PLAIN, Err(BodyError::SeveralChecksums));
        check(&[CRC32, CRC32], PLAIN, Err(BodyError::SeveralChecksums));
        check(&[("x-amz-checksum-sha512", "AAAA")], PLAIN, Err(BodyError::UnsupportedChecksum));
        check(&[("x-amz-checksum-", "")], PLAIN, Err(BodyError::UnsupportedChecksum));
        let about = [("x-amz-checksum-mode", "ENABLED"), ("x-amz-checksum-algorithm", "CRC32")];
        check(&[about[0], about[1], ("X-Amz-Checksum-Type", "COMPOSITE"), CRC32], PLAIN, Ok(()));
    }

    #[test]
    fn the_algorithm_that_sdks_name() {
        let named = |name| ("x-amz-sdk-checksum-algorithm", name);
        check(&[named("CRC32"), CRC32], PLAIN, Ok(()));
        check(&[named("crc32"), CRC32], PLAIN, Ok(()));
        check(&[named("SHA256"), CRC32], PLAIN, Err(BodyError::InvalidSdkAlgorithm));
        check(&[named("MD4"), CRC32], PLAIN, Err(BodyError::InvalidSdkAlgorithm));
        check(&[named("CRC32")], PLAIN, Err(BodyError::SdkAlgorithmAlone));
        check(&[named("CRC32"), MD5], PLAIN, Ok(()));
    }

    #[test]
    fn what_nobody_computed_does_not_match_unless_it_was_checked_elsewhere() {
        let declared = Declared::parse(&[CRC32], PLAIN).expect("one checksum is fine");
        let nothing = Inspector::new(Algorithms::NONE).finish();
        let mismatch = Err(BodyError::ChecksumMismatch(Algorithm::Crc32));
        assert_eq!(declared.check(&nothing, None, Algorithms::NONE), mismatch);
        assert_eq!(declared.check(&nothing, None, declared.algorithms()), Ok(()));
    }

    #[test]
    fn trailers() {
        let crc32 = Digester::of(Algorithm::Crc32, BODY);
        let announced = ("x-amz-trailer", "X-Amz-Checksum-Crc32");
        for payload in [PayloadMode::StreamingUnsignedTrailer, PayloadMode::StreamingSigned { trailer: true }] {
            assert!(verdict(&[announced], payload, Some(crc32)).is_ok());
            let wrong = Some(Digester::of(Algorithm::Crc32, b""));
            let mismatch = Err(BodyError::ChecksumMismatch(Algorithm::Crc32));
            assert_eq!(verdict(&[announced], payload, wrong), mismatch);
            let malformed = Err(BodyError::MalformedTrailer);
            assert_eq!(verdict(&[announced], payload, None), malformed);
            assert_eq!(verdict(&[announced], payload, Some(Digester::of(Algorithm::Sha1, BODY))), malformed);
            assert_eq!(verdict(&[], payload, Some(crc32)), malformed);
            check(&[announced, CRC32], payload, Err(BodyError::ChecksumAndTrailer));
            check(&[announced, announced], payload, Err(BodyError::SeveralChecksums));
            let two = ("x-amz-trailer", "x-amz-checksum-crc32, x-amz-checksum-sha1");
            check(&[two], payload, Err(BodyError::SeveralChecksums));
            check(&[("x-amz-trailer", "x-amz-meta-late")], payload, Err(BodyError::UnsupportedTrailer));
            check(&[("x-amz-trailer", "")], payload, Err(BodyError::UnsupportedTrailer));
        }
        check(&[announced], PLAIN, Err(BodyError::MalformedTrailer));
        check(&[announced], PayloadMode::StreamingSigned { trailer: false }, Err(BodyError::MalformedTrailer));
    }

    #[test]
    fn fuzz_entry_takes_anything() {
        for input in
            [&b""[..], b"\x01x-amz-trailer:x-amz-checksum-crc32\nContent-MD5:", b"\x00x-amz-checksum-crc32:y/Q5Jg=="]
        {
            fuzz_one(input);
        }
    }
}
