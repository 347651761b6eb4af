//! What a run measured: latencies of each operation, bytes, errors; as a table and as JSON.

use crate::load::{Plan, Verb};
use comfy_table::Table;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// One operation's figures; each connection has its own and they are added up at the end.
pub struct Figures {
    latency_us: Histogram<u64>,
    bytes: u64,
    errors: BTreeMap<String, u64>,
}

impl Default for Figures {
    fn default() -> Self {
        let latency_us = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("fixed bounds are valid");
        Self { latency_us, bytes: 0, errors: BTreeMap::new() }
    }
}

impl Figures {
    pub fn success(&mut self, latency: Duration, bytes: u64) {
        self.latency_us.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
        self.bytes += bytes;
    }

    pub fn error(&mut self, what: String) {
        *self.errors.entry(what).or_default() += 1;
    }

    pub fn add(&mut self, other: &Self) {
        self.latency_us.add(&other.latency_us).expect("equal bounds");
        self.bytes += other.bytes;
        for (what, count) in &other.errors {
            *self.errors.entry(what.clone()).or_default() += count;
        }
    }

    /// Operations that succeeded.
    pub fn count(&self) -> u64 {
        self.latency_us.len()
    }

    /// Body bytes of those.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Microseconds.
    pub fn latency_us(&self, quantile: f64) -> u64 {
        self.latency_us.value_at_quantile(quantile)
    }

    fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// A whole run.
pub struct Report {
    pub elapsed: Duration,
    pub operations: BTreeMap<&'static str, Figures>,
}

impl Report {
    pub fn errors(&self) -> u64 {
        self.operations.values().map(Figures::error_count).sum()
    }

    /// Operations that succeeded, of all kinds.
    pub fn count(&self) -> u64 {
        self.operations.values().map(Figures::count).sum()
    }

    /// Body bytes of those.
    pub fn bytes(&self) -> u64 {
        self.operations.values().map(Figures::bytes).sum()
    }

    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.set_header([
            "operation",
            "ok",
            "ops/s",
            "MiB/s",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "p99.9 ms",
            "max ms",
            "errors",
        ]);
        let seconds = self.elapsed.as_secs_f64();
        for (name, figures) in &self.operations {
            let at = |quantile: f64| format!("{:.2}", figures.latency_us.value_at_quantile(quantile) as f64 / 1e3);
            let count = figures.latency_us.len();
            table.add_row([
                (*name).to_owned(),
                count.to_string(),
                format!("{:.0}", count as f64 / seconds),
                format!("{:.1}", figures.bytes as f64 / seconds / (1024.0 * 1024.0)),
                at(0.5),
                at(0.9),
                at(0.99),
                at(0.999),
                format!("{:.2}", figures.latency_us.max() as f64 / 1e3),
                figures.error_count().to_string(),
            ]);
        }
        let mut text = table.to_string();
        for (name, figures) in &self.operations {
            for (what, count) in &figures.errors {
                text.push_str(&format!("\n{count} x {name}: {what}"));
            }
        }
        text
    }

    pub fn json(&self, plan: &Plan) -> serde_json::Value {
        let seconds = self.elapsed.as_secs_f64();
        let operations = self.operations.iter().map(|(name, figures)| {
            let latency = &figures.latency_us;
            let value = serde_json::json!({
                "ok": latency.len(),
                "per_second": latency.len() as f64 / seconds,
                "bytes": figures.bytes,
                "bytes_per_second": figures.bytes as f64 / seconds,
                "latency_us": {
                    "p50": latency.value_at_quantile(0.5),
                    "p90": latency.value_at_quantile(0.9),
                    "p99": latency.value_at_quantile(0.99),
                    "p999": latency.value_at_quantile(0.999),
                    "max": latency.max(),
                },
                "errors": figures.errors,
            });
            ((*name).to_owned(), value)
        });
        let weights = Verb::ALL.into_iter().filter(|&verb| plan.mix.weight(verb) > 0);
        let mix = weights.map(|verb| (verb.name().to_owned(), plan.mix.weight(verb).into()));
        serde_json::json!({
            "plan": {
                "endpoint": plan.target.address,
                "mix": mix.collect::<serde_json::Map<_, _>>(),
                "sizes": plan.sizes,
                "keys": plan.keys,
                "payload": format!("{:?}", plan.payload),
                "part_size": plan.part_size,
                "connections": plan.connections,
                "rate": plan.rate,
                "verify": plan.verify,
            },
            "seconds": seconds,
            "operations": operations.collect::<serde_json::Map<_, _>>(),
            "machine": {
                "cores": std::thread::available_parallelism().map_or(0, usize::from),
                "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
            },
        })
    }
}
