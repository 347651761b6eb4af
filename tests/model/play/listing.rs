//! Listings of keys and of open uploads, page by page.

use super::super::action::*;
use super::super::client::Ask;
use super::super::document::Document;
use super::super::server::BUCKETS;
use super::super::world::{Entry, Object, Objects, Stage, entries};
use super::{Player, answered, ask, unquoted};

/// Where a page begins: a key or prefix, the token of the second version, the upload beside the key.
#[derive(Clone, Default, Debug)]
struct Marker {
    after: String,
    token: String,
    upload: String,
}

impl Player {
    /// All pages of a listing, each compared.
    pub fn list(&mut self, listing: &Listing) {
        let none = Objects::new();
        let objects = self.world.buckets[listing.bucket].as_ref().unwrap_or(&none);
        let uploads = self.open_uploads(listing.bucket);
        let keys: Vec<(&str, &str)> = match listing.kind {
            ListKind::Uploads => uploads.iter().map(|(key, id)| (*key, id.as_str())).collect(),
            _ => objects.keys().map(|key| (key.as_str(), "")).collect(),
        };
        let mut want = entries(keys.into_iter(), &listing.prefix, &listing.delimiter, &listing.after);
        let page_len = listing.max.unwrap_or(1_000).min(1_000);
        let mut marker = Marker { after: listing.after.clone(), ..Marker::default() };
        loop {
            let page: Vec<Entry> = want.drain(..page_len.min(want.len())).collect();
            let more = page_len > 0 && !want.is_empty();
            let reply = self.client.ask(&list_ask(listing, &marker));
            if self.misses_bucket(listing.bucket, &reply) {
                return;
            }
            answered(&reply, 200);
            let objects = self.world.buckets[listing.bucket].as_ref().expect("it is there");
            let told = Page { listing, document: Document::parse(&reply.body), page: &page, more };
            told.check(objects);
            if !more {
                return;
            }
            marker = told.next();
        }
    }

    /// Keys and ids, in order; those of one key in the order in which they were begun.
    fn open_uploads(&self, bucket: usize) -> Vec<(&'static str, String)> {
        let open = self.world.uploads.iter().filter(|one| one.at.bucket == bucket && one.stage == Stage::Open);
        let mut open: Vec<_> = open.map(|one| (KEYS[one.at.key], one.id.clone())).collect();
        open.sort();
        open
    }
}

fn list_ask(listing: &Listing, marker: &Marker) -> Ask {
    let mut ask = ask("GET", listing.bucket, "");
    let mut say = |name: &'static str, value: &str| {
        if !value.is_empty() {
            ask.query.push((name, value.to_owned()));
        }
    };
    say("prefix", &listing.prefix);
    say("delimiter", &listing.delimiter);
    say("encoding-type", if listing.encoded { "url" } else { "" });
    let max = listing.max.map(|max| max.to_string()).unwrap_or_default();
    say(if listing.kind == ListKind::Uploads { "max-uploads" } else { "max-keys" }, &max);
    match listing.kind {
        ListKind::V1 => say("marker", &marker.after),
        ListKind::V2 => {
            say("list-type", "2");
            say("start-after", &listing.after);
            say("continuation-token", &marker.token);
        }
        ListKind::Versions | ListKind::Uploads => say("key-marker", &marker.after),
    }
    say("upload-id-marker", &marker.upload);
    match listing.kind {
        ListKind::Versions => ask.query.push(("versions", String::new())),
        ListKind::Uploads => ask.query.push(("uploads", String::new())),
        ListKind::V1 | ListKind::V2 => {}
    }
    ask
}

/// A page as it was answered, and what it should be.
struct Page<'p> {
    listing: &'p Listing,
    document: Document,
    page: &'p [Entry],
    more: bool,
}

