//! A browser upload on its way in: the form's fields are read up to the file, its policy is verified, and the rest is an
//! ordinary write whose body is the file.
//!
//! Called by the connection for `multipart/form-data` sent to a bucket. Never decides what a policy allows (proto/post).

use super::buffer::Buffer;
use super::client::{ClientExchange, Opening};
use super::client_body::ClientBody;
use super::deadline::Phase;
use super::site::Site;
use crate::base::limits::{HEAD_BYTES_MAX, REPLAY_BYTES_MAX};
use crate::config::Registry;
use crate::handlers::request::{FormAnswer, Request};
use crate::handlers::{self, trouble};
use crate::policy::access::Principal;
use crate::proto::body_error::BodyError;
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::http1::{BadHead, BodyFraming, RequestHead};
use crate::proto::operation::Operation;
use crate::proto::post::{Ending, Form, Policy};
use crate::proto::sigv4::{PayloadMode, PolicySignature};
use crate::proto::target::{Target, encode_percent};
use crate::proto::xml;
use std::io;

/// All fields before the file (S3's limit).
const FIELDS_BYTES_MAX: usize = 20 * 1024;
/// Header fields that a form may carry for its object, as form fields of the same name.
const OBJECT_FIELDS: [&str; 7] = [
    "cache-control",
    "content-type",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-md5",
    "expires",
];

/// Answers the upload. `bucket` is the target's, `hosted` the one that the Host names.
pub async fn serve<'c>(
    (site, registry): (&'c Site, &'c Registry),
    opening: &'c Opening<'c>,
    (bucket, hosted): (&str, Option<&str>),
    boundary: &str,
    kept: &mut handlers::scratch::Scratch,
    exchange: &mut ClientExchange<'c>,
) {
    exchange.audit().operation = Operation::PostObject.name();
    let id = opening.id.as_str();
    let (mut text, mut path) = (Vec::new(), String::new());
    let read = read((site, registry), opening, bucket, boundary, exchange).await;
    let request = read.and_then(|(form, principal, size)| {
        let answer = FormAnswer::of(&form);
        write_head(&mut text, opening.head, &form, size, hosted.is_none().then_some(bucket))?;
        let meant = RequestHead::parse(&text, &mut 0).map_err(BadHead::to_s3_error)?;
        let meant = meant.ok_or(ErrorCode::MalformedPOSTRequest)?;
        Ok((answer, Box::new(meant), principal))
    });
    let outcome = match &request {
        Ok((answer, meant, principal)) => request_of(answer, meant, (registry, principal), opening, hosted, &mut path),
        Err(error) => Err(error.clone()),
    };
    match outcome {
        Ok(request) => handlers::serve(&*site.ports, &request, exchange, kept).await,
        Err(error) => trouble::refuse(opening.head, id, exchange, kept, &error).await,
    }
}

fn request_of<'r>(
    answer: &'r FormAnswer,
    meant: &'r RequestHead<'r>,
    who: (&'r Registry, &'r Principal),
    opening: &'r Opening<'_>,
    hosted: Option<&str>,
    path: &'r mut String,
) -> Result<Request<'r>, S3Error> {
    let target = Target::parse(meant.target, hosted, path)?;
    Operation::PostObject.check(meant, &target)?;
    let payload = PayloadMode::Unsigned;
    let id = opening.id.as_str();
    let request = Request::new(meant, Operation::PostObject, target, who, payload, id, opening.arrived)?;
    Ok(Request { form: Some(answer), ..request })
}

