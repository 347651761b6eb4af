//! What GetObjectAttributes asks for ("GetObjectAttributes", Amazon S3 API reference): names and paging, all in headers.

use super::error_code::{ErrorCode, S3Error};
use super::http1::RequestHead;
use crate::base::limits::{BATCH_KEYS_MAX, PARTS_MAX};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ObjectAttributes {
    pub etag: bool,
    pub checksum: bool,
    pub object_parts: bool,
    pub storage_class: bool,
    pub object_size: bool,
    /// Of the parts that are listed: 0 to 1000.
    pub max_parts: u32,
    /// Parts with greater numbers are listed.
    pub part_number_marker: u16,
}

impl ObjectAttributes {
    /// InvalidArgument for no name, for one that S3 has not, and for numbers that are none.
    pub fn of(head: &RequestHead<'_>) -> Result<Self, S3Error> {
        const PAGE_MAX: u32 = BATCH_KEYS_MAX as u32;
        let mut asked = Self { max_parts: PAGE_MAX, ..Self::default() };
        let refused = || S3Error::new(ErrorCode::InvalidArgument, "Invalid attribute name specified.");
        let mut any = false;
        for field in head.headers().filter(|field| field.name.eq_ignore_ascii_case("x-amz-object-attributes")) {
            for name in field.value.split(|&byte| byte == b',') {
                any = true;
                match name.trim_ascii() {
                    b"ETag" => asked.etag = true,
                    b"Checksum" => asked.checksum = true,
                    b"ObjectParts" => asked.object_parts = true,
                    b"StorageClass" => asked.storage_class = true,
                    b"ObjectSize" => asked.object_size = true,
                    _ => return Err(refused()),
                }
            }
        }
        if !any {
            return Err(refused());
        }
        if let Some(max) = number(head, "x-amz-max-parts")? {
            asked.max_parts = max.min(PAGE_MAX);
        }
        let marker = number(head, "x-amz-part-number-marker")?.unwrap_or(0);
        asked.part_number_marker = marker.min(u32::from(PARTS_MAX)) as u16;
        Ok(asked)
    }
}

fn number(head: &RequestHead<'_>, name: &str) -> Result<Option<u32>, S3Error> {
    let Some(text) = head.header_text(name)? else { return Ok(None) };
    let number = text.parse().ok().filter(|&number| i32::try_from(number).is_ok());
    let message = || format!("Argument {name} must be an integer between 0 and 2147483647");
    number.map(Some).ok_or_else(|| S3Error::new(ErrorCode::InvalidArgument, message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(fields: &str) -> Result<ObjectAttributes, ErrorCode> {
        let bytes = format!("GET /bkt/k?attributes HTTP/1.1\r\nhost: h\r\n{fields}\r\n");
        let head = RequestHead::parse(bytes.as_bytes(), &mut 0).expect("a good head").expect("a whole head");
        ObjectAttributes::of(&head).map_err(|error| error.code)
    }

    #[test]
    fn names_and_paging() {
        let plain = ObjectAttributes { max_parts: 1000, ..ObjectAttributes::default() };
        let of = |names: &str| asked(&format!("x-amz-object-attributes: {names}\r\n"));
        assert_eq!(of("ETag"), Ok(ObjectAttributes { etag: true, ..plain }));
        assert_eq!(of("ObjectSize, Checksum"), Ok(ObjectAttributes { checksum: true, object_size: true, ..plain }));
        let paged = "x-amz-object-attributes: ObjectParts\r\nX-Amz-Object-Attributes: StorageClass\r\n\
                     x-amz-max-parts: 2000\r\nx-amz-part-number-marker: 7\r\n";
        let want = ObjectAttributes { object_parts: true, storage_class: true, part_number_marker: 7, ..plain };
        assert_eq!(asked(paged), Ok(want));
        for bad in ["", "x-amz-object-attributes: \r\n", "x-amz-object-attributes: etag\r\n"] {
            assert_eq!(asked(bad), Err(ErrorCode::InvalidArgument), "{bad:?}");
        }
        for number in ["-1", "x", "2147483648"] {
            let fields = format!("x-amz-object-attributes: ETag\r\nx-amz-max-parts: {number}\r\n");
            assert_eq!(asked(&fields), Err(ErrorCode::InvalidArgument), "{number}");
        }
    }
}
