//! GetObjectTagging: from the row alone.

use super::ports::{Exchange, Ports};
use super::request::Request;
use super::scratch::Scratch;
use super::selection::look_up;
use super::trouble::Trouble;
use crate::proto::xml;

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    look_up(ports, request, &mut scratch.located, false).await?;
    scratch.body.clear();
    xml::write_tagging(&mut scratch.body, &scratch.located.record.tags);
    exchange.head().field("content-type", "application/xml");
    exchange.respond(&scratch.body).await.map_err(|_| Trouble::Cut)
}
