//! What clients ask of a bucket that nobody can set here: each is answered as AWS answers it for a bucket where it was never
//! set, or as it is by our configuration.

use super::ports::{Exchange, Ports};
use super::request::Request;
use super::scratch::Scratch;
use super::trouble::Trouble;
use crate::config::registry::Bucket;
use crate::policy::cors::{CorsMethod, CorsRule};
use crate::proto::error_code::ErrorCode;
use crate::proto::operation::CONFIGURATIONS;
use crate::proto::xml::{self, CorsEntry};

pub async fn handle<P: Ports, X: Exchange<P>>(
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    let query = request.query();
    let asked = CONFIGURATIONS.into_iter().find(|name| query.has(name)).unwrap_or_default();
    scratch.body.clear();
    write(&mut scratch.body, asked, request.home()?)?;
    exchange.head().field("content-type", "application/xml");
    exchange.respond(&scratch.body).await.map_err(|_| Trouble::Cut)
}

fn write(out: &mut Vec<u8>, asked: &str, bucket: &Bucket) -> Result<(), ErrorCode> {
    match asked {
        "accelerate" => xml::write_setting(out, "AccelerateConfiguration", &[], ""),
        "logging" => xml::write_setting(out, "BucketLoggingStatus", &[], ""),
        "notification" => xml::write_setting(out, "NotificationConfiguration", &[], ""),
        "requestPayment" => xml::write_setting(out, "RequestPaymentConfiguration", &["Payer"], "BucketOwner"),
        "ownershipControls" => {
            xml::write_setting(out, "OwnershipControls", &["Rule", "ObjectOwnership"], "BucketOwnerEnforced");
        }
        "cors" if bucket.cors.is_empty() => return Err(ErrorCode::NoSuchCORSConfiguration),
        "cors" => xml::write_cors(out, bucket.cors.iter().map(entry_of)),
        "encryption" => return Err(ErrorCode::ServerSideEncryptionConfigurationNotFoundError),
        "lifecycle" => return Err(ErrorCode::NoSuchLifecycleConfiguration),
        "object-lock" => return Err(ErrorCode::ObjectLockConfigurationNotFoundError),
        "policy" | "policyStatus" => return Err(ErrorCode::NoSuchBucketPolicy),
        "publicAccessBlock" => return Err(ErrorCode::NoSuchPublicAccessBlockConfiguration),
        "replication" => return Err(ErrorCode::ReplicationConfigurationNotFoundError),
        "tagging" => return Err(ErrorCode::NoSuchTagSet),
        "website" => return Err(ErrorCode::NoSuchWebsiteConfiguration),
        _ => return Err(ErrorCode::NotImplemented),
    }
    Ok(())
}

fn entry_of(rule: &CorsRule) -> CorsEntry<'_> {
    CorsEntry {
        headers: texts(&rule.allowed_headers),
        methods: rule.allowed_methods.iter().copied().map(CorsMethod::as_str).collect(),
        origins: texts(&rule.allowed_origins),
        exposed: texts(&rule.expose_headers),
        max_age: rule.max_age,
    }
}

fn texts(list: &[Box<str>]) -> Vec<&str> {
    list.iter().map(|text| &**text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BucketName;

    #[test]
    fn every_question_has_its_answer() {
        let bucket = Bucket {
            name: BucketName::parse("bkt").expect("a name"),
            max_multipart_uploads: 0,
            cors: Vec::new(),
            owner: "ann".into(),
            stored: None,
        };
        for asked in CONFIGURATIONS {
            let mut out = Vec::new();
            match write(&mut out, asked, &bucket) {
                Ok(()) => assert!(out.starts_with(b"<?xml"), "{asked}"),
                Err(code) => assert_eq!((code.http_status(), code.is_about_bucket()), (404, true), "{asked}: {code:?}"),
            }
        }
    }
}
