//! Buckets: made, ended, listed, and asked of themselves.

use super::super::document::Document;
use super::super::server::{ACCESS_KEY, BUCKETS};
use super::super::world::{Objects, Stage};
use super::{KEYS, Player, answered, ask, refused};

/// What a bucket is asked, and what it answers: a code with 404, or the root of a document and, in it, a path and its text.
pub const QUESTIONS: [(&str, Result<(&str, &str, Option<&str>), &str>); 18] = [
    ("", Ok(("", "", None))),
    ("location", Ok(("LocationConstraint", "", Some("")))),
    ("versioning", Ok(("VersioningConfiguration", "Status", None))),
    ("accelerate", Ok(("AccelerateConfiguration", "Status", None))),
    ("logging", Ok(("BucketLoggingStatus", "LoggingEnabled", None))),
    ("notification", Ok(("NotificationConfiguration", "TopicConfiguration", None))),
    ("requestPayment", Ok(("RequestPaymentConfiguration", "Payer", Some("BucketOwner")))),
    ("ownershipControls", Ok(("OwnershipControls", "Rule/ObjectOwnership", Some("BucketOwnerEnforced")))),
    ("cors", Err("NoSuchCORSConfiguration")),
    ("encryption", Err("ServerSideEncryptionConfigurationNotFoundError")),
    ("lifecycle", Err("NoSuchLifecycleConfiguration")),
    ("object-lock", Err("ObjectLockConfigurationNotFoundError")),
    ("policy", Err("NoSuchBucketPolicy")),
    ("policyStatus", Err("NoSuchBucketPolicy")),
    ("publicAccessBlock", Err("NoSuchPublicAccessBlockConfiguration")),
    ("replication", Err("ReplicationConfigurationNotFoundError")),
    ("tagging", Err("NoSuchTagSet")),
    ("website", Err("NoSuchWebsiteConfiguration")),
];
/// Canned lists, and whether BucketOwnerEnforced takes them.
pub const ACLS: [(&str, bool); 4] =
    [("private", true), ("bucket-owner-full-control", true), ("public-read", false), ("authenticated-read", false)];

impl Player {
    pub(super) fn create_bucket(&mut self, bucket: usize) {
        let reply = self.client.ask(&ask("PUT", bucket, ""));
        if self.is_there(bucket) {
            return refused(&reply, 409, "BucketAlreadyOwnedByYou");
        }
        answered(&reply, 200);
        assert_eq!(reply.header("location"), Some(format!("/{}", BUCKETS[bucket]).as_str()));
        self.world.buckets[bucket] = Some(Objects::new());
    }

    /// Uploads that nobody finished do not keep a bucket; objects do.
    pub(super) fn delete_bucket(&mut self, bucket: usize) {
        let reply = self.client.ask(&ask("DELETE", bucket, ""));
        match &self.world.buckets[bucket] {
            _ if bucket == 0 => refused(&reply, 403, "AccessDenied"),
            None => refused(&reply, 404, "NoSuchBucket"),
            Some(objects) if !objects.is_empty() => refused(&reply, 409, "BucketNotEmpty"),
            Some(_) => {
                answered(&reply, 204);
                self.world.buckets[bucket] = None;
                let of_it = self.world.uploads.iter_mut().filter(|upload| upload.at.bucket == bucket);
                of_it.filter(|upload| upload.stage == Stage::Open).for_each(|upload| upload.stage = Stage::Aborted);
            }
        }
    }

    pub(super) fn ask_bucket(&mut self, bucket: usize, what: usize) {
        let (name, answer) = QUESTIONS[what];
        if name.is_empty() {
            let reply = self.client.ask(&ask("HEAD", bucket, ""));
            let status = if self.is_there(bucket) { 200 } else { 404 };
            return assert_eq!((reply.status, reply.body.len()), (status, 0));
        }
        let reply = self.client.ask(&ask("GET", bucket, "").query(name, ""));
        if self.misses_bucket(bucket, &reply) {
            return;
        }
        let (root, path, text) = match answer {
            Err(code) => return refused(&reply, 404, code),
            Ok(answer) => answer,
        };
        answered(&reply, 200);
        let document = Document::parse(&reply.body);
        let path = if path.is_empty() { root.to_owned() } else { format!("{root}/{path}") };
        assert_eq!(document.one(&path), text);
        assert_eq!(document.root(), root);
    }

