//! Why the copies of a version that were tried could not be read.

use crate::base::Failure;
use crate::base::failure::Kind;
use crate::store::record::BlobAt;

/// Of one copy, or of all that were tried one after the other.
#[derive(Debug)]
pub struct Unread {
    /// What the client is told.
    pub failure: Failure,
    /// One was not where it was found, as after a delete, an overwrite, or a move: another look may find more.
    pub stale: bool,
}

impl From<Failure> for Unread {
    fn from(failure: Failure) -> Self {
        Self { stale: matches!(failure.kind, Kind::NotFound | Kind::Corrupt), failure }
    }
}

impl Unread {
    /// The last one's failure is told, but that another copy's backend has no budget left says less than why one failed.
    pub fn after(earlier: Option<Self>, last: Self) -> Self {
        match earlier {
            None => last,
            Some(earlier) => {
                let stale = earlier.stale || last.stale;
                let told = if last.failure.kind == Kind::ReadBudget { earlier } else { last };
                Self { stale, ..told }
            }
        }
    }

    /// Where not even one of these copies was tried.
    pub fn untried(copies: &[BlobAt]) -> Self {
        Self { failure: Failure::backend("no copy is on a backend that is configured"), stale: copies.is_empty() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Blame, Retry};

    #[test]
    fn the_last_failure_is_told_and_a_stale_copy_not_forgotten() {
        let of = |kind| Unread::from(Failure::new(kind, Blame::Backend, Retry::OtherBackend, "a test's"));
        let cases: [(&[Kind], Kind, bool); 6] = [
            (&[Kind::Unavailable], Kind::Unavailable, false),
            (&[Kind::NotFound, Kind::Unavailable], Kind::Unavailable, true),
            (&[Kind::Unavailable, Kind::Corrupt], Kind::Corrupt, true),
            (&[Kind::Unavailable, Kind::ReadBudget], Kind::Unavailable, false),
            (&[Kind::ReadBudget, Kind::Unavailable], Kind::Unavailable, false),
            (&[Kind::NotFound, Kind::ReadBudget, Kind::ReadBudget], Kind::NotFound, true),
        ];
        for (kinds, told, stale) in cases {
            let joined = kinds.iter().fold(None, |earlier, kind| Some(Unread::after(earlier, of(*kind))));
            let joined = joined.expect("some were tried");
            assert_eq!((joined.failure.kind, joined.stale), (told, stale), "{kinds:?}");
        }
    }
}
