//! Whether what a configuration points to is there. Asked by `validate` only: it may run on another machine than `serve`,
//! so nothing found here makes a configuration wrong.

use super::checked::{Config, DatabaseDriver, Place, Postgres, Redis};
use super::problem::Problem;
use std::path::Path;

/// What `serve` would miss on this machine.
pub fn missing(config: &Config) -> Vec<Problem> {
    let mut missing = Vec::new();
    let mut want = |key: String, path: &Path, kind: Wanted| {
        if let Err(message) = kind.test(path) {
            missing.push(Problem { line: 0, key, message: format!("{} {message}", path.display()) });
        }
    };
    if let Some(tls) = &config.server.tls {
        want("server.tls.cert_file".into(), &tls.cert_file, Wanted::File);
        want("server.tls.key_file".into(), &tls.key_file, Wanted::File);
        if let Some(path) = &tls.client_ca_file {
            want("server.tls.client_ca_file".into(), path, Wanted::File);
        }
    }
    if let DatabaseDriver::Postgres(Postgres { ssl_root_cert: Some(path), .. }) = &config.database.driver {
        want("database.ssl_root_cert".into(), path, Wanted::File);
    }
    if let Some(Redis { tls: true, ca_file: Some(path), .. }) = &config.redis {
        want("redis.ca_file".into(), path, Wanted::File);
    }
    for (i, backend) in config.backends.iter().enumerate() {
        match &backend.place {
            Place::Directory(path) => want(format!("backends[{i}].directory"), path, Wanted::Directory),
            Place::Endpoint(place) => {
                if let Some(path) = &place.ca_file {
                    want(format!("backends[{i}].ca_file"), path, Wanted::File);
                }
            }
        }
    }
    missing
}

#[derive(Clone, Copy)]
enum Wanted {
    File,
    Directory,
}

impl Wanted {
    fn test(self, path: &Path) -> Result<(), String> {
        match self {
            Self::File => match std::fs::File::open(path).and_then(|file| file.metadata()) {
                Ok(metadata) if metadata.is_file() => Ok(()),
                Ok(_) => Err("is not a file".to_owned()),
                Err(error) => Err(format!("cannot be read: {error}")),
            },
            Self::Directory => match std::fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => Ok(()),
                Ok(_) => Err("is not a directory".to_owned()),
                Err(error) => Err(format!("cannot be used: {error}")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_text;

    #[test]
    fn what_is_not_there_is_named() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        for name in ["there", "keys"] {
            std::fs::create_dir(folder.path().join(name)).expect("a directory");
        }
        std::fs::write(folder.path().join("cert.pem"), "x").expect("a file");
        let text = "\
server: {listen_addr: ':9000', tls: {cert_file: cert.pem, key_file: keys, client_ca_file: clients.pem}}
database: {host: db, database: s3o, user: s3o, ssl_mode: verify-full, ssl_root_cert: root.pem}
redis: {address: 'redis:6379', tls: true, ca_file: redis.pem}
buckets: [{name: photos, credentials: [{access_key_id: a, secret_access_key: b}]}]
backends:
  - {name: one, directory: there}
  - {name: two, directory: cert.pem}
  - {name: three, endpoint: 'https://x', bucket: b, access_key_id: a, secret_access_key: b, ca_file: nowhere}
";
        let config = from_text(text, folder.path(), &|_| None).expect("a valid file").config;
        let missing: Vec<_> = missing(&config).into_iter().map(|one| (one.key, one.message)).collect();
        let keys: Vec<_> = missing.iter().map(|(key, _)| key.as_str()).collect();
        let want = [
            "server.tls.key_file",
            "server.tls.client_ca_file",
            "database.ssl_root_cert",
            "redis.ca_file",
            "backends[1].directory",
            "backends[2].ca_file",
        ];
        assert_eq!(keys, want);
        assert!(missing[0].1.ends_with("keys is not a file") && missing[4].1.ends_with("is not a directory"));
        assert!(missing[5].1.contains("nowhere cannot be read: "), "{missing:?}");
    }
}
