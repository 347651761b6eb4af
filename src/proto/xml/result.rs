//! The documents that we send: errors and results to clients, manifests to backends.
//!
//! Called by the handlers and the connection; the upstream client calls `write_complete_request`. Each function appends one
//! whole document. ETags are passed without quotes.

use super::listing::{Names, checksum_type, write_owner};
use super::write::XmlWriter;
use super::{CHECKSUM_ELEMENT, NAMESPACE};
use crate::base::Timestamp;
use crate::proto::checksum::Checksum;
use crate::proto::date;
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::list_token;
use crate::proto::owner::Owner;
use crate::proto::params::ListParts;

/// What an error document names beside the error; what is empty is not known.
#[derive(Clone, Copy, Default, Debug)]
pub struct About<'a> {
    /// The path as sent.
    pub resource: &'a str,
    /// Bucket and key, if the error is about them; it is shown where its code is of that kind.
    pub bucket: &'a str,
    pub key: &'a str,
    /// The header of the condition that does not hold.
    pub condition: &'a str,
    /// The range that was asked for, of an object of so many bytes.
    pub range: Option<(&'a str, u64)>,
}

/// The body of a refusal.
pub fn write_error(out: &mut Vec<u8>, error: &S3Error, about: About<'_>, request_id: &str) {
    let mut xml = XmlWriter::document(out, "Error", "");
    xml.text("Code", error.code.name()).text("Message", error.message());
    if !about.condition.is_empty() {
        xml.text("Condition", about.condition);
    }
    if let Some((range, size)) = about.range {
        xml.text("RangeRequested", range).number("ActualObjectSize", size);
    }
    if matches!(error.code, ErrorCode::NoSuchKey | ErrorCode::ConditionalRequestConflict) && !about.bucket.is_empty() {
        xml.text("Key", about.key);
    }
    if error.code.is_about_bucket() && !about.bucket.is_empty() {
        xml.text("BucketName", about.bucket);
    }
    xml.text("Resource", about.resource).text("RequestId", request_id).close("Error");
}

pub fn write_list_buckets<'a>(
    out: &mut Vec<u8>,
    page: &BucketsPage<'_>,
    buckets: impl IntoIterator<Item = (&'a str, Timestamp)>,
) {
    let mut xml = XmlWriter::document(out, "ListAllMyBucketsResult", NAMESPACE);
    write_owner(&mut xml, "Owner", page.owner);
    xml.open("Buckets");
    for (name, created) in buckets {
        xml.open("Bucket").text("Name", name).text("CreationDate", date::xml(created).as_str()).close("Bucket");
    }
    xml.close("Buckets");
    if let Some(last) = page.continues_after {
        xml.text("ContinuationToken", &list_token::encode(last));
    }
    if let Some(prefix) = page.prefix {
        xml.text("Prefix", prefix);
    }
    xml.close("ListAllMyBucketsResult");
}

/// A page of ListBuckets: what was asked for, and the last name if more follow.
#[derive(Clone, Copy, Debug)]
pub struct BucketsPage<'a> {
    pub owner: &'a Owner<'a>,
    pub prefix: Option<&'a str>,
    pub continues_after: Option<&'a str>,
}

/// An empty constraint means us-east-1 ("GetBucketLocation", Amazon S3 API reference).
pub fn write_location(out: &mut Vec<u8>, region: &str) {
    let shown = if region == "us-east-1" { "" } else { region };
    XmlWriter::document(out, "LocationConstraint", NAMESPACE).value(shown).close("LocationConstraint");
}

pub fn write_initiate_result(out: &mut Vec<u8>, bucket: &str, key: &str, upload: &str) {
    XmlWriter::document(out, "InitiateMultipartUploadResult", NAMESPACE)
        .text("Bucket", bucket)
        .text("Key", key)
        .text("UploadId", upload)
        .close("InitiateMultipartUploadResult");
}

