//! What a listing with prefix and delimiter shows: keys, and what many of them begin with. In bytes, as keys are ordered.

/// What makes entries out of names.
#[derive(Clone, Copy)]
pub(super) struct Folding<'q> {
    pub(super) prefix: &'q str,
    /// Empty: none.
    pub(super) delimiter: &'q str,
}

impl Folding<'_> {
    /// The first key that may be an entry after `after`.
    pub(super) fn start(self, after: &str) -> Vec<u8> {
        if after.as_bytes() < self.prefix.as_bytes() {
            return self.prefix.as_bytes().to_vec();
        }
        // What lies below the common prefix that `after` is or lies below is no entry any more.
        match self.common_prefix(after).map(|prefix| after_all_below(prefix.as_bytes())) {
            Some(Some(next)) => next,
            _ => {
                let mut next = after.as_bytes().to_vec();
                next.push(0);
                next
            }
        }
    }

    /// Behind the last key that may be one. Keys are UTF-8, which never holds 0xff.
    pub(super) fn end(self) -> Vec<u8> {
        after_all_below(self.prefix.as_bytes()).unwrap_or_else(|| vec![0xff])
    }

    pub(super) fn common_prefix(self, key: &str) -> Option<&str> {
        if self.delimiter.is_empty() {
            return None;
        }
        let at = key.strip_prefix(self.prefix)?.find(self.delimiter)?;
        Some(&key[..self.prefix.len() + at + self.delimiter.len()])
    }
}

/// The smallest bytes above all that start with `prefix`; None if nothing is.
pub(super) fn after_all_below(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut next = prefix[..=last].to_vec();
    next[last] += 1;
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_above_a_prefix() {
        for (prefix, want) in [
            (&b"a/"[..], Some(&b"a0"[..])),
            (b"a\xff\xff", Some(b"b")),
            (b"\xff\xff", None),
            (b"", None),
            (b"\0", Some(b"\x01")),
        ] {
            assert_eq!(after_all_below(prefix).as_deref(), want, "{prefix:?}");
        }
    }
}
