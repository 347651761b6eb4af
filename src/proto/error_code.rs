//! The errors that clients see: S3's code, its HTTP status and its text ("Error responses", Amazon S3 API reference).
//!
//! Decoders and handlers answer an `S3Error`; the connection writes it (proto/xml/result.rs). The text for the client comes
//! from this table or from whoever refused the client's own words, never from a cause inside; causes go to the log.

use std::borrow::Cow;
use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident $status:literal $message:literal,)*) => {
        /// Every code that this product answers.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum ErrorCode { $($(#[$doc])* $name),* }

        impl ErrorCode {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// As the `Code` element spells it.
            pub fn name(self) -> &'static str {
                let name = match self { $(Self::$name => stringify!($name)),* };
                if self == Self::UsageLimitExceeded { "SlowDown" } else { name }
            }

            pub fn http_status(self) -> u16 {
                match self { $(Self::$name => $status),* }
            }

            /// The text of the `Message` element unless the refusal has a better one.
            pub fn default_message(self) -> &'static str {
                match self { $(Self::$name => $message),* }
            }
        }
    };
}

// Code, HTTP status, default message.
codes! {
    AccessControlListNotSupported 400 "The bucket does not allow ACLs",
    AccessDenied 403 "Access Denied",
    /// A CORS preflight that no rule admits.
    AccessForbidden 403 "CORSResponse: This CORS request is not allowed.",
    AuthorizationHeaderMalformed 400 "The authorization header that you provided is not valid.",
    AuthorizationQueryParametersError 400 "The authorization query parameters that you provided are not valid.",
    BadDigest 400 "The Content-MD5 or checksum value that you specified did not match what the server received.",
    /// Bytes that are no HTTP request, or an ambiguous one.
    BadRequest 400 "The request could not be understood.",
    BucketAlreadyExists 409
        "The requested bucket name is not available. The bucket namespace is shared by all users of the system. Please \
         select a different name and try again.",
    BucketAlreadyOwnedByYou 409 "Your previous request to create the named bucket succeeded and you already own it.",
    BucketNotEmpty 409 "The bucket you tried to delete is not empty",
    ConditionalRequestConflict 409
        "The conditional request cannot succeed due to a conflicting operation against this resource.",
    EntityTooLarge 400 "Your proposed upload exceeds the maximum allowed size",
    EntityTooSmall 400 "Your proposed upload is smaller than the minimum allowed size",
    /// Not S3's: neither HTTP/1.1 nor HTTP/1.0.
    HttpVersionNotSupported 505 "The HTTP version of the request is not supported.",
    IllegalLocationConstraintException 400
        "The location constraint is incompatible for the region specific endpoint this request was sent to.",
    IncompleteBody 400 "You did not provide the number of bytes specified by the Content-Length HTTP header.",
    /// The reference system's code for "no backend has room".
    InsufficientStorage 507 "No backend has room for this object.",
    InternalError 500 "We encountered an internal error. Please try again.",
    InvalidAccessKeyId 403 "The AWS Access Key Id you provided does not exist in our records.",
    InvalidArgument 400 "Invalid Argument",
    InvalidBucketName 400 "The specified bucket is not valid.",
    InvalidDigest 400 "The Content-MD5 or checksum value that you specified is not valid.",
    InvalidLocationConstraint 400 "The specified location-constraint is not valid",
    InvalidPart 400
        "One or more of the specified parts could not be found. The part may not have been uploaded, or the \
         specified entity tag may not match the part's entity tag.",
    InvalidPartNumber 416 "The requested partnumber is not satisfiable",
    InvalidPartOrder 400 "The list of parts was not in ascending order. Parts must be ordered by part number.",
    InvalidPolicyDocument 400
        "The content of the form does not meet the conditions specified in the policy document.",
    InvalidRange 416 "The requested range is not satisfiable",
    InvalidRequest 400 "Invalid Request",
    InvalidStorageClass 400 "The storage class you specified is not valid",
    InvalidTag 400 "The tag provided was not a valid tag.",
    InvalidToken 400 "The provided token is malformed or otherwise invalid.",
    InvalidURI 400 "Couldn't parse the specified URI.",
    KeyTooLongError 400 "Your key is too long",
    MalformedPOSTRequest 400 "The body of your POST request is not well-formed multipart/form-data.",
    MalformedTrailerError 400
        "The request contained trailing data that was not well-formed or did not conform to our published schema.",
    MalformedXML 400 "The XML you provided was not well-formed or did not validate against our published schema",
    MaxPostPreDataLengthExceeded 400
        "Your POST request fields preceding the upload file were too large.",
    MetadataTooLarge 400 "Your metadata headers exceed the maximum allowed metadata size",
    MethodNotAllowed 405 "The specified method is not allowed against this resource.",
    MissingContentLength 411 "You must provide the Content-Length HTTP header.",
    MissingRequestBodyError 400 "Request Body is empty",
    MissingSecurityHeader 400 "Your request was missing a required header",
    NoSuchBucket 404 "The specified bucket does not exist",
    NoSuchBucketPolicy 404 "The bucket policy does not exist",
    NoSuchCORSConfiguration 404 "The CORS configuration does not exist",
    NoSuchKey 404 "The specified key does not exist.",
    NoSuchLifecycleConfiguration 404 "The lifecycle configuration does not exist",
    NoSuchPublicAccessBlockConfiguration 404 "The public access block configuration was not found",
    NoSuchTagSet 404 "The TagSet does not exist",
    NoSuchUpload 404
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or \
         completed.",
    NoSuchVersion 404 "The specified version does not exist.",
    NoSuchWebsiteConfiguration 404 "The specified bucket does not have a website configuration",
    NotImplemented 501 "A header or query parameter you provided implies functionality that is not implemented",
    /// No error to a client's eyes, and never a body: a condition of a GET or HEAD says that it has the bytes already.
    NotModified 304 "Not Modified",
    ObjectLockConfigurationNotFoundError 404 "Object Lock configuration does not exist for this bucket",
    OperationAborted 409
        "A conflicting conditional operation is currently in progress against this resource. Please try again.",
    PreconditionFailed 412 "At least one of the pre-conditions you specified did not hold",
    ReplicationConfigurationNotFoundError 404 "The replication configuration was not found",
    RequestHeaderSectionTooLarge 400
        "Your request header and query parameters used to make the request exceed the maximum allowed size.",
    RequestTimeTooSkewed 403 "The difference between the request time and the current time is too large.",
    RequestTimeout 400
        "Your socket connection to the server was not read from or written to within the timeout period.",
    ServerSideEncryptionConfigurationNotFoundError 404
        "The server side encryption configuration was not found",
    ServiceUnavailable 503 "Service is unable to handle request.",
    SignatureDoesNotMatch 403
        "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
    SlowDown 503 "Please reduce your request rate.",
    TooManyBuckets 400 "You have attempted to create more buckets than allowed",
    /// The reference system's answer to a read that no backend's monthly budget has room for: `SlowDown`, with status 429.
    UsageLimitExceeded 429 "The monthly usage limits of the backends leave no room for this request.",
    XAmzContentSHA256Mismatch 400 "The provided 'x-amz-content-sha256' header does not match what was computed.",
}

