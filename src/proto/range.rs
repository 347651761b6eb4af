//! The Range of a GET or HEAD against an object's size (RFC 9110, 14; AWS's choices where that leaves one).
//!
//! Only single ranges are served. Several ranges, another unit, or a malformed header give the whole object, as AWS does;
//! only a well-formed range that begins behind the end is refused.

use super::error_code::{ErrorCode, S3Error};

/// What part of the object to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Range {
    /// 200, everything.
    Whole,
    /// 206. Both ends count from 0 and are included; `first <= last < size`.
    Part { first: u64, last: u64 },
    /// 416 InvalidRange, with `Content-Range: bytes */size`.
    Unsatisfiable,
}

impl Range {
    /// `header` is the value of Range, if there was one.
    pub fn of(header: Option<&[u8]>, size: u64) -> Self {
        header.and_then(|value| Self::single(value, size)).unwrap_or(Self::Whole)
    }

    /// None when the header is to be ignored.
    fn single(value: &[u8], size: u64) -> Option<Self> {
        let (unit, spec) = split_at_byte(value, b'=')?;
        if !unit.eq_ignore_ascii_case(b"bytes") {
            return None;
        }
        let (first, last) = split_at_byte(spec, b'-')?;
        if first.is_empty() {
            let suffix = number(last)?;
            return match (suffix, size) {
                (0, _) => Some(Self::Unsatisfiable),
                (_, 0) => None,
                _ => Some(Self::Part { first: size.saturating_sub(suffix), last: size - 1 }),
            };
        }
        let first = number(first)?;
        let last = if last.is_empty() { u64::MAX } else { number(last)? };
        if last < first {
            return None;
        }
        if first >= size {
            return Some(Self::Unsatisfiable);
        }
        Some(Self::Part { first, last: last.min(size - 1) })
    }

    /// `x-amz-copy-source-range` of a part's source: `bytes=first-last`, both given, both within the object. First and last
    /// byte. InvalidArgument, InvalidRange.
    pub fn of_copy_source(value: &[u8], size: u64) -> Result<(u64, u64), S3Error> {
        let ends = value.strip_prefix(b"bytes=").and_then(|spec| split_at_byte(spec, b'-'));
        let ends = ends.and_then(|(first, last)| Some((number(first)?, number(last)?)));
        let (first, last) = ends.filter(|(first, last)| first <= last).ok_or_else(|| {
            let message = "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are \
                           the zero-based offsets of the first and last bytes to copy";
            S3Error::new(ErrorCode::InvalidArgument, message)
        })?;
        if last >= size { Err(ErrorCode::InvalidRange.into()) } else { Ok((first, last)) }
    }

    /// Bytes that will be sent of an object of this size.
    pub fn len(self, size: u64) -> u64 {
        match self {
            Self::Whole => size,
            Self::Part { first, last } => last - first + 1,
            Self::Unsatisfiable => 0,
        }
    }
}

fn split_at_byte(text: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&b| b == byte)?;
    Some((&text[..at], &text[at + 1..]))
}

/// Digits only; a number too big for 64 bits is as good as the biggest.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| text.iter().fold(0_u64, |n, d| n.saturating_mul(10).saturating_add(u64::from(d - b'0'))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(header: &str, size: u64, want: Range) {
        assert_eq!(Range::of(Some(header.as_bytes()), size), want, "{header:?} of {size} bytes");
    }

    fn part(first: u64, last: u64) -> Range {
        Range::Part { first, last }
    }

    #[test]
    fn single_ranges() {
        check("bytes=0-0", 100, part(0, 0));
        check("bytes=0-99", 100, part(0, 99));
        check("bytes=10-19", 100, part(10, 19));
        check("bytes=90-200", 100, part(90, 99));
        check("bytes=10-", 100, part(10, 99));
        check("bytes=99-", 100, part(99, 99));
        check("bytes=-10", 100, part(90, 99));
        check("bytes=-100", 100, part(0, 99));
        check("bytes=-101", 100, part(0, 99));
        check("Bytes=0-4", 100, part(0, 4));
        check("bytes=00-04", 100, part(0, 4));
        check("bytes=0-99999999999999999999999", 100, part(0, 99));
        check("bytes=-99999999999999999999999", 100, part(0, 99));
    }

    #[test]
    fn beyond_the_end() {
        for header in ["bytes=100-", "bytes=100-200", "bytes=101-", "bytes=-0", "bytes=99999999999999999999999-"] {
            check(header, 100, Range::Unsatisfiable);
        }
    }

    #[test]
    fn ranges_of_a_copy_are_exact() {
        let of = |value: &str| Range::of_copy_source(value.as_bytes(), 100).map_err(|error| error.code);
        assert_eq!((of("bytes=0-0"), of("bytes=10-99")), (Ok((0, 0)), Ok((10, 99))));
        for value in ["bytes=0-100", "bytes=100-100", "bytes=0-99999999999999999999999"] {
            assert_eq!(of(value), Err(ErrorCode::InvalidRange), "{value}");
        }
        for value in
            ["0-2", "bytes=0", "bytes=0-", "bytes=-2", "bytes=5-2", "bytes=a-b", "bytes=0-2,3-5", "items=0-2", ""]
        {
            assert_eq!(of(value), Err(ErrorCode::InvalidArgument), "{value}");
        }
    }

    #[test]
    fn of_an_empty_object() {
        for header in ["bytes=0-", "bytes=0-0", "bytes=40-50", "bytes=-0"] {
            check(header, 0, Range::Unsatisfiable);
        }
        check("bytes=-5", 0, Range::Whole);
    }

    #[test]
    fn malformed_and_multiple_ranges_give_the_whole() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5",
            "bytes=5-2",
            "bytes=a-b",
            "bytes=1-b",
            "bytes=+1-5",
            "bytes=1-+5",
            "bytes=1--5",
            "bytes=--5",
            "bytes= 1-5",
            "bytes=1 -5",
            "bytes=1-5 ",
            "bytes =1-5",
            "bytes=0x1-0x5",
            "bytes=0-1,5-6",
            "bytes=0-1,",
            "bytes=,0-1",
            "items=0-5",
            "0-5",
        ] {
            check(header, 100, Range::Whole);
        }
        assert_eq!(Range::of(None, 100), Range::Whole);
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_object(header in "bytes=[0-9]{0,3}-?[0-9]{0,3},?", size in 0_u64..300) {
            if let Range::Part { first, last } = Range::of(Some(header.as_bytes()), size) {
                prop_assert!(first <= last && last < size);
                prop_assert!((1..=size).contains(&part(first, last).len(size)));
            }
        }
    }
}
