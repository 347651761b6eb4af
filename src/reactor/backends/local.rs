//! A directory as one core reaches it: every call on a disk thread, within a time.

use super::account::Account;
use super::charge::Charge;
use crate::backend::budget::Spend;
use crate::backend::port::{BlobHead, BlobPage, Put, PutTarget, Span, Stored, Unfinished};
use crate::backend::travel::{Label, Luggage};
use crate::base::limits::HEAD_BYTES_MAX;
use crate::base::{Failure, Mandate, Tick};
use crate::observe::cells::BackendCall;
use crate::reactor::buffer::Buffer;
use crate::reactor::directory::{Directory, Writing};
use crate::reactor::disk::{Disk, Draft, OpenFile};
use crate::reactor::race::{Won, race};
use crate::store::record::PartRecord;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Blobs of one page of a listing.
const PAGE_BLOBS: usize = 1000;
/// An fsync, and a delete of ten thousand part files, may take longer than any answer over a network.
const SLOW_PATIENCE: Duration = Duration::from_secs(300);

pub(super) struct Local {
    pub(super) account: Account,
    pub(super) directory: Arc<Directory>,
    disk: Rc<Disk>,
    patience: Duration,
}

impl Local {
    pub(super) fn new(account: Account, directory: Arc<Directory>, disk: &Rc<Disk>, patience: Duration) -> Self {
        Self { account, directory, disk: Rc::clone(disk), patience }
    }

    /// A blocking call, counted. A disk that does not answer in time is a failure; what was asked may still happen.
    /// Cancel: safe, it happens.
    async fn run<T: Send + 'static>(
        &self,
        call: BackendCall,
        patience: Duration,
        work: impl FnOnce(&Arc<Directory>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let directory = Arc::clone(&self.directory);
        let is_exempt = matches!(call, BackendCall::Delete | BackendCall::AbortUpload);
        let charge = self.account.pay(Spend::call(call), is_exempt).await?;
        self.counted(call, patience, charge, self.disk.run(move || work(&directory))).await
    }

    /// As `run`, for the marker and the directory itself, whatever the budget says.
    async fn look<T: Send + 'static>(
        &self,
        call: BackendCall,
        patience: Duration,
        work: impl FnOnce(&Arc<Directory>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let directory = Arc::clone(&self.directory);
        let charge = self.account.pay(Spend::call(call), true).await?;
        self.counted(call, patience, charge, self.disk.run(move || work(&directory))).await
    }

    async fn counted<T>(
        &self,
        call: BackendCall,
        patience: Duration,
        charge: Option<Box<Charge>>,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let start = self.account.now();
        self.account.cells().api_requests.inc();
        if let Some(charge) = charge {
            charge.all_sent();
        }
        let done = self.in_time(patience, work).await;
        self.account.noted(call, start, done)
    }

    async fn in_time<T>(
        &self,
        patience: Duration,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match race(work, monoio::time::sleep(patience)).await {
            Won::First(done) => done.map_err(|mut failure| {
                failure.cause = format!("backend {}: {}", self.account.name, failure.cause);
                failure
            }),
            Won::Second(()) => Err(self.account.down(format_args!("its disk did not answer for {patience:?}"))),
        }
    }

    /// A span of a blob, and what of it is in hand: all, if it is small. Then one hop did it. With what its bytes take from
    /// the budget.
    pub(super) async fn open(
        &self,
        name: &str,
        size: u64,
        span: Option<Span>,
    ) -> Result<(OpenFile, Buffer, Option<Box<Charge>>), Failure> {
        let len = span.map_or(size, |span| span.len);
        let bytes = self.account.pay(Spend { egress: len, ..Spend::default() }, false).await?;
        let call = self.account.pay(Spend::call(BackendCall::Get), false).await?;
        if len > HEAD_BYTES_MAX as u64 {
            let opening = self.disk.read(&self.directory, name, size, span);
            let start = self.account.now();
            self.account.cells().api_requests.inc();
            if let Some(call) = call {
                call.all_sent();
            }
            let file = self.in_time(self.patience, opening).await;
            let file = file.inspect_err(|failure| self.account.failed(BackendCall::Get, start, failure))?;
            self.account.opened(BackendCall::Get, start);
            return Ok((file, Buffer::from_bytes(&[]), bytes));
        }
        let room = self.account.core.heads.take_now(); // as for the answer of a remote one: the client holds one too
        let reading = self.disk.read_whole(&self.directory, name, size, span, room);
        let (file, ahead) = self.counted(BackendCall::Get, self.patience, call, reading).await?;
        Ok((file, ahead, bytes))
    }

