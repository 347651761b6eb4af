//! The tags of objects.

use super::super::action::*;
use super::super::document::Document;
use super::super::world::tags;
use super::{NAMESPACE, Player, answered, ask_at, escaped, refused};

impl Player {
    pub(super) fn get_tags(&mut self, at: Place) {
        let reply = self.client.ask(&ask_at("GET", at).query("tagging", ""));
        if self.misses_bucket(at.bucket, &reply) {
            return;
        }
        let Some(object) = self.object(at) else { return refused(&reply, 404, "NoSuchKey") };
        answered(&reply, 200);
        let document = Document::parse(&reply.body);
        let names = document.all("Tagging/TagSet/Tag/Key").into_iter().map(str::to_owned);
        let values = document.all("Tagging/TagSet/Tag/Value").into_iter().map(str::to_owned);
        let mut told: Vec<_> = names.zip(values).collect();
        told.sort();
        assert_eq!(told, object.tags);
    }

    pub(super) fn put_tags(&mut self, at: Place, count: u8) {
        let set: String = tags(count)
            .iter()
            .map(|(name, value)| format!("<Tag><Key>{}</Key><Value>{}</Value></Tag>", escaped(name), escaped(value)))
            .collect();
        let body = format!("<Tagging xmlns=\"{NAMESPACE}\"><TagSet>{set}</TagSet></Tagging>");
        let reply = self.client.ask(&ask_at("PUT", at).query("tagging", "").document(&body));
        self.tags_become(at, &reply, 200, count);
    }

    pub(super) fn delete_tags(&mut self, at: Place) {
        let reply = self.client.ask(&ask_at("DELETE", at).query("tagging", ""));
        self.tags_become(at, &reply, 204, 0);
    }

    fn tags_become(&mut self, at: Place, reply: &super::Reply, status: u16, count: u8) {
        if self.misses_bucket(at.bucket, reply) {
            return;
        }
        let objects = self.world.buckets[at.bucket].as_mut().expect("it is there");
        match objects.get_mut(KEYS[at.key]) {
            None => refused(reply, 404, "NoSuchKey"),
            Some(object) => {
                answered(reply, status);
                object.tags = tags(count);
            }
        }
    }
}
