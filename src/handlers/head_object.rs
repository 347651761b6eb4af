//! HeadObject: as GetObject, from the row alone.

use super::ports::{Exchange, Ports};
use super::request::Request;
use super::scratch::Scratch;
use super::selection::{not_modified, select};
use super::trouble::Trouble;

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    let Some(selection) = select(ports, request, scratch, false).await? else {
        return not_modified(exchange, scratch).await;
    };
    selection.write_head(exchange, request, scratch)?;
    exchange.respond(b"").await.map_err(|_| Trouble::Cut)
}
