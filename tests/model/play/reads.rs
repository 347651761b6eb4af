//! Reads of objects: whole, in ranges and parts, and of what is known of them.

use super::super::action::*;
use super::super::client::Reply;
use super::super::document::Document;
use super::super::world::{Object, Sum};
use super::{Player, answered, ask_at, refused, refused_for_one_of};

/// What of an object is sent.
#[derive(Clone, Debug)]
struct Span {
    first: usize,
    len: usize,
    partial: bool,
    /// By number, of an object in parts: its checksum.
    part: Option<Option<Sum>>,
}

impl Player {
    pub(super) fn get(&mut self, at: Place, reading: Reading, condition: Condition) {
        let mut ask = ask_at(if reading.head { "HEAD" } else { "GET" }, at).version(reading.version);
        ask = match reading.range {
            Range::Whole => ask,
            Range::Suffix(len) => ask.with("range", format!("bytes=-{len}")),
            Range::From(first) => ask.with("range", format!("bytes={first}-")),
            Range::Between(first, last) => ask.with("range", format!("bytes={first}-{last}")),
            Range::Malformed => ask.with("range", "bytes=a-b"),
        };
        ask.query.extend(reading.part.map(|number| ("partNumber", number.to_string())));
        if reading.instead {
            ask = ask.query("response-content-type", "a/instead").query("response-cache-control", "no-store");
        }
        if reading.sums {
            ask = ask.with("x-amz-checksum-mode", "ENABLED");
        }
        ask = self.read_condition(ask, at, condition);
        let reply = self.client.ask(&ask);
        let refusal = |allowed: &[(u16, &str)]| {
            if reading.head {
                assert!(allowed.iter().any(|(status, _)| *status == reply.status), "{reply:?}");
                assert!(reply.body.is_empty());
            } else {
                refused_for_one_of(&reply, allowed);
            }
        };
        if reading.version == Version::Other {
            return refusal(&[(404, "NoSuchVersion"), (404, "NoSuchBucket")]);
        }
        if !self.is_there(at.bucket) {
            return refusal(&[(404, "NoSuchBucket")]);
        }
        if reading.part.is_some() && reading.range != Range::Whole {
            return refusal(&[(400, "InvalidRequest")]);
        }
        let Some(object) = self.object(at) else { return refusal(&[(404, "NoSuchKey")]) };
        match self.holds(at, condition) {
            Err(304) => {
                assert_eq!((reply.status, reply.body.len(), reply.etag()), (304, 0, Some(object.etag.as_str())));
            }
            Err(status) => refusal(&[(status, "PreconditionFailed")]),
            Ok(()) => match span(reading, object) {
                Err(code) => refusal(&[(416, code)]),
                Ok(span) => check_object(&reply, object, &span, reading),
            },
        }
    }

    pub(super) fn attributes(&mut self, at: Place, version: Version, max: Option<usize>, after: Option<u16>) {
        const NAMES: &str = "ETag,Checksum,ObjectParts,StorageClass,ObjectSize";
        let mut ask = ask_at("GET", at).query("attributes", "").version(version).with("x-amz-object-attributes", NAMES);
        ask.headers.extend(max.map(|max| ("x-amz-max-parts", max.to_string())));
        ask.headers.extend(after.map(|after| ("x-amz-part-number-marker", after.to_string())));
        let reply = self.client.ask(&ask);
        if version == Version::Other {
            return refused_for_one_of(&reply, &[(404, "NoSuchVersion"), (404, "NoSuchBucket")]);
        }
        if self.misses_bucket(at.bucket, &reply) {
            return;
        }
        let Some(object) = self.object(at) else { return refused(&reply, 404, "NoSuchKey") };
        answered(&reply, 200);
        let document = Document::parse(&reply.body);
        let one = |path: &str| document.one(&format!("GetObjectAttributesResponse/{path}"));
        assert_eq!(one("ETag"), Some(object.etag.as_str()));
        assert_eq!(one("ObjectSize"), Some(object.bytes.len().to_string().as_str()));
        assert_eq!(one("StorageClass"), Some("STANDARD"));
        let digest = |sum: &Sum| sum.value.split('-').next().unwrap_or_default().to_owned();
        let told = object.sum.as_ref().and_then(|sum| one(&format!("Checksum/Checksum{}", sum.kind.name())));
        assert_eq!(told, object.sum.as_ref().map(digest).as_deref());
        assert_eq!(one("Checksum/ChecksumType"), object.sum.as_ref().map(Sum::type_name));
        let count = (!object.parts.is_empty()).then(|| object.parts.len().to_string());
        assert_eq!(one("ObjectParts/PartsCount"), count.as_deref());
        // S3 lists the parts of an object whose checksum is made of theirs.
        let listed = object.sum.as_ref().filter(|sum| sum.composite && !object.parts.is_empty());
        let later = object.parts.iter().filter(|(number, ..)| listed.is_some() && *number > after.unwrap_or(0));
        let later: Vec<_> = later.collect();
        let page = &later[..max.unwrap_or(1_000).min(later.len())];
        let column = |name: &str| document.all(&format!("GetObjectAttributesResponse/ObjectParts/Part/{name}"));
        assert_eq!(column("PartNumber"), page.iter().map(|(number, ..)| number.to_string()).collect::<Vec<_>>());
        assert_eq!(column("Size"), page.iter().map(|(_, len, _)| len.to_string()).collect::<Vec<_>>());
        if let Some(sum) = listed {
            let sums: Vec<&str> = page.iter().flat_map(|(_, _, sum)| sum).map(|sum| sum.value.as_str()).collect();
            assert_eq!(column(&format!("Checksum{}", sum.kind.name())), sums);
            let more = max != Some(0) && page.len() < later.len();
            assert_eq!(one("ObjectParts/IsTruncated"), Some(if more { "true" } else { "false" }));
            let last = page.last().map_or(0, |(number, ..)| *number);
            assert_eq!(one("ObjectParts/NextPartNumberMarker"), Some(last.to_string().as_str()));
        }
    }

