//! DeleteObjects: each key is its own change; they are submitted together, so that the desk batches them. What became of each
//! is told in the answer; but where nothing at all could be done, the request has failed, which clients try again.

use super::concurrent;
use super::ports::{Exchange, Ports};
use super::request::Request;
use super::scratch::Scratch;
use super::trouble::{self, Trouble};
use crate::base::limits::XML_BYTES_MAX;
use crate::base::{BucketName, Failure, ObjectKey};
use crate::proto::body_check::BodyCheck;
use crate::proto::checksum::Declared;
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::xml::{self, DeleteOutcome, ObjectToDelete};
use crate::store::port::{Delete, Metadata, WriteCondition};

/// Changes of one request that are under way at once.
const CONCURRENT_MAX: usize = 128;

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    let bucket = request.home()?.name.clone();
    let declared = Declared::parse(&request.head.headers, request.payload)?;
    if declared.content_md5.is_none() && declared.checksum.is_none() && declared.trailer.is_none() {
        let message = "Missing required header for this request: Content-MD5 OR x-amz-checksum-*";
        return Err(S3Error::new(ErrorCode::InvalidRequest, message).into());
    }
    if request.length.is_some_and(|bytes| bytes > XML_BYTES_MAX as u64) {
        return Err(ErrorCode::MalformedXML.into());
    }
    exchange.receive(XML_BYTES_MAX, &mut BodyCheck::of_declared(declared)).await?;
    let asked = xml::read_delete(exchange.received())?;

    let mut results: Vec<Result<(), S3Error>> = vec![Ok(()); asked.objects.len()];
    let (mut deleted, mut failed) = (0, None);
    let deletes = asked.objects.iter().map(|object| delete_one(ports, &bucket, object));
    concurrent::each(CONCURRENT_MAX, deletes, |place, result| match result {
        Ok(()) => deleted += 1,
        Err(NotDeleted::Refused(error)) => results[place] = Err(error),
        Err(NotDeleted::Failed(failure)) => {
            results[place] = Err(trouble::error_of_failure(&failure));
            failed = Some(failure);
        }
    })
    .await;
    match failed {
        Some(failure) if deleted == 0 => return Err(failure.into()),
        Some(failure) => tracing::warn!(request = request.id, %failure, "keys of a batch were not deleted"),
        None => {}
    }

    let outcomes = asked.objects.iter().zip(&results).map(|(object, result)| match result {
        Ok(()) => DeleteOutcome::Deleted { key: &object.key, version: object.version_id.as_deref() },
        Err(error) => DeleteOutcome::Failed { key: &object.key, error },
    });
    scratch.body.clear();
    xml::write_delete_result(&mut scratch.body, asked.quiet, outcomes);
    exchange.head().field("content-type", "application/xml");
    exchange.respond(&scratch.body).await.map_err(|_| Trouble::Cut)
}

enum NotDeleted {
    Refused(S3Error),
    Failed(Failure),
}

impl<E: Into<S3Error>> From<E> for NotDeleted {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

async fn delete_one<P: Ports>(ports: &P, bucket: &BucketName, object: &ObjectToDelete) -> Result<(), NotDeleted> {
    // Unversioned buckets call their only version null.
    if object.version_id.as_deref().is_some_and(|version| !version.is_empty() && version != "null") {
        return Err(ErrorCode::NoSuchVersion.into());
    }
    let key = ObjectKey::parse(&object.key).ok_or(ErrorCode::KeyTooLongError)?;
    let condition = WriteCondition {
        etag_in: object.if_etag.clone().map(|etag| vec![etag]),
        size_is: object.if_size,
        modified_at: object.if_modified_at,
        ..WriteCondition::default()
    };
    match ports.meta().step(Delete { bucket: bucket.clone(), key, condition }).await.map_err(NotDeleted::Failed)? {
        Ok(_) => Ok(()),
        Err(refusal) => Err(trouble::error_of_refusal(refusal).into()),
    }
}
