//! What a backend really does, found out by trying (PROTOCOL.md, "Backends are measured, not believed").
//!
//! Run once per backend, at first use, before any shortcut that rests on it. Generic over a few probes, so the reactor
//! layer runs it over the network and tests over models. The probe objects are small, live under `.s3o/`, and are removed
//! in the end whatever came out.

use super::port::Stored;
use crate::base::failure::Kind;
use crate::base::{Failure, Nonce};
use crate::store::record::BackendFacts;
use aws_lc_rs::digest;
use data_encoding::{BASE64, HEXLOWER};
use md5::{Digest, Md5};

/// What measuring asks of a backend.
pub trait Probes {
    /// A plain PUT, signed with this SHA-256, with this checksum field if any. Cancel: NOT safe.
    fn put(
        &self,
        name: &str,
        body: &[u8],
        sha256: [u8; 32],
        checksum: Option<(&str, &str)>,
    ) -> impl Future<Output = Result<Stored, Failure>>;

    /// A CopyObject of one name to another. Cancel: NOT safe.
    fn copy(&self, from: &str, to: &str) -> impl Future<Output = Result<Stored, Failure>>;

    /// A plain DELETE, without a version id. Cancel: NOT safe.
    fn delete(&self, name: &str) -> impl Future<Output = Result<(), Failure>>;

    /// Whether bytes can be read under this name and version id; an empty id asks without one. Cancel: NOT safe.
    fn is_there(&self, name: &str, version_id: &str) -> impl Future<Output = Result<bool, Failure>>;

    /// Removes every version and marker of this name. Cancel: NOT safe.
    fn purge(&self, name: &str) -> impl Future<Output = Result<(), Failure>>;
}

/// Measures a backend. `nonce` makes the probes' name and bytes new; `checksums`: whether checksum fields may be sent there.
/// Cancel: NOT safe, the probe object may stay.
pub async fn measure(probes: &impl Probes, nonce: Nonce, checksums: bool) -> Result<BackendFacts, Failure> {
    let probe = Probe::new(nonce, checksums);
    let measured = probe.run(probes).await;
    let purged = probes.purge(&probe.name).await;
    let purged_copy = probes.purge(&probe.copy_name()).await;
    let facts = measured?;
    purged.and(purged_copy).map(|()| facts)
}

/// What became of a PUT that is meant to be refused, or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tried {
    Taken,
    Refused,
    /// An error that says nothing about the body, of a backend that is alive.
    Failed,
}

struct Probe {
    name: String,
    body: Vec<u8>,
    checksums: bool,
}

impl Probe {
    fn new(nonce: Nonce, checksums: bool) -> Self {
        let name = format!(".s3o/probe-{}", nonce.as_str());
        let body = format!("a probe of this backend: {}\n", nonce.as_str()).into_bytes();
        Self { name, body, checksums }
    }

    async fn run(&self, probes: &impl Probes) -> Result<BackendFacts, Failure> {
        // First the plain case: what fails here fails because the backend cannot be used at all.
        let sha256 = self.sha256();
        let stored = probes.put(&self.name, &self.body, sha256, None).await?;
        let etag_is_md5 = stored.etag.eq_ignore_ascii_case(&HEXLOWER.encode(&Md5::digest(&self.body)));

        let mut wrong = sha256;
        wrong[0] ^= 1;
        let verifies_sha256 = self.try_put(probes, wrong, None).await? == Tried::Refused;
        let [crc32, crc32c, crc64nvme] = self.checksums();
        let verifies_crc32 = self.verifies(probes, "x-amz-checksum-crc32", &crc32).await?;
        let verifies_crc32c = self.verifies(probes, "x-amz-checksum-crc32c", &crc32c).await?;
        let verifies_crc64nvme = self.verifies(probes, "x-amz-checksum-crc64nvme", &crc64nvme).await?;
        let copies = self.copies(probes, etag_is_md5).await?;
        let delete_removes = self.delete_removes(probes).await?;
        Ok(BackendFacts {
            measured: true,
            verifies_sha256,
            verifies_crc32,
            verifies_crc32c,
            verifies_crc64nvme,
            etag_is_md5,
            copies,
            delete_removes,
            place: 0,
        })
    }

    fn copy_name(&self) -> String {
        format!("{}-copy", self.name)
    }

    /// Whether a copy has the bytes of what it was made of: as its entity tag says, where that says something.
    async fn copies(&self, probes: &impl Probes, etag_is_md5: bool) -> Result<bool, Failure> {
        let to = self.copy_name();
        match probes.copy(&self.name, &to).await {
            Ok(stored) => {
                let is_told = stored.etag.eq_ignore_ascii_case(&HEXLOWER.encode(&Md5::digest(&self.body)));
                let copies = if etag_is_md5 { is_told } else { probes.is_there(&to, "").await? };
                probes.delete(&to).await?;
                Ok(copies)
            }
            Err(failure) => {
                probes.is_there(&self.name, "").await?;
                tracing::info!(probe = self.name, %failure, "a backend does not copy within itself");
                Ok(false)
            }
        }
    }

