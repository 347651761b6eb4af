//! Conditions: what they say, and whether they hold.

use super::super::action::*;
use super::super::client::Ask;
use super::{LONG_AGO, OTHER_ETAG, Player, ask_at};

const COPY_SOURCE: [&str; 4] = [
    "x-amz-copy-source-if-match",
    "x-amz-copy-source-if-none-match",
    "x-amz-copy-source-if-modified-since",
    "x-amz-copy-source-if-unmodified-since",
];

impl Player {
    /// The fields of a condition on what is at a place, under these names.
    fn condition(&mut self, mut ask: Ask, at: Place, condition: Condition, names: [&'static str; 4]) -> Ask {
        let etag = self.object(at).map_or("00000000000000000000000000000000", |object| &object.etag).to_owned();
        let text = |tag: Tag, weak: &str| match tag {
            Tag::Current => format!("\"{etag}\""),
            Tag::Other => format!("\"{OTHER_ETAG}\""),
            Tag::ListWithCurrent => format!("\"{OTHER_ETAG}\", {weak}\"{etag}\""),
            Tag::Any => "*".to_owned(),
        };
        let (name, value) = match condition {
            Condition::None => return ask,
            Condition::IfMatch(tag) => (names[0], text(tag, "")),
            Condition::IfNoneMatch(tag) => (names[1], text(tag, "W/")),
            Condition::IfModifiedSince { own } => (names[2], self.time(at, own)),
            Condition::IfUnmodifiedSince { own } => (names[3], self.time(at, own)),
        };
        ask.headers.push((name, value));
        ask
    }

    pub(super) fn read_condition(&mut self, ask: Ask, at: Place, condition: Condition) -> Ask {
        let names = ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"];
        self.condition(ask, at, condition, names)
    }

    pub(super) fn source_condition(&mut self, ask: Ask, at: Place, condition: Condition) -> Ask {
        self.condition(ask, at, condition, COPY_SOURCE)
    }

    /// When the object was written, asked of the server once and remembered; or long before that.
    fn time(&mut self, at: Place, own: bool) -> String {
        if !own || self.object(at).is_none() {
            return LONG_AGO.to_owned();
        }
        let reply = self.client.ask(&ask_at("HEAD", at));
        let told = reply.header("last-modified").expect("a time").to_owned();
        let objects = self.world.buckets[at.bucket].as_mut().expect("the object's bucket");
        let object = objects.get_mut(KEYS[at.key]).expect("looked up above");
        let known = object.modified.get_or_insert_with(|| told.clone());
        assert_eq!(*known, told, "the time of an object that nobody wrote");
        told
    }

    /// Whether the condition of a read holds; Err: the status that refuses it.
    pub(super) fn holds(&self, at: Place, condition: Condition) -> Result<(), u16> {
        let has = |tag: Tag| matches!(tag, Tag::Current | Tag::ListWithCurrent | Tag::Any) && self.object(at).is_some();
        match condition {
            Condition::None => Ok(()),
            Condition::IfMatch(tag) => has(tag).then_some(()).ok_or(412),
            Condition::IfNoneMatch(tag) => (!has(tag)).then_some(()).ok_or(304),
            Condition::IfModifiedSince { own } => (!own).then_some(()).ok_or(304),
            Condition::IfUnmodifiedSince { own } => own.then_some(()).ok_or(412),
        }
    }

    /// What a write's condition on a place comes to: status and code of the refusal.
    pub(super) fn write_refusal(&self, at: Place, condition: Condition) -> Option<(u16, &'static str)> {
        let exists = self.object(at).is_some();
        match condition {
            Condition::IfMatch(_) if !exists => Some((404, "NoSuchKey")),
            Condition::IfMatch(Tag::Other) => Some((412, "PreconditionFailed")),
            Condition::IfNoneMatch(_) if exists => Some((412, "PreconditionFailed")),
            _ => None,
        }
    }
}
