//! One page of a directory backend's blobs, in the byte order of their names.
//!
//! Walks a `Tree` that the caller provides (the file system on a disk thread; a map in tests); touches no file itself.
//! Two trees hold names: the plain one, where a path is a name, and `.s3o/n`, where a path is a name in hex
//! (`paths.rs`). Both are walked in order and merged.

use super::paths;
use crate::backend::port::BlobPage;
use std::io;

/// What a directory holds, as far as a listing must know it. Other kinds of files are not blobs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub name: String,
    pub is_directory: bool,
}

/// Reading access to the backend's directory. Paths are relative to it, empty for itself. None: not there (any more).
pub trait Tree {
    fn entries(&self, path: &str) -> io::Result<Option<Vec<Entry>>>;
    fn file_size(&self, path: &str) -> io::Result<Option<u64>>;
    /// The size of the completed multipart blob in this directory.
    fn multipart_size(&self, path: &str) -> io::Result<Option<u64>>;
}

/// A folder that was read, its entries in the order of a listing.
#[derive(Debug)]
pub struct Folder {
    path: String,
    entries: Vec<Entry>,
}

/// Entries of a folder that is kept for the next page: about 50 MB.
const KEPT_MAX: usize = 512 * 1024;

/// At most `max` blobs whose names start with `prefix` and come after `after`. `kept`: where the former page of the walk
/// ended, and then where this one does. Reading and sorting a large folder costs far more than a page of it, so it is done
/// once for all its pages; what appears there meanwhile is passed over. None, where a walk begins.
pub fn page(
    tree: &impl Tree,
    kept: &mut Option<Folder>,
    prefix: &str,
    after: &str,
    max: usize,
) -> io::Result<BlobPage> {
    assert!(max > 0, "a page of nothing would never end");
    // One more than asked tells whether the page is the last.
    let wanted = max + 1;
    let mut plain =
        Walk { tree, kept, root: "", prefix: prefix.to_owned(), after: after.to_owned(), wanted, found: Vec::new() };
    plain.directory("")?;
    let mut blobs = plain.found;
    let (hex_prefix, hex_after) = (paths::to_hex(prefix), paths::to_hex(after));
    let root = paths::ESCAPED_ROOT;
    let mut escaped = Walk { tree, kept, root, prefix: hex_prefix, after: hex_after, wanted, found: Vec::new() };
    escaped.directory("")?;

    blobs.append(&mut escaped.found);
    blobs.sort();
    let more = blobs.len() > max;
    blobs.truncate(max);
    let next = blobs.last().filter(|_| more).map(|(name, _)| name.clone());
    Ok(BlobPage { blobs, next })
}

/// A walk through one of the two trees. `prefix` and `after` are in the tree's own spelling (hex, or plain).
struct Walk<'a, T> {
    tree: &'a T,
    kept: &'a mut Option<Folder>,
    root: &'static str,
    prefix: String,
    after: String,
    wanted: usize,
    found: Vec<(String, u64)>,
}

