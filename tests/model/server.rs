//! The product in this process, on a store of the test's choice: real reactors on a real socket, over two directories.

use s3_orchestrator::config::{self, View};
use s3_orchestrator::control::{start, stores};
use s3_orchestrator::reactor::clock::CoreClock;
use s3_orchestrator::store::memory::MemoryStore;
use s3_orchestrator::store::port::Rules;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

pub const ACCESS_KEY: &str = "modelkey";
pub const SECRET: &str = "modelsecret";
/// The first is the configuration's, which nobody can make or end; the others are made over S3.
pub const BUCKETS: [&str; 3] = ["first", "second", "third"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Store {
    Memory,
    Sqlite,
}

/// Serves until the test's process ends; the folder goes before that, with the last clone of what holds it.
pub struct Server {
    pub address: SocketAddr,
    _folder: TempDir,
}

impl Server {
    #[allow(clippy::disallowed_methods)] // nothing but the test waits
    pub fn start(store: Store) -> Self {
        let folder = TempDir::new().expect("a folder");
        let (address, admin) = (free_address(), free_address());
        let view = view(folder.path(), address, admin);
        let serve = move || match store {
            Store::Sqlite => start::serve_over(view, None, stores::open_store, std::io::sink()),
            Store::Memory => {
                let open = |_: &View| Ok(MemoryStore::new(CoreClock::default(), Rules::default()));
                start::serve_over(view, None, open, std::io::sink())
            }
        };
        std::thread::spawn(move || serve().unwrap_or_else(|error| panic!("{store:?}: {error:#}")));
        for _ in 0..1_000 {
            if is_ready(address) {
                return Self { address, _folder: folder };
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the server on {store:?} does not serve");
    }
}

fn view(folder: &Path, address: SocketAddr, admin: SocketAddr) -> View {
    for disk in ["one", "two"] {
        std::fs::create_dir(folder.join(disk)).expect("a backend's folder");
    }
    let first = BUCKETS[0];
    let text = format!(
        "server:\n  listen_addr: {address}\n  reactors: 1\nadmin:\n  listen_addr: {admin}\n\
         database:\n  driver: sqlite\n  path: metadata.db\n\
         auth:\n  users:\n    - name: {ACCESS_KEY}\n      access_key_id: {ACCESS_KEY}\n      secret_access_key: {SECRET}\n\
         \x20     permissions: [create-buckets]\n      grants:\n        - {{bucket: {first}, permissions: [all]}}\n\
         buckets:\n  - name: {first}\n\
         backends:\n  - name: one\n    directory: one\n    quota_bytes: 8GiB\n  - name: two\n    directory: two\n    quota_bytes: 8GiB\n"
    );
    let checked = config::from_text(&text, folder, &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
    View::new(checked.config)
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

fn is_ready(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET /health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