/// The form, who signed its policy, and the file's length. The body is then at the file's first byte.
async fn read<'c>(
    (site, registry): (&'c Site, &'c Registry),
    opening: &Opening<'_>,
    bucket: &str,
    boundary: &str,
    exchange: &mut ClientExchange<'c>,
) -> Result<(Form, &'c Principal, u64), S3Error> {
    let BodyFraming::Length(total) = opening.head.framing else { return Err(ErrorCode::MissingContentLength.into()) };
    exchange.before_body().await.map_err(|_| broken())?;
    let mut form = read_fields(exchange, total, boundary).await?;
    form.fill_in();
    let principal = authenticate((site, registry), &form, exchange)?;
    exchange.audit().user = &principal.user;
    let policy = Policy::parse(form.required("policy")?)?;
    policy.check(&form, bucket, site.now())?;
    exchange.note_form_key(form.required("key")?);
    let size = reach_file(exchange, &form, total, boundary).await?;
    policy.check_length(size)?;
    Ok((form, principal, size))
}

fn too_long() -> S3Error {
    ErrorCode::MaxPostPreDataLengthExceeded.into()
}

/// Reads until the file begins. Nothing is consumed yet, so that a refused form can be read away.
async fn read_fields(exchange: &mut ClientExchange<'_>, total: u64, boundary: &str) -> Result<Form, S3Error> {
    loop {
        let ahead = exchange.ahead.as_mut().ok_or(ErrorCode::MalformedPOSTRequest)?;
        let have = ahead.len().min(usize::try_from(total).unwrap_or(usize::MAX));
        if let Some(form) = Form::read(&ahead.data()[..have], boundary)? {
            return if form.file_at <= FIELDS_BYTES_MAX { Ok(form) } else { Err(too_long()) };
        }
        if have as u64 == total {
            return Err(ErrorCode::MalformedPOSTRequest.into());
        }
        if have >= FIELDS_BYTES_MAX {
            return Err(too_long());
        }
        read_ahead(exchange, total - have as u64).await?;
    }
}

async fn read_ahead(exchange: &mut ClientExchange<'_>, limit: u64) -> Result<(), S3Error> {
    let ahead = exchange.ahead.as_mut().ok_or(ErrorCode::MalformedPOSTRequest)?;
    if ahead.spare() == 0 {
        ahead.compact();
    }
    exchange.stream.deadline().arm(Phase::Input, exchange.site.view().server.body_progress_timeout);
    let read = exchange.stream.read_at_most(ahead, usize::try_from(limit).unwrap_or(usize::MAX)).await;
    if !exchange.stream.deadline().hit() {
        exchange.stream.deadline().disarm();
    }
    match read {
        Ok(1..) => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::TimedOut => {
            exchange.count_timeout();
            Err(S3Error::from(ErrorCode::RequestTimeout).closing())
        }
        Ok(0) | Err(_) => Err(broken()),
    }
}

fn broken() -> S3Error {
    S3Error::from(BodyError::Incomplete).closing()
}

fn authenticate<'c>(
    (site, registry): (&'c Site, &'c Registry),
    form: &Form,
    exchange: &mut ClientExchange<'c>,
) -> Result<&'c Principal, S3Error> {
    let signed = ["policy", "x-amz-signature", "signature", "awsaccesskeyid", "x-amz-credential"];
    if !signed.iter().any(|name| form.field(name).is_some()) {
        return Err(ErrorCode::AccessDenied.into());
    }
    let policy = form.required("policy")?;
    let token = form.field("x-amz-security-token");
    let signature = if form.field("x-amz-algorithm").is_none() && form.field("awsaccesskeyid").is_some() {
        PolicySignature::V2 { access_key: form.required("awsaccesskeyid")?, signature: form.required("signature")? }
    } else {
        PolicySignature::V4 {
            algorithm: form.required("x-amz-algorithm")?,
            credential: form.required("x-amz-credential")?,
            date: form.required("x-amz-date")?,
            signature: form.required("x-amz-signature")?,
        }
    };
    let find = |key: &str| registry.credential(key).map(|one| (&one.secret_access_key, &one.principal));
    let region = site.view().server.region.as_deref();
    let verified = site.verifier.borrow_mut().verify_policy(policy, signature, token, region, find);
    verified.map_err(|error| {
        site.cells().auth_failures.inc();
        exchange.audit().event = "s3.AuthFailure";
        S3Error::from(error)
    })
}

