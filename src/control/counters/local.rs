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
}

impl UsageBook {
    pub fn new(cells: Vec<Arc<CoreCells>>, now: Timestamp) -> Self {
        let backends = cells.first().map_or(0, |core| core.backends.len());
        Self { cells, period: date::month(now), base: vec![Usage::default(); backends] }
    }

    /// The period and, by backend, what was used in it. In a new month the old one is answered once more, as it ended.
    pub fn read(&mut self, now: Timestamp) -> (String, Vec<Usage>) {
        let total = self.total();
        let used = total.iter().zip(&self.base).map(|(total, base)| minus(total, base)).collect();
        let answered = self.period.clone();
        let current = date::month(now);
        if current != answered {
            self.period = current;
            self.base = total;
        }
        (answered, used)
    }

    /// As `read`, without ending a month.
    pub fn look(&self) -> (String, Vec<Usage>) {
        (self.period.clone(), self.total().iter().zip(&self.base).map(|(total, base)| minus(total, base)).collect())
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
        core.backends[0].api_requests.add(3);
        assert_eq!(book.read(november), ("2026-11".to_owned(), vec![Usage { api_requests: 3, ..Usage::default() }]));
        core.backends[0].api_requests.add(2);
        assert_eq!(book.read(december).0, "2026-11");
        core.backends[0].egress_bytes.add(7);
        assert_eq!(book.look().1[0].egress_bytes, 7);
        let (period, used) = book.read(december);
        assert_eq!((period.as_str(), used[0].api_requests, used[0].egress_bytes), ("2026-12", 0, 7));
    }
}
