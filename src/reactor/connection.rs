//! One client connection: heads in, exchanges out, until either side has had enough.
//!
//! A head is read into a pooled buffer and stays there while its request is served; what follows it (the start of a body, the
//! next request) is in the same buffer. Called by the accept loop for every connection; never decides what a request
//! means (proto, handlers) nor how a body moves (client, relay).

use super::accept::Place;
use super::buffer::Buffer;
use super::client::{self, ClientExchange, Opening, Turn};
use super::client_form;
use super::deadline::Phase;
use super::site::{Scratch, Site};
use super::stream::Stream;
use crate::base::Clock;
use crate::base::limits::HEAD_BYTES_MAX;
use crate::config::Registry;
use crate::handlers::ports::Exchange;
use crate::handlers::request::Request;
use crate::handlers::{self, trouble};
use crate::observe::cells::TimeoutPhase;
use crate::policy::cors::{self, CorsMethod, CorsRule, Preflight};
use crate::proto::aws_chunked::Form;
use crate::proto::checksum::Declared;
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::http1::{BadHead, Method, RequestHead, asked_for};
use crate::proto::operation::Operation;
use crate::proto::post::boundary_of;
use crate::proto::sigv4::{self, AuthError};
use crate::proto::target::{Target, bucket_of_host};
use crate::proto::unfolded::unfold;
use monoio::net::TcpStream;
use std::io;
use std::rc::Rc;

/// Serves a connection to its end; `place` counts it until then. Cancel: NOT safe, the connection is closed.
pub async fn serve(site: Rc<Site>, tcp: TcpStream, place: Place) {
    let patience = site.view().server.read_header_timeout;
    let stream = match &site.tls {
        None => Ok(Stream::plain(site.core(), tcp)),
        Some(config) => Stream::accept_tls(site.core(), tcp, config.current(), patience).await,
    };
    match stream {
        Ok(mut stream) => {
            match serve_requests(&site, &mut stream).await {
                // An answer that its client takes slowly counts until it has left: a stop waits for it.
                End::Closed => drop(stream.settled().await),
                End::Cut => stream.cut(),
            }
        }
        Err(cause) if cause.kind() == io::ErrorKind::TimedOut => {
            site.cells().timeouts.at(TimeoutPhase::TlsHandshake).inc();
        }
        // Scanners and clients that do not trust the certificate: nothing of ours.
        Err(cause) => tracing::debug!(%cause, "tls handshake failed"),
    }
    drop(place);
}

/// How a connection ends.
enum End {
    /// In order: what was to be said was said.
    Closed,
    /// A body could not be finished: the client must see a broken connection.
    Cut,
}

async fn serve_requests(site: &Site, stream: &mut Stream) -> End {
    // As audit lines name it, once for all of them.
    let Ok(peer) = stream.peer().map(|peer| peer.to_string()) else { return End::Closed };
    // `server.max_connections` bounds them, and a turn that is waited for has no time limit.
    let mut buffer = site.core().heads.take_now();
    // The first head is due at once: who connects has something to say.
    stream.deadline().arm(Phase::Head, site.view().server.read_header_timeout);
    loop {
        let mut scanned = 0;
        let turn = loop {
            match serve_one(site, stream, &peer, buffer.data(), &mut scanned).await {
                Some(turn) => break turn,
                None => {
                    if let Err(end) = read_more(site, stream, &peer, &mut buffer).await {
                        return end;
                    }
                }
            }
        };
        match turn {
            // A form's buffer holds more than a head's: what is read with the next head would not fit behind it.
            Turn::Next { ahead: Some(ahead), .. } if ahead.capacity() > HEAD_BYTES_MAX => {
                buffer = site.room_ahead(ahead.data());
            }
            Turn::Next { ahead: Some(ahead), .. } => buffer = ahead,
            Turn::Next { ahead: None, head_len } => buffer.consume(head_len),
            Turn::Close => {
                linger(stream).await;
                return End::Closed;
            }
            Turn::Cut => return End::Cut,
        }
        if site.stopping.is_set() {
            linger(stream).await;
            return End::Closed;
        }
        if buffer.is_empty() {
            stream.deadline().arm(Phase::Idle, site.view().server.idle_timeout);
        } else {
            stream.deadline().arm(Phase::Head, site.view().server.read_header_timeout);
        }
    }
}

