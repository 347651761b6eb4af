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
    /// See the bucket itself: HeadBucket, GetBucketLocation, its line in ListBuckets.
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
        ListBuckets => Permissions::NONE,
        HeadBucket | GetBucketLocation | GetBucketVersioning => Permission::ListBuckets.into(),
        ListObjects | ListObjectsV2 | ListObjectVersions | ListParts | ListMultipartUploads => Permission::List.into(),
        GetObject | HeadObject | GetObjectTagging | GetObjectAttributes => Permission::Read.into(),
        PutObject
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
    /// The name that audit lines carry.
    pub user: Arc<str>,
    pub grants: Vec<Grant>,
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
    /// What a credential of the configuration's `buckets[]` becomes: everything in that one bucket.
    pub fn of_bucket(user: &str, bucket: BucketName) -> Self {
        Self { user: user.into(), grants: vec![Grant { scope: Scope::Bucket(bucket), permissions: Permissions::ALL }] }
    }

    /// What this principal may do in a bucket; None if no grant is about it. A grant by name replaces the wildcard.
    pub fn held_in(&self, bucket: &str) -> Option<Permissions> {
        let named = |grant: &&Grant| matches!(&grant.scope, Scope::Bucket(name) if name.as_str() == bucket);
        let wild = |grant: &&Grant| grant.scope == Scope::EveryBucket;
        let union = |sum: Option<Permissions>, grant: &Grant| {
            Some(Permissions(sum.unwrap_or_default().0 | grant.permissions.0))
        };
        self.grants.iter().filter(named).fold(None, union).or_else(|| self.grants.iter().filter(wild).fold(None, union))
    }

    pub fn permits(&self, bucket: &str, needed: Permissions) -> Result<(), Denial> {
        match self.held_in(bucket) {
            None => Err(Denial::Bucket),
            Some(held) if held.contains(needed) => Ok(()),
            Some(held) => Err(Denial::Action { missing: needed.without(held) }),
        }
    }

    /// Whether ListBuckets shows this bucket.
    pub fn sees(&self, bucket: &str) -> bool {
        self.permits(bucket, Permission::ListBuckets.into()).is_ok()
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
        Principal { user: "u".into(), grants: grants.iter().map(grant).collect() }
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
            assert_eq!(principal.permits(bucket, Permissions::of(needed)), want, "{principal:?} {bucket} {needed:?}");
        }
    }

    #[test]
    fn reading_does_not_allow_changing() {
        let reader = principal(&[("photos", &[ListBuckets, List, Read])]);
        let allowed: Vec<_> =
            Operation::ALL.into_iter().filter(|&one| reader.permits("photos", needed(one)).is_ok()).collect();
        use Operation as Op;
        let want = [
            Op::ListBuckets,
            Op::HeadBucket,
            Op::GetBucketLocation,
            Op::GetBucketVersioning,
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
    fn a_credential_of_the_configuration_owns_its_bucket_and_no_other() {
        let owner = Principal::of_bucket("key", BucketName::parse("photos").expect("a bucket name"));
        assert_eq!(owner.held_in("photos"), Some(Permissions::ALL));
        assert!(owner.sees("photos") && !owner.sees("photos2"));
        assert_eq!(Permissions::ALL, Permissions::of(&Permission::EACH), "every permission is in ALL");
    }
}
