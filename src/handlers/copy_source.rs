//! What CopyObject and UploadPartCopy copy from: another object, found and admitted as a read of it would be.

use super::admission;
use super::placing;
use super::ports::Ports;
use super::request::Request;
use super::trouble::Trouble;
use super::unread::Unread;
use crate::base::{Clock, Failure};
use crate::policy::access::Permission;
use crate::proto::conditional::{ReadConditions, Verdict};
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::http1::RequestHead;
use crate::proto::operation::check_version;
use crate::proto::target::decode_query;
use crate::store::port::Metadata;
use crate::store::record::{BlobAt, Located};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopySource {
    pub bucket: String,
    pub key: String,
}

impl CopySource {
    /// `x-amz-copy-source`: bucket and key, percent-encoded (`+` is a blank, as S3 has it), perhaps with a leading slash and
    /// `?versionId=null`. InvalidArgument, NoSuchVersion.
    pub fn of(head: &RequestHead<'_>) -> Result<Self, S3Error> {
        let value = head.header_text("x-amz-copy-source")?.unwrap_or_default();
        let malformed = || {
            let message = "Copy Source must mention the source bucket and key: sourcebucket/sourcekey";
            S3Error::new(ErrorCode::InvalidArgument, message)
        };
        let (path, version) = value.split_once("?versionId=").unwrap_or((value, "null"));
        check_version(version)?;
        let path = decode_query(path).map_err(|_| malformed())?;
        let (bucket, key) = path.strip_prefix('/').unwrap_or(&path).split_once('/').ok_or_else(malformed)?;
        if bucket.is_empty() || key.is_empty() {
            return Err(malformed());
        }
        Ok(Self { bucket: bucket.to_owned(), key: key.to_owned() })
    }

    pub fn is_target(&self, request: &Request<'_>) -> bool {
        self.bucket == request.bucket() && self.key == request.key()
    }

    /// Its bucket exists, and the caller may read in it.
    pub fn admit<P: Ports>(&self, ports: &P, request: &Request<'_>) -> Result<(), Trouble> {
        let bucket = request.registry.bucket(&self.bucket);
        let bucket = bucket.ok_or_else(|| request.registry.no_such_bucket())?;
        admission::expect_owner(request, "x-amz-source-expected-bucket-owner", bucket)?;
        admission::permit(ports, request, bucket, Permission::Read.into())
    }

    /// The live version, if the conditions let it be copied; not one that is remembered, since what is copied stays. NoSuchKey,
    /// PreconditionFailed.
    async fn look_up<P: Ports>(&self, ports: &P, request: &Request<'_>, located: &mut Located) -> Result<(), Trouble> {
        if !ports.meta().lookup_afresh(&self.bucket, &self.key, located).await? {
            return Err(ErrorCode::NoSuchKey.into());
        }
        match ReadConditions::of_copy_source(request.head)?
            .test(&located.etag, located.modified, || ports.clock().now())
        {
            Verdict::Proceed => Ok(()),
            Verdict::NotModified | Verdict::PreconditionFailed => Err(ErrorCode::PreconditionFailed.into()),
        }
    }
}

/// Looks for a source, the first one included: its bytes may have been deleted since they were found.
const LOOKS_MAX: u32 = 3;

/// Why a copy did not come about.
pub enum NotCopied {
    /// This copy of the source could not be read, another may do; or none could.
    Source(Unread),
    Ended(Trouble),
}

impl NotCopied {
    pub fn source(failure: Failure) -> Self {
        Self::Source(failure.into())
    }
}

impl From<Trouble> for NotCopied {
    fn from(trouble: Trouble) -> Self {
        Self::Ended(trouble)
    }
}

