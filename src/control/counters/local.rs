//! What the backends were asked for this month, as absolute values of this incarnation: sending them twice changes nothing.

use crate::base::Timestamp;
use crate::observe::cells::CoreCells;
use crate::proto::date;
use crate::store::port::Usage;
use std::sync::Arc;

/// The cells count from the start of the process; a month begins at whatever they said then.
#[derive(Debug)]
pub struct UsageBook {
    cells: Vec<Arc<CoreCells>>,
    period: String,
    base: Vec<Usage>,
    /// Months that have ended and were not told since.
    ended: Vec<(String, Vec<Usage>)>,
}

impl UsageBook {
    pub fn new(cells: Vec<Arc<CoreCells>>, now: Timestamp) -> Self {
        let backends = cells.first().map_or(0, |core| core.backends.len());
        Self { cells, period: date::month(now), base: vec![Usage::default(); backends], ended: Vec::new() }
    }

    /// This month, and what was used in it by backend.
    pub fn this_month(&mut self, now: Timestamp) -> (String, Vec<Usage>) {
        let total = self.total();
        let used = total.iter().zip(&self.base).map(|(total, base)| minus(total, base)).collect();
        let current = date::month(now);
        // A clock that was set back does not bring the old month back.
        if current <= self.period {
            return (self.period.clone(), used);
        }
        self.ended.push((std::mem::replace(&mut self.period, current.clone()), used));
        self.base = total;
        (current, vec![Usage::default(); self.base.len()])
    }

    /// Months to be told: those that have ended, as they ended, and this one.
    pub fn untold(&mut self, now: Timestamp) -> Vec<(String, Vec<Usage>)> {
        let current = self.this_month(now);
        self.ended.iter().cloned().chain([current]).collect()
    }

    /// If it has ended, nothing more is to be told of it.
    pub fn told(&mut self, period: &str) {
        self.ended.retain(|(ended, _)| ended != period);
    }

    fn total(&self) -> Vec<Usage> {
        let mut total = vec![Usage::default(); self.base.len()];
        for core in &self.cells {
            for (sum, backend) in total.iter_mut().zip(&core.backends) {
                sum.api_requests += backend.api_requests.value();
                sum.egress_bytes += backend.egress_bytes.value();
                sum.ingress_bytes += backend.ingress_bytes.value();
            }
        }
        total
    }
}

fn minus(total: &Usage, base: &Usage) -> Usage {
    Usage {
        api_requests: total.api_requests - base.api_requests,
        egress_bytes: total.egress_bytes - base.egress_bytes,
        ingress_bytes: total.ingress_bytes - base.ingress_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BackendName;

    #[test]
    fn a_new_month_starts_at_zero_and_the_old_one_is_told_to_its_end() {
        let core = Arc::new(CoreCells::new("0", [BackendName::new("b")]));
        let november = Timestamp { millis: 1_795_996_800_000 };
        let december = Timestamp { millis: 1_796_083_200_000 };
        let mut book = UsageBook::new(vec![Arc::clone(&core)], november);
        let requests = |api_requests| vec![Usage { api_requests, ..Usage::default() }];
        core.backends[0].api_requests.add(3);
        assert_eq!(book.untold(november), [("2026-11".to_owned(), requests(3))]);
        book.told("2026-11");
        core.backends[0].api_requests.add(2);
        // The database does not answer for a while: November is kept until it was told.
        for _ in 0..2 {
            let months = book.untold(december);
            assert_eq!(months, [("2026-11".to_owned(), requests(5)), ("2026-12".to_owned(), requests(0))]);
        }
        core.backends[0].api_requests.add(7);
        book.told("2026-11");
        book.told("2026-12");
        assert_eq!(book.this_month(december), ("2026-12".to_owned(), requests(7)));
        assert_eq!(book.untold(december), [("2026-12".to_owned(), requests(7))]);
    }
}
