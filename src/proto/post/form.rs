//! The form: its fields up to the file, which comes last as far as S3 is concerned, and where the file's bytes end.

use crate::proto::body_error::BodyError;
use crate::proto::error_code::{ErrorCode, S3Error};
use memchr::memmem;

/// Fields of one form; S3 itself allows 20 KB of them.
const FIELDS_MAX: usize = 100;

/// What stands before the file's bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Form {
    /// Names in lower case; in the order sent.
    pub fields: Vec<(String, String)>,
    /// The file's name without any folders; empty when the browser gave none.
    pub file_name: String,
    /// Bytes before the file's first.
    pub file_at: usize,
}

/// The boundary of a `multipart/form-data` content type; None for any other type.
pub fn boundary_of(content_type: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(content_type).ok()?;
    let mut parts = text.split(';');
    if !parts.next()?.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let value = parts.find_map(|part| {
        let (name, value) = part.trim().split_once('=')?;
        name.trim_end().eq_ignore_ascii_case("boundary").then(|| value.trim_start())
    })?;
    let value = value.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(value);
    // RFC 2046, 5.1.1.
    let usable = (1..=70).contains(&value.len()) && value.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    usable.then(|| value.to_owned())
}

impl Form {
    /// None while the file has not begun. MalformedPOSTRequest; InvalidArgument for a form without a file.
    pub fn read(bytes: &[u8], boundary: &str) -> Result<Option<Self>, S3Error> {
        let line = format!("--{boundary}");
        let Some(first) = bytes.get(..line.len()) else { return Ok(None) };
        if first != line.as_bytes() {
            return Err(malformed());
        }
        let delimiter = format!("\r\n{line}");
        let mut form = Self::default();
        let mut at = line.len();
        loop {
            match bytes.get(at..at + 2) {
                None => return Ok(None),
                Some(b"--") => return Err(no_file()),
                Some(b"\r\n") => at += 2,
                Some(_) => return Err(malformed()),
            }
            let Some(head_len) = memmem::find(&bytes[at..], b"\r\n\r\n") else { return Ok(None) };
            let part = PartHead::read(&bytes[at..at + head_len])?;
            at += head_len + 4;
            if part.name.eq_ignore_ascii_case("file") {
                form.file_name = part.file_name.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
                form.file_at = at;
                return Ok(Some(form));
            }
            let Some(length) = memmem::find(&bytes[at..], delimiter.as_bytes()) else { return Ok(None) };
            let value = std::str::from_utf8(&bytes[at..at + length]).map_err(|_| malformed())?;
            if form.fields.len() == FIELDS_MAX {
                return Err(malformed());
            }
            form.fields.push((part.name.to_ascii_lowercase(), value.to_owned()));
            at += length + delimiter.len();
        }
    }

    /// The first field of this name (lower case).
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// As `field`, for what must be there. InvalidArgument.
    pub fn required(&self, name: &str) -> Result<&str, S3Error> {
        self.field(name).ok_or_else(|| {
            let text = format!(
                "Bucket POST must contain a field named '{name}'.  If it is specified, please check the order of the fields."
            );
            S3Error::new(ErrorCode::InvalidArgument, text)
        })
    }

    /// Puts the file's name where a field says `${filename}`.
    pub fn fill_in(&mut self) {
        for (_, value) in &mut self.fields {
            if value.contains("${filename}") {
                *value = value.replace("${filename}", &self.file_name);
            }
        }
    }
}

struct PartHead {
    name: String,
    file_name: String,
}

impl PartHead {
    /// From the header lines of a part: `Content-Disposition: form-data; name="key"; filename="a b.txt"`.
    fn read(lines: &[u8]) -> Result<Self, S3Error> {
        let text = std::str::from_utf8(lines).map_err(|_| malformed())?;
        let disposition = text.split("\r\n").find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.trim().eq_ignore_ascii_case("content-disposition").then(|| value.trim())
        });
        let mut rest = disposition.ok_or_else(malformed)?;
        let kind = rest.split(';').next().unwrap_or_default();
        if !kind.trim().eq_ignore_ascii_case("form-data") {
            return Err(malformed());
        }
        rest = &rest[kind.len()..];
        let (mut part_name, mut file_name) = (None, String::new());
        while let Some(after) = rest.trim_start().strip_prefix(';') {
            let (name, value) = after.split_once('=').ok_or_else(malformed)?;
            let value = value.trim_start();
            let (text, left) =
                if let Some(quoted) = value.strip_prefix('"') { unquote(quoted)? } else { until_semicolon(value) };
            match name.trim().to_ascii_lowercase().as_str() {
                "name" => part_name = Some(text),
                "filename" => file_name = text,
                _ => {}
            }
            rest = left;
        }
        let name = part_name.filter(|name| !name.is_empty()).ok_or_else(malformed)?;
        Ok(Self { name, file_name })
    }
}

