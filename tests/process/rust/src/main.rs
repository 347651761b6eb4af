//! The AWS SDK for Rust in its default settings (path style apart, which an address without DNS needs), told by
//! test_s3_clients.py: `s3-rust-client URL BUCKET PREFIX`, credentials in the environment. Panics, or prints "all right".

use aws_sdk_s3::config::{BehaviorVersion, Builder, Credentials, Region};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier, Tag, Tagging,
};
use aws_sdk_s3::{Client, error::SdkError};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use std::time::Duration;

const MIB: usize = 1 << 20;

struct Judge {
    client: Client,
    bucket: String,
    prefix: String,
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, bucket, prefix] = &arguments[..] else { panic!("s3-rust-client URL BUCKET PREFIX") };
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let credentials =
        Credentials::new(variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"), None, None, "test");
    let https = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let config = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(url)
        .force_path_style(true)
        .credentials_provider(credentials)
        .http_client(https)
        .build();
    let judge = Judge { client: Client::from_conf(config), bucket: bucket.clone(), prefix: prefix.clone() };
    tokio::join!(judge.objects(), judge.uploads(), judge.listings(), judge.links());
    println!("all right");
}

fn bytes(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| byte()).collect()
}

async fn body_of(answer: GetObjectOutput) -> Vec<u8> {
    answer.body.collect().await.expect("the whole body, and its checksum").into_bytes().to_vec()
}

fn refusal<T, E: ProvideErrorMetadata>(outcome: Result<T, SdkError<E>>) -> (u16, String) {
    let Err(error) = outcome else { panic!("accepted") };
    let status = error.raw_response().expect("an answer").status().as_u16();
    (status, error.code().unwrap_or_default().to_owned())
}

impl Judge {
    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    async fn put(&self, key: &str, body: &[u8]) {
        let put = self.client.put_object().bucket(&self.bucket).key(key).body(ByteStream::from(body.to_vec()));
        put.send().await.expect("put");
    }

    async fn get(&self, key: &str) -> Vec<u8> {
        body_of(self.client.get_object().bucket(&self.bucket).key(key).send().await.expect("get")).await
    }

    async fn objects(&self) {
        let (client, bucket, body) = (&self.client, &self.bucket, bytes(300_000));
        let key = self.key("a b+c/é%2F.bin");
        let put = client.put_object().bucket(bucket).key(&key).body(body.clone().into()).content_type("text/x");
        let put = put.metadata("name", "value").tagging("a=b").send().await.expect("put");
        assert!(put.checksum_crc32().is_some() || put.checksum_crc64_nvme().is_some(), "the SDK's default checksum");
        let got = client.get_object().bucket(bucket).key(&key).send().await.expect("get");
        assert_eq!((got.content_type(), got.tag_count(), got.e_tag()), (Some("text/x"), Some(1), put.e_tag()));
        assert_eq!(got.metadata().and_then(|all| all.get("name")).map(String::as_str), Some("value"));
        assert!(body_of(got).await == body);
        let part = client.get_object().bucket(bucket).key(&key).range("bytes=5-9").send().await.expect("get a range");
        assert_eq!(body_of(part).await, body[5..10]);
        let none = client.get_object().bucket(bucket).key(self.key("none")).send().await;
        assert_eq!(refusal(none), (404, "NoSuchKey".to_owned()));
        let again = client.put_object().bucket(bucket).key(&key).if_none_match("*").body(body.clone().into()).send();
        assert_eq!(refusal(again.await), (412, "PreconditionFailed".to_owned()));
        for algorithm in ChecksumAlgorithm::values().iter().copied().map(ChecksumAlgorithm::from) {
            if !["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"].contains(&algorithm.as_str()) {
                continue;
            }
            let key = self.key(&format!("sum/{algorithm}"));
            let put = client.put_object().bucket(bucket).key(&key).checksum_algorithm(algorithm.clone());
            put.body(body.clone().into()).send().await.unwrap_or_else(|error| panic!("{algorithm}: {error:?}"));
            let get = client.get_object().bucket(bucket).key(&key).checksum_mode(ChecksumMode::Enabled);
            assert!(body_of(get.send().await.expect("get")).await == body, "{algorithm}");
        }
        self.put(&self.key("empty"), b"").await;
        assert_eq!(self.get(&self.key("empty")).await, b"");
    }

