//! PostObject: a browser's upload. The write is PutObject's; the form says how success looks.

use super::object_headers::{write_checksums, write_etag};
use super::ports::{Exchange, Ports};
use super::put_object;
use super::request::{FormAnswer, Request};
use super::scratch::Scratch;
use super::trouble::Trouble;
use crate::proto::target::encode_percent;
use crate::proto::xml::{self, Posted};

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    let (etag, record) = put_object::store(ports, request, exchange).await?;
    let plain = FormAnswer::default();
    let form = request.form.unwrap_or(&plain);
    let host = request.head.header("host").and_then(|host| std::str::from_utf8(host).ok()).unwrap_or_default();
    let scheme = if ports.view().server.tls.is_some() { "https" } else { "http" };
    let location = format!("{scheme}://{host}{}", request.target.raw_path);
    let head = exchange.head();
    write_etag(head, &etag);
    write_checksums(head, &record.checksums);
    scratch.body.clear();
    if let Some(url) = &form.redirect {
        head.status = 303;
        head.field("location", &with_result(url, request, &etag));
    } else {
        head.status = form.status;
        head.field("location", &location);
        if form.status == 201 {
            head.field("content-type", "application/xml");
            let posted = Posted { location: &location, bucket: request.bucket(), key: request.key(), etag: &etag };
            xml::write_post_result(&mut scratch.body, &posted);
        }
    }
    exchange.respond(&scratch.body).await.map_err(|_| Trouble::Cut)
}

/// The page to go to learns bucket, key and ETag from its query.
fn with_result(url: &str, request: &Request<'_>, etag: &str) -> String {
    let mut url = format!("{url}{}bucket=", if url.contains('?') { '&' } else { '?' });
    encode_percent(request.bucket().as_bytes(), false, &mut url);
    url.push_str("&key=");
    encode_percent(request.key().as_bytes(), false, &mut url);
    url.push_str("&etag=%22");
    encode_percent(etag.as_bytes(), false, &mut url);
    url.push_str("%22");
    url
}