impl CopySource {
    /// Looks the source up and copies it; looks again where no copy could be read and one was not where it was found.
    /// Cancel: NOT safe.
    pub async fn copy<P: Ports, T>(
        &self,
        ports: &P,
        request: &Request<'_>,
        located: &mut Located,
        mut copy: impl AsyncFnMut(&Located) -> Result<T, NotCopied>,
    ) -> Result<T, Trouble> {
        let mut looks = 0;
        loop {
            looks += 1;
            self.look_up(ports, request, located).await?;
            match copy(located).await {
                Ok(done) => return Ok(done),
                Err(NotCopied::Source(unread)) if unread.stale && looks < LOOKS_MAX => {}
                Err(NotCopied::Source(unread)) => return Err(unread.failure.into()),
                Err(NotCopied::Ended(trouble)) => return Err(trouble),
            }
        }
    }
}

/// From the first copy of the source, best first, that gives all that is asked of it. Cancel: NOT safe.
pub async fn from_copies<P: Ports, T>(
    ports: &P,
    copies: &[BlobAt],
    mut copy_from: impl AsyncFnMut(&BlobAt) -> Result<T, NotCopied>,
) -> Result<T, NotCopied> {
    let mut unread = None;
    for position in placing::read_order(ports, copies).iter() {
        match copy_from(&copies[position]).await {
            Err(NotCopied::Source(one)) => {
                tracing::debug!(failure = %one.failure, "a copy's source was not read");
                unread = Some(Unread::after(unread, one));
            }
            ended => return ended,
        }
    }
    Err(NotCopied::Source(unread.unwrap_or_else(|| Unread::untried(copies))))
}

/// What S3 copies in one request, whole objects and parts alike.
const COPY_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;

/// InvalidRequest for what must be copied in parts.
pub fn check_size(bytes: u64) -> Result<(), S3Error> {
    if bytes <= COPY_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "The specified copy source is larger than the maximum allowable size for a copy source: {COPY_BYTES_MAX}"
    );
    Err(S3Error::new(ErrorCode::InvalidRequest, message))
}

/// The copy of the source that stands on this backend, if the backend copies within itself.
pub fn within<'l, P: Ports>(ports: &P, backend: usize, located: &'l Located) -> Option<&'l BlobAt> {
    let name = &ports.view().backends.get(backend)?.name;
    located.blobs.iter().find(|blob| blob.backend == *name && ports.standing().copies(backend))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, want: Result<(&str, &str), ErrorCode>) {
        let bytes = format!("PUT /bkt/k HTTP/1.1\r\nhost: h\r\nx-amz-copy-source: {value}\r\n\r\n");
        let head = RequestHead::parse(bytes.as_bytes(), &mut 0).expect("a good head").expect("a whole head");
        let got = CopySource::of(&head).map_err(|error| error.code);
        let want = want.map(|(bucket, key)| CopySource { bucket: bucket.to_owned(), key: key.to_owned() });
        assert_eq!(got, want, "{value:?}");
    }

    #[test]
    fn one_request_copies_five_gibibytes() {
        assert!(check_size(5 << 30).is_ok());
        assert_eq!(check_size((5 << 30) + 1).map_err(|error| error.code), Err(ErrorCode::InvalidRequest));
    }

    #[test]
    fn sources() {
        check("bkt/k", Ok(("bkt", "k")));
        check("/bkt/k", Ok(("bkt", "k")));
        check("/bkt/a/b//c", Ok(("bkt", "a/b//c")));
        check("bkt//k", Ok(("bkt", "/k")));
        check("bkt%2Fa%20b%2Bc+d", Ok(("bkt", "a b+c d")));
        check("bkt/k?versionId=null", Ok(("bkt", "k")));
        check("bkt/k?versionId=", Err(ErrorCode::InvalidArgument));
        check("bkt/k%3FversionId=x", Ok(("bkt", "k?versionId=x")));
        check("bkt/k?x", Ok(("bkt", "k?x")));
        check("bkt/%C3%BC", Ok(("bkt", "\u{fc}")));
        check("bkt/k?versionId=v", Err(ErrorCode::InvalidArgument));
        check("bkt/k?versionId=0123456789abcdef0123456789abcdef", Err(ErrorCode::NoSuchVersion));
        for malformed in ["", "/", "bkt", "/bkt", "bkt/", "//k", "bkt/%zz", "bkt/%ff"] {
            check(malformed, Err(ErrorCode::InvalidArgument));
        }
    }
}
