//! `database.*` of PostgreSQL.

use super::checked::{Config, DatabaseDriver, Postgres, SslMode};
use super::reader::{Reader, Section};
use super::values::TIMEOUT;
use crate::base::Secret;

/// Each of these means nothing to SQLite.
const KEYS: [&str; 14] = [
    "host",
    "port",
    "database",
    "user",
    "password",
    "ssl_mode",
    "ssl_root_cert",
    "max_conns",
    "min_conns",
    "max_conn_lifetime",
    "connect_timeout",
    "statement_timeout",
    "lock_timeout",
    "prepared_statements",
];

pub(super) fn nothing_of_postgres(reader: &mut Reader, at: &Section<'_>) {
    for word in KEYS.into_iter().filter(|word| at.has(word)) {
        reader.problem(
            at.line_of(word),
            at.key(word),
            "belongs to `driver: postgres`; remove it, or the driver's line",
        );
    }
}

/// A batch may wait for others' locks for three quarters of `call_timeout`, and the renewal of the lease behind it.
pub(super) fn warn_of_patience(reader: &mut Reader, root: &Section<'_>, config: &Config) {
    let (patience, lease) = (config.database.call_timeout, config.write_path.lease);
    if matches!(config.database.driver, DatabaseDriver::Postgres(_)) && patience >= lease {
        let (section, word) = match root.section("database").has("call_timeout") {
            true => (root.section("database"), "call_timeout"),
            false => (root.section("write_path"), "lease"),
        };
        let relation = format!(
            "`database.call_timeout`, {patience:?}, should be shorter than `write_path.lease`, {lease:?}: while one batch waits \
             for the database the lease of this instance may end, and with it all its unfinished writes; make the one \
             shorter, or the other longer on all instances"
        );
        reader.warn(section.line_of(word), section.key(word), relation);
    }
}

/// None only together with a problem.
pub(super) fn postgres(reader: &mut Reader, at: &Section<'_>) -> Option<Postgres> {
    use SslMode::{Disable, Prefer, Require, VerifyCa, VerifyFull};
    if at.has("path") {
        reader.problem(at.line_of("path"), at.key("path"), "belongs to `driver: sqlite`; remove it");
    }
    let port = reader.number(at, "port", 1..=65_535).unwrap_or(5432) as u16;
    let hosts = reader.texts(at, "host", |text| host(text, port));
    for word in ["host", "database", "user"].into_iter().filter(|word| !at.has(word)) {
        reader.problem(at.line(), at.key(word), "is required for PostgreSQL");
    }
    let max_conns = reader.number(at, "max_conns", 4..=1000).unwrap_or_default() as usize;
    let min_conns = reader.number(at, "min_conns", 0..=1000).unwrap_or_default() as usize;
    if min_conns > max_conns {
        reader.problem(at.line_of("min_conns"), at.key("min_conns"), "is more than `max_conns`");
    }
    Some(Postgres {
        hosts,
        database: reader.text(at, "database")?,
        user: reader.text(at, "user")?,
        password: reader.secret(at, "password").unwrap_or_else(|| Secret::new("")),
        ssl_mode: reader.choice(at, "ssl_mode", &[Disable, Prefer, Require, VerifyCa, VerifyFull]),
        ssl_root_cert: reader.path(at, "ssl_root_cert"),
        max_conns,
        min_conns,
        max_conn_lifetime: reader.duration(at, "max_conn_lifetime", TIMEOUT),
        connect_timeout: reader.duration(at, "connect_timeout", TIMEOUT),
        statement_timeout: reader.duration(at, "statement_timeout", TIMEOUT),
        lock_timeout: reader.duration(at, "lock_timeout", TIMEOUT),
        prepared_statements: reader.flag(at, "prepared_statements").unwrap_or(true),
    })
}

/// `name`, `name:port`, `[address]:port`, or the directory of a Unix socket.
fn host(text: &str, port: u16) -> Result<(String, u16), String> {
    let wrong =
        || format!("`{text}` is not a host; write it like db.example.com, db2.example.com:5433 or /run/postgresql");
    if text.starts_with('/') {
        return Ok((text.to_owned(), port));
    }
    let (name, own_port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => (address, rest.strip_prefix(':')),
        None if text.matches(':').count() > 1 => (text, None),
        None => text.split_once(':').map_or((text, None), |(name, own)| (name, Some(own))),
    };
    let port = own_port.map_or(Ok(port), str::parse).map_err(|_| wrong())?;
    let usable = !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'%'));
    if usable { Ok((name.to_owned(), port)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_and_without_ports() {
        for (text, want) in [
            ("db", Some(("db", 1))),
            ("db.example.com:5433", Some(("db.example.com", 5433))),
            ("10.0.0.5", Some(("10.0.0.5", 1))),
            ("[::1]:7", Some(("::1", 7))),
            ("::1", Some(("::1", 1))),
            ("/run/postgresql", Some(("/run/postgresql", 1))),
            ("", None),
            ("db:", None),
            ("db:x", None),
            ("postgres://db", None),
        ] {
            let got = host(text, 1).ok();
            assert_eq!(got.as_ref().map(|(name, port)| (name.as_str(), *port)), want, "{text}");
        }
    }
}
