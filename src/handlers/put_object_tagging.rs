//! PutObjectTagging: one transaction on the live version; no backend is asked.

use super::ports::{Exchange, Ports};
use super::request::Request;
use super::trouble::Trouble;
use crate::base::ObjectKey;
use crate::proto::body_check::BodyCheck;
use crate::proto::checksum::Declared;
use crate::proto::error_code::ErrorCode;
use crate::proto::xml;
use crate::store::port::{Metadata, SetTags};

/// Ten tags of the longest kind, escaped character by character, fit many times.
const BODY_BYTES_MAX: usize = 64 * 1024;

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
) -> Result<(), Trouble> {
    let declared = Declared::parse(&request.head.headers, request.payload)?;
    match request.length {
        Some(0) => return Err(ErrorCode::MissingRequestBodyError.into()),
        Some(bytes) if bytes > BODY_BYTES_MAX as u64 => return Err(ErrorCode::MalformedXML.into()),
        _ => {}
    }
    exchange.receive(BODY_BYTES_MAX, &mut BodyCheck::of_declared(declared)).await?;
    let tags = xml::read_tagging(exchange.received())?;
    set_tags(ports, request, tags).await?;
    exchange.respond(b"").await.map_err(|_| Trouble::Cut)
}

pub(super) async fn set_tags<P: Ports>(
    ports: &P,
    request: &Request<'_>,
    tags: Vec<(String, String)>,
) -> Result<(), Trouble> {
    let bucket = request.home()?.name.clone();
    let key = ObjectKey::parse(request.key()).ok_or(ErrorCode::KeyTooLongError)?;
    ports.meta().step(SetTags { bucket, key, tags }).await??;
    Ok(())
}
