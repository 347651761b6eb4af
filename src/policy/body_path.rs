//! How a body is moved: spliced in the kernel, or copied through a pooled buffer. Asked by the relay once per body.

use crate::base::limits::SPLICE_BYTES_MIN;

/// `server.relay`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RelayMode {
    /// Splice where it pays.
    #[default]
    Auto,
    /// Splice wherever it is possible at all, however small the body.
    Splice,
    Copy,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyPath {
    Splice,
    Copy,
}

impl BodyPath {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Splice => "splice",
            Self::Copy => "copy",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BodyFacts {
    pub size_bytes: u64,
    /// Neither side is TLS, encrypted or framed.
    pub plaintext_both_sides: bool,
    /// Somebody here must see the bytes: a hash, a checksum or a chunk signature that only we can check.
    pub must_inspect: bool,
    pub targets: usize,
    /// The core's pool can lend a pipe of useful capacity.
    pub pipe_available: bool,
}

pub fn choose_body_path(mode: RelayMode, facts: &BodyFacts) -> BodyPath {
    let possible = facts.plaintext_both_sides && !facts.must_inspect && facts.targets == 1 && facts.pipe_available;
    let wanted = match mode {
        RelayMode::Auto => facts.size_bytes >= SPLICE_BYTES_MIN,
        RelayMode::Splice => facts.size_bytes > 0,
        RelayMode::Copy => false,
    };
    if possible && wanted { BodyPath::Splice } else { BodyPath::Copy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splice_only_what_nobody_must_see() {
        const BIG: BodyFacts = BodyFacts {
            size_bytes: SPLICE_BYTES_MIN,
            plaintext_both_sides: true,
            must_inspect: false,
            targets: 1,
            pipe_available: true,
        };
        let small = BodyFacts { size_bytes: SPLICE_BYTES_MIN - 1, ..BIG };
        let cases = [
            (RelayMode::Auto, BIG, BodyPath::Splice),
            (RelayMode::Auto, small, BodyPath::Copy),
            (RelayMode::Splice, small, BodyPath::Splice),
            (RelayMode::Splice, BodyFacts { size_bytes: 0, ..BIG }, BodyPath::Copy),
            (RelayMode::Copy, BIG, BodyPath::Copy),
            (RelayMode::Splice, BodyFacts { plaintext_both_sides: false, ..BIG }, BodyPath::Copy),
            (RelayMode::Splice, BodyFacts { must_inspect: true, ..BIG }, BodyPath::Copy),
            (RelayMode::Splice, BodyFacts { targets: 2, ..BIG }, BodyPath::Copy),
            (RelayMode::Auto, BodyFacts { pipe_available: false, ..BIG }, BodyPath::Copy),
        ];
        for (mode, facts, want) in cases {
            assert_eq!(choose_body_path(mode, &facts), want, "{mode:?} {facts:?}");
        }
    }
}
