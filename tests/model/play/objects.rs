//! Writes and deletes of objects.

use super::super::action::*;
use super::super::client::Ask;
use super::super::document::Document;
use super::super::server::{ACCESS_KEY, SECRET};
use super::super::world::md5_hex;
use super::{
    NAMESPACE, OTHER_ETAG, OTHER_VERSION, Player, answered, ask, ask_at, escaped, refused, refused_for_one_of,
};
use data_encoding::{BASE64, HEXLOWER};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt::Write;

impl Player {
    pub(super) fn put(&mut self, at: Place, body: Body, facts: Facts, condition: Condition, sent: Sent) {
        let bytes = body.bytes();
        let ask = ask_at("PUT", at).body(&bytes).facts(facts).sent(sent);
        let ask = self.read_condition(ask, at, condition);
        let reply = self.client.ask(&ask);
        if self.misses_bucket(at.bucket, &reply) {
            return;
        }
        match self.write_refusal(at, condition) {
            Some(refusal) if sent.is_wrong() => refused_for_one_of(&reply, &[refusal, (400, "BadDigest")]),
            Some((status, code)) => refused(&reply, status, code),
            None if sent.is_wrong() => refused(&reply, 400, "BadDigest"),
            None => {
                answered(&reply, 200);
                assert_eq!(reply.etag(), Some(md5_hex(&bytes).as_str()));
                let sum = sent.sum(&bytes);
                let told = sum.as_ref().and_then(|sum| reply.header(sum.kind.header()));
                assert_eq!(told, sum.as_ref().map(|sum| sum.value.as_str()));
                self.world.insert(at.bucket, KEYS[at.key], facts.object(bytes, sum));
            }
        }
    }

    /// A plain write of any key into the first bucket.
    pub fn put_key(&mut self, key: &str, body: Body, facts: Facts) {
        let bytes = body.bytes();
        answered(&self.client.ask(&ask("PUT", 0, key).body(&bytes)), 200);
        self.world.insert(0, key, facts.object(bytes, None));
    }

    /// What a browser sends. Tags do not go with a form here.
    pub(super) fn post(&mut self, at: Place, body: Body, facts: Facts) {
        let (bytes, facts) = (body.bytes(), Facts { tags: 0, ..facts });
        let mut fields = vec![("key".to_owned(), KEYS[at.key].to_owned())];
        fields.extend(facts.content_type().map(|value| ("Content-Type".to_owned(), value.to_owned())));
        fields.extend(facts.metadata().into_iter().map(|(name, value)| (format!("x-amz-meta-{name}"), value)));
        let policy = signed_policy(&fields);
        fields.extend(policy);
        let reply = self.client.ask(&form(ask("POST", at.bucket, ""), &fields, &bytes));
        if self.misses_bucket(at.bucket, &reply) {
            return;
        }
        answered(&reply, 204);
        assert_eq!(reply.etag(), Some(md5_hex(&bytes).as_str()));
        self.world.insert(at.bucket, KEYS[at.key], facts.object(bytes, None));
    }

    pub(super) fn delete(&mut self, at: Place, version: Version, condition: Condition) {
        let ask = self.read_condition(ask_at("DELETE", at).version(version), at, condition);
        let reply = self.client.ask(&ask);
        if version == Version::Other {
            return refused_for_one_of(&reply, &[(404, "NoSuchVersion"), (404, "NoSuchBucket")]);
        }
        if self.misses_bucket(at.bucket, &reply) {
            return;
        }
        match self.write_refusal(at, condition) {
            Some((status, code)) => refused(&reply, status, code),
            None => {
                answered(&reply, 204);
                self.forget(at.bucket, KEYS[at.key]);
            }
        }
    }

    fn forget(&mut self, bucket: usize, key: &str) {
        self.world.buckets[bucket].as_mut().expect("looked for before").remove(key);
    }

