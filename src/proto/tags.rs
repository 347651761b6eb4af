//! An object's tags: S3's rules for them ("Object tagging restrictions"), and the header that brings them with a write.

use super::error_code::{ErrorCode, S3Error};
use super::target::decode_query;

/// Tags of one object.
const TAGS_MAX: usize = 10;
/// In characters.
const NAME_CHARS_MAX: usize = 128;
const VALUE_CHARS_MAX: usize = 256;

/// `x-amz-tagging`: names and values as in a query. InvalidArgument when it is not that, or names a tag twice; InvalidTag.
pub fn parse_header(value: &str) -> Result<Vec<(String, String)>, S3Error> {
    let malformed = || {
        let message = "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters \
                       without tag name duplicates.";
        S3Error::new(ErrorCode::InvalidArgument, message)
    };
    let mut tags: Vec<(String, String)> = Vec::new();
    for pair in value.trim_ascii().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode_query(name).map_err(|_| malformed())?.into_owned();
        let value = decode_query(value).map_err(|_| malformed())?.into_owned();
        if tags.iter().any(|(known, _)| *known == name) {
            return Err(malformed());
        }
        tags.push((name, value));
    }
    check(&tags)?;
    Ok(tags)
}

/// InvalidTag for tags that S3 does not take, or too many of them.
pub fn check(tags: &[(String, String)]) -> Result<(), S3Error> {
    let invalid = |message: &'static str| Err(S3Error::new(ErrorCode::InvalidTag, message));
    if tags.len() > TAGS_MAX {
        return invalid("Object tags cannot be greater than 10");
    }
    for (at, (name, value)) in tags.iter().enumerate() {
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || !name.chars().all(is_allowed) {
            return invalid("The TagKey you have provided is invalid");
        }
        if name.starts_with("aws:") {
            return invalid("System tags cannot be added/updated by requester");
        }
        if value.chars().count() > VALUE_CHARS_MAX || !value.chars().all(is_allowed) {
            return invalid("The TagValue you have provided is invalid");
        }
        if tags[..at].iter().any(|(known, _)| known == name) {
            return invalid("Cannot provide multiple Tags with the same key");
        }
    }
    Ok(())
}

/// Letters, digits and blanks of any script, and `+ - = . _ : / @`.
fn is_allowed(c: char) -> bool {
    c.is_alphanumeric() || (c.is_whitespace() && !c.is_control()) || "+-=._:/@".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(header: &str, want: Result<&[(&str, &str)], ErrorCode>) {
        let got = parse_header(header).map_err(|error| error.code);
        let shown = got.as_ref().map(|tags| tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>());
        assert_eq!(shown.map_err(|code| *code), want.map(<[_]>::to_vec), "{header:?}");
    }

    #[test]
    fn headers() {
        parsed("", Ok(&[]));
        parsed("a=b", Ok(&[("a", "b")]));
        parsed("a=b&c&d=", Ok(&[("a", "b"), ("c", ""), ("d", "")]));
        parsed("a+b=c%20d&%C3%BC=%2B%3D", Ok(&[("a b", "c d"), ("ü", "+=")]));
        parsed("a=b=c", Ok(&[("a", "b=c")]));
        parsed("a=b&a=c", Err(ErrorCode::InvalidArgument));
        parsed("a=%zz", Err(ErrorCode::InvalidArgument));
        parsed("a=%ff", Err(ErrorCode::InvalidArgument));
        parsed("=b", Err(ErrorCode::InvalidTag));
        parsed("a=%00", Err(ErrorCode::InvalidTag));
        parsed("aws%3Aa=b", Err(ErrorCode::InvalidTag));
    }

    #[test]
    fn limits() {
        let many = |count: usize| (0..count).map(|i| (format!("k{i}"), String::new())).collect::<Vec<_>>();
        let one = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        for (tags, fits) in [
            (many(10), true),
            (many(11), false),
            (one(&"ü".repeat(128), &"ü".repeat(256)), true),
            (one(&"k".repeat(129), ""), false),
            (one("k", &"v".repeat(257)), false),
            (one("k", "a+b-c=d.e_f:g/h@i j"), true),
            (one("k", "a&b"), false),
            (one("k<", ""), false),
            (one("k\n", ""), false),
            (one("", "v"), false),
            ([one("k", "v"), one("k", "w")].concat(), false),
        ] {
            assert_eq!(check(&tags).is_ok(), fits, "{tags:?}");
        }
    }
}
