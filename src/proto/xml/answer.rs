//! What backends answer: errors, upload ids, completed uploads, listings.
//!
//! Called by the upstream S3 client. An unexpected document is a `BadXml`, which the caller blames on the backend; unknown
//! elements are passed over, because every dialect adds its own.

use super::walk::{BadXml, Walk};
use crate::base::Timestamp;
use crate::proto::date;
use crate::proto::etag::unquoted;
use crate::proto::target::decode_query;

/// An `<Error>` document.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BackendError {
    /// `NoSuchKey`, `SlowDown` …; empty when the backend named none.
    pub code: String,
    pub message: String,
}

pub fn read_error(bytes: &[u8]) -> Result<BackendError, BadXml> {
    let mut walk = Walk::new(bytes)?;
    if walk.root() != "Error" {
        return Err(BadXml("not an Error"));
    }
    error_fields(&mut walk)
}

fn error_fields(walk: &mut Walk<'_>) -> Result<BackendError, BadXml> {
    let mut error = BackendError::default();
    while let Some((path, text)) = walk.next_closed()? {
        match path {
            "Code" => text.trim_ascii().clone_into(&mut error.code),
            "Message" => text.clone_into(&mut error.message),
            _ => {}
        }
    }
    Ok(error)
}

/// The backend's upload id, out of InitiateMultipartUploadResult. It is opaque, and never empty.
pub fn read_initiate_result(bytes: &[u8]) -> Result<String, BadXml> {
    let mut walk = Walk::new(bytes)?;
    if walk.root() != "InitiateMultipartUploadResult" {
        return Err(BadXml("not an InitiateMultipartUploadResult"));
    }
    let mut upload = String::new();
    while let Some((path, text)) = walk.next_closed()? {
        if path == "UploadId" {
            text.trim_ascii().clone_into(&mut upload);
        }
    }
    if upload.is_empty() { Err(BadXml("an upload without an id")) } else { Ok(upload) }
}

/// How a CompleteMultipartUpload ended: a 200 may still carry an error, sent after the status had gone out to keep the
/// connection alive ("CompleteMultipartUpload", Amazon S3 API reference).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CompletedUpload {
    /// The object's ETag, without quotes.
    Done {
        etag: String,
    },
    Failed(BackendError),
}

pub fn read_complete_result(bytes: &[u8]) -> Result<CompletedUpload, BadXml> {
    let mut walk = Walk::new(bytes)?;
    match walk.root() {
        "Error" => error_fields(&mut walk).map(CompletedUpload::Failed),
        // Dialects call the document differently (CompleteMultipartUploadResponse, …Output); an entity tag tells it.
        root => {
            let is_named = root == "CompleteMultipartUploadResult";
            let mut etag = String::new();
            while let Some((path, text)) = walk.next_closed()? {
                if path == "ETag" {
                    unquoted(text).clone_into(&mut etag);
                }
            }
            if is_named || !etag.is_empty() {
                Ok(CompletedUpload::Done { etag })
            } else {
                Err(BadXml("neither a CompleteMultipartUploadResult nor an Error"))
            }
        }
    }
}

/// An object on a backend.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListedKey {
    pub key: String,
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    /// None when the backend wrote something that is no date.
    pub modified: Option<Timestamp>,
}

/// A page of ListObjectsV2.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListedPage {
    pub keys: Vec<ListedKey>,
    pub common_prefixes: Vec<String>,
    /// To ask for the next page with; None on the last one.
    pub next: Option<String>,
}

pub fn read_list(bytes: &[u8]) -> Result<ListedPage, BadXml> {
    let mut walk = Walk::new(bytes)?;
    if walk.root() != "ListBucketResult" {
        return Err(BadXml("not a ListBucketResult"));
    }
    let mut page = ListedPage::default();
    let mut entry = ListedKey::default();
    let (mut truncated, mut url_encoded) = (false, false);
    while let Some((path, text)) = walk.next_closed()? {
        match path {
            "Contents/Key" => text.clone_into(&mut entry.key),
            "Contents/Size" => {
                let size = text.trim_ascii().parse();
                entry.size = size.map_err(|_| BadXml("a size that is no number"))?;
            }
            "Contents/ETag" => unquoted(text).clone_into(&mut entry.etag),
            "Contents/LastModified" => entry.modified = date::parse_iso8601(text.trim_ascii().as_bytes()),
            "Contents" => page.keys.push(std::mem::take(&mut entry)),
            "CommonPrefixes/Prefix" => page.common_prefixes.push(text.to_owned()),
            "IsTruncated" => truncated = is_true(text),
            "NextContinuationToken" => page.next = Some(text.to_owned()),
            "EncodingType" => url_encoded = is_url(text),
            _ => {}
        }
    }
    if url_encoded {
        let keys = page.keys.iter_mut().map(|entry| &mut entry.key);
        keys.chain(&mut page.common_prefixes).try_for_each(decode_in_place)?;
    }
    match (truncated, &page.next) {
        // Asking again from the start would go on forever, stopping here would lose the rest.
        (true, None) => Err(BadXml("a truncated listing without a continuation")),
        (true, Some(_)) => Ok(page),
        (false, _) => Ok(ListedPage { next: None, ..page }),
    }
}