    pub(super) fn list_buckets(&mut self, prefix: bool, max: Option<usize>) {
        // What the first and the second begin with is not what the third does.
        let wanted = |name: &&str| !prefix || name.starts_with('t');
        let there = BUCKETS.iter().zip(&self.world.buckets).filter(|(_, bucket)| bucket.is_some());
        let mut want: Vec<&str> = there.map(|(name, _)| *name).filter(wanted).collect();
        let mut token = None;
        loop {
            let mut ask = super::Ask { method: "GET", ..super::Ask::default() };
            ask.query.extend(prefix.then(|| ("prefix", "t".to_owned())));
            ask.query.extend(max.map(|max| ("max-buckets", max.to_string())));
            ask.query.extend(token.map(|token| ("continuation-token", token)));
            let reply = self.client.ask(&ask);
            answered(&reply, 200);
            let document = Document::parse(&reply.body);
            let page: Vec<&str> = want.drain(..max.unwrap_or(10_000).min(want.len())).collect();
            assert_eq!(document.all("ListAllMyBucketsResult/Buckets/Bucket/Name"), page);
            assert_eq!(document.one("ListAllMyBucketsResult/Owner/DisplayName"), Some(ACCESS_KEY));
            token = document.one("ListAllMyBucketsResult/ContinuationToken").map(str::to_owned);
            assert_eq!(token.is_some(), !want.is_empty());
            if token.is_none() {
                return;
            }
        }
    }

    pub(super) fn get_acl(&mut self, bucket: usize, key: Option<usize>) {
        let name = key.map_or("", |key| KEYS[key]);
        let reply = self.client.ask(&ask("GET", bucket, name).query("acl", ""));
        if self.misses_bucket(bucket, &reply) {
            return;
        }
        if key.is_some() && self.world.object(bucket, name).is_none() {
            return refused(&reply, 404, "NoSuchKey");
        }
        answered(&reply, 200);
        let document = Document::parse(&reply.body);
        let grant = "AccessControlPolicy/AccessControlList/Grant";
        assert_eq!(document.all(&format!("{grant}/Permission")), ["FULL_CONTROL"]);
        assert_eq!(document.one(&format!("{grant}/Grantee/ID")), document.one("AccessControlPolicy/Owner/ID"));
    }

    pub(super) fn put_acl(&mut self, bucket: usize, key: Option<usize>, acl: usize) {
        let (acl, is_taken) = ACLS[acl];
        let name = key.map_or("", |key| KEYS[key]);
        let reply = self.client.ask(&ask("PUT", bucket, name).query("acl", "").with("x-amz-acl", acl));
        if !is_taken {
            return refused(&reply, 400, "AccessControlListNotSupported");
        }
        if self.misses_bucket(bucket, &reply) {
            return;
        }
        if key.is_some() && self.world.object(bucket, name).is_none() {
            return refused(&reply, 404, "NoSuchKey");
        }
        answered(&reply, 200);
    }

    /// Removes what an earlier sequence left.
    pub fn start_anew(&mut self) {
        for bucket in 0..BUCKETS.len() {
            let listed = self.client.ask(&ask("GET", bucket, "").query("list-type", "2"));
            if listed.status == 404 {
                continue;
            }
            for key in Document::parse(&listed.body).all("ListBucketResult/Contents/Key") {
                answered(&self.client.ask(&ask("DELETE", bucket, key)), 204);
            }
            let uploads = self.client.ask(&ask("GET", bucket, "").query("uploads", ""));
            let document = Document::parse(&uploads.body);
            let of = |name: &str| document.all(&format!("ListMultipartUploadsResult/Upload/{name}"));
            for (key, id) in of("Key").into_iter().zip(of("UploadId")) {
                answered(&self.client.ask(&ask("DELETE", bucket, key).query("uploadId", id)), 204);
            }
            if bucket > 0 {
                answered(&self.client.ask(&ask("DELETE", bucket, "")), 204);
            }
        }
    }
}
