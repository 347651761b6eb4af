//! `buckets` and `auth`: the virtual buckets, and who may use them. Root, users and the buckets' own credentials all become
//! credentials of principals; names and access keys are unique over all of them.

use super::check_cors::cors;
use super::checked::{Bucket, Credential};
use super::reader::{Reader, Section};
use crate::base::{BucketName, Secret};
use crate::policy::access::{Grant, Permission, Permissions, Principal, Rank, Scope};
use std::collections::HashMap;
use std::sync::Arc;

/// The user that `auth.root` is.
pub const ROOT: &str = "root";
/// Shown as the owner of a bucket that no user holds a grant on.
const NOBODY: &str = "s3-orchestrator";

pub(super) fn buckets_and_credentials(reader: &mut Reader, root: &Section<'_>) -> (Vec<Bucket>, Vec<Credential>) {
    let mut found = Found::default();
    let auth = root.section("auth");
    found.root(reader, &auth.section("root"));
    for at in auth.items("users") {
        found.user(reader, &at);
    }
    let buckets = buckets(reader, root, &mut found);
    let makes_buckets = |one: &Credential| one.principal.may_create_buckets();
    if buckets.is_empty() && root.items("buckets").is_empty() && !found.credentials.iter().any(makes_buckets) {
        let message = "is required: list at least one bucket, or a user in `auth.users` that may create buckets";
        reader.problem(root.line_of("buckets"), "buckets", message);
    }
    (buckets, found.credentials)
}

/// Credentials so far, and what is taken.
#[derive(Default)]
struct Found {
    credentials: Vec<Credential>,
    /// Names of root and the users, and where they stand.
    names: HashMap<String, usize>,
}

impl Found {
    fn root(&mut self, reader: &mut Reader, at: &Section<'_>) {
        let keys = ["access_key_id", "secret_access_key"];
        for (has, lacks) in [(keys[0], keys[1]), (keys[1], keys[0])] {
            if at.has(has) && !at.has(lacks) {
                reader.problem(at.line_of(has), at.key(has), format!("needs `{lacks}` beside it"));
            }
        }
        let id = reader.parsed(at, "access_key_id", access_key);
        if id.is_some() {
            self.names.insert(ROOT.to_owned(), at.line());
        }
        let principal = Principal { user: ROOT.into(), rank: Rank::Root, grants: Vec::new() };
        self.credential(reader, at, id, Some(principal));
    }

    fn user(&mut self, reader: &mut Reader, at: &Section<'_>) {
        let name = reader.parsed(at, "name", user_name);
        if let Some(name) = &name {
            if name == ROOT {
                reader.problem(at.line_of("name"), at.key("name"), "is the name of `auth.root`; choose another one");
            } else if let Some(line) = self.names.insert(name.clone(), at.line()) {
                let message = format!("the user of line {line} has this name already");
                reader.problem(at.line_of("name"), at.key("name"), message);
            }
        }
        let ranks = reader.texts(at, "permissions", rank);
        let rank = ranks.into_iter().max().unwrap_or(Rank::Plain);
        let grants = at.items("grants").iter().filter_map(|item| grant(reader, item)).collect();
        let principal = name.map(|name| Principal { user: name.into(), rank, grants });
        let id = reader.parsed(at, "access_key_id", access_key);
        self.credential(reader, at, id, principal);
    }

    /// One of a bucket's own.
    fn own(&mut self, reader: &mut Reader, at: &Section<'_>, bucket: Option<&BucketName>) {
        let words = reader.texts(at, "permissions", permission);
        let all = if at.has("permissions") { Permissions::NONE } else { Permissions::ALL };
        let permissions = words.into_iter().fold(all, Permissions::and).granted();
        let id = reader.parsed(at, "access_key_id", access_key);
        if let Some(line) = id.as_deref().and_then(|id| self.names.get(id)) {
            let message = format!("is the name of the user of line {line}; choose another key");
            reader.problem(at.line_of("access_key_id"), at.key("access_key_id"), message);
        }
        let principal = bucket.zip(id.as_deref()).map(|(bucket, user)| {
            let grants = vec![Grant { scope: Scope::Bucket(bucket.clone()), permissions }];
            Principal { user: user.into(), rank: Rank::Plain, grants }
        });
        self.credential(reader, at, id, principal);
    }

