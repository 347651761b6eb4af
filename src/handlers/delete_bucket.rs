//! DeleteBucket: an empty stored bucket ends in one transaction, which writes under way into it see.

use super::ports::{Exchange, Ports};
use super::request::Request;
use super::trouble::Trouble;
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::store::port::{DeleteBucket, Metadata};

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
    let deleted = ports.meta().step(DeleteBucket { bucket: bucket.name.clone() }).await??;
    ports.buckets_known(deleted.generation).await?;
    exchange.head().status = 204;
    exchange.respond(b"").await.map_err(|_| Trouble::Cut)
}
