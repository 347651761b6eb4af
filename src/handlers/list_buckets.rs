//! ListBuckets: the buckets that the caller's grants let it see.

use super::ports::{Exchange, Ports};
use super::request::Request;
use super::scratch::Scratch;
use super::trouble::Trouble;
use crate::base::Timestamp;
use crate::proto::xml;

/// Buckets come from the configuration, which knows no time of their making. 2006-03-14, the day S3 opened, is a date that
/// every client takes and that never changes between two answers.
const CREATED: Timestamp = Timestamp { millis: 1_142_294_400_000 };

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    let mut names: Vec<&str> = ports.view().buckets.iter().map(|bucket| bucket.name.as_str()).collect();
    names.retain(|name| request.principal.sees(name));
    names.sort_unstable();
    scratch.body.clear();
    xml::write_list_buckets(&mut scratch.body, names.into_iter().map(|name| (name, CREATED)));
    exchange.head().field("content-type", "application/xml");
    exchange.respond(&scratch.body).await.map_err(|_| Trouble::Cut)
}
