//! Which S3 operation a request asks for, decided once from method, target and headers before anything else happens.
//!
//! The name is used for authorization, metrics and audit alike. Query keys and meaningful headers are allow-listed per
//! operation: what is not known is answered NotImplemented and never falls through to a plain read or write of the object
//! (`PUT ?tagging` must not store the tags as the object's bytes).

use super::error_code::{ErrorCode, S3Error};
use super::fields::{Fields, of_amz};
use super::http1::{Method, RequestHead};
use super::target::{Query, Target, decode_query};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    ListBuckets,
    HeadBucket,
    CreateBucket,
    DeleteBucket,
    GetBucketLocation,
    GetBucketVersioning,
    GetBucketAcl,
    PutBucketAcl,
    /// What a bucket is asked about that nobody can set here (`CONFIGURATIONS`).
    GetBucketConfiguration,
    GetObjectAcl,
    PutObjectAcl,
    ListObjects,
    ListObjectsV2,
    ListObjectVersions,
    DeleteObjects,
    GetObject,
    HeadObject,
    PutObject,
    CopyObject,
    /// A browser's upload by form.
    PostObject,
    DeleteObject,
    GetObjectTagging,
    PutObjectTagging,
    DeleteObjectTagging,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
    ListMultipartUploads,
    GetObjectAttributes,
}

impl Operation {
    pub const ALL: [Self; 32] = [
        Self::ListBuckets,
        Self::HeadBucket,
        Self::CreateBucket,
        Self::DeleteBucket,
        Self::GetBucketLocation,
        Self::GetBucketVersioning,
        Self::GetBucketAcl,
        Self::PutBucketAcl,
        Self::GetBucketConfiguration,
        Self::GetObjectAcl,
        Self::PutObjectAcl,
        Self::ListObjects,
        Self::ListObjectsV2,
        Self::ListObjectVersions,
        Self::DeleteObjects,
        Self::GetObject,
        Self::HeadObject,
        Self::PutObject,
        Self::CopyObject,
        Self::PostObject,
        Self::DeleteObject,
        Self::GetObjectTagging,
        Self::PutObjectTagging,
        Self::DeleteObjectTagging,
        Self::CreateMultipartUpload,
        Self::UploadPart,
        Self::UploadPartCopy,
        Self::CompleteMultipartUpload,
        Self::AbortMultipartUpload,
        Self::ListParts,
        Self::ListMultipartUploads,
        Self::GetObjectAttributes,
    ];

