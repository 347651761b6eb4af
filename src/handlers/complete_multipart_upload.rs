//! CompleteMultipartUpload (PROTOCOL.md, "Multipart"): the manifest is tested and kept, the backend assembles, the version
//! becomes live. Every step may be asked again, by this client or after a restart, and goes on from where it was.

use super::object_headers::{condition_of, stored_checksum};
use super::placing;
use super::ports::{Exchange, Ports, Worker};
use super::request::Request;
use super::scratch::Scratch;
use super::trouble::Trouble;
use super::upload_part::{WAIT_MAX, WAIT_STEP};
use crate::backend::port::Stored;
use crate::base::failure::Kind;
use crate::base::limits::XML_BYTES_MAX;
use crate::base::{Clock, Failure, ObjectKey, Version};
use crate::proto::body_check::BodyCheck;
use crate::proto::checksum::{self, Algorithm, Checksum, Declared};
use crate::proto::error_code::{ErrorCode, S3Error};
use crate::proto::etag::ETag;
use crate::proto::http1::RequestHead;
use crate::proto::xml::{self, Completed, CompletedPart};
use crate::proto::{params, sigv4::PayloadMode};
use crate::store::port::{
    Committed, CompleteStarted, FinishComplete, Metadata, Refusal, ReopenUpload, StartComplete, Upload,
};
use crate::store::record::{ObjectRecord, PartRecord, StoredChecksum};

pub async fn handle<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
) -> Result<(), Trouble> {
    let upload = params::upload_id(&request.query())?;
    let expected = Expected::of(request.head)?;
    let bucket = request.home()?.name.clone();
    let key = ObjectKey::parse(request.key()).ok_or(ErrorCode::KeyTooLongError)?;
    let manifest = receive_manifest(request, exchange).await?;
    let start = StartComplete {
        bucket,
        key,
        upload,
        manifest: manifest.iter().map(|part| (part.number, part.etag.clone())).collect(),
        condition: condition_of(request.head)?,
        enforce_min_part_size: ports.view().write_path.enforce_min_part_size,
    };
    let (etag, record) = match begin(ports, &start).await? {
        CompleteStarted::AlreadyDone { etag, record, .. } => (etag, record),
        CompleteStarted::Go { upload, version, parts, joined } => {
            exchange.note_backend(placing::index_of(ports, &upload.blob.backend));
            let begun = Begun { upload: &upload, version, joined };
            exchange.patiently(complete(ports, start, begun, &parts, &manifest, &expected)).await?
        }
    };
    answer(ports, request, exchange, scratch, &etag, &record).await
}

/// A part that was refused is given up while its client goes on, so an upload that is busy is waited for. Cancel: NOT safe.
async fn begin<P: Ports>(ports: &P, start: &StartComplete) -> Result<CompleteStarted, Trouble> {
    let since = ports.clock().tick();
    loop {
        match ports.meta().step(start.clone()).await? {
            Err(Refusal::Busy) if ports.clock().tick().since(since) < WAIT_MAX => ports.clock().sleep(WAIT_STEP).await,
            decided => return Ok(decided?),
        }
    }
}

/// The parts as the client lists them. The request's checksum headers are the object's, not this body's.
async fn receive_manifest<P: Ports, X: Exchange<P>>(
    request: &Request<'_>,
    exchange: &mut X,
) -> Result<Vec<CompletedPart>, Trouble> {
    if request.length.is_some_and(|bytes| bytes > XML_BYTES_MAX as u64) {
        return Err(ErrorCode::MalformedXML.into());
    }
    let mut declared = Declared::default();
    if let PayloadMode::DeclaredSha256(hash) = request.payload {
        declared.content_sha256 = Checksum::new(Algorithm::Sha256, &hash);
    }
    exchange.receive(XML_BYTES_MAX, &mut BodyCheck::of_declared(declared)).await?;
    Ok(xml::read_complete_multipart_upload(exchange.received())?)
}

/// What was begun as which version; whether by another Complete before.
#[derive(Clone, Copy)]
struct Begun<'u> {
    upload: &'u Upload,
    version: Version,
    joined: bool,
}

