//! The completion of multipart uploads: which parts are named, what is said of their checksums, what the object is.

use super::super::action::*;
use super::super::client::{Ask, Reply};
use super::super::document::Document;
use super::super::sums::Kind;
use super::super::world::{Object, Stage, Sum, Upload, etag_of_parts};
use super::{NAMESPACE, OTHER_ETAG, Player, answered, refused_for_one_of, unquoted};
use std::fmt::Write;

type Fault = (u16, &'static str);

impl Player {
    pub(super) fn complete(&mut self, upload: usize, manifest: Manifest, said: Said, condition: Condition) {
        let Some(index) = self.upload(upload) else { return };
        let upload = self.world.uploads[index].clone();
        let at = upload.at;
        let named = named_parts(&upload, manifest);
        let whole = whole_of(&upload, &named, said);
        let ask = self.upload_ask("POST", index).body(document(&upload, &named, said).as_bytes());
        let ask = say(ask, &upload, &named, said, whole.as_ref());
        let ask = self.read_condition(ask, at, condition);
        let reply = self.client.ask(&ask);
        if self.misses_bucket(at.bucket, &reply) {
            return;
        }
        if upload.stage != Stage::Open {
            return self.complete_again(&upload, &named, (said, condition), &reply);
        }
        let mut faults = manifest_faults(&upload, &named, manifest);
        faults.extend(sum_faults(&upload, &named, said));
        faults.extend(self.write_refusal(at, condition));
        if !faults.is_empty() {
            return refused_for_one_of(&reply, &faults);
        }
        answered(&reply, 200);
        let parts = || named.iter().map(|(number, _)| (*number, &upload.parts[number]));
        let etag = etag_of_parts(parts().map(|(_, part)| &*part.bytes));
        let told = Document::parse(&reply.body);
        let one = |name: &str| told.one(&format!("CompleteMultipartUploadResult/{name}"));
        assert_eq!(one("ETag").map(unquoted), Some(etag.as_str()));
        let sum = kept_sum(&upload, &named, said);
        assert_eq!(one("ChecksumType"), sum.as_ref().map(Sum::type_name));
        let value = sum.as_ref().and_then(|sum| one(&format!("Checksum{}", sum.kind.name())));
        assert_eq!(value, sum.as_ref().map(|sum| sum.value.as_str()));
        let bytes: Vec<&[u8]> = parts().map(|(_, part)| &*part.bytes).collect();
        let object = Object {
            bytes: bytes.concat().into(),
            etag: etag.clone(),
            sum,
            parts: parts().map(|(number, part)| (number, part.bytes.len(), part.sum.clone())).collect(),
            ..upload.object
        };
        self.world.insert(at.bucket, KEYS[at.key], object);
        self.world.uploads[index].stage = Stage::Done(named, etag);
    }

    /// Of an upload that has ended: the same question has the same answer, any other none; nothing changes.
    fn complete_again(
        &self,
        upload: &Upload,
        named: &[(u16, String)],
        (said, condition): (Said, Condition),
        reply: &Reply,
    ) {
        match &upload.stage {
            Stage::Done(before, etag) if before == named && condition == Condition::None && said == Said::Parts => {
                answered(reply, 200);
                let told = Document::parse(&reply.body);
                assert_eq!(told.one("CompleteMultipartUploadResult/ETag").map(unquoted), Some(etag.as_str()));
            }
            Stage::Done(before, _) if before == named => {
                assert!([200, 400, 404, 412].contains(&reply.status), "{reply:?}");
            }
            _ => assert_eq!(reply.status / 100, 4, "{reply:?}"),
        }
    }
}

/// The parts that a Complete names, and their ETags.
fn named_parts(upload: &Upload, manifest: Manifest) -> Vec<(u16, String)> {
    let mut named: Vec<(u16, String)> =
        upload.parts.iter().map(|(number, part)| (*number, part.etag.clone())).collect();
    match manifest {
        Manifest::All => {}
        Manifest::WithoutFirst => drop(named.drain(..1.min(named.len()))),
        Manifest::WrongEtag => named.iter_mut().take(1).for_each(|(_, etag)| *etag = OTHER_ETAG.to_owned()),
        Manifest::Backwards => named.reverse(),
        Manifest::NotUploaded => named.push((9_999, OTHER_ETAG.to_owned())),
        Manifest::Empty => named.clear(),
    }
    named
}

fn document(upload: &Upload, named: &[(u16, String)], said: Said) -> String {
    let mut body = format!("<CompleteMultipartUpload xmlns=\"{NAMESPACE}\">");
    for (place, (number, etag)) in named.iter().enumerate() {
        write!(body, "<Part><PartNumber>{number}</PartNumber><ETag>\"{etag}\"</ETag>").expect("writing");
        let sum = upload.parts.get(number).and_then(|part| part.sum.as_ref()).filter(|_| said != Said::Nothing);
        if let Some(Sum { kind, value, .. }) = sum {
            let value = if said == Said::WrongPart && place == 0 { &kind.wrong() } else { value };
            write!(body, "<Checksum{0}>{value}</Checksum{0}>", kind.name()).expect("writing");
        }
        body.push_str("</Part>");
    }
    body + "</CompleteMultipartUpload>"
}

fn size_of(upload: &Upload, named: &[(u16, String)]) -> usize {
    named.iter().flat_map(|(number, _)| upload.parts.get(number)).map(|part| part.bytes.len()).sum()
}

/// The header fields of a Complete.
fn say(ask: Ask, upload: &Upload, named: &[(u16, String)], said: Said, whole: Option<&Sum>) -> Ask {
    match said {
        Said::Parts | Said::Nothing | Said::WrongPart => ask,
        Said::RightSize => ask.with("x-amz-mp-object-size", size_of(upload, named).to_string()),
        Said::WrongSize => ask.with("x-amz-mp-object-size", (size_of(upload, named) + 1).to_string()),
        Said::Whole | Said::WrongWhole | Said::WholeOf(_) => match whole {
            None => ask,
            Some(sum) if said == Said::WrongWhole => ask.with(
                sum.kind.header(),
                if sum.composite { format!("{}-1", sum.kind.wrong()) } else { sum.kind.wrong() },
            ),
            Some(sum) => ask.with(sum.kind.header(), sum.value.clone()).with("x-amz-checksum-type", sum.type_name()),
        },
    }
}

/// The checksum that is said of the whole: of the kind that the upload declared, or of the one asked for.
fn whole_of(upload: &Upload, named: &[(u16, String)], said: Said) -> Option<Sum> {
    match (said, upload.declared) {
        (Said::Whole | Said::WrongWhole, Some(declared)) => Some(computed(upload, named, declared)),
        (Said::Whole | Said::WrongWhole, None) => {
            Some(computed(upload, named, Declared { kind: Kind::Crc32, full: true }))
        }
        (Said::WholeOf(kind), _) => Some(computed(upload, named, Declared { kind, full: kind.can_be_full() })),
        _ => None,
    }
}

fn computed(upload: &Upload, named: &[(u16, String)], declared: Declared) -> Sum {
    let Declared { kind, full } = declared;
    let bytes: Vec<&[u8]> =
        named.iter().flat_map(|(number, _)| upload.parts.get(number)).map(|part| &*part.bytes).collect();
    if full {
        return Sum::of(kind, &bytes.concat());
    }
    Sum { kind, value: kind.of_parts(bytes.into_iter()), composite: true }
}

/// The checksum of the object: the declared one; of an upload that declared none, the one that is said and that the parts' own
/// tell to be right.
fn kept_sum(upload: &Upload, named: &[(u16, String)], said: Said) -> Option<Sum> {
    match upload.declared {
        Some(declared) => Some(computed(upload, named, declared)),
        None => whole_of(upload, named, said),
    }
}

/// Everything that S3 could refuse it for; it tells one.
fn manifest_faults(upload: &Upload, named: &[(u16, String)], manifest: Manifest) -> Vec<Fault> {
    let mut faults = Vec::new();
    if named.is_empty() {
        faults.push((400, "MalformedXML"));
    }
    if !named.is_sorted_by(|(a, _), (b, _)| a < b) {
        faults.push((400, "InvalidPartOrder"));
    }
    let is_wrong = matches!(manifest, Manifest::WrongEtag | Manifest::NotUploaded);
    if is_wrong && !named.is_empty() {
        faults.push((400, "InvalidPart"));
    }
    let but_last = &named[..named.len().saturating_sub(1)];
    let is_small = |number: &u16| upload.parts.get(number).is_some_and(|part| part.bytes.len() < PART_BYTES_MIN);
    if but_last.iter().any(|(number, _)| is_small(number)) {
        faults.push((400, "EntityTooSmall"));
    }
    faults
}

fn sum_faults(upload: &Upload, named: &[(u16, String)], said: Said) -> Vec<Fault> {
    let sums: Vec<_> = named.iter().flat_map(|(number, _)| upload.parts.get(number)).map(|part| &part.sum).collect();
    let first = named.first().and_then(|(number, _)| upload.parts.get(number));
    match (said, upload.declared) {
        (Said::Nothing, Some(declared)) if !declared.full && !sums.is_empty() => vec![(400, "InvalidRequest")],
        (Said::WrongPart, _) if first.is_some_and(|part| part.sum.is_some()) => vec![(400, "InvalidPart")],
        (Said::WrongSize, _) => vec![(400, "InvalidRequest")],
        (Said::WrongWhole, Some(_)) => vec![(400, "BadDigest")],
        // Of an upload that declared none only the parts' own checksums can tell.
        (Said::Whole | Said::WrongWhole | Said::WholeOf(_), None) => {
            let kind = if let Said::WholeOf(kind) = said { kind } else { Kind::Crc32 };
            let known = sums.iter().all(|sum| sum.as_ref().is_some_and(|sum| sum.kind == kind));
            match known && kind.can_be_full() {
                false => vec![(400, "InvalidRequest")],
                true if said == Said::WrongWhole => vec![(400, "BadDigest")],
                true => Vec::new(),
            }
        }
        (Said::WholeOf(kind), Some(declared)) if kind != declared.kind || declared.full != kind.can_be_full() => {
            vec![(400, "InvalidRequest")]
        }
        _ => Vec::new(),
    }
}
