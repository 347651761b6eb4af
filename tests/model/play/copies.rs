//! Copies of objects, whole and as parts.

use super::super::action::*;
use super::super::client::Ask;
use super::super::document::Document;
use super::super::server::BUCKETS;
use super::super::world::{Object, Part, Stage, Sum, md5_hex, tags};
use super::{OTHER_VERSION, Player, answered, ask_at, refused_for_one_of, tag_header, unquoted};
use s3_orchestrator::proto::target::encode_percent;
use std::sync::Arc;

/// `x-amz-copy-source`.
fn source(from: Place, version: Version) -> String {
    let mut text = format!("/{}/", BUCKETS[from.bucket]);
    encode_percent(KEYS[from.key].as_bytes(), true, &mut text);
    match version {
        Version::Unsaid => text,
        Version::Null => format!("{text}?versionId=null"),
        Version::Other => format!("{text}?versionId={OTHER_VERSION}"),
    }
}

impl Player {
    pub(super) fn copy(&mut self, action: &Action) {
        let Action::Copy { from, version, to, replace, replace_tags, sum, source: if_source, condition } = *action
        else {
            unreachable!("called for copies")
        };
        let mut ask: Ask = ask_at("PUT", to).with("x-amz-copy-source", source(from, version));
        if let Some(facts) = replace {
            ask = ask.with("x-amz-metadata-directive", "REPLACE").facts(Facts { tags: 0, ..facts });
        }
        if let Some(count) = replace_tags {
            ask = ask.with("x-amz-tagging-directive", "REPLACE").with("x-amz-tagging", tag_header(count));
        }
        if let Some(kind) = sum {
            ask = ask.with("x-amz-checksum-algorithm", kind.name());
        }
        ask = self.source_condition(ask, from, if_source);
        ask = self.read_condition(ask, to, condition);
        let reply = self.client.ask(&ask);
        let mut faults = Vec::new();
        if !self.is_there(to.bucket) || !self.is_there(from.bucket) {
            faults.push((404, "NoSuchBucket"));
        }
        if version == Version::Other {
            faults.push((404, "NoSuchVersion"));
        }
        if from == to && replace.is_none() && sum.is_none() {
            faults.push((400, "InvalidRequest"));
        }
        let Some(mut object) = self.object(from).cloned() else {
            faults.push((404, "NoSuchKey"));
            return refused_for_one_of(&reply, &faults);
        };
        if self.holds(from, if_source).is_err() {
            faults.push((412, "PreconditionFailed"));
        }
        faults.extend(self.write_refusal(to, condition));
        if !faults.is_empty() {
            return refused_for_one_of(&reply, &faults);
        }
        answered(&reply, 200);
        // The copy is one piece, and so is its checksum: of the kind that is asked for, else of the source's.
        object.etag = md5_hex(&object.bytes);
        let kind = sum.or(object.sum.map(|sum| sum.kind));
        object.sum = kind.map(|kind| Sum::of(kind, &object.bytes));
        (object.modified, object.parts) = (None, Vec::new());
        let told = Document::parse(&reply.body);
        assert_eq!(told.one("CopyObjectResult/ETag").map(unquoted), Some(object.etag.as_str()));
        if let Some(sum) = &object.sum {
            let element = format!("CopyObjectResult/Checksum{}", sum.kind.name());
            assert_eq!(told.one(&element), Some(sum.value.as_str()));
        }
        if let Some(facts) = replace {
            let replaced = facts.object(Arc::clone(&object.bytes), None);
            object = Object { content_type: replaced.content_type, metadata: replaced.metadata, ..object };
        }
        if let Some(count) = replace_tags {
            object.tags = tags(count);
        }
        self.world.insert(to.bucket, KEYS[to.key], object);
    }

    pub(super) fn copy_part(&mut self, upload: usize, number: u16, from: Place, range: Option<(usize, usize)>) {
        let Some(upload) = self.upload(upload) else { return };
        let mut ask = self.upload_ask("PUT", upload).query("partNumber", number.to_string());
        ask = ask.with("x-amz-copy-source", source(from, Version::Unsaid));
        if let Some((first, last)) = range {
            ask = ask.with("x-amz-copy-source-range", format!("bytes={first}-{last}"));
        }
        let reply = self.client.ask(&ask);
        let object = self.object(from).map(|object| Arc::clone(&object.bytes));
        let bucket = self.world.uploads[upload].at.bucket;
        let mut faults = Vec::new();
        if !self.is_there(bucket) || !self.is_there(from.bucket) {
            faults.push((404, "NoSuchBucket"));
        }
        if self.world.uploads[upload].stage != Stage::Open {
            faults.push((404, "NoSuchUpload"));
        }
        if range.is_some_and(|(first, last)| first > last) {
            faults.push((400, "InvalidArgument"));
        }
        let Some(object) = object else {
            faults.push((404, "NoSuchKey"));
            return refused_for_one_of(&reply, &faults);
        };
        if range.is_some_and(|(first, last)| first <= last && last >= object.len()) {
            faults.push((416, "InvalidRange"));
        }
        if !faults.is_empty() {
            return refused_for_one_of(&reply, &faults);
        }
        let bytes: Arc<[u8]> = match range {
            None => object,
            Some((first, last)) => object[first..=last].into(),
        };
        answered(&reply, 200);
        let etag = md5_hex(&bytes);
        let told = Document::parse(&reply.body);
        assert_eq!(told.one("CopyPartResult/ETag").map(unquoted), Some(etag.as_str()));
        let row = &mut self.world.uploads[upload];
        let sum = row.declared.map(|declared| Sum::of(declared.kind, &bytes));
        if let Some(sum) = &sum {
            let element = format!("CopyPartResult/Checksum{}", sum.kind.name());
            assert_eq!(told.one(&element), Some(sum.value.as_str()));
        }
        row.parts.insert(number, Part { bytes, etag, sum });
    }
}
