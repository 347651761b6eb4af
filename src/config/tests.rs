//! Whole files: what is accepted, what is meant by it, and what is said about the rest.

use super::checked::{DatabaseDriver, PayloadSigning, Place, SslMode};
use super::schema::{Absent, KEYS, State};
use super::{Checked, Problems, Registry, View, check, expand, from_text, raw, reader};
use crate::base::{BackendName, limits};
use crate::policy::access::{Permission, Rank};
use std::path::Path;
use std::time::Duration;

const EXAMPLE: &str = include_str!("../../config/example.yaml");
const DOCUMENTATION: &str = include_str!("../../docs/configuration.md");

/// A valid file of one bucket and two directories, in which tests replace a line or append some.
const SMALL: &str = "\
server:
  listen_addr: 127.0.0.1:9000
buckets:
  - name: photos
    credentials:
      - access_key_id: key
        secret_access_key: secret
backends:
  - name: one
    directory: d/one
    quota_bytes: 1GiB
  - name: two
    directory: d/two
    quota_bytes: 1GiB
replication: {factor: 2}
";

fn read(text: &str) -> Result<Checked, Problems> {
    from_text(text, Path::new("/etc/s3o"), &|name| (name == "SECRET").then(|| "from: the environment".to_owned()))
}

fn valid(text: &str) -> Checked {
    read(text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

/// `SMALL` with `from` replaced by `to` (or, without `from`, with `to` appended) has exactly these problems.
fn check_problems(from: &str, to: &str, want: &[&str]) {
    let text = if from.is_empty() { format!("{SMALL}{to}") } else { SMALL.replacen(from, to, 1) };
    assert!(from.is_empty() || SMALL.contains(from), "{from:?} is not in the file");
    let problems = read(&text).err().map(|problems| problems.to_string()).unwrap_or_default();
    assert_eq!(problems.lines().collect::<Vec<_>>(), want, "\n{text}");
}

/// `SMALL` with these replacements is valid, and each warning holds the words wanted.
fn check_warnings(replacements: &[(&str, &str)], want: &[&str]) {
    let text = replacements.iter().fold(SMALL.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from:?} is not in the file");
        text.replacen(from, to, 1)
    });
    let got: Vec<_> = valid(&text).warnings.iter().map(ToString::to_string).collect();
    assert_eq!(got.len(), want.len(), "{got:?}");
    for (got, want) in got.iter().zip(want) {
        assert!(got.contains(want), "{got:?} does not say {want:?}");
    }
}

#[test]
fn the_example_is_valid_and_names_every_key() {
    let checked = valid(EXAMPLE);
    assert_eq!(checked.warnings, [], "the example should be a good one");
    for key in KEYS.iter().filter(|key| matches!(key.state, State::Known { .. })) {
        let word = key.path.rsplit('.').next().expect("a path has a last word");
        assert!(EXAMPLE.contains(&format!("{word}:")), "config/example.yaml does not show {}", key.path);
    }
}

#[test]
fn the_documentation_gives_type_and_default_of_every_key() {
    for key in KEYS {
        match key.state {
            State::Known { kind, default } => {
                let default = match default {
                    Absent::Required => "required".to_owned(),
                    Absent::Unset => "–".to_owned(),
                    Absent::Is(text) => format!("`{text}`"),
                };
                let row = format!("| `{}` | {} | {default} | ", key.path, kind.name());
                assert!(DOCUMENTATION.contains(&row), "docs/configuration.md lacks the row\n{row}");
            }
            State::NotYet { .. } | State::Gone { .. } => {
                assert!(DOCUMENTATION.contains(&format!("`{}`", key.path)), "docs/configuration.md lacks {}", key.path);
            }
        }
    }
}

