//! The backend port, call by call.

use super::account::call_of;
use super::remote::Remote;
use super::source::wrong_body;
use super::{CoreBackends, Reach, Sink, Source};
use crate::backend::budget::Spend;
use crate::backend::port::{
    Backends, BlobHead, BlobPage, MoveEnd, Moved, Put, PutTarget, Span, Stored, Unfinished, UpstreamPayload,
};
use crate::backend::s3::{Ask, answer};
use crate::backend::travel::Luggage;
use crate::base::failure::Kind;
use crate::base::{BackendName, Blame, Failure, Mandate, Retry};
use crate::policy::body_path::{BodyFacts, BodyPath, choose_body_path};
use crate::proto::body_check::BodyCheck;
use crate::proto::error_code::S3Error;
use crate::proto::xml;
use crate::reactor::core::Right;
use crate::reactor::relay::copy::{Body, Inspect, Looked, Refused, Wire, copy_body};
use crate::reactor::relay::splice::splice_body;
use crate::reactor::relay::{End, Patience};
use crate::store::record::{BlobAt, PartRecord};
use std::cell::Cell;
use std::rc::Rc;

/// Pages of open uploads, or of versions, of one name: more than this is not a leftover but a mistake.
const ROUNDS_MAX: usize = 100;

impl Backends for CoreBackends {
    type Source = Source;
    type Sink = Sink;

    async fn open(&self, blob: &BlobAt, size: u64, span: Span) -> Result<Source, Failure> {
        let whole = span.from == 0 && span.len == size;
        let span = (!whole).then_some(span);
        match self.reach(&blob.backend)?.1 {
            Reach::Remote(remote) => open_remote(remote, blob, size, span).await,
            Reach::Local(local) => {
                let (file, ahead, charge) = local.open(&blob.name, size, span).await?;
                Ok(Source::of_local(local, file, ahead, charge))
            }
        }
    }

    async fn create(&self, put: Put<'_>) -> Result<Sink, Failure> {
        let reach = self.usable(&put.blob.backend)?;
        match reach {
            Reach::Remote(remote) => {
                let ask = ask_of(&put)?;
                let spend = Spend { ingress: put.size, ..Spend::call(call_of(&ask)) };
                let charge = remote.account.pay(spend, false).await?;
                let start = remote.account.now();
                let line =
                    remote.line(start).await.inspect_err(|cause| remote.account.failed(call_of(&ask), start, cause))?;
                Ok(Sink::of_remote(remote, line, &put, &ask, start, charge))
            }
            Reach::Local(local) => {
                let start = local.account.now();
                let (draft, charge) = local.create(&put).await?;
                Ok(Sink::of_local(local, draft, &put, start, charge))
            }
        }
    }

    async fn finish(&self, sink: Sink) -> Result<Stored, Failure> {
        sink.finish().await
    }

    async fn discard(&self, sink: Sink) {
        sink.discard().await;
    }

    async fn put_bytes(&self, put: Put<'_>, body: &[u8]) -> Result<Stored, Failure> {
        if put.size != body.len() as u64 {
            return Err(Failure::ourselves(format!("{} bytes in hand for a body of {}", body.len(), put.size)));
        }
        match self.usable(&put.blob.backend)? {
            Reach::Remote(remote) => {
                let ask = ask_of(&put)?;
                if ask.is_chunked() {
                    return Err(Failure::ourselves("a body in hand is signed by its hash"));
                }
                Ok(remote.ask_within(Right::Write(put.incarnation), &ask, body, answer::stored).await?.0)
            }
            Reach::Local(local) => local.put_bytes(&put, body).await,
        }
    }

    async fn copy(&self, source: Source, sink: &mut Sink, check: &mut BodyCheck) -> Moved {
        if source.left() != sink.size() {
            let cause = format!("a body of {} bytes for a place of {}", source.left(), sink.size());
            return Moved { bytes: 0, end: MoveEnd::Sink(Failure::ourselves(cause)) };
        }
        let mut bytes = 0;
        let end = self.move_all(source, sink, check, &mut bytes).await;
        Moved { bytes, end: end.err().unwrap_or(MoveEnd::Done) }
    }

    async fn copy_within(&self, from: &BlobAt, size: u64, span: Span, put: Put<'_>) -> Result<Stored, Failure> {
        assert_eq!(from.backend, put.blob.backend, "a copy within one backend");
        match self.usable(&from.backend)? {
            Reach::Local(local) => local.copy_within(&from.name, size, span, &put).await,
            Reach::Remote(remote) => copy_remote(remote, from, size, span, &put).await,
        }
    }

