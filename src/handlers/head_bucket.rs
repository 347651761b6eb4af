//! HeadBucket: that the bucket exists was found before the dispatch; what is left to say is its region.

use super::ports::{Exchange, Ports};
use super::trouble::Trouble;

/// What a client is told to sign for when any region is accepted.
const DEFAULT_REGION: &str = "us-east-1";

pub async fn handle<P: Ports, X: Exchange<P>>(ports: &P, exchange: &mut X) -> Result<(), Trouble> {
    let region = region_of(ports);
    let head = exchange.head();
    head.field("x-amz-bucket-region", region);
    head.field("content-type", "application/xml");
    exchange.respond(b"").await.map_err(|_| Trouble::Cut)
}

/// The region that clients are told to sign for.
pub fn region_of<P: Ports>(ports: &P) -> &str {
    ports.view().server.region.as_deref().unwrap_or(DEFAULT_REGION)
}
