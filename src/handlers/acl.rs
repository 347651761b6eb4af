//! GetBucketAcl, PutBucketAcl, GetObjectAcl, PutObjectAcl as AWS answers them under BucketOwnerEnforced: the bucket's owner
//! has full control of everything in it, and that cannot be changed. Canned ACLs and grants in header fields were judged
//! before (proto/operation.rs).

use super::ports::{Exchange, Ports};
use super::request::Request;
use super::scratch::Scratch;
use super::trouble::Trouble;
use crate::proto::body_check::BodyCheck;
use crate::proto::checksum::Declared;
use crate::proto::error_code::ErrorCode;
use crate::proto::owner::Owner;
use crate::proto::xml;
use crate::store::port::Metadata;

/// A list of the 100 grants that S3 allows fits.
const BODY_BYTES_MAX: usize = 64 * 1024;

pub async fn get<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    find_object(ports, request, scratch).await?;
    scratch.body.clear();
    xml::write_acl(&mut scratch.body, &Owner::of(&request.home()?.owner));
    exchange.head().field("content-type", "application/xml");
    exchange.respond(&scratch.body).await.map_err(|_| Trouble::Cut)
}

pub async fn put<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    find_object(ports, request, scratch).await?;
    let declared = Declared::parse(&request.head.headers, request.payload)?;
    exchange.receive(BODY_BYTES_MAX, &mut BodyCheck::of_declared(declared)).await?;
    let body = exchange.received();
    match (request.head.header("x-amz-acl").is_some(), body.is_empty()) {
        (true, true) => {}
        (false, true) => return Err(ErrorCode::MissingSecurityHeader.into()),
        (_, false) => xml::check_acl(body, &Owner::of(&request.home()?.owner))?,
    }
    exchange.respond(b"").await.map_err(|_| Trouble::Cut)
}

/// NoSuchKey, if an object is asked about.
async fn find_object<P: Ports>(ports: &P, request: &Request<'_>, scratch: &mut Scratch) -> Result<(), Trouble> {
    match request.target.key {
        Some(key) if !ports.meta().lookup(request.bucket(), key, &mut scratch.located).await? => {
            Err(ErrorCode::NoSuchKey.into())
        }
        _ => Ok(()),
    }
}
