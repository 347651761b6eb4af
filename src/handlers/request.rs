//! A request as handlers see it: read, classified and authenticated, its body still on the wire.
//!
//! Made by the connection (and by the simulator), borrowed by one call of `handlers::serve`. It never touches the body.

use crate::base::Tick;
use crate::config::Registry;
use crate::config::registry::Bucket;
use crate::policy::access::Principal;
use crate::proto::aws_chunked::decoded_length;
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::http1::{BodyFraming, RequestHead};
use crate::proto::operation::Operation;
use crate::proto::post::Form;
use crate::proto::sigv4::PayloadMode;
use crate::proto::target::{Query, Target};

#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    pub head: &'r RequestHead<'r>,
    pub operation: Operation,
    pub target: Target<'r>,
    /// Buckets and users as they were when the request began.
    pub registry: &'r Registry,
    pub principal: &'r Principal,
    /// What the signature says of the body.
    pub payload: PayloadMode,
    /// Bytes of the body without framing; None when nobody declared it (chunked transfer without aws-chunked).
    pub length: Option<u64>,
    /// As answered in `x-amz-request-id`.
    pub id: &'r str,
    /// When its head was complete.
    pub arrived: Tick,
    /// Of a PostObject.
    pub form: Option<&'r FormAnswer>,
}

/// How a browser upload's form wants success to be answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FormAnswer {
    /// 200, 201 or 204.
    pub status: u16,
    /// A page to go to instead.
    pub redirect: Option<String>,
}

impl Default for FormAnswer {
    fn default() -> Self {
        Self { status: 204, redirect: None }
    }
}

impl FormAnswer {
    /// What S3 cannot read, it ignores.
    pub fn of(form: &Form) -> Self {
        let status = match form.field("success_action_status").map(str::trim) {
            Some("200") => 200,
            Some("201") => 201,
            _ => 204,
        };
        let redirect = form.field("success_action_redirect").or_else(|| form.field("redirect")).map(str::trim);
        let is_url = |url: &&str| {
            (url.starts_with("http://") || url.starts_with("https://")) && url.bytes().all(|b| b.is_ascii_graphic())
        };
        Self { status, redirect: redirect.filter(is_url).map(str::to_owned) }
    }
}

impl<'r> Request<'r> {
    /// MissingContentLength or InvalidRequest when an aws-chunked body does not say how much it holds.
    pub fn new(
        head: &'r RequestHead<'r>,
        operation: Operation,
        target: Target<'r>,
        (registry, principal): (&'r Registry, &'r Principal),
        payload: PayloadMode,
        id: &'r str,
        arrived: Tick,
    ) -> Result<Self, S3Error> {
        let length = match (payload.is_streaming(), head.framing) {
            (true, _) => Some(decoded_length(&head.headers)?),
            (false, BodyFraming::None) => Some(0),
            (false, BodyFraming::Length(bytes)) => Some(bytes),
            (false, BodyFraming::Chunked) => None,
        };
        Ok(Self { head, operation, target, registry, principal, payload, length, id, arrived, form: None })
    }

    /// Empty for an operation on the service.
    pub fn bucket(&self) -> &'r str {
        self.target.bucket.unwrap_or_default()
    }

    /// What is known of the bucket, which exists: that was found before the dispatch.
    pub fn home(&self) -> Result<&'r Bucket, S3Error> {
        self.registry.bucket(self.bucket()).ok_or_else(|| ErrorCode::NoSuchBucket.into())
    }

    /// Decoded, byte for byte; empty for an operation on a bucket.
    pub fn key(&self) -> &'r str {
        self.target.key.unwrap_or_default()
    }

    pub fn query(&self) -> Query<'r> {
        self.target.query
    }

    /// Length of a body that becomes an object or a part: it must have been declared, 0 included. MissingContentLength.
    pub fn object_length(&self) -> Result<u64, S3Error> {
        let declared = self.payload.is_streaming() || self.head.framing != BodyFraming::None;
        self.length.filter(|_| declared).ok_or_else(|| ErrorCode::MissingContentLength.into())
    }
}
