//! Listings of a bucket: keys in the two forms that S3 has, versions.
//!
//! Called by the list handlers. Each function appends one whole document; order and presence of the elements are AWS's.

use super::NAMESPACE;
use super::write::XmlWriter;
use crate::base::Timestamp;
use crate::proto::owner::Owner;
use crate::proto::params::{ListMultipartUploads, ListObjectVersions, ListObjects, ListObjectsV2};
use crate::proto::target::encode_percent;
use crate::proto::{date, list_token};

pub(super) fn write_owner(xml: &mut XmlWriter<'_>, element: &str, owner: &Owner<'_>) {
    xml.open(element).text("ID", owner.id()).text("DisplayName", owner.name()).close(element);
}

/// What a page of ListObjectsV2 says about itself.
#[derive(Clone, Copy, Debug)]
pub struct ListHeader<'a> {
    pub bucket: &'a str,
    pub owner: Owner<'a>,
    pub request: &'a ListObjectsV2<'a>,
    /// Keys and common prefixes together.
    pub entries: usize,
    /// The last key or common prefix, if more follow.
    pub continues_after: Option<&'a str>,
}

#[derive(Clone, Copy, Debug)]
pub struct ListEntry<'a> {
    pub key: &'a str,
    pub size: u64,
    pub etag: &'a str,
    pub modified: Timestamp,
    /// `x-amz-checksum-algorithm`'s spelling, and whether it is a checksum of the parts' checksums.
    pub checksum: Option<(&'a str, bool)>,
}

impl ListEntry<'_> {
    /// What every listing says of an object behind its name.
    fn write_facts(&self, xml: &mut XmlWriter<'_>) {
        xml.text("LastModified", date::xml(self.modified).as_str()).etag(self.etag);
        if let Some((algorithm, composite)) = self.checksum {
            xml.text("ChecksumAlgorithm", algorithm).text("ChecksumType", checksum_type(composite));
        }
        xml.number("Size", self.size).text("StorageClass", "STANDARD");
    }
}

fn write_common_prefixes<'a>(
    xml: &mut XmlWriter<'_>,
    names: &mut Names,
    common_prefixes: impl IntoIterator<Item = &'a str>,
) {
    for prefix in common_prefixes {
        xml.open("CommonPrefixes").text("Prefix", names.shown(prefix)).close("CommonPrefixes");
    }
}

pub fn write_list_objects<'a>(
    out: &mut Vec<u8>,
    header: &ListHeader<'_>,
    keys: impl IntoIterator<Item = ListEntry<'a>>,
    common_prefixes: impl IntoIterator<Item = &'a str>,
) {
    let request = header.request;
    let mut names = Names::new(request.url_encoding);
    let mut xml = XmlWriter::document(out, "ListBucketResult", NAMESPACE);
    xml.text("Name", header.bucket).text("Prefix", names.shown(&request.prefix));
    if let Some(start_after) = &request.start_after {
        xml.text("StartAfter", names.shown(start_after));
    }
    if let Some(token) = &request.continuation_token {
        xml.text("ContinuationToken", token);
    }
    if let Some(last) = header.continues_after {
        xml.text("NextContinuationToken", &list_token::encode(last));
    }
    xml.number("KeyCount", header.entries as u64).number("MaxKeys", u64::from(request.max_keys));
    if !request.delimiter.is_empty() {
        xml.text("Delimiter", names.shown(&request.delimiter));
    }
    if request.url_encoding {
        xml.text("EncodingType", "url");
    }
    xml.flag("IsTruncated", header.continues_after.is_some());
    for entry in keys {
        xml.open("Contents").text("Key", names.shown(entry.key));
        entry.write_facts(&mut xml);
        if request.fetch_owner {
            write_owner(&mut xml, "Owner", &header.owner);
        }
        xml.close("Contents");
    }
    write_common_prefixes(&mut xml, &mut names, common_prefixes);
    xml.close("ListBucketResult");
}