#[test]
fn every_key_of_the_table_is_read() {
    let rule = "    cors: [{allowed_origins: '*', allowed_methods: [GET]}]\n";
    let user = "auth: {users: [{name: a, access_key_id: b, secret_access_key: c, grants: [{bucket: '*', permissions: all}]}]}\n";
    let pool = "backends:\n  - request_limits: [{name: a, operations: '*', limit: 1}]\n    ";
    let with_lists = SMALL.replace("backends:\n  - ", &format!("{rule}{user}{pool}"));
    let root = raw::parse(&with_lists).expect("valid YAML");
    let mut reader = reader::Reader::new(Path::new("/"));
    check::read_all(&mut reader, &root, Vec::new()).expect("a valid file");
    let shared = raw::parse(&format!("{SMALL}database: {{host: db, database: d, user: u}}\n")).expect("valid YAML");
    let mut other = reader::Reader::new(Path::new("/"));
    check::read_all(&mut other, &shared, Vec::new()).expect("a valid file");
    reader.read.append(&mut other.read);
    for key in KEYS.iter().filter(|key| matches!(key.state, State::Known { .. })) {
        assert!(reader.read.contains(key.path), "{} is in the table, but nothing reads it", key.path);
    }
}

#[test]
fn defaults_and_lookups() {
    let view = View::new(valid(SMALL).config);
    assert_eq!(view.server.idle_timeout, Duration::from_secs(120));
    assert_eq!(view.server.max_header_bytes, limits::HEAD_BYTES_MAX);
    assert_eq!(view.server.max_object_size_bytes, 5 << 30);
    assert_eq!(view.database.driver, DatabaseDriver::Sqlite { path: "/etc/s3o/s3-orchestrator.db".into() });
    assert_eq!(view.backends[0].place, Place::Directory("/etc/s3o/d/one".into()));
    assert_eq!(view.admin.listen_addr.to_string(), "127.0.0.1:9001");
    assert_eq!([1, 2, 8].map(|cores| view.server.reactors_on(cores)), [1, 1, 7]);
    assert_eq!(view.backend_index(&BackendName::new("two")), Some(1));
    assert_eq!(view.backend_index(&BackendName::new("three")), None);
    let registry = Registry::new(&view, 0, []);
    assert_eq!(registry.bucket("photos").map(|one| one.name.as_str()), Some("photos"));
    assert!(registry.bucket("photo").is_none() && registry.credential("kez").is_none());
    let credential = registry.credential("key").expect("it is in the file");
    assert_eq!(credential.secret_access_key.expose(), "secret");
    assert_eq!(registry.seen_by(&credential.principal).len(), 1);
    assert!(!format!("{view:?}").contains("secret\""), "secrets do not print themselves");
}

#[test]
fn values_come_from_the_environment() {
    let text = SMALL.replace("secret_access_key: secret", "secret_access_key: ${SECRET}$$");
    assert_eq!(valid(&text).config.credentials[0].secret_access_key.expose(), "from: the environment$");
    check_problems(
        "secret_access_key: secret",
        "secret_access_key: ${NOT_SET}",
        &["line 7: buckets[0].credentials[0].secret_access_key: the environment variable NOT_SET is not set"],
    );
}

#[test]
fn an_s3_endpoint() {
    let place = |lines: &str| {
        let s3 = format!(
            "endpoint: https://s3.example.com\n    bucket: store\n    access_key_id: a\n    secret_access_key: b\n{lines}"
        );
        match valid(&SMALL.replacen("directory: d/one", &s3, 1)).config.backends[0].place.clone() {
            Place::Endpoint(place) => place,
            Place::Directory(path) => panic!("{path:?}"),
        }
    };
    let plain = place("");
    assert_eq!(
        (plain.region.as_str(), plain.force_path_style, plain.signing),
        ("us-east-1", false, PayloadSigning::Never)
    );
    assert!(!plain.disable_checksum);
    assert_eq!(plain.http.connect_timeout, Duration::from_secs(5));
    assert!(place("    force_path_style: true").force_path_style);
    assert_eq!(place("    unsigned_payload: false").signing, PayloadSigning::Always);
    assert!(place("    disable_checksum: true").disable_checksum);
    assert_eq!(place("    http: {max_conns_per_host: 7}").http.max_idle_conns_per_host, 7);
    for (from, to) in [("https://s3.example.com", "http://10.0.0.1"), ("bucket: store", "bucket: my.store")] {
        let text = SMALL.replacen(
            "directory: d/one",
            "endpoint: https://s3.example.com\n    bucket: store\n    access_key_id: a\n    secret_access_key: b",
            1,
        );
        let Place::Endpoint(place) = &valid(&text.replacen(from, to, 1)).config.backends[0].place else {
            panic!("an endpoint")
        };
        assert!(place.force_path_style, "{to} cannot be a virtual host");
    }
}

