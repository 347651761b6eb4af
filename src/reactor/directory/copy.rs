//! A blob or part out of another of the same directory: copied in the kernel, which shares the bytes where the file system
//! can (reflinks), and by reading and writing where it cannot.

use super::{Reading, Writing};
use crate::backend::port::Stored;
use crate::base::Failure;
use rustix::fs::copy_file_range;
use rustix::io::Errno;

/// Bytes of one call, so that syncs come in between.
const STEP_BYTES: u64 = 32 * 1024 * 1024;
/// Of the way through memory.
const BUFFER_BYTES: usize = 256 * 1024;

impl Writing {
    /// Writes all that is left of `reading` and commits. Nothing stays of a copy that fails.
    pub fn fill_from(mut self, mut reading: Reading) -> Result<Stored, Failure> {
        match self.copy_all(&mut reading) {
            Ok(()) => self.commit(),
            Err(failure) => {
                self.abandon();
                Err(failure)
            }
        }
    }

    fn copy_all(&mut self, reading: &mut Reading) -> Result<(), Failure> {
        while let Some(piece) = reading.piece()? {
            let count = usize::try_from(piece.left().min(STEP_BYTES)).unwrap_or(usize::MAX);
            let (mut from, mut to) = (piece.offset(), self.written());
            match copy_file_range(piece.file(), Some(&mut from), self.file(), Some(&mut to), count) {
                Ok(0) => return Err(reading.too_short()),
                Ok(copied) => {
                    reading.advance(copied as u64);
                    self.note_written(copied as u64)?;
                }
                Err(Errno::INTR) => {}
                // Another file system, one that cannot, an old kernel; a full disk says so again to a write.
                Err(_) => return self.copy_through(reading),
            }
        }
        Ok(())
    }

    fn copy_through(&mut self, reading: &mut Reading) -> Result<(), Failure> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match reading.fill(&mut buffer)? {
                0 => return Ok(()),
                count => self.append(&buffer[..count])?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::backend::port::Span;
    use crate::backend::travel::Label;
    use crate::base::failure::Kind;

    #[test]
    fn a_copy_has_the_bytes_and_leaves_its_source_alone() {
        let (place, directory) = directory();
        let body: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
        put(&directory, "bkt/a", &body).expect("stored");
        for (name, span) in [("bkt/whole", None), ("bkt/part", Some(Span { from: 777, len: 500_000 }))] {
            let reading = directory.reading("bkt/a", body.len() as u64, span).expect("readable");
            let writing = directory.create(name, reading.left(), &Label::default()).expect("created");
            assert_eq!(writing.fill_from(reading).expect("copied"), Stored::default());
            let want = span.map_or(&body[..], |span| &body[span.from as usize..(span.from + span.len) as usize]);
            assert_eq!(std::fs::read(place.path().join(name)).expect("readable"), want);
        }
        assert_eq!(std::fs::read(place.path().join("bkt/a")).expect("readable"), body);
        assert_eq!(files(&place), ["bkt/a", "bkt/part", "bkt/whole"]);
    }

    #[test]
    fn both_ways_copy_the_same() {
        let (place, directory) = directory();
        put(&directory, "bkt/a", b"0123456789").expect("stored");
        let mut reading = directory.reading("bkt/a", 10, None).expect("readable");
        let mut writing = directory.create("bkt/b", 10, &Label::default()).expect("created");
        writing.copy_through(&mut reading).expect("copied");
        writing.commit().expect("stored");
        assert_eq!(std::fs::read(place.path().join("bkt/b")).expect("readable"), b"0123456789");
    }

    #[test]
    fn a_source_that_is_too_short_leaves_nothing() {
        let (place, directory) = directory();
        put(&directory, "bkt/a", b"0123456789").expect("stored");
        let reading = directory.reading("bkt/a", 10, None).expect("readable");
        std::fs::write(place.path().join("bkt/a"), b"01234").expect("cut short");
        let writing = directory.create("bkt/b", 10, &Label::default()).expect("created");
        assert_eq!(writing.fill_from(reading).map_err(|failure| failure.kind), Err(Kind::Corrupt));
        assert_eq!(files(&place), ["bkt/a"]);
    }
}
