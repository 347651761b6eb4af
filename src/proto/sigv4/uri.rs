//! S3's percent-encoding ("UriEncode" of the signing documentation): unreserved bytes stay, everything else becomes
//! `%XX` in upper case; a slash stays in a path. Called by the canonicaliser and by whoever builds targets to sign.

/// Which of a target's two parts is meant: in a path `/` stays and `+` is a plus; in a query `+` on the wire is a space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Path,
    Query,
}

/// Appends a path of decoded bytes (a key, say) in encoded form, slashes kept.
pub fn encode_path_into(out: &mut Vec<u8>, decoded: &[u8]) {
    encode_into(out, decoded, Part::Path);
}

/// Appends a query name or value of decoded bytes in encoded form.
pub fn encode_query_into(out: &mut Vec<u8>, decoded: &[u8]) {
    encode_into(out, decoded, Part::Query);
}

/// Most bytes stay, so they are taken in runs.
fn encode_into(out: &mut Vec<u8>, mut decoded: &[u8], part: Part) {
    while let Some(at) = first_to_encode(decoded, part) {
        out.extend_from_slice(&decoded[..at]);
        push(out, decoded[at], part);
        decoded = &decoded[at + 1..];
    }
    out.extend_from_slice(decoded);
}

/// Whether decoding `wire` and encoding it again would give `wire`.
pub(super) fn is_normal(wire: &[u8], part: Part) -> bool {
    let mut rest = wire;
    loop {
        rest = match first_to_encode(rest, part).map(|at| &rest[at..]) {
            None => return true,
            Some([b'%', high, low, after @ ..]) => {
                let lower_case = high.is_ascii_lowercase() || low.is_ascii_lowercase();
                if lower_case || hex_byte(*high, *low).is_none_or(|byte| stays(byte, part)) {
                    return false;
                }
                after
            }
            Some(_) => return false,
        };
    }
}

/// Appends `wire` decoded and encoded again. A percent sign that starts no escape counts as itself.
pub(super) fn normalise_into(out: &mut Vec<u8>, wire: &[u8], part: Part) {
    let mut rest = wire;
    loop {
        rest = match rest {
            [] => return,
            [b'%', high, low, tail @ ..] if hex_byte(*high, *low).is_some() => {
                push(out, hex_byte(*high, *low).unwrap_or(b'%'), part);
                tail
            }
            [b'+', tail @ ..] if part == Part::Query => {
                push(out, b' ', part);
                tail
            }
            [byte, tail @ ..] => {
                push(out, *byte, part);
                tail
            }
        };
    }
}

/// Where the first byte is that does not stay. Nearly every text stays as it is, so eight bytes are looked at together.
fn first_to_encode(text: &[u8], part: Part) -> Option<usize> {
    let table = part.table();
    let all_stay = |eight: &[u8; 8]| eight.iter().fold(true, |all, &byte| all & table[usize::from(byte)]);
    let plain = 8 * text.as_chunks::<8>().0.iter().take_while(|eight| all_stay(eight)).count();
    text[plain..].iter().position(|&byte| !table[usize::from(byte)]).map(|at| plain + at)
}

fn push(out: &mut Vec<u8>, byte: u8, part: Part) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    if stays(byte, part) {
        out.push(byte);
    } else {
        out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

fn stays(byte: u8, part: Part) -> bool {
    part.table()[usize::from(byte)]
}

fn hex_byte(high: u8, low: u8) -> Option<u8> {
    let digit = |d: u8| char::from(d).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

impl Part {
    /// For each byte whether it stays.
    fn table(self) -> &'static [bool; 256] {
        match self {
            Self::Path => &IN_PATH,
            Self::Query => &UNRESERVED,
        }
    }
}

const IN_PATH: [bool; 256] = {
    let mut table = UNRESERVED;
    table[b'/' as usize] = true;
    table
};

const UNRESERVED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wire: &str, part: Part, want: &str) {
        let mut out = Vec::new();
        normalise_into(&mut out, wire.as_bytes(), part);
        assert_eq!(String::from_utf8_lossy(&out), want, "{wire:?} as {part:?}");
        assert_eq!(is_normal(wire.as_bytes(), part), wire == want, "{wire:?} as {part:?} is normal");
        assert!(is_normal(want.as_bytes(), part), "{want:?} is a fixed point");
    }

    #[test]
    fn paths() {
        check("", Part::Path, "");
        check("/bucket/a//b", Part::Path, "/bucket/a//b");
        check("/b/%c3%a9", Part::Path, "/b/%C3%A9");
        check("/b/é", Part::Path, "/b/%C3%A9");
        check("/b/a%2Fb", Part::Path, "/b/a/b");
        check("/b/%7Etilde~", Part::Path, "/b/~tilde~");
        check("/b/a+b !'()*", Part::Path, "/b/a%2Bb%20%21%27%28%29%2A");
        check("/b/100%", Part::Path, "/b/100%25");
        check("/b/%zz%4", Part::Path, "/b/%25zz%254");
        check("/b/%2541", Part::Path, "/b/%2541");
        check("/b/../.", Part::Path, "/b/../.");
    }

    #[test]
    fn queries() {
        check("a/b", Part::Query, "a%2Fb");
        check("a%2Fb", Part::Query, "a%2Fb");
        check("a+b", Part::Query, "a%20b");
        check("a%2Bb", Part::Query, "a%2Bb");
        check("%e9", Part::Query, "%E9");
    }
}
