//! Signs the load's requests with the product's own SigV4 (proto/sigv4), which is tested against published vectors.

use s3_orchestrator::base::{Secret, Timestamp};
use s3_orchestrator::proto::sigv4::{EMPTY_SHA256, PayloadMode, Request, Signer as Sigv4, Target};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Clone, Debug)]
pub struct Signer {
    access_key: String,
    secret: Secret,
    region: String,
}

/// What a connection reuses from request to request.
#[derive(Default)]
pub struct Kept {
    sigv4: Sigv4,
}

/// What is signed of a request besides its body.
pub struct Line<'a> {
    pub method: &'a str,
    /// Percent-encoded.
    pub path: &'a str,
    pub query: &'a str,
    pub host: &'a str,
}

impl Signer {
    pub fn new(access_key: &str, secret: &str, region: &str) -> Self {
        Self { access_key: access_key.to_owned(), secret: Secret::new(secret), region: region.to_owned() }
    }

    /// Appends the three lines of the signature. `sha256` is the body's; None: it is not signed.
    #[allow(clippy::disallowed_methods)] // a load generator's clock is the wall's
    pub fn sign(&self, kept: &mut Kept, head: &mut Vec<u8>, line: &Line<'_>, sha256: Option<[u8; 32]>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
        let now =
            Timestamp { millis: i64::try_from(now.as_millis()).expect("the clock is before the year 292 million") };
        let fields = [("host", line.host)];
        let request =
            Request { method: line.method, path: line.path.as_bytes(), query: line.query.as_bytes(), headers: &fields };
        let target = Target { access_key: &self.access_key, secret: &self.secret, region: &self.region };
        let payload = match (line.method, sha256) {
            ("PUT", Some(hash)) => PayloadMode::DeclaredSha256(hash),
            ("PUT", None) => PayloadMode::Unsigned,
            _ => PayloadMode::DeclaredSha256(EMPTY_SHA256),
        };
        kept.sigv4.sign_into(head, &request, &target, payload, now);
    }
}