/// The object that CompleteMultipartUpload made.
#[derive(Clone, Copy, Debug)]
pub struct Completed<'a> {
    /// The object's URL, as far as it is known.
    pub location: &'a str,
    pub bucket: &'a str,
    pub key: &'a str,
    pub etag: &'a str,
    /// Algorithm, value in base64, whether composite.
    pub checksum: Option<(&'a str, &'a str, bool)>,
}

pub fn write_complete_result(out: &mut Vec<u8>, completed: &Completed<'_>) {
    let mut xml = XmlWriter::document(out, "CompleteMultipartUploadResult", NAMESPACE);
    xml.text("Location", completed.location).text("Bucket", completed.bucket).text("Key", completed.key);
    xml.etag(completed.etag);
    if let Some((algorithm, value, composite)) = completed.checksum {
        xml.text_in_two(CHECKSUM_ELEMENT, algorithm, value).text("ChecksumType", checksum_type(composite));
    }
    xml.close("CompleteMultipartUploadResult");
}

/// The answer to CopyObject (`CopyObjectResult`) and UploadPartCopy (`CopyPartResult`), which is `root`. `checksum`:
/// algorithm, value in base64, whether composite.
pub fn write_copy_result(
    out: &mut Vec<u8>,
    root: &str,
    modified: Timestamp,
    etag: &str,
    checksum: Option<(&str, &str, bool)>,
) {
    let mut xml = XmlWriter::document(out, root, NAMESPACE);
    xml.text("LastModified", date::xml(modified).as_str()).etag(etag);
    if let Some((algorithm, value, composite)) = checksum {
        if root == "CopyObjectResult" {
            xml.text("ChecksumType", checksum_type(composite));
        }
        xml.text_in_two(CHECKSUM_ELEMENT, algorithm, value);
    }
    xml.close(root);
}

/// What a browser upload is answered.
#[derive(Clone, Copy, Debug)]
pub struct Posted<'a> {
    pub location: &'a str,
    pub bucket: &'a str,
    pub key: &'a str,
    pub etag: &'a str,
}

pub fn write_post_result(out: &mut Vec<u8>, posted: &Posted<'_>) {
    let mut xml = XmlWriter::document(out, "PostResponse", "");
    xml.text("Location", posted.location).text("Bucket", posted.bucket).text("Key", posted.key).etag(posted.etag);
    xml.close("PostResponse");
}

/// What a page of ListParts says about itself.
#[derive(Clone, Copy, Debug)]
pub struct PartsHeader<'a> {
    pub bucket: &'a str,
    pub owner: Owner<'a>,
    pub key: &'a str,
    pub request: &'a ListParts,
    /// The last part's number; 0: the page is empty. It is told at the end too.
    pub last: u16,
    pub truncated: bool,
    /// As declared when the upload was created: algorithm, and whether parts are checked one by one.
    pub checksum: Option<(&'a str, bool)>,
}

#[derive(Clone, Debug)]
pub struct PartEntry<'a> {
    pub number: u16,
    pub size: u64,
    pub etag: &'a str,
    pub modified: Timestamp,
    /// Algorithm and value in base64.
    pub checksum: Option<(&'a str, &'a str)>,
}

pub fn write_list_parts<'a>(
    out: &mut Vec<u8>,
    header: &PartsHeader<'_>,
    parts: impl IntoIterator<Item = PartEntry<'a>>,
) {
    let request = header.request;
    let mut names = Names::new(request.url_encoding);
    let mut xml = XmlWriter::document(out, "ListPartsResult", NAMESPACE);
    xml.text("Bucket", header.bucket).text("Key", names.shown(header.key)).text("UploadId", request.upload.as_str());
    if request.url_encoding {
        xml.text("EncodingType", "url");
    }
    write_owner(&mut xml, "Initiator", &header.owner);
    write_owner(&mut xml, "Owner", &header.owner);
    xml.text("StorageClass", "STANDARD").number("PartNumberMarker", u64::from(request.after));
    xml.number("NextPartNumberMarker", u64::from(header.last));
    xml.number("MaxParts", u64::from(request.max_parts)).flag("IsTruncated", header.truncated);
    if let Some((algorithm, composite)) = header.checksum {
        xml.text("ChecksumAlgorithm", algorithm).text("ChecksumType", checksum_type(composite));
    }
    for part in parts {
        xml.open("Part")
            .number("PartNumber", u64::from(part.number))
            .text("LastModified", date::xml(part.modified).as_str())
            .etag(part.etag)
            .number("Size", part.size);
        if let Some((algorithm, value)) = part.checksum {
            xml.text_in_two(CHECKSUM_ELEMENT, algorithm, value);
        }
        xml.close("Part");
    }
    xml.close("ListPartsResult");
}

