//! What a machine can serve, and what of it is left.
//!
//! The first is measured once, by `spillway calibrate`, and kept as `capacity.json` in the data directory; the second is a
//! function of the engine's present state.

mod plot;

use std::fs;
use std::io;
use std::path::Path;

use engine::{Stats, Tier};
use serde::{Deserialize, Serialize};

const FILE: &str = "capacity.json";

/// What was measured of all models of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// One a model that generates.
    pub models: Vec<Measured>,
}

/// What was measured of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Its name.
    pub model: String,
    /// SHA-256 of its weights, hex; with others the figures say nothing.
    pub weights_sha256: String,
    /// When, Unix milliseconds.
    pub measured_ms: u64,
    /// Tokens that its key-value cache holds.
    pub kv_tokens: usize,
    /// By number of sequences, rising.
    pub points: Vec<Point>,
}

/// Speed with so many sequences at one time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Point {
    /// Sequences.
    pub sequences: usize,
    /// Prompt tokens that all of them together get through.
    pub input_tokens_per_second: f64,
    /// Tokens that all of them together generate.
    pub output_tokens_per_second: f64,
    /// Time between two tokens of one sequence: half are shorter.
    pub inter_token_p50_ms: f64,
    /// The same: 99 of 100 are shorter.
    pub inter_token_p99_ms: f64,
}

impl Measured {
    /// The fastest point at which tokens still come within `inter_token_ms`: what can be sold with that promise.
    pub fn within(&self, inter_token_ms: f64) -> Option<&Point> {
        let fit = self.points.iter().filter(|point| point.inter_token_p99_ms <= inter_token_ms);
        fit.max_by(|a, b| a.output_tokens_per_second.total_cmp(&b.output_tokens_per_second))
    }
}

impl Capacity {
    /// What is kept in `dir`; `None` where nothing was measured.
    ///
    /// # Errors
    /// The file cannot be read, or is not what was written.
    pub fn load(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(dir.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => Ok(Some(serde_json::from_slice(&read?)?)),
        }
    }

    /// Keeps it in `dir`, in place of what was measured before, and a plot of it beside.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        let whole = dir.join(format!("{FILE}.part"));
        fs::write(&whole, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&whole, dir.join(FILE))?;
        fs::write(dir.join("capacity.svg"), plot::svg(&self.models))
    }

    /// What was measured of `model` with these weights.
    pub fn of(&self, model: &str, weights_sha256: &str) -> Option<&Measured> {
        self.models.iter().find(|one| one.model == model && one.weights_sha256 == weights_sha256)
    }
}

/// How much is left, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// At least half.
    High,
    /// At least a tenth.
    Medium,
    /// Something.
    Low,
    /// Nothing: who comes now waits.
    LimitReached,
}

impl Level {
    /// The spelling in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::High => "high",
            Level::Medium => "medium",
            Level::Low => "low",
            Level::LimitReached => "limit_reached",
        }
    }
}

/// What is left for a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// Sequences that would begin at once; lower tiers make room for them.
    pub free: usize,
    /// The same in words.
    pub level: Level,
    /// Estimate of the wait of one that comes now.
    pub wait_ms: u64,
}

/// What `tier` has left of `slots` places in the batch. Those who run or wait in the same or a higher tier come first; where
/// they fill all places, one that comes now waits for as many turns of `typical_ms` as they need.
pub fn headroom(tier: Tier, stats: &Stats, slots: usize, typical_ms: u64) -> Headroom {
    let ahead = &stats.tiers[..=tier.index()];
    let taken: usize = ahead.iter().map(|one| one.running + one.waiting).sum();
    let free = slots.saturating_sub(taken);
    let level = match free {
        0 => Level::LimitReached,
        _ if free * 2 >= slots => Level::High,
        _ if free * 10 >= slots => Level::Medium,
        _ => Level::Low,
    };
    let turns = if free > 0 { 0 } else { (taken + 1 - slots).div_ceil(slots.max(1)) };
    Headroom { free, level, wait_ms: typical_ms.saturating_mul(turns as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(sequences: usize, speed: f64, p99: f64) -> Point {
        Point {
            sequences,
            input_tokens_per_second: 900.0,
            output_tokens_per_second: speed,
            inter_token_p50_ms: p99 / 2.0,
            inter_token_p99_ms: p99,
        }
    }

    fn measured() -> Measured {
        Measured {
            model: "m".to_owned(),
            weights_sha256: "00".to_owned(),
            measured_ms: 1,
            kv_tokens: 100,
            points: vec![point(1, 50.0, 20.0), point(8, 200.0, 40.0), point(32, 400.0, 90.0)],
        }
    }

    #[test]
    fn the_promise_bounds_what_can_be_sold() {
        let sold = |ms| measured().within(ms).map(|point| point.sequences);
        assert_eq!((sold(10.0), sold(20.0), sold(89.0), sold(90.0)), (None, Some(1), Some(8), Some(32)));
    }

    #[test]
    fn what_is_kept_is_read_again_and_plotted() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Capacity::load(dir.path()).unwrap(), None);
        let capacity = Capacity { models: vec![measured()] };
        capacity.save(dir.path()).unwrap();
        assert_eq!(Capacity::load(dir.path()).unwrap(), Some(capacity.clone()));
        assert!(capacity.of("m", "00").is_some() && capacity.of("m", "01").is_none());
        let svg = fs::read_to_string(dir.path().join("capacity.svg")).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("400") && svg.ends_with("</svg>\n"));
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Capacity::load(dir.path()).is_err());
    }

    #[test]
    fn higher_tiers_do_not_see_lower_ones() {
        let mut stats = Stats::default();
        let at = |stats: &Stats, tier| {
            let Headroom { free, level, wait_ms } = headroom(tier, stats, 10, 100);
            (free, level, wait_ms)
        };
        assert_eq!(at(&stats, Tier::Batch), (10, Level::High, 0));
        stats.tiers[Tier::Default.index()].running = 6;
        stats.tiers[Tier::Flex.index()].waiting = 24;
        assert_eq!(at(&stats, Tier::Priority), (10, Level::High, 0));
        assert_eq!(at(&stats, Tier::Default), (4, Level::Medium, 0));
        // 30 are ahead of ten places: 20 of them and this one wait, which is three turns.
        assert_eq!(at(&stats, Tier::Flex), (0, Level::LimitReached, 300));
        stats.tiers[Tier::Default.index()].running = 10;
        assert_eq!(at(&stats, Tier::Default), (0, Level::LimitReached, 100));
        let scarce = headroom(Tier::Default, &stats, 11, 100);
        assert_eq!((scarce.free, scarce.level), (1, Level::Low));
    }
}