    /// As S3's API reference, metrics and audit records call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ListBuckets => "ListBuckets",
            Self::HeadBucket => "HeadBucket",
            Self::CreateBucket => "CreateBucket",
            Self::DeleteBucket => "DeleteBucket",
            Self::GetBucketLocation => "GetBucketLocation",
            Self::GetBucketVersioning => "GetBucketVersioning",
            Self::GetBucketAcl => "GetBucketAcl",
            Self::PutBucketAcl => "PutBucketAcl",
            Self::GetBucketConfiguration => "GetBucketConfiguration",
            Self::GetObjectAcl => "GetObjectAcl",
            Self::PutObjectAcl => "PutObjectAcl",
            Self::ListObjects => "ListObjects",
            Self::ListObjectsV2 => "ListObjectsV2",
            Self::ListObjectVersions => "ListObjectVersions",
            Self::DeleteObjects => "DeleteObjects",
            Self::GetObject => "GetObject",
            Self::HeadObject => "HeadObject",
            Self::PutObject => "PutObject",
            Self::CopyObject => "CopyObject",
            Self::PostObject => "PostObject",
            Self::DeleteObject => "DeleteObject",
            Self::GetObjectTagging => "GetObjectTagging",
            Self::PutObjectTagging => "PutObjectTagging",
            Self::DeleteObjectTagging => "DeleteObjectTagging",
            Self::CreateMultipartUpload => "CreateMultipartUpload",
            Self::UploadPart => "UploadPart",
            Self::UploadPartCopy => "UploadPartCopy",
            Self::CompleteMultipartUpload => "CompleteMultipartUpload",
            Self::AbortMultipartUpload => "AbortMultipartUpload",
            Self::ListParts => "ListParts",
            Self::ListMultipartUploads => "ListMultipartUploads",
            Self::GetObjectAttributes => "GetObjectAttributes",
        }
    }

    /// The operation, or the exact refusal: NotImplemented for what S3 has and this product has not, MethodNotAllowed for
    /// what S3 has not either.
    pub fn classify(head: &RequestHead<'_>, target: &Target<'_>) -> Result<Self, S3Error> {
        refuse_unknown_query(&target.query)?;
        let operation = match (target.bucket, target.key) {
            (None, _) => of_service(head.method),
            (Some(_), None) => of_bucket(head.method, &target.query),
            (Some(_), Some(_)) => of_object(head.method, &target.query, head.header("x-amz-copy-source").is_some()),
        }?;
        operation.check(head, target)?;
        Ok(operation)
    }

    /// Whether everything that the request says is understood for this operation.
    pub fn check(self, head: &RequestHead<'_>, target: &Target<'_>) -> Result<(), S3Error> {
        self.check_query(&target.query)?;
        self.check_headers(head)
    }

    /// Query keys that it understands, besides `x-id`, which SDKs add to every request and which says nothing new.
    fn query_keys(self) -> &'static [&'static str] {
        match self {
            Self::GetBucketLocation => &["location"],
            Self::GetBucketVersioning => &["versioning"],
            Self::ListObjects => &["prefix", "delimiter", "max-keys", "marker", "encoding-type"],
            Self::ListObjectsV2 => &[
                "list-type",
                "prefix",
                "delimiter",
                "max-keys",
                "continuation-token",
                "start-after",
                "encoding-type",
                "fetch-owner",
            ],
            Self::ListObjectVersions => {
                &["versions", "prefix", "delimiter", "max-keys", "key-marker", "version-id-marker", "encoding-type"]
            }
            Self::DeleteObjects => &["delete"],
            Self::GetObjectTagging | Self::PutObjectTagging | Self::DeleteObjectTagging => &["tagging", "versionId"],
            Self::GetBucketAcl | Self::PutBucketAcl => &["acl"],
            Self::GetObjectAcl | Self::PutObjectAcl => &["acl", "versionId"],
            Self::GetBucketConfiguration => &CONFIGURATIONS,
            Self::DeleteObject => &["versionId"],
            Self::ListBuckets => &["prefix", "max-buckets", "continuation-token", "bucket-region"],
            Self::CreateMultipartUpload => &["uploads"],
            Self::UploadPart | Self::UploadPartCopy => &["uploadId", "partNumber"],
            Self::CompleteMultipartUpload | Self::AbortMultipartUpload => &["uploadId"],
            Self::ListParts => &["uploadId", "max-parts", "part-number-marker", "encoding-type"],
            Self::ListMultipartUploads => {
                &["uploads", "prefix", "delimiter", "key-marker", "upload-id-marker", "max-uploads", "encoding-type"]
            }
            Self::GetObject | Self::HeadObject => &READ_KEYS,
            Self::GetObjectAttributes => &["attributes", "versionId"],
            Self::HeadBucket
            | Self::CreateBucket
            | Self::DeleteBucket
            | Self::PutObject
            | Self::CopyObject
            | Self::PostObject => &[],
        }
    }

    fn check_query(self, query: &Query<'_>) -> Result<(), S3Error> {
        for (raw_name, value) in query.raw_pairs() {
            let name = decode_query(raw_name)?;
            if name != "x-id" && !self.query_keys().contains(&&*name) {
                return Err(not_implemented_query(&name));
            }
            if name == "versionId" {
                check_version(&decode_query(value)?)?;
            }
        }
        Ok(())
    }

    /// Headers that ask for something which would silently not happen. What may be ignored without harm is ignored.
    fn check_headers(self, head: &RequestHead<'_>) -> Result<(), S3Error> {
        let creates = matches!(
            self,
            Self::CreateBucket | Self::PutObject | Self::PostObject | Self::CopyObject | Self::CreateMultipartUpload
        );
        let takes_acl = creates || matches!(self, Self::PutBucketAcl | Self::PutObjectAcl);
        let copies = matches!(self, Self::CopyObject | Self::UploadPartCopy);
        for (name, value) in head.headers.fields() {
            let Some(rest) = of_amz(name) else { continue };
            let is = |tail: &str| rest.eq_ignore_ascii_case(tail.as_bytes());
            let begins =
                |start: &str| rest.get(..start.len()).is_some_and(|part| part.eq_ignore_ascii_case(start.as_bytes()));
            let unknown = (is("copy-source") && !copies)
                || begins("copy-source-server-side-encryption")
                || begins("server-side-encryption")
                || is("write-offset-bytes")
                || is("mfa")
                || self != Self::DeleteObject && (is("if-match-last-modified-time") || is("if-match-size"))
                || (creates && (begins("object-lock-") || is("website-redirect-location")))
                || is("bucket-object-lock-enabled") && !value.eq_ignore_ascii_case(b"false")
                || is("object-ownership") && value != b"BucketOwnerEnforced"
                || is("bucket-namespace");
            if unknown {
                let text = format!("The header {} is not supported.", name.escape_ascii());
                return Err(S3Error::new(ErrorCode::NotImplemented, text));
            }
            if takes_acl && begins("grant-")
                || takes_acl && is("acl") && !matches!(value, b"" | b"private" | b"bucket-owner-full-control")
            {
                return Err(ErrorCode::AccessControlListNotSupported.into());
            }
            if creates && is("storage-class") && value != b"STANDARD" {
                return Err(ErrorCode::InvalidStorageClass.into());
            }
        }
        Ok(())
    }
}