    /// Everything is as the model has it.
    pub fn check_all(&mut self) {
        for bucket in 0..self.world.buckets.len() {
            for key in 0..KEYS.len() {
                let reading = Reading {
                    head: false,
                    range: Range::Whole,
                    part: None,
                    version: Version::Unsaid,
                    instead: false,
                    sums: true,
                };
                self.get(Place { bucket, key }, reading, Condition::None);
            }
            for kind in [ListKind::V2, ListKind::Uploads] {
                let (prefix, delimiter, after) = (String::new(), String::new(), String::new());
                self.list(&Listing { bucket, kind, prefix, delimiter, max: None, after, encoded: false });
            }
        }
    }
}

/// Err: the code of 416 (RFC 9110, 14.1.2).
fn span(reading: Reading, object: &Object) -> Result<Span, &'static str> {
    let size = object.bytes.len();
    let whole = Span { first: 0, len: size, partial: false, part: None };
    if let Some(number) = reading.part {
        return part_span(number, object).ok_or("InvalidPartNumber");
    }
    let part = |first: usize, last: usize| {
        let some = || Span { first, len: last.min(size - 1) - first + 1, partial: true, part: None };
        (first < size).then(some).ok_or("InvalidRange")
    };
    match reading.range {
        Range::Whole | Range::Malformed => Ok(whole),
        Range::Suffix(0) => Err("InvalidRange"),
        // Of an empty object, everything.
        Range::Suffix(_) if size == 0 => Ok(whole),
        Range::Suffix(len) => part(size.saturating_sub(len), size),
        Range::From(first) => part(first, size),
        Range::Between(first, last) if last < first => Ok(whole),
        Range::Between(first, last) => part(first, last),
    }
}

fn part_span(number: u16, object: &Object) -> Option<Span> {
    let size = object.bytes.len();
    if object.parts.is_empty() {
        // One piece is its own first part.
        return (number == 1).then_some(Span { first: 0, len: size, partial: size > 0, part: None });
    }
    let place = object.parts.iter().position(|(known, ..)| *known == number)?;
    let first = object.parts[..place].iter().map(|(_, len, _)| len).sum();
    let (_, len, sum) = &object.parts[place];
    Some(Span { first, len: *len, partial: *len > 0, part: Some(sum.clone()) })
}

fn check_object(reply: &Reply, object: &Object, span: &Span, reading: Reading) {
    let Span { first, len, partial, .. } = *span;
    answered(reply, if partial { 206 } else { 200 });
    let size = object.bytes.len();
    assert_eq!(reply.header("content-length"), Some(len.to_string().as_str()));
    let range = partial.then(|| format!("bytes {first}-{}/{size}", first + len - 1));
    assert_eq!(reply.header("content-range"), range.as_deref());
    assert_eq!(reply.etag(), Some(object.etag.as_str()));
    let content_type = if reading.instead { "a/instead" } else { &object.content_type };
    assert_eq!(reply.header("content-type"), Some(content_type));
    assert_eq!(reply.header("cache-control"), reading.instead.then_some("no-store"));
    assert_eq!(reply.headers_below("x-amz-meta-"), object.metadata);
    let count = (!object.tags.is_empty()).then(|| object.tags.len().to_string());
    assert_eq!(reply.header("x-amz-tagging-count"), count.as_deref());
    let parts = span.part.as_ref().map(|_| object.parts.len().to_string());
    assert_eq!(reply.header("x-amz-mp-parts-count"), parts.as_deref());
    assert!(reply.header("last-modified").is_some());
    check_sum(reply, object, span, reading.sums);
    if !reading.head {
        assert!(*reply.body == object.bytes[first..first + len], "other bytes than were written");
    }
}

/// The checksum of what is sent: of the whole object, or of a part whose checksum the object's is made of.
fn check_sum(reply: &Reply, object: &Object, span: &Span, asked: bool) {
    let sum = match (&span.part, &object.sum) {
        _ if !asked => None,
        (Some(part), Some(sum)) if sum.composite => part.as_ref(),
        (_, sum) if span.len == object.bytes.len() => sum.as_ref(),
        _ => None,
    };
    let mut told = reply.headers_below("x-amz-checksum-");
    told.retain(|(name, _)| name != "type");
    let want = sum.map(|sum| (sum.kind.name().to_ascii_lowercase(), sum.value.clone()));
    assert_eq!(told, want.into_iter().collect::<Vec<_>>());
}