async fn complete<P: Ports>(
    ports: &P,
    start: StartComplete,
    begun: Begun<'_>,
    parts: &[PartRecord],
    manifest: &[CompletedPart],
    expected: &Expected,
) -> Result<(String, ObjectRecord), Trouble> {
    let upload = begun.upload;
    let object = match Assembled::of(upload, parts, manifest, expected) {
        Ok(object) => object,
        Err(error) => {
            // What this request says beside the manifest is no reason to end what another one is about.
            if !begun.joined {
                reopen(ports, begun).await;
            }
            return Err(error.into());
        }
    };
    let stored = match ports.complete_upload(&upload.blob, &upload.backend_upload, parts).await {
        Ok(stored) => stored,
        // An earlier Complete did it and its answer was lost, or it cannot be done. Backends have several words for an upload
        // that they do not know any more; what stands under its exact name tells.
        Err(failure) if matches!(failure.kind, Kind::NotFound | Kind::Refused) => {
            find_completed(ports, begun, &object, failure).await?
        }
        // It may have happened: the upload stays as it is, and the client's next Complete goes on here.
        Err(failure) => return Err(failure.into()),
    };
    let finish = FinishComplete {
        bucket: start.bucket,
        key: start.key,
        upload: upload.upload.clone(),
        version: begun.version,
        version_id: stored.version_id,
        etag: object.etag.clone(),
        record: object.record.clone(),
        condition: start.condition,
    };
    match ports.meta().step(finish).await?? {
        Committed::Live { .. } if ports.registry().replication.factor > 1 => ports.wake(Worker::Replicate),
        Committed::Live { .. } | Committed::Overwritten { .. } => {}
    }
    Ok((object.etag, object.record))
}

/// Lets the client send another manifest, or abort.
async fn reopen<P: Ports>(ports: &P, begun: Begun<'_>) {
    let reopen = ReopenUpload { upload: begun.upload.upload.clone(), version: begun.version };
    if let Err(failure) = ports.meta().step(reopen).await {
        tracing::warn!(upload = begun.upload.upload.as_str(), %failure, "an upload was not reopened");
    }
}

/// The object that the backend has made of this upload already; if there is none, what to tell the client.
async fn find_completed<P: Ports>(
    ports: &P,
    begun: Begun<'_>,
    object: &Assembled,
    failure: Failure,
) -> Result<Stored, Trouble> {
    let found = ports.head(&begun.upload.blob).await?;
    let fits = |size: u64, etag: &str| {
        let told = ETag::parse(etag).filter(|tag| tag.parts() > 0);
        size == object.size && told.is_none_or(|tag| tag.to_string() == object.etag)
    };
    match found {
        Some(head) if fits(head.size, &head.etag) => Ok(Stored { etag: head.etag, version_id: String::new() }),
        _ => {
            reopen(ports, begun).await;
            tracing::warn!(upload = begun.upload.upload.as_str(), %failure, "a backend refused a manifest");
            if failure.kind == Kind::NotFound {
                return Err(ErrorCode::NoSuchUpload.into());
            }
            let message = "The parts could not be put together as they were listed.";
            Err(S3Error::new(ErrorCode::InvalidPart, message).into())
        }
    }
}

/// What the request says of the finished object.
struct Expected {
    checksum: Option<(Algorithm, String)>,
    full_object: Option<bool>,
    size: Option<u64>,
}

impl Expected {
    fn of(head: &RequestHead<'_>) -> Result<Self, S3Error> {
        let mut checksum = None;
        for algorithm in Algorithm::ALL {
            if let Some(value) = head.header_text(algorithm.header())?
                && checksum.replace((algorithm, value.to_owned())).is_some()
            {
                let message = "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.";
                return Err(S3Error::new(ErrorCode::InvalidRequest, message));
            }
        }
        let full_object = match head.header_text("x-amz-checksum-type")? {
            None => None,
            Some(kind) if kind.eq_ignore_ascii_case("FULL_OBJECT") => Some(true),
            Some(kind) if kind.eq_ignore_ascii_case("COMPOSITE") => Some(false),
            Some(_) => {
                let message = "Value for x-amz-checksum-type header is invalid.";
                return Err(S3Error::new(ErrorCode::InvalidRequest, message));
            }
        };
        let size = head.header_text("x-amz-mp-object-size")?.map(|text| {
            let message = "Value for x-amz-mp-object-size header is invalid.";
            text.parse().map_err(|_| S3Error::new(ErrorCode::InvalidRequest, message))
        });
        Ok(Self { checksum, full_object, size: size.transpose()? })
    }
}

