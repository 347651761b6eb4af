//! Plays an action against the server and against the world of the model, and compares: status, code, headers, bytes, and
//! what the action leaves behind.

pub mod buckets;
mod complete;
mod conditions;
mod copies;
mod listing;
mod objects;
mod reads;
mod tags;
mod uploads;

use super::action::*;
use super::client::{Ask, Client, Framing, Reply};
use super::document::Document;
use super::server::BUCKETS;
use super::world::{Object, Sum, World, md5_of, tags as tags_of};
use data_encoding::BASE64;

const OTHER_ETAG: &str = "0123456789abcdef0123456789abcdef";
const OTHER_VERSION: &str = "0123456789abcdefghijABCDEFGH._-x";
const LONG_AGO: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

pub struct Player {
    pub client: Client,
    pub world: World,
}

fn ask(method: &'static str, bucket: usize, key: &str) -> Ask {
    Ask { method, bucket: BUCKETS[bucket].to_owned(), key: key.to_owned(), ..Ask::default() }
}

fn ask_at(method: &'static str, at: Place) -> Ask {
    ask(method, at.bucket, KEYS[at.key])
}

#[track_caller]
fn refused(reply: &Reply, status: u16, code: &str) {
    let document = Document::parse(&reply.body);
    let got = (reply.status, document.one("Error/Code").unwrap_or_default());
    assert_eq!(got, (status, code), "{}", String::from_utf8_lossy(&reply.body));
    let id = reply.header("x-amz-request-id").expect("an id");
    assert_eq!(document.one("Error/RequestId"), Some(id));
    assert!(document.one("Error/Message").is_some_and(|message| !message.is_empty()));
    assert!(document.one("Error/Resource").is_some_and(|resource| resource.starts_with('/')));
}

/// Of several mistakes, which one is told is not said.
#[track_caller]
fn refused_for_one_of(reply: &Reply, allowed: &[(u16, &str)]) {
    let document = Document::parse(&reply.body);
    let code = document.one("Error/Code").unwrap_or_default();
    assert!(allowed.contains(&(reply.status, code)), "{} {code}, expected one of {allowed:?}", reply.status);
}

#[track_caller]
fn answered(reply: &Reply, status: u16) {
    assert_eq!(reply.status, status, "{}", String::from_utf8_lossy(&reply.body));
}

impl Ask {
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    fn body(mut self, bytes: &[u8]) -> Self {
        self.body = bytes.to_vec();
        self
    }

    /// A document, with the MD5 that some operations want.
    fn document(self, text: &str) -> Self {
        let md5 = BASE64.encode(&md5_of(text.as_bytes()));
        self.body(text.as_bytes()).with("content-md5", md5)
    }

    fn facts(mut self, facts: Facts) -> Self {
        const NAMES: [&str; 4] = ["x-amz-meta-name-0", "x-amz-meta-name-1", "x-amz-meta-name-2", "x-amz-meta-name-3"];
        if let Some(value) = facts.content_type() {
            self = self.with("content-type", value);
        }
        for (name, (_, value)) in NAMES.iter().zip(facts.metadata()) {
            self = self.with(name, value);
        }
        if facts.tags > 0 { self.with("x-amz-tagging", tag_header(facts.tags)) } else { self }
    }

    fn version(self, version: Version) -> Self {
        match version {
            Version::Unsaid => self,
            Version::Null => self.query("versionId", "null"),
            Version::Other => self.query("versionId", OTHER_VERSION),
        }
    }

    fn sent(mut self, sent: Sent) -> Self {
        let md5 = |bytes: &[u8]| BASE64.encode(&md5_of(bytes));
        match sent {
            Sent::Plain(Digest::None) => return self,
            Sent::Plain(Digest::RightMd5) => {
                let value = md5(&self.body);
                return self.with("content-md5", value);
            }
            Sent::Plain(Digest::WrongMd5) => return self.with("content-md5", md5(b"something else")),
            Sent::Plain(Digest::Right(kind)) => {
                let value = kind.of(&self.body);
                return self.with(kind.header(), value);
            }
            Sent::Plain(Digest::Wrong(kind)) => return self.with(kind.header(), kind.wrong()),
            Sent::Signed => self.framing = Framing::Signed,
            Sent::SignedTrailer { kind, right } => {
                let value = if right { kind.of(&self.body) } else { kind.wrong() };
                self.framing = Framing::SignedTrailer(kind, value);
            }
            Sent::UnsignedTrailer { kind, right } => {
                let value = if right { kind.of(&self.body) } else { kind.wrong() };
                self.framing = Framing::UnsignedTrailer(kind, value);
            }
        }
        self
    }
}