/// A part by its number, and fields of the answer.
const READ_KEYS: [&str; 8] = [
    "versionId",
    "partNumber",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
];

/// A key that no operation knows is never a reason to guess another operation.
fn refuse_unknown_query(query: &Query<'_>) -> Result<(), S3Error> {
    for (raw_name, _) in query.raw_pairs() {
        let name = decode_query(raw_name)?;
        if name != "x-id" && !Operation::ALL.iter().any(|operation| operation.query_keys().contains(&&*name)) {
            return Err(not_implemented_query(&name));
        }
    }
    Ok(())
}

fn not_implemented_query(name: &str) -> S3Error {
    let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    S3Error::new(ErrorCode::NotImplemented, format!("The query parameter {shown} is not supported here."))
}

fn of_service(method: Method) -> Result<Operation, S3Error> {
    match method {
        Method::Get => Ok(Operation::ListBuckets),
        other => Err(refused_method(other)),
    }
}

fn of_bucket(method: Method, query: &Query<'_>) -> Result<Operation, S3Error> {
    match method {
        Method::Head => Ok(Operation::HeadBucket),
        Method::Get if query.has("location") => Ok(Operation::GetBucketLocation),
        Method::Get if query.has("uploads") => Ok(Operation::ListMultipartUploads),
        Method::Get if query.has("list-type") => Ok(Operation::ListObjectsV2),
        Method::Get if query.has("versioning") => Ok(Operation::GetBucketVersioning),
        Method::Get if query.has("acl") => Ok(Operation::GetBucketAcl),
        Method::Get if CONFIGURATIONS.iter().any(|one| query.has(one)) => Ok(Operation::GetBucketConfiguration),
        Method::Get if query.has("versions") => Ok(Operation::ListObjectVersions),
        Method::Get => Ok(Operation::ListObjects),
        Method::Post if query.has("delete") => Ok(Operation::DeleteObjects),
        Method::Post if query.is_empty() => Err(not_a_form()),
        Method::Put if query.has("versioning") => Err(not_implemented("PutBucketVersioning")),
        Method::Put if query.has("acl") => Ok(Operation::PutBucketAcl),
        Method::Put | Method::Delete if let Some(name) = CONFIGURATIONS.iter().find(|one| query.has(one)) => {
            Err(not_implemented_query(name))
        }
        Method::Put if says_nothing(query) => Ok(Operation::CreateBucket),
        Method::Delete if says_nothing(query) => Ok(Operation::DeleteBucket),
        other => Err(refused_method(other)),
    }
}

/// Sub-resources of a bucket that can be read as nobody has set them, and not written.
pub const CONFIGURATIONS: [&str; 15] = [
    "accelerate",
    "cors",
    "encryption",
    "lifecycle",
    "logging",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "tagging",
    "website",
];