/// A quoted string without its first quote, and what follows it. Browsers escape quotes as `%22`, other clients by a
/// backslash; a backslash before anything else is a folder's end in Windows.
fn unquote(text: &str) -> Result<(String, &str), S3Error> {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' if chars.peek().is_some_and(|&(_, next)| next == '"') => {
                value.push('"');
                chars.next();
            }
            other => value.push(other),
        }
    }
    Err(malformed())
}

fn until_semicolon(text: &str) -> (String, &str) {
    let end = text.find(';').unwrap_or(text.len());
    (text[..end].trim_end().to_owned(), &text[end..])
}

fn malformed() -> S3Error {
    ErrorCode::MalformedPOSTRequest.into()
}

fn no_file() -> S3Error {
    S3Error::new(ErrorCode::InvalidArgument, "POST requires exactly one file upload per request.")
}

/// Watches a file of known length pass by: its bytes go on, and behind the last of them, and nowhere before, stands the
/// boundary. What follows the boundary is ignored, as S3 does.
#[derive(Clone, Debug)]
pub struct Ending {
    delimiter: Vec<u8>,
    left: u64,
    /// The last bytes that passed, in which a delimiter may have begun.
    carry: Vec<u8>,
    /// Bytes of the delimiter found behind the file.
    matched: usize,
}

impl Ending {
    pub fn new(boundary: &str, size: u64) -> Self {
        Self { delimiter: format!("\r\n--{boundary}").into_bytes(), left: size, carry: Vec::new(), matched: 0 }
    }

    /// The file's length if everything from its first byte to the end of the form is in hand. IncompleteBody.
    pub fn find(boundary: &str, rest: &[u8]) -> Result<u64, BodyError> {
        let delimiter = Self::new(boundary, 0).delimiter;
        memmem::find(rest, &delimiter).map(|at| at as u64).ok_or(BodyError::Incomplete)
    }

    /// The file's length, as it must be if the file is the last part of a form that ends as every client ends it, by the
    /// boundary, two dashes and a line end; `rest` bytes are left from the file's first byte on. None: not even that fits.
    pub fn expect(boundary: &str, rest: u64) -> Option<u64> {
        rest.checked_sub(boundary.len() as u64 + 8)
    }

    /// How many of the bytes, from the first on, are the file's.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, BodyError> {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let (file, behind) = bytes.split_at(count);
        self.refuse_early_end(file)?;
        self.left -= count as u64;
        if self.left == 0 {
            let wanted = &self.delimiter[self.matched..];
            let compared = wanted.len().min(behind.len());
            if wanted[..compared] != behind[..compared] {
                return Err(BodyError::FileNotLast);
            }
            self.matched += compared;
        }
        Ok(count)
    }

    /// A delimiter that begins in the file's bytes, perhaps in those that passed before.
    fn refuse_early_end(&mut self, file: &[u8]) -> Result<(), BodyError> {
        let overlap = self.delimiter.len() - 1;
        let head = &file[..file.len().min(overlap)];
        self.carry.extend_from_slice(head);
        let early =
            memmem::find(&self.carry, &self.delimiter).is_some() || memmem::find(file, &self.delimiter).is_some();
        if early {
            return Err(BodyError::FileNotLast);
        }
        if file.len() >= overlap {
            self.carry.clear();
            self.carry.extend_from_slice(&file[file.len() - overlap..]);
        } else {
            let surplus = self.carry.len().saturating_sub(overlap);
            self.carry.drain(..surplus);
        }
        Ok(())
    }

    /// Once the form has ended.
    pub fn finish(&self) -> Result<(), BodyError> {
        if self.left == 0 && self.matched == self.delimiter.len() { Ok(()) } else { Err(BodyError::Incomplete) }
    }
}

