//! Plays an action against the server and against the world of the model, and compares: status, code, headers, bytes, and
//! what the action leaves behind.

use super::action::*;
use super::client::{Ask, Client, Reply};
use super::document::Document;
use super::server::BUCKETS;
use super::world::{Entry, Object, Stage, Upload, World, entries, etag_of_parts, md5_hex, md5_of, tags};
use data_encoding::BASE64;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

const OTHER_ETAG: &str = "0123456789abcdef0123456789abcdef";
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

    fn digest(self, digest: Digest) -> Self {
        let md5 = |bytes: &[u8]| BASE64.encode(&md5_of(bytes));
        match digest {
            Digest::None => self,
            Digest::RightMd5 => {
                let value = md5(&self.body);
                self.with("content-md5", value)
            }
            Digest::WrongMd5 => self.with("content-md5", md5(b"something else")),
            // Of no body that is sent: its CRC32 would have to be all ones.
            Digest::WrongCrc32 => self.with("x-amz-checksum-crc32", "/////w=="),
        }
    }
}

fn tag_header(count: u8) -> String {
    let pairs = tags(count)
        .into_iter()
        .map(|(name, value)| format!("{}={}", name.replace(' ', "%20"), value.replace(' ', "+")));
    pairs.collect::<Vec<_>>().join("&")
}

impl Digest {
    fn is_wrong(self) -> bool {
        matches!(self, Self::WrongMd5 | Self::WrongCrc32)
    }
}

impl Player {
    pub fn play(&mut self, action: &Action) {
        match action {
            Action::Put { at, body, facts, condition, digest } => self.put(*at, *body, *facts, *condition, *digest),
            Action::Get { at, head, range, condition } => self.get(*at, *head, *range, *condition),
            Action::Delete { at, condition } => self.delete(*at, *condition),
            Action::DeleteMany { bucket, keys, quiet } => self.delete_many(*bucket, keys, *quiet),
            Action::Copy { from, to, replace, replace_tags, source, condition } => {
                self.copy(*from, *to, *replace, *replace_tags, *source, *condition);
            }
            Action::GetTags { at } => self.get_tags(*at),
            Action::PutTags { at, tags } => self.put_tags(*at, *tags),
            Action::DeleteTags { at } => self.delete_tags(*at),
            Action::List(listing) => self.list(listing),
            Action::CreateUpload { at, facts } => self.create_upload(*at, *facts),
            Action::UploadPart { upload, number, body, digest } => self.upload_part(*upload, *number, *body, *digest),
            Action::CopyPart { upload, number, from, range } => self.copy_part(*upload, *number, *from, *range),
            Action::ListParts { upload, max, after } => self.list_parts(*upload, *max, *after),
            Action::Complete { upload, manifest, condition } => self.complete(*upload, *manifest, *condition),
            Action::Abort { upload } => self.abort(*upload),
        }
    }

    fn object(&self, at: Place) -> Option<&Object> {
        self.world.object(at.bucket, KEYS[at.key])
    }