/// The object that the parts make.
#[derive(Debug)]
struct Assembled {
    size: u64,
    etag: String,
    record: ObjectRecord,
}

impl Assembled {
    fn of(
        upload: &Upload,
        parts: &[PartRecord],
        manifest: &[CompletedPart],
        expected: &Expected,
    ) -> Result<Self, S3Error> {
        check_part_checksums(upload, parts, manifest)?;
        let size = parts.iter().map(|part| part.size).fold(0, u64::saturating_add);
        if expected.size.is_some_and(|wanted| wanted != size) {
            let message = "The provided 'x-amz-mp-object-size' header does not match what was computed.";
            return Err(S3Error::new(ErrorCode::InvalidRequest, message));
        }
        let digests = parts.iter().map(|part| ETag::parse(&part.etag).and_then(|etag| etag.md5()));
        let digests: Option<Vec<[u8; 16]>> = digests.collect();
        let etag = digests.and_then(ETag::of_parts).ok_or(ErrorCode::InternalError)?;
        let mut record = upload.record.clone();
        record.parts = etag.parts();
        let declared = upload.checksum_algorithm.as_deref().and_then(Algorithm::parse);
        let checksum = match declared {
            Some(algorithm) => combined(algorithm, upload.checksum_full_object, parts),
            // Nothing was declared: if the request has a checksum all the same, the parts' own may tell whether it is right.
            None => expected.checksum.as_ref().and_then(|(algorithm, _)| combined(*algorithm, true, parts)),
        };
        expected.check(upload, checksum.as_ref())?;
        record.checksums = checksum.into_iter().collect();
        Ok(Self { size, etag: etag.to_string(), record })
    }
}

impl Expected {
    /// What is said of the object must be what its parts tell. What they do not tell cannot be verified, and is refused.
    fn check(&self, upload: &Upload, computed: Option<&StoredChecksum>) -> Result<(), S3Error> {
        let refused = |message: String| Err(S3Error::new(ErrorCode::InvalidRequest, message));
        let declared = upload.checksum_algorithm.as_deref();
        if let (Some(full), Some(_)) = (self.full_object, declared)
            && full != upload.checksum_full_object
        {
            let mode = if upload.checksum_full_object { "FULL_OBJECT" } else { "COMPOSITE" };
            return refused(format!(
                "The upload was created using the {mode} checksum mode. The complete request must use the same checksum \
                 mode."
            ));
        }
        let Some((algorithm, value)) = &self.checksum else { return Ok(()) };
        let Some(known) = computed.filter(|one| one.algorithm == algorithm.name()) else {
            let expected = declared.unwrap_or("null").to_ascii_lowercase();
            let actual = algorithm.name().to_ascii_lowercase();
            return refused(format!(
                "Checksum Type mismatch occurred, expected checksum Type: {expected}, actual checksum Type: {actual}"
            ));
        };
        // A composite one may be written with or without its number of parts.
        let agrees = known.value == *value || known.value.split_once('-').is_some_and(|(digest, _)| digest == value);
        if agrees {
            return Ok(());
        }
        let message = format!("The {} you specified did not match the calculated checksum.", algorithm.name());
        Err(S3Error::new(ErrorCode::BadDigest, message))
    }
}

/// Checksums beside the parts of the manifest must be those that the parts were stored with; where the object's checksum is
/// one of them, they must be there.
fn check_part_checksums(upload: &Upload, parts: &[PartRecord], manifest: &[CompletedPart]) -> Result<(), S3Error> {
    let needed = upload.checksum_algorithm.as_deref().filter(|_| !upload.checksum_full_object);
    for (listed, stored) in manifest.iter().zip(parts) {
        let differs = |sent: &Checksum| {
            let known = stored.checksums.iter().find(|one| one.algorithm == sent.algorithm().name());
            known.is_some_and(|known| known.value != sent.to_base64())
        };
        if listed.checksums.iter().any(differs) {
            return Err(ErrorCode::InvalidPart.into());
        }
        if let Some(name) = needed
            && !listed.checksums.iter().any(|sent| sent.algorithm().name() == name)
        {
            let (name, number) = (name.to_ascii_lowercase(), stored.number);
            let message = format!(
                "The upload was created using a {name} checksum. The complete request must include the checksum for each \
                 part. It was missing for part {number} in the request."
            );
            return Err(S3Error::new(ErrorCode::InvalidRequest, message));
        }
    }
    Ok(())
}

