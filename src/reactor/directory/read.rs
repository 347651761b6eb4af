//! A blob being read: one file, or the parts that its manifest names.

use super::{Directory, corrupt, failure, open_beneath, size_of};
use crate::backend::directory::manifest::{self, Manifest};
use crate::backend::directory::{BlobPath, XATTR_NAME};
use crate::backend::port::{BlobHead, Span};
use crate::backend::travel::{Arrived, LABEL_BYTES_MAX, Label};
use crate::base::Failure;
use crate::base::failure::Kind;
use rustix::fs::{FileType, OFlags, fgetxattr, fstat};
use rustix::io::{Errno, pread, read};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A blob opened: what is under its name.
enum Opened {
    File { file: OwnedFd, size: u64 },
    Parts { holder: OwnedFd, manifest: Manifest },
}

/// A piece of one file, to be read whole.
pub struct Piece {
    file: OwnedFd,
    offset: u64,
    left: u64,
}

/// The rest of a span. Owned by whoever reads; moves to a disk thread for each call and back.
pub struct Reading {
    name: String,
    current: Option<Piece>,
    /// Of a multipart blob: its directory, and the pieces that are not open yet.
    parts: Option<(OwnedFd, VecDeque<manifest::Segment>)>,
    left: u64,
}

impl Directory {
    /// Opens a span (None: all) of a blob that must have exactly `size` bytes.
    pub fn reading(&self, name: &str, size: u64, span: Option<Span>) -> Result<Reading, Failure> {
        let opened = self.open_blob(name).map_err(|cause| failure("opening", name, cause))?;
        let found = opened.size();
        if found != size {
            return Err(corrupt(format!("{name} has {found} bytes and should have {size}")));
        }
        let span = span.unwrap_or(Span { from: 0, len: size });
        if span.from.checked_add(span.len).is_none_or(|end| end > size) {
            return Err(Failure::ourselves(format!("{span:?} of {size} bytes")));
        }
        let name = name.to_owned();
        let mut reading = match opened {
            Opened::File { file, .. } => {
                let piece = Piece { file, offset: span.from, left: span.len };
                Reading { name, current: Some(piece), parts: None, left: span.len }
            }
            Opened::Parts { holder, manifest } => {
                let segments = manifest.segments(span).unwrap_or_default();
                Reading { name, current: None, parts: Some((holder, segments.into())), left: span.len }
            }
        };
        // The first part is opened now: a blob that lacks it is no copy to read from.
        reading.piece()?;
        Ok(reading)
    }

    /// None: there is no such blob.
    pub fn head(&self, name: &str) -> Result<Option<BlobHead>, Failure> {
        match self.open_blob(name) {
            Ok(opened) => {
                let Arrived { key, record } = opened.label();
                Ok(Some(BlobHead {
                    size: opened.size(),
                    etag: String::new(),
                    record,
                    key,
                    assembled: matches!(opened, Opened::Parts { .. }),
                }))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(cause) => Err(failure("opening", name, cause)),
        }
    }

    fn open_blob(&self, name: &str) -> Result<Opened, Errno> {
        let at = BlobPath::of(name);
        let path = if at.parent.is_empty() { at.leaf.clone() } else { format!("{}/{}", at.parent, at.leaf) };
        let handle = open_beneath(self.root()?.as_fd(), &path, OFlags::RDONLY)?;
        let stat = fstat(&handle)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Opened::File { file: handle, size: size_of(&stat) }),
            FileType::Directory if at.may_be_multipart => {
                let manifest = read_manifest(handle.as_fd())?.ok_or(Errno::NOENT)?;
                Ok(Opened::Parts { holder: handle, manifest })
            }
            _ => Err(Errno::NOENT),
        }
    }
}

impl Opened {
    fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            Self::Parts { manifest, .. } => manifest.size(),
        }
    }

    /// What travelled with the blob; nothing where the file system keeps no attributes.
    fn label(&self) -> Arrived {
        let holder = match self {
            Self::File { file, .. } => file,
            Self::Parts { holder, .. } => holder,
        };
        let mut bytes = vec![0; LABEL_BYTES_MAX];
        let read = fgetxattr(holder, XATTR_NAME, &mut bytes[..]).ok();
        read.and_then(|len| Label::decode(&bytes[..len])).map(Label::arrived).unwrap_or_default()
    }
}

/// None: there is no manifest in this directory.
pub(super) fn read_manifest(holder: BorrowedFd<'_>) -> Result<Option<Manifest>, Errno> {
    let file = match open_beneath(holder, manifest::FILE, OFlags::RDONLY) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    let bytes = read_whole(file.as_fd(), manifest::BYTES_MAX)?;
    Manifest::decode(&bytes).map(Some).ok_or(Errno::BADMSG)
}

/// A small file, whole. `BADMSG` when it is longer than `max`.
pub(super) fn read_whole(file: BorrowedFd<'_>, max: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::with_capacity(size_of(&fstat(file)?).min(max as u64) as usize + 1);
    loop {
        if bytes.len() > max {
            return Err(Errno::BADMSG);
        }
        bytes.reserve(4096);
        match read(file, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => return Ok(bytes),
            Ok(_) | Err(Errno::INTR) => {}
            Err(cause) => return Err(cause),
        }
    }
}