    async fn delete(&self, blob: &BlobAt, mandate: Mandate) -> Result<(), Failure> {
        let (index, _) = self.reach(&blob.backend)?;
        match self.usable(&blob.backend)? {
            Reach::Local(local) => local.delete(&blob.name, mandate).await,
            Reach::Remote(remote) => {
                if !blob.foreign_etag.is_empty() && !is_unchanged(remote, blob).await? {
                    return Ok(());
                }
                let removes = self.standing.delete_removes(index);
                delete_remote(remote, &blob.name, &blob.version_id, removes, mandate).await
            }
        }
    }

    async fn head(&self, blob: &BlobAt) -> Result<Option<BlobHead>, Failure> {
        match self.reach(&blob.backend)?.1 {
            Reach::Remote(remote) => head_remote(remote, &blob.name, "").await,
            Reach::Local(local) => local.head(&blob.name).await,
        }
    }

    async fn create_upload(&self, blob: &BlobAt, luggage: Luggage<'_>) -> Result<String, Failure> {
        match self.usable(&blob.backend)? {
            Reach::Local(local) => local.create_upload(&blob.name, luggage).await,
            Reach::Remote(remote) => {
                let (_, body) = remote.ask(&Ask::CreateUpload { name: &blob.name, luggage }, &[], |_| ()).await?;
                answer::upload_id(&body)
            }
        }
    }

    async fn complete_upload(
        &self,
        blob: &BlobAt,
        backend_upload: &str,
        parts: &[PartRecord],
    ) -> Result<Stored, Failure> {
        match self.usable(&blob.backend)? {
            Reach::Local(local) => local.complete_upload(&blob.name, parts).await,
            Reach::Remote(remote) => {
                let mut manifest = Vec::new();
                xml::write_complete_request(
                    &mut manifest,
                    parts.iter().map(|part| (part.number, etag_there(part), [].as_slice())),
                );
                let ask = Ask::CompleteUpload { name: &blob.name, upload: backend_upload, body: &manifest };
                let (stored, body) = remote.ask(&ask, &manifest, answer::stored).await?;
                answer::completed(&ask, stored, &body)
            }
        }
    }

    async fn abort_uploads(&self, blob: &BlobAt, known: &str, mandate: Mandate) -> Result<(), Failure> {
        match self.usable(&blob.backend)? {
            Reach::Local(local) => local.abort_upload(&blob.name, mandate).await,
            Reach::Remote(remote) => abort_remote(remote, &blob.name, known, mandate).await,
        }
    }

    async fn list(&self, backend: &BackendName, prefix: &str, after: &str) -> Result<BlobPage, Failure> {
        match self.reach(backend)?.1 {
            Reach::Local(local) => local.list(prefix, after).await,
            Reach::Remote(remote) => {
                let (_, body) = remote.ask(&Ask::List { prefix, after }, &[], |_| ()).await?;
                answer::blob_page(&body)
            }
        }
    }

    async fn unfinished(&self, backend: &BackendName) -> Result<Vec<Unfinished>, Failure> {
        match self.usable(backend)? {
            Reach::Local(local) => local.unfinished().await,
            Reach::Remote(_) => Ok(Vec::new()),
        }
    }

    async fn remove_unfinished(&self, backend: &BackendName, path: &str, mandate: Mandate) -> Result<(), Failure> {
        match self.usable(backend)? {
            Reach::Local(local) => local.remove_unfinished(path, mandate).await,
            Reach::Remote(_) => Ok(()),
        }
    }
}

impl CoreBackends {
    /// Moves what the source has left; `bytes` counts what the sink was given.
    async fn move_all(
        &self,
        mut source: Source,
        sink: &mut Sink,
        check: &mut BodyCheck,
        bytes: &mut u64,
    ) -> Result<(), MoveEnd> {
        let must_look = check.must_look();
        let is_plain = source.is_plain() && sink.is_plain_socket();
        let facts = BodyFacts {
            size_bytes: source.left(),
            plaintext_both_sides: is_plain,
            must_inspect: must_look,
            targets: 1,
            pipe_available: true,
        };
        let pipe = match choose_body_path(self.view.server.relay, &facts) {
            BodyPath::Splice => self.core.pipes.take(),
            BodyPath::Copy => None,
        };
        let first = if is_plain && !must_look { source.ahead().len() } else { 0 };
        sink.start(&source.ahead().data()[..first]).await.map_err(MoveEnd::Sink)?;
        source.ahead().consume(first);
        source.moved(first as u64);
        *bytes = first as u64;

        let left = source.left();
        let patience = Patience { source: self.view.server.backend_timeout, sink: self.view.server.backend_timeout };
        let mut inspect = Checking { check, refusal: None };
        let (moved, path) = match pipe {
            Some(mut pipe) => {
                let moved = splice_body(&self.core, source.relay(), sink.relay(), left, patience, &mut pipe).await;
                let _ = inspect.verdict(); // of a body that nobody looks at
                (moved, BodyPath::Splice)
            }
            None => {
                let (relay, ahead) = source.parts();
                let body = Body { wire: Wire::Exact(left), size: left, ahead };
                let sinks = &mut [sink.relay()];
                (copy_body(&self.core, relay, sinks, body, &mut inspect, patience).await, BodyPath::Copy)
            }
        };
        self.core.cells.relayed(path, moved.bytes);
        source.moved(moved.bytes);
        sink.moved(moved.bytes);
        *bytes += moved.bytes;
        match moved.end {
            End::Done => {
                source.finished();
                Ok(())
            }
            End::SourceFailed(cause) => Err(MoveEnd::Source(source.failure(cause))),
            End::SinkFailed(_, cause) => Err(MoveEnd::Sink(sink.broken(cause).await)),
            End::Answered(_) => Err(MoveEnd::Sink(sink.early_answer().await)),
            End::Refused => Err(match inspect.refusal {
                Some(error) => MoveEnd::Refused(error),
                None => MoveEnd::Source(Failure::ourselves("a body had not the length that was asked for")),
            }),
        }
    }
}

