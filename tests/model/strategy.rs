//! Which actions are tried, and how often.

use super::action::*;
use super::play::buckets::{ACLS, QUESTIONS};
use super::server::BUCKETS;
use super::sums::{KINDS, Kind};
use proptest::prelude::*;

/// Mostly the first, which is always there.
fn bucket() -> impl Strategy<Value = usize> {
    prop_oneof![6 => Just(0_usize), 1 => 1..BUCKETS.len()]
}

/// Few keys, so that actions meet.
fn key() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 0..3_usize, 1 => 0..KEYS.len()]
}

fn place() -> impl Strategy<Value = Place> {
    (bucket(), key()).prop_map(|(bucket, key)| Place { bucket, key })
}

fn body() -> impl Strategy<Value = Body> {
    let len = prop_oneof![2 => Just(0_usize), 6 => 1..40_usize, 1 => 60_000..70_000_usize, 1 => 260_000..264_000_usize];
    (len, 0..8_u8).prop_map(|(len, seed)| Body { len, seed })
}

fn part() -> impl Strategy<Value = Body> {
    let len = prop_oneof![3 => 0..40_usize, 2 => Just(PART_BYTES_MIN), 1 => Just(PART_BYTES_MIN - 1)];
    (len, 0..8_u8).prop_map(|(len, seed)| Body { len, seed })
}

fn facts() -> impl Strategy<Value = Facts> {
    (any::<bool>(), 0..4_u8, 0..4_u8).prop_map(|(content_type, metadata, tags)| Facts { content_type, metadata, tags })
}

fn tag() -> impl Strategy<Value = Tag> {
    prop_oneof![Just(Tag::Current), Just(Tag::Other), Just(Tag::ListWithCurrent), Just(Tag::Any)]
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![8 => Just(Version::Unsaid), 2 => Just(Version::Null), 1 => Just(Version::Other)]
}

fn read_condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        6 => Just(Condition::None),
        1 => tag().prop_map(Condition::IfMatch),
        1 => tag().prop_map(Condition::IfNoneMatch),
        1 => any::<bool>().prop_map(|own| Condition::IfModifiedSince { own }),
        1 => any::<bool>().prop_map(|own| Condition::IfUnmodifiedSince { own }),
    ]
}

/// S3 knows If-Match with one tag, and If-None-Match with `*`.
fn write_condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        6 => Just(Condition::None),
        1 => Just(Condition::IfMatch(Tag::Current)),
        1 => Just(Condition::IfMatch(Tag::Other)),
        2 => Just(Condition::IfNoneMatch(Tag::Any)),
    ]
}

fn delete_condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        6 => Just(Condition::None),
        1 => Just(Condition::IfMatch(Tag::Current)),
        1 => Just(Condition::IfMatch(Tag::Other)),
    ]
}

fn range() -> impl Strategy<Value = Range> {
    prop_oneof![
        4 => Just(Range::Whole),
        1 => (0..50_usize).prop_map(Range::Suffix),
        1 => (0..50_usize).prop_map(Range::From),
        2 => (0..50_usize, 0..70_000_usize).prop_map(|(first, last)| Range::Between(first, last)),
        1 => Just(Range::Malformed),
    ]
}

fn reading() -> impl Strategy<Value = Reading> {
    let part = prop_oneof![5 => Just(None), 2 => (1..4_u16).prop_map(Some)];
    (any::<bool>(), range(), part, version(), prop::bool::weighted(0.2), any::<bool>())
        .prop_map(|(head, range, part, version, instead, sums)| Reading { head, range, part, version, instead, sums })
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(&KINDS[..])
}

fn sent() -> impl Strategy<Value = Sent> {
    let right = || prop::bool::weighted(0.8);
    prop_oneof![
        7 => Just(Sent::Plain(Digest::None)),
        1 => Just(Sent::Plain(Digest::RightMd5)),
        1 => Just(Sent::Plain(Digest::WrongMd5)),
        2 => kind().prop_map(|kind| Sent::Plain(Digest::Right(kind))),
        1 => kind().prop_map(|kind| Sent::Plain(Digest::Wrong(kind))),
        1 => Just(Sent::Signed),
        2 => (kind(), right()).prop_map(|(kind, right)| Sent::SignedTrailer { kind, right }),
        2 => (kind(), right()).prop_map(|(kind, right)| Sent::UnsignedTrailer { kind, right }),
    ]
}

/// What an upload may declare.
fn declared() -> impl Strategy<Value = Option<Declared>> {
    let one = (kind(), any::<bool>()).prop_map(|(kind, full)| {
        let full = if full { kind.can_be_full() } else { !kind.can_be_composite() };
        Declared { kind, full }
    });
    prop_oneof![1 => Just(None), 2 => one.prop_map(Some)]
}

pub fn listing() -> impl Strategy<Value = Listing> {
    let kind = prop_oneof![
        1 => Just(ListKind::V1),
        2 => Just(ListKind::V2),
        1 => Just(ListKind::Versions),
        2 => Just(ListKind::Uploads),
    ];
    let text =
        |some: &'static [&'static str]| prop_oneof![Just(""), prop::sample::select(some)].prop_map(str::to_owned);
    let max =
        prop_oneof![2 => Just(None), 3 => (1..5_usize).prop_map(Some), 1 => Just(Some(0)), 1 => Just(Some(5_000))];
    (
        bucket(),
        kind,
        text(&["a", "a/", "a//", "ü", "..", "nothing"]),
        text(&["/", "b", "//", "é", "a/"]),
        max,
        text(&["a", "a/", "a/b", "a//", "\u{10ffff}", "zz"]),
        any::<bool>(),
    )
        .prop_map(|(bucket, kind, prefix, delimiter, max, after, encoded)| Listing {
            bucket,
            kind,
            prefix,
            delimiter,
            max,
            after,
            encoded,
        })
}