#[test]
fn wrong_keys_are_named_with_the_nearest() {
    check_problems(
        "  listen_addr",
        "  listen_adr: x\n  listen_addr",
        &["line 2: server.listen_adr: unknown key; did you mean `server.listen_addr`?"],
    );
    check_problems("", "listen_addr: x\n", &["line 16: listen_addr: unknown key; did you mean `server.listen_addr`?"]);
    check_problems("", "zzz: 1\n", &["line 16: zzz: unknown key; see docs/configuration.md"]);
    check_problems(
        "    quota_bytes: 1GiB\n  - name: two",
        "    quota: 1GiB\n  - name: two",
        &["line 11: backends[0].quota: unknown key; did you mean `backends[].quota_bytes`?"],
    );
    check_problems(
        "",
        "rebalance:\n  enabled: true\n",
        &["line 16: rebalance: not available yet: rebalancing will come in a later version; remove it from the file"],
    );
    check_problems(
        "  listen_addr",
        "  write_timeout: 5m\n  listen_addr",
        &["line 2: server.write_timeout: has no use here: a body has no total time limit, only \
           `server.body_progress_timeout` without progress"],
    );
}

#[test]
fn wrong_shapes() {
    check_problems(
        "server:\n  listen_addr: 127.0.0.1:9000",
        "server: 9000",
        &["line 1: server: must be a section, but is a single value", "line 1: server.listen_addr: is required"],
    );
    check_problems(
        "quota_bytes: 1GiB",
        "quota_bytes: [1]",
        &["line 11: backends[0].quota_bytes: must be a single value, but is a list"],
    );
    check_problems(
        "replication: {factor: 2}",
        "replication: [1]",
        &["line 15: replication: must be a section, but is a list"],
    );
    let list = read("server: {listen_addr: ':1'}\nbuckets: x\nbackends: {a: 1}\n").expect_err("no lists").to_string();
    assert!(
        list.contains("line 2: buckets: must be a list (lines that start with `- `), but is a single value"),
        "{list}"
    );
    assert!(list.contains("line 3: backends: must be a list (lines that start with `- `), but is a section"), "{list}");
}

#[test]
fn wrong_values_are_all_reported_at_once() {
    let text = "\
server:
  listen_addr: nowhere
  log_level: loud
  reactors: 0
  idle_timeout: 30
  max_header_bytes: 1MiB
  tls: {cert_file: a}
buckets:
  - name: health
  - name: Photos
    credentials:
      - access_key_id: a/b
        secret_access_key: ''
database: {driver: mysql}
backends:
  - endpoint: s3.example.com
    bucket: b
telemetry: {metrics: {path: metrics}}
";
    let want = [
        "line 2: server.listen_addr: `nowhere` is not an address and port; write it like 0.0.0.0:9000 or [::1]:9000",
        "line 3: server.log_level: `loud` is none of debug, info, warn, error",
        "line 4: server.reactors: 0 is too small; at least 1",
        "line 5: server.idle_timeout: `30` is not a duration; write it like 500ms, 30s, 5m or 1h30m",
        "line 6: server.max_header_bytes: 1MiB is too large; at most 32KiB",
        "line 7: server.tls.cert_file: needs `key_file` beside it",
        "line 9: buckets[0].name: `health` is a path of our own; choose another name",
        "line 10: buckets[1].name: `Photos` is not a bucket name: 3 to 63 lower-case letters, digits, `-` and `.`, letter or \
         digit at both ends, no `..`, no IP address",
        "line 12: buckets[1].credentials[0].access_key_id: must be 1 to 128 visible ASCII characters other than `/`, `,` and \
         `=`",
        "line 13: buckets[1].credentials[0].secret_access_key: is empty",
        "line 14: database.driver: `mysql` is none of sqlite, postgres",
        "line 16: backends[0].endpoint: `s3.example.com` does not start with http:// or https://; write it like \
         https://s3.example.com or http://10.0.0.5:9000",
        "line 16: backends[0].access_key_id: is required for an S3 endpoint",
        "line 16: backends[0].secret_access_key: is required for an S3 endpoint",
        "line 18: telemetry.metrics.path: `metrics` is not a path; write it like /metrics",
    ];
    let problems = read(text).expect_err("all wrong").to_string();
    assert_eq!(problems.lines().collect::<Vec<_>>(), want);
    for path in ["/:metrics", "/a/*", "/*/a", "/{a}", "//a", "/a b", "/", "/health", "/admin/api/status"] {
        let problems =
            read(&format!("{SMALL}telemetry: {{metrics: {{path: '{path}'}}}}\n")).expect_err(path).to_string();
        assert!(problems.starts_with("line 16: telemetry.metrics.path: "), "{problems}");
    }
    assert_eq!(valid(&format!("{SMALL}telemetry: {{metrics: {{path: '/a:b/c*'}}}}\n")).config.metrics.path, "/a:b/c*");
    let empty = read("").expect_err("nothing is there").to_string();
    let want = [
        "buckets: is required: list at least one bucket, or a user in `auth.users` that may create buckets",
        "backends: is required: list at least one backend",
        "server.listen_addr: is required",
    ];
    assert_eq!(empty.lines().collect::<Vec<_>>(), want);
}

