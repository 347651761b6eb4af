//! A request as handlers see it: read, classified and authenticated, its body still on the wire.
//!
//! Made by the connection (and by the simulator), borrowed by one call of `handlers::serve`. It never touches the body.

use crate::base::Tick;
use crate::policy::access::Principal;
use crate::proto::aws_chunked::decoded_length;
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::http1::{BodyFraming, RequestHead};
use crate::proto::operation::Operation;
use crate::proto::sigv4::PayloadMode;
use crate::proto::target::{Query, Target};

#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    pub head: &'r RequestHead<'r>,
    pub operation: Operation,
    pub target: Target<'r>,
    pub principal: &'r Principal,
    /// What the signature says of the body.
    pub payload: PayloadMode,
    /// Bytes of the body without framing; None when nobody declared it (chunked transfer without aws-chunked).
    pub length: Option<u64>,
    /// As answered in `x-amz-request-id`.
    pub id: &'r str,
    /// When its head was complete.
    pub arrived: Tick,
}

impl<'r> Request<'r> {
    /// MissingContentLength or InvalidRequest when an aws-chunked body does not say how much it holds.
    pub fn new(
        head: &'r RequestHead<'r>,
        operation: Operation,
        target: Target<'r>,
        principal: &'r Principal,
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
        Ok(Self { head, operation, target, principal, payload, length, id, arrived })
    }

    /// Empty for an operation on the service.
    pub fn bucket(&self) -> &'r str {
        self.target.bucket.unwrap_or_default()
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
