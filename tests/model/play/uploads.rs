//! Multipart uploads, but for their completion.

use super::super::action::*;
use super::super::client::Ask;
use super::super::document::Document;
use super::super::world::{Part, Stage, Sum, Upload};
use super::{Player, answered, ask_at, refused, refused_for_one_of, unquoted};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Player {
    pub(super) fn create_upload(&mut self, at: Place, facts: Facts, declared: Option<Declared>) {
        let mut ask = ask_at("POST", at).query("uploads", "").facts(facts);
        if let Some(declared) = declared {
            ask = ask.with("x-amz-checksum-algorithm", declared.kind.name());
            ask = ask.with("x-amz-checksum-type", declared.type_name());
        }
        let reply = self.client.ask(&ask);
        if self.misses_bucket(at.bucket, &reply) {
            return;
        }
        answered(&reply, 200);
        assert_eq!(reply.header("x-amz-checksum-algorithm"), declared.map(|one| one.kind.name()));
        let document = Document::parse(&reply.body);
        let id = document.one("InitiateMultipartUploadResult/UploadId").expect("an id").to_owned();
        assert_eq!(document.one("InitiateMultipartUploadResult/Key"), Some(KEYS[at.key]));
        let object = facts.object(Arc::from([]), None);
        self.world.uploads.push(Upload { id, at, object, declared, parts: BTreeMap::new(), stage: Stage::Open });
    }

    /// The upload of this number, the newest being 0.
    pub(super) fn upload(&self, number: usize) -> Option<usize> {
        self.world.uploads.len().checked_sub(number + 1)
    }

    pub(super) fn upload_ask(&self, method: &'static str, upload: usize) -> Ask {
        let upload = &self.world.uploads[upload];
        ask_at(method, upload.at).query("uploadId", upload.id.as_str())
    }

    pub(super) fn upload_part(&mut self, upload: usize, number: u16, body: Body, sent: Sent) {
        let Some(upload) = self.upload(upload) else { return };
        let bytes = body.bytes();
        let ask = self.upload_ask("PUT", upload).query("partNumber", number.to_string()).body(&bytes).sent(sent);
        let reply = self.client.ask(&ask);
        if self.misses_bucket(self.world.uploads[upload].at.bucket, &reply) {
            return;
        }
        let row = &mut self.world.uploads[upload];
        if row.stage != Stage::Open {
            return refused_for_one_of(
                &reply,
                &[(404, "NoSuchUpload"), (400, "BadDigest")][..1 + usize::from(sent.is_wrong())],
            );
        }
        let declared = row.declared.map(|declared| declared.kind);
        let said = sent.sum(&bytes);
        if let (Some(declared), Some(said)) = (declared, &said)
            && declared != said.kind
        {
            return refused(&reply, 400, "InvalidRequest");
        }
        if sent.is_wrong() {
            return refused(&reply, 400, "BadDigest");
        }
        answered(&reply, 200);
        let etag = body.etag();
        assert_eq!(reply.etag(), Some(etag.as_str()));
        // A part without the upload's checksum gets it.
        let sum = said.or(declared.map(|kind| Sum::of(kind, &bytes)));
        let told = sum.as_ref().and_then(|sum| reply.header(sum.kind.header()));
        assert_eq!(told, sum.as_ref().map(|sum| sum.value.as_str()));
        row.parts.insert(number, Part { bytes, etag, sum });
    }

    /// All pages behind `after`, each compared.
    pub(super) fn list_parts(&mut self, upload: usize, max: Option<usize>, mut after: u16) {
        let Some(index) = self.upload(upload) else { return };
        loop {
            let mut ask = self.upload_ask("GET", index).query("part-number-marker", after.to_string());
            ask.query.extend(max.map(|max| ("max-parts", max.to_string())));
            let reply = self.client.ask(&ask);
            let upload = &self.world.uploads[index];
            if self.misses_bucket(upload.at.bucket, &reply) {
                return;
            }
            if upload.stage != Stage::Open {
                return refused(&reply, 404, "NoSuchUpload");
            }
            answered(&reply, 200);
            let all: Vec<_> = upload.parts.iter().filter(|(number, _)| **number > after).collect();
            let page = &all[..max.unwrap_or(1_000).min(all.len())];
            let document = Document::parse(&reply.body);
            let one = |name: &str| document.one(&format!("ListPartsResult/{name}"));
            let column = |name: &str| document.all(&format!("ListPartsResult/Part/{name}"));
            assert_eq!(column("PartNumber"), page.iter().map(|(number, _)| number.to_string()).collect::<Vec<_>>());
            assert_eq!(column("Size"), page.iter().map(|(_, part)| part.bytes.len().to_string()).collect::<Vec<_>>());
            let etags: Vec<&str> = page.iter().map(|(_, part)| part.etag.as_str()).collect();
            assert_eq!(column("ETag").into_iter().map(unquoted).collect::<Vec<_>>(), etags);
            for kind in super::super::sums::KINDS {
                let of_kind = page.iter().flat_map(|(_, part)| &part.sum).filter(|sum| sum.kind == kind);
                let sums: Vec<&str> = of_kind.map(|sum| sum.value.as_str()).collect();
                assert_eq!(column(&format!("Checksum{}", kind.name())), sums);
            }
            assert_eq!(one("ChecksumAlgorithm"), upload.declared.map(|one| one.kind.name()));
            assert_eq!(one("ChecksumType"), upload.declared.map(Declared::type_name));
            let more = max != Some(0) && page.len() < all.len();
            assert_eq!(one("IsTruncated"), Some(if more { "true" } else { "false" }));
            // Told at the end too, and 0 of an empty page.
            let last = page.last().map_or(0, |(number, _)| **number);
            assert_eq!(one("NextPartNumberMarker"), Some(last.to_string().as_str()));
            if !more {
                return;
            }
            after = last;
        }
    }

    pub(super) fn abort(&mut self, upload: usize) {
        let Some(upload) = self.upload(upload) else { return };
        let reply = self.client.ask(&self.upload_ask("DELETE", upload));
        if self.misses_bucket(self.world.uploads[upload].at.bucket, &reply) {
            return;
        }
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
}
