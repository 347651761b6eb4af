//! Looking after backends: whose they are, and what they really do. For the control of a deployment, not for requests.

use super::calls::{delete_one, delete_versions, head_remote, sha256_of};
use super::remote::Remote;
use super::{CoreBackends, Reach};
use crate::backend::directory;
use crate::backend::marker::{self, Found, Known, Marker, Verdict};
use crate::backend::measure::{Probes, measure};
use crate::backend::port::{Stored, UpstreamPayload};
use crate::backend::s3::{Ask, answer};
use crate::backend::travel::Luggage;
use crate::base::failure::Kind;
use crate::base::{Blame, Failure, Nonce, Retry};
use crate::config::checked::Place;
use crate::reactor::core::Right;
use crate::store::record::{BackendFacts, ObjectRecord};
use std::rc::Rc;

impl CoreBackends {
    /// Reads a backend's marker and judges it; writes it where the backend is new to us, that is, where it is missing and
    /// the database knows of nothing there. A directory is opened for use by this. `known`: None while nobody can tell, and
    /// then a missing marker is a failure of the metadata.
    /// A failure of kind `Refused` is for the operator, any other may pass by itself. Ok(true): it is new.
    /// Cancel: NOT safe, a marker may have been written.
    pub async fn claim(&self, backend: usize, deployment: &str, known: Option<Known>) -> Result<bool, Failure> {
        let name = self.view.backends[backend].name.as_str().to_owned();
        let ours = Marker { deployment: deployment.to_owned(), backend: name.clone() };
        let (place, content) = match &self.reaches[backend] {
            Reach::Remote(remote) => (remote.place(), read_marker(remote).await?),
            Reach::Local(local) => (local.directory.path().display().to_string(), local.marker().await?),
        };
        let found = Found::of(content.as_deref(), &ours);
        let known = match known {
            None if found == Found::Missing => {
                let cause = format!("backend {name}: without the database nobody knows whether {place} is new");
                return Err(Failure::metadata(cause));
            }
            known => known.unwrap_or_default(),
        };
        let is_new = match marker::judge(found, &ours, &place, known) {
            Verdict::Use => false,
            Verdict::WriteMarker => true,
            Verdict::Refuse(cause) => {
                return Err(Failure::new(Kind::Refused, Blame::Ourselves, Retry::Never, cause));
            }
        };
        let bytes = content.unwrap_or_else(|| ours.encode());
        match &self.reaches[backend] {
            Reach::Local(local) => local.adopt(bytes, is_new).await?,
            Reach::Remote(remote) if is_new => drop(put_small(remote, marker::NAME, &bytes).await?),
            Reach::Remote(_) => {}
        }
        Ok(is_new)
    }

    /// Opens a directory for reads if it holds a marker with this backend's name, whosever deployment it is of: while the
    /// database does not say which is ours. An endpoint needs no opening: it is asked only if its breaker waits to hear from it,
    /// since every call is paid for. Cancel: safe.
    pub async fn open_for_reading(&self, backend: usize) -> Result<(), Failure> {
        let local = match &self.reaches[backend] {
            Reach::Remote(remote) if remote.account.is_open() => return read_marker(remote).await.map(drop),
            Reach::Remote(_) => return Ok(()),
            Reach::Local(local) => local,
        };
        let name = self.view.backends[backend].name.as_str();
        match local.marker().await? {
            Some(bytes) if Marker::decode(&bytes).is_some_and(|marker| marker.backend == name) => {
                local.adopt(bytes, false).await
            }
            _ => Err(Failure::backend(format!("backend {name}: no marker of this backend is there"))),
        }
    }

    /// Finds out what a backend really does (`backend/measure.rs`). Only after its marker was seen.
    /// Cancel: NOT safe, a probe object may stay.
    pub async fn measure(&self, backend: usize, nonce: Nonce) -> Result<BackendFacts, Failure> {
        match &self.reaches[backend] {
            Reach::Local(_) => Ok(directory::FACTS),
            Reach::Remote(remote) => {
                let place = &self.view.backends[backend].place;
                let checksums = matches!(place, Place::Endpoint(place) if !place.disable_checksum);
                let facts = measure(&Probing(remote), nonce, checksums).await?;
                Ok(BackendFacts { place: place.fingerprint(), ..facts })
            }
        }
    }
}

async fn read_marker(remote: &Remote) -> Result<Option<Vec<u8>>, Failure> {
    let ask = Ask::Get { name: marker::NAME, span: None, if_match: "" };
    match remote.ask_at_most(&ask, &[], marker::BYTES_MAX, |_| ()).await {
        Ok((_, bytes)) => Ok(Some(bytes)),
        Err(failure) if failure.kind == Kind::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

async fn put_small(remote: &Remote, name: &str, body: &[u8]) -> Result<Stored, Failure> {
    let luggage = Luggage { key: "", record: &ObjectRecord::default() };
    let (size, payload) = (body.len() as u64, sha256_of(body));
    let ask = Ask::Put { name, size, payload, luggage, checksum: None };
    Ok(remote.ask(&ask, body, answer::stored).await?.0)
}

struct Probing<'a>(&'a Rc<Remote>);

impl Probes for Probing<'_> {
    async fn put(
        &self,
        name: &str,
        body: &[u8],
        sha256: [u8; 32],
        checksum: Option<(&str, &str)>,
    ) -> Result<Stored, Failure> {
        let luggage = Luggage { key: "", record: &ObjectRecord::default() };
        let (size, payload) = (body.len() as u64, UpstreamPayload::Sha256(sha256));
        let ask = Ask::Put { name, size, payload, luggage, checksum };
        Ok(self.0.ask(&ask, body, answer::stored).await?.0)
    }

    async fn copy(&self, from: &str, to: &str) -> Result<Stored, Failure> {
        let luggage = Luggage { key: "", record: &ObjectRecord::default() };
        let ask = Ask::Copy { name: to, from, if_match: "", luggage };
        let (stored, body) = self.0.ask(&ask, &[], answer::stored).await?;
        answer::copied(&ask, stored, &body)
    }

    async fn delete(&self, name: &str) -> Result<(), Failure> {
        delete_one(self.0, name, "", Right::Any).await.map(|_| ())
    }

    async fn is_there(&self, name: &str, version_id: &str) -> Result<bool, Failure> {
        match head_remote(self.0, name, version_id).await {
            Ok(found) => Ok(found.is_some()),
            // A delete marker under this id: 405.
            Err(failure) if failure.kind == Kind::Refused => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    async fn purge(&self, name: &str) -> Result<(), Failure> {
        match delete_versions(self.0, name, Right::Any).await {
            // A backend that knows no versions lists none.
            Err(failure) if failure.kind == Kind::Refused => delete_one(self.0, name, "", Right::Any).await.map(|_| ()),
            done => done,
        }
    }
}