/// What became of one key of a batch delete.
#[derive(Clone, Copy, Debug)]
pub enum DeleteOutcome<'a> {
    /// `version` is echoed if the request named one.
    Deleted {
        key: &'a str,
        version: Option<&'a str>,
    },
    Failed {
        key: &'a str,
        error: &'a S3Error,
    },
}

/// `quiet`: failures only.
pub fn write_delete_result<'a>(out: &mut Vec<u8>, quiet: bool, outcomes: impl IntoIterator<Item = DeleteOutcome<'a>>) {
    let mut xml = XmlWriter::document(out, "DeleteResult", NAMESPACE);
    for outcome in outcomes {
        match outcome {
            DeleteOutcome::Deleted { .. } if quiet => {}
            DeleteOutcome::Deleted { key, version } => {
                xml.open("Deleted").text("Key", key);
                if let Some(version) = version {
                    xml.text("VersionId", version);
                }
                xml.close("Deleted");
            }
            DeleteOutcome::Failed { key, error } => {
                xml.open("Error").text("Key", key).text("Code", error.code.name()).text("Message", error.message());
                xml.close("Error");
            }
        }
    }
    xml.close("DeleteResult");
}

/// The answer to GetObjectTagging.
pub fn write_tagging(out: &mut Vec<u8>, tags: &[(String, String)]) {
    let mut xml = XmlWriter::document(out, "Tagging", NAMESPACE);
    xml.open("TagSet");
    for (name, value) in tags {
        xml.open("Tag").text("Key", name).text("Value", value).close("Tag");
    }
    xml.close("TagSet").close("Tagging");
}

