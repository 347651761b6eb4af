//! One file per S3 verb: straight-line async functions over the ports, the same on a reactor, on the mover and in the
//! simulator.
//!
//! `serve` is the way in: access, the verb, and the one place where trouble becomes an answer. `ports` is what a handler
//! holds, `request` what it is given, `scratch` what a connection reuses. `reservation` and `placing` are shared by the
//! verbs that write or read bytes.

mod abort_multipart_upload;
mod acl;
mod admission;
mod complete_multipart_upload;
pub mod concurrent;
mod copy_object;
mod copy_source;
mod create_bucket;
mod create_multipart_upload;
mod degraded;
mod delete_bucket;
mod delete_object;
mod delete_object_tagging;
mod delete_objects;
pub mod fuzz;
mod get_bucket_configuration;
mod get_bucket_location;
mod get_bucket_versioning;
mod get_object;
mod get_object_attributes;
mod get_object_tagging;
mod head_bucket;
mod head_object;
pub mod held;
mod list_buckets;
mod list_multipart_uploads;
mod list_object_versions;
mod list_objects;
mod list_objects_v2;
mod list_parts;
mod object_headers;
pub mod placing;
pub mod ports;
mod post_object;
mod put_object;
mod put_object_tagging;
pub mod request;
pub mod reservation;
pub mod response;
pub mod scratch;
pub mod searched;
mod selection;
pub mod trouble;
mod unread;
mod upload_part;
mod upload_part_copy;

use crate::proto::operation::Operation;
use degraded::Found;
use ports::{Exchange, Ports};
use request::Request;
use scratch::Scratch;
use trouble::Trouble;

/// Answers one request, exactly once, or cuts the connection. Cancel: NOT safe; what was begun is handed over to be ended.
pub async fn serve<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) {
    scratch.found = Found::Exact;
    let outcome = match admission::admit(ports, request) {
        Ok(()) => dispatch(ports, request, exchange, scratch).await,
        Err(trouble) => Err(trouble),
    };
    if let Err(trouble) = outcome {
        trouble::answer(ports, request, exchange, scratch, trouble).await;
    }
}

/// Rare verbs with big futures are boxed, so that a connection that only reads stays small.
async fn dispatch<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    match request.operation {
        Operation::GetObject => get_object::handle(ports, request, exchange, scratch).await,
        Operation::HeadObject => head_object::handle(ports, request, exchange, scratch).await,
        Operation::PutObject => Box::pin(put_object::handle(ports, request, exchange)).await,
        Operation::CopyObject => Box::pin(copy_object::handle(ports, request, exchange, scratch)).await,
        Operation::PostObject => Box::pin(post_object::handle(ports, request, exchange, scratch)).await,
        Operation::DeleteObject => Box::pin(delete_object::handle(ports, request, exchange)).await,
        Operation::GetObjectAttributes => {
            Box::pin(get_object_attributes::handle(ports, request, exchange, scratch)).await
        }
        Operation::GetObjectTagging => get_object_tagging::handle(ports, request, exchange, scratch).await,
        Operation::PutObjectTagging => Box::pin(put_object_tagging::handle(ports, request, exchange)).await,
        Operation::DeleteObjectTagging => Box::pin(delete_object_tagging::handle(ports, request, exchange)).await,
        Operation::DeleteObjects => Box::pin(delete_objects::handle(ports, request, exchange, scratch)).await,
        Operation::ListObjectsV2 => Box::pin(list_objects_v2::handle(ports, request, exchange, scratch)).await,
        Operation::ListObjects => Box::pin(list_objects::handle(ports, request, exchange, scratch)).await,
        Operation::ListObjectVersions => {
            Box::pin(list_object_versions::handle(ports, request, exchange, scratch)).await
        }
        Operation::ListMultipartUploads => {
            Box::pin(list_multipart_uploads::handle(ports, request, exchange, scratch)).await
        }
        Operation::ListBuckets => list_buckets::handle(request, exchange, scratch).await,
        Operation::HeadBucket => head_bucket::handle(ports, request, exchange).await,
        Operation::CreateBucket => Box::pin(create_bucket::handle(ports, request, exchange)).await,
        Operation::DeleteBucket => Box::pin(delete_bucket::handle(ports, request, exchange)).await,
        Operation::GetBucketLocation => get_bucket_location::handle(ports, request, exchange, scratch).await,
        Operation::GetBucketVersioning => get_bucket_versioning::handle(exchange, scratch).await,
        Operation::GetBucketAcl | Operation::GetObjectAcl => acl::get(ports, request, exchange, scratch).await,
        Operation::PutBucketAcl | Operation::PutObjectAcl => {
            Box::pin(acl::put(ports, request, exchange, scratch)).await
        }
        Operation::GetBucketConfiguration => get_bucket_configuration::handle(request, exchange, scratch).await,
        Operation::CreateMultipartUpload => {
            Box::pin(create_multipart_upload::handle(ports, request, exchange, scratch)).await
        }
        Operation::UploadPart => Box::pin(upload_part::handle(ports, request, exchange)).await,
        Operation::UploadPartCopy => Box::pin(upload_part_copy::handle(ports, request, exchange, scratch)).await,
        Operation::CompleteMultipartUpload => {
            Box::pin(complete_multipart_upload::handle(ports, request, exchange, scratch)).await
        }
        Operation::AbortMultipartUpload => Box::pin(abort_multipart_upload::handle(ports, request, exchange)).await,
        Operation::ListParts => Box::pin(list_parts::handle(ports, request, exchange, scratch)).await,
    }
}