impl Sent {
    fn is_wrong(self) -> bool {
        match self {
            Self::Plain(digest) => matches!(digest, Digest::WrongMd5 | Digest::Wrong(_)),
            Self::Signed => false,
            Self::SignedTrailer { right, .. } | Self::UnsignedTrailer { right, .. } => !right,
        }
    }

    /// The checksum that it declares, of a body that is what it says.
    fn sum(self, bytes: &[u8]) -> Option<Sum> {
        match self {
            Self::Plain(Digest::Right(kind) | Digest::Wrong(kind))
            | Self::SignedTrailer { kind, .. }
            | Self::UnsignedTrailer { kind, .. } => Some(Sum::of(kind, bytes)),
            Self::Plain(_) | Self::Signed => None,
        }
    }
}

fn tag_header(count: u8) -> String {
    let pairs = tags_of(count)
        .into_iter()
        .map(|(name, value)| format!("{}={}", name.replace(' ', "%20"), value.replace(' ', "+")));
    pairs.collect::<Vec<_>>().join("&")
}

fn unquoted(etag: &str) -> &str {
    etag.trim_matches('"')
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('\u{7}', "&#x7;")
}

impl Player {
    pub fn play(&mut self, action: &Action) {
        match action {
            Action::CreateBucket { bucket } => self.create_bucket(*bucket),
            Action::DeleteBucket { bucket } => self.delete_bucket(*bucket),
            Action::AskBucket { bucket, what } => self.ask_bucket(*bucket, *what),
            Action::ListBuckets { prefix, max } => self.list_buckets(*prefix, *max),
            Action::GetAcl { bucket, key } => self.get_acl(*bucket, *key),
            Action::PutAcl { bucket, key, acl } => self.put_acl(*bucket, *key, *acl),
            Action::Put { at, body, facts, condition, sent } => self.put(*at, *body, *facts, *condition, *sent),
            Action::Post { at, body, facts } => self.post(*at, *body, *facts),
            Action::Get { at, reading, condition } => self.get(*at, *reading, *condition),
            Action::Attributes { at, version, max, after } => self.attributes(*at, *version, *max, *after),
            Action::Delete { at, version, condition } => self.delete(*at, *version, *condition),
            Action::DeleteMany { bucket, keys, quiet } => self.delete_many(*bucket, keys, *quiet),
            Action::Copy { .. } => self.copy(action),
            Action::GetTags { at } => self.get_tags(*at),
            Action::PutTags { at, tags } => self.put_tags(*at, *tags),
            Action::DeleteTags { at } => self.delete_tags(*at),
            Action::List(listing) => self.list(listing),
            Action::CreateUpload { at, facts, declared } => self.create_upload(*at, *facts, *declared),
            Action::UploadPart { upload, number, body, sent } => self.upload_part(*upload, *number, *body, *sent),
            Action::CopyPart { upload, number, from, range } => self.copy_part(*upload, *number, *from, *range),
            Action::ListParts { upload, max, after } => self.list_parts(*upload, *max, *after),
            Action::Complete { upload, manifest, said, condition } => {
                self.complete(*upload, *manifest, *said, *condition);
            }
            Action::Abort { upload } => self.abort(*upload),
        }
    }

    fn object(&self, at: Place) -> Option<&Object> {
        self.world.object(at.bucket, KEYS[at.key])
    }

    fn is_there(&self, bucket: usize) -> bool {
        self.world.buckets[bucket].is_some()
    }

    /// Checks that a request to a bucket that is not there is answered so; false if it is there.
    fn misses_bucket(&self, bucket: usize, reply: &Reply) -> bool {
        if !self.is_there(bucket) {
            refused(reply, 404, "NoSuchBucket");
        }
        !self.is_there(bucket)
    }
}