    /// A backend that refuses the field itself would look as if it verified, so the right value must pass first.
    async fn verifies(&self, probes: &impl Probes, field: &str, right: &[u8]) -> Result<bool, Failure> {
        if !self.checksums {
            return Ok(false);
        }
        let mut wrong = right.to_owned();
        wrong[0] ^= 1;
        let (right, wrong) = (BASE64.encode(right), BASE64.encode(&wrong));
        let sha256 = self.sha256();
        Ok(self.try_put(probes, sha256, Some((field, &right))).await? == Tried::Taken
            && self.try_put(probes, sha256, Some((field, &wrong))).await? == Tried::Refused)
    }

    async fn try_put(
        &self,
        probes: &impl Probes,
        sha256: [u8; 32],
        checksum: Option<(&str, &str)>,
    ) -> Result<Tried, Failure> {
        match probes.put(&self.name, &self.body, sha256, checksum).await {
            Ok(_) => Ok(Tried::Taken),
            Err(failure) if matches!(failure.kind, Kind::Refused | Kind::Corrupt) => Ok(Tried::Refused),
            // A 5xx to such a PUT alone (501 to a checksum field) turns its shortcut off; a backend that is down is not
            // measured at all.
            Err(failure) => {
                probes.is_there(&self.name, "").await?;
                tracing::info!(probe = self.name, field = checksum.map(|(field, _)| field), %failure, "a probe failed");
                Ok(Tried::Failed)
            }
        }
    }

    async fn delete_removes(&self, probes: &impl Probes) -> Result<bool, Failure> {
        let stored = probes.put(&self.name, &self.body, self.sha256(), None).await?;
        probes.delete(&self.name).await?;
        if probes.is_there(&self.name, "").await? {
            return Ok(false);
        }
        Ok(stored.version_id.is_empty() || !probes.is_there(&self.name, &stored.version_id).await?)
    }

