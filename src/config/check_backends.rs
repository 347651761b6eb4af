//! The `backends` of a configuration: S3 endpoints and directories, each by itself and beside the others.

use super::check_auth::access_key;
use super::check_budgets::budget;
use super::checked::{Backend, BackendHttp, Database, DatabaseDriver, Endpoint, PayloadSigning, Place, S3Place, Tls};
use super::reader::{Reader, Section};
use super::values::{self, TIMEOUT, WAIT};
use crate::base::limits::OBJECT_BYTES_MAX;
use crate::base::{BackendName, BucketName};
use crate::policy::placement::Strategy;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};

/// A name of our own form under the longest bucket name must fit even when the key is hashed.
const MAX_KEY_BYTES: RangeInclusive<u64> = 200..=1024;

/// With the line of each, for what concerns several.
pub(super) fn backends(reader: &mut Reader, root: &Section<'_>) -> Vec<(Backend, usize)> {
    let mut backends: Vec<(Backend, usize)> = Vec::new();
    let items = root.items("backends");
    if items.is_empty() {
        reader.problem(root.line_of("backends"), "backends", "is required: list at least one backend");
    }
    for (i, at) in items.iter().enumerate() {
        let Some(backend) = backend(reader, at, i) else { continue };
        for (other, line) in &backends {
            if let Some(message) = conflict(&backend, other) {
                reader.problem(at.line(), at.shown(), format!("{message} the backend of line {line}"));
            }
        }
        if !at.has("name") && items.len() > 1 {
            let message =
                format!("is missing: it is `backend-{i}` by its place; name it before you ever reorder the list");
            reader.warn(at.line(), at.key("name"), message);
        }
        backends.push((backend, at.line()));
    }
    backends
}

fn backend(reader: &mut Reader, at: &Section<'_>, place: usize) -> Option<Backend> {
    let name = reader.parsed(at, "name", backend_name);
    let quota_bytes = reader.size(at, "quota_bytes", 0..=i64::MAX as u64).unwrap_or_default();
    let max_object_size_bytes = reader.size(at, "max_object_size", 0..=OBJECT_BYTES_MAX).unwrap_or_default();
    let max_key_bytes = reader.number(at, "max_key_bytes", MAX_KEY_BYTES).unwrap_or_default() as usize;
    let directory = reader.path(at, "directory");
    let endpoint = s3_place(reader, at, directory.is_some());
    let place_of_bytes = match directory {
        Some(directory) => {
            refuse_s3_keys(reader, at);
            Place::Directory(directory)
        }
        None => Place::Endpoint(Box::new(endpoint?)),
    };
    Some(Backend {
        name: name.unwrap_or_else(|| BackendName::new(&format!("backend-{place}"))),
        place: place_of_bytes,
        quota_bytes,
        max_object_size_bytes,
        max_key_bytes,
        budget: budget(reader, at),
    })
}

fn backend_name(text: &str) -> Result<BackendName, String> {
    let usable = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if (1..=64).contains(&text.len()) && text.bytes().all(usable) {
        Ok(BackendName::new(text))
    } else {
        Err(format!("`{text}` is not a backend name: 1 to 64 letters, digits, `-`, `_` and `.`"))
    }
}

fn s3_place(reader: &mut Reader, at: &Section<'_>, is_directory: bool) -> Option<S3Place> {
    let endpoint = reader.parsed(at, "endpoint", values::endpoint);
    let bucket = reader.parsed(at, "bucket", backend_bucket);
    let region = reader.parsed(at, "region", |text| Ok(text.to_owned()))?;
    let access_key_id = reader.parsed(at, "access_key_id", access_key);
    let secret_access_key = reader.secret(at, "secret_access_key");
    let force_path_style = reader.flag(at, "force_path_style")?;
    let unsigned_payload = reader.flag(at, "unsigned_payload");
    let disable_checksum = reader.flag(at, "disable_checksum")?;
    let strip_sdk_headers = reader.flag(at, "strip_sdk_headers")?;
    let ca_file = reader.path(at, "ca_file");
    let http = backend_http(reader, &at.section("http"))?;
    if !is_directory && !at.has("directory") {
        if ["endpoint", "bucket"].iter().all(|word| !at.has(word)) {
            reader.problem(at.line(), at.shown(), "needs either `directory`, or `endpoint`, `bucket` and keys");
            return None;
        }
        for word in ["endpoint", "bucket", "access_key_id", "secret_access_key"] {
            if !at.has(word) {
                reader.problem(at.line(), at.key(word), "is required for an S3 endpoint");
            }
        }
    }
    if !strip_sdk_headers {
        let message = "has no effect: there are no headers of an SDK to leave in";
        reader.warn(at.line_of("strip_sdk_headers"), at.key("strip_sdk_headers"), message);
    }
    let (endpoint, bucket) = (endpoint?, bucket?);
    if ca_file.is_some() && !endpoint.tls {
        reader.warn(at.line_of("ca_file"), at.key("ca_file"), "has no effect on an http:// endpoint");
    }
    Some(S3Place {
        force_path_style: force_path_style || !can_be_virtual_host(&endpoint, &bucket),
        signing: match unsigned_payload {
            Some(true) => PayloadSigning::Never,
            Some(false) => PayloadSigning::Always,
            None if endpoint.tls => PayloadSigning::Never,
            None => PayloadSigning::WhereKnown,
        },
        disable_checksum,
        region: if region.is_empty() { "us-east-1".to_owned() } else { region },
        access_key_id: access_key_id?,
        secret_access_key: secret_access_key?,
        endpoint,
        bucket,
        ca_file,
        http,
    })
}