/// The manifest that we send to a backend: numbers, the backend's ETags, checksums where it wants them.
pub fn write_complete_request<'a>(out: &mut Vec<u8>, parts: impl IntoIterator<Item = (u16, &'a str, &'a [Checksum])>) {
    let mut xml = XmlWriter::document(out, "CompleteMultipartUpload", NAMESPACE);
    for (number, etag, checksums) in parts {
        xml.open("Part").number("PartNumber", u64::from(number)).etag(etag);
        for checksum in checksums {
            let mut base64 = [0; 44];
            xml.text_in_two(CHECKSUM_ELEMENT, checksum.algorithm().name(), checksum.write_base64(&mut base64));
        }
        xml.close("Part");
    }
    xml.close("CompleteMultipartUpload");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::UploadId;
    use crate::proto::checksum::Algorithm;
    use crate::proto::target::Query;
    use crate::proto::xml::{
        read_complete_multipart_upload, read_complete_result, read_error, read_initiate_result, read_tagging,
    };

    const AT: Timestamp = Timestamp { millis: 784_111_777_000 };
    const XML: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

    fn check(write: impl FnOnce(&mut Vec<u8>), want: &str) {
        let mut out = Vec::new();
        write(&mut out);
        let got = String::from_utf8(out).expect("UTF-8");
        assert_eq!(got, format!("{XML}{want}"));
    }

    #[test]
    fn errors_and_small_results() {
        let error = S3Error::new(ErrorCode::NoSuchKey, "a <b> & \"c\"");
        check(
            |out| write_error(out, &error, About { resource: "/b/k%20", ..About::default() }, "R1"),
            "<Error><Code>NoSuchKey</Code><Message>a &lt;b&gt; &amp; &quot;c&quot;</Message><Resource>/b/k%20</Resource>\
             <RequestId>R1</RequestId></Error>",
        );
        check(
            |out| write_location(out, "us-east-1"),
            "<LocationConstraint xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"></LocationConstraint>",
        );
        check(
            |out| write_location(out, "eu-central-1"),
            "<LocationConstraint xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">eu-central-1</LocationConstraint>",
        );
        check(
            |out| {
                let page = BucketsPage { owner: &Owner::of("ann"), prefix: None, continues_after: None };
                write_list_buckets(out, &page, [("photos", AT)]);
            },
            "<ListAllMyBucketsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <Owner><ID>7daa9edbc4dc6422da02bbc17df29406fb4e896e01a37f2d3c68f943cecfeb99</ID>\
             <DisplayName>ann</DisplayName></Owner><Buckets><Bucket><Name>photos</Name>\
             <CreationDate>1994-11-06T08:49:37.000Z</CreationDate></Bucket></Buckets></ListAllMyBucketsResult>",
        );
        check(
            |out| write_initiate_result(out, "photos", "a<b\r\u{1}", "U"),
            "<InitiateMultipartUploadResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Bucket>photos</Bucket>\
             <Key>a&lt;b&#xd;&#x1;</Key><UploadId>U</UploadId></InitiateMultipartUploadResult>",
        );
    }

    #[test]
    fn errors_name_what_they_are_about() {
        let inner = |code: ErrorCode| {
            let mut out = Vec::new();
            let condition = if code == ErrorCode::ConditionalRequestConflict { "If-Match" } else { "" };
            let range = (code == ErrorCode::InvalidRange).then_some(("bytes=9-", 5));
            let about = About { resource: "/b/k", bucket: "b", key: "k", condition, range };
            write_error(&mut out, &code.into(), about, "R");
            String::from_utf8(out).expect("UTF-8")
        };
        assert!(inner(ErrorCode::NoSuchKey).contains("</Message><Key>k</Key><Resource>"));
        assert!(inner(ErrorCode::NoSuchBucket).contains("</Message><BucketName>b</BucketName><Resource>"));
        assert!(inner(ErrorCode::BucketNotEmpty).contains("<BucketName>b</BucketName>"));
        assert!(inner(ErrorCode::AccessDenied).contains("</Message><Resource>/b/k</Resource>"));
        let range =
            "</Message><RangeRequested>bytes=9-</RangeRequested><ActualObjectSize>5</ActualObjectSize><Resource>";
        assert!(inner(ErrorCode::InvalidRange).contains(range));
        let conflict = "</Message><Condition>If-Match</Condition><Key>k</Key><Resource>";
        assert!(inner(ErrorCode::ConditionalRequestConflict).contains(conflict));
    }

    #[test]
    fn a_completed_upload() {
        let completed = Completed {
            location: "/photos/k",
            bucket: "photos",
            key: "k",
            etag: "abc-2",
            checksum: Some(("CRC64NVME", "AAAA", false)),
        };
        check(
            |out| write_complete_result(out, &completed),
            "<CompleteMultipartUploadResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Location>/photos/k</Location>\
             <Bucket>photos</Bucket><Key>k</Key><ETag>&quot;abc-2&quot;</ETag><ChecksumCRC64NVME>AAAA</ChecksumCRC64NVME>\
             <ChecksumType>FULL_OBJECT</ChecksumType></CompleteMultipartUploadResult>",
        );
    }

    #[test]
    fn copies() {
        check(
            |out| write_copy_result(out, "CopyObjectResult", AT, "e", Some(("CRC32", "AAAAAA==", false))),
            "<CopyObjectResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <LastModified>1994-11-06T08:49:37.000Z</LastModified><ETag>&quot;e&quot;</ETag>\
             <ChecksumType>FULL_OBJECT</ChecksumType><ChecksumCRC32>AAAAAA==</ChecksumCRC32></CopyObjectResult>",
        );
        check(
            |out| write_copy_result(out, "CopyPartResult", AT, "e", None),
            "<CopyPartResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <LastModified>1994-11-06T08:49:37.000Z</LastModified><ETag>&quot;e&quot;</ETag></CopyPartResult>",
        );
    }

    #[test]
    fn deletes_report_as_asked() {
        let error = S3Error::from(ErrorCode::InternalError);
        let outcomes = [
            DeleteOutcome::Deleted { key: "a&b", version: Some("null") },
            DeleteOutcome::Failed { key: "c", error: &error },
        ];
        let failed = "<Error><Key>c</Key><Code>InternalError</Code>\
                      <Message>We encountered an internal error. Please try again.</Message></Error>";
        let root = "<DeleteResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">";
        check(
            |out| write_delete_result(out, false, outcomes),
            &format!("{root}<Deleted><Key>a&amp;b</Key><VersionId>null</VersionId></Deleted>{failed}</DeleteResult>"),
        );
        check(|out| write_delete_result(out, true, outcomes), &format!("{root}{failed}</DeleteResult>"));
    }

    #[test]
    fn listed_parts() {
        let query = format!("uploadId={}&max-parts=1", UploadId::from_rolls(1, 2).as_str());
        let request = ListParts::parse(&Query::new(&query)).expect("well-formed");
        let owner = Owner::of("ann");
        let header =
            PartsHeader { bucket: "b", owner, key: "k", request: &request, last: 3, truncated: true, checksum: None };
        let part = PartEntry { number: 3, size: 5, etag: "e", modified: AT, checksum: Some(("SHA256", "AAAA")) };
        let mut out = Vec::new();
        write_list_parts(&mut out, &header, [part]);
        let text = String::from_utf8(out).expect("UTF-8");
        let want = "<PartNumberMarker>0</PartNumberMarker><NextPartNumberMarker>3</NextPartNumberMarker><MaxParts>1</MaxParts>\
                    <IsTruncated>true</IsTruncated><Part><PartNumber>3</PartNumber>\
                    <LastModified>1994-11-06T08:49:37.000Z</LastModified><ETag>&quot;e&quot;</ETag><Size>5</Size>\
                    <ChecksumSHA256>AAAA</ChecksumSHA256></Part></ListPartsResult>";
        assert!(text.ends_with(want), "{text}");
    }

    #[test]
    fn what_we_write_we_can_read() {
        let mut out = Vec::new();
        write_initiate_result(&mut out, "b", "k", "U");
        assert_eq!(read_initiate_result(&out).as_deref(), Ok("U"));
        out.clear();
        let checksums = [Checksum::new(Algorithm::Crc32, &[1; 4]).expect("four bytes")];
        write_complete_request(&mut out, [(1, "a", &checksums[..]), (2, "b", &[])]);
        let parts = read_complete_multipart_upload(&out).expect("well-formed");
        let got: Vec<_> = parts.iter().map(|part| (part.number.get(), part.etag.as_str())).collect();
        assert_eq!((got, &parts[0].checksums[..]), (vec![(1, "a"), (2, "b")], &checksums[..]));
        out.clear();
        let tags = [("a b".to_owned(), "c=d".to_owned()), ("e".to_owned(), String::new())];
        write_tagging(&mut out, &tags);
        assert_eq!(read_tagging(&out).as_deref(), Ok(&tags[..]));
        out.clear();
        write_error(
            &mut out,
            &ErrorCode::SlowDown.into(),
            About { resource: "/", bucket: "b", ..About::default() },
            "R",
        );
        assert_eq!(read_error(&out).map(|error| error.code).as_deref(), Ok("SlowDown"));
        assert!(matches!(read_complete_result(&out), Ok(crate::proto::xml::CompletedUpload::Failed(_))));
    }
}
