//! Who owns something, as S3 shows it: a canonical id and a display name.

use super::sigv4::{Hex, hex};
use sha2::{Digest, Sha256};

/// A user in an answer. The canonical id follows from the name alone, so it is the same everywhere and for ever.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    name: &'a str,
    id: Hex,
}

impl<'a> Owner<'a> {
    pub fn of(user: &'a str) -> Self {
        let digest = Sha256::new_with_prefix(b"s3-orchestrator user ").chain_update(user).finalize();
        Self { name: user, id: hex(&digest.into()) }
    }

    /// 64 hexadecimal digits, as AWS's canonical ids.
    pub fn id(&self) -> &str {
        std::str::from_utf8(&self.id).expect("hexadecimal digits are ASCII")
    }

    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Whether a client's word for a user means this one: the canonical id or the name.
    pub fn is(&self, word: &str) -> bool {
        word == self.id() || word == self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_never_change() {
        let ann = Owner::of("ann");
        assert_eq!(ann.id(), "7daa9edbc4dc6422da02bbc17df29406fb4e896e01a37f2d3c68f943cecfeb99");
        assert_ne!(ann.id(), Owner::of("bob").id());
        assert!(ann.is("ann") && ann.is(Owner::of("ann").id()) && !ann.is("bob") && !ann.is(""));
    }
}
