//! Checks the signature of a request, in its header or its query. One [`Verifier`] per core: it holds the derived keys and the buffers.

use super::authorization::Authorization;
use super::canonical::{Canonical, Form, has_too_many_parameters, is_amz, path_is_normal, query_is_normal};
use super::key::KeyOf;
use super::presigned::{Presigned, QuerySignature};
use super::{
    AmzDate, AuthError, ChunkSigner, Hex, KeyCache, PayloadMode, Request, SKEW_SECONDS_MAX, same_signature, version2,
};
use crate::base::{Secret, Timestamp};
use crate::proto::fields::{Fields, Sole};
use std::borrow::Cow;
use std::iter;

/// A request whose signature is right.
#[derive(Debug)]
pub struct Verified<'h, P> {
    pub access_key: Cow<'h, str>,
    /// What the lookup gave with the secret.
    pub principal: P,
    pub payload: PayloadMode,
    /// Whether the Host field is under the signature, and may say what the request is for.
    pub covers_host: bool,
    /// For a body of signed chunks: continues from the request's signature.
    pub chunks: Option<Box<ChunkSigner>>,
}

pub struct Verifier {
    keys: KeyCache,
    canonical: Canonical,
    /// Stands in for the secret of an access key that does not exist, so that its check does what any other does.
    nobody: Secret,
    nobodys_keys: KeyCache,
}

impl Verifier {
    pub fn new() -> Self {
        Self {
            keys: KeyCache::new(),
            canonical: Canonical::new(),
            nobody: Secret::new("................no such access key......"),
            nobodys_keys: KeyCache::new(),
        }
    }

    /// Verifies `request` at the time `now`. `find` gives the secret of an access key and what the caller wants to know
    /// of its owner. Any region is accepted unless `region` insists on one. Allocates nothing once warm, except the
    /// chunk signer of a body of signed chunks.
    pub fn verify<'h, 's, H: Fields + ?Sized, P>(
        &mut self,
        request: &Request<'h, H>,
        now: Timestamp,
        region: Option<&str>,
        find: impl FnOnce(&str) -> Option<(&'s Secret, P)>,
    ) -> Result<Verified<'h, P>, AuthError> {
        let seen = Seen::collect(request.headers);
        let (said, scope) = match (seen.authorization, QuerySignature::of(request.query)) {
            // Some clients send an empty field to ask as nobody.
            (Sole::One(b""), QuerySignature::Absent) => return Err(AuthError::Anonymous),
            (Sole::One(value), QuerySignature::Absent) if value.starts_with(b"AWS ") => {
                let dates = (seen.amz_date, seen.date);
                let signed = version2::Signed::in_header(value, dates, request.query, now)?;
                return self.verify_version_2(request, signed, seen.declared_sha256()?, region, find);
            }
            (Sole::One(value), QuerySignature::Absent) => {
                let said = said_in_header(value, &seen, now)?;
                let scope = check_scope(&said.authorization, &said.date, region);
                (said, scope)
            }
            (Sole::Absent, QuerySignature::V4) => (said_in_query(request.query, &seen, now, region)?, Ok(())),
            (Sole::Absent, QuerySignature::Absent) => return Err(AuthError::Anonymous),
            (Sole::Absent, QuerySignature::V2) => {
                let signed = version2::Signed::in_query(request.query, now)?;
                return self.verify_version_2(request, signed, seen.declared_sha256()?, region, find);
            }
            _ => return Err(AuthError::SeveralMechanisms),
        };
        let payload = PayloadMode::parse(&said.content_sha256)?;
        if has_too_many_parameters(request.query) {
            return Err(AuthError::TooManyParameters);
        }
        let found = find(&said.authorization.access_key);
        if found.is_some() {
            // Who does not exist is told so, whatever the scope.
            scope?;
        }
        let seed = self
            .check(request, &said, seen.amz_fields, found.as_ref().map(|(secret, _)| *secret))
            .map_err(|error| if found.is_some() { error } else { AuthError::InvalidAccessKeyId })?;
        let (secret, principal) = found.ok_or(AuthError::InvalidAccessKeyId)?;
        let chunks = matches!(payload, PayloadMode::StreamingSigned { .. }).then(|| {
            let key = self.keys.find_or_derive(&said.key_of(secret)).clone();
            Box::new(ChunkSigner::new(key, said.date, &said.authorization.region, seed))
        });
        Ok(Verified { access_key: said.authorization.access_key, principal, payload, covers_host: true, chunks })
    }

