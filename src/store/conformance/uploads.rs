//! Multipart uploads (PROTOCOL.md, "Multipart").

use super::super::record::PartRecord;
use super::*;
use crate::base::{PartNumber, UploadId, blob_name};

pub(super) fn number(number: u16) -> PartNumber {
    PartNumber::new(number).unwrap()
}

pub(super) fn part(part_number: u16, size: u64, etag: &str) -> PartRecord {
    PartRecord {
        number: part_number,
        size,
        etag: etag.into(),
        backend_etag: format!("b-{etag}"),
        checksums: Vec::new(),
        modified_ms: 5,
    }
}

impl<S: MetadataStore> Bench<S> {
    pub(in crate::store) fn create_upload(&self, text: &str) -> CreateUpload {
        CreateUpload {
            bucket: bucket(),
            in_stored: false,
            key: key(text),
            upload: UploadId::from_rolls(1, self.roll()),
            candidates: on(&["a", "b"]),
            nonce: self.nonce(),
            record: ObjectRecord { headers: vec![("content-type".into(), "a/b".into())], ..ObjectRecord::default() },
            checksum_algorithm: Some("CRC32".into()),
            checksum_full_object: true,
            uploads_max: 0,
        }
    }

    /// An open upload that its backend knows.
    pub(super) fn upload(&self, text: &str) -> Upload {
        let upload = self.step(self.create_upload(text)).expect("there is room");
        let backend_upload = format!("backend-{}", upload.upload.as_str());
        self.step(SetBackendUpload { upload: upload.upload.clone(), backend_upload }).expect("it is open")
    }

    pub(super) fn begin_part(&self, upload: &Upload, n: u16, size: u64) -> BeginPart {
        BeginPart {
            incarnation: self.incarnation.get(),
            bucket: upload.bucket.clone(),
            key: upload.key.clone(),
            upload: upload.upload.clone(),
            number: number(n),
            size,
            nonce: self.nonce(),
        }
    }

    pub(super) fn commit_part(&self, upload: &Upload, begun: &PartBegun, part: PartRecord) -> Result<Done, Refusal> {
        let incarnation = self.incarnation.get();
        self.step(CommitPart { incarnation, upload: upload.upload.clone(), nonce: begun.nonce, part })
    }

    pub(super) fn abandon_part(&self, upload: &Upload, n: u16, begun: &PartBegun, may_have_replaced: bool) {
        self.step(AbandonPart {
            incarnation: self.incarnation.get(),
            upload: upload.upload.clone(),
            number: number(n),
            nonce: begun.nonce,
            may_have_replaced,
        })
        .expect("abandoning is not refused");
    }

    pub(super) fn part(&self, upload: &Upload, n: u16, size: u64, etag: &str) {
        let begun = self.step(self.begin_part(upload, n, size)).expect("there is room");
        self.commit_part(upload, &begun, part(n, size, etag)).expect("it is the current attempt");
    }

    pub(super) fn abort(&self, upload: &Upload) -> Result<Done, Refusal> {
        let (bucket, key) = (upload.bucket.clone(), upload.key.clone());
        self.step(AbortUpload { bucket, key, upload: upload.upload.clone() })
    }

