//! Monthly budgets of backends: what an instance is lent, when it asks for more, what it gives back. Amounts are requests or
//! bytes, alike.
//!
//! A budget is lent in slices: an instance spends only what the database has lent it, so that all instances together never
//! spend more than the limit, whatever fails. What a dead instance had not spent counts as spent; slices shrink with what is
//! left, so that this is little and the last of a budget can still be used.

use std::time::Duration;

/// What is asked of a backend: the operation that the other side counts and charges for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendCall {
    Get,
    Head,
    Put,
    Delete,
    List,
    CreateUpload,
    UploadPart,
    CompleteUpload,
    AbortUpload,
    ListUploads,
}

impl BackendCall {
    pub const ALL: [Self; 10] = [
        Self::Get,
        Self::Head,
        Self::Put,
        Self::Delete,
        Self::List,
        Self::CreateUpload,
        Self::UploadPart,
        Self::CompleteUpload,
        Self::AbortUpload,
        Self::ListUploads,
    ];

    /// As S3's API reference and price lists call it.
    pub fn operation(self) -> &'static str {
        match self {
            Self::Get => "GetObject",
            Self::Head => "HeadObject",
            Self::Put => "PutObject",
            Self::Delete => "DeleteObject",
            Self::List => "ListObjects",
            Self::CreateUpload => "CreateMultipartUpload",
            Self::UploadPart => "UploadPart",
            Self::CompleteUpload => "CompleteMultipartUpload",
            Self::AbortUpload => "AbortMultipartUpload",
            Self::ListUploads => "ListMultipartUploads",
        }
    }

    pub fn parse(operation: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|call| call.operation() == operation)
    }

    /// Another copy may be read instead; a write goes to another backend.
    pub fn is_read(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::List)
    }
}

/// Some of the calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CallSet(u16);

impl CallSet {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self((1 << BackendCall::ALL.len()) - 1);

    pub fn with(self, call: BackendCall) -> Self {
        Self(self.0 | 1 << call as u16)
    }

    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    pub fn contains(self, call: BackendCall) -> bool {
        self.0 & 1 << call as u16 != 0
    }

    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }
}

/// Requests that are counted together and have one monthly limit (`request_limits`). A call is charged to every pool that
/// holds it and needs room in all of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestPool {
    pub name: Box<str>,
    pub calls: CallSet,
    /// 0 = none: only counted.
    pub limit: u64,
}

/// What a backend may be asked for in a month.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Budget {
    pub pools: Vec<RequestPool>,
    /// Body bytes read from it; 0 = unlimited.
    pub egress_bytes: u64,
    /// Body bytes written to it; 0 = unlimited.
    pub ingress_bytes: u64,
}

/// A slice is at most this part of what is left.
const SLICE_OF_FREE: u64 = 8;

/// How much more an instance is lent, of `free`, which nobody has been lent. `waiting` is what its callers wait for, the
/// smallest of them for `least`: nothing is lent that could not let one of them go on. Beyond that it gets up to `slice` in
/// advance.
pub fn lend(free: u64, least: u64, waiting: u64, slice: u64) -> u64 {
    if least > free {
        return 0;
    }
    free.min(waiting.max(slice.min(free / SLICE_OF_FREE)))
}

/// How soon one request for a slice follows another: within the first, slices double; after the second, they halve.
const SOON: Duration = Duration::from_secs(2);
const LATE: Duration = Duration::from_secs(30);

/// The size of the next slice, within `least` and `most`: one that lasts for some seconds.
pub fn next_slice(slice: u64, since_last: Option<Duration>, least: u64, most: u64) -> u64 {
    let next = match since_last {
        Some(wait) if wait < SOON => slice.saturating_mul(2),
        Some(wait) if wait > LATE => slice / 2,
        _ => slice,
    };
    next.clamp(least, most.max(least))
}

/// Whether so many thousandths of a limit are used that usage is told more often (`usage_flush.adaptive_threshold`).
pub fn is_near(used: u64, limit: u64, per_mille: u32) -> bool {
    limit > 0 && u128::from(used) * 1000 >= u128::from(limit) * u128::from(per_mille)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_calls() {
        let reads = CallSet::NONE.with(BackendCall::Get).with(BackendCall::List);
        for call in BackendCall::ALL {
            assert!(CallSet::ALL.contains(call) && !CallSet::NONE.contains(call));
            assert_eq!(reads.contains(call), matches!(call, BackendCall::Get | BackendCall::List));
            assert_eq!(CallSet::ALL.without(reads).contains(call), !reads.contains(call));
            assert_eq!(BackendCall::parse(call.operation()), Some(call));
        }
        assert!(CallSet::NONE.is_empty() && !reads.is_empty() && reads.without(CallSet::ALL).is_empty());
        assert_eq!(BackendCall::parse("getobject"), None);
    }

    #[test]
    fn slices_follow_the_demand() {
        let after = |millis| Some(Duration::from_millis(millis));
        for (slice, since, want) in [
            (16, None, 16),
            (16, after(1_999), 32),
            (16, after(2_000), 16),
            (16, after(30_001), 16),
            (64, after(30_001), 32),
            (900, after(0), 1_000),
            (u64::MAX, after(0), 1_000),
        ] {
            assert_eq!(next_slice(slice, since, 16, 1_000), want, "{slice} {since:?}");
        }
        assert_eq!(next_slice(16, None, 16, 3), 16, "the least comes first");
    }

    #[test]
    fn near_a_limit() {
        for (used, limit, want) in [(79, 100, false), (80, 100, true), (200, 100, true), (1, 0, false), (0, 1, false)] {
            assert_eq!(is_near(used, limit, 800), want, "{used} of {limit}");
        }
    }

    #[test]
    fn slices_shrink_and_the_last_is_lent_to_who_waits() {
        for (free, least, waiting, slice, want) in [
            (1_000, 0, 0, 64, 64),
            (1_000, 0, 0, 500, 125),
            (1_000, 1, 300, 64, 300), // callers come before the slice
            (100, 0, 0, 64, 12),
            (8, 0, 0, 64, 1),
            (7, 0, 0, 64, 0), // the last ones are for who needs them
            (7, 1, 1, 64, 1),
            (7, 1, 9, 64, 7), // some of those who wait can go on
            (7, 8, 8, 64, 0), // none could
            (7, 2, 20, 64, 7),
            (0, 1, 1, 64, 0),
            (0, 0, 0, 64, 0),
            (u64::MAX, 1, u64::MAX, u64::MAX, u64::MAX),
        ] {
            assert_eq!(lend(free, least, waiting, slice), want, "{free} {least} {waiting} {slice}");
        }
    }
}