    /// A draft, and what its bytes take from the budget. Its call is counted at its end.
    pub(super) async fn create(&self, put: &Put<'_>) -> Result<(Draft, Option<Box<Charge>>), Failure> {
        let (directory, name, size) = (&self.directory, put.blob.name.as_str(), put.size);
        let is_part = matches!(put.target, PutTarget::Part { .. });
        let spend = Spend { ingress: size, ..Spend::call(Self::put_call(is_part)) };
        let charge = self.account.pay(spend, false).await?;
        let start = self.account.now();
        self.account.cells().api_requests.inc();
        let created = match put.target {
            PutTarget::Object(luggage) => {
                self.in_time(self.patience, self.disk.create(directory, name, size, luggage)).await
            }
            PutTarget::Part { number, nonce, .. } => {
                self.in_time(self.patience, self.disk.create_part(directory, name, number, nonce, size)).await
            }
        };
        let created = created.inspect_err(|failure| self.account.failed(Self::put_call(is_part), start, failure));
        Ok((created?, charge))
    }

    pub(super) async fn commit(&self, draft: Draft, start: Tick, is_part: bool) -> Result<Stored, Failure> {
        let done = self.in_time(self.patience.max(SLOW_PATIENCE), draft.commit()).await;
        self.account.noted(Self::put_call(is_part), start, done)
    }

    pub(super) fn put_call(is_part: bool) -> BackendCall {
        if is_part { BackendCall::UploadPart } else { BackendCall::Put }
    }

    /// A body that is in hand: one hop instead of three.
    pub(super) async fn put_bytes(&self, put: &Put<'_>, body: &[u8]) -> Result<Stored, Failure> {
        let (name, size, bytes) = (put.blob.name.clone(), put.size, body.to_owned());
        let patience = self.patience.max(SLOW_PATIENCE);
        let len = body.len() as u64;
        let charge = self.account.pay(Spend { ingress: len, ..Spend::default() }, false).await?;
        let fence = self.account.core.fence(put.incarnation);
        let write = move |writing: Writing| {
            let mut writing = fenced(writing, fence)?;
            match writing.append(&bytes) {
                Ok(()) => writing.commit(),
                Err(failure) => {
                    writing.abandon();
                    Err(failure)
                }
            }
        };
        let stored = match put.target {
            PutTarget::Object(luggage) => {
                let label = Label::new(&name, luggage);
                let work = move |directory: &Arc<Directory>| write(directory.create(&name, size, &label)?);
                self.run(BackendCall::Put, patience, work).await
            }
            PutTarget::Part { number, nonce, .. } => {
                let nonce = nonce.to_owned();
                let work = move |directory: &Arc<Directory>| write(directory.create_part(&name, number, &nonce, size)?);
                self.run(BackendCall::UploadPart, patience, work).await
            }
        };
        if let (Ok(_), Some(charge)) = (&stored, charge) {
            charge.all_sent();
        }
        stored.inspect(|_| self.account.cells().ingress_bytes.add(len))
    }

    pub(super) async fn copy_within(
        &self,
        from: &str,
        size: u64,
        span: Span,
        put: &Put<'_>,
    ) -> Result<Stored, Failure> {
        let (from, name, len) = (from.to_owned(), put.blob.name.clone(), put.size);
        let patience = self.patience.max(SLOW_PATIENCE);
        let fence = self.account.core.fence(put.incarnation);
        match put.target {
            PutTarget::Object(luggage) => {
                let label = Label::new(&name, luggage);
                let work = move |directory: &Arc<Directory>| {
                    let reading = directory.reading(&from, size, Some(span))?;
                    fenced(directory.create(&name, len, &label)?, fence)?.fill_from(reading)
                };
                self.run(BackendCall::Put, patience, work).await
            }
            PutTarget::Part { number, nonce, .. } => {
                let nonce = nonce.to_owned();
                let work = move |directory: &Arc<Directory>| {
                    let reading = directory.reading(&from, size, Some(span))?;
                    fenced(directory.create_part(&name, number, &nonce, len)?, fence)?.fill_from(reading)
                };
                self.run(BackendCall::UploadPart, patience, work).await
            }
        }
    }

