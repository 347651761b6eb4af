//! Why a request was not accepted as signed: the S3 error code and the text that AWS sends with it.

use crate::proto::error_code::{ErrorCode, S3Error};
use std::borrow::Cow;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AuthError {
    /// Neither an Authorization header nor a signature in the query.
    Anonymous,
    /// The parameters of a presigned URL are not all there or not well-formed; the text says which.
    QueryParameters(Cow<'static, str>),
    /// A presigned URL whose time has run out.
    Expired,
    /// A presigned URL of the future.
    NotYetValid,
    /// A session token: no temporary credentials are ever given out here.
    SessionToken,
    /// More than one Authorization header, or one beside a signature in the query.
    SeveralMechanisms,
    /// An Authorization header of another scheme than AWS's.
    UnsupportedScheme,
    /// An older or newer signature version of AWS.
    UnsupportedVersion,
    /// An Authorization header that we cannot read; the text says where it went wrong.
    Malformed(&'static str),
    /// The scope names another region than the one we were configured to insist on.
    WrongRegion {
        sent: Box<str>,
        expected: Box<str>,
    },
    /// The scope's date is not the request's.
    WrongDay,
    /// No date, or one that we cannot read.
    NoDate,
    RequestTimeTooSkewed,
    MissingContentSha256,
    BadContentSha256,
    /// `host` or an `x-amz-*` header is outside of the signature.
    HeadersNotSigned,
    TooManyParameters,
    InvalidAccessKeyId,
    SignatureDoesNotMatch,
}

impl AuthError {
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Anonymous | Self::NoDate | Self::HeadersNotSigned | Self::Expired | Self::NotYetValid => {
                ErrorCode::AccessDenied
            }
            Self::QueryParameters(_) => ErrorCode::AuthorizationQueryParametersError,
            Self::SessionToken => ErrorCode::InvalidToken,
            Self::SeveralMechanisms | Self::UnsupportedScheme | Self::BadContentSha256 => ErrorCode::InvalidArgument,
            Self::UnsupportedVersion | Self::MissingContentSha256 | Self::TooManyParameters => {
                ErrorCode::InvalidRequest
            }
            Self::Malformed(_) | Self::WrongRegion { .. } | Self::WrongDay => ErrorCode::AuthorizationHeaderMalformed,
            Self::RequestTimeTooSkewed => ErrorCode::RequestTimeTooSkewed,
            Self::InvalidAccessKeyId => ErrorCode::InvalidAccessKeyId,
            Self::SignatureDoesNotMatch => ErrorCode::SignatureDoesNotMatch,
        }
    }

    /// The text for the client; None: the code's own.
    fn message(&self) -> Option<Cow<'static, str>> {
        let text = match self {
            Self::Anonymous | Self::SessionToken => return None,
            Self::QueryParameters(text) => return Some(text.clone()),
            Self::Expired => "Request has expired",
            Self::NotYetValid => "Request is not valid yet",
            Self::RequestTimeTooSkewed | Self::InvalidAccessKeyId | Self::SignatureDoesNotMatch => return None,
            Self::SeveralMechanisms => {
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string \
                 parameter or the Authorization header should be specified"
            }
            Self::UnsupportedScheme => "Unsupported Authorization Type",
            Self::UnsupportedVersion => {
                "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
            }
            Self::Malformed(reason) => {
                return Some(format!("The authorization header is malformed; {reason}").into());
            }
            Self::WrongRegion { sent, expected } => {
                let text = format!(
                    "The authorization header is malformed; the region '{sent}' is wrong; expecting '{expected}'"
                );
                return Some(text.into());
            }
            Self::WrongDay => {
                "The authorization header is malformed; the credential date is not the same as the date of the request."
            }
            Self::NoDate => "AWS authentication requires a valid Date or x-amz-date header",
            Self::MissingContentSha256 => "Missing required header for this request: x-amz-content-sha256",
            Self::BadContentSha256 => {
                "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, \
                 STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value."
            }
            Self::HeadersNotSigned => "There were headers present in the request which were not signed",
            Self::TooManyParameters => "The request has too many query parameters.",
        };
        Some(text.into())
    }
}

impl AuthError {
    /// The same fault of a credential that stands in a presigned URL.
    pub(super) fn in_query(self) -> Self {
        const PARAMETER: &str = "Error parsing the X-Amz-Credential parameter;";
        match self {
            Self::Malformed(reason) => Self::QueryParameters(format!("{PARAMETER} {reason}").into()),
            Self::WrongRegion { sent, expected } => {
                let text = format!("{PARAMETER} the region '{sent}' is wrong; expecting '{expected}'");
                Self::QueryParameters(text.into())
            }
            Self::WrongDay => {
                Self::QueryParameters("Invalid credential date. This date is not the same as X-Amz-Date.".into())
            }
            other => other,
        }
    }
}

impl From<AuthError> for S3Error {
    fn from(error: AuthError) -> Self {
        match error.message() {
            Some(message) => Self::new(error.code(), message),
            None => error.code().into(),
        }
    }
}