/// Reads more of a head. An end of input between requests is an ordinary end.
async fn read_more(site: &Site, stream: &mut Stream, peer: &str, buffer: &mut Buffer) -> Result<(), End> {
    let started = !buffer.is_empty();
    if buffer.spare() == 0 {
        buffer.compact();
    }
    let read = stream.read_some(buffer).await;
    match read {
        Ok(0) => Err(End::Closed),
        Ok(count) => {
            site.cells().client_bytes_in.add(count as u64);
            if !started {
                stream.deadline().arm(Phase::Head, site.view().server.read_header_timeout);
            }
            Ok(())
        }
        Err(cause) if cause.kind() == io::ErrorKind::TimedOut && started => {
            site.cells().timeouts.at(TimeoutPhase::Head).inc();
            let text = "The request head did not arrive in time.";
            refuse(site, stream, peer, buffer.data(), &S3Error::new(ErrorCode::RequestTimeout, text).closing()).await;
            linger(stream).await;
            Err(End::Closed)
        }
        Err(_) => Err(End::Closed),
    }
}

/// Serves the request at the start of `bytes`; None if its head is not complete yet.
async fn serve_one(site: &Site, stream: &mut Stream, peer: &str, bytes: &[u8], scanned: &mut usize) -> Option<Turn> {
    let max = site.view().server.max_header_bytes;
    // Looked at where it is: a head is large.
    let parsed = RequestHead::parse(&bytes[..bytes.len().min(max)], scanned);
    let bad = match &parsed {
        Ok(Some(head)) => return Some(serve_head(site, stream, peer, bytes, head).await),
        Ok(None) if bytes.len() < max => return None,
        Ok(None) => BadHead::TooLong,
        Err(bad) => *bad,
    };
    site.cells().malformed_requests.inc();
    refuse(site, stream, peer, bytes, &bad.to_s3_error()).await;
    Some(Turn::Close)
}

/// Serves the request with this head, which `bytes` begin with.
async fn serve_head(site: &Site, stream: &mut Stream, peer: &str, bytes: &[u8], head: &RequestHead<'_>) -> Turn {
    stream.deadline().disarm();
    let mut scratch = site.scratch();
    let opening = Opening {
        head,
        early: &bytes[head.head_len..],
        id: site.request_id(),
        arrived: site.ports.core.clock.tick(),
        peer,
    };
    // What a presigned URL means is another head than the one that was sent, and rare.
    let mut text = Vec::new();
    let meant = unfold(head, &mut text).map(|meant| meant.map(Box::new));
    let meant = match &meant {
        Ok(meant) => Ok(meant.as_deref().unwrap_or(head)),
        Err(error) => Err(error),
    };
    // As long as the request lasts: what is published meanwhile is for the next one.
    let registry = site.registry();
    let turn = {
        let Scratch { target, handlers: kept, head: response, out } = &mut *scratch;
        let mut exchange = ClientExchange::begin(site, stream, opening, response, out);
        answer((site, &registry), &opening, meant, target, kept, &mut exchange).await;
        exchange.end().await
    };
    site.give_back(scratch);
    turn
}