    /// What is asked in place of a secret that does not exist.
    pub(super) fn nobody(&self) -> &Secret {
        &self.nobody
    }

    /// The canonical request of the last check, to explain a mismatch in a log. It holds no secret.
    pub fn last_canonical_request(&self) -> &[u8] {
        self.canonical.text()
    }

    /// The signature, if it is the one that was sent, in one of the forms of the target.
    fn check<H: Fields + ?Sized>(
        &mut self,
        request: &Request<'_, H>,
        said: &Said<'_>,
        amz_fields: usize,
        secret: Option<&Secret>,
    ) -> Result<Hex, AuthError> {
        let Said { authorization, date, content_sha256 } = said;
        let (keys, of) = match secret {
            Some(secret) => (&mut self.keys, said.key_of(secret)),
            None => (&mut self.nobodys_keys, KeyOf { access_key: "", ..said.key_of(&self.nobody) }),
        };
        let mut new = None;
        let key = match keys.find(&of) {
            Some(kept) => kept,
            None => &*new.insert(of.derive()),
        };
        for (path, query) in forms(request) {
            let digest = self
                .canonical
                .digest(request, path, query, &authorization.signed_headers, content_sha256)
                .map_err(|_| AuthError::SignatureDoesNotMatch)?;
            if self.canonical.amz_fields() < amz_fields {
                return Err(AuthError::HeadersNotSigned);
            }
            let signature = self.canonical.signature(key, date, &authorization.region, &digest);
            if same_signature(&signature, authorization.signature.as_bytes()) {
                if let Some(new) = new {
                    keys.keep(&of, new);
                }
                return Ok(signature);
            }
        }
        if let Some(new) = new.filter(|_| secret.is_none()) {
            keys.keep(&of, new);
        }
        Err(AuthError::SignatureDoesNotMatch)
    }
}

impl Default for Verifier {
    fn default() -> Self {
        Self::new()
    }
}

/// What a request says of its signature, its time found right.
struct Said<'h> {
    authorization: Authorization<'h>,
    date: AmzDate,
    content_sha256: Cow<'h, [u8]>,
}

impl Said<'_> {
    fn key_of<'k>(&'k self, secret: &'k Secret) -> KeyOf<'k> {
        let Self { authorization, date, .. } = self;
        KeyOf { access_key: &authorization.access_key, secret, day: date.day(), region: &authorization.region }
    }
}

fn said_in_header<'h>(value: &'h [u8], seen: &Seen<'h>, now: Timestamp) -> Result<Said<'h>, AuthError> {
    let authorization = Authorization::parse(value)?;
    let date = seen.date()?;
    if (date.seconds() - now.seconds()).abs() > SKEW_SECONDS_MAX {
        return Err(AuthError::RequestTimeTooSkewed);
    }
    if seen.has_token {
        return Err(AuthError::SessionToken);
    }
    Ok(Said { authorization, date, content_sha256: seen.content_sha256()?.into() })
}

/// The hash of a presigned body stands in the query or in a header, or the body is not covered.
fn said_in_query<'h>(
    query: &'h [u8],
    seen: &Seen<'h>,
    now: Timestamp,
    region: Option<&str>,
) -> Result<Said<'h>, AuthError> {
    let mut presigned = Presigned::parse(query)?;
    let content_sha256 = match (presigned.content_sha256.take(), seen.content_sha256) {
        (Some(Cow::Borrowed(text)), _) => Cow::Borrowed(text.as_bytes()),
        (Some(Cow::Owned(text)), _) => Cow::Owned(text.into_bytes()),
        (None, Sole::Absent) => Cow::Borrowed(&b"UNSIGNED-PAYLOAD"[..]),
        (None, _) => Cow::Borrowed(seen.content_sha256()?),
    };
    check_scope(&presigned.authorization, &presigned.date, region).map_err(AuthError::in_query)?;
    presigned.check_time(now)?;
    if presigned.has_token || seen.has_token {
        return Err(AuthError::SessionToken);
    }
    Ok(Said { authorization: presigned.authorization, date: presigned.date, content_sha256 })
}

/// The fields that a signature needs, found in one pass.
struct Seen<'h> {
    authorization: Sole<'h>,
    amz_date: Sole<'h>,
    date: Sole<'h>,
    content_sha256: Sole<'h>,
    /// How many fields are named `x-amz-*`, each of which must be signed.
    amz_fields: usize,
    /// A session token that is not empty.
    has_token: bool,
}

