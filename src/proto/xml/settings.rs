//! What a bucket or an object answers of itself: access control, and settings that nobody can change here.

use super::NAMESPACE;
use super::listing::write_owner;
use super::walk::Walk;
use super::write::XmlWriter;
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::owner::Owner;

/// The access control list of everything under BucketOwnerEnforced: the owner may do everything, nobody else anything.
pub fn write_acl(out: &mut Vec<u8>, owner: &Owner<'_>) {
    const GRANTEE: &str = "Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"CanonicalUser\"";
    let mut xml = XmlWriter::document(out, "AccessControlPolicy", NAMESPACE);
    write_owner(&mut xml, "Owner", owner);
    xml.open("AccessControlList").open("Grant").open(GRANTEE);
    xml.text("ID", owner.id()).text("DisplayName", owner.name()).close("Grantee");
    xml.text("Permission", "FULL_CONTROL").close("Grant").close("AccessControlList").close("AccessControlPolicy");
}

/// The body of PutBucketAcl and PutObjectAcl: accepted if it says what is so anyway. MalformedXML,
/// AccessControlListNotSupported.
pub fn check_acl(bytes: &[u8], owner: &Owner<'_>) -> Result<(), S3Error> {
    let mut walk = Walk::new(bytes)?;
    if walk.root() != "AccessControlPolicy" {
        return Err(ErrorCode::MalformedXML.into());
    }
    let (mut grants, mut of_owner, mut full) = (0, false, false);
    while let Some((path, text)) = walk.next_closed()? {
        match path {
            "AccessControlList/Grant/Grantee/ID" => of_owner = text.trim_ascii() == owner.id(),
            "AccessControlList/Grant/Permission" => full = text.trim_ascii() == "FULL_CONTROL",
            "AccessControlList/Grant" => grants += 1,
            _ => {}
        }
    }
    if grants == 1 && of_owner && full { Ok(()) } else { Err(ErrorCode::AccessControlListNotSupported.into()) }
}

/// A document with one root and, within it, nothing or one value at this path.
pub fn write_setting(out: &mut Vec<u8>, root: &str, path: &[&str], value: &str) {
    let mut xml = XmlWriter::document(out, root, NAMESPACE);
    for element in path {
        xml.open(element);
    }
    xml.value(value);
    for element in path.iter().rev() {
        xml.close(element);
    }
    xml.close(root);
}

/// A rule of GetBucketCors.
#[derive(Clone, Debug)]
pub struct CorsEntry<'a> {
    pub headers: Vec<&'a str>,
    pub methods: Vec<&'a str>,
    pub origins: Vec<&'a str>,
    pub exposed: Vec<&'a str>,
    /// Seconds.
    pub max_age: Option<u32>,
}

pub fn write_cors<'a>(out: &mut Vec<u8>, rules: impl IntoIterator<Item = CorsEntry<'a>>) {
    let mut xml = XmlWriter::document(out, "CORSConfiguration", NAMESPACE);
    for rule in rules {
        xml.open("CORSRule");
        let lists = [
            ("AllowedHeader", rule.headers),
            ("AllowedMethod", rule.methods),
            ("AllowedOrigin", rule.origins),
            ("ExposeHeader", rule.exposed),
        ];
        for (element, texts) in lists {
            for text in texts {
                xml.text(element, text);
            }
        }
        if let Some(seconds) = rule.max_age {
            xml.number("MaxAgeSeconds", u64::from(seconds));
        }
        xml.close("CORSRule");
    }
    xml.close("CORSConfiguration");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_answered_may_be_put_back() {
        let ann = Owner::of("ann");
        let mut out = Vec::new();
        write_acl(&mut out, &ann);
        assert_eq!(check_acl(&out, &ann), Ok(()));
        let code = |bytes: &[u8]| check_acl(bytes, &ann).map_err(|error| error.code);
        assert!(check_acl(&out, &Owner::of("bob")).is_err());
        let text = String::from_utf8(out).expect("UTF-8");
        let not_supported = Err(ErrorCode::AccessControlListNotSupported);
        assert_eq!(code(text.replace("FULL_CONTROL", "READ").as_bytes()), not_supported);
        let grant = text.split_once("<Grant>").and_then(|(_, rest)| rest.split_once("</Grant>")).expect("a grant").0;
        let twice = text.replace("</Grant>", &format!("</Grant><Grant>{grant}</Grant>"));
        assert_eq!(code(twice.as_bytes()), not_supported);
        let none = "<AccessControlPolicy><AccessControlList/></AccessControlPolicy>";
        assert_eq!(code(none.as_bytes()), not_supported);
        assert_eq!(code(b"<Acl/>"), Err(ErrorCode::MalformedXML));
        assert_eq!(code(b"text"), Err(ErrorCode::MalformedXML));
    }

    #[test]
    fn settings_and_cors() {
        let text = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            let text = String::from_utf8(out).expect("UTF-8");
            text.split_once('\n').expect("a declaration").1.replace(&format!(" xmlns=\"{NAMESPACE}\""), "")
        };
        let owned =
            text(&|out| write_setting(out, "OwnershipControls", &["Rule", "ObjectOwnership"], "BucketOwnerEnforced"));
        let want = "<OwnershipControls><Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule></OwnershipControls>";
        assert_eq!(owned, want);
        assert_eq!(
            text(&|out| write_setting(out, "BucketLoggingStatus", &[], "")),
            "<BucketLoggingStatus></BucketLoggingStatus>"
        );
        let rule = CorsEntry {
            headers: vec!["*"],
            methods: vec!["GET", "PUT"],
            origins: vec!["https://a"],
            exposed: vec!["ETag"],
            max_age: Some(5),
        };
        let want = "<CORSConfiguration><CORSRule><AllowedHeader>*</AllowedHeader><AllowedMethod>GET</AllowedMethod>\
                    <AllowedMethod>PUT</AllowedMethod><AllowedOrigin>https://a</AllowedOrigin><ExposeHeader>ETag</ExposeHeader>\
                    <MaxAgeSeconds>5</MaxAgeSeconds></CORSRule></CORSConfiguration>";
        assert_eq!(text(&|out| write_cors(out, [rule.clone()])), want);
    }
}