    fn sha256(&self) -> [u8; 32] {
        digest::digest(&digest::SHA256, &self.body).as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// CRC32, CRC32C, CRC64NVME, as the fields carry them before base64.
    fn checksums(&self) -> [Vec<u8>; 3] {
        use crc_fast::{CrcAlgorithm, checksum};
        let four_bytes = |value: u64| u32::try_from(value).expect("a CRC of 32 bits").to_be_bytes().to_vec();
        [
            crc32fast::hash(&self.body).to_be_bytes().to_vec(),
            four_bytes(checksum(CrcAlgorithm::Crc32Iscsi, &self.body)),
            checksum(CrcAlgorithm::Crc64Nvme, &self.body).to_be_bytes().to_vec(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Blame, Retry};
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::future::{Future, ready};
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// A backend with faults to be found.
    #[derive(Clone, Default)]
    struct Model {
        ignores_sha256: bool,
        /// Refuses the checksum fields themselves, by 400 or (R2) by 501.
        refuses_fields: Option<Kind>,
        ignores_checksums: bool,
        odd_etags: bool,
        keeps_versions: bool,
        ignores_deletes: bool,
        refuses_copies: bool,
        is_down: bool,
    }

    struct Backend {
        model: Model,
        /// By name and version id.
        versions: RefCell<BTreeMap<(String, String), Vec<u8>>>,
    }

    fn failure(kind: Kind) -> Failure {
        Failure::new(kind, Blame::Backend, Retry::Never, "as the model says")
    }

    impl Backend {
        fn take(
            &self,
            name: &str,
            body: &[u8],
            sha256: [u8; 32],
            checksum: Option<(&str, &str)>,
        ) -> Result<Stored, Failure> {
            let model = &self.model;
            if model.is_down {
                return Err(failure(Kind::Unavailable));
            }
            let sha256_is_right = digest::digest(&digest::SHA256, body).as_ref() == sha256;
            if !model.ignores_sha256 && !sha256_is_right {
                return Err(failure(Kind::Corrupt));
            }
            if let Some((field, value)) = checksum {
                if let Some(kind) = model.refuses_fields {
                    return Err(failure(kind));
                }
                let want = match field {
                    "x-amz-checksum-crc32" => crc32fast::hash(body).to_be_bytes().to_vec(),
                    "x-amz-checksum-crc32c" => {
                        (crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, body) as u32).to_be_bytes().to_vec()
                    }
                    _ => crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, body).to_be_bytes().to_vec(),
                };
                if !model.ignores_checksums && BASE64.encode(&want) != value {
                    return Err(failure(Kind::Refused));
                }
            }
            let mut versions = self.versions.borrow_mut();
            let version_id = if model.keeps_versions { format!("v{}", versions.len()) } else { String::new() };
            versions.insert((name.to_owned(), version_id.clone()), body.to_owned());
            let etag = if model.odd_etags { "odd".to_owned() } else { HEXLOWER.encode(&Md5::digest(body)) };
            Ok(Stored { etag, version_id })
        }
    }

    impl Probes for Backend {
        fn put(
            &self,
            name: &str,
            body: &[u8],
            sha256: [u8; 32],
            checksum: Option<(&str, &str)>,
        ) -> impl Future<Output = Result<Stored, Failure>> {
            ready(self.take(name, body, sha256, checksum))
        }

        fn copy(&self, from: &str, to: &str) -> impl Future<Output = Result<Stored, Failure>> {
            let versions = self.versions.borrow();
            let body = versions.iter().rfind(|((name, _), _)| name == from).map(|(_, body)| body.clone());
            drop(versions);
            let body = body.filter(|_| !self.model.refuses_copies).ok_or_else(|| failure(Kind::Refused));
            ready(body.and_then(|body| {
                let sha256 = digest::digest(&digest::SHA256, &body);
                self.take(to, &body, sha256.as_ref().try_into().expect("32 bytes"), None)
            }))
        }

        fn delete(&self, name: &str) -> impl Future<Output = Result<(), Failure>> {
            if !self.model.keeps_versions && !self.model.ignores_deletes {
                self.versions.borrow_mut().retain(|(other, _), _| other != name);
            }
            // A marker hides the name; its versions stay.
            if self.model.keeps_versions {
                self.versions.borrow_mut().insert((name.to_owned(), String::new()), Vec::new());
            }
            ready(Ok(()))
        }

        fn is_there(&self, name: &str, version_id: &str) -> impl Future<Output = Result<bool, Failure>> {
            if self.model.is_down {
                return ready(Err(failure(Kind::Unavailable)));
            }
            let versions = self.versions.borrow();
            let found = versions.get(&(name.to_owned(), version_id.to_owned()));
            let latest = versions.iter().rfind(|((other, _), _)| other == name).map(|(_, body)| body);
            let found = if version_id.is_empty() && found.is_none() { latest } else { found };
            ready(Ok(found.is_some_and(|body| !body.is_empty())))
        }

        fn purge(&self, name: &str) -> impl Future<Output = Result<(), Failure>> {
            self.versions.borrow_mut().retain(|(other, _), _| other != name);
            ready(Ok(()))
        }
    }

    fn check(what: &str, model: Model, want: Option<BackendFacts>) {
        check_with(what, model, true, want);
    }

    fn check_with(what: &str, model: Model, checksums: bool, want: Option<BackendFacts>) {
        let backend = Backend { model, versions: RefCell::default() };
        let facts = match pin!(measure(&backend, Nonce::from_roll(7), checksums))
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(facts) => facts,
            Poll::Pending => panic!("a model answers at once"),
        };
        assert_eq!(facts.ok(), want, "{what}");
        assert!(backend.versions.borrow().is_empty(), "{what}: probes are left");
    }

    #[test]
    fn faults_are_found() {
        const GOOD: BackendFacts = BackendFacts {
            measured: true,
            verifies_sha256: true,
            verifies_crc32: true,
            verifies_crc32c: true,
            verifies_crc64nvme: true,
            etag_is_md5: true,
            copies: true,
            delete_removes: true,
            place: 0,
        };
        const NO_CHECKSUMS: BackendFacts =
            BackendFacts { verifies_crc32: false, verifies_crc32c: false, verifies_crc64nvme: false, ..GOOD };
        let model = Model::default();
        check("sound", model.clone(), Some(GOOD));
        check_with("is sent no checksums", model.clone(), false, Some(NO_CHECKSUMS));
        let facts = BackendFacts { verifies_sha256: false, ..GOOD };
        check("takes a wrong SHA-256", Model { ignores_sha256: true, ..model.clone() }, Some(facts));
        check("takes wrong checksums", Model { ignores_checksums: true, ..model.clone() }, Some(NO_CHECKSUMS));
        for kind in [Kind::Refused, Kind::Unavailable] {
            let refuses_fields = Some(kind);
            check("refuses the fields", Model { refuses_fields, ..model.clone() }, Some(NO_CHECKSUMS));
        }
        let facts = BackendFacts { copies: false, ..GOOD };
        check("refuses copies", Model { refuses_copies: true, ..model.clone() }, Some(facts));
        let facts = BackendFacts { etag_is_md5: false, ..GOOD };
        check("odd entity tags", Model { odd_etags: true, ..model.clone() }, Some(facts));
        let facts = BackendFacts { delete_removes: false, ..GOOD };
        check("versioned", Model { keeps_versions: true, ..model.clone() }, Some(facts));
        check("deletes nothing", Model { ignores_deletes: true, ..model.clone() }, Some(facts));
        check("down", Model { is_down: true, ..model }, None);
    }
}
