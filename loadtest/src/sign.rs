//! Signs the load's requests with the product's own SigV4 (proto/sigv4), which is tested against published vectors.

use s3_orchestrator::base::{Secret, Timestamp};
use s3_orchestrator::proto::sigv4::{ChunkSigner, PayloadMode, Request, Signer as Sigv4, Target};
use std::time::{SystemTime, UNIX_EPOCH};

/// Whose key signs, and for which region.
#[derive(Clone, Debug)]
pub struct Credentials {
    access_key: String,
    secret: Secret,
    region: String,
}

/// What is signed of a request besides its body.
pub struct Line<'a> {
    pub method: &'a str,
    /// Percent-encoded.
    pub path: &'a str,
    /// Percent-encoded, without the question mark.
    pub query: &'a str,
    /// `host` among them.
    pub fields: &'a [(&'a str, &'a str)],
}

impl Credentials {
    pub fn new(access_key: &str, secret: &str, region: &str) -> Self {
        Self { access_key: access_key.to_owned(), secret: Secret::new(secret), region: region.to_owned() }
    }

    fn target(&self) -> Target<'_> {
        Target { access_key: &self.access_key, secret: &self.secret, region: &self.region }
    }
}

/// One per connection: what is reused from request to request.
pub(crate) struct Signer {
    credentials: Credentials,
    sigv4: Sigv4,
}

impl Signer {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self { credentials, sigv4: Sigv4::default() }
    }

    /// Appends the three lines of the signature to `head`. For a body in signed chunks, what signs them.
    #[allow(clippy::disallowed_methods)] // a load generator's clock is the wall's
    pub(crate) fn sign(&mut self, head: &mut Vec<u8>, line: &Line<'_>, payload: PayloadMode) -> Option<ChunkSigner> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
        let now =
            Timestamp { millis: i64::try_from(now.as_millis()).expect("the clock is before the year 292 million") };
        let request = Request {
            method: line.method,
            path: line.path.as_bytes(),
            query: line.query.as_bytes(),
            headers: line.fields,
        };
        let target = self.credentials.target();
        let seed = self.sigv4.sign_into(head, &request, &target, payload, now);
        let chunks_are_signed = matches!(payload, PayloadMode::StreamingSigned { .. });
        chunks_are_signed.then(|| self.sigv4.chunk_signer(&target, now, seed))
    }
}