impl<'h> Seen<'h> {
    fn collect<H: Fields + ?Sized>(headers: &'h H) -> Self {
        let mut seen = Self {
            authorization: Sole::Absent,
            amz_date: Sole::Absent,
            date: Sole::Absent,
            content_sha256: Sole::Absent,
            amz_fields: 0,
            has_token: false,
        };
        for (name, value) in headers.fields() {
            seen.amz_fields += usize::from(is_amz(name));
            let slot = match name.len() {
                4 if name.eq_ignore_ascii_case(b"date") => &mut seen.date,
                10 if name.eq_ignore_ascii_case(b"x-amz-date") => &mut seen.amz_date,
                13 if name.eq_ignore_ascii_case(b"authorization") => &mut seen.authorization,
                20 if name.eq_ignore_ascii_case(b"x-amz-security-token") => {
                    seen.has_token |= !value.trim_ascii().is_empty();
                    continue;
                }
                20 if name.eq_ignore_ascii_case(b"x-amz-content-sha256") => &mut seen.content_sha256,
                _ => continue,
            };
            slot.add(value);
        }
        seen
    }

    fn content_sha256(&self) -> Result<&'h [u8], AuthError> {
        match self.content_sha256 {
            Sole::One(value) => Ok(value),
            Sole::Absent => Err(AuthError::MissingContentSha256),
            Sole::Several => Err(AuthError::BadContentSha256),
        }
    }

    /// For version 2, which need not name one: the hash, if there is one.
    fn declared_sha256(&self) -> Result<Option<&'h [u8]>, AuthError> {
        if self.has_token {
            return Err(AuthError::SessionToken);
        }
        if self.content_sha256 == Sole::Absent { Ok(None) } else { self.content_sha256().map(Some) }
    }

    /// The time that the client signed: `x-amz-date`, else `Date`.
    fn date(&self) -> Result<AmzDate, AuthError> {
        match (self.amz_date, self.date) {
            (Sole::One(value), _) => AmzDate::parse(value),
            (Sole::Absent, Sole::One(value)) => AmzDate::parse_date_header(value),
            _ => None,
        }
        .filter(|date| date.seconds() >= 0)
        .ok_or(AuthError::NoDate)
    }
}

fn check_scope(authorization: &Authorization<'_>, date: &AmzDate, region: Option<&str>) -> Result<(), AuthError> {
    if authorization.day != date.day() {
        return Err(AuthError::WrongDay);
    }
    match region {
        Some(expected) if expected != authorization.region => {
            Err(AuthError::WrongRegion { sent: (*authorization.region).into(), expected: expected.into() })
        }
        _ => Ok(()),
    }
}

/// The forms in which the client may have signed the target, the likeliest first; those that differ. The first is nearly
/// always the one, so nobody looks for others before it has failed.
fn forms<'h, H: ?Sized>(request: &Request<'h, H>) -> impl Iterator<Item = (Form, Form)> + use<'h, H> {
    let (path, query) = (request.path, request.query);
    let others = move || {
        let (path_differs, query_differs) = (!path_is_normal(path), !query_is_normal(query));
        [
            (path_differs && query_differs, (Form::Normal, Form::Normal)),
            (path_differs, (Form::Normal, Form::Wire)),
            (query_differs, (Form::Wire, Form::Normal)),
        ]
        .into_iter()
        .filter_map(|(differs, form)| differs.then_some(form))
    };
    iter::once((Form::Wire, Form::Wire)).chain(iter::once_with(others).flatten())
}

/// Any head may come, in any shape; it is refused, and nothing else happens. Lines are `name: value`; the first one is
/// the method, the path and the query.
pub fn fuzz_one(input: &[u8]) {
    let mut lines = input.split(|&byte| byte == b'\n');
    let mut first = lines.next().unwrap_or_default().splitn(3, |&byte| byte == b' ');
    let mut word = || first.next().unwrap_or_default();
    let (method, path, query) = (String::from_utf8_lossy(word()), word(), word());
    let headers: Vec<(&[u8], &[u8])> = lines
        .filter_map(|line| line.iter().position(|&byte| byte == b':').map(|at| (&line[..at], &line[at + 1..])))
        .collect();
    let request = Request { method: &method, path, query, headers: &headers };
    let secret = Secret::new("a secret that no input knows");
    let now = Timestamp { millis: 1_369_353_600_000 };
    let verdict = Verifier::new().verify(&request, now, None, |access_key| {
        assert!(!access_key.is_empty());
        Some((&secret, ()))
    });
    assert!(verdict.is_err(), "a signature without the secret was accepted");
}

#[cfg(test)]
mod tests;