/// A check over a body between backends.
struct Checking<'c> {
    check: &'c mut BodyCheck,
    refusal: Option<S3Error>,
}

impl Inspect for Checking<'_> {
    fn look(&mut self, bytes: &mut [u8]) -> Result<Looked, Refused> {
        self.check.update(bytes);
        Ok(Looked { forward: 0..bytes.len(), used: bytes.len(), ended: false })
    }

    fn verdict(&mut self) -> Result<(), Refused> {
        self.check.end(None).map_err(|error| {
            self.refusal = Some(error);
            Refused
        })
    }
}

fn ask_of<'a>(put: &Put<'a>) -> Result<Ask<'a>, Failure> {
    let (name, size, payload, checksum) = (put.blob.name.as_str(), put.size, put.payload, put.checksum);
    match put.target {
        PutTarget::Object(luggage) => Ok(Ask::Put { name, size, payload, luggage, checksum }),
        // An upload that was not created with an algorithm takes no checksum of it, and nobody else would check it.
        PutTarget::Part { .. } if checksum.is_some() => Err(Failure::ourselves("a part's checksum is checked here")),
        PutTarget::Part { backend_upload, number, .. } => {
            Ok(Ask::PutPart { name, upload: backend_upload, number, size, payload })
        }
    }
}

async fn copy_remote(remote: &Remote, from: &BlobAt, size: u64, span: Span, put: &Put<'_>) -> Result<Stored, Failure> {
    let (name, if_match) = (put.blob.name.as_str(), from.foreign_etag.as_str());
    let from = from.name.as_str();
    let ask = match put.target {
        PutTarget::Object(luggage) => Ask::Copy { name, from, if_match, luggage },
        PutTarget::Part { backend_upload: upload, number, .. } => {
            let span = (span.len < size).then_some(span);
            Ask::CopyPart { name, upload, number, from, if_match, span }
        }
    };
    let (stored, body) = remote.ask_within(Right::Write(put.incarnation), &ask, &[], answer::stored).await?;
    answer::copied(&ask, stored, &body)
}

/// What the backend calls a part.
fn etag_there(part: &PartRecord) -> &str {
    if part.backend_etag.is_empty() { &part.etag } else { &part.backend_etag }
}

async fn open_remote(remote: &Rc<Remote>, blob: &BlobAt, size: u64, span: Option<Span>) -> Result<Source, Failure> {
    let ask = Ask::Get { name: &blob.name, span, if_match: &blob.foreign_etag };
    let len = span.map_or(size, |span| span.len);
    let charge = remote.account.pay(Spend { egress: len, ..Spend::default() }, false).await?;
    let start = remote.account.now();
    let is_right = |head: &crate::proto::http1::ResponseHead<'_>| {
        if !answer::is_success(&ask, head.status) {
            return Ok(());
        }
        answer::check_get(head, span, size, &blob.foreign_etag)
    };
    let (answer, checked) = remote.call(start, &ask, &[], is_right).await?;
    if !answer::is_success(&ask, answer.status()) {
        return Err(remote.refusal(&ask, answer, start).await);
    }
    let checked = checked.map_err(|failure| wrong_body(&remote.account, &blob.name, failure));
    checked.inspect_err(|failure| remote.account.failed(call_of(&ask), start, failure))?;
    remote.account.opened(call_of(&ask), start);
    let (line, ahead, keep_alive) = answer.into_body();
    Ok(Source::of_remote(remote, line, ahead, keep_alive, len, charge))
}

