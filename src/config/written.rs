//! A configuration file as it was written, kept to tell what a later reading of it changed.

use super::raw::{Node, Value};
use std::collections::BTreeMap;

/// What takes effect when the file is read again (SIGHUP); the rest needs a restart.
const RELOADED: [&str; 4] = ["auth", "buckets", "replication", "usage_flush"];
/// And of the server.
const RELOADED_OF_SERVER: [&str; 1] = ["server.log_level"];
/// And of a backend.
const RELOADED_OF_BACKEND: [&str; 5] =
    ["quota_bytes", "api_request_limit", "egress_byte_limit", "ingress_byte_limit", "request_limits[].limit"];

#[derive(Clone, PartialEq, Eq)]
pub struct Written(BTreeMap<String, String>);

impl std::fmt::Debug for Written {
    /// Values may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Written {
    pub(super) fn of(root: &Node) -> Self {
        let mut values = BTreeMap::new();
        flatten(root, "", &mut values);
        Self(values)
    }

    /// Keys whose values differ and that only a restart brings into force, as the file means them (`backends[1].name`).
    pub fn needs_restart(&self, later: &Self) -> Vec<String> {
        let keys = self.0.keys().chain(later.0.keys().filter(|&key| !self.0.contains_key(key)));
        let mut changed: Vec<String> =
            keys.filter(|&key| !is_reloaded(key) && self.0.get(key) != later.0.get(key)).cloned().collect();
        changed.sort();
        changed
    }
}

fn is_reloaded(key: &str) -> bool {
    let section = key.split(['.', '[']).next().unwrap_or(key);
    let of_backend = key.strip_prefix("backends[").and_then(|rest| rest.split_once("].")).map(|(_, below)| below);
    RELOADED.contains(&section)
        || RELOADED_OF_SERVER.contains(&key)
        || of_backend.is_some_and(|below| RELOADED_OF_BACKEND.contains(&&*without_places(below)))
}

/// `request_limits[3].limit` as `request_limits[].limit`.
fn without_places(key: &str) -> String {
    key.chars().filter(|one| !one.is_ascii_digit()).collect()
}

fn flatten(node: &Node, path: &str, values: &mut BTreeMap<String, String>) {
    match &node.value {
        Value::Null | Value::Unusable => {}
        Value::Scalar(text) => drop(values.insert(path.to_owned(), text.clone())),
        Value::List(items) => {
            for (i, item) in items.iter().enumerate() {
                flatten(item, &format!("{path}[{i}]"), values);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                let below = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                flatten(&entry.node, &below, values);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_restart_is_named() {
        let of = |text: &str| Written::of(&super::super::raw::parse(text).expect("YAML"));
        let before =
            of("server: {log_level: info, domains: [a.b]}\nbuckets: [{name: one}]\nauth: {root: {access_key_id: a}}");
        let after = of(
            "server: {log_level: warn, domains: [a.b, c.d]}\nbuckets: []\nreplication: {factor: 2}\nrebalance: {enabled: true}",
        );
        let want = ["rebalance.enabled", "server.domains[1]"];
        assert_eq!(before.needs_restart(&after), want);
        assert_eq!(after.needs_restart(&before), want);
        assert!(before.needs_restart(&before).is_empty());
        let backends =
            |of: &str| Written::of(&super::super::raw::parse(&format!("backends: [{{{of}}}]")).expect("YAML"));
        let limits = backends("name: a, quota_bytes: 5, egress_byte_limit: 1, request_limits: [{name: p, limit: 3}]");
        let higher = backends("name: a, quota_bytes: 6, ingress_byte_limit: 1, request_limits: [{name: p, limit: 4}]");
        assert!(limits.needs_restart(&higher).is_empty());
        let others = backends("name: a, quota_bytes: 5, egress_byte_limit: 1, request_limits: [{name: q, limit: 3}]");
        assert_eq!(limits.needs_restart(&others), ["backends[0].request_limits[0].name"]);
        assert!(!format!("{before:?}").contains("info"), "values are not printed");
    }
}