impl Page<'_> {
    fn root(&self) -> &'static str {
        match self.listing.kind {
            ListKind::V1 | ListKind::V2 => "ListBucketResult",
            ListKind::Versions => "ListVersionsResult",
            ListKind::Uploads => "ListMultipartUploadsResult",
        }
    }

    fn item(&self) -> &'static str {
        match self.listing.kind {
            ListKind::V1 | ListKind::V2 => "Contents",
            ListKind::Versions => "Version",
            ListKind::Uploads => "Upload",
        }
    }

    fn one(&self, name: &str) -> Option<&str> {
        self.document.one(&format!("{}/{name}", self.root()))
    }

    fn decoded(&self, text: &str) -> String {
        if self.listing.encoded { percent_decoded(text) } else { text.to_owned() }
    }

    fn column(&self, name: &str) -> Vec<&str> {
        self.document.all(&format!("{}/{name}", self.root()))
    }

    fn names(&self, name: &str) -> Vec<String> {
        self.column(name).into_iter().map(|text| self.decoded(text)).collect()
    }

    fn check(&self, objects: &Objects) {
        let listing = self.listing;
        let prefixes: Vec<&str> = self
            .page
            .iter()
            .filter_map(|one| if let Entry::Prefix(text) = one { Some(text.as_str()) } else { None })
            .collect();
        let keys: Vec<(&str, &str)> = self
            .page
            .iter()
            .filter_map(|one| if let Entry::Key(key, id) = one { Some((key.as_str(), id.as_str())) } else { None })
            .collect();
        let of_keys = |name: &str| self.column(&format!("{}/{name}", self.item()));
        assert_eq!(
            self.names(&format!("{}/Key", self.item())),
            keys.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
            "{listing:?}"
        );
        assert_eq!(self.names("CommonPrefixes/Prefix"), prefixes, "{listing:?}");
        let bucket = if listing.kind == ListKind::Uploads {
            assert_eq!(of_keys("UploadId"), keys.iter().map(|(_, id)| *id).collect::<Vec<_>>(), "{listing:?}");
            "Bucket"
        } else {
            let of: Vec<&Object> = keys.iter().map(|(key, _)| &objects[*key]).collect();
            let etags: Vec<&str> = of_keys("ETag").into_iter().map(unquoted).collect();
            assert_eq!(etags, of.iter().map(|object| object.etag.as_str()).collect::<Vec<_>>());
            assert_eq!(of_keys("Size"), of.iter().map(|object| object.bytes.len().to_string()).collect::<Vec<_>>());
            let sums = of.iter().flat_map(|object| &object.sum);
            assert_eq!(of_keys("ChecksumAlgorithm"), sums.map(|sum| sum.kind.name()).collect::<Vec<_>>());
            "Name"
        };
        assert_eq!(self.one(bucket), Some(BUCKETS[listing.bucket]));
        assert_eq!(self.one("Prefix").map(|text| self.decoded(text)), Some(listing.prefix.clone()));
        let delimiter = Some(listing.delimiter.clone()).filter(|text| !text.is_empty());
        assert_eq!(self.one("Delimiter").map(|text| self.decoded(text)), delimiter);
        assert_eq!(self.one("EncodingType"), listing.encoded.then_some("url"));
        let max = if listing.kind == ListKind::Uploads { "MaxUploads" } else { "MaxKeys" };
        assert_eq!(self.one(max), Some(listing.max.unwrap_or(1_000).min(1_000).to_string().as_str()));
        assert_eq!(self.one("IsTruncated"), Some(if self.more { "true" } else { "false" }), "{listing:?}");
        if listing.kind == ListKind::V2 {
            assert_eq!(self.one("KeyCount"), Some(self.page.len().to_string().as_str()));
        }
        self.check_next();
    }

    fn check_next(&self) {
        let last = self.page.last().filter(|_| self.more);
        let text = last.map(|entry| entry.text().to_owned());
        let told = |name: &str| self.one(name).map(|text| self.decoded(text));
        match self.listing.kind {
            ListKind::V1 => {
                assert_eq!(told("NextMarker"), text.filter(|_| !self.listing.delimiter.is_empty()));
            }
            ListKind::V2 => assert_eq!(self.one("NextContinuationToken").is_some(), self.more),
            ListKind::Versions => assert_eq!(told("NextKeyMarker"), text),
            ListKind::Uploads => {
                assert_eq!(told("NextKeyMarker"), text);
                let id = last.map(|entry| if let Entry::Key(_, id) = entry { id.as_str() } else { "" });
                assert_eq!(self.one("NextUploadIdMarker"), id);
            }
        }
    }

    fn next(&self) -> Marker {
        Marker {
            after: self.page.last().map(|entry| entry.text().to_owned()).unwrap_or_default(),
            token: self.one("NextContinuationToken").unwrap_or_default().to_owned(),
            upload: self.one("NextUploadIdMarker").unwrap_or_default().to_owned(),
        }
    }
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
