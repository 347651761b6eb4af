//! How uploads become objects (PROTOCOL.md, "Multipart"): manifests, completing asked again, reopened, overtaken, refused.

use super::super::record::PartRecord;
use super::uploads::{number, part};
use super::*;
use crate::base::{PartNumber, Version, blob_name};

fn manifest(parts: &[(u16, &str)]) -> Vec<(PartNumber, String)> {
    parts.iter().map(|(n, etag)| (number(*n), (*etag).to_owned())).collect()
}

impl<S: MetadataStore> Bench<S> {
    pub(super) fn start_complete(&self, upload: &Upload, parts: &[(u16, &str)]) -> StartComplete {
        StartComplete {
            bucket: upload.bucket.clone(),
            key: upload.key.clone(),
            upload: upload.upload.clone(),
            manifest: manifest(parts),
            condition: WriteCondition::default(),
            enforce_min_part_size: false,
        }
    }

    pub(super) fn start(&self, upload: &Upload, parts: &[(u16, &str)]) -> (Version, Vec<PartRecord>) {
        match self.step(self.start_complete(upload, parts)).expect("the manifest fits") {
            CompleteStarted::Go { version, parts, .. } => (version, parts),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn finish_complete(&self, upload: &Upload, version: Version) -> FinishComplete {
        FinishComplete {
            bucket: upload.bucket.clone(),
            key: upload.key.clone(),
            upload: upload.upload.clone(),
            version,
            version_id: String::new(),
            etag: "final-2".into(),
            record: ObjectRecord { parts: 2, ..upload.record.clone() },
            condition: WriteCondition::default(),
        }
    }

    pub(super) fn complete(&self, upload: &Upload, parts: &[(u16, &str)]) -> Result<Committed, Refusal> {
        let (version, _) = self.start(upload, parts);
        self.step(self.finish_complete(upload, version))
    }

    pub(super) fn reopen(&self, upload: &Upload, version: Version) -> Result<Done, Refusal> {
        self.step(ReopenUpload { upload: upload.upload.clone(), version })
    }
}

pub(super) fn manifests_are_checked<S: MetadataStore>(bench: &Bench<S>) {
    let upload = bench.upload("k");
    bench.part(&upload, 1, 10, "e1");
    bench.part(&upload, 2, 10, "e2");
    let pending = bench.step(bench.begin_part(&upload, 3, 10)).unwrap();
    let start = |parts: &[(u16, &str)]| bench.step(bench.start_complete(&upload, parts)).err();
    assert_eq!(start(&[]), Some(Refusal::InvalidPart));
    assert_eq!(start(&[(1, "e2")]), Some(Refusal::InvalidPart));
    assert_eq!(start(&[(4, "e4")]), Some(Refusal::InvalidPart));
    assert_eq!(start(&[(2, "e2"), (1, "e1")]), Some(Refusal::InvalidPartOrder));
    assert_eq!(start(&[(1, "e1"), (3, "e3")]), Some(Refusal::Busy), "part 3 is on its way");
    let strict =
        StartComplete { enforce_min_part_size: true, ..bench.start_complete(&upload, &[(1, "e1"), (2, "e2")]) };
    assert_eq!(bench.step(strict).err(), Some(Refusal::EntityTooSmall));
    let foreign = StartComplete { key: key("other"), ..bench.start_complete(&upload, &[(1, "e1")]) };
    assert_eq!(bench.step(foreign).err(), Some(Refusal::NoSuchUpload));
    let condition = WriteCondition { etag_in: Some(vec!["x".into()]), ..WriteCondition::default() };
    let conditional = StartComplete { condition, ..bench.start_complete(&upload, &[(1, "e1")]) };
    assert_eq!(bench.step(conditional).err(), Some(Refusal::NoSuchKey));
    assert_eq!(bench.upload_state(&upload), Some(UploadState::Open));
    assert_eq!(start(&[(1, "e1")]), None);
    assert_eq!(bench.commit_part(&upload, &pending, part(3, 10, "e3")), Err(Refusal::Busy));
    bench.abandon_part(&upload, 3, &pending, false);
}

pub(super) fn completing_can_be_asked_again<S: MetadataStore>(bench: &Bench<S>) {
    let upload = bench.upload("k");
    bench.part(&upload, 1, 10, "e1");
    bench.part(&upload, 2, 10, "e2");
    let named = blob_name::version_of(&upload.blob.name).expect("a name of ours");
    assert_eq!(bench.step(bench.finish_complete(&upload, named)), Err(Refusal::Lost), "not started");
    let first = bench.start(&upload, &[(1, "e1")]);
    bench.advance(1);
    assert_eq!(bench.start(&upload, &[(1, "e1")]), first, "goes on where it was");
    let again = bench.step(bench.start_complete(&upload, &[(1, "e1")]));
    assert!(matches!(again, Ok(CompleteStarted::Go { joined: true, .. })), "{again:?}");
    let other = bench.start_complete(&upload, &[(2, "e2")]);
    assert_eq!(bench.step(other.clone()).err(), Some(Refusal::Busy));
    assert_eq!(bench.abort(&upload), Err(Refusal::Busy));
    assert_eq!(bench.step(bench.begin_part(&upload, 4, 1)), Err(Refusal::Busy));

    assert_eq!(bench.reopen(&upload, named), Ok(Done));
    assert_eq!(bench.upload_state(&upload), Some(UploadState::Completing), "as another version");
    assert_eq!((bench.reopen(&upload, first.0), bench.reopen(&upload, first.0)), (Ok(Done), Ok(Done)));
    assert_eq!(bench.upload_state(&upload), Some(UploadState::Open));
    let finish = |version| bench.step(bench.finish_complete(&upload, version));
    assert_eq!(finish(first.0), Err(Refusal::Lost));
    let second = bench.start(&upload, &[(1, "e1")]);
    assert!(second.0 > first.0, "a new version for a new try");
    assert_eq!((finish(first.0), bench.reopen(&upload, first.0)), (Err(Refusal::Lost), Ok(Done)), "a former try's");
    let finished = finish(second.0);
    assert_eq!(finished.map(Committed::version), Ok(second.0));
    bench.advance(1);
    assert_eq!(finish(second.0), finished, "asked again, answered the same");
    assert_eq!(finish(first.0), Err(Refusal::Lost));
    let done = CompleteStarted::AlreadyDone {
        etag: "final-2".into(),
        record: bench.finish_complete(&upload, second.0).record,
        version: second.0,
    };
    assert_eq!(bench.step(bench.start_complete(&upload, &[(1, "e1")])), Ok(done));
    assert_eq!(bench.step(other).err(), Some(Refusal::InvalidPart));
    assert_eq!(
        (bench.reopen(&upload, second.0), bench.abort(&upload)),
        (Err(Refusal::NoSuchUpload), Err(Refusal::NoSuchUpload))
    );
    assert_eq!(bench.step(bench.begin_part(&upload, 4, 1)), Err(Refusal::NoSuchUpload));
}

pub(super) fn uploads_are_superseded_while_completing<S: MetadataStore>(bench: &Bench<S>) {
    let ready = |text: &str| {
        let upload = bench.upload(text);
        bench.part(&upload, 1, 10, "e1");
        upload
    };
    let upload = ready("k");
    bench.put("k", 1);
    bench.delete("k");
    bench.put("k", 1);
    let finished = bench.complete(&upload, &[(1, "e1")]);
    assert!(matches!(finished, Ok(Committed::Live { .. })), "what came before Complete does not matter: {finished:?}");

    for by_delete in [false, true] {
        let upload = ready("k");
        let (version, _) = bench.start(&upload, &[(1, "e1")]);
        if by_delete {
            bench.delete("k");
        } else {
            bench.put("k", 1);
        }
        let finished = bench.step(bench.finish_complete(&upload, version));
        assert_eq!(finished, Ok(Committed::Overwritten { version, modified: bench.now() }));
        assert_eq!(bench.state(&upload.blob), Some(BlobState::Doomed));
        assert_eq!(bench.step(bench.finish_complete(&upload, version)), finished);
        assert_eq!(bench.lookup("k").is_none(), by_delete);
    }

    bench.delete("k");
    let upload = ready("k");
    let (version, _) = bench.start(&upload, &[(1, "e1")]);
    let condition = WriteCondition { must_not_exist: true, ..WriteCondition::default() };
    let create = CommitWrite { condition, ..bench.commit_write("k", &bench.begin("k", 10)) };
    bench.step(create).expect("the key does not exist");
    assert_eq!(bench.step(bench.finish_complete(&upload, version)), Err(Refusal::Lost), "a condition did not see it");
    assert_eq!(bench.upload_state(&upload), Some(UploadState::Aborted));

    let upload = ready("k");
    let before = bench.begin("k", 1);
    bench.complete(&upload, &[(1, "e1")]).expect("nothing is in the way");
    assert!(matches!(bench.commit("k", &before), Ok(Committed::Overwritten { .. })), "a completion supersedes too");

    let upload = ready("k");
    let (version, _) = bench.start(&upload, &[(1, "e1")]);
    bench.put("k", 1);
    bench.reopen(&upload, version).unwrap();
    let finished = bench.complete(&upload, &[(1, "e1")]);
    assert!(matches!(finished, Ok(Committed::Live { .. })), "a new try is a new version: {finished:?}");
}

pub(super) fn refused_completions_end_the_upload<S: MetadataStore>(bench: &Bench<S>) {
    for overtaken in [false, true] {
        let upload = bench.upload("k");
        bench.part(&upload, 1, 10, "e1");
        let (version, _) = bench.start(&upload, &[(1, "e1")]);
        if overtaken {
            bench.delete("k");
        }
        let condition = WriteCondition { etag_in: Some(vec!["x".into()]), ..WriteCondition::default() };
        let refusal = if overtaken { Refusal::Conflict } else { Refusal::NoSuchKey };
        let finish = FinishComplete { condition, ..bench.finish_complete(&upload, version) };
        assert_eq!(bench.step(finish), Err(refusal));
        assert_eq!(bench.upload_state(&upload), Some(UploadState::Aborted));
        assert_eq!(bench.state(&upload.blob), Some(BlobState::Doomed));
        assert_eq!((bench.clean(), bench.parts(&upload)), (1, vec![]));
    }
}

pub(super) fn a_version_knows_its_parts<S: MetadataStore>(bench: &Bench<S>) {
    let ask = |version: Version, after, max| match bench.query(Query::VersionParts {
        bucket: BUCKET.into(),
        key: "k".into(),
        version,
        after,
        max,
    }) {
        Answer::VersionParts(found) => found.map(|page| {
            let numbers: Vec<u16> = page.parts.iter().map(|part| part.number).collect();
            (numbers, page.truncated, page.before_bytes)
        }),
        other => panic!("{other:?}"),
    };
    let plain = bench.put("k", 5);
    assert_eq!(ask(plain.version, 0, 10), None, "it is one piece");
    let upload = bench.upload("k");
    for (n, size) in [(1, 10), (3, 30), (4, 7), (9, 5)] {
        bench.part(&upload, n, size, &format!("e{n}"));
    }
    let (version, _) = bench.start(&upload, &[(1, "e1"), (3, "e3"), (9, "e9")]);
    assert_eq!(ask(version, 0, 10), None, "it is not live yet");
    bench.step(bench.finish_complete(&upload, version)).expect("it is completing");
    assert_eq!(ask(version, 0, 10), Some((vec![1, 3, 9], false, 0)), "those of the manifest");
    assert_eq!(ask(version, 0, 2), Some((vec![1, 3], true, 0)));
    assert_eq!(ask(version, 2, 1), Some((vec![3], true, 10)));
    assert_eq!(ask(version, 3, 1), Some((vec![9], false, 40)));
    assert_eq!(ask(version, 9, 1), Some((vec![], false, 45)));
    assert_eq!(ask(plain.version, 0, 10), None);
    bench.delete("k");
    assert_eq!(ask(version, 0, 10), None);
}

pub(super) fn what_was_completing_at_the_backup_is_taken_back<S: MetadataStore>(bench: &Bench<S>) {
    let upload = bench.upload("k");
    bench.part(&upload, 1, 10, "e1");
    bench.advance(5);
    let (version, _) = bench.start(&upload, &[(1, "e1")]);
    bench.step(SetRestored { restored: true }).expect("never refused");
    let named = blob_name::version_of(&upload.blob.name).expect("a name of ours");
    assert!(named < version, "it is older than the completion");
    let adopt = Adopt {
        bucket: bucket(),
        key: key("k"),
        backend: upload.blob.backend.clone(),
        name: upload.blob.name.clone(),
        version: Some(named),
        assembled: true,
        size: 10,
        etag: "x-1".into(),
        foreign_etag: String::new(),
        record: ObjectRecord::default(),
        nonce: bench.nonce(),
    };
    assert_eq!(bench.step(adopt.clone()), Ok(Adopted::Live { version, displaced: false }));
    let live = bench.lookup("k").expect("it is there");
    assert_eq!((live.version, live.size), (version, 10));
    assert_eq!(live.blobs.iter().map(|blob| blob.id).collect::<Vec<_>>(), [upload.blob.id], "its copy is found");
    assert_eq!(bench.step(adopt), Ok(Adopted::Known), "once");
    bench.put("k", 5);
    assert_eq!(bench.state(&upload.blob), Some(BlobState::Doomed), "an overwrite ends it");
}

pub(super) fn what_may_be_newer_than_is_known_is_set_aside<S: MetadataStore>(bench: &Bench<S>) {
    let upload = bench.upload("k");
    bench.part(&upload, 1, 10, "e1");
    bench.part(&upload, 2, 7, "e2");
    bench.advance(5);
    let overwrite = bench.put("k", 5);
    bench.step(SetRestored { restored: true }).expect("never refused");
    let used = bench.status("a").bytes_used + bench.status("a").bytes_reserved;
    // It was completed of one part after the backup: before the overwrite or after it.
    let found = Adopt {
        bucket: bucket(),
        key: key("k"),
        backend: upload.blob.backend.clone(),
        name: upload.blob.name.clone(),
        version: blob_name::version_of(&upload.blob.name),
        assembled: false,
        size: 10,
        etag: "x".into(),
        foreign_etag: String::new(),
        record: ObjectRecord::default(),
        nonce: bench.nonce(),
    };
    assert_eq!(bench.step(found.clone()), Ok(Adopted::Unclear), "its row says that it was assembled");
    assert_eq!(bench.step(found.clone()), Ok(Adopted::Known), "once");
    bench.step(SetRestored { restored: false }).expect("never refused");
    assert_eq!(bench.lookup("k").map(|live| live.version), Some(overwrite.version));
    assert_eq!(bench.upload_state(&upload), Some(UploadState::Aborted));
    let status = bench.status("a");
    assert_eq!((status.active_uploads, status.dlq_depth, status.orphan_bytes), (0, 1, 10), "charged as it is");
    assert_eq!(status.bytes_used + status.bytes_reserved + status.orphan_bytes, used - 7);

    let id = upload.blob.id;
    let same_name = Adopt { name: format!("{}x", found.name), assembled: true, ..found };
    assert_eq!(bench.step(same_name), Ok(Adopted::Unclear), "and of one that no row names, its bytes");
    bench.advance(30 * 86_400);
    let age = Duration::from_secs(86_400);
    assert_eq!(bench.query(Query::StaleUploads { age, max: 10 }), Answer::StaleUploads(vec![]));
    let stale = AbortStale { upload: upload.upload.clone(), age };
    assert_eq!(bench.step(stale), Err(Refusal::NoSuchUpload), "nothing is aborted with its bytes");
    assert_eq!((bench.due(), bench.next_cleanup()), (vec![], None));
    let Answer::Cleanups(dead) = bench.query(Query::Cleanups { dead: true, backend: None, after: BlobId(0), max: 10 })
    else {
        panic!("another answer")
    };
    let told: Vec<_> = dead.iter().map(|row| (row.bytes, row.attempts, row.reason.as_str())).collect();
    assert_eq!(told, [(10, 0, UNCLEAR), (10, 0, UNCLEAR)]);
    assert_eq!(dead[0].since, bench.now().minus(Duration::from_secs(30 * 86_400)));
    assert!(!dead[0].last_error.is_empty());
    bench.step(Requeue { blob: id }).expect("it is dead");
    assert_eq!(bench.due().len(), 1, "an operator decides");
}

/// The Complete of one manifest is still at the backend when the upload is reopened and a second manifest is on its way.
pub(super) fn a_finish_of_another_manifest_is_lost<S: MetadataStore>(bench: &Bench<S>) {
    let upload = bench.upload("k");
    bench.part(&upload, 1, 10, "e1");
    bench.part(&upload, 2, 10, "e2");
    let (both, _) = bench.start(&upload, &[(1, "e1"), (2, "e2")]);
    bench.reopen(&upload, both).unwrap();
    let (one, _) = bench.start(&upload, &[(1, "e1")]);
    assert_eq!(bench.step(bench.finish_complete(&upload, both)), Err(Refusal::Lost), "its backend has answered");
    assert_eq!(bench.reopen(&upload, both), Ok(Done), "its backend has refused it");
    assert_eq!(bench.upload_state(&upload), Some(UploadState::Completing), "the second is under way");
    assert_eq!(bench.parts(&upload).len(), 2, "nothing is forgotten");
    bench.reopen(&upload, one).unwrap();
    bench.complete(&upload, &[(1, "e1"), (2, "e2")]).expect("nothing is in the way");
    assert_eq!(bench.lookup("k").map(|live| live.size), Some(20));
}

/// The same reopening, then an abort: the backend may still make an object.
pub(super) fn what_a_reopened_upload_may_assemble_is_waited_for<S: MetadataStore>(bench: &Bench<S>) {
    let upload = bench.upload("k");
    bench.part(&upload, 1, 10, "e1");
    let (version, _) = bench.start(&upload, &[(1, "e1")]);
    bench.reopen(&upload, version).unwrap();
    bench.abort(&upload).unwrap();
    bench.clean();
    assert_eq!(bench.state(&upload.blob), Some(BlobState::Doomed), "its bytes may appear after the DELETE");
    assert_eq!(bench.charged(&upload), 10);
    bench.advance(20 * 60);
    assert_eq!(bench.clean(), 1);
    assert_eq!(bench.state(&upload.blob), None);

    let upload = bench.upload("k");
    bench.part(&upload, 1, 10, "e1");
    let (version, _) = bench.start(&upload, &[(1, "e1")]);
    bench.reopen(&upload, version).unwrap();
    bench.complete(&upload, &[(1, "e1")]).expect("nothing is in the way");
    bench.delete("k");
    bench.advance(301);
    bench.clean();
    assert_eq!(bench.state(&upload.blob), None, "all that could come has come");
}