#[test]
fn postgres_has_keys_of_its_own() {
    let view = View::new(
        valid(&format!(
            "{SMALL}database:\n  host: [a.example.com, 'b:6432']\n  database: meta\n  user: s3o\n  password: geheim\n"
        ))
        .config,
    );
    let DatabaseDriver::Postgres(postgres) = &view.database.driver else { panic!("a host means PostgreSQL") };
    assert_eq!(postgres.hosts, [("a.example.com".to_owned(), 5432), ("b".to_owned(), 6432)]);
    assert_eq!((postgres.ssl_mode, postgres.max_conns), (SslMode::Require, 10));
    assert!(!format!("{postgres:?}").contains("geheim"), "secrets do not print themselves");
    check_problems(
        "",
        "database: {driver: postgres, path: x, min_conns: 20}\n",
        &[
            "line 16: database.path: belongs to `driver: sqlite`; remove it",
            "line 16: database.host: is required for PostgreSQL",
            "line 16: database.database: is required for PostgreSQL",
            "line 16: database.user: is required for PostgreSQL",
            "line 16: database.min_conns: is more than `max_conns`",
        ],
    );
    check_problems(
        "",
        "database: {driver: sqlite, user: x}\n",
        &["line 16: database.user: belongs to `driver: postgres`; remove it, or the driver's line"],
    );
}

#[test]
fn rules_across_keys() {
    check_problems("name: two", "name: one", &["line 12: backends[1]: has the same name as the backend of line 9"]);
    for same in ["./d//one/", "d/one/below", "d", "/etc/s3o/d/one"] {
        check_problems(
            "directory: d/two",
            &format!("directory: {same}"),
            &["line 12: backends[1]: is, holds or lies in the directory of the backend of line 9"],
        );
    }
    check_problems(
        "",
        "database: {path: d/two/meta.db}\n",
        &["line 12: database.path: `/etc/s3o/d/two/meta.db` lies in the directory of backend `two`: put it elsewhere"],
    );
    check_problems(
        "server:\n",
        "server:\n  tls: {cert_file: d/one/cert.pem, key_file: ./d/one/key.pem}\n",
        &[
            "line 10: server.tls.key_file: `/etc/s3o/./d/one/key.pem` lies in the directory of backend `one`: put it elsewhere",
        ],
    );
    // Where the database is when nothing says so.
    for folder in [".", "/etc/s3o", "/etc"] {
        check_problems(
            "directory: d/one",
            &format!("directory: {folder}"),
            &[
                "line 9: database.path: `/etc/s3o/s3-orchestrator.db` lies in the directory of backend `one`: put it elsewhere",
                "line 12: backends[1]: is, holds or lies in the directory of the backend of line 9",
            ],
        );
    }
    check_problems(
        "directory: d/two",
        "directory: d/two\n    bucket: x",
        &[
            "line 14: backends[1].bucket: belongs to an S3 endpoint, but this backend has a `directory`; remove one of them",
        ],
    );
    check_problems(
        "    directory: d/two\n",
        "",
        &["line 12: backends[1]: needs either `directory`, or `endpoint`, `bucket` and keys"],
    );
    check_problems(
        "factor: 2",
        "factor: 3",
        &["line 15: replication.factor: 3 copies need 3 backends, but 2 are listed"],
    );
    check_problems(
        "127.0.0.1:9000\n",
        "127.0.0.1:9000\n  tls: {min_version: '1.3'}\n",
        &["line 3: server.tls.min_version: needs `cert_file` and `key_file` beside it"],
    );
    check_problems(
        "",
        "admin: {listen_addr: '0.0.0.0:9001'}\n",
        &[
            "line 16: admin.listen_addr: is reachable from other machines and so needs `admin.token`; or listen on 127.0.0.1",
        ],
    );
    check_problems("", "admin: {listen_addr: '0.0.0.0:9001', token: t}\n", &[]);
    check_problems(
        "",
        "admin:\n  listen_addr: 127.0.0.1:9000\n",
        &["line 17: admin.listen_addr: is the address of `server.listen_addr`; use another port"],
    );
    check_problems(
        "",
        "telemetry: {metrics: {listen: ':9001'}}\n",
        &[
            "line 16: telemetry.metrics.listen: is the address of `admin.listen_addr`, which serves metrics already; remove it",
        ],
    );
    check_problems(
        "",
        "cleanup_queue: {retry_first: 2h, retry_max: 1h}\n",
        &["line 16: cleanup_queue.retry_first: is longer than `retry_max`"],
    );
    let bucket = "buckets:\n  - name: photos\n    credentials: [{access_key_id: key, secret_access_key: x}]\n";
    check_problems(
        "buckets:\n",
        bucket,
        &[
            "line 6: buckets[1].name: the bucket of line 4 has this name already",
            "line 8: buckets[1].credentials[0].access_key_id: the access key `key` stands above already; every key belongs to one user",
        ],
    );
}

