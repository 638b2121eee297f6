//! What came of it.

use std::fmt::Write;

use engine::Tier;

use crate::trace::Arrival;

/// Part of the list price that each tier pays, percent: the gateway's defaults.
const PERCENT: [f64; 6] = [100.0, 100.0, 175.0, 100.0, 50.0, 50.0];
/// Colour of each tier.
const COLORS: [&str; 6] = ["#444444", "#7a4fa3", "#b5532a", "#1b6ca8", "#4f9d69", "#b9c6d0"];
/// Columns of the plot.
const COLUMNS: usize = 240;

/// What one tier saw.
#[derive(Default)]
struct TierReport {
    finished: u64,
    refused: u64,
    prompt_tokens: u64,
    output_tokens: u64,
    first_us: Vec<u64>,
    gaps_us: Vec<u64>,
}

/// What one simulation came to.
pub(crate) struct Report {
    devices: usize,
    tiers: [TierReport; 6],
    /// When the last step ended.
    pub(crate) end_us: u64,
    busy_us: u64,
    preemptions: u64,
    /// Tokens computed by tier in each second.
    seconds: Vec<[u64; 6]>,
}

impl Report {
    pub(crate) fn new(devices: usize) -> Self {
        let (tiers, seconds) = Default::default();
        Self { devices, tiers, end_us: 0, busy_us: 0, preemptions: 0, seconds }
    }

    pub(crate) fn refused(&mut self, arrival: &Arrival) {
        self.tiers[arrival.tier.index()].refused += 1;
    }

    pub(crate) fn preempted(&mut self, times: u64) {
        self.preemptions += times;
    }

    pub(crate) fn step(&mut self, now_us: u64, took_us: u64, tokens: impl Iterator<Item = (Tier, u64)>) {
        self.busy_us += took_us;
        self.end_us = self.end_us.max(now_us + took_us);
        let second = (now_us / 1_000_000) as usize;
        if self.seconds.len() <= second {
            self.seconds.resize(second + 1, [0; 6]);
        }
        for (tier, count) in tokens {
            self.seconds[second][tier.index()] += count;
        }
    }

    pub(crate) fn token(&mut self, arrival: &Arrival, last_us: Option<u64>, now_us: u64) {
        let tier = &mut self.tiers[arrival.tier.index()];
        match last_us {
            None => tier.first_us.push(now_us - arrival.at_us),
            Some(last_us) => tier.gaps_us.push(now_us - last_us),
        }
    }

    pub(crate) fn finished(&mut self, arrival: &Arrival) {
        let tier = &mut self.tiers[arrival.tier.index()];
        tier.finished += 1;
        tier.prompt_tokens += u64::from(arrival.prompt_tokens);
        tier.output_tokens += u64::from(arrival.output_tokens);
    }

    /// Part of the devices' time in which they computed.
    fn utilisation(&self) -> f64 {
        self.busy_us as f64 / (self.end_us.max(1) as f64 * self.devices as f64)
    }

    /// The report as text; prices are USD per 1M tokens.
    pub(crate) fn table(&self, prompt_price: f64, output_price: f64) -> String {
        let mut out = String::from(
            "tier      finished refused   prompt tok   output tok  TTFT p50 ms      p99 ms  gap p99 ms    revenue USD\n",
        );
        let mut total = 0.0;
        for tier in Tier::ALL {
            let of = &self.tiers[tier.index()];
            let list = of.prompt_tokens as f64 * prompt_price + of.output_tokens as f64 * output_price;
            let revenue = list * PERCENT[tier.index()] / 100.0 / 1e6;
            // The operator does not pay itself.
            total += if tier == Tier::Internal { 0.0 } else { revenue };
            let _ = writeln!(
                out,
                "{:<9} {:>8} {:>7} {:>12} {:>12} {:>12.1} {:>11.1} {:>11.1} {:>14.6}",
                tier.name(),
                of.finished,
                of.refused,
                of.prompt_tokens,
                of.output_tokens,
                quantile_ms(&of.first_us, 0.5),
                quantile_ms(&of.first_us, 0.99),
                quantile_ms(&of.gaps_us, 0.99),
                revenue
            );
        }
        let _ = writeln!(
            out,
            "\n{} devices, {:.1} s, {:.1} % busy, {} preemptions, sold for {total:.6} USD",
            self.devices,
            self.end_us as f64 / 1e6,
            self.utilisation() * 100.0,
            self.preemptions
        );
        out
    }

    /// Tokens per second by tier over time, stacked.
    pub(crate) fn svg(&self) -> String {
        let per_column = self.seconds.len().div_ceil(COLUMNS).max(1);
        let columns: Vec<[u64; 6]> = self
            .seconds
            .chunks(per_column)
            .map(|seconds| {
                let mut sum = [0; 6];
                seconds.iter().for_each(|tiers| (0..6).for_each(|at| sum[at] += tiers[at]));
                sum
            })
            .collect();
        let most = columns.iter().map(|column| column.iter().sum::<u64>()).max().unwrap_or(1).max(1);
        let width = 720.0 / columns.len().max(1) as f64;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 260\" font-family=\"sans-serif\" \
             font-size=\"11\">\n<rect width=\"760\" height=\"260\" fill=\"white\"/>\n\
             <text x=\"20\" y=\"16\">tokens by tier over {:.0} s, most {:.0} a second, {:.1} % busy</text>\n",
            self.end_us as f64 / 1e6,
            most as f64 / per_column as f64,
            self.utilisation() * 100.0
        );
        for (at, column) in columns.iter().enumerate() {
            let mut top = 230.0;
            for (tier, count) in column.iter().enumerate().filter(|(_, count)| **count > 0) {
                let height = *count as f64 / most as f64 * 200.0;
                top -= height;
                let (x, color) = (20.0 + width * at as f64, COLORS[tier]);
                let _ = writeln!(
                    out,
                    "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{color}\"/>"
                );
            }
        }
        for (at, tier) in Tier::ALL.into_iter().enumerate() {
            let (x, color) = (20 + at * 90, COLORS[at]);
            let name = tier.name();
            let _ = writeln!(out, "<rect x=\"{x}\" y=\"240\" width=\"10\" height=\"10\" fill=\"{color}\"/>");
            let _ = writeln!(out, "<text x=\"{}\" y=\"249\">{name}</text>", x + 14);
        }
        out + "</svg>\n"
    }
}

/// A quantile of unsorted microseconds, in milliseconds; 0 where there are none.
fn quantile_ms(values: &[u64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() as f64 * part) as usize;
    sorted.get(at).or(sorted.last()).map_or(0.0, |us| *us as f64 / 1e3)
}