/// Answers the request, which means what `meant` says: who may not ask is refused here, everybody else by the handlers.
async fn answer<'c>(
    (site, registry): (&'c Site, &'c Registry),
    opening: &'c Opening<'c>,
    meant: Result<&'c RequestHead<'c>, &'c S3Error>,
    decoded: &'c mut String,
    kept: &mut handlers::scratch::Scratch,
    exchange: &mut ClientExchange<'c>,
) {
    let hosted = bucket_of_host(opening.head, &site.view().server.domains);
    let parsed =
        meant.map_err(S3Error::clone).and_then(|meant| Ok((meant, Target::parse(meant.target, hosted, decoded)?)));
    let (meant, target) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // The head was whole and its framing clear: only this request is lost.
            exchange.audit().event = "s3.InvalidPath";
            return trouble::refuse(opening.head, opening.id.as_str(), exchange, kept, &error).await;
        }
    };
    if hosted.is_none() && is_health(&target) && opening.head.header("authorization").is_none() {
        exchange.audit().is_probe = true;
        return site.answer_health(&target, exchange).await;
    }
    exchange.note_target(&target);
    if opening.head.method == Method::Options {
        return answer_preflight(registry, opening, &target, kept, exchange).await;
    }
    note_cors(registry, opening.head, &target, exchange);
    if let Some((bucket, boundary)) = upload_form(meant, &target) {
        let place = (bucket, hosted);
        return Box::pin(client_form::serve((site, registry), opening, place, &boundary, kept, exchange)).await;
    }
    match admit((site, registry), opening, meant, (target, hosted.is_some()), exchange) {
        Ok(request) => handlers::serve(&*site.ports, &request, exchange, kept).await,
        Err(error) => trouble::refuse(opening.head, opening.id.as_str(), exchange, kept, &error).await,
    }
}

/// The rules of the target's bucket; none for a bucket that does not exist.
fn cors_rules<'c>(registry: &'c Registry, target: &Target<'_>) -> &'c [CorsRule] {
    target.bucket.map_or(&[], |name| registry.cors(name))
}

/// What pages of other origins may see of the answer, success or not.
fn note_cors(registry: &Registry, head: &RequestHead<'_>, target: &Target<'_>, exchange: &mut ClientExchange<'_>) {
    let rules = cors_rules(registry, target);
    if !rules.is_empty() {
        let origin = head.header("origin").and_then(|origin| std::str::from_utf8(origin).ok());
        exchange.add_to_answer(cors::actual_lines(rules, origin, head.method_word));
    }
}

/// A browser asks what a page may send; nobody signs such a question. All refusals look alike.
async fn answer_preflight<'c>(
    registry: &'c Registry,
    opening: &'c Opening<'c>,
    target: &Target<'_>,
    kept: &mut handlers::scratch::Scratch,
    exchange: &mut ClientExchange<'c>,
) {
    exchange.audit().operation = "Preflight";
    match preflight(registry, opening.head, target) {
        Ok(lines) => {
            exchange.add_to_answer(lines);
            // A client that has gone away needs no answer.
            let _ = exchange.respond(b"").await;
        }
        Err(error) => {
            exchange.add_to_answer(cors::VARY.to_owned());
            trouble::refuse(opening.head, opening.id.as_str(), exchange, kept, &error).await;
        }
    }
}

/// The fields of a preflight's answer.
fn preflight(registry: &Registry, head: &RequestHead<'_>, target: &Target<'_>) -> Result<String, S3Error> {
    let text = |name| Ok::<_, S3Error>(head.header_text(name)?.unwrap_or_default());
    let asked = Preflight {
        origin: text("origin")?,
        method: text("access-control-request-method")?,
        headers: text("access-control-request-headers")?,
    };
    if asked.origin.is_empty() {
        let text = "Insufficient information. Origin request header needed.";
        return Err(S3Error::new(ErrorCode::BadRequest, text));
    }
    if CorsMethod::parse(asked.method).is_none() {
        let shown: String = asked.method.chars().filter(char::is_ascii_graphic).take(32).collect();
        let text = format!("Invalid Access-Control-Request-Method: {}", if shown.is_empty() { "null" } else { &shown });
        return Err(S3Error::new(ErrorCode::BadRequest, text));
    }
    cors::preflight_lines(cors_rules(registry, target), &asked).ok_or_else(|| ErrorCode::AccessForbidden.into())
}

