//! Who may do what. Authentication ends in a `Principal`, whatever the configuration's form was; every handler asks it
//! before it looks at anything. A denial says which permission was missing to the audit log only: the client sees the
//! same 403 AccessDenied for all of them.

use crate::base::BucketName;
use crate::proto::operation::Operation;
use std::fmt;
use std::sync::Arc;

/// What a grant on a bucket can allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Permission {
    /// See the bucket itself: HeadBucket, GetBucketLocation, its line in ListBuckets. Every other permission brings it.
    ListBuckets = 1,
    /// Listings of objects, uploads and parts.
    List = 1 << 1,
    Read = 1 << 2,
    Write = 1 << 3,
    Delete = 1 << 4,
    Tags = 1 << 5,
}

impl Permission {
    pub const EACH: [Self; 6] = [Self::ListBuckets, Self::List, Self::Read, Self::Write, Self::Delete, Self::Tags];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ListBuckets => "list-buckets",
            Self::List => "list",
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Tags => "tags",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::EACH.into_iter().find(|one| one.as_str() == word)
    }
}

/// A set of permissions.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions(u8);

impl Permissions {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(0b11_1111);

    pub const fn of(permissions: &[Permission]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < permissions.len() {
            bits |= permissions[i] as u8;
            i += 1;
        }
        Self(bits)
    }

    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    pub fn contains(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }

    /// What a grant of these comes to: whoever may do anything in a bucket may know of it.
    #[must_use]
    pub fn granted(self) -> Self {
        if self == Self::NONE { self } else { self.and(Permission::ListBuckets.into()) }
    }

    fn without(self, held: Self) -> Self {
        Self(self.0 & !held.0)
    }

    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::EACH.into_iter().filter(move |&one| self.0 & one as u8 != 0)
    }
}

impl From<Permission> for Permissions {
    fn from(one: Permission) -> Self {
        Self(one as u8)
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Permission::as_str)).finish()
    }
}

/// What a caller must hold in the bucket for an operation. ListBuckets needs nothing: its answer holds only what the caller
/// sees.
pub fn needed(operation: Operation) -> Permissions {
    use Operation::*;
    match operation {
        // Ranks and ownership decide of buckets, which the handlers ask for.
        ListBuckets | CreateBucket | DeleteBucket => Permissions::NONE,
        HeadBucket | GetBucketLocation | GetBucketVersioning | GetBucketAcl | GetBucketConfiguration => {
            Permission::ListBuckets.into()
        }
        ListObjects | ListObjectsV2 | ListObjectVersions | ListParts | ListMultipartUploads => Permission::List.into(),
        GetObject | HeadObject | GetObjectTagging | GetObjectAcl | GetObjectAttributes => Permission::Read.into(),
        PutObject
        | PutBucketAcl
        | PutObjectAcl
        | PostObject
        | CreateMultipartUpload
        | UploadPart
        | CompleteMultipartUpload
        | AbortMultipartUpload => Permission::Write.into(),
        // And Read of the source, which the handler asks for.
        CopyObject | UploadPartCopy => Permission::Write.into(),
        DeleteObject | DeleteObjects => Permission::Delete.into(),
        PutObjectTagging | DeleteObjectTagging => Permission::Tags.into(),
    }
}

/// Which buckets a grant is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    Bucket(BucketName),
    /// `*`: every bucket for which the principal holds no grant by name.
    EveryBucket,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    pub scope: Scope,
    pub permissions: Permissions,
}

/// An authenticated caller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Principal {
    /// The user's name, by which it owns buckets and stands in audit lines.
    pub user: Arc<str>,
    pub rank: Rank,
    pub grants: Vec<Grant>,
}

/// What a user may do beyond its grants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rank {
    Plain,
    /// Makes buckets, and deletes those that it owns.
    Creator,
    /// Everything, in every bucket.
    Root,
}

/// Why a request is refused, for the audit log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denial {
    /// No grant names the bucket (audit event `s3.BucketDenied`).
    Bucket,
    /// A grant does, without these permissions (audit event `s3.ActionDenied`).
    Action { missing: Permissions },
}

impl Principal {
    /// A user with everything in one bucket.
    pub fn of_bucket(user: &str, bucket: BucketName) -> Self {
        let grant = Grant { scope: Scope::Bucket(bucket), permissions: Permissions::ALL };
        Self { user: user.into(), rank: Rank::Plain, grants: vec![grant] }
    }

    /// What this principal may do in a bucket; None if it is not the principal's business. `owner` is the user that made it,
    /// if any did. A grant by name replaces the wildcard.
    pub fn held_in(&self, bucket: &str, owner: Option<&str>) -> Option<Permissions> {
        if self.rank == Rank::Root || owner.is_some_and(|owner| *owner == *self.user) {
            return Some(Permissions::ALL);
        }
        let named = |grant: &&Grant| matches!(&grant.scope, Scope::Bucket(name) if name.as_str() == bucket);
        let wild = |grant: &&Grant| grant.scope == Scope::EveryBucket;
        let union = |sum: Option<Permissions>, grant: &Grant| {
            Some(Permissions(sum.unwrap_or_default().0 | grant.permissions.0))
        };
        self.grants.iter().filter(named).fold(None, union).or_else(|| self.grants.iter().filter(wild).fold(None, union))
    }

