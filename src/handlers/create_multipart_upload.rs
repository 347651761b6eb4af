//! CreateMultipartUpload (PROTOCOL.md, "Multipart"): the upload's row and its blob's name first, then the backend's own
//! upload under that exact name, whose id is stored before anything is answered.

use super::object_headers::record_of;
use super::placing;
use super::ports::{Exchange, Ports};
use super::request::Request;
use super::scratch::Scratch;
use super::trouble::Trouble;
use crate::backend::travel::Luggage;
use crate::base::{Clock, Dice, Failure, Nonce, ObjectKey, UploadId};
use crate::proto::checksum::Algorithm;
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::http1::RequestHead;
use crate::proto::xml;
use crate::store::port::{AbortUpload, CreateUpload, Metadata, SetBackendUpload};

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    let record = record_of(request.head)?;
    let checksum = DeclaredKind::of(request.head)?;
    let bucket = request.home()?;
    let key = ObjectKey::parse(request.key()).ok_or(ErrorCode::KeyTooLongError)?;
    // How big it will be is not known yet; parts are charged as they come.
    let mut candidates = placing::candidates(ports, bucket.name.as_str(), key.as_str(), 0);
    // All its parts go to one backend: with little room left there it could never be completed, however often it was begun anew.
    placing::prefer_room(ports, &mut candidates, ports.view().server.max_object_size_bytes);
    if candidates.is_empty() && !placing::any_usable(ports) {
        return Err(Failure::backend("no backend is usable").into());
    }
    if candidates.is_empty() && placing::is_unaffordable(ports, 0) {
        return Err(placing::over_budget().into());
    }
    let upload = loop {
        let create = CreateUpload {
            bucket: bucket.name.clone(),
            in_stored: !ports.registry().is_configured(bucket.name.as_str()),
            key: key.clone(),
            upload: UploadId::new(ports.clock().now(), ports.dice().roll(), ports.dice().roll()),
            candidates: candidates.clone(),
            nonce: Nonce::from_roll(ports.dice().roll()),
            record: record.clone(),
            checksum_algorithm: checksum.algorithm.map(|algorithm| algorithm.name().to_owned()),
            checksum_full_object: checksum.full_object,
            uploads_max: bucket.max_multipart_uploads,
        };
        let opening = Opening::of(ports, &create);
        let created = match ports.meta().step(create).await? {
            Ok(created) => created,
            Err(refusal) => {
                opening.ended();
                return Err(refusal.into());
            }
        };
        let luggage = Luggage { key: key.as_str(), record: &created.record };
        match ports.create_upload(&created.blob, luggage).await {
            Ok(backend_upload) => {
                let set = SetBackendUpload { upload: created.upload, backend_upload };
                let upload = ports.meta().step(set).await??;
                opening.ended();
                break upload;
            }
            Err(failure) => {
                candidates.retain(|candidate| candidate.backend != created.blob.backend);
                if candidates.is_empty() {
                    return Err(failure.into());
                }
            }
        }
    };
    scratch.body.clear();
    xml::write_initiate_result(&mut scratch.body, request.bucket(), request.key(), upload.upload.as_str());
    let head = exchange.head();
    head.field("content-type", "application/xml");
    if let Some(algorithm) = checksum.algorithm {
        head.field("x-amz-checksum-algorithm", algorithm.name());
        head.field("x-amz-checksum-type", checksum.kind());
    }
    exchange.note_backend(placing::index_of(ports, &upload.blob.backend));
    exchange.respond(&scratch.body).await.map_err(|_| Trouble::Cut)
}

/// An upload that no client knows of yet; handed over to be aborted, with whatever its backend has of it, unless it got
/// as far as an answer.
struct Opening<'p, P: Ports> {
    ports: &'p P,
    abort: Option<AbortUpload>,
}

impl<'p, P: Ports> Opening<'p, P> {
    fn of(ports: &'p P, create: &CreateUpload) -> Self {
        let (bucket, key, upload) = (create.bucket.clone(), create.key.clone(), create.upload.clone());
        Self { ports, abort: Some(AbortUpload { bucket, key, upload }) }
    }

    fn ended(mut self) {
        self.abort = None;
    }
}

