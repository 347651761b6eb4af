//! The configuration of `s3-orchestrator dev`: SQLite and three directories with quotas below one folder. Written as a file
//! would be, and read the same way, so that it has the same defaults and passes the same checks.

use super::checked::Config;
use super::problem::Problems;
use std::net::SocketAddr;
use std::path::Path;

pub const DEV_BUCKET: &str = "photos";
/// It may create buckets.
const DEV_USER: &str = "dev";
pub const DEV_ACCESS_KEY: &str = "photoskey";
pub const DEV_SECRET: &str = "photossecret";

/// Everything lives in `dir`; nothing is created here.
pub fn dev(dir: &Path, listen: SocketAddr, admin_listen: SocketAddr) -> Result<Config, Problems> {
    super::from_text(&dev_text(listen, admin_listen), dir, &|_| None).map(|checked| checked.config)
}

fn dev_text(listen: SocketAddr, admin_listen: SocketAddr) -> String {
    let backends: String =
        (1..=3).map(|i| format!("  - name: disk-{i}\n    directory: disk-{i}\n    quota_bytes: 20GiB\n")).collect();
    format!(
        "server:\n  listen_addr: '{listen}'\n  max_object_size: 5TiB\n\
         admin:\n  listen_addr: '{admin_listen}'\n\
         database:\n  driver: sqlite\n  path: metadata.db\n\
         buckets:\n  - name: {DEV_BUCKET}\n\
         auth:\n  users:\n    - name: {DEV_USER}\n      access_key_id: {DEV_ACCESS_KEY}\n      \
         secret_access_key: {DEV_SECRET}\n      permissions: create-buckets\n      \
         grants: [{{bucket: {DEV_BUCKET}, permissions: all}}]\n\
         backends:\n{backends}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::checked::{DatabaseDriver, Place};
    use crate::policy::access::Permissions;

    #[test]
    fn it_is_a_valid_configuration() {
        let listen = "[::1]:9000".parse().expect("an address");
        let admin = "127.0.0.1:9001".parse().expect("an address");
        let config = dev(Path::new("/tmp/$dev: x"), listen, admin).expect("the dev configuration is valid");
        assert_eq!((config.server.listen_addr, config.admin.listen_addr), (listen, admin));
        assert_eq!(config.database.driver, DatabaseDriver::Sqlite { path: "/tmp/$dev: x/metadata.db".into() });
        assert_eq!(config.backends.len(), 3);
        assert!(config.backends.iter().all(|one| one.quota_bytes > 0));
        assert_eq!(config.backends[2].place, Place::Directory("/tmp/$dev: x/disk-3".into()));
        let user = &config.credentials[0].principal;
        assert!(user.may_create_buckets() && user.held_in(DEV_BUCKET, None) == Some(Permissions::ALL), "{user:?}");
        assert_eq!(&*config.buckets[0].owner, DEV_USER);
        let problems = dev(Path::new("."), listen, "0.0.0.0:9001".parse().expect("an address")).expect_err("no token");
        assert!(problems.to_string().contains("admin.token"), "{problems}");
    }
}