    /// With the checksum of every part, which the SDK sends by default, told again in Complete.
    async fn uploads(&self) {
        let (client, bucket, key, body) = (&self.client, &self.bucket, self.key("in parts"), bytes(11 * MIB));
        let created = client.create_multipart_upload().bucket(bucket).key(&key);
        let created = created.checksum_algorithm(ChecksumAlgorithm::Crc32).send().await.expect("create");
        let id = created.upload_id().expect("an id");
        let mut parts = Vec::new();
        for (number, piece) in (1..).zip(body.chunks(5 * MIB)) {
            let part = client.upload_part().bucket(bucket).key(&key).upload_id(id).part_number(number);
            let part = part.checksum_algorithm(ChecksumAlgorithm::Crc32).body(piece.to_vec().into());
            let part = part.send().await.expect("a part");
            let done = CompletedPart::builder().part_number(number).set_e_tag(part.e_tag).set_checksum_crc32(part.checksum_crc32);
            parts.push(done.build());
        }
        let listed = client.list_parts().bucket(bucket).key(&key).upload_id(id).send().await.expect("list");
        assert_eq!(listed.parts().len(), parts.len());
        let manifest = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = client.complete_multipart_upload().bucket(bucket).key(&key).upload_id(id);
        let done = complete.multipart_upload(manifest).send().await.expect("complete");
        assert!(done.e_tag().is_some_and(|etag| etag.ends_with("-3\"")), "{:?}", done.e_tag());
        assert!(self.get(&key).await == body);
        let aborted = client.abort_multipart_upload().bucket(bucket).key(&key).upload_id("none").send().await;
        assert_eq!(refusal(aborted), (404, "NoSuchUpload".to_owned()));
    }

    async fn listings(&self) {
        let (client, bucket) = (&self.client, &self.bucket);
        let keys: Vec<String> = ["l/1", "l/2", "l/d/3", "l/d/4", "l/é &<"].iter().map(|name| self.key(name)).collect();
        for key in &keys {
            self.put(key, key.as_bytes()).await;
        }
        let prefix = self.key("l/");
        let mut pages = client.list_objects_v2().bucket(bucket).prefix(&prefix).into_paginator().page_size(2).send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.expect("a page");
            found.extend(page.contents().iter().filter_map(|one| one.key().map(str::to_owned)));
        }
        assert_eq!(found, keys);
        let page = client.list_objects_v2().bucket(bucket).prefix(&prefix).delimiter("/").send().await.expect("a page");
        assert_eq!((page.key_count(), page.common_prefixes().len()), (Some(4), 1));
        let buckets = client.list_buckets().send().await.expect("buckets");
        assert!(buckets.buckets().iter().any(|one| one.name() == Some(bucket)));
        let copy = client.copy_object().bucket(bucket).key(self.key("copy"));
        copy.copy_source(format!("{bucket}/{}", keys[0])).send().await.expect("copy");
        assert_eq!(self.get(&self.key("copy")).await, keys[0].as_bytes());
        let tag = Tag::builder().key("k").value("v").build().expect("a tag");
        let tags = Tagging::builder().tag_set(tag.clone()).build().expect("tags");
        client.put_object_tagging().bucket(bucket).key(&keys[0]).tagging(tags).send().await.expect("put tags");
        let told = client.get_object_tagging().bucket(bucket).key(&keys[0]).send().await.expect("get tags");
        assert_eq!(told.tag_set(), [tag]);
        let named = keys.iter().map(|key| ObjectIdentifier::builder().key(key).build().expect("a name")).collect();
        let delete = Delete::builder().set_objects(Some(named)).build().expect("a list");
        let deleted = client.delete_objects().bucket(bucket).delete(delete).send().await.expect("delete");
        assert_eq!((deleted.deleted().len(), deleted.errors().len()), (5, 0));
        let gone = client.head_object().bucket(bucket).key(&keys[0]).send().await;
        assert!(gone.is_err_and(|error| error.into_service_error().is_not_found()));
    }

    async fn links(&self) {
        let (client, bucket, key) = (&self.client, &self.bucket, self.key("by link/é"));
        self.put(&key, b"by link").await;
        let minute = PresigningConfig::expires_in(Duration::from_secs(60)).expect("a minute");
        let link = client.get_object().bucket(bucket).key(&key).presigned(minute).await.expect("a link");
        // Printed for the test, which fetches it with what it has.
        println!("{}", link.uri());
    }
}