    pub(super) async fn delete(&self, name: &str, mandate: Mandate) -> Result<(), Failure> {
        let name = name.to_owned();
        self.remove(BackendCall::Delete, mandate, move |directory| directory.delete(&name)).await
    }

    /// A job may wait for its thread until long after it was decided: it asks when it begins.
    async fn remove(
        &self,
        call: BackendCall,
        mandate: Mandate,
        work: impl FnOnce(&Arc<Directory>) -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        let fence = self.account.core.delete_fence(mandate);
        let fenced = move |directory: &Arc<Directory>| fence().and_then(|()| work(directory));
        self.run(call, self.patience.max(SLOW_PATIENCE), fenced).await
    }

    pub(super) async fn head(&self, name: &str) -> Result<Option<BlobHead>, Failure> {
        let name = name.to_owned();
        self.run(BackendCall::Head, self.patience, move |directory| directory.head(&name)).await
    }

    pub(super) async fn create_upload(&self, name: &str, luggage: Luggage<'_>) -> Result<String, Failure> {
        let (name, label) = (name.to_owned(), Label::new(name, luggage));
        let work = move |directory: &Arc<Directory>| directory.create_upload(&name, &label);
        self.run(BackendCall::CreateUpload, self.patience, work).await
    }

    pub(super) async fn complete_upload(&self, name: &str, parts: &[PartRecord]) -> Result<Stored, Failure> {
        let (name, parts) = (name.to_owned(), parts.to_owned());
        let patience = self.patience.max(SLOW_PATIENCE);
        let work = move |directory: &Arc<Directory>| directory.complete_upload(&name, &parts);
        self.run(BackendCall::CompleteUpload, patience, work).await
    }

    pub(super) async fn abort_upload(&self, name: &str, mandate: Mandate) -> Result<(), Failure> {
        let name = name.to_owned();
        self.remove(BackendCall::AbortUpload, mandate, move |directory| directory.abort_upload(&name)).await
    }

    pub(super) async fn list(&self, prefix: &str, after: &str) -> Result<BlobPage, Failure> {
        let (prefix, after) = (prefix.to_owned(), after.to_owned());
        let now = self.account.now();
        let work = move |directory: &Arc<Directory>| directory.list(&prefix, &after, PAGE_BLOBS, now);
        self.run(BackendCall::List, self.patience.max(SLOW_PATIENCE), work).await
    }

    pub(super) async fn unfinished(&self) -> Result<Vec<Unfinished>, Failure> {
        let patience = self.patience.max(SLOW_PATIENCE);
        self.run(BackendCall::List, patience, |directory| directory.unfinished()).await
    }

    pub(super) async fn remove_unfinished(&self, path: &str, mandate: Mandate) -> Result<(), Failure> {
        let path = path.to_owned();
        self.remove(BackendCall::Delete, mandate, move |directory| directory.remove_unfinished(&path)).await
    }

    /// What stands in the marker's place; None also when the directory itself is not there. The directory goes on using the
    /// handle that it has.
    pub(super) async fn marker(&self) -> Result<Option<Vec<u8>>, Failure> {
        self.look(BackendCall::Get, self.patience, |directory| Ok(directory.look_for()?.and_then(|seen| seen.marker)))
            .await
    }

    /// Opens the directory for use if its marker, read once more from the handle that is kept, is still `marker`; written
    /// first, together with the directory itself, if `is_new`.
    pub(super) async fn adopt(&self, marker: Vec<u8>, is_new: bool) -> Result<(), Failure> {
        let now = self.account.now();
        self.look(BackendCall::Put, self.patience.max(SLOW_PATIENCE), move |directory| {
            if is_new {
                directory.make()?;
            }
            let seen = directory.look()?;
            match seen.marker {
                Some(found) if found == marker => {}
                None if is_new => directory.write_marker(&seen.root, &marker)?,
                _ => return Err(Failure::backend("its marker changed while it was looked at")),
            }
            directory.adopt(seen.root, now);
            Ok(())
        })
        .await
    }
}

/// Asked once its file is there: from then on whoever gives the blob or the upload up deletes that, and it never appears.
/// A job may wait for its thread, or with its process, until long after that delete.
fn fenced(writing: Writing, fence: impl Fn() -> Result<(), Failure>) -> Result<Writing, Failure> {
    match fence() {
        Ok(()) => Ok(writing),
        Err(failure) => {
            writing.abandon();
            Err(failure)
        }
    }
}
