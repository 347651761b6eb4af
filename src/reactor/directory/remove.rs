//! Deleting a blob: whatever is there under its names, then the parents that it leaves empty. May be repeated from any
//! point; done only when it would survive a power cut.

use super::files::names_in;
use super::{Directory, failure, open_beneath};
use crate::backend::directory::{BlobPath, manifest, unfinished};
use crate::base::Failure;
use rustix::fs::{AtFlags, OFlags, unlinkat};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};

/// A directory that somebody still puts files into is emptied again.
const ROUNDS_MAX: usize = 8;

impl Directory {
    /// Removes the blob in every form: file, parts with manifest, temporary file, open upload.
    pub fn delete(&self, name: &str) -> Result<(), Failure> {
        let at = BlobPath::of(name);
        let deleted = self.remove_all(&at).and_then(|()| self.prune(&at.parent));
        deleted.map_err(|cause| failure("deleting", name, cause))
    }

    fn remove_all(&self, at: &BlobPath) -> Result<(), Errno> {
        let parent = match self.open_directory(&at.parent) {
            // Also when a file of others stands where a directory would be.
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            opened => opened?,
        };
        match unlinkat(&parent, &at.leaf, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) if at.may_be_multipart => remove_directory(parent.as_fd(), &at.leaf)?,
            // A directory of others' names: this blob is not there.
            Err(Errno::ISDIR) => {}
            Err(cause) => return Err(cause),
        }
        match unlinkat(&parent, &at.temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(cause) => return Err(cause),
        }
        remove_directory(parent.as_fd(), &at.parts)
    }

    /// Removes what an unfinished write left, given its path.
    pub fn remove_unfinished(&self, path: &str) -> Result<(), Failure> {
        let (parent, file) = path.rsplit_once('/').unwrap_or(("", path));
        if !unfinished::is_ours(file) {
            return Err(Failure::ourselves(format!("{path:?} is no unfinished write's")));
        }
        let removed = match self.open_directory(parent) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(cause) => Err(cause),
            Ok(holder) => match unlinkat(&holder, file, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(Errno::ISDIR | Errno::PERM) => remove_directory(holder.as_fd(), file),
                Err(cause) => Err(cause),
            },
        };
        removed.and_then(|()| self.prune(parent)).map_err(|cause| failure("removing", path, cause))
    }

    /// Removes an open upload's directory.
    pub(super) fn remove_parts(&self, at: &BlobPath) -> Result<(), Errno> {
        match self.open_directory(&at.parent) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(cause) => Err(cause),
            Ok(parent) => remove_directory(parent.as_fd(), &at.parts),
        }
    }
}

/// Removes a directory of files. The manifest goes last: until then a listing shows what is still there.
fn remove_directory(parent: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    for _ in 0..ROUNDS_MAX {
        let directory = match open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => return Ok(()),
            opened => opened?,
        };
        let mut names = names_in(directory.as_fd())?;
        names.sort_by_key(|file| file == manifest::FILE);
        for file in names {
            match unlinkat(&directory, &file, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(cause) => return Err(cause),
            }
        }
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(cause) => return Err(cause),
        }
    }
    Err(Errno::BUSY)
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::backend::directory::paths;
    use crate::backend::travel::Label;

    #[test]
    fn a_delete_takes_every_form_and_leaves_the_neighbours() {
        let (place, directory) = directory();
        put(&directory, "bkt/a/x", b"1").expect("stored");
        put(&directory, "bkt/a/b/y", b"2").expect("stored");
        let half = directory.create("bkt/a/z", 5, &Label::default()).expect("created");
        drop(half);
        assert_eq!(files(&place).len(), 3, "a crash leaves the temporary file");
        directory.delete("bkt/a/z").expect("deleted");
        directory.delete("bkt/a/b").expect("a directory of others is not a blob");
        assert_eq!(files(&place), ["bkt/a/b/y", "bkt/a/x"]);
        directory.delete("bkt/a/b/y").expect("deleted");
        assert_eq!(files(&place), ["bkt/a/x"], "the parent that became empty is gone");
        directory.delete("bkt/a/x/under/a/file").expect("it cannot be there");
        directory.delete("nowhere/at/all").expect("it is not there");
        directory.delete("bkt/a/x").expect("deleted");
        assert_eq!(files(&place), Vec::<String>::new());
    }

    #[test]
    fn our_own_files_are_not_in_reach() {
        let (place, directory) = directory();
        let root = directory.look().expect("open").root;
        directory.write_marker(&root, b"{}").expect("written");
        for name in [".s3o/id", "../x", ".s3o", "/.s3o/id", "a/../.s3o/id"] {
            put(&directory, name, b"x").expect("stored somewhere else");
            directory.delete(name).expect("deleted");
        }
        assert_eq!(std::fs::read(place.path().join(".s3o/id")).expect("still there"), b"{}");
    }

    #[test]
    fn unfinished_writes_are_found_and_removed() {
        let (place, directory) = directory();
        let long = format!("bkt/{}", "k".repeat(300));
        put(&directory, "bkt/a/x", b"1").expect("stored");
        let mut names = vec!["top", "bkt/a/y", "bkt/b/z", "bkt/../w", &long];
        for name in &names {
            let mut half = directory.create(name, 5, &Label::default()).expect("created");
            half.append(b"234").expect("written");
        }
        names.push("bkt/upload");
        directory.create_upload("bkt/upload", &Label::default()).expect("created");
        let number = crate::base::PartNumber::new(1).expect("a number");
        let part = directory.create_part("bkt/upload", number, "0123456789", 3).expect("created");
        drop(part);
        std::fs::write(place.path().join("bkt/.s3o~somebody's"), b"x").expect("written");
        let path = |name: &str| {
            let suffix = if name == "bkt/upload" { paths::PARTS_SUFFIX } else { "" };
            format!("{}{suffix}", paths::unfinished(name))
        };
        let mut found = directory.unfinished().expect("listed");
        found.sort();
        let sizes: Vec<u64> = found.iter().map(|one| one.bytes).collect();
        let found: Vec<String> = found.into_iter().map(|one| one.path).collect();
        let mut want: Vec<String> = names.iter().map(|name| path(name)).collect();
        want.sort();
        assert_eq!(found, want);
        assert_eq!(sizes.iter().filter(|bytes| **bytes == 3).count(), 5, "and the upload's label: {sizes:?}");
        for one in &found {
            directory.remove_unfinished(one).expect("removed");
            directory.remove_unfinished(one).expect("removed is removed");
        }
        assert_eq!(directory.unfinished().expect("listed"), []);
        let kept = files(&place).into_iter().filter(|file| !file.ends_with('/')).collect::<Vec<_>>();
        assert_eq!(kept, ["bkt/.s3o~somebody's", "bkt/a/x"], "directories of long names stay");
        for other in ["bkt/a/x", "bkt/.s3o~somebody's", ".s3o/id", ""] {
            assert!(directory.remove_unfinished(other).is_err(), "{other}");
        }
    }
}