impl<T: Tree> Walk<'_, T> {
    fn is_escaped(&self) -> bool {
        !self.root.is_empty()
    }

    /// `under`: the path below the root.
    fn directory(&mut self, under: &str) -> io::Result<()> {
        let Some(folder) = self.folder(join(self.root, under))? else { return Ok(()) };
        for entry in &folder.entries[self.passed(under, &folder)..] {
            if self.found.len() >= self.wanted {
                break;
            }
            let path = join(under, &entry.name);
            if self.is_leaf(entry) {
                self.leaf(&path, entry)?;
            } else if entry.is_directory && self.may_hold(&path) {
                self.directory(&path)?;
            }
        }
        // The next page begins in it, and in those above it: the largest is worth most.
        let kept = self.kept.as_ref().map_or(0, |kept| kept.entries.len());
        if self.found.len() >= self.wanted && (kept + 1..=KEPT_MAX).contains(&folder.entries.len()) {
            *self.kept = Some(folder);
        }
        Ok(())
    }

    fn folder(&mut self, path: String) -> io::Result<Option<Folder>> {
        if let Some(kept) = self.kept.take_if(|kept| kept.path == path) {
            return Ok(Some(kept));
        }
        let Some(mut entries) = self.tree.entries(&path)? else { return Ok(None) };
        entries.sort_by_cached_key(|entry| self.order(entry));
        Ok(Some(Folder { path, entries }))
    }

    /// A directory's names all continue with `/`, so that is how it compares with a file beside it.
    fn order(&self, entry: &Entry) -> String {
        let is_walked = entry.is_directory && !self.is_leaf(entry);
        format!("{}{}", entry.name, if is_walked { "/" } else { "" })
    }

    /// How many entries at its beginning are known to lie before the page.
    fn passed(&self, under: &str, folder: &Folder) -> usize {
        let after = match under {
            _ if self.is_escaped() => None,
            "" => Some(self.after.as_str()),
            _ => self.after.strip_prefix(under).and_then(|rest| rest.strip_prefix('/')),
        };
        let Some(after) = after else { return 0 };
        folder.entries.partition_point(|entry| {
            let order = self.order(entry);
            // The page may begin within a directory.
            *order <= *after && !(order.ends_with('/') && after.starts_with(&order))
        })
    }

    /// Whether an entry is a blob, rather than a directory on the way to blobs.
    fn is_leaf(&self, entry: &Entry) -> bool {
        if self.is_escaped() {
            paths::escaped_end(&entry.name).is_some()
        } else {
            !entry.is_directory || paths::is_multipart_leaf(&entry.name)
        }
    }

    /// Whether names below this directory can be on the page.
    fn may_hold(&self, path: &str) -> bool {
        if !self.is_escaped() && !paths::is_plain(path) {
            return false;
        }
        let stem = self.spelling(path, "/");
        let under_prefix = stem.starts_with(&self.prefix) || self.prefix.starts_with(&stem);
        let is_past = self.after > stem && !self.after.starts_with(&stem);
        under_prefix && !is_past
    }

    fn leaf(&mut self, path: &str, entry: &Entry) -> io::Result<()> {
        let spelled = self.spelling(paths::escaped_end(path).filter(|_| self.is_escaped()).unwrap_or(path), "");
        if !spelled.starts_with(&self.prefix) || spelled <= self.after {
            return Ok(());
        }
        let name = if self.is_escaped() { paths::from_hex(&spelled) } else { Some(spelled) };
        // A name that would not lead back to this file is nobody's blob.
        let Some(name) = name.filter(|name| paths::is_plain(name) != self.is_escaped()) else { return Ok(()) };
        let file = join(self.root, path);
        let size = if entry.is_directory { self.tree.multipart_size(&file)? } else { self.tree.file_size(&file)? };
        self.found.extend(size.map(|size| (name, size)));
        Ok(())
    }

    /// The beginning of all names below a path: with `end` in the plain tree, the pieces put together in the other.
    fn spelling(&self, path: &str, end: &str) -> String {
        if self.is_escaped() { path.replace('/', "") } else { format!("{path}{end}") }
    }
}