/// A page of the first ListObjects. `continues_after` is the last key or common prefix, if more follow: told only where
/// there is a delimiter, as AWS does; elsewhere the last key is the next marker.
pub fn write_list_objects_v1<'a>(
    out: &mut Vec<u8>,
    (bucket, owner): (&str, &Owner<'_>),
    request: &ListObjects<'_>,
    continues_after: Option<&str>,
    keys: impl IntoIterator<Item = ListEntry<'a>>,
    common_prefixes: impl IntoIterator<Item = &'a str>,
) {
    let mut names = Names::new(request.url_encoding);
    let mut xml = XmlWriter::document(out, "ListBucketResult", NAMESPACE);
    xml.text("Name", bucket).text("Prefix", names.shown(&request.prefix)).text("Marker", names.shown(&request.marker));
    if let Some(last) = continues_after.filter(|_| !request.delimiter.is_empty()) {
        xml.text("NextMarker", names.shown(last));
    }
    xml.number("MaxKeys", u64::from(request.max_keys));
    if !request.delimiter.is_empty() {
        xml.text("Delimiter", names.shown(&request.delimiter));
    }
    if request.url_encoding {
        xml.text("EncodingType", "url");
    }
    xml.flag("IsTruncated", continues_after.is_some());
    for entry in keys {
        xml.open("Contents").text("Key", names.shown(entry.key));
        entry.write_facts(&mut xml);
        write_owner(&mut xml, "Owner", owner);
        xml.close("Contents");
    }
    write_common_prefixes(&mut xml, &mut names, common_prefixes);
    xml.close("ListBucketResult");
}

/// A page of ListObjectVersions, of a bucket that never had versioning: every key has one version, called `null`.
/// `continues_after` is the last entry, and whether it is a key, if more follow.
pub fn write_list_versions<'a>(
    out: &mut Vec<u8>,
    (bucket, owner): (&str, &Owner<'_>),
    request: &ListObjectVersions<'_>,
    continues_after: Option<(&str, bool)>,
    keys: impl IntoIterator<Item = ListEntry<'a>>,
    common_prefixes: impl IntoIterator<Item = &'a str>,
) {
    let mut names = Names::new(request.url_encoding);
    let mut xml = XmlWriter::document(out, "ListVersionsResult", NAMESPACE);
    xml.text("Name", bucket).text("Prefix", names.shown(&request.prefix));
    xml.text("KeyMarker", names.shown(&request.key_marker));
    xml.text("VersionIdMarker", request.version_id_marker.as_deref().unwrap_or_default());
    if let Some((last, is_key)) = continues_after {
        xml.text("NextKeyMarker", names.shown(last));
        if is_key {
            xml.text("NextVersionIdMarker", NULL_VERSION);
        }
    }
    xml.number("MaxKeys", u64::from(request.max_keys));
    if !request.delimiter.is_empty() {
        xml.text("Delimiter", names.shown(&request.delimiter));
    }
    if request.url_encoding {
        xml.text("EncodingType", "url");
    }
    xml.flag("IsTruncated", continues_after.is_some());
    for entry in keys {
        xml.open("Version").text("Key", names.shown(entry.key)).text("VersionId", NULL_VERSION).flag("IsLatest", true);
        entry.write_facts(&mut xml);
        write_owner(&mut xml, "Owner", owner);
        xml.close("Version");
    }
    write_common_prefixes(&mut xml, &mut names, common_prefixes);
    xml.close("ListVersionsResult");
}

/// An open upload.
#[derive(Clone, Copy, Debug)]
pub struct UploadEntry<'a> {
    pub key: &'a str,
    pub upload: &'a str,
    pub initiated: Timestamp,
    /// As declared when it was created: `x-amz-checksum-algorithm`'s spelling, and whether its object's checksum will be one
    /// of the parts' checksums.
    pub checksum: Option<(&'a str, bool)>,
}

