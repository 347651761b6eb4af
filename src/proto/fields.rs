//! Header fields as the pure code sees them: names and values as they stood on the wire, in order. Implemented by the
//! parsed heads of `http1` and, for signing and tests, by slices of pairs. Nothing here copies.

/// The header fields of one message.
pub trait Fields {
    /// Every field in the order of the wire: name in any case, value as sent (white space around it may remain).
    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])>;

    /// The value of the field with this name (any case), if it occurs exactly once.
    fn sole<'a>(&'a self, name: &str) -> Sole<'a> {
        let mut found = Sole::Absent;
        for (candidate, value) in self.fields() {
            if candidate.eq_ignore_ascii_case(name.as_bytes()) {
                found = match found {
                    Sole::Absent => Sole::One(value.trim_ascii()),
                    Sole::One(_) | Sole::Several => Sole::Several,
                };
            }
        }
        found
    }
}

/// What follows `x-amz-` in the name of a field of S3's own; None for every other, most of which the first letter tells.
pub fn of_amz(name: &[u8]) -> Option<&[u8]> {
    match name {
        [b'x' | b'X', b'-', b'a' | b'A', b'm' | b'M', b'z' | b'Z', b'-', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// How often a field that may occur once occurs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sole<'a> {
    Absent,
    One(&'a [u8]),
    Several,
}

impl<'a> Sole<'a> {
    pub fn add(&mut self, value: &'a [u8]) {
        *self = if matches!(self, Sole::Absent) { Sole::One(value.trim_ascii()) } else { Sole::Several };
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> Fields for [(N, V)] {
    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> Fields for Vec<(N, V)> {
    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.as_slice().iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>, const LEN: usize> Fields for [(N, V); LEN] {
    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.as_slice().iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }
}
