//! A blob or a part being written: temporary name, bytes, fsync, rename, fsync of the directories.

use super::{Directory, FILE_MODE, REMAKES_MAX, failure, is_still};
use crate::backend::directory::paths::part_file;
use crate::backend::directory::{BlobPath, XATTR_NAME};
use crate::backend::port::Stored;
use crate::backend::travel::Label;
use crate::base::failure::Kind;
use crate::base::{Blame, Failure, PartNumber, Retry};
use rustix::fs::{
    AtFlags, FallocateFlags, OFlags, XattrFlags, fallocate, fdatasync, fsetxattr, fsync, openat, renameat, unlinkat,
};
use rustix::io::{Errno, pwrite};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// From this size on, room is asked for before the body comes: a full disk is then found while another backend can still
/// be chosen.
const RESERVE_BYTES_MIN: u64 = 1024 * 1024;
/// Dirty bytes are synced in between, so that the last fsync of a big body is not minutes of silence.
const SYNC_EVERY_BYTES: u64 = 32 * 1024 * 1024;

/// Owned by whoever writes; moves to a disk thread for each call and back. Dropped, it leaves its temporary file, which a
/// delete of the blob finds.
pub struct Writing {
    directory: Arc<Directory>,
    /// The blob's parent, or the upload's directory.
    holder: OwnedFd,
    file: OwnedFd,
    at: BlobPath,
    target: Target,
    size: u64,
    written: u64,
    unsynced: u64,
}

enum Target {
    Object,
    Part { file: String, nonce: String },
}

impl Directory {
    /// Opens a new blob of `size` bytes for writing.
    pub fn create(self: &Arc<Self>, name: &str, size: u64, label: &Label) -> Result<Writing, Failure> {
        let at = BlobPath::of(name);
        let (holder, file) = self.create_file(&at).map_err(|cause| failure("creating", name, cause))?;
        let writing = self.writing(holder, file, at, Target::Object, size, name)?;
        // What travels is a help for reads without the database, never a reason to refuse a body.
        let _ = fsetxattr(&writing.file, XATTR_NAME, &label.encode(), XattrFlags::empty());
        Ok(writing)
    }

    fn create_file(&self, at: &BlobPath) -> Result<(OwnedFd, OwnedFd), Errno> {
        for _ in 0..REMAKES_MAX {
            let holder = self.open_or_make(&at.parent)?;
            match create_in(holder.as_fd(), &at.temporary) {
                // The parent was removed as empty between the two calls.
                Err(Errno::NOENT) => {}
                Err(cause) => return Err(cause),
                Ok(file) => return Ok((holder, file)),
            }
        }
        Err(Errno::BUSY)
    }

    /// Opens an attempt at a part of an open upload. `NotFound`: there is no such upload (any more).
    pub fn create_part(
        self: &Arc<Self>,
        name: &str,
        number: PartNumber,
        nonce: &str,
        size: u64,
    ) -> Result<Writing, Failure> {
        let at = BlobPath::of(name);
        let Some(file) = part_file(number, nonce) else {
            return Err(Failure::ourselves(format!("{nonce:?} is no nonce of a part")));
        };
        let opened = self.open_parts(&at).and_then(|holder| Ok((create_in(holder.as_fd(), &file)?, holder)));
        let (handle, holder) = opened.map_err(|cause| failure("creating a part of", name, cause))?;
        let target = Target::Part { file, nonce: nonce.to_owned() };
        self.writing(holder, handle, at, target, size, name)
    }

    fn writing(
        self: &Arc<Self>,
        holder: OwnedFd,
        file: OwnedFd,
        at: BlobPath,
        target: Target,
        size: u64,
        name: &str,
    ) -> Result<Writing, Failure> {
        let directory = Arc::clone(self);
        let writing = Writing { directory, holder, file, at, target, size, written: 0, unsynced: 0 };
        if size >= RESERVE_BYTES_MIN
            && let Err(cause @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) =
                fallocate(&writing.file, FallocateFlags::KEEP_SIZE, 0, size)
        {
            writing.abandon();
            return Err(failure("making room for", name, cause));
        }
        Ok(writing)
    }
}

fn create_in(holder: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    openat(holder, name, flags, FILE_MODE)
}

