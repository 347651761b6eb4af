//! The marker `.s3o/id` on every backend: whose bytes these are.
//!
//! Read at start and whenever a backend has become reachable again, before anything is written or deleted there: an
//! unmounted directory, or an endpoint whose bucket is not the one it was, must never be taken for a backend that lost its
//! objects. Pure: the caller reads and writes the bytes.
//!
//! Nor may the empty place under an unmounted disk be taken for a new backend because nothing was on the disk yet: the
//! database remembers which backends were in use, until an operator gives them up.

use serde::{Deserialize, Serialize};

/// The marker's name on a backend.
pub const NAME: &str = ".s3o/id";
/// What is below it on a backend is ours and no object's.
pub const FOLDER: &str = ".s3o/";
/// A marker is about 100 bytes; what is longer is not one.
pub const BYTES_MAX: usize = 4 * 1024;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Marker {
    /// The deployment's id, from the database.
    pub deployment: String,
    pub backend: String,
}

impl Marker {
    pub fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(self).expect("a marker is plain text");
        text.push(b'\n');
        text
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// What stood in the marker's place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    Ours,
    /// Nothing. The backend itself answered: its bucket or directory exists.
    Missing,
    /// Another deployment's or another backend's.
    Foreign(Marker),
    /// Something that is not a marker.
    Unreadable,
}

impl Found {
    /// `content`: None if there is none.
    pub fn of(content: Option<&[u8]>, ours: &Marker) -> Self {
        let Some(content) = content else { return Self::Missing };
        match Marker::decode(content) {
            None => Self::Unreadable,
            Some(marker) if marker == *ours => Self::Ours,
            Some(marker) => Self::Foreign(marker),
        }
    }
}

/// What the database knows of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Known {
    /// At least how many blobs of any state rows name there; 0 only if they name none.
    pub blobs: u64,
    /// It was in use at this place, and was not drained or removed since.
    pub in_use: bool,
}

/// What to do with a backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Use,
    /// It is new to us: write the marker, then use it.
    WriteMarker,
    /// Leave it alone and tell the operator why, and what helps.
    Refuse(String),
}

/// `place`: the directory or endpoint and bucket, for the message.
pub fn judge(found: Found, ours: &Marker, place: &str, known: Known) -> Verdict {
    let name = &ours.backend;
    let restore = String::from_utf8_lossy(&ours.encode()).trim_end().to_owned();
    match found {
        Found::Ours => Verdict::Use,
        Found::Missing if known == Known::default() => Verdict::WriteMarker,
        Found::Missing if known.blobs == 0 => Verdict::Refuse(format!(
            "backend {name}: it was in use at {place}, where nothing is to be found by what the database knows, but {NAME} is \
             missing there too. Most likely a directory is not mounted, or another one is: mount it. If it was emptied or \
             replaced on purpose, write {restore} into {NAME}, or give it up and take it back as a new one: \
             `admin remove-backend {name}`, then `admin drain-cancel {name}`"
        )),
        Found::Missing => Verdict::Refuse(format!(
            "backend {name}: the database names {blobs} blobs at {place}, but {NAME} is missing there. Most likely a \
             directory is not mounted, or endpoint or bucket is another one than before: mount it or correct the \
             configuration. Only if the marker itself was deleted, write {restore} into {NAME}",
            blobs = known.blobs,
        )),
        Found::Foreign(theirs) if theirs.deployment == ours.deployment => Verdict::Refuse(format!(
            "backend {name}: {place} holds the objects of backend {} of this deployment. Two backends of the configuration \
             were swapped, renamed or point to the same place: give the backend its former name and place back",
            theirs.backend
        )),
        Found::Foreign(theirs) => Verdict::Refuse(format!(
            "backend {name}: {place} belongs to another deployment ({}, backend {}). Use an empty bucket or directory of \
             its own; if the other deployment is gone and its objects may be mixed with new ones, delete {NAME} there",
            theirs.deployment, theirs.backend
        )),
        Found::Unreadable => Verdict::Refuse(format!(
            "backend {name}: {NAME} at {place} is not a marker of this program. Use an empty bucket or directory of its \
             own, or delete that object if nobody needs it"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(deployment: &str, backend: &str) -> Marker {
        Marker { deployment: deployment.to_owned(), backend: backend.to_owned() }
    }

    fn check(content: Option<&[u8]>, known: Known, want: Result<Verdict, &[&str]>) {
        let ours = marker("d1", "nas");
        let verdict = judge(Found::of(content, &ours), &ours, "/mnt/nas", known);
        match (want, verdict) {
            (Ok(want), verdict) => assert_eq!(verdict, want, "{content:?}"),
            (Err(words), Verdict::Refuse(text)) => {
                for word in words.iter().chain(&["backend nas", "/mnt/nas"]) {
                    assert!(text.contains(word), "{word:?} is not in {text:?}");
                }
            }
            (Err(_), verdict) => panic!("{content:?} with {known:?}: {verdict:?}"),
        }
    }

    #[test]
    fn who_may_be_used() {
        let ours = marker("d1", "nas").encode();
        let (new, emptied) = (Known::default(), Known { blobs: 0, in_use: true });
        let (full, removed) = (Known { blobs: 7, in_use: true }, Known { blobs: 7, in_use: false });
        check(None, new, Ok(Verdict::WriteMarker));
        let remedies = ["remove-backend nas", "drain-cancel nas", r#"{"deployment":"d1","backend":"nas"}"#];
        check(None, emptied, Err(&[&["not mounted", "was in use"], &remedies[..]].concat()));
        for known in [full, removed] {
            check(None, known, Err(&["7 blobs", "not mounted", remedies[2]]));
        }
        for known in [new, emptied, full, removed] {
            check(Some(&ours), known, Ok(Verdict::Use));
            check(Some(&marker("d1", "cloud").encode()), known, Err(&["cloud", "swapped"]));
            check(Some(&marker("d2", "nas").encode()), known, Err(&["d2", "another deployment"]));
            check(Some(b"hello"), known, Err(&["not a marker"]));
            check(Some(b""), known, Err(&["not a marker"]));
        }
    }
}