impl ErrorCode {
    /// AWS names the bucket in these.
    pub fn is_about_bucket(self) -> bool {
        matches!(
            self,
            Self::NoSuchBucket
                | Self::InvalidBucketName
                | Self::BucketAlreadyExists
                | Self::BucketAlreadyOwnedByYou
                | Self::BucketNotEmpty
                | Self::NoSuchBucketPolicy
                | Self::NoSuchCORSConfiguration
                | Self::NoSuchLifecycleConfiguration
                | Self::NoSuchPublicAccessBlockConfiguration
                | Self::NoSuchTagSet
                | Self::NoSuchWebsiteConfiguration
                | Self::ObjectLockConfigurationNotFoundError
                | Self::ReplicationConfigurationNotFoundError
                | Self::ServerSideEncryptionConfigurationNotFoundError
        )
    }
}

/// A refusal on its way to the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct S3Error {
    pub code: ErrorCode,
    /// The connection must end after the answer: what follows on it cannot be trusted to be a request.
    pub close: bool,
    message: Option<Cow<'static, str>>,
}

impl S3Error {
    /// With a text that says more than the table's. It is shown to the client.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, close: false, message: Some(message.into()) }
    }

    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    pub fn http_status(&self) -> u16 {
        self.code.http_status()
    }

    pub fn message(&self) -> &str {
        self.message.as_deref().unwrap_or_else(|| self.code.default_message())
    }
}

impl From<ErrorCode> for S3Error {
    fn from(code: ErrorCode) -> Self {
        Self { code, close: false, message: None }
    }
}

impl fmt::Display for S3Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message())
    }
}

impl std::error::Error for S3Error {}
