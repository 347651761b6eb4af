//! Two calls on a directory that several others need: a small file written whole, and the names within.

use super::FILE_MODE;
use rustix::fs::{Dir, OFlags, fsync, openat, renameat};
use rustix::io::{Errno, write};
use std::os::fd::BorrowedFd;

/// Writes a small file whole, durable under its final name.
pub(super) fn write_file(holder: BorrowedFd<'_>, temporary: &str, name: &str, mut bytes: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(holder, temporary, flags, FILE_MODE)?;
    while !bytes.is_empty() {
        match write(&file, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(cause) => return Err(cause),
        }
    }
    fsync(&file)?;
    renameat(holder, temporary, holder, name)?;
    fsync(holder)
}

/// The names in a directory, without `.` and `..`.
pub(super) fn names_in(directory: BorrowedFd<'_>) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !matches!(name.as_str(), "." | "..") {
            names.push(name);
        }
    }
    Ok(names)
}
