//! What writes that have not ended have in a directory backend: temporary files, and the directories of open uploads.
//!
//! A delete of their blob takes them, so they are looked for only where no row may name it any more (`sync`).

use super::listing::{Tree, join};
use super::paths::{self, ESCAPED_ROOT, OWN_DIRECTORY, PARTS_SUFFIX, TEMPORARY_PREFIX};
use crate::backend::port::Unfinished;
use std::io;

/// All of them, in no order.
pub fn all(tree: &impl Tree) -> io::Result<Vec<Unfinished>> {
    let mut found = Vec::new();
    for root in ["", ESCAPED_ROOT] {
        let mut directories = vec![root.to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in tree.entries(&directory)?.unwrap_or_default() {
                let path = join(&directory, &entry.name);
                if is_ours(&entry.name) {
                    let bytes = if entry.is_directory { size_of_parts(tree, &path)? } else { tree.file_size(&path)? };
                    found.extend(bytes.map(|bytes| Unfinished { path, bytes }));
                } else if entry.is_directory && is_on_the_way(&path, &entry.name) {
                    directories.push(path);
                }
            }
        }
    }
    Ok(found)
}

/// Whether a file or directory of this name is an unfinished write's: names of ours only, nothing else is anybody's to remove.
pub fn is_ours(file: &str) -> bool {
    let Some(hash) = file.strip_prefix(TEMPORARY_PREFIX) else { return false };
    let hash = hash.strip_suffix(PARTS_SUFFIX).unwrap_or(hash);
    hash.len() == paths::TEMPORARY_HEX_CHARS && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Not a blob of parts, and not our own directory.
fn is_on_the_way(path: &str, name: &str) -> bool {
    match path.strip_prefix(ESCAPED_ROOT) {
        Some(_) => paths::escaped_end(name).is_none(),
        None => path != OWN_DIRECTORY && !paths::is_multipart_leaf(name),
    }
}

/// None: gone meanwhile.
fn size_of_parts(tree: &impl Tree, path: &str) -> io::Result<Option<u64>> {
    let Some(entries) = tree.entries(path)? else { return Ok(None) };
    let mut bytes = 0;
    for part in entries.iter().filter(|entry| !entry.is_directory) {
        bytes += tree.file_size(&join(path, &part.name))?.unwrap_or(0);
    }
    Ok(Some(bytes))
}