/// A page of ListMultipartUploads. `continues_after` is the last entry, if more follow: a key and its upload, or a common
/// prefix and nothing.
pub fn write_list_uploads<'a>(
    out: &mut Vec<u8>,
    (bucket, owner): (&str, &Owner<'_>),
    request: &ListMultipartUploads<'_>,
    continues_after: Option<(&str, &str)>,
    uploads: impl IntoIterator<Item = UploadEntry<'a>>,
    common_prefixes: impl IntoIterator<Item = &'a str>,
) {
    let mut names = Names::new(request.url_encoding);
    let mut xml = XmlWriter::document(out, "ListMultipartUploadsResult", NAMESPACE);
    xml.text("Bucket", bucket).text("KeyMarker", names.shown(&request.key_marker));
    xml.text("UploadIdMarker", &request.upload_id_marker);
    if let Some((key, upload)) = continues_after {
        xml.text("NextKeyMarker", names.shown(key)).text("NextUploadIdMarker", upload);
    }
    xml.text("Prefix", names.shown(&request.prefix));
    if !request.delimiter.is_empty() {
        xml.text("Delimiter", names.shown(&request.delimiter));
    }
    if request.url_encoding {
        xml.text("EncodingType", "url");
    }
    xml.number("MaxUploads", u64::from(request.max_uploads)).flag("IsTruncated", continues_after.is_some());
    for entry in uploads {
        xml.open("Upload").text("Key", names.shown(entry.key)).text("UploadId", entry.upload);
        write_owner(&mut xml, "Initiator", owner);
        write_owner(&mut xml, "Owner", owner);
        xml.text("StorageClass", "STANDARD").text("Initiated", date::xml(entry.initiated).as_str());
        if let Some((algorithm, composite)) = entry.checksum {
            xml.text("ChecksumAlgorithm", algorithm).text("ChecksumType", checksum_type(composite));
        }
        xml.close("Upload");
    }
    write_common_prefixes(&mut xml, &mut names, common_prefixes);
    xml.close("ListMultipartUploadsResult");
}

/// What unversioned buckets call the only version of an object.
const NULL_VERSION: &str = "null";

/// A bucket that never had versioning says nothing ("GetBucketVersioning", Amazon S3 API reference).
pub fn write_versioning(out: &mut Vec<u8>) {
    XmlWriter::document(out, "VersioningConfiguration", NAMESPACE).close("VersioningConfiguration");
}

/// Names in a listing, percent-encoded if the client asked for it.
pub(super) struct Names {
    url_encoding: bool,
    scratch: String,
}

impl Names {
    pub(super) fn new(url_encoding: bool) -> Self {
        Self { url_encoding, scratch: String::new() }
    }

    pub(super) fn shown<'n>(&'n mut self, name: &'n str) -> &'n str {
        if !self.url_encoding {
            return name;
        }
        self.scratch.clear();
        encode_percent(name.as_bytes(), true, &mut self.scratch);
        &self.scratch
    }
}