/// Bucket and boundary of a browser upload.
fn upload_form<'c>(head: &RequestHead<'_>, target: &Target<'c>) -> Option<(&'c str, String)> {
    let bucket = target.bucket.filter(|_| head.method == Method::Post && target.key.is_none())?;
    let unsigned = target.query.is_empty() && head.header("authorization").is_none();
    let boundary = boundary_of(head.header("content-type").filter(|_| unsigned)?)?;
    Some((bucket, boundary))
}

fn is_health(target: &Target<'_>) -> bool {
    matches!(target.raw_path, "/health" | "/health/ready")
}

/// Who asks for what, and how the body will come: everything that must be known before a handler runs. `is_hosted`: the
/// target's bucket stands in the Host.
fn admit<'c>(
    (site, registry): (&'c Site, &'c Registry),
    opening: &'c Opening<'c>,
    meant: &'c RequestHead<'c>,
    (target, is_hosted): (Target<'c>, bool),
    exchange: &mut ClientExchange<'c>,
) -> Result<Request<'c>, S3Error> {
    let head = opening.head;
    let view = site.view();
    let signed = sigv4::Request {
        method: head.method_word,
        path: head.path.as_bytes(),
        query: head.query.as_bytes(),
        headers: &head.headers,
    };
    let find = |key: &str| registry.credential(key).map(|one| (&one.secret_access_key, &one.principal));
    let (now, region) = (site.core().clock.wall_at(opening.arrived), view.server.region.as_deref());
    let verified = site.verifier.borrow_mut().verify(&signed, now, region, find);
    let verified = match verified {
        // The same signature would be good for the same path in every bucket.
        Ok(verified) if is_hosted && !verified.covers_host => Err(AuthError::UnsupportedVersion),
        verified => verified,
    };
    let verified = verified.map_err(|error| {
        site.cells().auth_failures.inc();
        exchange.audit().event = "s3.AuthFailure";
        S3Error::from(error)
    })?;
    exchange.audit().user = &verified.principal.user;
    let operation = Operation::classify(meant, &target)?;
    exchange.audit().operation = operation.name();
    let id = opening.id.as_str();
    let who = (registry, verified.principal);
    let request = Request::new(meant, operation, target, who, verified.payload, id, opening.arrived)?;
    if !head.framing.is_empty() {
        let trailer = Declared::trailer_of(&meant.headers, verified.payload)?;
        exchange.expect_body(Form::of(verified.payload, verified.chunks), request.length, trailer);
    }
    Ok(request)
}

/// Answers a head that is no request, or none in time.
async fn refuse(site: &Site, stream: &mut Stream, peer: &str, bytes: &[u8], error: &S3Error) {
    stream.deadline().arm(Phase::Body, site.view().server.body_progress_timeout);
    let mut scratch = site.scratch();
    client::refuse(site, stream, peer, asked_for(bytes), &mut scratch, error).await;
    site.give_back(scratch);
}

/// Bytes read away from a client that was answered before it had finished, so that a reset does not overtake the answer: many
/// clients send the whole of a part before they read.
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
const LINGER: std::time::Duration = std::time::Duration::from_secs(2);

/// Ends our direction, then lets the client finish speaking for a moment.
pub(super) async fn linger(stream: &mut Stream) {
    // An answer that is still on its way has its own time.
    if stream.settled().await.is_err() {
        return;
    }
    stream.deadline().arm(Phase::Body, LINGER);
    if stream.end().await.is_err() {
        return;
    }
    let mut waste = Buffer::from_bytes(&[0; 16 * 1024]);
    let mut left = LINGER_BYTES_MAX;
    while left > 0 {
        waste.clear();
        match stream.read_some(&mut waste).await {
            Ok(count @ 1..) => left = left.saturating_sub(count),
            Ok(0) | Err(_) => return,
        }
    }
}