    pub fn permits(&self, bucket: &str, owner: Option<&str>, needed: Permissions) -> Result<(), Denial> {
        match self.held_in(bucket, owner) {
            None => Err(Denial::Bucket),
            Some(held) if held.contains(needed) => Ok(()),
            Some(held) => Err(Denial::Action { missing: needed.without(held) }),
        }
    }

    pub fn may_create_buckets(&self) -> bool {
        self.rank >= Rank::Creator
    }

    /// Whether it may delete a bucket that this user made.
    pub fn may_delete_bucket_of(&self, owner: &str) -> bool {
        self.rank == Rank::Root || self.rank == Rank::Creator && *owner == *self.user
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Permission::*;

    fn principal(grants: &[(&str, &[Permission])]) -> Principal {
        let grant = |&(bucket, permissions): &(&str, &[Permission])| Grant {
            scope: match bucket {
                "*" => Scope::EveryBucket,
                name => Scope::Bucket(BucketName::parse(name).expect("a bucket name")),
            },
            permissions: Permissions::of(permissions),
        };
        Principal { user: "u".into(), rank: Rank::Plain, grants: grants.iter().map(grant).collect() }
    }

    #[test]
    fn grants_decide() {
        let missing = |permissions: &[Permission]| Err(Denial::Action { missing: Permissions::of(permissions) });
        let both = principal(&[("*", &[Read, List]), ("logs", &[Write])]);
        let twice = principal(&[("logs", &[Write]), ("logs", &[Read])]);
        let cases: [(&Principal, &str, &[Permission], Result<(), Denial>); 8] = [
            (&both, "photos", &[Read], Ok(())),
            (&both, "photos", &[Read, Write], missing(&[Write])),
            (&both, "logs", &[Write], Ok(())),
            (&both, "logs", &[Read], missing(&[Read])), // the grant by name replaces the wildcard
            (&twice, "logs", &[Read, Write], Ok(())),
            (&twice, "logs", &[Delete, Write], missing(&[Delete])),
            (&twice, "photos", &[Read], Err(Denial::Bucket)),
            (&principal(&[]), "photos", &[], Err(Denial::Bucket)),
        ];
        for (principal, bucket, needed, want) in cases {
            assert_eq!(
                principal.permits(bucket, None, Permissions::of(needed)),
                want,
                "{principal:?} {bucket} {needed:?}"
            );
        }
    }

    #[test]
    fn reading_does_not_allow_changing() {
        let reader = principal(&[("photos", &[ListBuckets, List, Read])]);
        let allowed: Vec<_> =
            Operation::ALL.into_iter().filter(|&one| reader.permits("photos", None, needed(one)).is_ok()).collect();
        use Operation as Op;
        let want = [
            Op::ListBuckets,
            Op::HeadBucket,
            Op::CreateBucket,
            Op::DeleteBucket,
            Op::GetBucketLocation,
            Op::GetBucketVersioning,
            Op::GetBucketAcl,
            Op::GetBucketConfiguration,
            Op::GetObjectAcl,
            Op::ListObjects,
            Op::ListObjectsV2,
            Op::ListObjectVersions,
            Op::GetObject,
            Op::HeadObject,
            Op::GetObjectTagging,
            Op::ListParts,
            Op::ListMultipartUploads,
            Op::GetObjectAttributes,
        ];
        assert_eq!(allowed, want);
    }

    #[test]
    fn a_user_of_one_bucket_knows_no_other() {
        let user = Principal::of_bucket("key", BucketName::parse("photos").expect("a bucket name"));
        assert_eq!(user.held_in("photos", None), Some(Permissions::ALL));
        assert_eq!(user.held_in("photos2", None), None);
        assert_eq!(user.held_in("photos2", Some("somebody")), None);
        assert!(!user.may_create_buckets());
        assert_eq!(Permissions::ALL, Permissions::of(&Permission::EACH), "every permission is in ALL");
    }

    #[test]
    fn owners_and_root_do_everything() {
        let ranked = |user: &str, rank| Principal { user: user.into(), rank, grants: Vec::new() };
        let (ann, bob, root) = (ranked("ann", Rank::Creator), ranked("bob", Rank::Creator), ranked("r", Rank::Root));
        let fired = ranked("ann", Rank::Plain);
        for (principal, held, deletes) in [
            (&ann, Some(Permissions::ALL), true),
            (&bob, None, false),
            (&root, Some(Permissions::ALL), true),
            (&fired, Some(Permissions::ALL), false),
        ] {
            assert_eq!(principal.held_in("anns", Some("ann")), held, "{principal:?}");
            assert_eq!(principal.may_delete_bucket_of("ann"), deletes, "{principal:?}");
        }
        assert_eq!(root.held_in("configured", None), Some(Permissions::ALL));
        assert_eq!(ann.held_in("configured", None), None);
        assert!(ann.may_create_buckets() && root.may_create_buckets() && !fired.may_create_buckets());
    }

    #[test]
    fn any_permission_shows_the_bucket() {
        for one in Permission::EACH {
            assert_eq!(Permission::parse(one.as_str()), Some(one));
            assert!(Permissions::from(one).granted().contains(ListBuckets.into()), "{one:?}");
        }
        assert_eq!(Permissions::NONE.granted(), Permissions::NONE);
        assert_eq!(Permission::parse("Read"), None);
    }
}
