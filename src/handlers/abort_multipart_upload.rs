//! AbortMultipartUpload: the row says so at once; the cleanup worker aborts whatever the backend has under its exact name.

use super::ports::{Exchange, Ports, Worker};
use super::request::Request;
use super::trouble::Trouble;
use crate::base::ObjectKey;
use crate::proto::error_code::ErrorCode;
use crate::proto::params;
use crate::store::port::{AbortUpload, Metadata};

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
) -> Result<(), Trouble> {
    let upload = params::upload_id(&request.query())?;
    let bucket = request.home()?.name.clone();
    let key = ObjectKey::parse(request.key()).ok_or(ErrorCode::KeyTooLongError)?;
    ports.meta().step(AbortUpload { bucket, key, upload }).await??;
    ports.wake(Worker::Cleanup);
    exchange.head().status = 204;
    exchange.respond(b"").await.map_err(|_| Trouble::Cut)
}