impl<P: Ports> Drop for Opening<'_, P> {
    fn drop(&mut self) {
        if let Some(abort) = self.abort.take() {
            self.ports.end_later(abort.into());
        }
    }
}

/// `x-amz-checksum-algorithm` and `x-amz-checksum-type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct DeclaredKind {
    algorithm: Option<Algorithm>,
    full_object: bool,
}

impl DeclaredKind {
    /// InvalidRequest for names that S3 has not, and for pairs that cannot be ("Checking object integrity").
    fn of(head: &RequestHead<'_>) -> Result<Self, S3Error> {
        let refused = |message: String| S3Error::new(ErrorCode::InvalidRequest, message);
        let kind = match head.header_text("x-amz-checksum-type")? {
            None => None,
            Some(kind) if kind.eq_ignore_ascii_case("FULL_OBJECT") => Some(true),
            Some(kind) if kind.eq_ignore_ascii_case("COMPOSITE") => Some(false),
            Some(_) => return Err(refused("Value for x-amz-checksum-type header is invalid.".into())),
        };
        let Some(name) = head.header_text("x-amz-checksum-algorithm")? else {
            return match kind {
                None => Ok(Self { algorithm: None, full_object: false }),
                Some(_) => Err(refused(
                    "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.".into(),
                )),
            };
        };
        let algorithm = Algorithm::parse(name).filter(|&one| one != Algorithm::Md5);
        let algorithm = algorithm.ok_or_else(|| refused("Checksum algorithm provided is unsupported.".into()))?;
        let can_be_full = matches!(algorithm, Algorithm::Crc32 | Algorithm::Crc32c | Algorithm::Crc64Nvme);
        let must_be_full = algorithm == Algorithm::Crc64Nvme;
        let full_object = kind.unwrap_or(must_be_full);
        if full_object != must_be_full && full_object != can_be_full || must_be_full && !full_object {
            let kind = if full_object { "FULL_OBJECT" } else { "COMPOSITE" };
            let name = algorithm.name().to_ascii_lowercase();
            return Err(refused(format!(
                "The {kind} checksum type cannot be used with the {name} checksum algorithm."
            )));
        }
        Ok(Self { algorithm: Some(algorithm), full_object })
    }

    fn kind(self) -> &'static str {
        if self.full_object { "FULL_OBJECT" } else { "COMPOSITE" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(fields: &str, want: Result<(Option<Algorithm>, bool), ErrorCode>) {
        let bytes = format!("POST /bkt/k?uploads HTTP/1.1\r\nhost: h\r\n{fields}\r\n");
        let head = RequestHead::parse(bytes.as_bytes(), &mut 0).expect("a good head").expect("a whole head");
        let got = DeclaredKind::of(&head).map(|kind| (kind.algorithm, kind.full_object)).map_err(|error| error.code);
        assert_eq!(got, want, "{fields:?}");
    }

    #[test]
    fn which_kinds_of_checksum_an_upload_may_have() {
        let refused = Err(ErrorCode::InvalidRequest);
        check("", Ok((None, false)));
        check("x-amz-checksum-algorithm: crc32\r\n", Ok((Some(Algorithm::Crc32), false)));
        check("x-amz-checksum-algorithm: CRC64NVME\r\n", Ok((Some(Algorithm::Crc64Nvme), true)));
        check("x-amz-checksum-algorithm: SHA256\r\n", Ok((Some(Algorithm::Sha256), false)));
        let typed = |algorithm: &str, kind: &str| {
            format!("x-amz-checksum-algorithm: {algorithm}\r\nx-amz-checksum-type: {kind}\r\n")
        };
        check(&typed("CRC32C", "FULL_OBJECT"), Ok((Some(Algorithm::Crc32c), true)));
        check(&typed("CRC32C", "COMPOSITE"), Ok((Some(Algorithm::Crc32c), false)));
        check(&typed("SHA1", "COMPOSITE"), Ok((Some(Algorithm::Sha1), false)));
        check(&typed("SHA1", "FULL_OBJECT"), refused);
        check(&typed("CRC64NVME", "COMPOSITE"), refused);
        check(&typed("MD5", "COMPOSITE"), refused);
        check(&typed("CRC32", "HALF"), refused);
        check("x-amz-checksum-type: COMPOSITE\r\n", refused);
    }
}
