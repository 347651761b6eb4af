//! DeleteObjectTagging: the live version has no tags afterwards, whether it had any or not.

use super::ports::{Exchange, Ports};
use super::put_object_tagging::set_tags;
use super::request::Request;
use super::trouble::Trouble;

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
) -> Result<(), Trouble> {
    set_tags(ports, request, Vec::new()).await?;
    exchange.head().status = 204;
    exchange.respond(b"").await.map_err(|_| Trouble::Cut)
}