    pub(super) fn shown(&self, upload: &Upload) -> Option<Upload> {
        match self.query(Query::Upload { upload: upload.upload.clone() }) {
            Answer::Upload(upload) => upload,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn upload_state(&self, upload: &Upload) -> Option<UploadState> {
        self.shown(upload).map(|one| one.state)
    }

    pub(super) fn parts(&self, upload: &Upload) -> Vec<(u16, String)> {
        self.parts_after(upload, 0, 10_000).0
    }

    pub(super) fn parts_after(&self, upload: &Upload, after: u16, max: u32) -> (Vec<(u16, String)>, bool) {
        match self.query(Query::Parts { upload: upload.upload.clone(), after, max }) {
            Answer::Parts { parts, truncated } => {
                (parts.into_iter().map(|part| (part.number, part.etag)).collect(), truncated)
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn charged(&self, upload: &Upload) -> u64 {
        self.row(&upload.blob).map_or(0, |row| row.bytes)
    }
}

pub(super) fn an_upload_becomes_an_object<S: MetadataStore>(bench: &Bench<S>) {
    let create = bench.create_upload("k");
    let upload = bench.step(create.clone()).expect("there is room");
    assert_eq!((&upload.upload, upload.key.as_str(), &upload.record), (&create.upload, "k", &create.record));
    assert_eq!((upload.state, upload.initiated, upload.backend_upload.as_str()), (UploadState::Open, bench.now(), ""));
    assert_eq!((upload.checksum_algorithm.as_deref(), upload.checksum_full_object), (Some("CRC32"), true));
    assert!(upload.blob.name.starts_with("bkt/k!0") && upload.blob.backend.as_str() == "a");
    assert_eq!(bench.step(create), Err(Refusal::Conflict), "an id is used once");
    assert_eq!(bench.shown(&upload), Some(upload.clone()));
    assert_eq!((bench.charged(&upload), bench.status("a").active_uploads), (0, 1));
    assert_eq!(bench.status("a").blobs_named(), 1, "its parts will be there");

    let set = |text: &str| SetBackendUpload { upload: upload.upload.clone(), backend_upload: text.into() };
    assert_eq!(bench.step(set("first")).unwrap().backend_upload, "first");
    assert_eq!(bench.step(set("second")).unwrap().backend_upload, "first", "the first one stands");

    let begun = bench.step(bench.begin_part(&upload, 2, 70)).expect("there is room");
    assert_eq!((begun.upload.backend_upload.as_str(), &begun.upload.blob), ("first", &upload.blob));
    assert_eq!(bench.charged(&upload), 70, "in flight is charged");
    bench.commit_part(&upload, &begun, part(2, 70, "e2")).unwrap();
    bench.part(&upload, 1, 30, "e1");
    bench.part(&upload, 7, 500, "e7");
    assert_eq!(bench.charged(&upload), 600);
    assert_eq!(bench.parts_after(&upload, 0, 2), (vec![(1, "e1".into()), (2, "e2".into())], true));
    assert_eq!(bench.parts_after(&upload, 2, 2), (vec![(7, "e7".into())], false));
    assert_eq!(bench.parts_after(&upload, 10_000, 2), (vec![], false));

    bench.advance(1);
    let (version, parts) = bench.start(&upload, &[(1, "e1"), (2, "e2")]);
    assert_eq!(parts, vec![part(1, 30, "e1"), part(2, 70, "e2")]);
    assert_eq!(version.millis(), bench.now().millis as u64, "minted when Complete starts");
    assert_eq!(bench.upload_state(&upload), Some(UploadState::Completing));
    assert_eq!(bench.lookup("k"), None);
    bench.advance(1);
    let finished = bench.step(FinishComplete { version_id: "v9".into(), ..bench.finish_complete(&upload, version) });
    assert_eq!(finished, Ok(Committed::Live { version, modified: bench.now() }));
    let live = bench.lookup("k").expect("it is live");
    assert_eq!((live.version, live.size, live.etag.as_str(), live.record.parts), (version, 100, "final-2", 2));
    assert_eq!(live.blobs, vec![BlobAt { version_id: "v9".into(), ..upload.blob.clone() }]);
    assert_eq!(bench.charged(&upload), 100, "what the manifest left out is gone from the backend");
    assert_eq!(bench.parts(&upload), vec![(1, "e1".into()), (2, "e2".into())], "parts stay while the version lives");
    assert_eq!((bench.upload_state(&upload), bench.status("a").active_uploads), (Some(UploadState::Done), 0));
    bench.delete("k");
    bench.advance(300);
    let due = bench.due().remove(0);
    assert_eq!((due.abort_uploads, due.backend_upload.as_str(), due.bytes), (false, "first", 100));
}

pub(super) fn parts_replace_each_other<S: MetadataStore>(bench: &Bench<S>) {
    let upload = bench.upload("k");
    bench.part(&upload, 1, 100, "old");
    let begun = bench.step(bench.begin_part(&upload, 1, 50)).expect("there is room");
    assert_eq!(bench.charged(&upload), 150, "both may be there");
    assert_eq!(bench.step(bench.begin_part(&upload, 1, 50)), Err(Refusal::Busy), "one attempt at a time");
    assert!(bench.step(bench.begin_part(&upload, 2, 50)).is_ok(), "for a number");
    bench.commit_part(&upload, &begun, part(1, 50, "new")).unwrap();
    assert_eq!(bench.parts(&upload), vec![(1, "new".into())]);
    assert_eq!(bench.charged(&upload), 200, "a directory keeps the former one until the upload ends");
    assert_eq!(bench.commit_part(&upload, &begun, part(1, 50, "new")), Err(Refusal::Lost), "committed once");

    let begin = BeginPart { key: key("other"), ..bench.begin_part(&upload, 3, 1) };
    assert_eq!(bench.step(begin), Err(Refusal::NoSuchUpload), "an upload is bound to its key");
    let begin = BeginPart { upload: UploadId::from_rolls(9, 9), ..bench.begin_part(&upload, 3, 1) };
    assert_eq!(bench.step(begin), Err(Refusal::NoSuchUpload));
    let begin = BeginPart { incarnation: Incarnation(99), ..bench.begin_part(&upload, 3, 1) };
    assert_eq!(bench.step(begin), Err(Refusal::Lost));
    assert_eq!(bench.step(bench.begin_part(&upload, 3, 801)), Err(Refusal::NoSpace), "800 bytes are left on a");
    let begun = bench.step(bench.begin_part(&upload, 3, 800)).expect("exactly full");
    assert_eq!(bench.commit_part(&upload, &begun, part(3, 799, "e")), Err(Refusal::InvalidPart), "not what was begun");
    bench.commit_part(&upload, &begun, part(3, 800, "e")).unwrap();
    bench.step(SetDraining { backend: name("a"), draining: true }).unwrap();
    assert_eq!(
        bench.step(bench.begin_part(&upload, 4, 0)),
        Err(Refusal::NoSpace),
        "no new bytes on a draining backend"
    );
}

pub(super) fn attempts_that_fail<S: MetadataStore>(bench: &Bench<S>) {
    let upload = bench.upload("k");
    bench.part(&upload, 1, 100, "old");
    let attempt = |size| bench.step(bench.begin_part(&upload, 1, size)).expect("there is room");
    let begun = attempt(50);
    bench.abandon_part(&upload, 1, &begun, false);
    assert_eq!((bench.charged(&upload), bench.parts(&upload)), (100, vec![(1, "old".into())]), "nothing reached it");
    bench.abandon_part(&upload, 1, &begun, true);
    assert_eq!(bench.parts(&upload).len(), 1, "ended once");
    assert_eq!(bench.commit_part(&upload, &begun, part(1, 50, "late")), Err(Refusal::Lost));

    let begun = attempt(60);
    bench.abandon_part(&upload, 1, &begun, true);
    assert_eq!((bench.charged(&upload), bench.parts(&upload)), (160, vec![]), "what the backend holds is not known");
    bench.part(&upload, 1, 30, "new");
    assert_eq!(bench.charged(&upload), 190);
    assert_eq!(bench.abort(&upload), Ok(Done));
    assert_eq!(bench.clean(), 1);
    assert_eq!(bench.state(&upload.blob), Some(BlobState::Doomed), "the lost part may come late");
    bench.advance(20 * 60);
    assert_eq!(bench.clean(), 1);
    assert_eq!(bench.state(&upload.blob), None);

    let upload = bench.upload("k");
    let begun = bench.step(bench.begin_part(&upload, 1, 60)).unwrap();
    bench.abandon_part(&upload, 1, &begun, true);
    bench.part(&upload, 1, 40, "e1");
    bench.complete(&upload, &[(1, "e1")]).expect("nothing is in the way");
    assert_eq!(bench.charged(&upload), 40, "a completed upload holds its manifest and nothing else");
}

pub(super) fn an_aborted_upload<S: MetadataStore>(bench: &Bench<S>) {
    let upload = bench.upload("k");
    bench.part(&upload, 1, 10, "e1");
    let foreign = AbortUpload { bucket: bucket(), key: key("other"), upload: upload.upload.clone() };
    assert_eq!(bench.step(foreign), Err(Refusal::NoSuchUpload));
    assert_eq!((bench.abort(&upload), bench.abort(&upload)), (Ok(Done), Ok(Done)));
    let set = SetBackendUpload { upload: upload.upload.clone(), backend_upload: "late".into() };
    assert_eq!(bench.step(set), Err(Refusal::NoSuchUpload));
    assert_eq!(bench.step(bench.start_complete(&upload, &[(1, "e1")])).err(), Some(Refusal::NoSuchUpload));
    let named = blob_name::version_of(&upload.blob.name).expect("a name of ours");
    assert_eq!(bench.step(bench.finish_complete(&upload, named)), Err(Refusal::NoSuchUpload));
    assert_eq!((bench.parts(&upload), bench.upload_state(&upload)), (vec![], Some(UploadState::Aborted)));
    let due = bench.due().remove(0);
    assert_eq!((due.blob, due.bytes, due.abort_uploads), (upload.blob.clone(), 10, true));
    assert_eq!(due.backend_upload, upload.backend_upload, "a blob never loses its backend upload");
    assert_eq!(bench.clean(), 1);
    assert_eq!(bench.state(&upload.blob), None);

    let in_flight = bench.upload("k");
    let begun = bench.step(bench.begin_part(&in_flight, 1, 10)).unwrap();
    let unnamed = bench.step(bench.create_upload("k")).unwrap();
    for upload in [&in_flight, &unnamed] {
        assert_eq!(bench.abort(upload), Ok(Done));
    }
    assert_eq!(bench.commit_part(&in_flight, &begun, part(1, 10, "e")), Err(Refusal::NoSuchUpload));
    bench.abandon_part(&in_flight, 1, &begun, false);
    assert_eq!(bench.charged(&in_flight), 10, "it is doomed with all that may be there");
    assert_eq!(bench.clean(), 2);
    for upload in [&in_flight, &unnamed] {
        assert_eq!(bench.state(&upload.blob), Some(BlobState::Doomed), "something may still arrive");
    }
    bench.advance(20 * 60);
    assert_eq!((bench.clean(), bench.rows("a")), (2, vec![]));
}

pub(super) fn uploads_survive_registration<S: MetadataStore>(bench: &Bench<S>) {
    let upload = bench.upload("k");
    bench.part(&upload, 1, 10, "e1");
    bench.part(&upload, 2, 20, "e2");
    let begun = bench.step(bench.begin_part(&upload, 2, 30)).unwrap();
    let completing = bench.upload("c");
    bench.part(&completing, 1, 5, "e1");
    let (version, _) = bench.start(&completing, &[(1, "e1")]);
    let before = bench.incarnation.get();
    assert_eq!(bench.register(&[("a", 1000), ("b", 1000), ("c", 0)]).doomed, 0);
    assert_eq!(bench.upload_state(&upload), Some(UploadState::Open));
    assert_eq!(bench.parts(&upload), vec![(1, "e1".into())], "a dead attempt may have replaced part 2");
    assert_eq!(bench.charged(&upload), 60);
    let late =
        CommitPart { incarnation: before, upload: upload.upload.clone(), nonce: begun.nonce, part: part(2, 30, "x") };
    assert_eq!(bench.step(late), Err(Refusal::Lost));
    bench.part(&upload, 2, 40, "e2b");
    bench.complete(&upload, &[(1, "e1"), (2, "e2b")]).expect("nothing is in the way");
    assert_eq!(bench.charged(&upload), 50);
    assert_eq!(bench.start(&completing, &[(1, "e1")]).0, version);
    assert!(bench.step(bench.finish_complete(&completing, version)).is_ok());
}

pub(super) fn uploads_are_bounded<S: MetadataStore>(bench: &Bench<S>) {
    let create = || CreateUpload { uploads_max: 2, ..bench.create_upload("k") };
    let first = bench.step(create()).unwrap();
    let elsewhere = CreateUpload { bucket: BucketName::parse("other").unwrap(), ..create() };
    assert!(bench.step(elsewhere).is_ok());
    assert!(bench.step(create()).is_ok());
    assert_eq!(bench.step(create()), Err(Refusal::TooManyUploads));
    bench.abort(&first).unwrap();
    let another = bench.step(create()).expect("one has ended");
    bench.abort(&another).unwrap();

    bench.step(BeginWrite { candidates: on(&["a"]), ..bench.begin_write("full", 1000) }).expect("a is empty");
    assert_eq!(bench.step(create()).unwrap().blob.backend.as_str(), "b", "a full backend is no place to start");
    let create = CreateUpload { candidates: on(&["a"]), uploads_max: 0, ..create() };
    assert_eq!(bench.step(create), Err(Refusal::NoSpace));
}

pub(super) fn ended_uploads_are_forgotten<S: MetadataStore>(bench: &Bench<S>) {
    let aborted = bench.upload("k");
    bench.abort(&aborted).unwrap();
    let made = |text: &str| {
        let upload = bench.upload(text);
        bench.part(&upload, 1, 10, "e1");
        bench.complete(&upload, &[(1, "e1")]).expect("nothing is in the way");
        upload
    };
    let (live, displaced) = (made("live"), made("displaced"));
    let open = bench.upload("open");
    bench.delete("displaced");
    // Its only copy is given up, and its version comes back with one that was being made.
    let back = made("back");
    let copy = bench.step(bench.begin_copy("back", &["b"])).expect("there is room");
    let (lost, reason) = (key("back"), String::new());
    let dropped =
        DropCopy { bucket: bucket(), key: lost, blob: back.blob.id, bytes: Bytes::Gone, only_live: false, reason };
    assert!(bench.step(dropped).expect("never refused").object_ended);
    bench.commit("back", &copy).expect("it is reserved");
    // Its backend's own id comes only when all is over.
    let named_late = bench.step(bench.create_upload("late")).unwrap();
    bench.part(&named_late, 1, 10, "e1");
    bench.complete(&named_late, &[(1, "e1")]).expect("nothing is in the way");
    bench.delete("late");
    bench
        .step(SetBackendUpload { upload: named_late.upload.clone(), backend_upload: "id".into() })
        .expect("it is done");
    let forget = || bench.step(ForgetOld).expect("forgetting is not refused");
    bench.advance(24 * 3600);
    forget();
    assert!(bench.shown(&aborted).is_some() && bench.shown(&displaced).is_some(), "remembered for a day");
    bench.advance(1);
    forget();
    assert_eq!((bench.shown(&aborted), bench.shown(&displaced), bench.shown(&named_late)), (None, None, None));
    for one in [&live, &back] {
        assert_eq!(bench.parts(one), vec![(1, "e1".into())], "as long as the version lives");
    }
    assert!(bench.shown(&open).is_some(), "an open upload is never forgotten");
    // Whatever else is in its batch comes first.
    let delete = Delete { bucket: bucket(), key: key("live"), condition: WriteCondition::default() };
    bench.batch(vec![ForgetOld.into(), delete.into()]);
    assert_eq!(bench.shown(&live), None);
}

pub(super) fn stale_uploads_are_aborted<S: MetadataStore>(bench: &Bench<S>) {
    const AGE: Duration = Duration::from_secs(100);
    let stale = || match bench.query(Query::StaleUploads { age: AGE, max: 10 }) {
        Answer::StaleUploads(stale) => stale,
        other => panic!("{other:?}"),
    };
    let abort = |upload: &Upload| bench.step(AbortStale { upload: upload.upload.clone(), age: AGE });
    let old = bench.upload("old");
    bench.part(&old, 1, 10, "e1");
    let taken_up_late = bench.upload("late");
    bench.part(&taken_up_late, 1, 20, "e1");
    let done = bench.upload("done");
    bench.part(&done, 1, 30, "e1");
    bench.complete(&done, &[(1, "e1")]).expect("it is completing");
    bench.advance(60);
    let young = bench.upload("young");
    assert_eq!((stale(), abort(&old)), (vec![], Err(Refusal::Busy)));

    bench.advance(41);
    let (version, _) = bench.start(&taken_up_late, &[(1, "e1")]);
    assert_eq!(stale(), std::slice::from_ref(&old.upload));
    assert_eq!(abort(&old), Ok(Done));
    assert_eq!(bench.upload_state(&old), Some(UploadState::Aborted));
    assert!(bench.due().iter().any(|due| due.blob.id == old.blob.id && due.abort_uploads));
    assert_eq!(abort(&old), Err(Refusal::NoSuchUpload), "it has ended");
    assert_eq!(abort(&done), Err(Refusal::NoSuchUpload));
    assert_eq!(abort(&taken_up_late), Err(Refusal::Busy), "somebody may be completing it");
    assert_eq!(abort(&young), Err(Refusal::Busy));

    bench.advance(101);
    bench.step(SetRestored { restored: true }).expect("never refused");
    assert_eq!(stale(), [], "they may have been completed after the backup");
    bench.step(SetRestored { restored: false }).expect("never refused");
    assert_eq!(stale(), [taken_up_late.upload.clone(), young.upload.clone()]);
    assert_eq!(abort(&taken_up_late), Ok(Done));
    assert_eq!(bench.step(bench.finish_complete(&taken_up_late, version)), Err(Refusal::NoSuchUpload));
    let row = bench.due().into_iter().find(|due| due.blob.id == taken_up_late.blob.id).expect("its bytes are due");
    bench.step(CleanupDone { blob: row.blob.id, found: row.found }).expect("it is doomed");
    assert_eq!(bench.state(&taken_up_late.blob), Some(BlobState::Doomed), "what was being assembled may still appear");
    bench.advance(20 * 60);
    bench.clean();
    assert_eq!(bench.state(&taken_up_late.blob), None);
}

pub(super) fn which_parts_a_run_is_writing<S: MetadataStore>(bench: &Bench<S>) {
    let attempts = |incarnation, after: (&str, u16), max| {
        let after = (after.0.to_owned(), after.1);
        match bench.query(Query::PartAttempts { incarnation, after, max }) {
            Answer::PartAttempts(attempts) => attempts,
            other => panic!("{other:?}"),
        }
    };
    let me = bench.incarnation.get();
    let mut uploads = [bench.upload("u"), bench.upload("v")];
    uploads.sort_by(|one, other| one.upload.as_str().cmp(other.upload.as_str()));
    let [first, second] = &uploads;
    let begun: Vec<PartAttempt> = [(first, 2), (first, 10_000), (second, 1), (second, 3)]
        .into_iter()
        .map(|(upload, number)| {
            let begun = bench.step(bench.begin_part(upload, number, 1)).expect("there is room");
            PartAttempt { upload: upload.upload.clone(), number: self::number(number), nonce: begun.nonce }
        })
        .collect();
    assert_eq!(attempts(me, ("", 0), 10), begun);
    assert_eq!(attempts(me, ("", 0), 2), begun[..2]);
    assert_eq!(attempts(me, (first.upload.as_str(), 10_000), 1), begun[2..3]);
    assert_eq!(attempts(me, (first.upload.as_str(), 2), 10), begun[1..]);
    assert_eq!(attempts(Incarnation(me.0 + 1), ("", 0), 10), []);
    let PartAttempt { upload, number, nonce } = begun[0].clone();
    bench.step(AbandonPart { incarnation: me, upload, number, nonce, may_have_replaced: true }).expect("never refused");
    bench.part(second, 5, 1, "five");
    assert_eq!(attempts(me, ("", 0), 10), begun[1..], "neither what was given up nor what was committed");
}