#[test]
fn users_and_their_grants() {
    let text = "\
server: {listen_addr: ':9000'}
auth:
  root: {access_key_id: rootkey, secret_access_key: s}
  users:
    - {name: ann, access_key_id: annkey, secret_access_key: s, permissions: [create-buckets]}
    - name: reader
      access_key_id: readkey
      secret_access_key: s
      grants: [{bucket: photos, permissions: [read, list]}, {bucket: '*', permissions: list}]
buckets:
  - name: photos
    credentials: [{access_key_id: own, secret_access_key: s}, {access_key_id: look, secret_access_key: s, permissions: [read]}]
  - {name: archive}
backends: [{directory: d}]
";
    let registry = Registry::new(&valid(text).config, 0, []);
    let held = |key: &str, bucket: &str| -> Vec<&str> {
        let principal = &registry.credential(key).expect("it is in the file").principal;
        principal.held_in(bucket, None).into_iter().flat_map(|held| held.iter().map(Permission::as_str)).collect()
    };
    let all = ["list-buckets", "list", "read", "write", "delete", "tags"];
    assert_eq!(held("rootkey", "anything"), all);
    assert_eq!(held("annkey", "photos"), [""; 0]);
    assert_eq!(held("readkey", "photos"), ["list-buckets", "list", "read"]);
    assert_eq!(held("readkey", "archive"), ["list-buckets", "list"]);
    assert_eq!(held("own", "photos"), all);
    assert_eq!(held("own", "archive"), [""; 0]);
    assert_eq!(held("look", "photos"), ["list-buckets", "read"]);
    let rank = |key: &str| registry.credential(key).expect("it is in the file").principal.rank;
    assert_eq!((rank("rootkey"), rank("annkey"), rank("own")), (Rank::Root, Rank::Creator, Rank::Plain));
    let owner = |name: &str| &*registry.bucket(name).expect("a bucket").owner;
    assert_eq!((owner("photos"), owner("archive")), ("own", "reader"));
}

