//! How much output to reserve and hold at first for an answer of unknown length: what most earlier answers of the same key
//! and model needed. A hold that turns out too small is extended while decoding, so a wrong guess costs nobody anything.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::Limits;

/// Least allowance: below it extending would cost more than it saves.
const LEAST: u32 = 16;
/// Answers after which the older half counts half, so that a change of habits is soon seen.
const MEMORY: u32 = 256;
/// Two buckets an octave, from [`LEAST`] on; the last one holds everything beyond a million tokens.
const BUCKETS: usize = 33;

/// What was learned of all keys and models.
#[derive(Debug)]
pub(super) struct Allowances {
    first: u32,
    most: u32,
    percent: u32,
    learn_after: u32,
    max_pairs: usize,
    by_key: Mutex<HashMap<String, HashMap<String, Histogram>>>,
}

#[derive(Clone, Debug)]
struct Histogram {
    counts: [u32; BUCKETS],
    total: u32,
}

impl Allowances {
    /// Nothing learned yet.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            first: limits.output_allowance_tokens,
            most: limits.output_learned_max_tokens,
            percent: limits.output_quantile_percent,
            learn_after: limits.output_learn_after,
            max_pairs: limits.output_learned_pairs,
            by_key: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, HashMap<String, Histogram>>> {
        // Plain numbers: every state is valid.
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Output tokens of one answer of this key and model that are reserved at first.
    pub(super) fn of(&self, key_id: &str, model: &str) -> u32 {
        let by_key = self.lock();
        let learned = by_key.get(key_id).and_then(|models| models.get(model));
        let learned = learned.filter(|histogram| histogram.total >= self.learn_after);
        learned.map_or(self.first, |histogram| histogram.quantile(self.percent).min(self.most))
    }

    /// An answer had `tokens` output tokens.
    pub(super) fn note(&self, key_id: &str, model: &str, tokens: u32) {
        let mut by_key = self.lock();
        let is_known = by_key.get(key_id).is_some_and(|models| models.contains_key(model));
        // Rare, and no harm is done: everybody begins with the configured allowance again.
        if !is_known && by_key.values().map(HashMap::len).sum::<usize>() >= self.max_pairs {
            by_key.clear();
        }
        let models = by_key.entry(key_id.to_owned()).or_default();
        models.entry(model.to_owned()).or_insert_with(Histogram::new).add(tokens);
    }
}

impl Histogram {
    fn new() -> Self {
        Self { counts: [0; BUCKETS], total: 0 }
    }

    fn add(&mut self, tokens: u32) {
        let bucket = (0..BUCKETS - 1).find(|&bucket| tokens <= bound(bucket)).unwrap_or(BUCKETS - 1);
        self.counts[bucket] += 1;
        self.total += 1;
        if self.total >= MEMORY {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
    }

    /// The least bound that `percent` of the answers stay within.
    fn quantile(&self, percent: u32) -> u32 {
        let wanted = (u64::from(self.total) * u64::from(percent)).div_ceil(100);
        let mut seen = 0;
        for (bucket, &count) in self.counts.iter().enumerate() {
            seen += u64::from(count);
            if seen >= wanted && seen > 0 {
                return bound(bucket);
            }
        }
        bound(BUCKETS - 1)
    }
}

/// Upper bound of a bucket: 16, 24, 32, 48, 64, 96, ...
fn bound(bucket: usize) -> u32 {
    let octave = LEAST << (bucket / 2);
    octave + if bucket % 2 == 1 { octave / 2 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_answers_fit_what_was_learned() {
        let limits = Limits { output_learn_after: 10, output_learned_max_tokens: 4_096, ..Limits::default() };
        let allowances = Allowances::new(&limits);
        for tokens in 1..=9 {
            allowances.note("k", "m", tokens * 10);
        }
        assert_eq!(allowances.of("k", "m"), limits.output_allowance_tokens, "too few to go by");
        allowances.note("k", "m", 5_000);
        assert_eq!(allowances.of("k", "m"), 96, "nine of ten were at most 90");
        assert_eq!(allowances.of("k", "n"), limits.output_allowance_tokens);
        assert_eq!(allowances.of("l", "m"), limits.output_allowance_tokens);
        for _ in 0..300 {
            allowances.note("k", "m", 9_000);
        }
        assert_eq!(allowances.of("k", "m"), 4_096, "habits change, within bounds");
    }

    #[test]
    fn memory_is_bounded() {
        let limits = Limits { output_learn_after: 1, output_learned_pairs: 2, ..Limits::default() };
        let allowances = Allowances::new(&limits);
        for key in ["a", "b", "c"] {
            allowances.note(key, "m", 1);
        }
        assert_eq!((allowances.of("a", "m"), allowances.of("c", "m")), (limits.output_allowance_tokens, 16));
        assert_eq!((bound(0), bound(1), bound(2), bound(BUCKETS - 1)), (16, 24, 32, 1 << 20));
    }
}
