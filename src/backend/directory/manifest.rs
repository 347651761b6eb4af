//! The manifest of a completed multipart blob in a directory: which part files make it up, in which order.
//!
//! Completing copies nothing: the upload's directory gets a `manifest` and is renamed to the blob's final name, so a blob
//! that is a directory is read through its manifest and one that is a file is read as it is. No client can forge one: what
//! a client writes is a file. Part files that the manifest does not name are leftovers of attempts and never read.

use crate::backend::port::Span;
use serde::{Deserialize, Serialize};

/// The manifest's name inside the blob's directory.
pub const FILE: &str = "manifest";
/// The manifest while it is being written.
pub const TEMPORARY_FILE: &str = "manifest.new";
/// A manifest of 10 000 parts is about 400 KB.
pub const BYTES_MAX: usize = 2 * 1024 * 1024;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u32,
    /// File name and size, in the order of their bytes.
    pub parts: Vec<(String, u64)>,
}

/// A piece of a part file, to be read whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    pub file: String,
    /// The size that the file must have.
    pub file_size: u64,
    pub offset: u64,
    pub len: u64,
}

impl Manifest {
    const FORMAT: u32 = 1;

    pub fn new(parts: Vec<(String, u64)>) -> Self {
        Self { format: Self::FORMAT, parts }
    }

    pub fn size(&self) -> u64 {
        self.parts.iter().map(|(_, size)| size).sum()
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest is plain data")
    }

    /// None: not a manifest that this program wrote.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let manifest: Self = serde_json::from_slice(bytes).ok()?;
        let inside = |file: &str| !file.is_empty() && file.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let sizes = manifest.parts.iter().try_fold(0u64, |sum, (_, size)| sum.checked_add(*size));
        let sound = manifest.format == Self::FORMAT
            && sizes.is_some()
            && manifest.parts.iter().all(|(file, _)| inside(file) && file != FILE);
        sound.then_some(manifest)
    }

    /// The pieces of files that hold `span`, in order; None if the blob ends before it does. An empty span has none.
    pub fn segments(&self, span: Span) -> Option<Vec<Segment>> {
        let end = span.from.checked_add(span.len).filter(|&end| end <= self.size())?;
        let mut segments = Vec::new();
        let mut part_from = 0;
        for (file, file_size) in &self.parts {
            let part_end = part_from + file_size;
            let (from, until) = (span.from.max(part_from), end.min(part_end));
            if from < until {
                let (offset, len) = (from - part_from, until - from);
                segments.push(Segment { file: file.clone(), file_size: *file_size, offset, len });
            }
            part_from = part_end;
        }
        Some(segments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn manifest(sizes: &[u64]) -> Manifest {
        Manifest::new(sizes.iter().enumerate().map(|(i, &size)| (format!("{:05}-0123456789", i + 1), size)).collect())
    }

    #[test]
    fn a_span_is_cut_at_the_parts() {
        let check = |sizes: &[u64], from: u64, len: u64, want: Option<&[(usize, u64, u64)]>| {
            let got = manifest(sizes).segments(Span { from, len }).map(|segments| {
                let number = |segment: &Segment| segment.file[..5].parse::<usize>().expect("a number");
                segments.iter().map(|one| (number(one), one.offset, one.len)).collect::<Vec<_>>()
            });
            assert_eq!(got.as_deref(), want, "{from}+{len} of {sizes:?}");
        };
        check(&[5, 5, 3], 0, 13, Some(&[(1, 0, 5), (2, 0, 5), (3, 0, 3)]));
        check(&[5, 5, 3], 4, 2, Some(&[(1, 4, 1), (2, 0, 1)]));
        check(&[5, 5, 3], 5, 5, Some(&[(2, 0, 5)]));
        check(&[5, 5, 3], 12, 1, Some(&[(3, 2, 1)]));
        check(&[5, 0, 3], 4, 2, Some(&[(1, 4, 1), (3, 0, 1)]));
        check(&[5], 5, 0, Some(&[]));
        check(&[5], 5, 1, None);
        check(&[5], u64::MAX, 2, None);
    }

    #[test]
    fn only_what_we_wrote_is_read() {
        let good = manifest(&[1, 2]);
        assert_eq!(Manifest::decode(&good.encode()), Some(good));
        for bad in [
            "",
            "{}",
            r#"{"format":2,"parts":[]}"#,
            r#"{"format":1,"parts":[["../../etc/passwd",1]]}"#,
            r#"{"format":1,"parts":[["",1]]}"#,
            r#"{"format":1,"parts":[["manifest",1]]}"#,
            r#"{"format":1,"parts":[["a",18446744073709551615],["b",1]]}"#,
            r#"{"format":1,"parts":[["a",-1]]}"#,
            r#"{"format":1,"parts":[],"more":1}"#,
        ] {
            assert_eq!(Manifest::decode(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn segments_are_the_bytes_of_the_span(sizes in prop::collection::vec(0u64..20, 1..8), from in 0u64..60, len in 0u64..60) {
            let bytes: Vec<(usize, u64)> =
                sizes.iter().enumerate().flat_map(|(part, &size)| (0..size).map(move |at| (part + 1, at))).collect();
            let want = bytes.get(from as usize..(from + len) as usize);
            let got = manifest(&sizes).segments(Span { from, len }).map(|segments| {
                let cut = |s: &Segment| {
                    let part: usize = s.file[..5].parse().expect("a number");
                    (s.offset..s.offset + s.len).map(move |at| (part, at)).collect::<Vec<_>>()
                };
                segments.iter().flat_map(cut).collect::<Vec<_>>()
            });
            prop_assert_eq!(got.as_deref(), want);
        }
    }
}