/// Any form may come; what is read lies within it.
pub fn fuzz_one(input: &[u8]) {
    if let Ok(Some(form)) = Form::read(input, "b") {
        assert!(form.file_at <= input.len() && !form.file_name.contains('/'));
        let rest = &input[form.file_at..];
        if let Ok(size) = Ending::find("b", rest) {
            for piece in 1..4 {
                let mut ending = Ending::new("b", size);
                let fed: usize = rest.chunks(piece).map(|bytes| ending.feed(bytes).expect("found before")).sum();
                assert_eq!((fed as u64, ending.finish()), (size, Ok(())));
            }
        }
    }
    let _ = boundary_of(input);
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "--b\r\nContent-Disposition: form-data; name=\"Key\"\r\n\r\nup/${filename}\r\n--b\r\n\
        content-disposition: form-data; name=acl\r\nContent-Type: text/plain\r\n\r\n\r\n--b\r\n\
        Content-Disposition: form-data; name=\"file\"; filename=\"C:\\dir\\a \\\"b\\\".txt\"\r\nContent-Type: x/y\r\n\r\n";

    #[test]
    fn boundaries() {
        for (text, want) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            ("Multipart/Form-Data;charset=utf-8; Boundary=\"a b\"", Some("a b")),
            ("multipart/form-data; boundary=", None),
            ("multipart/form-data", None),
            ("application/x-www-form-urlencoded; boundary=a", None),
            ("", None),
        ] {
            assert_eq!(boundary_of(text.as_bytes()).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn fields_before_the_file() {
        for end in 0..FORM.len() {
            assert_eq!(Form::read(&FORM.as_bytes()[..end], "b"), Ok(None), "{end}");
        }
        let mut form = Form::read(format!("{FORM}the file").as_bytes(), "b").expect("sound").expect("whole");
        assert_eq!((form.file_at, form.file_name.as_str()), (FORM.len(), "a \"b\".txt"));
        assert_eq!((form.field("key"), form.field("acl")), (Some("up/${filename}"), Some("")));
        form.fill_in();
        assert_eq!(form.field("key"), Some("up/a \"b\".txt"));
        assert_eq!(form.required("policy").map_err(|error| error.code), Err(ErrorCode::InvalidArgument));
    }

    #[test]
    fn forms_that_are_none() {
        let part = "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx\r\n--b";
        let ended = format!("{part}--");
        for (text, want) in [
            ("", Ok(None)),
            ("--c\r\n", Err(ErrorCode::MalformedPOSTRequest)),
            ("--bcd", Err(ErrorCode::MalformedPOSTRequest)),
            ("--b\r\nA: b\r\n\r\n", Err(ErrorCode::MalformedPOSTRequest)),
            ("--b\r\nContent-Disposition: file; name=\"a\"\r\n\r\n", Err(ErrorCode::MalformedPOSTRequest)),
            ("--b\r\nContent-Disposition: form-data\r\n\r\n", Err(ErrorCode::MalformedPOSTRequest)),
            ("--b\r\nContent-Disposition: form-data; name=\"a\r\n\r\n", Err(ErrorCode::MalformedPOSTRequest)),
            (part, Ok(None)),
            (ended.as_str(), Err(ErrorCode::InvalidArgument)),
        ] {
            assert_eq!(Form::read(text.as_bytes(), "b").map_err(|error| error.code), want, "{text:?}");
            fuzz_one(text.as_bytes());
        }
    }

    fn pass(size: u64, wire: &[u8], piece: usize) -> Result<Vec<u8>, BodyError> {
        let mut ending = Ending::new("b", size);
        let mut file = Vec::new();
        for bytes in wire.chunks(piece) {
            let count = ending.feed(bytes)?;
            file.extend_from_slice(&bytes[..count]);
        }
        ending.finish().map(|()| file)
    }

    #[test]
    fn files_end_at_the_boundary() {
        let file: &[u8] = b"some\r\n--\r\r\n-bytes\r\n--";
        for tail in
            ["\r\n--b--\r\n", "\r\n--b\r\nContent-Disposition: form-data; name=\"submit\"\r\n\r\nUpload\r\n--b--"]
        {
            let wire = [file, tail.as_bytes()].concat();
            assert_eq!(Ending::find("b", &wire), Ok(file.len() as u64));
            for piece in 1..wire.len() {
                assert_eq!(pass(file.len() as u64, &wire, piece).as_deref(), Ok(file), "{piece}");
                assert_eq!(pass(file.len() as u64 + 1, &wire, piece), Err(BodyError::FileNotLast), "{piece}");
                assert!(pass(file.len() as u64 - 1, &wire, piece).is_err(), "{piece}");
                assert_eq!(pass(wire.len() as u64, &wire, piece), Err(BodyError::FileNotLast), "{piece}");
            }
            assert_eq!(pass(file.len() as u64, &wire[..file.len() + 4], 3), Err(BodyError::Incomplete));
            assert_eq!(Ending::find("b", file), Err(BodyError::Incomplete));
        }
        assert_eq!(Ending::expect("b", (file.len() + "\r\n--b--\r\n".len()) as u64), Some(file.len() as u64));
        assert_eq!(Ending::expect("b", 8), None);
    }
}