/// An unfinished upload on a backend.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListedUpload {
    pub key: String,
    pub upload: String,
    pub initiated: Option<Timestamp>,
}

/// A page of ListMultipartUploads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListedUploads {
    pub uploads: Vec<ListedUpload>,
    /// Key marker and upload id marker of the next page; None on the last one.
    pub next: Option<(String, String)>,
}

pub fn read_uploads(bytes: &[u8]) -> Result<ListedUploads, BadXml> {
    let mut walk = Walk::new(bytes)?;
    if walk.root() != "ListMultipartUploadsResult" {
        return Err(BadXml("not a ListMultipartUploadsResult"));
    }
    let mut uploads = Vec::new();
    let mut entry = ListedUpload::default();
    let (mut next_key, mut next_upload) = (String::new(), String::new());
    let (mut truncated, mut url_encoded) = (false, false);
    while let Some((path, text)) = walk.next_closed()? {
        match path {
            "Upload/Key" => text.clone_into(&mut entry.key),
            "Upload/UploadId" => text.trim_ascii().clone_into(&mut entry.upload),
            "Upload/Initiated" => entry.initiated = date::parse_iso8601(text.trim_ascii().as_bytes()),
            "Upload" => uploads.push(std::mem::take(&mut entry)),
            "NextKeyMarker" => text.clone_into(&mut next_key),
            "NextUploadIdMarker" => text.clone_into(&mut next_upload),
            "IsTruncated" => truncated = is_true(text),
            "EncodingType" => url_encoded = is_url(text),
            _ => {}
        }
    }
    if url_encoded {
        let keys = uploads.iter_mut().map(|entry: &mut ListedUpload| &mut entry.key);
        keys.chain([&mut next_key]).try_for_each(decode_in_place)?;
    }
    if truncated && next_key.is_empty() {
        return Err(BadXml("a truncated listing without a continuation"));
    }
    Ok(ListedUploads { uploads, next: truncated.then_some((next_key, next_upload)) })
}

/// A version or a delete marker of an object.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListedVersion {
    pub key: String,
    pub version_id: String,
}

/// The first page of ListObjectVersions, versions and delete markers alike: who deletes what is listed and asks again needs
/// no other.
pub fn read_versions(bytes: &[u8]) -> Result<Vec<ListedVersion>, BadXml> {
    let mut walk = Walk::new(bytes)?;
    if walk.root() != "ListVersionsResult" {
        return Err(BadXml("not a ListVersionsResult"));
    }
    let mut versions = Vec::new();
    let mut entry = ListedVersion::default();
    let mut url_encoded = false;
    while let Some((path, text)) = walk.next_closed()? {
        match path {
            "Version/Key" | "DeleteMarker/Key" => text.clone_into(&mut entry.key),
            "Version/VersionId" | "DeleteMarker/VersionId" => text.trim_ascii().clone_into(&mut entry.version_id),
            "Version" | "DeleteMarker" => versions.push(std::mem::take(&mut entry)),
            "EncodingType" => url_encoded = is_url(text),
            _ => {}
        }
    }
    if url_encoded {
        versions.iter_mut().try_for_each(|entry| decode_in_place(&mut entry.key))?;
    }
    Ok(versions)
}

fn decode_in_place(text: &mut String) -> Result<(), BadXml> {
    let decoded = decode_query(text).map_err(|_| BadXml("a name that is not percent-encoded"))?;
    if let std::borrow::Cow::Owned(decoded) = decoded {
        *text = decoded;
    }
    Ok(())
}

fn is_true(text: &str) -> bool {
    text.trim_ascii().eq_ignore_ascii_case("true")
}