pub(super) fn checksum_type(composite: bool) -> &'static str {
    if composite { "COMPOSITE" } else { "FULL_OBJECT" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::target::Query;
    use crate::proto::xml::{read_list, read_uploads, read_versions};
    use proptest::prelude::*;

    const AT: Timestamp = Timestamp { millis: 784_111_777_000 };
    const XML: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

    fn entry<'k>(key: &&'k str) -> ListEntry<'k> {
        ListEntry { key, size: 7, etag: "e", modified: AT, checksum: None }
    }

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("UTF-8").replace(XML, "").replace(&format!(" xmlns=\"{NAMESPACE}\""), "")
    }

    fn list(query: &str, keys: &[&str], prefixes: &[&str], continues_after: Option<&str>) -> String {
        let request = ListObjectsV2::parse(&Query::new(query)).expect("well-formed");
        let entries = keys.len() + prefixes.len();
        let header =
            ListHeader { bucket: "photos", owner: Owner::of("ann"), request: &request, entries, continues_after };
        let entry = |&key| ListEntry { key, size: 7, etag: "e", modified: AT, checksum: Some(("CRC32", true)) };
        let mut out = Vec::new();
        write_list_objects(&mut out, &header, keys.iter().map(entry), prefixes.iter().copied());
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn a_full_listing() {
        let query =
            "list-type=2&prefix=a%2F&delimiter=%2F&max-keys=2&start-after=a%20&encoding-type=url&fetch-owner=true";
        let token = list_token::encode("a/d/");
        let want = format!(
            "{XML}<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>photos</Name><Prefix>a/</Prefix>\
             <StartAfter>a%20</StartAfter><NextContinuationToken>{token}</NextContinuationToken><KeyCount>2</KeyCount>\
             <MaxKeys>2</MaxKeys><Delimiter>/</Delimiter><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
             <Contents><Key>a/b%2Bc</Key><LastModified>1994-11-06T08:49:37.000Z</LastModified><ETag>&quot;e&quot;</ETag>\
             <ChecksumAlgorithm>CRC32</ChecksumAlgorithm><ChecksumType>COMPOSITE</ChecksumType><Size>7</Size>\
             <StorageClass>STANDARD</StorageClass><Owner><ID>7daa9edbc4dc6422da02bbc17df29406fb4e896e01a37f2d3c68f943cecfeb99</ID>\
             <DisplayName>ann</DisplayName></Owner></Contents>\
             <CommonPrefixes><Prefix>a/d/</Prefix></CommonPrefixes></ListBucketResult>"
        );
        assert_eq!(list(query, &["a/b+c"], &["a/d/"], Some("a/d/")), want);
    }

    #[test]
    fn an_empty_listing_says_so() {
        let text = list("list-type=2&max-keys=0", &[], &[], None);
        for part in
            ["<Prefix></Prefix>", "<KeyCount>0</KeyCount><MaxKeys>0</MaxKeys><IsTruncated>false</IsTruncated></"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("Delimiter") && !text.contains("Token") && !text.contains("EncodingType"), "{text}");
    }

    const FACTS: &str = "<LastModified>1994-11-06T08:49:37.000Z</LastModified><ETag>&quot;e&quot;</ETag><Size>7</Size>\
         <StorageClass>STANDARD</StorageClass>\
             <Owner><ID>7daa9edbc4dc6422da02bbc17df29406fb4e896e01a37f2d3c68f943cecfeb99</ID><DisplayName>ann</DisplayName></Owner>";

    #[test]
    fn a_listing_of_the_first_version() {
        let write = |raw: &str, last: Option<&str>| {
            let request = ListObjects::parse(&Query::new(raw)).expect("well-formed");
            text(|out| {
                write_list_objects_v1(out, ("b", &Owner::of("ann")), &request, last, ["a b"].iter().map(entry), ["a/"]);
            })
        };
        let want = format!(
            "<ListBucketResult><Name>b</Name><Prefix>a</Prefix><Marker>0%20</Marker><NextMarker>a/%2B</NextMarker>\
             <MaxKeys>2</MaxKeys><Delimiter>/</Delimiter><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
             <Contents><Key>a%20b</Key>{FACTS}</Contents><CommonPrefixes><Prefix>a/</Prefix></CommonPrefixes>\
             </ListBucketResult>"
        );
        assert_eq!(write("prefix=a&marker=0%20&delimiter=/&max-keys=2&encoding-type=url", Some("a/+")), want);
        let plain = write("", Some("a b"));
        assert!(plain.contains("<Marker></Marker><MaxKeys>1000</MaxKeys><IsTruncated>true</IsTruncated>"), "{plain}");
    }

    #[test]
    fn versions_of_an_unversioned_bucket() {
        let write = |raw: &str, last: Option<(&str, bool)>| {
            let request = ListObjectVersions::parse(&Query::new(raw)).expect("well-formed");
            text(|out| {
                write_list_versions(out, ("b", &Owner::of("ann")), &request, last, ["k"].iter().map(entry), ["p/"]);
            })
        };
        let want = format!(
            "<ListVersionsResult><Name>b</Name><Prefix></Prefix><KeyMarker>j</KeyMarker>\
             <VersionIdMarker>null</VersionIdMarker><NextKeyMarker>k</NextKeyMarker>\
             <NextVersionIdMarker>null</NextVersionIdMarker><MaxKeys>2</MaxKeys><IsTruncated>true</IsTruncated>\
             <Version><Key>k</Key><VersionId>null</VersionId><IsLatest>true</IsLatest>{FACTS}</Version>\
             <CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes></ListVersionsResult>"
        );
        let got = write("versions&key-marker=j&version-id-marker=null&max-keys=2", Some(("k", true)));
        assert_eq!(got, want);
        let read = read_versions(got.as_bytes()).expect("well-formed");
        assert_eq!((read[0].key.as_str(), read[0].version_id.as_str()), ("k", "null"));
        let at_prefix = write("versions&delimiter=/", Some(("p/", false)));
        assert!(at_prefix.contains("<NextKeyMarker>p/</NextKeyMarker><MaxKeys>"), "{at_prefix}");
        assert_eq!(text(write_versioning), "<VersioningConfiguration></VersioningConfiguration>");
    }

    #[test]
    fn open_uploads() {
        let raw = "uploads&key-marker=j&delimiter=/&max-uploads=2&encoding-type=url";
        let request = ListMultipartUploads::parse(&Query::new(raw)).expect("well-formed");
        let entry = UploadEntry { key: "k +", upload: "U", initiated: AT, checksum: Some(("CRC32", false)) };
        let got =
            text(|out| write_list_uploads(out, ("b", &Owner::of("ann")), &request, Some(("p/", "")), [entry], ["p/"]));
        let who = |element: &str| {
            format!(
                "<{element}><ID>7daa9edbc4dc6422da02bbc17df29406fb4e896e01a37f2d3c68f943cecfeb99</ID><DisplayName>ann</DisplayName></{element}>"
            )
        };
        let want = format!(
            "<ListMultipartUploadsResult><Bucket>b</Bucket><KeyMarker>j</KeyMarker><UploadIdMarker></UploadIdMarker>\
             <NextKeyMarker>p/</NextKeyMarker><NextUploadIdMarker></NextUploadIdMarker><Prefix></Prefix>\
             <Delimiter>/</Delimiter><EncodingType>url</EncodingType><MaxUploads>2</MaxUploads>\
             <IsTruncated>true</IsTruncated><Upload><Key>k%20%2B</Key><UploadId>U</UploadId>{}{}\
             <StorageClass>STANDARD</StorageClass><Initiated>1994-11-06T08:49:37.000Z</Initiated>\
             <ChecksumAlgorithm>CRC32</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType></Upload>\
             <CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes></ListMultipartUploadsResult>",
            who("Initiator"),
            who("Owner")
        );
        assert_eq!(got, want);
        let page = read_uploads(got.as_bytes()).expect("well-formed");
        assert_eq!((page.uploads[0].key.as_str(), page.uploads[0].upload.as_str()), ("k +", "U"));
    }

    proptest! {
        /// With and without encoding, any key survives our own reader; strict readers need the encoding.
        #[test]
        fn any_key_survives_a_listing(keys in prop::collection::vec(any::<String>(), 1..6), url in any::<bool>()) {
            let query = if url { "list-type=2&encoding-type=url" } else { "list-type=2" };
            let shown: Vec<&str> = keys.iter().map(String::as_str).collect();
            let text = list(query, &shown, &shown, None);
            let page = read_list(text.as_bytes()).expect("well-formed");
            let got: Vec<&str> = page.keys.iter().map(|entry| entry.key.as_str()).collect();
            prop_assert_eq!(&got, &shown);
            prop_assert_eq!(&page.common_prefixes, &keys);
            if url {
                prop_assert!(text.is_ascii() && !text.contains("&#"), "nothing that XML 1.0 cannot carry: {}", text);
            }
        }
    }
}
