//! Looking into a directory backend: its marker, and its listing.

use super::files::write_file;
use super::read::{read_manifest, read_whole};
use super::{DIRECTORY_MODE, Directory, failure, open_beneath, size_of};
use crate::backend::directory::listing::{self, Entry, Folder, Tree};
use crate::backend::directory::paths::OWN_DIRECTORY;
use crate::backend::directory::unfinished;
use crate::backend::marker;
use crate::backend::port::{BlobPage, Unfinished};
use crate::base::{Failure, Tick};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, fsync, mkdirat, open, statat};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

/// What was found at the backend's path.
pub struct Seen {
    /// To be adopted if the marker is ours.
    pub root: OwnedFd,
    /// What the marker holds; None: there is none.
    pub marker: Option<Vec<u8>>,
}

/// Where the listing that goes through this directory page by page stands.
#[derive(Default)]
pub(super) struct Walks {
    /// Of walks that were begun. What was read before the last one began is nothing for it.
    begun: u64,
    /// And when it was last of use.
    folder: Option<(Folder, Tick)>,
}

/// Whoever goes through a listing asks for the next page sooner, or begins to read the folder anew.
const FOLDER_IDLE_MAX: Duration = Duration::from_secs(120);

impl Walks {
    /// For the next page; `is_first` of a walk.
    fn enter(&mut self, is_first: bool) -> (u64, Option<Folder>) {
        if is_first {
            self.begin();
        }
        (self.begun, self.folder.take().map(|(folder, _)| folder))
    }

    fn begin(&mut self) {
        self.begun += 1;
        self.folder = None;
    }

    fn leave(&mut self, begun: u64, folder: Option<Folder>, now: Tick) {
        if self.begun == begun {
            self.folder = folder.map(|folder| (folder, now));
        }
    }

    fn forget_idle(&mut self, now: Tick) {
        self.folder.take_if(|(_, used)| now.since(*used) > FOLDER_IDLE_MAX);
    }
}

impl Directory {
    /// Opens the path anew and reads the marker. The backend goes on using the handle that it has.
    pub fn look(&self) -> Result<Seen, Failure> {
        // Nothing is known of any blob: not the same as "gone".
        let absent = || Failure::backend(format!("{} does not exist", self.path().display()));
        self.look_for()?.ok_or_else(absent)
    }

    /// As `look`; None when the path does not exist.
    pub fn look_for(&self) -> Result<Option<Seen>, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = match open(self.path(), flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.map_err(|cause| failure("opening", &self.path().to_string_lossy(), cause))?,
        };
        let marker = match open_beneath(root.as_fd(), marker::NAME, OFlags::RDONLY) {
            Ok(file) => Some(read_whole(file.as_fd(), marker::BYTES_MAX)),
            Err(Errno::NOENT) => None,
            Err(cause) => Some(Err(cause)),
        };
        let marker = marker.transpose().map_err(|cause| failure("reading", marker::NAME, cause))?;
        Ok(Some(Seen { root, marker }))
    }

    /// Makes the directory itself; for a backend that no row names yet.
    pub fn make(&self) -> Result<(), Failure> {
        std::fs::create_dir_all(self.path()).map_err(|cause| {
            let cause = Errno::from_io_error(&cause).unwrap_or(Errno::IO);
            failure("making", &self.path().to_string_lossy(), cause)
        })
    }

    /// From `now` on everything is done in this directory. A listing goes on in it if it is the one that there was; what one has
    /// read that nobody goes on with is forgotten.
    pub fn adopt(&self, root: OwnedFd, now: Tick) {
        self.known().clear();
        if self.root().is_ok_and(|known| is_same(&known, &root)) {
            self.walks().forget_idle(now);
        } else {
            self.walks().begin();
        }
        *self.root.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(root));
    }

    pub fn write_marker(&self, root: &OwnedFd, bytes: &[u8]) -> Result<(), Failure> {
        let (_, file) = marker::NAME.split_once('/').expect("the marker is in our own directory");
        // Another instance may be doing the same: each has a file of its own.
        let mut roll = [0; 8];
        let rolled = getrandom(&mut roll, GetRandomFlags::empty());
        rolled.map_err(|cause| failure("naming a file for", marker::NAME, cause))?;
        let temporary = format!("{file}.{:016x}.new", u64::from_ne_bytes(roll));
        let written = match mkdirat(root, OWN_DIRECTORY, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EXIST) => open_beneath(root.as_fd(), OWN_DIRECTORY, OFlags::RDONLY | OFlags::DIRECTORY),
            Err(cause) => Err(cause),
        };
        let written =
            written.and_then(|own| write_file(own.as_fd(), &temporary, file, bytes)).and_then(|()| fsync(root));
        written.map_err(|cause| failure("writing", marker::NAME, cause))
    }

    /// One page of at most `max` blobs, asked for `now`.
    pub fn list(&self, prefix: &str, after: &str, max: usize, now: Tick) -> Result<BlobPage, Failure> {
        let (begun, mut folder) = self.walks().enter(after.is_empty());
        let page = listing::page(self, &mut folder, prefix, after, max).map_err(|cause| {
            let cause = Errno::from_io_error(&cause).unwrap_or(Errno::IO);
            failure("listing", prefix, cause)
        })?;
        self.walks().leave(begun, folder.filter(|_| page.next.is_some()), now);
        Ok(page)
    }

    fn walks(&self) -> MutexGuard<'_, Walks> {
        self.walks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory {
    /// Temporary files and open uploads, of all blobs.
    pub fn unfinished(&self) -> Result<Vec<Unfinished>, Failure> {
        unfinished::all(self).map_err(|cause| {
            let cause = Errno::from_io_error(&cause).unwrap_or(Errno::IO);
            failure("listing", "unfinished writes", cause)
        })
    }
}

fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    let place = |root: &OwnedFd| fstat(root).map(|stat| (stat.st_dev, stat.st_ino)).ok();
    place(one).is_some_and(|one| place(other) == Some(one))
}

impl Tree for Directory {
    fn entries(&self, path: &str) -> io::Result<Option<Vec<Entry>>> {
        let directory = match self.open_directory(path) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            opened => opened?,
        };
        let mut entries = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            // A name that is not text is none that a row could hold.
            let Ok(name) = entry.file_name().to_str() else { continue };
            let kind = match entry.file_type() {
                FileType::Unknown => match statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(_) => continue,
                },
                kind => kind,
            };
            let is_directory = kind == FileType::Directory;
            if !matches!(name, "." | "..") && (is_directory || kind == FileType::RegularFile) {
                entries.push(Entry { name: name.to_owned(), is_directory });
            }
        }
        Ok(Some(entries))
    }

    fn file_size(&self, path: &str) -> io::Result<Option<u64>> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let stat = self.open_directory(parent).and_then(|parent| statat(parent, name, AtFlags::SYMLINK_NOFOLLOW));
        match stat {
            Err(Errno::NOENT) => Ok(None),
            stat => Ok(Some(size_of(&stat?))),
        }
    }

    fn multipart_size(&self, path: &str) -> io::Result<Option<u64>> {
        match self.open_directory(path).and_then(|directory| read_manifest(directory.as_fd())) {
            Err(Errno::NOENT) => Ok(None),
            manifest => Ok(manifest?.map(|manifest| manifest.size())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::base::{Nonce, Version, blob_name};

    const NOW: Tick = Tick { nanos: 5_000_000_000 };

    #[test]
    fn the_marker_is_read_from_the_path_and_not_from_the_handle() {
        let (place, directory) = directory();
        assert_eq!(directory.look().expect("open").marker, None);
        directory.write_marker(&directory.look().expect("open").root, b"one").expect("written");
        assert_eq!(directory.look().expect("open").marker.as_deref(), Some(&b"one"[..]));
        put(&directory, "bkt/a", b"1").expect("stored");

        // Something else is mounted over it.
        let aside = place.path().with_extension("aside");
        std::fs::rename(place.path(), &aside).expect("moved");
        std::fs::create_dir(place.path()).expect("made");
        assert_eq!(directory.look().expect("open").marker, None);
        put(&directory, "bkt/b", b"2").expect("stored");
        assert!(aside.join("bkt/b").exists(), "writes go where the marker was seen");
        std::fs::remove_dir_all(place.path()).expect("removed");
        assert!(directory.look().is_err_and(|failure| failure.kind != crate::base::failure::Kind::NotFound));
        std::fs::rename(&aside, place.path()).expect("moved back");
    }

    #[test]
    fn listings_show_blobs_and_nothing_else() {
        let (place, directory) = directory();
        let mint = |key: &str| {
            let literal = blob_name::can_be_literal("bkt", key, 1024);
            blob_name::mint("bkt", key, literal, Version::from_parts(1, 1), Nonce::from_roll(7))
        };
        let long = format!("bkt/{}", "k".repeat(300));
        let names = [mint("a"), mint("a/b"), mint("x//y"), long, "bkt/../imported".to_owned()];
        for (len, name) in names.iter().enumerate() {
            put(&directory, name, &vec![0; len]).expect("stored");
        }
        drop(directory.create("bkt/half", 1, &crate::backend::travel::Label::default()).expect("created"));
        directory.write_marker(&directory.look().expect("open").root, b"x").expect("written");
        std::os::unix::fs::symlink("a", place.path().join("bkt/link")).expect("a link");
        let mut want: Vec<(String, u64)> = names.iter().cloned().zip(0..).collect();
        want.sort();
        assert_eq!(directory.list("", "", 100, NOW).expect("listed").blobs, want);
        let page = directory.list("bkt/", &want[0].0, 2, NOW).expect("listed");
        assert_eq!((page.blobs, page.next), (want[1..3].to_vec(), Some(want[2].0.clone())));
        assert_eq!(directory.list("nothing", "", 2, NOW).expect("listed"), BlobPage::default());
    }

    #[test]
    fn a_walk_sees_what_was_there_when_it_began() {
        let (_place, directory) = directory();
        let list = |after: &str| {
            let page = directory.list("", after, 2, NOW).expect("listed");
            page.blobs.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        for name in ["a", "b", "d", "e", "f"] {
            put(&directory, name, b"1").expect("stored");
        }
        assert_eq!(list(""), ["a", "b"]);
        put(&directory, "c", b"1").expect("stored");
        directory.delete("e").expect("deleted");
        assert_eq!(list("b"), ["d", "f"], "what is gone is not told, what came while it is walked may be passed over");
        assert_eq!(
            (list(""), list("b"), list("d")),
            (vec!["a".into(), "b".into()], vec!["c".into(), "d".into()], vec!["f".into()])
        );
    }

    /// It is looked after all the while, each time by a handle of its own.
    #[test]
    fn a_listing_goes_on_while_its_directory_is_looked_at_and_is_forgotten_when_nobody_does() {
        let (place, directory) = directory();
        for name in ["a", "b", "d", "e", "f"] {
            put(&directory, name, b"1").expect("stored");
        }
        let page = |after: &str, now: Tick| directory.list("", after, 2, now).expect("listed").blobs;
        let look = |now: Tick| directory.adopt(directory.look().expect("open").root, now);
        let keeps = || directory.walks().folder.is_some();
        let later = NOW.after(FOLDER_IDLE_MAX);
        page("", NOW);
        look(later);
        assert!(keeps(), "it may go on");
        page("b", later);
        look(later.after(FOLDER_IDLE_MAX));
        assert!(keeps(), "it went on");
        look(later.after(FOLDER_IDLE_MAX + Duration::from_millis(1)));
        assert!(!keeps());
        assert_eq!(page("d", later), [("e".to_owned(), 1), ("f".to_owned(), 1)], "and it may go on all the same");

        page("", later);
        std::fs::rename(place.path(), place.path().with_extension("aside")).expect("moved");
        std::fs::create_dir(place.path()).expect("made");
        look(later);
        assert!(!keeps(), "another directory");
        std::fs::remove_dir(place.path()).expect("it is empty");
        std::fs::rename(place.path().with_extension("aside"), place.path()).expect("moved back");
    }
}
