//! Who is who and what belongs to whom, as published: buckets of the configuration and stored ones, users by access key; and how
//! many copies there are to be, which changes without a restart as they do.
//!
//! Immutable. The control core makes a new one when the configuration was read again or a stored bucket came or went, and
//! publishes it to every core; a request keeps the one that it began with.

use super::checked::{self, Config, Credential, Replication};
use crate::base::{BucketName, Timestamp};
use crate::policy::access::Principal;
use crate::policy::cors::CorsRule;
use crate::proto::error_code::ErrorCode;
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

/// A bucket that clients see.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bucket {
    pub name: BucketName,
    /// Open uploads at once; 0 = unlimited.
    pub max_multipart_uploads: u32,
    pub cors: Vec<CorsRule>,
    /// The user that answers name as the owner of it and of what is in it.
    pub owner: Arc<str>,
    /// None: of the configuration.
    pub stored: Option<Stored>,
}

/// What is known of a bucket that was created over S3.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    pub created: Timestamp,
    /// As its creator asked for; empty: the default.
    pub region: Box<str>,
}

impl Bucket {
    /// Whose it is, where ownership gives rights: the configuration's buckets belong to whom it grants them.
    pub fn holder(&self) -> Option<&str> {
        self.stored.as_ref().map(|_| &*self.owner)
    }

    fn configured(bucket: &checked::Bucket) -> Self {
        Self {
            name: bucket.name.clone(),
            max_multipart_uploads: bucket.max_multipart_uploads,
            cors: bucket.cors.clone(),
            owner: Arc::clone(&bucket.owner),
            stored: None,
        }
    }
}

#[derive(Debug)]
pub struct Registry {
    /// Which state of the stored buckets this is, by the store's count.
    pub generation: u64,
    /// The stored buckets were read: one that is not here is nowhere.
    complete: bool,
    buckets: HashMap<Box<str>, Bucket>,
    credentials: HashMap<Box<str>, Credential>,
    /// Whether any bucket has CORS rules.
    has_cors: bool,
    pub replication: Replication,
}

impl Registry {
    /// Where a name stands in both, the configuration's bucket is meant.
    pub fn new(config: &Config, generation: u64, stored: impl IntoIterator<Item = Bucket>) -> Self {
        let configured = config.buckets.iter().map(Bucket::configured);
        let by_name = |bucket: Bucket| (bucket.name.as_str().into(), bucket);
        let buckets: HashMap<_, _> = stored.into_iter().chain(configured).map(by_name).collect();
        Self {
            generation,
            complete: true,
            has_cors: buckets.values().any(|bucket| !bucket.cors.is_empty()),
            buckets,
            credentials: config.credentials.iter().map(|one| (one.access_key_id.clone(), one.clone())).collect(),
            replication: config.replication,
        }
    }

    #[cfg(test)]
    pub(crate) fn any(generation: u64) -> Self {
        let place = std::path::Path::new("/");
        let at = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        Self::new(&crate::config::dev(place, at(7), at(9)).expect("what dev runs with"), generation, [])
    }

    /// While the stored buckets have not been read, the database being down since the start.
    pub fn incomplete(config: &Config) -> Self {
        Self { complete: false, ..Self::new(config, 0, []) }
    }

    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Of one that is not here: ServiceUnavailable while nobody knows which buckets are stored.
    pub fn no_such_bucket(&self) -> ErrorCode {
        if self.complete { ErrorCode::NoSuchBucket } else { ErrorCode::ServiceUnavailable }
    }

    pub fn bucket(&self, name: &str) -> Option<&Bucket> {
        self.buckets.get(name)
    }

    /// The rules of a bucket; none for one that does not exist.
    pub fn cors(&self, bucket: &str) -> &[CorsRule] {
        // Most sites have none at all.
        if !self.has_cors {
            return &[];
        }
        self.bucket(bucket).map_or(&[], |bucket| &bucket.cors)
    }

    /// In no order.
    pub fn buckets(&self) -> impl Iterator<Item = &Bucket> {
        self.buckets.values()
    }

    /// Whether the configuration names it, so that no row needs to.
    pub fn is_configured(&self, name: &str) -> bool {
        self.bucket(name).is_some_and(|bucket| bucket.stored.is_none())
    }

    pub fn credential(&self, access_key_id: &str) -> Option<&Credential> {
        self.credentials.get(access_key_id)
    }

    /// The buckets that ListBuckets shows to a user, in the order of their names.
    pub fn seen_by(&self, principal: &Principal) -> Vec<&Bucket> {
        let seen = |bucket: &&Bucket| {
            let held = principal.held_in(bucket.name.as_str(), bucket.holder());
            held.is_some_and(|held| held != crate::policy::access::Permissions::NONE)
        };
        let mut seen: Vec<_> = self.buckets.values().filter(seen).collect();
        seen.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        seen
    }
}

/// One core's hold on what was published. Requests count their holds on this, so that cores share no counter.
#[derive(Debug)]
pub struct Published(Arc<Registry>);

impl Published {
    pub fn new(registry: Arc<Registry>) -> Rc<Self> {
        Rc::new(Self(registry))
    }
}

impl Deref for Published {
    type Target = Registry;
    fn deref(&self) -> &Registry {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const TEXT: &str = "\
server: {listen_addr: ':9000'}
auth:
  users:
    - {name: ann, access_key_id: annkey, secret_access_key: s, permissions: [create-buckets], grants: [{bucket: b-one, permissions: [read]}]}
    - {name: wild, access_key_id: wildkey, secret_access_key: s, grants: [{bucket: '*', permissions: [list]}]}
buckets: [{name: a-two, credentials: [{access_key_id: k, secret_access_key: s}]}, {name: b-one}]
backends: [{directory: /d}]
";

    fn stored(name: &str, owner: &str) -> Bucket {
        Bucket {
            name: BucketName::parse(name).expect("a bucket name"),
            max_multipart_uploads: 0,
            cors: Vec::new(),
            owner: owner.into(),
            stored: Some(Stored { created: Timestamp::default(), region: "".into() }),
        }
    }

    #[test]
    fn users_see_what_they_own_or_hold_a_grant_on() {
        let config = crate::config::from_text(TEXT, Path::new("/"), &|_| None).expect("a valid file").config;
        let registry =
            Registry::new(&config, 7, [stored("z-anns", "ann"), stored("m-bobs", "bob"), stored("a-two", "ann")]);
        let seen = |key: &str| -> Vec<&str> {
            let principal = &registry.credential(key).expect("it is in the file").principal;
            registry.seen_by(principal).iter().map(|bucket| bucket.name.as_str()).collect()
        };
        assert_eq!(seen("annkey"), ["b-one", "z-anns"], "a configured bucket hides a stored one of its name");
        assert_eq!(seen("wildkey"), ["a-two", "b-one", "m-bobs", "z-anns"]);
        assert_eq!(seen("k"), ["a-two"]);
        assert!(registry.is_configured("a-two") && !registry.is_configured("z-anns") && !registry.is_configured("no"));
        let owner = |name: &str| &*registry.bucket(name).expect("a bucket").owner;
        assert_eq!((owner("a-two"), owner("b-one"), owner("m-bobs")), ("k", "ann", "bob"));
    }
}
