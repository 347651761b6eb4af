//! HeadBucket: that the bucket exists was found before the dispatch; what is left to say is its region.

use super::ports::{Exchange, Ports};
use super::request::Request;
use super::trouble::Trouble;

/// What a client is told to sign for when any region is accepted.
const DEFAULT_REGION: &str = "us-east-1";

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
) -> Result<(), Trouble> {
    let region = region_of(ports, request)?;
    let head = exchange.head();
    head.field("x-amz-bucket-region", region);
    head.field("content-type", "application/xml");
    exchange.respond(b"").await.map_err(|_| Trouble::Cut)
}

/// The region that clients are told to sign for: what a bucket's creator asked for, or everybody's.
pub fn region_of<'v, P: Ports>(ports: &'v P, request: &Request<'v>) -> Result<&'v str, Trouble> {
    let asked = request.home()?.stored.as_ref().map(|stored| &*stored.region).filter(|region| !region.is_empty());
    Ok(asked.unwrap_or_else(|| ports.view().server.region.as_deref().unwrap_or(DEFAULT_REGION)))
}