    fn credential(&mut self, reader: &mut Reader, at: &Section<'_>, id: Option<String>, principal: Option<Principal>) {
        let secret: Option<Secret> = reader.secret(at, "secret_access_key");
        let Some(id) = id else { return };
        if self.credentials.iter().any(|other| *other.access_key_id == *id) {
            let message = format!("the access key `{id}` stands above already; every key belongs to one user");
            reader.problem(at.line_of("access_key_id"), at.key("access_key_id"), message);
        }
        if let (Some(secret_access_key), Some(principal)) = (secret, principal) {
            self.credentials.push(Credential { access_key_id: id.into(), secret_access_key, principal });
        }
    }
}

fn buckets(reader: &mut Reader, root: &Section<'_>, found: &mut Found) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::new();
    let mut first_line = HashMap::new();
    for at in root.items("buckets") {
        let name = reader.parsed(&at, "name", bucket_name);
        let uploads_max = reader.number(&at, "max_multipart_uploads", 0..=u64::from(u32::MAX)).unwrap_or_default();
        let cors = cors(reader, &at);
        let own_from = found.credentials.len();
        for item in at.items("credentials") {
            found.own(reader, &item, name.as_ref());
        }
        let Some(name) = name else { continue };
        if let Some(line) = first_line.insert(name.clone(), at.line()) {
            let message = format!("the bucket of line {line} has this name already");
            reader.problem(at.line_of("name"), at.key("name"), message);
        }
        let owner = owner(&found.credentials, own_from, &name);
        if owner.is_none() && at.items("credentials").is_empty() {
            let message = "is required: no user in `auth` may use this bucket either";
            reader.problem(at.line(), at.key("credentials"), message);
        }
        let owner = owner.unwrap_or_else(|| NOBODY.into());
        buckets.push(Bucket { name, max_multipart_uploads: uploads_max as u32, cors, owner });
    }
    buckets
}

/// The first of the bucket's own users, else the first user with a grant on it; root's where there is none.
fn owner(credentials: &[Credential], own_from: usize, bucket: &BucketName) -> Option<Arc<str>> {
    let (others, own) = credentials.split_at(own_from);
    let may_use = |one: &&Credential| one.principal.held_in(bucket.as_str(), None).is_some();
    let last = |one: &&Credential| one.principal.rank == Rank::Root;
    let users = own.iter().chain(others.iter().filter(|one| !last(one))).chain(others.iter().filter(last));
    users.into_iter().find(may_use).map(|one| Arc::clone(&one.principal.user))
}

fn grant(reader: &mut Reader, at: &Section<'_>) -> Option<Grant> {
    let scope = reader.parsed(at, "bucket", |text| match text {
        "*" => Ok(Scope::EveryBucket),
        name => bucket_name(name).map(Scope::Bucket),
    });
    let permissions = reader.texts(at, "permissions", permission).into_iter().fold(Permissions::NONE, Permissions::and);
    Some(Grant { scope: scope?, permissions: permissions.granted() })
}

fn permission(word: &str) -> Result<Permissions, String> {
    match Permission::parse(word) {
        Some(one) => Ok(one.into()),
        None if word == "all" => Ok(Permissions::ALL),
        None => {
            let words: Vec<_> = Permission::EACH.into_iter().map(Permission::as_str).collect();
            Err(format!("`{word}` is none of {}, all", words.join(", ")))
        }
    }
}

fn rank(word: &str) -> Result<Rank, String> {
    match word {
        "create-buckets" => Ok(Rank::Creator),
        other => Err(format!("`{other}` is none of create-buckets; what a user may do in a bucket stands in `grants`")),
    }
}

/// It stands in answers and log lines.
fn user_name(text: &str) -> Result<String, String> {
    let usable = |b: u8| b.is_ascii_alphanumeric() || b"-_.@+".contains(&b);
    if (1..=64).contains(&text.len()) && text.bytes().all(usable) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 64 letters, digits and `-`, `_`, `.`, `@`, `+`".to_owned())
    }
}

fn bucket_name(text: &str) -> Result<BucketName, String> {
    BucketName::parse(text).ok_or_else(|| {
        if BucketName::RESERVED.contains(&text) {
            format!("`{text}` is a path of our own; choose another name")
        } else {
            format!(
                "`{text}` is not a bucket name: 3 to 63 lower-case letters, digits, `-` and `.`, letter or digit at both \
                 ends, no `..`, no IP address"
            )
        }
    })
}

/// What can stand in the `Credential` of an Authorization header, which is cut at slashes and commas.
pub(super) fn access_key(text: &str) -> Result<String, String> {
    let usable = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b',' | b'=');
    if !text.is_empty() && text.len() <= 128 && text.bytes().all(usable) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 128 visible ASCII characters other than `/`, `,` and `=`".to_owned())
    }
}