/// The object's checksum out of its parts'; None unless every part has one of this algorithm, and where it cannot be combined.
fn combined(algorithm: Algorithm, full_object: bool, parts: &[PartRecord]) -> Option<StoredChecksum> {
    let values: Option<Vec<(Checksum, u64)>> = parts
        .iter()
        .map(|part| {
            let stored = part.checksums.iter().find(|one| one.algorithm == algorithm.name())?;
            Some((Checksum::parse(algorithm, stored.value.as_bytes())?, part.size))
        })
        .collect();
    if full_object {
        return checksum::full_object(values?).as_ref().map(stored_checksum);
    }
    let (digest, count) = checksum::composite(values?.into_iter().map(|(value, _)| value))?;
    let value = format!("{}-{count}", digest.to_base64());
    Some(StoredChecksum { algorithm: algorithm.name().to_owned(), value, composite: true })
}

async fn answer<P: Ports, X: Exchange<P>>(
    ports: &P,
    request: &Request<'_>,
    exchange: &mut X,
    scratch: &mut Scratch,
    etag: &str,
    record: &ObjectRecord,
) -> Result<(), Trouble> {
    let host = request.head.header("host").and_then(|host| std::str::from_utf8(host).ok()).unwrap_or_default();
    let scheme = if ports.view().server.tls.is_some() { "https" } else { "http" };
    let location = format!("{scheme}://{host}{}", request.target.raw_path);
    let checksum = record.checksums.first();
    let completed = Completed {
        location: &location,
        bucket: request.bucket(),
        key: request.key(),
        etag,
        checksum: checksum.map(|one| (one.algorithm.as_str(), one.value.as_str(), one.composite)),
    };
    scratch.body.clear();
    xml::write_complete_result(&mut scratch.body, &completed);
    exchange.head().field("content-type", "application/xml");
    exchange.respond(&scratch.body).await.map_err(|_| Trouble::Cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BackendName, BlobId, BucketName, Timestamp, UploadId};
    use crate::proto::checksum::Digester;
    use crate::store::port::UploadState;
    use crate::store::record::BlobAt;

    fn upload(algorithm: Option<Algorithm>, full_object: bool) -> Upload {
        Upload {
            upload: UploadId::from_rolls(1, 2),
            bucket: BucketName::parse("bkt").expect("a name"),
            key: ObjectKey::parse("k").expect("a key"),
            blob: BlobAt {
                id: BlobId(1),
                backend: BackendName::new("a"),
                name: "bkt/k!0".into(),
                foreign_etag: String::new(),
                version_id: String::new(),
            },
            backend_upload: "u".into(),
            record: ObjectRecord::default(),
            checksum_algorithm: algorithm.map(|one| one.name().to_owned()),
            checksum_full_object: full_object,
            initiated: Timestamp::default(),
            state: UploadState::Completing,
        }
    }

    fn part(number: u16, body: &[u8], algorithm: Algorithm) -> PartRecord {
        let md5 = Digester::of(Algorithm::Md5, body).md5().expect("an MD5");
        PartRecord {
            number,
            size: body.len() as u64,
            etag: ETag::of_md5(md5).to_string(),
            backend_etag: String::new(),
            checksums: vec![stored_checksum(&Digester::of(algorithm, body))],
            modified_ms: 0,
        }
    }

    fn expected(fields: &str) -> Expected {
        let bytes = format!("POST /bkt/k?uploadId=1 HTTP/1.1\r\nhost: h\r\n{fields}\r\n");
        let head = RequestHead::parse(bytes.as_bytes(), &mut 0).expect("a good head").expect("a whole head");
        Expected::of(&head).expect("well-formed fields")
    }

    fn listed(parts: &[PartRecord]) -> Vec<CompletedPart> {
        let one = |part: &PartRecord| CompletedPart {
            number: crate::base::PartNumber::new(part.number).expect("a number"),
            etag: part.etag.clone(),
            checksums: (part.checksums.iter())
                .filter_map(|sum| Checksum::parse(Algorithm::parse(&sum.algorithm)?, sum.value.as_bytes()))
                .collect(),
        };
        parts.iter().map(one).collect()
    }

    #[test]
    fn an_object_out_of_its_parts() {
        let whole = Digester::of(Algorithm::Crc32, b"hello world").to_base64();
        let parts = [part(1, b"hello ", Algorithm::Crc32), part(2, b"world", Algorithm::Crc32)];
        let assemble = |upload: &Upload, fields: &str| {
            Assembled::of(upload, &parts, &listed(&parts), &expected(fields)).map_err(|error| error.code)
        };
        let full = assemble(&upload(Some(Algorithm::Crc32), true), "").expect("it fits");
        assert_eq!((full.size, full.record.parts, &full.record.checksums[0].value), (11, 2, &whole));
        assert!(full.etag.ends_with("-2"));
        let composite = assemble(&upload(Some(Algorithm::Crc32), false), "").expect("it fits");
        assert!(composite.record.checksums[0].composite && composite.record.checksums[0].value.ends_with("-2"));
        assert_eq!(assemble(&upload(None, false), "").expect("it fits").record.checksums, []);

        let agree = [
            format!("x-amz-checksum-crc32: {whole}\r\n"),
            "x-amz-mp-object-size: 11\r\n".into(),
            "x-amz-checksum-type: FULL_OBJECT\r\n".into(),
        ];
        for fields in agree {
            assert!(assemble(&upload(Some(Algorithm::Crc32), true), &fields).is_ok(), "{fields}");
        }
        for (fields, want) in [
            ("x-amz-checksum-crc32: AAAAAA==\r\n", ErrorCode::BadDigest),
            ("x-amz-checksum-crc32c: AAAAAA==\r\n", ErrorCode::InvalidRequest),
            ("x-amz-mp-object-size: 12\r\n", ErrorCode::InvalidRequest),
            ("x-amz-checksum-type: COMPOSITE\r\n", ErrorCode::InvalidRequest),
        ] {
            assert_eq!(assemble(&upload(Some(Algorithm::Crc32), true), fields).map(|_| ()), Err(want), "{fields}");
        }
    }

    #[test]
    fn a_checksum_that_was_not_declared_is_verified_or_refused() {
        let parts = [part(1, b"hello ", Algorithm::Crc32), part(2, b"world", Algorithm::Crc32)];
        let assemble = |fields: &str| {
            let made = Assembled::of(&upload(None, false), &parts, &listed(&parts), &expected(fields));
            made.map(|object| object.record.checksums).map_err(|error| error.code)
        };
        let whole = stored_checksum(&Digester::of(Algorithm::Crc32, b"hello world"));
        assert_eq!(assemble(&format!("x-amz-checksum-crc32: {}\r\n", whole.value)), Ok(vec![whole]));
        assert_eq!(assemble("x-amz-checksum-crc32: AAAAAA==\r\n"), Err(ErrorCode::BadDigest));
        assert_eq!(assemble("x-amz-checksum-crc32c: AAAAAA==\r\n"), Err(ErrorCode::InvalidRequest));
        let sha256 = format!("x-amz-checksum-sha256: {}\r\n", Digester::of(Algorithm::Sha256, b"").to_base64());
        assert_eq!(assemble(&sha256), Err(ErrorCode::InvalidRequest), "no combination of parts tells it");
    }

    #[test]
    fn a_manifest_that_names_another_checksum_is_refused() {
        let parts = [part(1, b"hello", Algorithm::Crc32)];
        let composite = upload(Some(Algorithm::Crc32), false);
        let check = |upload: &Upload, manifest: &[CompletedPart]| {
            check_part_checksums(upload, &parts, manifest).map_err(|error| error.code)
        };
        let right = listed(&parts);
        let wrong =
            vec![CompletedPart { checksums: vec![Digester::of(Algorithm::Crc32, b"hallo")], ..right[0].clone() }];
        let bare = vec![CompletedPart { checksums: Vec::new(), ..right[0].clone() }];
        assert_eq!(check(&composite, &right), Ok(()));
        assert_eq!(check(&composite, &wrong), Err(ErrorCode::InvalidPart));
        assert_eq!(check(&composite, &bare), Err(ErrorCode::InvalidRequest));
        assert_eq!(
            check(&upload(Some(Algorithm::Crc32), true), &bare),
            Ok(()),
            "the object's own is combined without them"
        );
        assert_eq!(check(&upload(None, false), &bare), Ok(()));
    }
}
