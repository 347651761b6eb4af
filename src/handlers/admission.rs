//! Whether a request may be served at all: its bucket exists, and the caller may do this in it. Called before every verb,
//! and for the source of a copy.

use super::ports::Ports;
use super::request::Request;
use super::trouble::Trouble;
use crate::base::BucketName;
use crate::config::registry::Bucket;
use crate::policy::access::{self, Permission, Permissions};
use crate::proto::error_code::ErrorCode;
use crate::proto::operation::Operation;
use crate::proto::owner::Owner;

/// NoSuchBucket, InvalidBucketName, AccessDenied, ServiceUnavailable.
pub fn admit<P: Ports>(ports: &P, request: &Request<'_>) -> Result<(), Trouble> {
    let Some(name) = request.target.bucket else { return Ok(()) };
    if request.operation == Operation::CreateBucket {
        return Ok(());
    }
    let Some(bucket) = request.registry.bucket(name) else {
        let is_name = BucketName::parse(name).is_some();
        return Err(if is_name { request.registry.no_such_bucket() } else { ErrorCode::InvalidBucketName }.into());
    };
    expect_owner(request, "x-amz-expected-bucket-owner", bucket)?;
    // Tags that come with a write are tags all the same.
    let tags = request.head.header("x-amz-tagging").map(|_| Permission::Tags.into()).unwrap_or_default();
    permit(ports, request, bucket, access::needed(request.operation).and(tags))
}

/// AccessDenied if the caller names another owner of the bucket in this field: by canonical id, or by name.
pub fn expect_owner(request: &Request<'_>, field: &str, bucket: &Bucket) -> Result<(), Trouble> {
    match request.head.header_text(field)? {
        Some(expected) if !Owner::of(&bucket.owner).is(expected) => Err(ErrorCode::AccessDenied.into()),
        _ => Ok(()),
    }
}

/// AccessDenied unless the caller holds all that is needed in a bucket. What was missing is for the log only.
pub fn permit<P: Ports>(ports: &P, request: &Request<'_>, bucket: &Bucket, needed: Permissions) -> Result<(), Trouble> {
    let name = bucket.name.as_str();
    request.principal.permits(name, bucket.holder(), needed).map_err(|denial| {
        ports.cells().access_denied.inc();
        tracing::debug!(request = request.id, user = &*request.principal.user, bucket = name, ?denial, "access denied");
        ErrorCode::AccessDenied.into()
    })
}