fn manifest() -> impl Strategy<Value = Manifest> {
    prop_oneof![
        12 => Just(Manifest::All),
        1 => Just(Manifest::WithoutFirst),
        1 => Just(Manifest::WrongEtag),
        1 => Just(Manifest::Backwards),
        1 => Just(Manifest::NotUploaded),
        1 => Just(Manifest::Empty),
    ]
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![
        8 => Just(Said::Parts),
        1 => Just(Said::Nothing),
        1 => Just(Said::WrongPart),
        2 => Just(Said::Whole),
        1 => Just(Said::WrongWhole),
        1 => kind().prop_map(Said::WholeOf),
        1 => Just(Said::WrongSize),
        1 => Just(Said::RightSize),
    ]
}

fn doomed() -> impl Strategy<Value = Doomed> {
    let etag = prop_oneof![6 => Just(None), 1 => Just(Some(Tag::Current)), 1 => Just(Some(Tag::Other))];
    (0..KEYS.len(), version(), etag).prop_map(|(key, version, etag)| Doomed { key, version, etag })
}

/// Each key once: which of two conditions on one key is decided first is not said.
fn many() -> impl Strategy<Value = Vec<Doomed>> {
    prop::collection::vec(doomed(), 1..6).prop_map(|mut keys| {
        keys.sort_by_key(|one| one.key);
        keys.dedup_by_key(|one| one.key);
        keys
    })
}

fn on_buckets() -> impl Strategy<Value = Action> {
    let key = || prop_oneof![1 => Just(None), 2 => key().prop_map(Some)];
    prop_oneof![
        4 => (0..BUCKETS.len()).prop_map(|bucket| Action::CreateBucket { bucket }),
        2 => (0..BUCKETS.len()).prop_map(|bucket| Action::DeleteBucket { bucket }),
        2 => (0..BUCKETS.len(), 0..QUESTIONS.len()).prop_map(|(bucket, what)| Action::AskBucket { bucket, what }),
        1 => (any::<bool>(), prop::option::of(1..4_usize))
            .prop_map(|(prefix, max)| Action::ListBuckets { prefix, max }),
        1 => (bucket(), key()).prop_map(|(bucket, key)| Action::GetAcl { bucket, key }),
        1 => (bucket(), key(), 0..ACLS.len()).prop_map(|(bucket, key, acl)| Action::PutAcl { bucket, key, acl }),
    ]
}

fn on_objects() -> impl Strategy<Value = Action> {
    let sum = prop_oneof![4 => Just(None), 1 => kind().prop_map(Some)];
    prop_oneof![
        14 => (place(), body(), facts(), write_condition(), sent())
            .prop_map(|(at, body, facts, condition, sent)| Action::Put { at, body, facts, condition, sent }),
        1 => (place(), body(), facts()).prop_map(|(at, body, facts)| Action::Post { at, body, facts }),
        8 => (place(), reading(), read_condition())
            .prop_map(|(at, reading, condition)| Action::Get { at, reading, condition }),
        2 => (place(), version(), prop::option::of(0..3_usize), prop::option::of(0..3_u16))
            .prop_map(|(at, version, max, after)| Action::Attributes { at, version, max, after }),
        3 => (place(), version(), delete_condition())
            .prop_map(|(at, version, condition)| Action::Delete { at, version, condition }),
        2 => (bucket(), many(), any::<bool>())
            .prop_map(|(bucket, keys, quiet)| Action::DeleteMany { bucket, keys, quiet }),
        4 => (place(), version(), place(), prop::option::of(facts()), prop::option::of(0..4_u8), sum, read_condition(),
              write_condition())
            .prop_map(|(from, version, to, replace, replace_tags, sum, source, condition)| {
                Action::Copy { from, version, to, replace, replace_tags, sum, source, condition }
            }),
        1 => place().prop_map(|at| Action::GetTags { at }),
        1 => (place(), 0..4_u8).prop_map(|(at, tags)| Action::PutTags { at, tags }),
        1 => place().prop_map(|at| Action::DeleteTags { at }),
    ]
}

fn on_uploads() -> impl Strategy<Value = Action> {
    let upload = || prop_oneof![4 => Just(0_usize), 1 => 1..3_usize];
    let number = || prop_oneof![8 => 1..4_u16, 1 => Just(10_000_u16)];
    prop_oneof![
        2 => (place(), facts(), declared())
            .prop_map(|(at, facts, declared)| Action::CreateUpload { at, facts, declared }),
        8 => (upload(), number(), part(), sent())
            .prop_map(|(upload, number, body, sent)| Action::UploadPart { upload, number, body, sent }),
        2 => (upload(), number(), place(), prop::option::of((0..20_usize, 0..40_usize)))
            .prop_map(|(upload, number, from, range)| Action::CopyPart { upload, number, from, range }),
        2 => (upload(), prop::option::of(0..4_usize), 0..4_u16)
            .prop_map(|(upload, max, after)| Action::ListParts { upload, max, after }),
        5 => (upload(), manifest(), said(), write_condition())
            .prop_map(|(upload, manifest, said, condition)| Action::Complete { upload, manifest, said, condition }),
        1 => upload().prop_map(|upload| Action::Abort { upload }),
    ]
}

pub fn action() -> impl Strategy<Value = Action> {
    prop_oneof![2 => on_buckets(), 6 => on_objects(), 2 => listing().prop_map(Action::List), 5 => on_uploads()]
}