    /// The fields of a condition on what is at a place, under these names.
    fn condition(&mut self, mut ask: Ask, at: Place, condition: Condition, names: [&'static str; 4]) -> Ask {
        let etag = self.object(at).map_or("00000000000000000000000000000000", |object| &object.etag).to_owned();
        let text = |tag: Tag, weak: &str| match tag {
            Tag::Current => format!("\"{etag}\""),
            Tag::Other => format!("\"{OTHER_ETAG}\""),
            Tag::ListWithCurrent => format!("\"{OTHER_ETAG}\", {weak}\"{etag}\""),
            Tag::Any => "*".to_owned(),
        };
        let (name, value) = match condition {
            Condition::None => return ask,
            Condition::IfMatch(tag) => (names[0], text(tag, "")),
            Condition::IfNoneMatch(tag) => (names[1], text(tag, "W/")),
            Condition::IfModifiedSince { own } => (names[2], self.time(at, own)),
            Condition::IfUnmodifiedSince { own } => (names[3], self.time(at, own)),
        };
        ask.headers.push((name, value));
        ask
    }

    fn read_condition(&mut self, ask: Ask, at: Place, condition: Condition) -> Ask {
        let names = ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"];
        self.condition(ask, at, condition, names)
    }

    /// When the object was written, asked of the server once and remembered; or long before that.
    fn time(&mut self, at: Place, own: bool) -> String {
        let Some(object) = self.world.buckets[at.bucket].get_mut(KEYS[at.key]).filter(|_| own) else {
            return LONG_AGO.to_owned();
        };
        let reply = self.client.ask(&ask_at("HEAD", at));
        let told = reply.header("last-modified").expect("a time").to_owned();
        let known = object.modified.get_or_insert_with(|| told.clone());
        assert_eq!(*known, told, "the time of an object that nobody wrote");
        told
    }

    /// Whether the condition of a read holds; Err: the status that refuses it.
    fn holds(&self, at: Place, condition: Condition) -> Result<(), u16> {
        let has = |tag: Tag| matches!(tag, Tag::Current | Tag::ListWithCurrent | Tag::Any) && self.object(at).is_some();
        match condition {
            Condition::None => Ok(()),
            Condition::IfMatch(tag) => has(tag).then_some(()).ok_or(412),
            Condition::IfNoneMatch(tag) => (!has(tag)).then_some(()).ok_or(304),
            Condition::IfModifiedSince { own } => (!own).then_some(()).ok_or(304),
            Condition::IfUnmodifiedSince { own } => own.then_some(()).ok_or(412),
        }
    }

    /// What a write's condition on a place comes to: status and code of the refusal.
    fn write_refusal(&self, at: Place, condition: Condition) -> Option<(u16, &'static str)> {
        let exists = self.object(at).is_some();
        match condition {
            Condition::IfMatch(_) if !exists => Some((404, "NoSuchKey")),
            Condition::IfMatch(Tag::Other) => Some((412, "PreconditionFailed")),
            Condition::IfNoneMatch(_) if exists => Some((412, "PreconditionFailed")),
            _ => None,
        }
    }

    fn put(&mut self, at: Place, body: Body, facts: Facts, condition: Condition, digest: Digest) {
        let bytes = body.bytes();
        let ask = ask_at("PUT", at).body(&bytes).facts(facts).digest(digest);
        let ask = self.read_condition(ask, at, condition);
        let reply = self.client.ask(&ask);
        match self.write_refusal(at, condition) {
            // Which of two mistakes is told is not said.
            Some((status, _)) if digest.is_wrong() => assert!([status, 400].contains(&reply.status), "{reply:?}"),
            Some((status, code)) => refused(&reply, status, code),
            None if digest.is_wrong() => refused(&reply, 400, "BadDigest"),
            None => {
                answered(&reply, 200);
                assert_eq!(reply.etag(), Some(md5_hex(&bytes).as_str()));
                self.world.buckets[at.bucket].insert(KEYS[at.key].to_owned(), facts.object(bytes));
            }
        }
    }

    /// A plain write of any key into the first bucket.
    pub fn put_key(&mut self, key: String, body: Body, facts: Facts) {
        let bytes = body.bytes();
        answered(&self.client.ask(&ask("PUT", 0, &key).body(&bytes)), 200);
        self.world.buckets[0].insert(key, facts.object(bytes));
    }

    fn get(&mut self, at: Place, head: bool, range: Range, condition: Condition) {
        let mut ask = ask_at(if head { "HEAD" } else { "GET" }, at);
        ask = match range {
            Range::Whole => ask,
            Range::Suffix(len) => ask.with("range", format!("bytes=-{len}")),
            Range::From(first) => ask.with("range", format!("bytes={first}-")),
            Range::Between(first, last) => ask.with("range", format!("bytes={first}-{last}")),
            Range::Malformed => ask.with("range", "bytes=a-b"),
        };
        ask = self.read_condition(ask, at, condition);
        let reply = self.client.ask(&ask);
        let refusal = |reply: &Reply, status: u16, code: &str| {
            if head { assert_eq!((reply.status, reply.body.len()), (status, 0)) } else { refused(reply, status, code) }
        };
        let Some(object) = self.object(at) else { return refusal(&reply, 404, "NoSuchKey") };
        match self.holds(at, condition) {
            Err(304) => {
                assert_eq!((reply.status, reply.body.len(), reply.etag()), (304, 0, Some(object.etag.as_str())));
            }
            Err(status) => refusal(&reply, status, "PreconditionFailed"),
            Ok(()) => match span(range, object.bytes.len()) {
                None => refusal(&reply, 416, "InvalidRange"),
                Some(span) => check_object(&reply, object, span, head),
            },
        }
    }

    fn delete(&mut self, at: Place, condition: Condition) {
        let ask = self.read_condition(ask_at("DELETE", at), at, condition);
        let reply = self.client.ask(&ask);
        match self.write_refusal(at, condition) {
            Some((status, code)) => refused(&reply, status, code),
            None => {
                answered(&reply, 204);
                self.world.buckets[at.bucket].remove(KEYS[at.key]);
            }
        }
    }

    fn delete_many(&mut self, bucket: usize, keys: &[usize], quiet: bool) {
        let mut body = format!("<Delete xmlns=\"{NAMESPACE}\"><Quiet>{quiet}</Quiet>");
        for &key in keys {
            write!(body, "<Object><Key>{}</Key></Object>", escaped(KEYS[key])).expect("writing to a string");
        }
        body.push_str("</Delete>");
        let mut ask = ask("POST", bucket, "").query("delete", "").body(body.as_bytes()).digest(Digest::RightMd5);
        ask.headers.push(("content-type", "application/xml".to_owned()));
        let reply = self.client.ask(&ask);
        answered(&reply, 200);
        let document = Document::parse(&reply.body);
        let mut told = document.all("DeleteResult/Deleted/Key");
        let mut want: Vec<&str> = keys.iter().filter(|_| !quiet).map(|&key| KEYS[key]).collect();
        for keys in [&mut told, &mut want] {
            keys.sort_unstable();
            keys.dedup();
        }
        assert_eq!(told, want);
        assert!(document.all("DeleteResult/Error/Key").is_empty());
        for &key in keys {
            self.world.buckets[bucket].remove(KEYS[key]);
        }
    }

    fn copy(
        &mut self,
        from: Place,
        to: Place,
        replace: Option<Facts>,
        replace_tags: Option<u8>,
        source: Condition,
        condition: Condition,
    ) {
        let mut ask = ask_at("PUT", to).with("x-amz-copy-source", copy_source(from));
        if let Some(facts) = replace {
            ask = ask.with("x-amz-metadata-directive", "REPLACE").facts(Facts { tags: 0, ..facts });
        }
        if let Some(count) = replace_tags {
            ask = ask.with("x-amz-tagging-directive", "REPLACE").with("x-amz-tagging", tag_header(count));
        }
        ask = self.condition(ask, from, source, COPY_SOURCE_CONDITIONS);
        ask = self.read_condition(ask, to, condition);
        let reply = self.client.ask(&ask);
        let object = self.object(from).cloned();
        if from == to && replace.is_none() {
            // Nothing to change, nothing there, or a condition that does not hold: which is told first is not said.
            assert!([400, 404, 412].contains(&reply.status), "{reply:?}");
            return;
        }
        let Some(mut object) = object else { return refused(&reply, 404, "NoSuchKey") };
        if self.holds(from, source).is_err() {
            return refused(&reply, 412, "PreconditionFailed");
        }
        if let Some((status, code)) = self.write_refusal(to, condition) {
            return refused(&reply, status, code);
        }
        answered(&reply, 200);
        // The copy is one piece.
        object.etag = md5_hex(&object.bytes);
        object.modified = None;
        let told = Document::parse(&reply.body);
        assert_eq!(told.one("CopyObjectResult/ETag").map(unquoted), Some(object.etag.as_str()));
        if let Some(facts) = replace {
            let replaced = facts.object(Arc::clone(&object.bytes));
            object = Object { content_type: replaced.content_type, metadata: replaced.metadata, ..object };
        }
        if let Some(count) = replace_tags {
            object.tags = tags(count);
        }
        self.world.buckets[to.bucket].insert(KEYS[to.key].to_owned(), object);
    }

    fn get_tags(&mut self, at: Place) {
        let reply = self.client.ask(&ask_at("GET", at).query("tagging", ""));
        let Some(object) = self.object(at) else { return refused(&reply, 404, "NoSuchKey") };
        answered(&reply, 200);
        let document = Document::parse(&reply.body);
        let names = document.all("Tagging/TagSet/Tag/Key").into_iter().map(str::to_owned);
        let values = document.all("Tagging/TagSet/Tag/Value").into_iter().map(str::to_owned);
        let mut told: Vec<_> = names.zip(values).collect();
        told.sort();
        assert_eq!(told, object.tags);
    }

    fn put_tags(&mut self, at: Place, count: u8) {
        let set: String = tags(count)
            .iter()
            .map(|(name, value)| format!("<Tag><Key>{}</Key><Value>{}</Value></Tag>", escaped(name), escaped(value)))
            .collect();
        let body = format!("<Tagging xmlns=\"{NAMESPACE}\"><TagSet>{set}</TagSet></Tagging>");
        let ask = ask_at("PUT", at).query("tagging", "").body(body.as_bytes()).digest(Digest::RightMd5);
        let reply = self.client.ask(&ask);
        match self.world.buckets[at.bucket].get_mut(KEYS[at.key]) {
            None => refused(&reply, 404, "NoSuchKey"),
            Some(object) => {
                answered(&reply, 200);
                object.tags = tags(count);
            }
        }
    }

    fn delete_tags(&mut self, at: Place) {
        let reply = self.client.ask(&ask_at("DELETE", at).query("tagging", ""));
        match self.world.buckets[at.bucket].get_mut(KEYS[at.key]) {
            None => refused(&reply, 404, "NoSuchKey"),
            Some(object) => {
                answered(&reply, 204);
                object.tags.clear();
            }
        }
    }

    /// All pages of a listing, each compared.
    pub fn list(&mut self, listing: &Listing) {
        let objects = &self.world.buckets[listing.bucket];
        let mut want = entries(objects, &listing.prefix, &listing.delimiter, &listing.after);
        let page_len = listing.max_keys.unwrap_or(1_000).min(1_000);
        let mut after = (listing.after.clone(), String::new());
        loop {
            let page: Vec<Entry> = want.drain(..page_len.min(want.len())).collect();
            let more = page_len > 0 && !want.is_empty();
            let reply = self.client.ask(&list_ask(listing, &after));
            answered(&reply, 200);
            match list_page(listing, objects, &Document::parse(&reply.body), &page, more) {
                Some(next) => after = next,
                None => return,
            }
        }
    }

    fn create_upload(&mut self, at: Place, facts: Facts) {
        let reply = self.client.ask(&ask_at("POST", at).query("uploads", "").facts(facts));
        answered(&reply, 200);
        let document = Document::parse(&reply.body);
        let id = document.one("InitiateMultipartUploadResult/UploadId").expect("an id").to_owned();
        assert_eq!(document.one("InitiateMultipartUploadResult/Key"), Some(KEYS[at.key]));
        let upload = Upload {
            id,
            bucket: at.bucket,
            key: KEYS[at.key].to_owned(),
            object: facts.object(Arc::from([])),
            parts: BTreeMap::new(),
            stage: Stage::Open,
        };
        self.world.uploads.push(upload);
    }

    /// The upload of this number, the newest being 0.
    fn upload(&mut self, number: usize) -> Option<usize> {
        self.world.uploads.len().checked_sub(number + 1)
    }

    fn upload_ask(&self, method: &'static str, upload: usize) -> Ask {
        let upload = &self.world.uploads[upload];
        ask(method, upload.bucket, &upload.key).query("uploadId", upload.id.as_str())
    }

    fn upload_part(&mut self, upload: usize, number: u16, body: Body, digest: Digest) {
        let Some(upload) = self.upload(upload) else { return };
        let bytes = body.bytes();
        let ask = self.upload_ask("PUT", upload).query("partNumber", number.to_string()).body(&bytes).digest(digest);
        let reply = self.client.ask(&ask);
        let upload = &mut self.world.uploads[upload];
        if upload.stage != Stage::Open {
            assert!(digest.is_wrong() || reply.status == 404, "{reply:?}");
            return;
        }
        if digest.is_wrong() {
            return refused(&reply, 400, "BadDigest");
        }
        answered(&reply, 200);
        let etag = body.etag();
        assert_eq!(reply.etag(), Some(etag.as_str()));
        upload.parts.insert(number, (bytes, etag));
    }

    fn copy_part(&mut self, upload: usize, number: u16, from: Place, range: Option<(usize, usize)>) {
        let Some(upload) = self.upload(upload) else { return };
        let mut ask = self.upload_ask("PUT", upload).query("partNumber", number.to_string());
        ask = ask.with("x-amz-copy-source", copy_source(from));
        if let Some((first, last)) = range {
            ask = ask.with("x-amz-copy-source-range", format!("bytes={first}-{last}"));
        }
        let reply = self.client.ask(&ask);
        let source = self.object(from).map(|object| Arc::clone(&object.bytes));
        let is_open = self.world.uploads[upload].stage == Stage::Open;
        let Some(source) = source.filter(|_| is_open) else {
            assert_eq!(reply.status / 100, 4, "{reply:?}");
            return;
        };
        let bytes: Arc<[u8]> = match range {
            None => source,
            Some((first, last)) if first > last => return refused(&reply, 400, "InvalidArgument"),
            Some((_, last)) if last >= source.len() => return refused(&reply, 416, "InvalidRange"),
            Some((first, last)) => source[first..=last].into(),
        };
        answered(&reply, 200);
        let etag = md5_hex(&bytes);
        let told = Document::parse(&reply.body);
        assert_eq!(told.one("CopyPartResult/ETag").map(unquoted), Some(etag.as_str()));
        self.world.uploads[upload].parts.insert(number, (bytes, etag));
    }

    fn list_parts(&mut self, upload: usize, max: Option<usize>, after: Option<u16>) {
        let Some(upload) = self.upload(upload) else { return };
        let mut ask = self.upload_ask("GET", upload);
        ask.query.extend(max.map(|max| ("max-parts", max.to_string())));
        ask.query.extend(after.map(|after| ("part-number-marker", after.to_string())));
        let reply = self.client.ask(&ask);
        let upload = &self.world.uploads[upload];
        if upload.stage != Stage::Open {
            return refused(&reply, 404, "NoSuchUpload");
        }
        answered(&reply, 200);
        let all: Vec<_> = upload.parts.iter().filter(|(number, _)| **number > after.unwrap_or(0)).collect();
        let page = &all[..max.unwrap_or(1_000).min(all.len())];
        let document = Document::parse(&reply.body);
        let column = |name: &str| document.all(&format!("ListPartsResult/Part/{name}"));
        let numbers: Vec<String> = page.iter().map(|(number, _)| number.to_string()).collect();
        let sizes: Vec<String> = page.iter().map(|(_, (bytes, _))| bytes.len().to_string()).collect();
        let etags: Vec<&str> = page.iter().map(|(_, (_, etag))| etag.as_str()).collect();
        assert_eq!(column("PartNumber"), numbers);
        assert_eq!(column("Size"), sizes);
        assert_eq!(column("ETag").into_iter().map(unquoted).collect::<Vec<_>>(), etags);
        let truncated = max != Some(0) && page.len() < all.len();
        assert_eq!(document.one("ListPartsResult/IsTruncated"), Some(if truncated { "true" } else { "false" }));
    }

    fn complete(&mut self, upload: usize, manifest: Manifest, condition: Condition) {
        let Some(index) = self.upload(upload) else { return };
        let upload = self.world.uploads[index].clone();
        let named = named_parts(&upload, manifest);
        let mut body = format!("<CompleteMultipartUpload xmlns=\"{NAMESPACE}\">");
        for (number, etag) in &named {
            write!(body, "<Part><PartNumber>{number}</PartNumber><ETag>\"{etag}\"</ETag></Part>").expect("writing");
        }
        body.push_str("</CompleteMultipartUpload>");
        let at =
            Place { bucket: upload.bucket, key: KEYS.iter().position(|key| *key == upload.key).expect("one of ours") };
        let ask = self.upload_ask("POST", index).body(body.as_bytes());
        let ask = self.read_condition(ask, at, condition);
        let reply = self.client.ask(&ask);
        if upload.stage != Stage::Open {
            return self.complete_again(&upload, &named, condition, &reply);
        }
        let faults = manifest_faults(&upload, &named, manifest);
        let refusal = self.write_refusal(at, condition);
        if !faults.is_empty() || refusal.is_some() {
            // Which of several mistakes is told is not said.
            let document = Document::parse(&reply.body);
            let code = document.one("Error/Code").unwrap_or_default();
            let allowed: Vec<_> = faults.iter().copied().chain(refusal).collect();
            assert!(allowed.contains(&(reply.status, code)), "{} {code}, expected one of {allowed:?}", reply.status);
            return;
        }
        answered(&reply, 200);
        let parts: Vec<&[u8]> = named.iter().map(|(number, _)| &*upload.parts[number].0).collect();
        let etag = etag_of_parts(parts.iter().copied());
        let told = Document::parse(&reply.body);
        assert_eq!(told.one("CompleteMultipartUploadResult/ETag").map(unquoted), Some(etag.as_str()));
        let object = Object { bytes: parts.concat().into(), etag: etag.clone(), ..upload.object };
        self.world.buckets[upload.bucket].insert(upload.key, object);
        self.world.uploads[index].stage = Stage::Done(named, etag);
    }

    /// Of an upload that has ended: the same question has the same answer, any other none; nothing changes.
    fn complete_again(&self, upload: &Upload, named: &[(u16, String)], condition: Condition, reply: &Reply) {
        match &upload.stage {
            Stage::Done(before, etag) if before == named && condition == Condition::None => {
                answered(reply, 200);
                let told = Document::parse(&reply.body);
                assert_eq!(told.one("CompleteMultipartUploadResult/ETag").map(unquoted), Some(etag.as_str()));
            }
            Stage::Done(before, _) if before == named => assert!([200, 404, 412].contains(&reply.status), "{reply:?}"),
            _ => assert_eq!(reply.status / 100, 4, "{reply:?}"),
        }
    }

    fn abort(&mut self, upload: usize) {
        let Some(upload) = self.upload(upload) else { return };
        let reply = self.client.ask(&self.upload_ask("DELETE", upload));
        let stage = &mut self.world.uploads[upload].stage;
        match stage {
            Stage::Open => {
                answered(&reply, 204);
                *stage = Stage::Aborted;
            }
            Stage::Done(..) => refused(&reply, 404, "NoSuchUpload"),
            // Whoever asks again after a lost answer must not be told that something is wrong.
            Stage::Aborted => answered(&reply, 204),
        }
    }

    /// Everything is as the model has it.
    pub fn check_all(&mut self) {
        for bucket in 0..BUCKETS.len() {
            for key in 0..KEYS.len() {
                self.get(Place { bucket, key }, false, Range::Whole, Condition::None);
            }
            let (prefix, delimiter, after) = (String::new(), String::new(), String::new());
            let version = Version::V2;
            self.list(&Listing { bucket, version, prefix, delimiter, max_keys: None, after, encoded: true });
        }
    }
}

const COPY_SOURCE_CONDITIONS: [&str; 4] = [
    "x-amz-copy-source-if-match",
    "x-amz-copy-source-if-none-match",
    "x-amz-copy-source-if-modified-since",
    "x-amz-copy-source-if-unmodified-since",
];

fn copy_source(from: Place) -> String {
    let mut value = format!("/{}/", BUCKETS[from.bucket]);
    s3_orchestrator::proto::target::encode_percent(KEYS[from.key].as_bytes(), true, &mut value);
    value
}

fn unquoted(etag: &str) -> &str {
    etag.trim_matches('"')
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('\u{7}', "&#x7;")
}

/// First byte and length of what is sent; None: 416 (RFC 9110, 14.1.2).
fn span(range: Range, size: usize) -> Option<(usize, usize, bool)> {
    let part = |first: usize, last: usize| (first < size).then(|| (first, last.min(size - 1) - first + 1, true));
    match range {
        Range::Whole | Range::Malformed => Some((0, size, false)),
        Range::Suffix(0) => None,
        // Of an empty object, everything.
        Range::Suffix(_) if size == 0 => Some((0, 0, false)),
        Range::Suffix(len) => part(size.saturating_sub(len), size),
        Range::From(first) => part(first, size),
        Range::Between(first, last) if last < first => Some((0, size, false)),
        Range::Between(first, last) => part(first, last),
    }
}

fn check_object(reply: &Reply, object: &Object, (first, len, partial): (usize, usize, bool), head: bool) {
    answered(reply, if partial { 206 } else { 200 });
    let size = object.bytes.len();
    assert_eq!(reply.header("content-length"), Some(len.to_string().as_str()));
    let range = partial.then(|| format!("bytes {first}-{}/{size}", first + len - 1));
    assert_eq!(reply.header("content-range"), range.as_deref());
    assert_eq!(reply.etag(), Some(object.etag.as_str()));
    assert_eq!(reply.header("content-type"), Some(object.content_type.as_str()));
    assert_eq!(reply.headers_below("x-amz-meta-"), object.metadata);
    let count = (!object.tags.is_empty()).then(|| object.tags.len().to_string());
    assert_eq!(reply.header("x-amz-tagging-count"), count.as_deref());
    assert!(reply.header("last-modified").is_some());
    if !head {
        assert!(*reply.body == object.bytes[first..first + len], "other bytes than were written");
    }
}

/// The parts that a Complete names, and their ETags.
fn named_parts(upload: &Upload, manifest: Manifest) -> Vec<(u16, String)> {
    let mut named: Vec<(u16, String)> =
        upload.parts.iter().map(|(number, (_, etag))| (*number, etag.clone())).collect();
    match manifest {
        Manifest::All => {}
        Manifest::WithoutFirst => drop(named.drain(..1.min(named.len()))),
        Manifest::WrongEtag => named.iter_mut().take(1).for_each(|(_, etag)| *etag = OTHER_ETAG.to_owned()),
        Manifest::Backwards => named.reverse(),
        Manifest::NotUploaded => named.push((9_999, OTHER_ETAG.to_owned())),
        Manifest::Empty => named.clear(),
    }
    named
}

/// Everything that S3 could refuse it for; it tells one.
fn manifest_faults(upload: &Upload, named: &[(u16, String)], manifest: Manifest) -> Vec<(u16, &'static str)> {
    let mut faults = Vec::new();
    if named.is_empty() {
        faults.push((400, "MalformedXML"));
    }
    if !named.is_sorted_by(|(a, _), (b, _)| a < b) {
        faults.push((400, "InvalidPartOrder"));
    }
    let is_wrong = matches!(manifest, Manifest::WrongEtag | Manifest::NotUploaded);
    if is_wrong && !named.is_empty() {
        faults.push((400, "InvalidPart"));
    }
    let but_last = &named[..named.len().saturating_sub(1)];
    let is_small = |number: &u16| upload.parts.get(number).is_some_and(|(bytes, _)| bytes.len() < PART_BYTES_MIN);
    if but_last.iter().any(|(number, _)| is_small(number)) {
        faults.push((400, "EntityTooSmall"));
    }
    faults
}

/// `after`: a key or prefix, and the token of the next page in the second version.
fn list_ask(listing: &Listing, after: &(String, String)) -> Ask {
    let mut ask = ask("GET", listing.bucket, "");
    let mut say = |name: &'static str, value: &str| {
        if !value.is_empty() {
            ask.query.push((name, value.to_owned()));
        }
    };
    say("prefix", &listing.prefix);
    say("delimiter", &listing.delimiter);
    say("encoding-type", if listing.encoded { "url" } else { "" });
    say("max-keys", &listing.max_keys.map(|max| max.to_string()).unwrap_or_default());
    match listing.version {
        Version::V1 => say("marker", &after.0),
        Version::V2 => {
            say("list-type", "2");
            say("start-after", &listing.after);
            say("continuation-token", &after.1);
        }
        Version::Versions => say("key-marker", &after.0),
    }
    if listing.version == Version::Versions {
        ask.query.push(("versions", String::new()));
    }
    ask
}

