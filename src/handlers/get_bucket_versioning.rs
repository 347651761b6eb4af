//! GetBucketVersioning: there is none, as of a bucket for which it was never turned on.

use super::ports::{Exchange, Ports};
use super::scratch::Scratch;
use super::trouble::Trouble;
use crate::proto::xml;

pub async fn handle<P: Ports, X: Exchange<P>>(exchange: &mut X, scratch: &mut Scratch) -> Result<(), Trouble> {
    scratch.body.clear();
    xml::write_versioning(&mut scratch.body);
    exchange.head().field("content-type", "application/xml");
    exchange.respond(&scratch.body).await.map_err(|_| Trouble::Cut)
}