fn backend_bucket(text: &str) -> Result<String, String> {
    let usable = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if (1..=255).contains(&text.len()) && text.bytes().all(usable) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` cannot be a bucket's name: letters, digits, `-`, `_` and `.`"))
    }
}

/// `bucket.host` must be a host name, and under TLS one that a `*.host` certificate covers.
fn can_be_virtual_host(endpoint: &Endpoint, bucket: &str) -> bool {
    let is_address = endpoint.host.parse::<IpAddr>().is_ok();
    !is_address && BucketName::parse(bucket).is_some() && !(endpoint.tls && bucket.contains('.'))
}

fn backend_http(reader: &mut Reader, at: &Section<'_>) -> Option<BackendHttp> {
    let idle_max = reader.number(at, "max_idle_conns_per_host", 0..=100_000);
    let conns_max = reader.number(at, "max_conns_per_host", 1..=100_000);
    Some(BackendHttp {
        max_idle_conns_per_host: idle_max?.min(conns_max?) as usize,
        max_conns_per_host: conns_max? as usize,
        idle_conn_timeout: reader.duration(at, "idle_conn_timeout", TIMEOUT),
        connect_timeout: reader.duration(at, "connect_timeout", TIMEOUT),
        dns_ttl: reader.duration(at, "dns_ttl", WAIT),
    })
}

fn refuse_s3_keys(reader: &mut Reader, at: &Section<'_>) {
    let only_s3 = [
        "endpoint",
        "bucket",
        "region",
        "access_key_id",
        "secret_access_key",
        "force_path_style",
        "unsigned_payload",
        "disable_checksum",
        "strip_sdk_headers",
        "ca_file",
        "http",
    ];
    for word in only_s3 {
        if at.has(word) {
            let message = "belongs to an S3 endpoint, but this backend has a `directory`; remove one of them";
            reader.problem(at.line_of(word), at.key(word), message);
        }
    }
}

/// Why two backends cannot live beside each other; the sentence goes on with the other one.
fn conflict(backend: &Backend, other: &Backend) -> Option<&'static str> {
    if backend.name == other.name {
        return Some("has the same name as");
    }
    match (&backend.place, &other.place) {
        (Place::Directory(a), Place::Directory(b)) => {
            (holds(a, b) || holds(b, a)).then_some("is, holds or lies in the directory of")
        }
        (Place::Endpoint(a), Place::Endpoint(b)) => {
            (a.endpoint == b.endpoint && a.bucket == b.bucket).then_some("has the same endpoint and bucket as")
        }
        _ => None,
    }
}

/// What lies in a backend's directory is an object to whoever imports it (`sync`), and a client may read and delete that.
pub(super) fn check_own_files(
    reader: &mut Reader,
    backends: &[(Backend, usize)],
    database: &Database,
    tls: Option<&Tls>,
) {
    let database = match &database.driver {
        DatabaseDriver::Sqlite { path } => Some(path),
        DatabaseDriver::Postgres(_) => None,
    };
    let own = [("database.path", database), ("server.tls.key_file", tls.map(|tls| &tls.key_file))];
    for (backend, line) in backends {
        let Place::Directory(folder) = &backend.place else { continue };
        for (key, path) in own {
            if let Some(path) = path.filter(|path| holds(folder, path)) {
                let name = backend.name.as_str();
                let message =
                    format!("`{}` lies in the directory of backend `{name}`: put it elsewhere", path.display());
                reader.problem(*line, key, message);
            }
        }
    }
}

/// As far as the paths tell: a path is in its own directory.
fn holds(folder: &Path, path: &Path) -> bool {
    let (folder, path) = (plain(folder), plain(path));
    folder.is_absolute() == path.is_absolute() && path.starts_with(folder)
}

/// Without `.` and doubled slashes, so that equal paths compare equal.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

/// The reference refuses some of these; here they are allowed, because each has a use.
pub(super) fn warn_of_backends(
    reader: &mut Reader,
    root: &Section<'_>,
    backends: &[(Backend, usize)],
    strategy: Strategy,
    factor: u32,
) {
    let unlimited = |(backend, _): &&(Backend, usize)| backend.quota_bytes == 0;
    if backends.len() > 1 && factor == 1 {
        let message = "is 1: every object has one copy, and a lost backend loses its objects; set 2 or more";
        reader.warn(root.section("replication").line_of("factor"), "replication.factor", message);
    }
    let Some((first, line)) = backends.iter().find(unlimited) else { return };
    let after = backends.iter().skip_while(|(backend, _)| backend.name != first.name).count() - 1;
    if strategy == Strategy::Pack && after > 0 && factor as usize <= backends.len() - after {
        let message = format!(
            "`{}` has no quota and `routing_strategy` is pack, so the {after} backends after it get no first copies; set \
             `quota_bytes`, put it last, or use spread",
            first.name.as_str()
        );
        reader.warn(*line, "backends", message);
    } else if strategy == Strategy::Spread && backends.iter().any(|one| !unlimited(&one)) {
        let message = format!(
            "`{}` has no quota and counts as empty, so spread always prefers it to backends with one; set `quota_bytes`",
            first.name.as_str()
        );
        reader.warn(*line, "backends", message);
    }
}