#[test]
fn names_and_keys_belong_to_one_user() {
    let with = |auth: &str, want: &[&str]| check_problems("backends:\n", &format!("{auth}\nbackends:\n"), want);
    let user = |name: &str, key: &str| format!("{{name: {name}, access_key_id: {key}, secret_access_key: s}}");
    with(&format!("auth: {{users: [{}, {}]}}", user("a", "k1"), user("b", "k2")), &[]);
    with(
        &format!("auth: {{users: [{}, {}]}}", user("a", "k1"), user("a", "k2")),
        &["line 8: auth.users[1].name: the user of line 8 has this name already"],
    );
    with(
        &format!("auth: {{users: [{}]}}", user("a", "key")),
        &[
            "line 6: buckets[0].credentials[0].access_key_id: the access key `key` stands above already; every key belongs to one user",
        ],
    );
    with(
        &format!("auth: {{users: [{}]}}", user("key", "k1")),
        &["line 6: buckets[0].credentials[0].access_key_id: is the name of the user of line 8; choose another key"],
    );
    with(
        &format!("auth: {{users: [{}]}}", user("root", "k1")),
        &["line 8: auth.users[0].name: is the name of `auth.root`; choose another one"],
    );
    check_problems(
        "buckets:\n",
        "buckets:\n  - name: nobodys\n",
        &["line 4: buckets[0].credentials: is required: no user in `auth` may use this bucket either"],
    );
    with("auth: {root: {access_key_id: r}}", &["line 8: auth.root.access_key_id: needs `secret_access_key` beside it"]);
    with(
        "auth: {users: [{name: a b, access_key_id: k, secret_access_key: s, permissions: [all], grants: [{bucket: B, permissions: [see]}]}]}",
        &[
            "line 8: auth.users[0].name: must be 1 to 64 letters, digits and `-`, `_`, `.`, `@`, `+`",
            "line 8: auth.users[0].permissions: `all` is none of create-buckets; what a user may do in a bucket stands in `grants`",
            "line 8: auth.users[0].grants[0].bucket: `B` is not a bucket name: 3 to 63 lower-case letters, digits, `-` and `.`, \
             letter or digit at both ends, no `..`, no IP address",
            "line 8: auth.users[0].grants[0].permissions: `see` is none of list-buckets, list, read, write, delete, tags, all",
        ],
    );
}

#[test]
fn doubtful_things_are_warned_of() {
    let one_copy = ("factor: 2", "factor: 1");
    let first_unlimited = ("    quota_bytes: 1GiB\n", "");
    let spread = ("replication:", "routing_strategy: spread\nreplication:");
    check_warnings(&[], &[]);
    check_warnings(&[one_copy], &["replication.factor: is 1: every object has one copy"]);
    check_warnings(&[first_unlimited], &[]); // the other one gets a copy of everything anyway
    check_warnings(
        &[first_unlimited, one_copy],
        &["the 1 backends after it get no first copies", "replication.factor"],
    );
    check_warnings(&[first_unlimited, spread], &["spread always prefers it"]);
    check_warnings(&[first_unlimited, first_unlimited, spread], &[]);
    check_warnings(&[("  - name: two\n    directory", "  - directory")], &["it is `backend-1` by its place"]);
    check_warnings(&[("replication:", "write_path: {settle: 1m}\nreplication:")], &["shorter than 15m"]);
}

#[test]
fn keys_without_effect_are_warned_of_one_by_one() {
    let check = |more: &str, want: &[&str]| {
        let got: Vec<_> = valid(&format!("{SMALL}{more}\n")).warnings.iter().map(ToString::to_string).collect();
        assert_eq!(got, want, "{more}");
    };
    let postgres = "database: {host: db, database: d, user: u, ssl_mode: prefer, ssl_root_cert: /r}";
    let limited = "usage_flush: {adaptive_enabled: true, adaptive_threshold: 0.5}";
    let breakers = "line 16: backend_circuit_breaker";
    let off = "has no effect without `backend_circuit_breaker.enabled: true`";
    check(
        "backend_circuit_breaker: {failure_threshold: 3, open_timeout: 1m}",
        &[&format!("{breakers}.failure_threshold: {off}"), &format!("{breakers}.open_timeout: {off}")],
    );
    check("backend_circuit_breaker: {enabled: true, failure_threshold: 3, open_timeout: 1m}", &[]);
    check(
        "circuit_breaker: {degraded_reads_enabled: false, cache_ttl: 1m, open_timeout: 1s}",
        &["line 16: circuit_breaker.cache_ttl: has no effect without `circuit_breaker.degraded_reads_enabled`"],
    );
    check(
        "usage_flush: {fast_interval: 1s}",
        &["line 16: usage_flush.fast_interval: has no effect without `usage_flush.adaptive_enabled: true`"],
    );
    check(
        limited,
        &[
            "line 16: usage_flush.adaptive_enabled: has no effect while no backend has a monthly limit that it could come near to",
        ],
    );
    check(
        "telemetry: {metrics: {enabled: false, path: /m}}",
        &["line 16: telemetry.metrics.path: has no effect with `telemetry.metrics.enabled: false`"],
    );
    check(
        "location_cache: {max_staleness: 1s}",
        &["line 16: location_cache.max_staleness: has no effect on SQLite, beside which the cache is exact"],
    );
    check(
        &format!("{postgres}\nlocation_cache: {{max_staleness: 1s, max_size: 0}}"),
        &[
            "line 16: database.ssl_root_cert: has no effect with this `ssl_mode`, which trusts any server",
            "line 17: location_cache.max_staleness: has no effect with `location_cache.max_size: 0`",
        ],
    );
    let threshold = ("{factor: 2}", "{factor: 2, unhealthy_threshold: 1m}");
    check_warnings(&[threshold], &["line 15: replication.unhealthy_threshold: has no effect without"]);
    let with_breakers = ("replication:", "backend_circuit_breaker: {enabled: true}\nreplication:");
    check_warnings(&[threshold, with_breakers], &[]);
    let single = ("{factor: 2}", "{factor: 1, unhealthy_threshold: 1m}");
    check_warnings(
        &[single, with_breakers],
        &["replication.factor: is 1", "unhealthy_threshold: has no effect with `r"],
    );
    let budget = ("    quota_bytes", "    egress_byte_limit: 1GiB\n    quota_bytes");
    let adaptive = ("replication:", "usage_flush: {adaptive_enabled: true, fast_interval: 1s}\nreplication:");
    check_warnings(&[budget, adaptive], &[]);
}

