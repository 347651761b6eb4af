//! Counters of what backends were asked for: this instance's own (`local`), and those of other instances between their
//! writes to the database (`redis`). They are what status and metrics show. Budgets are kept by leases from the database
//! (workers/lend.rs), whatever is known here.

pub mod local;
pub mod redis;

use crate::store::port::{Usage, UsageRow};
use std::collections::BTreeMap;

/// What all instances together have used, by backend: of each of them the most that anybody says, since an instance's
/// counters only grow.
pub fn merged<'r>(rows: impl IntoIterator<Item = &'r UsageRow>) -> BTreeMap<&'r str, Usage> {
    let mut by_instance: BTreeMap<(&str, i64), Usage> = BTreeMap::new();
    for row in rows {
        let most = by_instance.entry((row.backend.as_str(), row.incarnation.0)).or_default();
        most.api_requests = most.api_requests.max(row.usage.api_requests);
        most.egress_bytes = most.egress_bytes.max(row.usage.egress_bytes);
        most.ingress_bytes = most.ingress_bytes.max(row.usage.ingress_bytes);
    }
    let mut sums: BTreeMap<&str, Usage> = BTreeMap::new();
    for ((backend, _), usage) in by_instance {
        let sum = sums.entry(backend).or_default();
        sum.api_requests += usage.api_requests;
        sum.egress_bytes += usage.egress_bytes;
        sum.ingress_bytes += usage.ingress_bytes;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Incarnation;

    #[test]
    fn of_each_instance_the_most_that_is_known_counts_once() {
        let row = |backend: &str, incarnation, api_requests, egress_bytes| UsageRow {
            backend: backend.to_owned(),
            incarnation: Incarnation(incarnation),
            usage: Usage { api_requests, egress_bytes, ingress_bytes: 1 },
        };
        let recorded = [row("a", 1, 10, 5), row("a", 2, 7, 7), row("b", 1, 1, 1)];
        let fresh = [row("a", 1, 12, 4), row("a", 3, 100, 0)];
        let sums = merged(recorded.iter().chain(&fresh));
        assert_eq!(sums["a"], Usage { api_requests: 119, egress_bytes: 12, ingress_bytes: 3 });
        assert_eq!(sums["b"], Usage { api_requests: 1, egress_bytes: 1, ingress_bytes: 1 });
    }
}