/// The only version of an object in an unversioned bucket is called `null`. What could be the id of another is
/// NoSuchVersion, the rest InvalidArgument.
pub fn check_version(id: &str) -> Result<(), S3Error> {
    let possible = id.len() == 32 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    match id {
        "null" => Ok(()),
        "" => Err(S3Error::new(ErrorCode::InvalidArgument, "Version id cannot be the empty string")),
        _ if possible => Err(ErrorCode::NoSuchVersion.into()),
        _ => Err(S3Error::new(ErrorCode::InvalidArgument, "Invalid version id specified")),
    }
}

/// Whether the query names no sub-resource.
fn says_nothing(query: &Query<'_>) -> bool {
    query.raw_pairs().all(|(name, _)| name == "x-id")
}

fn of_object(method: Method, query: &Query<'_>, has_source: bool) -> Result<Operation, S3Error> {
    let upload = query.has("uploadId");
    let part = query.has("partNumber");
    let tagging = query.has("tagging");
    match method {
        Method::Get if upload => Ok(Operation::ListParts),
        Method::Get if query.has("attributes") => Ok(Operation::GetObjectAttributes),
        Method::Get if tagging => Ok(Operation::GetObjectTagging),
        Method::Get if query.has("acl") => Ok(Operation::GetObjectAcl),
        Method::Get => Ok(Operation::GetObject),
        Method::Head => Ok(Operation::HeadObject),
        Method::Put if upload && part && has_source => Ok(Operation::UploadPartCopy),
        Method::Put if upload && part => Ok(Operation::UploadPart),
        Method::Put if upload || part => {
            Err(S3Error::new(ErrorCode::InvalidArgument, "uploadId and partNumber must be given together."))
        }
        Method::Put if tagging => Ok(Operation::PutObjectTagging),
        Method::Put if query.has("acl") => Ok(Operation::PutObjectAcl),
        Method::Put if has_source => Ok(Operation::CopyObject),
        Method::Put => Ok(Operation::PutObject),
        Method::Post if query.has("uploads") => Ok(Operation::CreateMultipartUpload),
        Method::Post if upload => Ok(Operation::CompleteMultipartUpload),
        Method::Delete if upload => Ok(Operation::AbortMultipartUpload),
        Method::Delete if tagging => Ok(Operation::DeleteObjectTagging),
        Method::Delete => Ok(Operation::DeleteObject),
        other => Err(refused_method(other)),
    }
}

fn not_implemented(operation: &'static str) -> S3Error {
    S3Error::new(ErrorCode::NotImplemented, format!("{operation} is not implemented."))
}

/// Forms are answered before operations are told apart: this is a POST of something else.
fn not_a_form() -> S3Error {
    S3Error::new(ErrorCode::PreconditionFailed, "Bucket POST must be of the enclosure-type multipart/form-data")
}