fn is_url(text: &str) -> bool {
    text.trim_ascii().eq_ignore_ascii_case("url")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors() {
        let text =
            b"<?xml version=\"1.0\"?>\n<Error><Code>NoSuchKey</Code><Message>a &amp; b</Message><Key>k</Key></Error>";
        let want = BackendError { code: "NoSuchKey".to_owned(), message: "a & b".to_owned() };
        assert_eq!(read_error(text), Ok(want));
        assert_eq!(read_error(b"<Error/>"), Ok(BackendError::default()));
        for other in ["", "<html><body>502 Bad Gateway</body></html>", "<Error><Code>Cut", "Bad Gateway"] {
            assert!(read_error(other.as_bytes()).is_err(), "{other:?}");
        }
    }

    #[test]
    fn a_200_may_be_an_error() {
        let good = b"  \n <?xml version=\"1.0\"?><CompleteMultipartUploadResult><ETag>&quot;a-2&quot;</ETag></CompleteMultipartUploadResult>";
        assert_eq!(read_complete_result(good), Ok(CompletedUpload::Done { etag: "a-2".to_owned() }));
        let dialect = b"<CompleteMultipartUploadResponse><ETag>\"a-2\"</ETag></CompleteMultipartUploadResponse>";
        assert_eq!(read_complete_result(dialect), Ok(CompletedUpload::Done { etag: "a-2".to_owned() }));
        let bad = b"<?xml version=\"1.0\"?>   \n  <Error><Code>InternalError</Code></Error>";
        let failed = BackendError { code: "InternalError".to_owned(), message: String::new() };
        assert_eq!(read_complete_result(bad), Ok(CompletedUpload::Failed(failed)));
        for cut in ["", "   ", "<?xml version=\"1.0\"?>", "<CompleteMultipartUploadResult><ETag>a", "<Other/>"] {
            assert!(read_complete_result(cut.as_bytes()).is_err(), "{cut:?} is no success");
        }
    }

    #[test]
    fn upload_ids() {
        let text = "<InitiateMultipartUploadResult xmlns='x'><Bucket>b</Bucket><UploadId>u~1</UploadId></InitiateMultipartUploadResult>";
        assert_eq!(read_initiate_result(text.as_bytes()).as_deref(), Ok("u~1"));
        assert!(read_initiate_result(b"<InitiateMultipartUploadResult/>").is_err());
        assert!(read_initiate_result(b"<Error><UploadId>u</UploadId></Error>").is_err());
    }

    #[test]
    fn versions_and_markers() {
        let text = "<ListVersionsResult><Name>b</Name>
             <Version><Key>a+b</Key><VersionId>v1</VersionId><IsLatest>false</IsLatest><Owner><ID>x</ID></Owner></Version>
             <DeleteMarker><Key>a</Key><VersionId>null</VersionId></DeleteMarker></ListVersionsResult>";
        let version = |key: &str, id: &str| ListedVersion { key: key.to_owned(), version_id: id.to_owned() };
        assert_eq!(read_versions(text.as_bytes()), Ok(vec![version("a+b", "v1"), version("a", "null")]));
        assert_eq!(read_versions(b"<ListVersionsResult/>"), Ok(Vec::new()));
        assert!(read_versions(b"<ListBucketResult/>").is_err());
    }

    fn list(inner: &str) -> Result<ListedPage, BadXml> {
        read_list(format!("<ListBucketResult>{inner}</ListBucketResult>").as_bytes())
    }

    #[test]
    fn listings() {
        let page = list(
            "<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>t+1</NextContinuationToken>
             <Contents><Key>a%2Fb%20c+d%2B</Key><Size>7</Size><ETag>\"e\"</ETag>
               <LastModified>1994-11-06T08:49:37.000Z</LastModified><Owner><ID>x</ID></Owner></Contents>
             <Contents><Key>z</Key><Size>0</Size></Contents>
             <CommonPrefixes><Prefix>p%2F</Prefix></CommonPrefixes>",
        )
        .expect("well-formed");
        assert_eq!(page.keys[0].key, "a/b c d+");
        assert_eq!((page.keys[0].size, page.keys[0].etag.as_str()), (7, "e"));
        assert_eq!(page.keys[0].modified, Some(Timestamp { millis: 784_111_777_000 }));
        assert_eq!(page.keys[1], ListedKey { key: "z".to_owned(), ..ListedKey::default() });
        assert_eq!((page.common_prefixes, page.next.as_deref()), (vec!["p/".to_owned()], Some("t+1")));
        let plain = list("<IsTruncated>false</IsTruncated><Contents><Key>a%2F</Key></Contents>").expect("well-formed");
        assert_eq!((plain.keys[0].key.as_str(), plain.next), ("a%2F", None), "not encoded, so not decoded");
        assert_eq!(list(""), Ok(ListedPage::default()));
    }

    #[test]
    fn listings_that_cannot_be_trusted() {
        for inner in [
            "<IsTruncated>true</IsTruncated>",
            "<Contents><Size>many</Size></Contents>",
            "<EncodingType>url</EncodingType><Contents><Key>%zz</Key></Contents>",
        ] {
            assert!(list(inner).is_err(), "{inner}");
        }
        assert!(read_list(b"<ListAllMyBucketsResult/>").is_err());
    }

    #[test]
    fn uploads_in_progress() {
        let text = "<ListMultipartUploadsResult><Upload><Key>k</Key><UploadId>u1</UploadId>
                    <Initiated>1994-11-06T08:49:37Z</Initiated></Upload><Upload><Key>k</Key><UploadId>u2</UploadId></Upload>
                    <NextKeyMarker>k</NextKeyMarker><NextUploadIdMarker>u2</NextUploadIdMarker>
                    <IsTruncated>true</IsTruncated></ListMultipartUploadsResult>";
        let page = read_uploads(text.as_bytes()).expect("well-formed");
        let ids: Vec<&str> = page.uploads.iter().map(|upload| upload.upload.as_str()).collect();
        assert_eq!(ids, ["u1", "u2"]);
        assert_eq!(page.next, Some(("k".to_owned(), "u2".to_owned())));
        let last = read_uploads(text.replace("true", "false").as_bytes()).expect("well-formed");
        assert_eq!(last.next, None);
        assert!(
            read_uploads(b"<ListMultipartUploadsResult><IsTruncated>true</IsTruncated></ListMultipartUploadsResult>")
                .is_err()
        );
    }
}
