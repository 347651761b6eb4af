//! The marker `.s3o/id` on every backend: whose bytes these are.
//!
//! Read at start and whenever a backend has become reachable again, before anything is written or deleted there: an
//! unmounted directory, or an endpoint whose bucket is not the one it was, must never be taken for a backend that lost its
//! objects. Pure: the caller reads and writes the bytes.

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

/// What to do with a backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Use,
    /// It is new to us: write the marker, then use it.
    WriteMarker,
    /// Leave it alone and tell the operator why, and what helps.
    Refuse(String),
}

/// `place`: the directory or endpoint and bucket, for the message. `blobs_named`: blobs of any state that rows have there.
pub fn judge(found: Found, ours: &Marker, place: &str, blobs_named: u64) -> Verdict {
    let name = &ours.backend;
    let restore = String::from_utf8_lossy(&ours.encode()).trim_end().to_owned();
    match found {
        Found::Ours => Verdict::Use,
        Found::Missing if blobs_named == 0 => Verdict::WriteMarker,
        Found::Missing => Verdict::Refuse(format!(
            "backend {name}: the database names {blobs_named} blobs at {place}, but {NAME} is missing there. Most likely a \
             directory is not mounted, or endpoint or bucket is another one than before: mount it or correct the \
             configuration. Only if the marker itself was deleted, write {restore} into {NAME}"
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

    fn check(content: Option<&[u8]>, blobs_named: u64, want: Result<Verdict, &[&str]>) {
        let ours = marker("d1", "nas");
        let verdict = judge(Found::of(content, &ours), &ours, "/mnt/nas", blobs_named);
        match (want, verdict) {
            (Ok(want), verdict) => assert_eq!(verdict, want, "{content:?}"),
            (Err(words), Verdict::Refuse(text)) => {
                for word in words.iter().chain(&["backend nas", "/mnt/nas"]) {
                    assert!(text.contains(word), "{word:?} is not in {text:?}");
                }
            }
            (Err(_), verdict) => panic!("{content:?} with {blobs_named} blobs: {verdict:?}"),
        }
    }

    #[test]
    fn who_may_be_used() {
        let ours = marker("d1", "nas").encode();
        check(Some(&ours), 0, Ok(Verdict::Use));
        check(Some(&ours), 7, Ok(Verdict::Use));
        check(None, 0, Ok(Verdict::WriteMarker));
        check(None, 7, Err(&["7 blobs", "not mounted", r#"{"deployment":"d1","backend":"nas"}"#]));
        for blobs in [0, 7] {
            check(Some(&marker("d1", "cloud").encode()), blobs, Err(&["cloud", "swapped"]));
            check(Some(&marker("d2", "nas").encode()), blobs, Err(&["d2", "another deployment"]));
            check(Some(b"hello"), blobs, Err(&["not a marker"]));
            check(Some(b""), blobs, Err(&["not a marker"]));
        }
    }
}
