//! A directory backend's file system calls, in the order that makes them safe (`backend/directory`). Plain blocking
//! functions: they run on disk threads and never on a reactor, whatever its driver.
//!
//! Everything is done relative to a handle on the directory, which was opened when its marker was seen: what is mounted
//! over it later, or no longer, cannot be taken for it. Symbolic links are not followed, so nothing outside is reached.

mod completing;
mod copy;
mod files;
mod multipart;
mod read;
mod remove;
mod tree;
mod write;

use completing::Completing;
pub use read::{Piece, Reading};
use tree::Walks;
pub use write::Writing;

use crate::base::failure::Kind;
use crate::base::{Blame, Failure, Retry};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, fsync, mkdirat, openat, openat2, statat, unlinkat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Directories remembered as durable. Forgetting one costs an fsync.
const KNOWN_MAX: usize = 64 * 1024;
/// How often a parent that vanishes between two calls (a delete made it empty) is made again.
const REMAKES_MAX: usize = 32;

const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o750);
const FILE_MODE: Mode = Mode::from_raw_mode(0o640);

/// One directory backend, shared by all disk threads.
pub struct Directory {
    path: PathBuf,
    /// None until its marker was seen.
    root: RwLock<Option<Arc<OwnedFd>>>,
    /// Directories below the root that survive a power cut, with everything above them. Directories are made and removed
    /// under this lock, so that what is in it is what was synced.
    known: Mutex<HashSet<String>>,
    walks: Mutex<Walks>,
    completing: Completing,
}