impl Reading {
    /// Bytes that are still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The piece that the next bytes come from; None at the end.
    pub fn piece(&mut self) -> Result<Option<&Piece>, Failure> {
        while self.current.as_ref().is_none_or(|piece| piece.left == 0) {
            self.current = None;
            let Some((holder, segments)) = &mut self.parts else { return Ok(None) };
            let Some(segment) = segments.pop_front() else { return Ok(None) };
            let open = |file: &str| {
                let file = open_beneath(holder.as_fd(), file, OFlags::RDONLY)?;
                fstat(&file).map(|stat| (file, size_of(&stat)))
            };
            let (file, size) =
                open(&segment.file).map_err(|cause| match failure("opening a part of", &self.name, cause) {
                    // The blob is there, so what is missing is not "gone".
                    lost if lost.kind == Kind::NotFound => corrupt(lost.cause),
                    other => other,
                })?;
            if size != segment.file_size {
                let cause =
                    format!("{} of {} has {size} bytes and should have {}", segment.file, self.name, segment.file_size);
                return Err(corrupt(cause));
            }
            self.current = Some(Piece { file, offset: segment.offset, left: segment.len });
        }
        Ok(self.current.as_ref())
    }

    /// Fills `into` from the front with as much as one call gives; 0 only at the end.
    pub fn fill(&mut self, into: &mut [u8]) -> Result<usize, Failure> {
        let Some(piece) = self.piece()? else { return Ok(0) };
        let room = usize::try_from(piece.left).unwrap_or(usize::MAX).min(into.len());
        loop {
            match pread(&piece.file, &mut into[..room], piece.offset) {
                Ok(0) if room > 0 => return Err(self.too_short()),
                Ok(count) => {
                    self.advance(count as u64);
                    return Ok(count);
                }
                Err(Errno::INTR) => {}
                Err(cause) => return Err(failure("reading", &self.name, cause)),
            }
        }
    }

    /// `count` bytes of the current piece have been taken, by `fill` or another way (spliced from its file and offset).
    pub fn advance(&mut self, count: u64) {
        let piece = self.current.as_mut().expect("bytes come from a piece");
        assert!(count <= piece.left, "past the end of a piece");
        piece.offset += count;
        piece.left -= count;
        self.left -= count;
    }

    /// The file ended before its piece did.
    pub fn too_short(&self) -> Failure {
        corrupt(format!("{} ended {} bytes short", self.name, self.left))
    }
}

impl Piece {
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn left(&self) -> u64 {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn read_all(directory: &Directory, name: &str, size: u64, span: Option<(u64, u64)>) -> Result<Vec<u8>, Kind> {
        let span = span.map(|(from, len)| Span { from, len });
        let mut reading = directory.reading(name, size, span).map_err(|failure| failure.kind)?;
        let mut bytes = Vec::new();
        let mut piece = [0; 3];
        loop {
            match reading.fill(&mut piece).map_err(|failure| failure.kind)? {
                0 => break,
                count => bytes.extend_from_slice(&piece[..count]),
            }
        }
        assert_eq!(reading.left(), 0);
        Ok(bytes)
    }

    #[test]
    fn spans_of_a_file() {
        let (place, directory) = directory();
        put(&directory, "bkt/a", b"0123456789").expect("stored");
        put(&directory, "bkt/empty", b"").expect("stored");
        assert_eq!(read_all(&directory, "bkt/a", 10, None), Ok(b"0123456789".to_vec()));
        assert_eq!(read_all(&directory, "bkt/a", 10, Some((3, 4))), Ok(b"3456".to_vec()));
        assert_eq!(read_all(&directory, "bkt/a", 10, Some((9, 1))), Ok(b"9".to_vec()));
        assert_eq!(read_all(&directory, "bkt/empty", 0, None), Ok(Vec::new()));
        assert_eq!(read_all(&directory, "bkt/a", 11, None), Err(Kind::Corrupt), "not the size that is recorded");
        assert_eq!(read_all(&directory, "bkt/b", 10, None), Err(Kind::NotFound));
        assert_eq!(read_all(&directory, "bkt", 10, None), Err(Kind::NotFound), "a directory of others");
        assert_eq!(directory.head("bkt/a").expect("asked").map(|head| head.size), Some(10));
        assert_eq!(directory.head("bkt").expect("asked"), None);

        let mut reading = directory.reading("bkt/a", 10, None).expect("opened");
        std::fs::OpenOptions::new()
            .write(true)
            .open(place.path().join("bkt/a"))
            .expect("open")
            .set_len(4)
            .expect("cut");
        let mut bytes = [0; 10];
        assert_eq!(reading.fill(&mut bytes).expect("readable"), 4);
        assert_eq!(reading.fill(&mut bytes).map_err(|failure| failure.kind), Err(Kind::Corrupt));
    }
}
