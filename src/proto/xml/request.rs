//! Bodies that clients send: the manifest of a multipart upload, and the list of a batch delete.

use super::CHECKSUM_ELEMENT;
use super::walk::{BadXml, Walk};
use crate::base::limits::{BATCH_KEYS_MAX, PARTS_MAX};
use crate::base::{PartNumber, Timestamp};
use crate::proto::checksum::{Algorithm, Checksum};
use crate::proto::date;
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::etag::unquoted;
use crate::proto::tags;

impl From<BadXml> for S3Error {
    fn from(_: BadXml) -> Self {
        ErrorCode::MalformedXML.into()
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompletedPart {
    pub number: PartNumber,
    /// Without quotes.
    pub etag: String,
    pub checksums: Vec<Checksum>,
}

/// The body of CompleteMultipartUpload, in the order sent: 1 to 10 000 parts. Whether they ascend and exist is for the
/// store to say. MalformedXML, InvalidArgument or InvalidPart.
pub fn read_complete_multipart_upload(bytes: &[u8]) -> Result<Vec<CompletedPart>, S3Error> {
    let mut walk = Walk::new(bytes)?;
    if walk.root() != "CompleteMultipartUpload" {
        return Err(ErrorCode::MalformedXML.into());
    }
    let mut parts = Vec::new();
    let mut number: Option<PartNumber> = None;
    let mut etag: Option<String> = None;
    let mut checksums = Vec::new();
    while let Some((path, text)) = walk.next_closed()? {
        match path {
            "Part/PartNumber" => number = Some(part_number(text)?),
            "Part/ETag" => etag = Some(unquoted(text).to_owned()),
            "Part" => {
                let (Some(number), Some(etag)) = (number.take(), etag.take()) else {
                    return Err(ErrorCode::MalformedXML.into());
                };
                if parts.len() == usize::from(PARTS_MAX) {
                    return Err(ErrorCode::MalformedXML.into());
                }
                parts.push(CompletedPart { number, etag, checksums: std::mem::take(&mut checksums) });
            }
            _ => {
                if let Some(algorithm) = path.strip_prefix("Part/").and_then(algorithm_of) {
                    checksums
                        .push(Checksum::parse(algorithm, text.trim_ascii().as_bytes()).ok_or(ErrorCode::InvalidPart)?);
                }
            }
        }
    }
    if parts.is_empty() {
        return Err(ErrorCode::MalformedXML.into());
    }
    Ok(parts)
}

/// AWS calls a number below 1 an argument, one above 10 000 a part that is not there, and no number at all malformed.
fn part_number(text: &str) -> Result<PartNumber, S3Error> {
    let number: i64 = text.trim_ascii().parse().map_err(|_| ErrorCode::MalformedXML)?;
    if number < 1 {
        return Err(S3Error::new(ErrorCode::InvalidArgument, "PartNumber must be >= 1"));
    }
    let number = u16::try_from(number).ok().and_then(PartNumber::new);
    number.ok_or_else(|| ErrorCode::InvalidPart.into())
}

fn algorithm_of(element: &str) -> Option<Algorithm> {
    let name = element.strip_prefix(CHECKSUM_ELEMENT)?;
    Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name)
}

/// The body of PutObjectTagging, checked by S3's rules for tags. MalformedXML or InvalidTag.
pub fn read_tagging(bytes: &[u8]) -> Result<Vec<(String, String)>, S3Error> {
    let mut walk = Walk::new(bytes)?;
    if walk.root() != "Tagging" {
        return Err(ErrorCode::MalformedXML.into());
    }
    let mut tags = Vec::new();
    let (mut name, mut value) = (None, None);
    let mut has_set = false;
    while let Some((path, text)) = walk.next_closed()? {
        match path {
            "TagSet/Tag/Key" => name = Some(text.to_owned()),
            "TagSet/Tag/Value" => value = Some(text.to_owned()),
            "TagSet/Tag" => match (name.take(), value.take()) {
                (Some(name), Some(value)) => tags.push((name, value)),
                _ => return Err(ErrorCode::MalformedXML.into()),
            },
            "TagSet" if has_set => return Err(ErrorCode::MalformedXML.into()),
            "TagSet" => has_set = true,
            _ => {}
        }
    }
    if !has_set {
        return Err(ErrorCode::MalformedXML.into());
    }
    tags::check(&tags)?;
    Ok(tags)
}

/// The body of CreateBucket: the region asked for, empty if none is. MalformedXML; NotImplemented for what would be another
/// kind of bucket, and for tags.
pub fn read_create_bucket(bytes: &[u8]) -> Result<String, S3Error> {
    let mut region = String::new();
    if bytes.trim_ascii().is_empty() {
        return Ok(region);
    }
    let mut walk = Walk::new(bytes)?;
    if walk.root() != "CreateBucketConfiguration" {
        return Err(ErrorCode::MalformedXML.into());
    }
    while let Some((path, text)) = walk.next_closed()? {
        match path {
            "LocationConstraint" => text.trim_ascii().clone_into(&mut region),
            "Location" | "Bucket" | "Tags" => {
                let message = format!("{path} in CreateBucketConfiguration is not supported.");
                return Err(S3Error::new(ErrorCode::NotImplemented, message));
            }
            _ => {}
        }
    }
    Ok(region)
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectToDelete {
    /// As sent; may be too long to be a key.
    pub key: String,
    pub version_id: Option<String>,
    /// Delete only if the object has this ETag (without quotes, or `*`), this size, and is of this second.
    pub if_etag: Option<String>,
    pub if_size: Option<u64>,
    pub if_modified_at: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeleteRequest {
    /// 1 to 1000, in the order sent.
    pub objects: Vec<ObjectToDelete>,
    /// Report failures only.
    pub quiet: bool,
}

/// The body of DeleteObjects. MalformedXML.
pub fn read_delete(bytes: &[u8]) -> Result<DeleteRequest, S3Error> {
    let mut walk = Walk::new(bytes)?;
    if walk.root() != "Delete" {
        return Err(ErrorCode::MalformedXML.into());
    }
    let mut request = DeleteRequest { objects: Vec::new(), quiet: false };
    let mut key: Option<String> = None;
    let mut version_id: Option<String> = None;
    let (mut if_etag, mut if_size, mut if_modified_at) = (None, None, None);
    while let Some((path, text)) = walk.next_closed()? {
        match path {
            "Quiet" => request.quiet = text.trim_ascii().eq_ignore_ascii_case("true"),
            "Object/Key" => key = Some(text.to_owned()),
            "Object/VersionId" => version_id = Some(text.trim_ascii().to_owned()),
            "Object/ETag" => if_etag = Some(unquoted(text).to_owned()),
            "Object/Size" => if_size = Some(text.trim_ascii().parse().map_err(|_| ErrorCode::MalformedXML)?),
            "Object/LastModifiedTime" => {
                let at = date::parse_any(text.trim_ascii().as_bytes());
                if_modified_at = Some(at.ok_or(ErrorCode::MalformedXML)?);
            }
            "Object" => {
                let key = key.take().filter(|key| !key.is_empty()).ok_or(ErrorCode::MalformedXML)?;
                if request.objects.len() == BATCH_KEYS_MAX {
                    return Err(ErrorCode::MalformedXML.into());
                }
                request.objects.push(ObjectToDelete {
                    key,
                    version_id: version_id.take(),
                    if_etag: if_etag.take(),
                    if_size: if_size.take(),
                    if_modified_at: if_modified_at.take(),
                });
            }
            _ => {}
        }
    }
    if request.objects.is_empty() {
        return Err(ErrorCode::MalformedXML.into());
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(inner: &str) -> Result<Vec<CompletedPart>, ErrorCode> {
        let text = format!("<CompleteMultipartUpload xmlns='x'>{inner}</CompleteMultipartUpload>");
        read_complete_multipart_upload(text.as_bytes()).map_err(|error| error.code)
    }

    fn delete(inner: &str) -> Result<DeleteRequest, ErrorCode> {
        read_delete(format!("<Delete>{inner}</Delete>").as_bytes()).map_err(|error| error.code)
    }

    #[test]
    fn manifests() {
        let parts = complete(
            "<Part><PartNumber>2</PartNumber><ETag>&quot;abc&quot;</ETag><ChecksumCRC32>AAAAAA==</ChecksumCRC32></Part>
             <Part><ETag> \"def\" </ETag><PartNumber> 1 </PartNumber><New/></Part><Part><ETag>x</ETag><PartNumber>10000</PartNumber></Part>",
        )
        .expect("well-formed");
        let got: Vec<_> = parts.iter().map(|part| (part.number.get(), part.etag.as_str())).collect();
        assert_eq!(got, [(2, "abc"), (1, "def"), (10_000, "x")], "in the order sent");
        assert_eq!(parts[0].checksums, [Checksum::new(Algorithm::Crc32, &[0; 4]).expect("four bytes")]);
        assert!(parts[1].checksums.is_empty(), "a part keeps nothing of the one before");
    }

    #[test]
    fn bad_manifests() {
        let part = |number: &str| format!("<Part><PartNumber>{number}</PartNumber><ETag>a</ETag></Part>");
        for (inner, want) in [
            (String::new(), ErrorCode::MalformedXML),
            ("<Part/>".to_owned(), ErrorCode::MalformedXML),
            ("<Part><PartNumber>1</PartNumber></Part>".to_owned(), ErrorCode::MalformedXML),
            ("<Part><ETag>a</ETag></Part>".to_owned(), ErrorCode::MalformedXML),
            (part("1") + "<Part><ETag>b</ETag></Part>", ErrorCode::MalformedXML),
            (part("one"), ErrorCode::MalformedXML),
            (part(""), ErrorCode::MalformedXML),
            (part("99999999999999999999"), ErrorCode::MalformedXML),
            (part("0"), ErrorCode::InvalidArgument),
            (part("-1"), ErrorCode::InvalidArgument),
            (part("10001"), ErrorCode::InvalidPart),
            (part("70000"), ErrorCode::InvalidPart),
            (part("1").replace("</Part>", "<ChecksumCRC32>AAAA</ChecksumCRC32></Part>"), ErrorCode::InvalidPart),
            (part("1").repeat(10_001), ErrorCode::MalformedXML),
            ("&x;".to_owned(), ErrorCode::MalformedXML),
        ] {
            assert_eq!(complete(&inner).map(|_| ()), Err(want), "{}", &inner[..inner.len().min(80)]);
        }
        let other_root = read_complete_multipart_upload(b"<Delete/>").map_err(|error| error.code);
        assert_eq!(other_root, Err(ErrorCode::MalformedXML));
        assert_eq!(
            complete(&part("1").repeat(10_000)).map(|parts| parts.len()),
            Ok(10_000),
            "order is not ours to judge"
        );
    }

    #[test]
    fn batch_deletes() {
        let request = delete(
            "<Object><Key> a/&lt;b&gt;&#13;&#x1; </Key></Object><Quiet>true</Quiet>
             <Object><VersionId>null</VersionId><Key>c</Key><ETag>\"e\"</ETag></Object>",
        )
        .expect("well-formed");
        let plain = |key: &str| ObjectToDelete {
            key: key.to_owned(),
            version_id: None,
            if_etag: None,
            if_size: None,
            if_modified_at: None,
        };
        assert!(request.quiet);
        assert_eq!(request.objects[0], plain(" a/<b>\r\u{1} "));
        let want = ObjectToDelete { version_id: Some("null".to_owned()), if_etag: Some("e".to_owned()), ..plain("c") };
        assert_eq!(request.objects[1], want);
        assert!(!delete("<Object><Key>a</Key></Object>").expect("well-formed").quiet);
        let conditional = delete(
            "<Object><Key>a</Key><Size>5</Size><LastModifiedTime>Sun, 06 Nov 1994 08:49:37 GMT</LastModifiedTime></Object>
             <Object><Key>b</Key></Object>",
        )
        .expect("well-formed");
        let at = Some(Timestamp { millis: 784_111_777_000 });
        assert_eq!(conditional.objects[0], ObjectToDelete { if_size: Some(5), if_modified_at: at, ..plain("a") });
        assert_eq!(conditional.objects[1], plain("b"), "a key keeps nothing of the one before");
    }

    #[test]
    fn tag_sets() {
        let read = |inner: &str| {
            read_tagging(format!("<Tagging xmlns='x'>{inner}</Tagging>").as_bytes()).map_err(|error| error.code)
        };
        let tag = |name: &str, value: &str| format!("<Tag><Key>{name}</Key><Value>{value}</Value></Tag>");
        let set = |tags: &str| format!("<TagSet>{tags}</TagSet>");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read(&set(&(tag("a", "b") + &tag("c d", "")))), Ok(vec![pair("a", "b"), pair("c d", "")]));
        assert_eq!(read("<TagSet/>"), Ok(Vec::new()));
        for (inner, want) in [
            (String::new(), ErrorCode::MalformedXML),
            (tag("a", "b"), ErrorCode::MalformedXML),
            (set("<Tag><Key>a</Key></Tag>"), ErrorCode::MalformedXML),
            (set("<Tag><Value>a</Value></Tag>"), ErrorCode::MalformedXML),
            (set("") + &set(""), ErrorCode::MalformedXML),
            (set(&(tag("a", "b") + &tag("a", "c"))), ErrorCode::InvalidTag),
            (set(&tag("", "b")), ErrorCode::InvalidTag),
            (set(&(0..11).map(|i| tag(&i.to_string(), "")).collect::<String>()), ErrorCode::InvalidTag),
        ] {
            assert_eq!(read(&inner), Err(want), "{inner}");
        }
        assert!(read_tagging(b"<TagSet/>").is_err() && read_tagging(b"").is_err());
    }

    #[test]
    fn regions_of_new_buckets() {
        let read = |text: &str| read_create_bucket(text.as_bytes()).map_err(|error| error.code);
        let inside =
            |inner: &str| read(&format!("<CreateBucketConfiguration xmlns='x'>{inner}</CreateBucketConfiguration>"));
        assert_eq!((read(""), read(" \n")), (Ok(String::new()), Ok(String::new())));
        assert_eq!(inside(""), Ok(String::new()));
        assert_eq!(inside("<LocationConstraint> eu-west-1 </LocationConstraint>"), Ok("eu-west-1".to_owned()));
        assert_eq!(inside("<Location><Type>AvailabilityZone</Type></Location>"), Err(ErrorCode::NotImplemented));
        assert_eq!(inside("<Bucket><Type>Directory</Type></Bucket>"), Err(ErrorCode::NotImplemented));
        for text in ["<LocationConstraint>eu</LocationConstraint>", "eu-west-1", "<CreateBucketConfiguration>"] {
            assert_eq!(read(text), Err(ErrorCode::MalformedXML), "{text}");
        }
    }

    #[test]
    fn bad_batch_deletes() {
        let object = "<Object><Key>a</Key></Object>";
        for (inner, want) in [
            (String::new(), ErrorCode::MalformedXML),
            ("<Quiet>true</Quiet>".to_owned(), ErrorCode::MalformedXML),
            ("<Object/>".to_owned(), ErrorCode::MalformedXML),
            ("<Object><Key/></Object>".to_owned(), ErrorCode::MalformedXML),
            (format!("{object}<Object><VersionId>v</VersionId></Object>"), ErrorCode::MalformedXML),
            (object.repeat(1001), ErrorCode::MalformedXML),
            (format!("{object}</Delete><Delete>{object}"), ErrorCode::MalformedXML),
            ("<Object><Key>a</Key><Size>-5</Size></Object>".to_owned(), ErrorCode::MalformedXML),
            (
                "<Object><Key>a</Key><LastModifiedTime>now</LastModifiedTime></Object>".to_owned(),
                ErrorCode::MalformedXML,
            ),
        ] {
            assert_eq!(delete(&inner).map(|_| ()), Err(want), "{}", &inner[..inner.len().min(80)]);
        }
        assert_eq!(delete(&object.repeat(1000)).map(|request| request.objects.len()), Ok(1000));
    }
}