impl Directory {
    /// Opens nothing yet.
    pub fn new(path: impl Into<PathBuf>) -> Arc<Self> {
        Arc::new(Self {
            path: path.into(),
            root: RwLock::default(),
            known: Mutex::default(),
            walks: Mutex::default(),
            completing: Completing::default(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn root(&self) -> Result<Arc<OwnedFd>, Errno> {
        let root = self.root.read().unwrap_or_else(PoisonError::into_inner);
        root.clone().ok_or(Errno::NODEV)
    }

    fn known(&self) -> MutexGuard<'_, HashSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A directory below the root; an empty path is the root itself.
    fn open_directory(&self, path: &str) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { "." } else { path };
        open_beneath(self.root()?.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// As `open_directory`, making what is missing.
    fn open_or_make(&self, path: &str) -> Result<OwnedFd, Errno> {
        for _ in 0..REMAKES_MAX {
            match self.open_directory(path) {
                Err(Errno::NOENT) => self.make_all(path)?,
                done => return done,
            }
        }
        Err(Errno::NOENT)
    }

    fn make_all(&self, path: &str) -> Result<(), Errno> {
        let mut known = self.known();
        let root = self.root()?;
        let mut holder = root.try_clone().map_err(|_| Errno::MFILE)?;
        for prefix in prefixes(path) {
            let segment = prefix.rsplit('/').next().unwrap_or(prefix);
            match mkdirat(&holder, segment, DIRECTORY_MODE) {
                Ok(()) => {
                    known.remove(prefix);
                }
                Err(Errno::EXIST) => {}
                Err(cause) => return Err(cause),
            }
            holder = open_beneath(holder.as_fd(), segment, OFlags::RDONLY | OFlags::DIRECTORY)?;
        }
        Ok(())
    }

    /// Syncs every directory above `path` that is not known to be durable. `handle` is what was opened as `path`; its own
    /// entries are the caller's to sync, before this.
    fn make_durable(&self, path: &str, handle: BorrowedFd<'_>) -> Result<(), Errno> {
        if path.is_empty() || self.known().contains(path) {
            return Ok(());
        }
        let mut unknown = Vec::new();
        for prefix in prefixes(path).collect::<Vec<_>>().into_iter().rev() {
            if self.known().contains(prefix) {
                break;
            }
            fsync(self.open_directory(parent_of(prefix))?)?;
            unknown.push(prefix.to_owned());
        }
        let mut known = self.known();
        // What was removed and made again meanwhile was not synced by us.
        if self.open_directory(path).is_ok_and(|now| is_same(now.as_fd(), handle)) {
            if known.len() + unknown.len() > KNOWN_MAX {
                known.clear();
            }
            known.extend(unknown);
        }
        Ok(())
    }

    /// Removes empty directories from `path` upwards, and makes durable what was removed in and below the lowest one left.
    fn prune(&self, path: &str) -> Result<(), Errno> {
        let mut left = path;
        while !left.is_empty() && !left.starts_with(crate::backend::directory::paths::OWN_DIRECTORY) {
            let mut known = self.known();
            let removed = self
                .open_directory(parent_of(left))
                .and_then(|holder| unlinkat(holder, left.rsplit('/').next().unwrap_or(left), AtFlags::REMOVEDIR));
            match removed {
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {
                    known.remove(left);
                    left = parent_of(left);
                }
                Err(_) => break,
            }
        }
        loop {
            match self.open_directory(left) {
                Ok(directory) => return fsync(directory),
                // Emptied and removed by someone else just now, or never there.
                Err(Errno::NOENT | Errno::NOTDIR) if !left.is_empty() => left = parent_of(left),
                Err(cause) => return Err(cause),
            }
        }
    }
}

/// Opens without leaving the directory that `at` is, by `..` or by a link. Kernels before 5.6 and some sandboxes have no
/// openat2: there the path is walked.
fn open_beneath(at: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    loop {
        match openat2(at, path, flags, Mode::empty(), resolve) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(Errno::NOSYS | Errno::PERM) => return open_walking(at, path, flags),
            done => return done,
        }
    }
}

fn open_walking(at: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let (way, last) = path.rsplit_once('/').unwrap_or(("", path));
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut holder: Option<OwnedFd> = None;
    for segment in way.split('/').filter(|segment| !segment.is_empty()) {
        if segment == ".." {
            return Err(Errno::XDEV);
        }
        holder = Some(openat(holder.as_ref().map_or(at, AsFd::as_fd), segment, step, Mode::empty())?);
    }
    if last == ".." {
        return Err(Errno::XDEV);
    }
    openat(holder.as_ref().map_or(at, AsFd::as_fd), last, flags, Mode::empty())
}

/// `a`, `a/b`, `a/b/c`.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.filter(|&end| end > 0).map(|end| &path[..end])
}

fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Whether two handles are of one file.
fn is_same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    match (rustix::fs::fstat(a), rustix::fs::fstat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}

/// Whether `name` in `holder` is still the file that `handle` is.
fn is_still(holder: BorrowedFd<'_>, name: &str, handle: BorrowedFd<'_>) -> bool {
    match (statat(holder, name, AtFlags::SYMLINK_NOFOLLOW), rustix::fs::fstat(handle)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}

fn size_of(stat: &rustix::fs::Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// What a failed call means for whoever asked.
pub fn failure(doing: &str, name: &str, cause: Errno) -> Failure {
    let text = format!("{doing} {name}: {cause}");
    let kind = match cause {
        Errno::NOENT => Kind::NotFound,
        Errno::NOSPC | Errno::DQUOT => Kind::NoSpace,
        Errno::NAMETOOLONG | Errno::NOTDIR | Errno::ISDIR | Errno::EXIST | Errno::LOOP | Errno::FBIG => Kind::Refused,
        Errno::NODEV => return Failure::backend(format!("{text} (the directory's marker has not been seen)")),
        Errno::MFILE | Errno::NFILE => return Failure::overloaded(text),
        _ => Kind::Unavailable,
    };
    Failure::new(kind, Blame::Backend, Retry::OtherBackend, text)
}

/// Bytes that are not what the database says of them.
fn corrupt(cause: String) -> Failure {
    Failure::new(Kind::Corrupt, Blame::Backend, Retry::OtherBackend, cause)
}

#[cfg(test)]
mod testing {
    use super::*;
    use crate::backend::directory::BlobPath;
    use crate::backend::port::Stored;
    use crate::backend::travel::Label;
    use tempfile::TempDir;

    /// A directory in use, as its marker's check leaves it.
    pub(super) fn directory() -> (TempDir, Arc<Directory>) {
        let place = tempfile::tempdir().expect("a temporary directory");
        let directory = Directory::new(place.path());
        let seen = directory.look().expect("it can be opened");
        directory.adopt(seen.root, crate::base::Tick::default());
        (place, directory)
    }

    pub(super) fn put(directory: &Arc<Directory>, name: &str, bytes: &[u8]) -> Result<Stored, Failure> {
        let mut writing = directory.create(name, bytes.len() as u64, &Label::default())?;
        writing.append(bytes)?;
        writing.commit()
    }

    /// Every file below a directory, by its path; directories with nothing in them end in `/`.
    pub(super) fn files(place: &TempDir) -> Vec<String> {
        fn walk(at: &Path, top: &Path, found: &mut Vec<String>) {
            let mut is_empty = true;
            for entry in std::fs::read_dir(at).expect("readable") {
                is_empty = false;
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    walk(&path, top, found);
                } else {
                    found.push(path.strip_prefix(top).expect("below").to_string_lossy().into_owned());
                }
            }
            if is_empty && at != top {
                found.push(format!("{}/", at.strip_prefix(top).expect("below").to_string_lossy()));
            }
        }
        let mut found = Vec::new();
        walk(place.path(), place.path(), &mut found);
        found.sort();
        found
    }

    pub(super) fn temporary(name: &str) -> String {
        let at = BlobPath::of(name);
        if at.parent.is_empty() { at.temporary } else { format!("{}/{}", at.parent, at.temporary) }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;

    #[test]
    fn nothing_is_reached_through_a_link() {
        let (place, directory) = directory();
        let outside = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(outside.path().join("secret"), b"x").expect("written");
        std::os::unix::fs::symlink(outside.path(), place.path().join("link")).expect("a link");
        assert_eq!(directory.reading("link/secret", 1, None).map(|_| ()).map_err(|f| f.kind), Err(Kind::Refused));
        assert!(put(&directory, "link/new", b"x").is_err());
        assert_eq!(directory.head("link/secret").map_err(|f| f.kind), Err(Kind::Refused));
        let _ = directory.delete("link/secret");
        assert_eq!(std::fs::read_dir(outside.path()).expect("readable").count(), 1, "nothing came, nothing went");
        let at = directory.root().expect("open");
        for path in ["..", "../x", "a/../..", "link/secret", "link"] {
            assert!(open_walking(at.as_fd(), path, OFlags::RDONLY | OFlags::NOFOLLOW).is_err(), "{path}");
        }
        std::fs::create_dir_all(place.path().join("a/b")).expect("made");
        std::fs::write(place.path().join("a/b/c"), b"x").expect("written");
        assert!(open_walking(at.as_fd(), "a/b/c", OFlags::RDONLY).is_ok());
    }

    #[test]
    fn a_directory_whose_marker_was_not_seen_is_not_used() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let directory = Directory::new(place.path());
        assert_eq!(put(&directory, "a", b"x").map_err(|f| f.kind), Err(Kind::Unavailable));
        assert_eq!(directory.delete("a").map_err(|f| f.kind), Err(Kind::Unavailable));
        assert_eq!(directory.head("a").map_err(|f| f.kind), Err(Kind::Unavailable));
        assert_eq!(files(&place), Vec::<String>::new());
    }

    #[test]
    fn two_instances_that_claim_a_new_directory_do_not_fail_each_other() {
        let (place, directory) = directory();
        let root = directory.root().expect("open");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (directory, root) = (&directory, &root);
                scope.spawn(move || {
                    for _ in 0..50 {
                        directory.write_marker(root, b"ours").unwrap_or_else(|failure| panic!("{failure}"));
                        assert_eq!(directory.look().expect("there").marker.as_deref(), Some(&b"ours"[..]));
                    }
                });
            }
        });
        assert_eq!(files(&place), [".s3o/id"]);
    }

    #[test]
    fn writers_and_deletes_of_one_parent_do_not_fail_each_other() {
        let (place, directory) = directory();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let directory = &directory;
                scope.spawn(move || {
                    for round in 0..200 {
                        let name = format!("bkt/a/b/c/{thread}-{round}");
                        put(directory, &name, b"bytes").unwrap_or_else(|failure| panic!("{failure}"));
                        directory.delete(&name).unwrap_or_else(|failure| panic!("{failure}"));
                    }
                });
            }
        });
        assert_eq!(files(&place), Vec::<String>::new());
        assert!(directory.known().is_empty(), "nothing is remembered that is gone");
    }

    #[test]
    fn parents_are_synced_once() {
        let (_place, directory) = directory();
        put(&directory, "bkt/a/x", b"1").expect("stored");
        assert_eq!(*directory.known(), HashSet::from(["bkt".to_owned(), "bkt/a".to_owned()]));
        put(&directory, "bkt/a/y", b"1").expect("stored");
        directory.delete("bkt/a/x").expect("deleted");
        assert!(directory.known().contains("bkt/a"));
        directory.delete("bkt/a/y").expect("deleted");
        assert!(directory.known().is_empty());
    }
}