/// OPTIONS asks for CORS, which is not there; a word that is no method of HTTP is not implemented by anybody.
fn refused_method(method: Method) -> S3Error {
    match method {
        Method::Options | Method::Other => {
            S3Error::new(ErrorCode::NotImplemented, "The method of the request is not implemented.")
        }
        _ => ErrorCode::MethodNotAllowed.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(request: &str, fields: &str) -> Result<Operation, ErrorCode> {
        let text = format!("{request} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let head = RequestHead::parse(text.as_bytes(), &mut 0).expect(request).expect("complete");
        let mut scratch = String::new();
        let target = Target::parse(head.target, None, &mut scratch).expect(request);
        Operation::classify(&head, &target).map_err(|error| error.code)
    }

    #[test]
    fn every_operation_is_recognised() {
        for (request, want) in [
            ("GET /", Operation::ListBuckets),
            ("GET /?x-id=ListBuckets", Operation::ListBuckets),
            ("HEAD /b", Operation::HeadBucket),
            ("HEAD /b/", Operation::HeadBucket),
            ("PUT /b", Operation::CreateBucket),
            ("PUT /b/?x-id=CreateBucket", Operation::CreateBucket),
            ("DELETE /b", Operation::DeleteBucket),
            ("GET /b?location", Operation::GetBucketLocation),
            ("GET /b/?location=", Operation::GetBucketLocation),
            ("GET /b?list-type=2", Operation::ListObjectsV2),
            (
                "GET /b?list-type=2&prefix=a&delimiter=%2F&max-keys=5&continuation-token=x&start-after=y\
                 &encoding-type=url&fetch-owner=true",
                Operation::ListObjectsV2,
            ),
            ("GET /b?list%2Dtype=2", Operation::ListObjectsV2),
            ("GET /b", Operation::ListObjects),
            ("GET /b/?prefix=a&delimiter=%2F&max-keys=5&marker=b&encoding-type=url", Operation::ListObjects),
            ("GET /b?versions&prefix=a&key-marker=b&version-id-marker=null", Operation::ListObjectVersions),
            ("GET /?prefix=a&max-buckets=5&continuation-token=x", Operation::ListBuckets),
            ("GET /b?acl", Operation::GetBucketAcl),
            ("PUT /b?acl", Operation::PutBucketAcl),
            ("GET /b/k?acl", Operation::GetObjectAcl),
            ("GET /b/k?acl&versionId=null", Operation::GetObjectAcl),
            ("PUT /b/k?acl=", Operation::PutObjectAcl),
            ("GET /b?policyStatus", Operation::GetBucketConfiguration),
            ("GET /b?tagging", Operation::GetBucketConfiguration),
            ("GET /b?cors&x-id=GetBucketCors", Operation::GetBucketConfiguration),
            ("GET /b/k?versionId=null", Operation::GetObject),
            ("HEAD /b/k?versionId=null&partNumber=1", Operation::HeadObject),
            ("DELETE /b/k?versionId=null", Operation::DeleteObject),
            ("GET /b/k?tagging&versionId=null", Operation::GetObjectTagging),
            ("GET /b?versioning", Operation::GetBucketVersioning),
            ("GET /b?uploads", Operation::ListMultipartUploads),
            (
                "GET /b?uploads=&prefix=a&delimiter=%2F&key-marker=b&upload-id-marker=c&max-uploads=5&encoding-type=url",
                Operation::ListMultipartUploads,
            ),
            ("POST /b?delete", Operation::DeleteObjects),
            ("GET /b/k", Operation::GetObject),
            ("GET /b/k?x-id=GetObject", Operation::GetObject),
            ("GET /b//", Operation::GetObject),
            ("GET /b/k?partNumber=2&response-content-type=a%2Fb&x-id=GetObject", Operation::GetObject),
            ("GET /b/k?attributes", Operation::GetObjectAttributes),
            ("HEAD /b/k", Operation::HeadObject),
            ("HEAD /b/k?partNumber=1", Operation::HeadObject),
            ("PUT /b/k?x-id=PutObject", Operation::PutObject),
            ("DELETE /b/k", Operation::DeleteObject),
            ("GET /b/k?tagging", Operation::GetObjectTagging),
            ("PUT /b/k?tagging=", Operation::PutObjectTagging),
            ("PUT /b/k?%74agging", Operation::PutObjectTagging),
            ("DELETE /b/k?tagging", Operation::DeleteObjectTagging),
            ("POST /b/k?uploads", Operation::CreateMultipartUpload),
            ("PUT /b/k?partNumber=1&uploadId=u", Operation::UploadPart),
            ("PUT /b/k?uploadId=u&partNumber=1&x-id=UploadPart", Operation::UploadPart),
            ("POST /b/k?uploadId=u", Operation::CompleteMultipartUpload),
            ("DELETE /b/k?uploadId=u", Operation::AbortMultipartUpload),
            ("GET /b/k?uploadId=u&max-parts=5&part-number-marker=2", Operation::ListParts),
        ] {
            assert_eq!(classify(request, ""), Ok(want), "{request}");
        }
    }

    #[test]
    fn nothing_falls_through_to_the_object() {
        for (request, want) in [
            ("DELETE /b/k?acl", ErrorCode::NotImplemented),
            ("PUT /b/k?acl&tagging", ErrorCode::NotImplemented),
            ("GET /b/k?policy", ErrorCode::NotImplemented),
            ("PUT /b/k?cors", ErrorCode::NotImplemented),
            ("POST /b/k?tagging", ErrorCode::MethodNotAllowed),
            ("HEAD /b/k?tagging", ErrorCode::NotImplemented),
            ("PUT /b/k?tagging&uploadId=u&partNumber=1", ErrorCode::NotImplemented),
            ("PUT /b?tagging", ErrorCode::NotImplemented),
            ("DELETE /b?tagging", ErrorCode::NotImplemented),
            ("PUT /b?policy", ErrorCode::NotImplemented),
            ("PUT /b?publicAccessBlock", ErrorCode::NotImplemented),
            ("GET /b?policy&acl", ErrorCode::NotImplemented),
            ("GET /b?cors&prefix=a", ErrorCode::NotImplemented),
            ("GET /b?intelligent-tiering", ErrorCode::NotImplemented),
            ("PUT /b/k?retention", ErrorCode::NotImplemented),
            ("PUT /b/k?legal-hold", ErrorCode::NotImplemented),
            ("POST /b/k?restore", ErrorCode::NotImplemented),
            ("POST /b/k?select&select-type=2", ErrorCode::NotImplemented),
            ("PUT /b/k?renameObject", ErrorCode::NotImplemented),
            ("PUT /b/k?append&position=0", ErrorCode::NotImplemented),
            ("PUT /b/k?attributes", ErrorCode::NotImplemented),
            ("GET /b/k?attributes&tagging", ErrorCode::NotImplemented),
            ("GET /b/k?torrent", ErrorCode::NotImplemented),
            ("GET /b/k?versionId=v", ErrorCode::InvalidArgument),
            ("GET /b/k?versionId=", ErrorCode::InvalidArgument),
            ("HEAD /b/k?versionId=0123456789abcdefghijABCDEFGH._-x", ErrorCode::NoSuchVersion),
            ("GET /b/k?tagging&versionId=v", ErrorCode::InvalidArgument),
            ("PUT /b/k?versionId=null", ErrorCode::NotImplemented),
            ("DELETE /b/k?versionId=v", ErrorCode::InvalidArgument),
            ("GET /b/k?response-etag=a", ErrorCode::NotImplemented),
            ("PUT /b/k?response-content-type=a", ErrorCode::NotImplemented),
            ("GET /b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=0", ErrorCode::NotImplemented),
            ("PUT /b/k?x-amz-signature=0", ErrorCode::NotImplemented),
            ("GET /b/k?prefix=a", ErrorCode::NotImplemented),
            ("GET /b/k?list-type=2", ErrorCode::NotImplemented),
            ("PUT /b/k?delete", ErrorCode::NotImplemented),
            ("DELETE /b/k?partNumber=1", ErrorCode::NotImplemented),
            ("DELETE /b/k?uploads", ErrorCode::NotImplemented),
            ("GET /b/k?uploads", ErrorCode::NotImplemented),
            ("POST /b/k?uploads&uploadId=u", ErrorCode::NotImplemented),
            ("PUT /b/k?uploadId=u", ErrorCode::InvalidArgument),
            ("PUT /b/k?partNumber=1", ErrorCode::InvalidArgument),
            ("POST /b/k", ErrorCode::MethodNotAllowed),
            ("POST /b/k?partNumber=1", ErrorCode::MethodNotAllowed),
            ("PATCH /b/k", ErrorCode::MethodNotAllowed),
            ("TRACE /b/k", ErrorCode::MethodNotAllowed),
            ("OPTIONS /b/k", ErrorCode::NotImplemented),
            ("BREW /b/k", ErrorCode::NotImplemented),
            ("get /b/k", ErrorCode::NotImplemented),
            ("GET /b?delete", ErrorCode::NotImplemented),
            ("GET /b?list-type=2&marker=a", ErrorCode::NotImplemented),
            ("GET /b?list-type=2&location", ErrorCode::NotImplemented),
            ("GET /b?versioning&versions", ErrorCode::NotImplemented),
            ("GET /b?versions&list-type=2", ErrorCode::NotImplemented),
            ("GET /b?uploads&list-type=2", ErrorCode::NotImplemented),
            ("GET /b/k?uploads", ErrorCode::NotImplemented),
            ("PUT /b?versioning", ErrorCode::NotImplemented),
            ("PUT /b?location", ErrorCode::MethodNotAllowed),
            ("DELETE /b?lifecycle", ErrorCode::NotImplemented),
            ("POST /b", ErrorCode::PreconditionFailed),
            ("HEAD /b?location", ErrorCode::NotImplemented),
            ("POST /b?delete&versionId=v", ErrorCode::NotImplemented),
            ("PUT /", ErrorCode::MethodNotAllowed),
            ("HEAD /", ErrorCode::MethodNotAllowed),
            ("POST /", ErrorCode::MethodNotAllowed),
            ("GET /?delimiter=a", ErrorCode::NotImplemented),
        ] {
            assert_eq!(classify(request, ""), Err(want), "{request}");
        }
    }

    #[test]
    fn headers_that_would_be_broken_promises_are_refused() {
        for (request, field, want) in [
            ("PUT /b/k", "X-Amz-Copy-Source: /b/other", Ok(Operation::CopyObject)),
            ("PUT /b/k", "x-amz-copy-source:", Ok(Operation::CopyObject)),
            ("PUT /b/k?partNumber=1&uploadId=u", "x-amz-copy-source: b/o", Ok(Operation::UploadPartCopy)),
            ("PUT /b/k?tagging", "x-amz-copy-source: b/o", Err(ErrorCode::NotImplemented)),
            ("POST /b/k?uploads", "x-amz-copy-source: b/o", Err(ErrorCode::NotImplemented)),
            ("GET /b/k", "x-amz-copy-source: b/o", Err(ErrorCode::NotImplemented)),
            ("PUT /b/k", "x-amz-copy-source-server-side-encryption-customer-key: a", Err(ErrorCode::NotImplemented)),
            ("PUT /b/k", "x-amz-server-side-encryption: AES256", Err(ErrorCode::NotImplemented)),
            ("GET /b/k", "x-amz-server-side-encryption-customer-key: a", Err(ErrorCode::NotImplemented)),
            ("PUT /b/k", "x-amz-object-lock-mode: GOVERNANCE", Err(ErrorCode::NotImplemented)),
            ("PUT /b/k", "x-amz-write-offset-bytes: 5", Err(ErrorCode::NotImplemented)),
            ("PUT /b/k", "x-amz-tagging: a=b", Ok(Operation::PutObject)),
            ("DELETE /b/k", "x-amz-if-match-size: 5", Ok(Operation::DeleteObject)),
            ("PUT /b/k", "x-amz-if-match-size: 5", Err(ErrorCode::NotImplemented)),
            ("PUT /b", "x-amz-acl: private", Ok(Operation::CreateBucket)),
            ("PUT /b", "x-amz-acl: public-read", Err(ErrorCode::AccessControlListNotSupported)),
            ("PUT /b", "x-amz-grant-write: id=a", Err(ErrorCode::AccessControlListNotSupported)),
            ("PUT /b", "x-amz-object-ownership: BucketOwnerEnforced", Ok(Operation::CreateBucket)),
            ("PUT /b", "x-amz-object-ownership: ObjectWriter", Err(ErrorCode::NotImplemented)),
            ("PUT /b", "x-amz-bucket-object-lock-enabled: True", Err(ErrorCode::NotImplemented)),
            ("PUT /b", "x-amz-bucket-object-lock-enabled: false", Ok(Operation::CreateBucket)),
            ("PUT /b?acl", "x-amz-acl: bucket-owner-full-control", Ok(Operation::PutBucketAcl)),
            ("PUT /b?acl", "x-amz-acl: authenticated-read", Err(ErrorCode::AccessControlListNotSupported)),
            ("PUT /b/k?acl", "x-amz-grant-full-control: id=a", Err(ErrorCode::AccessControlListNotSupported)),
            ("PUT /b/k", "x-amz-acl: public-read", Err(ErrorCode::AccessControlListNotSupported)),
            ("PUT /b/k", "x-amz-grant-read: id=a", Err(ErrorCode::AccessControlListNotSupported)),
            ("PUT /b/k", "x-amz-storage-class: GLACIER", Err(ErrorCode::InvalidStorageClass)),
            ("PUT /b/k", "x-amz-acl: private", Ok(Operation::PutObject)),
            ("PUT /b/k", "x-amz-storage-class: STANDARD", Ok(Operation::PutObject)),
            ("PUT /b/k", "x-amz-meta-copy-source: a", Ok(Operation::PutObject)),
            ("PUT /b/k", "x-amz-checksum-crc32: AAAAAA==", Ok(Operation::PutObject)),
            ("GET /b/k", "x-amz-checksum-mode: ENABLED", Ok(Operation::GetObject)),
        ] {
            assert_eq!(classify(request, &format!("{field}\r\n")), want, "{request} with {field}");
        }
    }
}
