//! The answer to GetObjectAttributes.

use super::listing::checksum_type;
use super::write::XmlWriter;
use super::{CHECKSUM_ELEMENT, NAMESPACE};
use crate::proto::attributes::ObjectAttributes;

/// The object, as far as it is asked about. ETags are without quotes here.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub etag: &'a str,
    pub size: u64,
    /// Algorithm, value in base64 (a composite one with its `-N`, which is not shown), whether composite.
    pub checksum: Option<(&'a str, &'a str, bool)>,
    /// None of an object that is one piece.
    pub parts: Option<u16>,
    /// Only of an object whose checksum is composite: what S3 remembers of the others' parts is how many there were.
    pub page: Option<PartsPage<'a>>,
}

#[derive(Clone, Copy, Debug)]
pub struct PartsPage<'a> {
    /// More follow the last one.
    pub truncated: bool,
    pub parts: &'a [AttributePart<'a>],
}

#[derive(Clone, Copy, Debug)]
pub struct AttributePart<'a> {
    pub number: u16,
    pub size: u64,
    /// Algorithm and value in base64.
    pub checksum: Option<(&'a str, &'a str)>,
}

pub fn write_attributes(out: &mut Vec<u8>, asked: &ObjectAttributes, object: &Attributes<'_>) {
    const ROOT: &str = "GetObjectAttributesResponse";
    let mut xml = XmlWriter::document(out, ROOT, NAMESPACE);
    if asked.etag {
        xml.text("ETag", object.etag);
    }
    if let Some((algorithm, value, composite)) = object.checksum.filter(|_| asked.checksum) {
        let digest = value.split_once('-').map_or(value, |(digest, _)| digest);
        xml.open("Checksum").text_in_two(CHECKSUM_ELEMENT, algorithm, digest);
        xml.text("ChecksumType", checksum_type(composite)).close("Checksum");
    }
    if let Some(count) = object.parts.filter(|_| asked.object_parts) {
        xml.open("ObjectParts").number("PartsCount", u64::from(count));
        if let Some(page) = object.page {
            write_page(&mut xml, asked, &page);
        }
        xml.close("ObjectParts");
    }
    if asked.storage_class {
        xml.text("StorageClass", "STANDARD");
    }
    if asked.object_size {
        xml.number("ObjectSize", object.size);
    }
    xml.close(ROOT);
}

fn write_page(xml: &mut XmlWriter<'_>, asked: &ObjectAttributes, page: &PartsPage<'_>) {
    xml.number("PartNumberMarker", u64::from(asked.part_number_marker));
    xml.number("NextPartNumberMarker", page.parts.last().map_or(0, |part| u64::from(part.number)));
    xml.number("MaxParts", u64::from(asked.max_parts)).flag("IsTruncated", page.truncated);
    for part in page.parts {
        xml.open("Part").number("PartNumber", u64::from(part.number)).number("Size", part.size);
        if let Some((algorithm, value)) = part.checksum {
            xml.text_in_two(CHECKSUM_ELEMENT, algorithm, value);
        }
        xml.close("Part");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(asked: &ObjectAttributes, object: &Attributes<'_>) -> String {
        let mut out = Vec::new();
        write_attributes(&mut out, asked, object);
        let text = String::from_utf8(out).expect("UTF-8");
        let start = format!("<GetObjectAttributesResponse xmlns=\"{NAMESPACE}\">");
        let (_, inner) = text.split_once(&start).expect("the root");
        inner.strip_suffix("</GetObjectAttributesResponse>").expect("its end").to_owned()
    }

    #[test]
    fn what_is_asked_for_is_answered() {
        let page = PartsPage {
            truncated: true,
            parts: &[AttributePart { number: 2, size: 5, checksum: Some(("CRC32", "AAAAAA==")) }],
        };
        let object = Attributes {
            etag: "e-3",
            size: 15,
            checksum: Some(("CRC32", "BBBBBA==-3", true)),
            parts: Some(3),
            page: Some(page),
        };
        let all = ObjectAttributes {
            etag: true,
            checksum: true,
            object_parts: true,
            storage_class: true,
            object_size: true,
            max_parts: 1,
            part_number_marker: 1,
        };
        assert_eq!(
            text(&all, &object),
            "<ETag>e-3</ETag><Checksum><ChecksumCRC32>BBBBBA==</ChecksumCRC32><ChecksumType>COMPOSITE</ChecksumType>\
             </Checksum><ObjectParts><PartsCount>3</PartsCount><PartNumberMarker>1</PartNumberMarker>\
             <NextPartNumberMarker>2</NextPartNumberMarker><MaxParts>1</MaxParts><IsTruncated>true</IsTruncated>\
             <Part><PartNumber>2</PartNumber><Size>5</Size><ChecksumCRC32>AAAAAA==</ChecksumCRC32></Part></ObjectParts>\
             <StorageClass>STANDARD</StorageClass><ObjectSize>15</ObjectSize>"
        );
        let plain = Attributes { etag: "e", size: 0, checksum: None, parts: None, page: None };
        let few = ObjectAttributes { checksum: true, object_parts: true, object_size: true, ..all };
        let few = ObjectAttributes { etag: false, storage_class: false, ..few };
        assert_eq!(text(&few, &plain), "<ObjectSize>0</ObjectSize>");
        let counted = Attributes { parts: Some(2), ..plain };
        let want = "<ObjectParts><PartsCount>2</PartsCount></ObjectParts><ObjectSize>0</ObjectSize>";
        assert_eq!(text(&few, &counted), want);
    }
}
