//! Multipart uploads of a directory: parts as files, completed by a manifest and a rename, nothing copied.

use super::files::{names_in, write_file};
use super::read::read_manifest;
use super::{DIRECTORY_MODE, Directory, REMAKES_MAX, failure, size_of};
use crate::backend::directory::manifest::{self, Manifest};
use crate::backend::directory::paths::part_file;
use crate::backend::directory::{BlobPath, UPLOAD_ID, XATTR_NAME};
use crate::backend::port::Stored;
use crate::backend::travel::Label;
use crate::base::failure::Kind;
use crate::base::{Blame, Failure, PartNumber, Retry};
use crate::store::record::PartRecord;
use rustix::fs::{AtFlags, XattrFlags, fsetxattr, fsync, mkdirat, renameat, statat, unlinkat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

impl Directory {
    /// Opens an upload under the blob's exact name; again, it is the same one.
    pub fn create_upload(&self, name: &str, label: &Label) -> Result<String, Failure> {
        let at = BlobPath::of(name);
        let made = (0..REMAKES_MAX).find_map(|_| match self.make_parts(&at, label) {
            Err(Errno::NOENT) => None,
            done => Some(done),
        });
        made.unwrap_or(Err(Errno::BUSY)).map_err(|cause| failure("opening an upload of", name, cause))?;
        Ok(UPLOAD_ID.to_owned())
    }

    fn make_parts(&self, at: &BlobPath, label: &Label) -> Result<(), Errno> {
        let parent = self.open_or_make(&at.parent)?;
        match mkdirat(&parent, &at.parts, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(cause) => return Err(cause),
        }
        let parts = self.open_parts(at)?;
        let _ = fsetxattr(&parts, XATTR_NAME, &label.encode(), XattrFlags::empty());
        fsync(&parts)?;
        fsync(&parent)?;
        self.make_durable(&at.parent, parent.as_fd())
    }

    pub(super) fn open_parts(&self, at: &BlobPath) -> Result<OwnedFd, Errno> {
        self.open_directory(&beside(at, &at.parts))
    }

    /// Makes the blob out of these parts, in this order. `Refused` names the first part that is not there as recorded;
    /// `NotFound`: no such upload. Asked again after it was done, it is done.
    pub fn complete_upload(&self, name: &str, parts: &[PartRecord]) -> Result<Stored, Failure> {
        let at = BlobPath::of(name);
        let manifest = manifest_of(name, parts)?;
        let _turn = self.completing.enter(name);
        let failed = |cause| failure("completing", name, cause);
        let done = match self.open_parts(&at) {
            Ok(holder) => {
                check_parts(name, holder.as_fd(), &manifest)?;
                self.put_in_place(&at, holder.as_fd(), &manifest).map_err(failed)?;
                holder
            }
            Err(Errno::NOENT) => self.already_done(&at, &manifest).map_err(failed)?,
            Err(cause) => return Err(failed(cause)),
        };
        remove_strays(done.as_fd(), &manifest).map_err(failed)?;
        Ok(Stored::default())
    }

    fn put_in_place(&self, at: &BlobPath, holder: BorrowedFd<'_>, manifest: &Manifest) -> Result<(), Errno> {
        write_file(holder, manifest::TEMPORARY_FILE, manifest::FILE, &manifest.encode())?;
        let parent = self.open_directory(&at.parent)?;
        renameat(&parent, &at.parts, &parent, &at.leaf)?;
        fsync(&parent)?;
        self.make_durable(&at.parent, parent.as_fd())
    }

    /// The blob's directory if it holds this very manifest; its rename may not have been synced yet.
    fn already_done(&self, at: &BlobPath, manifest: &Manifest) -> Result<OwnedFd, Errno> {
        let holder = self.open_directory(&beside(at, &at.leaf))?;
        if !at.may_be_multipart || read_manifest(holder.as_fd())?.as_ref() != Some(manifest) {
            return Err(Errno::NOENT);
        }
        let parent = self.open_directory(&at.parent)?;
        fsync(&parent)?;
        self.make_durable(&at.parent, parent.as_fd())?;
        Ok(holder)
    }

    /// Ends an open upload, with all its parts.
    pub fn abort_upload(&self, name: &str) -> Result<(), Failure> {
        let at = BlobPath::of(name);
        let aborted = self.remove_parts(&at).and_then(|()| self.prune(&at.parent));
        aborted.map_err(|cause| failure("aborting the upload of", name, cause))
    }
}

fn beside(at: &BlobPath, file: &str) -> String {
    if at.parent.is_empty() { file.to_owned() } else { format!("{}/{file}", at.parent) }
}

fn manifest_of(name: &str, parts: &[PartRecord]) -> Result<Manifest, Failure> {
    let file = |part: &PartRecord| {
        let file = PartNumber::new(part.number).and_then(|number| part_file(number, &part.backend_etag));
        file.map(|file| (file, part.size))
    };
    let files: Option<Vec<_>> = parts.iter().map(file).collect();
    let files = files.ok_or_else(|| Failure::ourselves(format!("a part of {name} is recorded without its attempt")))?;
    Ok(Manifest::new(files))
}

fn check_parts(name: &str, holder: BorrowedFd<'_>, manifest: &Manifest) -> Result<(), Failure> {
    for (file, size) in &manifest.parts {
        let found = match statat(holder, file, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(size_of(&stat)),
            Err(Errno::NOENT) => None,
            Err(cause) => return Err(failure("looking at the parts of", name, cause)),
        };
        if found != Some(*size) {
            let cause = format!("part {file} of {name} should have {size} bytes: {found:?}");
            return Err(Failure::new(Kind::Refused, Blame::Backend, Retry::Never, cause));
        }
    }
    Ok(())
}

/// Attempts that were given up, or replaced by a later one: nobody will name or charge them again.
fn remove_strays(holder: BorrowedFd<'_>, manifest: &Manifest) -> Result<(), Errno> {
    let named: HashSet<&str> = manifest.parts.iter().map(|(file, _)| file.as_str()).collect();
    let mut removed = false;
    for file in names_in(holder)? {
        if !named.contains(file.as_str()) && file != manifest::FILE {
            match unlinkat(holder, &file, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => removed = true,
                Err(cause) => return Err(cause),
            }
        }
    }
    if removed { fsync(holder) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::backend::port::Span;
    use crate::base::{Nonce, Version, blob_name};
    use std::sync::Arc;

    fn blob() -> String {
        blob_name::mint("bkt", "dir/big", true, Version::from_parts(1, 1), Nonce::from_roll(7))
    }

    fn nonce(roll: u64) -> String {
        Nonce::from_roll(roll).as_str().to_owned()
    }

    fn put_part(directory: &Arc<Directory>, number: u16, roll: u64, bytes: &[u8]) -> Result<PartRecord, Failure> {
        let number = PartNumber::new(number).expect("a part number");
        let mut writing = directory.create_part(&blob(), number, &nonce(roll), bytes.len() as u64)?;
        writing.append(bytes)?;
        let backend_etag = writing.commit()?.etag;
        let (number, size) = (number.get(), bytes.len() as u64);
        Ok(PartRecord { number, size, etag: String::new(), backend_etag, checksums: Vec::new(), modified_ms: 0 })
    }

    fn read(directory: &Directory, size: u64, span: Option<Span>) -> Vec<u8> {
        let mut reading = directory.reading(&blob(), size, span).expect("readable");
        let mut bytes = vec![0; reading.left() as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += reading.fill(&mut bytes[filled..]).expect("readable");
        }
        bytes
    }

    #[test]
    fn parts_become_one_blob_and_leave_as_one() {
        let (place, directory) = directory();
        assert_eq!(directory.create_upload(&blob(), &Label::default()).expect("opened"), UPLOAD_ID);
        assert_eq!(directory.create_upload(&blob(), &Label::default()).expect("the same"), UPLOAD_ID);
        let first = put_part(&directory, 1, 1, b"01234").expect("stored");
        put_part(&directory, 2, 2, b"an attempt that was replaced").expect("stored");
        let second = put_part(&directory, 2, 3, b"567").expect("stored");
        put_part(&directory, 3, 4, b"not in the manifest").expect("stored");
        let given_up = PartNumber::new(4).expect("a part number");
        directory.create_part(&blob(), given_up, &nonce(5), 10).expect("created").abandon();
        assert_eq!(directory.head(&blob()).expect("asked"), None, "nothing is visible yet");

        let parts = [first, second];
        for _ in 0..2 {
            assert_eq!(
                directory.complete_upload(&blob(), &parts).expect("complete, also when asked again"),
                Stored::default()
            );
        }
        let want = [
            format!("{}/00001-{}", blob(), nonce(1)),
            format!("{}/00002-{}", blob(), nonce(3)),
            format!("{}/manifest", blob()),
        ];
        assert_eq!(files(&place), want);
        assert_eq!(directory.head(&blob()).expect("asked").map(|head| head.size), Some(8));
        assert_eq!(read(&directory, 8, None), b"01234567");
        assert_eq!(read(&directory, 8, Some(Span { from: 4, len: 2 })), b"45");
        assert_eq!(read(&directory, 8, Some(Span { from: 6, len: 2 })), b"67");

        let other = directory.complete_upload(&blob(), &parts[..1]).map_err(|failure| failure.kind);
        assert_eq!(other, Err(Kind::NotFound), "another manifest");
        let late = put_part(&directory, 5, 6, b"x").map_err(|failure| failure.kind);
        assert_eq!(late, Err(Kind::NotFound), "the upload is over");
        directory.abort_upload(&blob()).expect("there is none any more");
        assert_eq!(read(&directory, 8, None), b"01234567", "an abort does not touch what is complete");

        for _ in 0..2 {
            directory.delete(&blob()).expect("deleted, also when asked again");
            assert_eq!(files(&place), Vec::<String>::new());
        }
        assert_eq!(directory.complete_upload(&blob(), &parts).map_err(|failure| failure.kind), Err(Kind::NotFound));
    }

    /// A client that waits too long asks again while it is still being done.
    #[test]
    fn completes_of_one_upload_agree() {
        for _ in 0..50 {
            let (place, directory) = directory();
            directory.create_upload(&blob(), &Label::default()).expect("opened");
            let parts = [put_part(&directory, 1, 1, b"01234").expect("stored")];
            let start = std::sync::Barrier::new(4);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        start.wait();
                        assert_eq!(directory.complete_upload(&blob(), &parts).expect("complete"), Stored::default());
                        // Who was answered may read, whatever the others are at.
                        for _ in 0..20 {
                            assert_eq!(read(&directory, 5, None), b"01234");
                        }
                    });
                }
            });
            assert_eq!(files(&place), [format!("{}/00001-{}", blob(), nonce(1)), format!("{}/manifest", blob())]);
        }
    }

    #[test]
    fn what_was_begun_before_the_end_does_not_stay() {
        for completes in [true, false] {
            let (place, directory) = directory();
            directory.create_upload(&blob(), &Label::default()).expect("opened");
            let part = put_part(&directory, 1, 1, b"01234").expect("stored");
            let number = PartNumber::new(2).expect("a part number");
            let mut late = directory.create_part(&blob(), number, &nonce(2), 3).expect("created");
            late.append(b"567").expect("written");
            if completes {
                directory.complete_upload(&blob(), &[part]).expect("complete");
            } else {
                directory.abort_upload(&blob()).expect("aborted");
            }
            assert_eq!(late.commit().map_err(|failure| failure.kind), Err(Kind::NotFound));
            let left = if completes {
                vec![format!("{}/00001-{}", blob(), nonce(1)), format!("{}/manifest", blob())]
            } else {
                vec![]
            };
            assert_eq!(files(&place), left);
        }
    }

    #[test]
    fn a_part_that_is_not_as_recorded_is_refused_and_nothing_is_lost() {
        let (place, directory) = directory();
        directory.create_upload(&blob(), &Label::default()).expect("opened");
        let part = put_part(&directory, 1, 1, b"01234").expect("stored");
        let before = files(&place);
        let missing = PartRecord { number: 2, ..part.clone() };
        let longer = PartRecord { size: 6, ..part.clone() };
        for parts in [[part.clone(), missing], [longer, part.clone()]] {
            let refused = directory.complete_upload(&blob(), &parts).map_err(|failure| failure.kind);
            assert_eq!(refused, Err(Kind::Refused));
            assert_eq!(files(&place), before);
        }
        directory.complete_upload(&blob(), &[part]).expect("complete");
        assert_eq!(read(&directory, 5, None), b"01234");
    }

    #[test]
    fn a_lost_part_is_found_before_a_byte_is_sent_or_when_it_is_reached() {
        let (place, directory) = directory();
        directory.create_upload(&blob(), &Label::default()).expect("opened");
        let parts = [
            put_part(&directory, 1, 1, b"01234").expect("stored"),
            put_part(&directory, 2, 2, b"567").expect("stored"),
        ];
        directory.complete_upload(&blob(), &parts).expect("complete");
        let file = |number: u16, roll: u64| place.path().join(format!("{}/{number:05}-{}", blob(), nonce(roll)));
        std::fs::write(file(2, 2), b"56").expect("written");
        let mut reading = directory.reading(&blob(), 8, None).expect("the first part is sound");
        let mut bytes = [0; 8];
        assert_eq!(reading.fill(&mut bytes).expect("readable"), 5);
        assert_eq!(reading.fill(&mut bytes).map_err(|failure| failure.kind), Err(Kind::Corrupt));
        std::fs::remove_file(file(1, 1)).expect("removed");
        assert_eq!(directory.reading(&blob(), 8, None).map(|_| ()).map_err(|failure| failure.kind), Err(Kind::Corrupt));
    }
}