/// Compares a page; where the next one begins, if there is one.
fn list_page(
    listing: &Listing,
    objects: &BTreeMap<String, Object>,
    document: &Document,
    page: &[Entry],
    more: bool,
) -> Option<(String, String)> {
    let (root, item) = match listing.version {
        Version::V1 | Version::V2 => ("ListBucketResult", "Contents"),
        Version::Versions => ("ListVersionsResult", "Version"),
    };
    let one = |name: &str| document.one(&format!("{root}/{name}"));
    let decoded = |text: &str| if listing.encoded { percent_decoded(text) } else { text.to_owned() };
    let column = |name: &str| document.all(&format!("{root}/{name}")).into_iter().map(decoded).collect::<Vec<_>>();
    let keys: Vec<&str> =
        page.iter().filter_map(|one| if let Entry::Key(key) = one { Some(key.as_str()) } else { None }).collect();
    let prefixes: Vec<&str> =
        page.iter().filter_map(|one| if let Entry::Prefix(text) = one { Some(text.as_str()) } else { None }).collect();
    assert_eq!(column(&format!("{item}/Key")), keys, "{listing:?}");
    assert_eq!(column("CommonPrefixes/Prefix"), prefixes, "{listing:?}");
    let etags: Vec<&str> = keys.iter().map(|key| objects[*key].etag.as_str()).collect();
    let told: Vec<&str> = document.all(&format!("{root}/{item}/ETag")).into_iter().map(unquoted).collect();
    assert_eq!(told, etags);
    let sizes: Vec<String> = keys.iter().map(|key| objects[*key].bytes.len().to_string()).collect();
    assert_eq!(document.all(&format!("{root}/{item}/Size")), sizes);
    assert_eq!(one("Name"), Some(BUCKETS[listing.bucket]));
    assert_eq!(one("Prefix").map(decoded), Some(listing.prefix.clone()));
    assert_eq!(one("Delimiter").map(decoded), Some(listing.delimiter.clone()).filter(|text| !text.is_empty()));
    assert_eq!(one("EncodingType"), listing.encoded.then_some("url"));
    assert_eq!(one("MaxKeys"), Some(listing.max_keys.unwrap_or(1_000).min(1_000).to_string().as_str()));
    assert_eq!(one("IsTruncated"), Some(if more { "true" } else { "false" }), "{listing:?}");
    if listing.version == Version::V2 {
        assert_eq!(one("KeyCount"), Some(page.len().to_string().as_str()));
    }
    let last = page.last().map(|entry| entry.text().to_owned()).unwrap_or_default();
    match listing.version {
        Version::V1 => {
            let told = one("NextMarker").map(decoded);
            assert_eq!(told, Some(last.clone()).filter(|_| more && !listing.delimiter.is_empty()));
        }
        Version::V2 => assert_eq!(one("NextContinuationToken").is_some(), more),
        Version::Versions => assert_eq!(one("NextKeyMarker").map(decoded), Some(last.clone()).filter(|_| more)),
    }
    more.then(|| (last, one("NextContinuationToken").unwrap_or_default().to_owned()))
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match digits.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}
