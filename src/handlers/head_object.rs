//! HeadObject: as GetObject, from the row alone.

use super::get_object::{decide, look_up, not_modified, write_head};
use super::ports::{Exchange, Ports};
use super::request::Request;
use super::scratch::Scratch;
use super::trouble::Trouble;

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    look_up(ports, request, &mut scratch.located).await?;
    match decide(request, &scratch.located)? {
        Some(range) => write_head(exchange, request, &scratch.located, range),
        None => return not_modified(exchange, &scratch.located).await,
    }
    exchange.respond(b"").await.map_err(|_| Trouble::Cut)
}