    pub(super) fn delete_many(&mut self, bucket: usize, keys: &[Doomed], quiet: bool) {
        let mut body = format!("<Delete xmlns=\"{NAMESPACE}\"><Quiet>{quiet}</Quiet>");
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for one in keys {
            let key = KEYS[one.key];
            let object = self.world.object(bucket, key);
            write!(body, "<Object><Key>{}</Key>", escaped(key)).expect("writing to a string");
            match one.version {
                Version::Unsaid => {}
                Version::Null => body.push_str("<VersionId>null</VersionId>"),
                Version::Other => write!(body, "<VersionId>{OTHER_VERSION}</VersionId>").expect("writing"),
            }
            let etag = one.etag.map(|tag| match (tag, object) {
                (Tag::Current, Some(object)) => object.etag.clone(),
                _ => OTHER_ETAG.to_owned(),
            });
            if let Some(etag) = &etag {
                write!(body, "<ETag>\"{etag}\"</ETag>").expect("writing");
            }
            body.push_str("</Object>");
            match (one.version, etag, object) {
                (Version::Other, ..) => kept.push((key, "NoSuchVersion")),
                (_, Some(_), None) => kept.push((key, "NoSuchKey")),
                (_, Some(etag), Some(object)) if etag != object.etag => kept.push((key, "PreconditionFailed")),
                _ => gone.push(key),
            }
        }
        body.push_str("</Delete>");
        let reply = self.client.ask(&ask("POST", bucket, "").query("delete", "").document(&body));
        if self.misses_bucket(bucket, &reply) {
            return;
        }
        answered(&reply, 200);
        let document = Document::parse(&reply.body);
        let told = document.all("DeleteResult/Deleted/Key");
        assert_eq!(told, if quiet { Vec::new() } else { gone.clone() });
        let errors = document.all("DeleteResult/Error/Key").into_iter().zip(document.all("DeleteResult/Error/Code"));
        assert_eq!(errors.collect::<Vec<_>>(), kept);
        gone.into_iter().for_each(|key| self.forget(bucket, key));
    }
}

/// A policy that allows these fields for long, whatever they say, signed by the definition of signature version 4.
fn signed_policy(fields: &[(String, String)]) -> Vec<(String, String)> {
    const SCOPE: &str = "20300101/eu-central-1/s3/aws4_request";
    let names = fields.iter().map(|(name, _)| name.as_str()).chain([
        "bucket",
        "x-amz-algorithm",
        "x-amz-credential",
        "x-amz-date",
    ]);
    let conditions: Vec<String> = names.map(|name| format!("[\"starts-with\",\"${name}\",\"\"]")).collect();
    let conditions = conditions.join(",");
    let policy = format!("{{\"expiration\":\"2099-01-01T00:00:00Z\",\"conditions\":[{conditions}]}}");
    let policy = BASE64.encode(policy.as_bytes());
    let seed = format!("AWS4{SECRET}").into_bytes();
    let key = SCOPE.split('/').fold(seed, |key, part| hmac(&key, part.as_bytes()));
    let signature = HEXLOWER.encode(&hmac(&key, policy.as_bytes()));
    let fields = [
        ("policy", policy),
        ("x-amz-algorithm", "AWS4-HMAC-SHA256".to_owned()),
        ("x-amz-credential", format!("{ACCESS_KEY}/{SCOPE}")),
        ("x-amz-date", "20300101T000000Z".to_owned()),
        ("x-amz-signature", signature),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn form(ask: Ask, fields: &[(String, String)], file: &[u8]) -> Ask {
    const BOUNDARY: &str = "--a-boundary-that-no-body-has";
    let mut body = Vec::new();
    for (name, value) in fields {
        let part =
            format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").into_bytes();
        body.extend(part);
    }
    let head = "Content-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n";
    body.extend(format!("--{BOUNDARY}\r\n{head}").into_bytes());
    body.extend(file);
    body.extend(format!("\r\n--{BOUNDARY}--\r\n").into_bytes());
    let ask = ask.body(&body).with("content-type", format!("multipart/form-data; boundary={BOUNDARY}"));
    Ask { anonymous: true, ..ask }
}
