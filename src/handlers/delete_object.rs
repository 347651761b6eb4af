//! DeleteObject: one transaction. The bytes go later, by exact name (PROTOCOL.md, "Deleting bytes").

use super::object_headers::condition_of_delete;
use super::ports::{Exchange, Ports};
use super::request::Request;
use super::trouble::Trouble;
use crate::base::ObjectKey;
use crate::proto::error_code::ErrorCode;
use crate::store::port::{Delete, Metadata};

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
) -> Result<(), Trouble> {
    let bucket = request.home()?.name.clone();
    let key = ObjectKey::parse(request.key()).ok_or(ErrorCode::KeyTooLongError)?;
    let condition = condition_of_delete(request.head)?;
    // A key that did not exist is answered in the same way: it does not exist now.
    ports.meta().step(Delete { bucket, key, condition }).await??;
    exchange.head().status = 204;
    exchange.respond(b"").await.map_err(|_| Trouble::Cut)
}
