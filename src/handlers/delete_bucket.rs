//! DeleteBucket: a stored bucket that holds no object ends in one transaction, which writes under way into it see. Open uploads
//! do not keep it, as in S3: they are aborted first.

use super::concurrent;
use super::list_objects_v2::page_of;
use super::ports::{Exchange, Ports, Worker};
use super::request::Request;
use super::trouble::Trouble;
use crate::base::{BucketName, Failure, ObjectKey};
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::store::port::{
    AbortUpload, Answer, BucketDeleted, DeleteBucket, ListUploadsQuery, ListedUpload, Metadata, Query, Refusal,
};

/// Uploads that are aborted before the bucket is tried again, and how often: uploads may be begun faster than they end.
const UPLOADS_PER_ROUND: u32 = 1000;
const ROUNDS_MAX: u32 = 100;
/// Aborts of one request that are under way at once.
const CONCURRENT_MAX: usize = 128;

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
) -> Result<(), Trouble> {
    let bucket = request.home()?;
    let Some(owner) = bucket.holder() else {
        let text = "The bucket is part of the server's configuration and is removed there.";
        return Err(S3Error::new(ErrorCode::AccessDenied, text).into());
    };
    if !request.principal.may_delete_bucket_of(owner) {
        ports.cells().access_denied.inc();
        return Err(ErrorCode::AccessDenied.into());
    }
    let deleted = delete(ports, request, &bucket.name).await?;
    ports.buckets_known(deleted.generation).await?;
    exchange.head().status = 204;
    exchange.respond(b"").await.map_err(|_| Trouble::Cut)
}

/// Cancel: NOT safe.
async fn delete<P: Ports>(ports: &P, request: &Request<'_>, name: &BucketName) -> Result<BucketDeleted, Trouble> {
    let mut rounds = 0;
    loop {
        match ports.meta().step(DeleteBucket { bucket: name.clone() }).await? {
            Err(Refusal::BucketNotEmpty) if rounds < ROUNDS_MAX => {}
            decided => return Ok(decided?),
        }
        rounds += 1;
        if !abort_uploads(ports, request, name).await? {
            return Err(Refusal::BucketNotEmpty.into());
        }
    }
}

/// Whether nothing but open uploads was in the bucket, which some of have been aborted. One that is being completed is about
/// to be an object. Cancel: NOT safe.
async fn abort_uploads<P: Ports>(ports: &P, request: &Request<'_>, name: &BucketName) -> Result<bool, Trouble> {
    if !page_of(ports, request, "", "", "", 1).await?.keys.is_empty() {
        return Ok(false);
    }
    let list = ListUploadsQuery {
        bucket: name.as_str().to_owned(),
        prefix: String::new(),
        delimiter: String::new(),
        after: String::new(),
        after_upload: String::new(),
        max: UPLOADS_PER_ROUND,
    };
    let Answer::ListUploads(page) = ports.meta().query(Query::ListUploads(list)).await? else {
        return Err(Failure::ourselves("a query was answered with another's answer").into());
    };
    let mut results = Vec::with_capacity(page.uploads.len());
    let aborts = page.uploads.iter().map(|listed| abort(ports, name, listed));
    concurrent::each(CONCURRENT_MAX, aborts, |_, result| results.push(result)).await;
    ports.wake(Worker::Cleanup);
    results.into_iter().try_fold(true, |all, ended| Ok(all & ended?))
}

/// Whether the upload has ended. Cancel: NOT safe.
async fn abort<P: Ports>(ports: &P, name: &BucketName, listed: &ListedUpload) -> Result<bool, Trouble> {
    let key = ObjectKey::parse(&listed.key).ok_or(ErrorCode::InternalError)?;
    let abort = AbortUpload { bucket: name.clone(), key, upload: listed.upload.clone() };
    match ports.meta().step(abort).await? {
        Ok(_) | Err(Refusal::NoSuchUpload) => Ok(true),
        Err(Refusal::Busy) => Ok(false),
        Err(refusal) => Err(refusal.into()),
    }
}