#[test]
fn calls_that_may_take_longer_than_a_lease_are_warned_of() {
    let check = |database: &str, write_path: &str, want: &[&str]| {
        let text = format!("{SMALL}database: {{{database}}}\nwrite_path: {{{write_path}settle: 20m}}\n");
        let got: Vec<_> = valid(&text).warnings.iter().map(ToString::to_string).collect();
        assert_eq!(got.len(), want.len(), "{got:?}");
        for (got, want) in got.iter().zip(want) {
            assert!(got.starts_with(want), "{got} is not {want}");
        }
    };
    let postgres = "host: db, database: d, user: u";
    let said = |line, key, timeout, lease| {
        format!(
            "line {line}: {key}: `database.call_timeout`, {timeout}, should be shorter than `write_path.lease`, {lease}:"
        )
    };
    check(&format!("{postgres}, call_timeout: 9s"), "", &[]);
    check(&format!("{postgres}, call_timeout: 10s"), "", &[&said(16, "database.call_timeout", "10s", "10s")]);
    check(
        &format!("{postgres}, call_timeout: 90s"),
        "lease: 60s, ",
        &[&said(16, "database.call_timeout", "90s", "60s")],
    );
    check(postgres, "lease: 1500ms, ", &[&said(17, "write_path.lease", "2s", "1.5s")]);
    // Without others there is no lease.
    check("call_timeout: 90s", "", &[]);
}

#[test]
fn unset_variables_do_not_hide_other_problems() {
    let text = SMALL.replace("1GiB", "${NOT_SET}").replace("9000", "none");
    let problems = read(&text).expect_err("three problems").to_string();
    assert_eq!(problems.lines().count(), 3, "{problems}");
    let mut root = raw::parse(&text).expect("valid YAML");
    assert_eq!(expand::expand(&mut root, &|_| None).len(), 2);
}

proptest::proptest! {
    #[test]
    fn no_text_panics(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..40)) {
        let text: String = pieces.concat();
        if let Err(problems) = read(&text) {
            assert!(!problems.0.is_empty(), "{text}");
        }
    }
}

/// What files are made of, right and wrong.
const PIECES: &[&str] = &[
    "server:\n",
    "  listen_addr: ':1'\n",
    "buckets:\n",
    "  - name: photos\n",
    "    credentials:\n",
    "      - access_key_id: a\n",
    "        secret_access_key: b\n",
    "backends:\n",
    "  - directory: d\n",
    "  - endpoint: https://[::1]:\n",
    "    bucket: b\n",
    "    http: {max_conns_per_host: 1}\n",
    "replication: {factor: 99999999999999999999}\n",
    "- ",
    ": ",
    "\n",
    "  ",
    "&a ",
    "*a ",
    "<<: *a\n",
    "${",
    "}",
    "$",
    "[",
    "]",
    "{",
    "\"",
    "'",
    "|\n",
    "\u{0}",
    "é",
    "\t",
    "#",
    "---\n",
    "!!int ",
    "~",
];
