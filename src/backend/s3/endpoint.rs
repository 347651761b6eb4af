//! Where and as whom an S3 backend is asked: what every request to it has in common, prepared once.

use crate::base::Secret;
use crate::config::checked::S3Place;
use crate::proto::sigv4::{Target, encode_path_into};
use std::fmt;

#[derive(Clone, Debug)]
pub struct Endpoint {
    /// What is connected to and, with TLS, whose certificate is asked for; an address without brackets.
    pub host: String,
    pub port: u16,
    pub tls: bool,
    /// The Host field.
    authority: String,
    /// What stands before a name in a target: `/`, or `/bucket/`. Already encoded.
    root: Vec<u8>,
    /// What stands before the name of a copy's source: `/bucket/`. Already encoded.
    source_root: Vec<u8>,
    access_key_id: String,
    secret_access_key: Secret,
    region: String,
}

impl Endpoint {
    pub fn new(place: &S3Place) -> Self {
        // A bucket is no part of an address.
        let path_style = place.force_path_style || place.endpoint.host.parse::<std::net::IpAddr>().is_ok();
        let mut endpoint = place.endpoint.clone();
        let mut source_root = b"/".to_vec();
        encode_path_into(&mut source_root, place.bucket.as_bytes());
        source_root.push(b'/');
        let root = if path_style { source_root.clone() } else { b"/".to_vec() };
        if !path_style {
            endpoint.host = format!("{}.{}", place.bucket, endpoint.host);
        }
        Self {
            authority: endpoint.authority(),
            host: endpoint.host,
            port: endpoint.port,
            tls: endpoint.tls,
            root,
            source_root,
            access_key_id: place.access_key_id.clone(),
            secret_access_key: place.secret_access_key.clone(),
            region: place.region.clone(),
        }
    }

    pub fn authority(&self) -> &str {
        &self.authority
    }

    pub(super) fn root(&self) -> &[u8] {
        &self.root
    }

    pub(super) fn source_root(&self) -> &[u8] {
        &self.source_root
    }

    pub(super) fn target(&self) -> Target<'_> {
        Target { access_key: &self.access_key_id, secret: &self.secret_access_key, region: &self.region }
    }
}

/// As messages call it: never with a secret.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, String::from_utf8_lossy(&self.root))
    }
}
