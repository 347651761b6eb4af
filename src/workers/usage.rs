//! Writes what this run has used of each backend's monthly budgets: absolute values, so that writing twice changes nothing.

use crate::base::{BackendName, Failure};
use crate::handlers::ports::Ports;
use crate::observe::cells::CoreCells;
use crate::store::port::{Metadata, RecordUsage, Usage};

/// What all cores together have used since the process started. Their cells list the backends in one order, the view's.
pub fn totals<'c>(cores: impl IntoIterator<Item = &'c CoreCells>) -> Vec<(BackendName, Usage)> {
    let mut totals: Vec<(BackendName, Usage)> = Vec::new();
    for core in cores {
        for (index, cells) in core.backends.iter().enumerate() {
            if index == totals.len() {
                totals.push((cells.name.clone(), Usage::default()));
            }
            let usage = &mut totals[index].1;
            usage.api_requests += cells.api_requests.value();
            usage.egress_bytes += cells.egress_bytes.value();
            usage.ingress_bytes += cells.ingress_bytes.value();
        }
    }
    totals
}

/// `period` is `YYYY-MM`. The schedule subtracts what was used before the month began.
pub async fn pass<P: Ports>(ports: &P, period: String, backends: Vec<(BackendName, Usage)>) -> Result<(), Failure> {
    let record = RecordUsage { incarnation: ports.incarnation(), period, backends };
    match ports.meta().step(record).await? {
        Ok(_) => Ok(()),
        Err(refusal) => Err(Failure::ourselves(format!("usage was refused: {refusal:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_add_up() {
        let names = || ["one", "two"].map(BackendName::new);
        let (a, b) = (CoreCells::new("0", names()), CoreCells::new("1", names()));
        a.backends[1].egress_bytes.add(5);
        b.backends[1].egress_bytes.add(7);
        b.backends[0].api_requests.inc();
        let got = totals([&a, &b]);
        assert_eq!(got[0].1, Usage { api_requests: 1, ..Usage::default() });
        assert_eq!((got[1].0.as_str(), got[1].1.egress_bytes), ("two", 12));
    }
}