pub(super) async fn head_remote(remote: &Remote, name: &str, version_id: &str) -> Result<Option<BlobHead>, Failure> {
    match remote.ask(&Ask::Head { name, version_id }, &[], answer::blob_head).await {
        Ok((head, _)) => head.map(Some),
        Err(failure) if failure.kind == Kind::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Whether an imported object is still there as it was recorded. What others changed is not ours to delete.
async fn is_unchanged(remote: &Remote, blob: &BlobAt) -> Result<bool, Failure> {
    match head_remote(remote, &blob.name, "").await? {
        None => Ok(false),
        Some(head) if head.etag == blob.foreign_etag => Ok(true),
        Some(head) => {
            let cause = format!(
                "backend {}: {} was changed by others (entity tag {:?}, recorded {:?}) and is left alone",
                remote.account.name, blob.name, head.etag, blob.foreign_etag
            );
            Err(Failure::new(Kind::Refused, Blame::Backend, Retry::Never, cause))
        }
    }
}

async fn delete_remote(
    remote: &Remote,
    name: &str,
    version_id: &str,
    removes: bool,
    mandate: Mandate,
) -> Result<(), Failure> {
    // A plain DELETE where it only hides would add a marker for nothing.
    let is_sent = removes || !version_id.is_empty();
    let left_a_marker =
        if is_sent { delete_one(remote, name, version_id, Right::Delete(mandate)).await? } else { true };
    if removes && !left_a_marker {
        return Ok(());
    }
    match delete_versions(remote, name, Right::Delete(mandate)).await {
        // The one version that we know is gone; whether a repeated request made another cannot be seen here.
        Err(failure) if failure.kind == Kind::Refused && !version_id.is_empty() => Ok(()),
        done => done,
    }
}

/// Whether it left a delete marker.
pub(super) async fn delete_one(remote: &Remote, name: &str, version_id: &str, right: Right) -> Result<bool, Failure> {
    match remote.ask_within(right, &Ask::Delete { name, version_id }, &[], answer::left_a_marker).await {
        Ok((marker, _)) => Ok(marker && version_id.is_empty()),
        Err(failure) if failure.kind == Kind::NotFound => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// Deletes every version and marker of exactly this name.
pub(super) async fn delete_versions(remote: &Remote, name: &str, right: Right) -> Result<(), Failure> {
    for _ in 0..ROUNDS_MAX {
        let (_, body) = remote.ask(&Ask::ListVersions { prefix: name }, &[], |_| ()).await?;
        let versions = answer::versions_of(&body, name)?;
        if versions.is_empty() {
            return Ok(());
        }
        for version_id in versions {
            // An unversioned object is listed with the id `null`.
            delete_one(remote, name, if version_id.is_empty() { "null" } else { &version_id }, right).await?;
        }
    }
    Err(remote.account.down(format_args!("versions of {name} are listed again and again after they were deleted")))
}

async fn abort_remote(remote: &Remote, name: &str, known: &str, mandate: Mandate) -> Result<(), Failure> {
    // A refusal may be the backend's way to say that there is no such upload: its listing tells.
    let mut refusal = None;
    if !known.is_empty() {
        match abort_one(remote, name, known, mandate).await {
            Err(failure) if failure.kind == Kind::Refused => refusal = Some(failure),
            done => done?,
        }
    }
    let status = Cell::new(0);
    for _ in 0..ROUNDS_MAX {
        let listed = remote.ask(&Ask::ListUploads { prefix: name }, &[], |head| status.set(head.status)).await;
        let uploads = match listed {
            Ok((_, body)) => answer::uploads_of(&body, name)?,
            Err(failure) if failure.kind == Kind::Refused => {
                tracing::debug!(backend = &*remote.account.name, %failure, "a backend does not list its uploads");
                // What nobody can list is not waited for; what we may not see may be there.
                return refusal.filter(|_| status.get() != 501).map_or(Ok(()), Err);
            }
            Err(failure) => return Err(failure),
        };
        if uploads.is_empty() {
            return Ok(());
        }
        for upload in uploads {
            abort_one(remote, name, &upload, mandate).await?;
        }
    }
    Err(remote.account.down(format_args!("uploads of {name} are listed again and again after they were aborted")))
}

async fn abort_one(remote: &Remote, name: &str, upload: &str, mandate: Mandate) -> Result<(), Failure> {
    match remote.ask_within(Right::Delete(mandate), &Ask::AbortUpload { name, upload }, &[], |_| ()).await {
        Err(failure) if failure.kind != Kind::NotFound => Err(failure),
        _ => Ok(()),
    }
}

/// For a body of ours that goes to a backend as it is.
pub(super) fn sha256_of(body: &[u8]) -> UpstreamPayload {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body);
    UpstreamPayload::Sha256(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
}