/// Goes to the file's first byte and finds its length: exactly for what can be held in one buffer; of more, the file must be
/// the last part of the form, because a backend wants to know a length before the first byte.
async fn reach_file(
    exchange: &mut ClientExchange<'_>,
    form: &Form,
    total: u64,
    boundary: &str,
) -> Result<u64, S3Error> {
    let ahead = exchange.ahead.as_mut().ok_or(ErrorCode::MalformedPOSTRequest)?;
    ahead.consume(form.file_at);
    let left = total - form.file_at as u64;
    exchange.body = ClientBody::new(BodyFraming::Length(left), None, None, None);
    let size = if left <= REPLAY_BYTES_MAX {
        let mut all = Buffer::roomy(HEAD_BYTES_MAX.max(left as usize) + ahead.len());
        all.append(ahead.data());
        *ahead = all;
        loop {
            let ahead = exchange.ahead.as_ref().ok_or(ErrorCode::MalformedPOSTRequest)?;
            let have = ahead.len() as u64;
            if have >= left {
                break Ending::find(boundary, &ahead.data()[..left as usize])?;
            }
            read_ahead(exchange, left - have).await?;
        }
    } else {
        Ending::expect(boundary, left).ok_or(ErrorCode::MalformedPOSTRequest)?
    };
    exchange.body = ClientBody::of_form(left, size, Ending::new(boundary, size));
    Ok(size)
}

/// The head of the PUT that the form amounts to. `in_path` is the bucket if it stands in the path.
fn write_head(
    text: &mut Vec<u8>,
    head: &RequestHead<'_>,
    form: &Form,
    size: u64,
    in_path: Option<&str>,
) -> Result<(), S3Error> {
    let mut path = String::from("/");
    if let Some(bucket) = in_path {
        encode_percent(bucket.as_bytes(), false, &mut path);
        path.push('/');
    }
    let key = form.required("key")?;
    if key.is_empty() {
        let text = "User key must have a length greater than 0.";
        return Err(S3Error::new(ErrorCode::InvalidArgument, text));
    }
    encode_percent(key.as_bytes(), true, &mut path);
    text.extend_from_slice(format!("PUT {path} HTTP/1.1\r\ncontent-length: {size}\r\n").as_bytes());
    let host = head.header("host").unwrap_or_default();
    write_field(text, "host", host)?;
    for (name, value) in &form.fields {
        let name = match name.as_str() {
            "acl" => "x-amz-acl",
            "tagging" => {
                write_tags(text, form, value)?;
                continue;
            }
            "x-amz-algorithm" | "x-amz-credential" | "x-amz-date" | "x-amz-signature" | "x-amz-security-token" => {
                continue;
            }
            name if name.starts_with("x-amz-") || OBJECT_FIELDS.contains(&name) => name,
            _ => continue,
        };
        write_field(text, name, value.as_bytes())?;
    }
    text.extend_from_slice(b"\r\n");
    Ok(())
}

/// The document that a form has in place of the header.
fn write_tags(text: &mut Vec<u8>, form: &Form, document: &str) -> Result<(), S3Error> {
    if form.field("x-amz-tagging").is_some() {
        return Err(S3Error::new(ErrorCode::InvalidArgument, "The form has tags in two of its fields."));
    }
    let mut query = String::new();
    for (name, value) in xml::read_tagging(document.as_bytes())? {
        if !query.is_empty() {
            query.push('&');
        }
        encode_percent(name.as_bytes(), false, &mut query);
        query.push('=');
        encode_percent(value.as_bytes(), false, &mut query);
    }
    write_field(text, "x-amz-tagging", query.as_bytes())
}

/// A field that cannot become two.
fn write_field(text: &mut Vec<u8>, name: &str, value: &[u8]) -> Result<(), S3Error> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !name.bytes().all(token) || value.iter().any(u8::is_ascii_control) {
        let text = "A field of the form has a name or value that no header field can have.";
        return Err(S3Error::new(ErrorCode::InvalidArgument, text));
    }
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b": ");
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\n");
    Ok(())
}