pub(super) fn join(directory: &str, name: &str) -> String {
    match (directory, name) {
        ("", one) | (one, "") => one.to_owned(),
        _ => format!("{directory}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::directory::paths::BlobPath;
    use crate::base::{Nonce, Version, blob_name};
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::collections::{BTreeMap, BTreeSet};

    /// Files by path; a size of `MULTIPART` or more is a directory with a manifest.
    #[derive(Default)]
    struct Map(BTreeMap<String, u64>, Cell<usize>);

    const MULTIPART: u64 = 1000;

    impl Map {
        fn put(&mut self, name: &str, size: u64) {
            let at = BlobPath::of(name);
            self.0.insert(join(&at.parent, &at.leaf), size);
        }
    }

    impl Tree for Map {
        fn entries(&self, path: &str) -> io::Result<Option<Vec<Entry>>> {
            self.1.set(self.1.get() + 1);
            let below = |file: &str| match path {
                "" => Some(file.to_owned()),
                _ => file.strip_prefix(path)?.strip_prefix('/').map(str::to_owned),
            };
            let mut entries = BTreeSet::new();
            for (file, &size) in &self.0 {
                let Some(rest) = below(file) else { continue };
                match rest.split_once('/') {
                    Some((directory, _)) => entries.insert((directory.to_owned(), true)),
                    None => entries.insert((rest, size >= MULTIPART)),
                };
            }
            let entries = entries.into_iter().map(|(name, is_directory)| Entry { name, is_directory });
            Ok(Some(entries.collect()))
        }

        fn file_size(&self, path: &str) -> io::Result<Option<u64>> {
            assert!(self.0[path] < MULTIPART, "{path} is a directory");
            Ok(Some(self.0[path]))
        }

        fn multipart_size(&self, path: &str) -> io::Result<Option<u64>> {
            assert!(self.0[path] >= MULTIPART, "{path} is a file");
            Ok(Some(self.0[path]))
        }
    }

    fn mint(key: &str, version: u128) -> String {
        let literal = blob_name::can_be_literal("bkt", key, 1024);
        blob_name::mint("bkt", key, literal, Version::from_parts(1, version), Nonce::from_roll(7))
    }

    fn all(tree: &Map, prefix: &str, max: usize) -> Vec<(String, u64)> {
        let (mut got, mut after, mut kept) = (Vec::new(), String::new(), None);
        loop {
            let one = page(tree, &mut kept, prefix, &after, max).expect("a map does not fail");
            assert!(one.blobs.len() <= max && (one.next.is_none() || one.blobs.len() == max), "{one:?}");
            got.extend(one.blobs);
            let Some(next) = one.next else { return got };
            after = next;
        }
    }

    #[test]
    fn files_of_ours_are_not_listed() {
        let mut tree = Map::default();
        for file in [
            ".s3o/id",
            ".s3o/probe",
            "bkt/.s3o~ab",
            "bkt/.s3o~ab.parts/00001-x",
            "bkt/.s3o~d/x",
            ".s3o/n/zz-",
            ".s3o/n/6",
        ] {
            tree.0.insert(file.to_owned(), 1);
        }
        tree.put("bkt/found", 3);
        assert_eq!(all(&tree, "", 10), [("bkt/found".to_owned(), 3)]);
    }

    #[test]
    fn a_large_folder_is_read_once_for_all_its_pages() {
        let mut tree = Map::default();
        for number in 0..500 {
            tree.put(&format!("bkt/deep/{number:03}!x"), 1);
        }
        assert_eq!(all(&tree, "", 10).len(), 500);
        // Each page the two folders above it, and the one of the escaped names.
        assert_eq!(tree.1.get(), 50 * 3 + 1);
    }

    #[test]
    fn the_blobs_of_one_key() {
        let mut tree = Map::default();
        let long = "k".repeat(300);
        for key in ["a", "a!", "a/b", "ab", long.as_str()] {
            tree.put(&mint(key, 1), 5);
            tree.put(&mint(key, 2), MULTIPART);
        }
        for key in ["a", "a!", "a/b", "ab", long.as_str()] {
            let prefix = format!("{}0", blob_name::stem("bkt", key, true));
            assert_eq!(all(&tree, &prefix, 1), [(mint(key, 1), 5), (mint(key, 2), MULTIPART)], "{key}");
        }
        assert_eq!(all(&tree, "other/", 10), []);
    }

    fn any_name() -> impl Strategy<Value = (String, u64)> {
        let literal = "[ab!/.-]{1,4}|a{250,260}(/b){0,1}";
        (literal, 0u128..2, prop_oneof![Just(1), Just(MULTIPART)]).prop_map(|(key, version, size)| {
            (blob_name::mint("bkt", &key, true, Version::from_parts(1, version), Nonce::from_roll(7)), size)
        })
    }

    proptest! {
        #[test]
        fn pages_are_complete_ordered_and_do_not_repeat(
            names in prop::collection::vec(any_name(), 0..14),
            prefix in "(bkt/)?[ab!/.]{0,2}",
            max in 1usize..5,
        ) {
            let mut tree = Map::default();
            let mut want = BTreeMap::new();
            for (name, size) in names {
                tree.put(&name, size);
                if name.starts_with(&prefix) {
                    want.insert(name, size);
                }
            }
            prop_assert_eq!(all(&tree, &prefix, max), want.into_iter().collect::<Vec<_>>());
        }
    }
}