impl Writing {
    /// Writes the next bytes of the body.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        if bytes.len() as u64 > self.left() {
            return Err(Failure::ourselves(format!("more than {} bytes for {}", self.size, self.at.leaf)));
        }
        while !bytes.is_empty() {
            match pwrite(&self.file, bytes, self.written) {
                Ok(0) => return Err(self.failed("writing", Errno::IO)),
                Ok(count) => {
                    bytes = &bytes[count..];
                    self.note_written(count as u64)?;
                }
                Err(Errno::INTR) => {}
                Err(cause) => return Err(self.failed("writing", cause)),
            }
        }
        Ok(())
    }

    /// For bytes that came another way (spliced into `file` at `written`).
    pub fn note_written(&mut self, count: u64) -> Result<(), Failure> {
        self.written += count;
        self.unsynced += count;
        if self.unsynced >= SYNC_EVERY_BYTES {
            self.unsynced = 0;
            fdatasync(&self.file).map_err(|cause| self.failed("syncing", cause))?;
        }
        Ok(())
    }

    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    pub fn left(&self) -> u64 {
        self.size - self.written
    }

    /// Makes the whole body durable and visible. For a part, the answer's ETag is the attempt's nonce.
    pub fn commit(self) -> Result<Stored, Failure> {
        if self.left() > 0 {
            let cause = format!("{} ended {} bytes short", self.at.leaf, self.left());
            self.abandon();
            return Err(Failure::ourselves(cause));
        }
        match self.make_visible() {
            Ok(Some(stored)) => Ok(stored),
            Ok(None) => {
                let cause = format!("the upload of {} ended meanwhile", self.at.leaf);
                self.abandon();
                Err(Failure::new(Kind::NotFound, Blame::Backend, Retry::Never, cause))
            }
            Err(cause) => Err(self.failed("syncing", cause)),
        }
    }

    fn make_visible(&self) -> Result<Option<Stored>, Errno> {
        fsync(&self.file)?;
        match &self.target {
            Target::Object => {
                renameat(&self.holder, &self.at.temporary, &self.holder, &self.at.leaf)?;
                fsync(&self.holder)?;
                self.directory.make_durable(&self.at.parent, self.holder.as_fd())?;
                Ok(Some(Stored::default()))
            }
            Target::Part { nonce, .. } => {
                fsync(&self.holder)?;
                // Completed or aborted: what the manifest does not name must not stay.
                let parent = self.directory.open_directory(&self.at.parent);
                let is_open = parent.is_ok_and(|parent| is_still(parent.as_fd(), &self.at.parts, self.holder.as_fd()));
                Ok(is_open.then(|| Stored { etag: nonce.clone(), version_id: String::new() }))
            }
        }
    }

    /// Gives up: nothing of it stays.
    pub fn abandon(self) {
        let name = match &self.target {
            Target::Object => &self.at.temporary,
            Target::Part { file, .. } => file,
        };
        if let Err(cause) = unlinkat(&self.holder, name, AtFlags::empty()) {
            tracing::debug!(file = name, %cause, "an abandoned file stays until its blob is deleted");
        }
    }

    fn failed(&self, doing: &str, cause: Errno) -> Failure {
        failure(doing, &self.at.leaf, cause)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::backend::travel::Luggage;
    use crate::store::record::ObjectRecord;
    use rustix::fs::fgetxattr;

    #[test]
    fn a_blob_appears_whole_or_not_at_all() {
        let (place, directory) = directory();
        let record =
            ObjectRecord { headers: vec![("content-type".into(), "text/plain".into())], ..ObjectRecord::default() };
        let luggage = Luggage { key: "a/b", record: &record };
        let mut writing = directory.create("bkt/a/b", 10, &Label::new("bkt/a/b", luggage)).expect("created");
        writing.append(b"01234").expect("written");
        assert_eq!(files(&place), [temporary("bkt/a/b")]);
        assert_eq!(directory.head("bkt/a/b").expect("asked"), None);
        writing.append(b"56789").expect("written");
        assert_eq!(writing.commit().expect("stored"), Stored::default());
        assert_eq!(files(&place), ["bkt/a/b"]);
        assert_eq!(std::fs::read(place.path().join("bkt/a/b")).expect("readable"), b"0123456789");
        let file = std::fs::File::open(place.path().join("bkt/a/b")).expect("readable");
        let mut label = vec![0; 4096];
        let len = fgetxattr(&file, XATTR_NAME, &mut label[..]).expect("this file system has attributes");
        let label = Label::decode(&label[..len]).expect("a label");
        assert_eq!((label.name.as_str(), label.headers), ("bkt/a/b", record.headers));
    }

    #[test]
    fn what_is_given_up_leaves_nothing() {
        let (place, directory) = directory();
        let mut writing = directory.create("bkt/a", 10, &Label::default()).expect("created");
        writing.append(b"01234").expect("written");
        assert!(writing.append(b"567890").is_err(), "longer than announced");
        writing.abandon();
        let short = directory.create("bkt/b", 10, &Label::default()).expect("created");
        assert!(short.commit().is_err(), "shorter than announced");
        assert_eq!(files(&place), ["bkt/"]);
    }

    #[test]
    fn a_name_is_written_once_at_a_time() {
        let (_place, directory) = directory();
        let first = directory.create("a", 1, &Label::default()).expect("created");
        let second = directory.create("a", 1, &Label::default()).map(|_| ()).map_err(|failure| failure.kind);
        assert_eq!(second, Err(Kind::Refused));
        first.abandon();
    }

    #[test]
    fn room_is_asked_for_before_the_body() {
        let (place, directory) = directory();
        let huge = directory.create("bkt/a", 1 << 62, &Label::default()).map(|_| ()).map_err(|f| f.kind);
        assert!(matches!(huge, Err(Kind::NoSpace | Kind::Refused)), "{huge:?}");
        assert_eq!(files(&place), ["bkt/"]);
    }
}
