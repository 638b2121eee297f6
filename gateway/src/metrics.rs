//! Counters and histograms, and their Prometheus text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use engine::Tier;

/// Upper bounds of latency buckets, microseconds.
const BUCKETS_US: [u64; 14] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000,
];

/// Counts of durations by size.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    fn render(&self, out: &mut String, name: &str, help: &str) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        self.samples(out, name, "");
    }

    /// The samples; `label` is empty or a label with a comma behind it.
    fn samples(&self, out: &mut String, name: &str, label: &str) {
        let mut total = 0;
        for (bucket, bound) in self.buckets.iter().zip(BUCKETS_US) {
            total += bucket.load(Relaxed);
            let _ = writeln!(out, "{name}_bucket{{{label}le=\"{}\"}} {total}", bound as f64 / 1e6);
        }
        total += self.buckets[BUCKETS_US.len()].load(Relaxed);
        let sum = self.sum_us.load(Relaxed) as f64 / 1e6;
        let own =
            if label.is_empty() { String::new() } else { format!("{{{}}}", label.trim_end_matches(',')) };
        let _ = writeln!(out, "{name}_bucket{{{label}le=\"+Inf\"}} {total}");
        let _ = writeln!(out, "{name}_sum{own} {sum}\n{name}_count{own} {total}");
    }
}

/// Counters by up to two labels.
#[derive(Debug, Default)]
pub struct Counters(Mutex<BTreeMap<(&'static str, String), u64>>);

impl Counters {
    /// Adds `count` under the two labels' values. The caller keeps the set of values small.
    pub fn add(&self, first: &'static str, second: impl ToString, count: u64) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *map.entry((first, second.to_string())).or_default() += count;
    }

    fn render(&self, out: &mut String, name: &str, help: &str, labels: [&str; 2]) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
        for ((first, second), count) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(out, "{name}{{{}=\"{first}\",{}=\"{second}\"}} {count}", labels[0], labels[1]);
        }
    }
}

/// Everything the gateway counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Answers by route and status.
    pub requests: Counters,
    /// Refusals by error type and code.
    pub refusals: Counters,
    /// Settled tokens by endpoint and class.
    pub tokens: Counters,
    /// Admitted requests by endpoint and ending.
    pub endings: Counters,
    /// Settled tokens by service tier and class.
    pub tier_tokens: Counters,
    /// From request to first output token, by service tier.
    pub tier_first_token: [Histogram; 6],
    /// Between output tokens, by service tier.
    pub tier_next_token: [Histogram; 6],
    /// From request to first output token.
    pub first_token: Histogram,
    /// Between output tokens of a choice's stream.
    pub next_token: Histogram,
    /// Whole admitted requests.
    pub duration: Histogram,
}

/// A value read at the time of the report.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Metric.
    pub name: &'static str,
    /// `gauge` or `counter`.
    pub kind: &'static str,
    /// What it is.
    pub help: &'static str,
    /// The model it speaks of, where it does.
    pub model: Option<String>,
    /// The value.
    pub value: f64,
}

impl Metrics {
    /// The report in Prometheus' text format, with `samples` of other parts at its end.
    pub fn render(&self, mut samples: Vec<Sample>) -> String {
        let mut out = String::with_capacity(8 << 10);
        self.requests.render(&mut out, "spillway_http_requests_total", "Answers sent.", ["route", "status"]);
        self.refusals.render(&mut out, "spillway_refusals_total", "Requests refused.", ["type", "code"]);
        self.tokens.render(&mut out, "spillway_tokens_total", "Tokens settled.", ["endpoint", "class"]);
        self.endings.render(
            &mut out,
            "spillway_endings_total",
            "Admitted requests ended.",
            ["endpoint", "end"],
        );
        let tokens = "Tokens settled by service tier.";
        self.tier_tokens.render(&mut out, "spillway_tier_tokens_total", tokens, ["tier", "class"]);
        for (name, help, histograms) in [
            (
                "spillway_tier_time_to_first_token_seconds",
                "Time from request to first output token by service tier.",
                &self.tier_first_token,
            ),
            (
                "spillway_tier_inter_token_seconds",
                "Time between output deltas by service tier.",
                &self.tier_next_token,
            ),
        ] {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
            for (tier, histogram) in Tier::ALL.into_iter().zip(histograms) {
                histogram.samples(&mut out, name, &format!("tier=\"{}\",", tier.name()));
            }
        }
        let first = "Time from request to first output token.";
        self.first_token.render(&mut out, "spillway_time_to_first_token_seconds", first);
        let next = "Time between output deltas of a request.";
        self.next_token.render(&mut out, "spillway_inter_token_seconds", next);
        self.duration.render(&mut out, "spillway_request_duration_seconds", "Time from admission to end.");
        // The samples of one metric stand together under one head.
        samples.sort_by_key(|sample| sample.name);
        let mut last = "";
        for Sample { name, kind, help, model, value } in samples {
            if std::mem::replace(&mut last, name) != name {
                let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            }
            let _ = match model {
                // Ids may hold any printable character.
                Some(model) => writeln!(out, "{name}{{model={model:?}}} {value}"),
                None => writeln!(out, "{name} {value}"),
            };
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_accumulate_and_labels_sort() {
        let metrics = Metrics::default();
        metrics.first_token.observe(Duration::from_micros(1_000));
        metrics.first_token.observe(Duration::from_secs(60));
        metrics.requests.add("/v1/models", 200, 2);
        let sample = |name, model: Option<&str>, value| {
            let model = model.map(str::to_owned);
            Sample { name, kind: "gauge", help: "Up.", model, value }
        };
        let text = metrics.render(vec![
            sample("spillway_runs", Some("a"), 1.0),
            sample("spillway_up", None, 1.0),
            sample("spillway_runs", Some("b"), 2.0),
        ]);
        assert_eq!(text.matches("# TYPE spillway_runs gauge").count(), 1);
        for line in [
            "spillway_time_to_first_token_seconds_bucket{le=\"0.001\"} 1",
            "spillway_time_to_first_token_seconds_bucket{le=\"30\"} 1",
            "spillway_time_to_first_token_seconds_bucket{le=\"+Inf\"} 2",
            "spillway_http_requests_total{route=\"/v1/models\",status=\"200\"} 2",
            "spillway_up 1",
            "spillway_runs{model=\"a\"} 1",
            "spillway_runs{model=\"b\"} 2",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
    }
}
