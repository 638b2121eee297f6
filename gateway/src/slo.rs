//! Whether answers come as promised: targets by service tier and by lease, what missed them, and how fast the misses use
//! up what an objective allows.
//!
//! Each request counts once for each target, when it ends. The first is the time from the request's last byte to its first
//! token; a request that was given up by the server before that counts with the time it waited. The other is the mean time
//! between the tokens of an answer: what lies between the first and the last piece of each choice, over the tokens after
//! the first piece. Time in which the reader took nothing is left out of both.
//!
//! The burn rate is the part that missed, over the part that may (Google's Site Reliability Workbook, chapter 5, whose
//! windows these are): at 1 the objective is just kept, at 100 with an objective of 99 % everything misses.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use engine::Tier;

use crate::config::SloSection;
use crate::leases::Lease;
use crate::ledger::Pace;

const MINUTE_MS: u64 = 60_000;
/// Windows of the burn rate: name and minutes. The last is the longest.
const WINDOWS: [(&str, u64); 3] = [("5m", 5), ("1h", 60), ("6h", 360)];
const MINUTES: usize = WINDOWS[2].1 as usize;
/// Leases that are remembered; beyond them the one whose last request is the longest ago is forgotten.
const MAX_LEASES: usize = 1024;
/// Names of the two targets: the time to the first token, and that between two.
const TARGETS: [&str; 2] = ["first_token", "inter_token"];

/// Targets and how they are kept; time is passed in.
#[derive(Debug)]
pub struct Slo {
    tiers: [Tracks; 6],
    leases: Mutex<BTreeMap<String, Tracks>>,
}

/// How the two targets of a tier or lease are kept.
#[derive(Debug)]
struct Tracks {
    /// Most microseconds; 0: nothing is promised.
    targets_us: [u64; 2],
    /// Part that may miss.
    allowed: f64,
    tracks: Mutex<[Track; 2]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Minute {
    number: u64,
    events: u64,
    misses: u64,
}

#[derive(Debug)]
struct Track {
    events: u64,
    misses: u64,
    /// Number of the last minute with an event.
    last: u64,
    minutes: Vec<Minute>,
}

impl Track {
    fn new() -> Self {
        Self { events: 0, misses: 0, last: 0, minutes: vec![Minute::default(); MINUTES] }
    }

    fn note(&mut self, is_miss: bool, minute: u64) {
        self.events += 1;
        self.misses += u64::from(is_miss);
        self.last = minute;
        let slot = &mut self.minutes[(minute % MINUTES as u64) as usize];
        if slot.number != minute {
            *slot = Minute { number: minute, ..Minute::default() };
        }
        slot.events += 1;
        slot.misses += u64::from(is_miss);
    }

    /// The part of the last `window` minutes that missed; 0 where nothing happened.
    fn missed(&self, window: u64, minute: u64) -> f64 {
        let recent = self.minutes.iter().filter(|slot| slot.number + window > minute);
        let (events, misses) = recent.fold((0, 0), |sum, slot| (sum.0 + slot.events, sum.1 + slot.misses));
        if events == 0 { 0.0 } else { misses as f64 / events as f64 }
    }
}

impl Tracks {
    fn new(targets_ms: [u32; 2], objective_permille: u32) -> Self {
        Self {
            targets_us: targets_ms.map(|ms| u64::from(ms) * 1_000),
            allowed: 1.0 - f64::from(objective_permille) / 1e3,
            tracks: Mutex::new([Track::new(), Track::new()]),
        }
    }

    fn note(&self, pace: Pace, minute: u64) {
        let took = [Some(u64::from(pace.wait_ms) * 1_000), pace.gap_us.map(u64::from)];
        let mut tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        for ((track, took), target) in tracks.iter_mut().zip(took).zip(self.targets_us) {
            if let Some(took) = took.filter(|_| target > 0) {
                track.note(took > target, minute);
            }
        }
    }

    fn last(&self) -> u64 {
        let tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        tracks.iter().map(|track| track.last).max().unwrap_or(0)
    }

    /// Adds a sample to each of the three series; `whose` is the first label.
    fn render(&self, lines: &mut [String; 3], whose: &str, minute: u64) {
        let tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        let promised = tracks.iter().zip(TARGETS).zip(self.targets_us).filter(|(_, target)| *target > 0);
        for ((track, name), _) in promised {
            let labels = format!("{whose},target=\"{name}\"");
            let _ = writeln!(lines[0], "spillway_slo_events_total{{{labels}}} {}", track.events);
            let _ = writeln!(lines[1], "spillway_slo_misses_total{{{labels}}} {}", track.misses);
            for (name, window) in WINDOWS {
                let rate = track.missed(window, minute) / self.allowed;
                let _ = writeln!(lines[2], "spillway_slo_burn_rate{{{labels},window=\"{name}\"}} {rate:.4}");
            }
        }
    }
}

impl Slo {
    /// The configured targets, nothing seen yet.
    pub fn new(section: &SloSection) -> Self {
        let tiers = [
            [section.internal_first_token_ms, section.internal_inter_token_ms],
            [section.reserved_first_token_ms, section.reserved_inter_token_ms],
            [section.priority_first_token_ms, section.priority_inter_token_ms],
            [section.default_first_token_ms, section.default_inter_token_ms],
            [section.flex_first_token_ms, section.flex_inter_token_ms],
            [0, 0],
        ];
        let tiers = tiers.map(|targets| Tracks::new(targets, section.objective_permille));
        Self { tiers, leases: Mutex::default() }
    }

    /// Counts one request against its tier's targets and its lease's. `now_ms` is any clock that does not go back.
    pub fn note(&self, tier: Tier, lease: Option<&Lease>, pace: Pace, now_ms: u64) {
        // From 1 on: 0 is a minute in which nothing was seen.
        let minute = now_ms / MINUTE_MS + 1;
        self.tiers[tier.index()].note(pace, minute);
        let Some(lease) = lease.filter(|lease| lease.terms.sla.is_promised()) else { return };
        let sla = lease.terms.sla;
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        if leases.len() >= MAX_LEASES && !leases.contains_key(&lease.id) {
            let oldest = leases.iter().min_by_key(|(_, tracks)| tracks.last()).map(|(id, _)| id.clone());
            oldest.and_then(|id| leases.remove(&id));
        }
        let targets = [sla.first_token_ms, sla.inter_token_ms];
        let tracks = leases.entry(lease.id.clone());
        tracks.or_insert_with(|| Tracks::new(targets, sla.objective_permille)).note(pace, minute);
    }

    /// Adds its samples to a report in Prometheus' text format.
    pub fn render(&self, out: &mut String, now_ms: u64) {
        let minute = now_ms / MINUTE_MS + 1;
        let mut lines: [String; 3] = Default::default();
        for tier in Tier::ALL {
            self.tiers[tier.index()].render(&mut lines, &format!("tier=\"{}\"", tier.name()), minute);
        }
        for (id, tracks) in &*self.leases.lock().unwrap_or_else(PoisonError::into_inner) {
            tracks.render(&mut lines, &format!("lease=\"{id}\""), minute);
        }
        for ((name, kind, help), lines) in [
            ("spillway_slo_events_total", "counter", "Requests that have a target."),
            ("spillway_slo_misses_total", "counter", "Requests that missed their target."),
            ("spillway_slo_burn_rate", "gauge", "Part that missed, over the part that may."),
        ]
        .into_iter()
        .zip(lines)
        {
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_burn_what_the_objective_allows_and_are_forgotten_after_the_window() {
        let section = SloSection {
            default_first_token_ms: 100,
            priority_first_token_ms: 0,
            objective_permille: 900,
            ..SloSection::default()
        };
        let slo = Slo::new(&section);
        let burn = |now_ms: u64| {
            let mut out = String::new();
            slo.render(&mut out, now_ms);
            let line = |window: &str| {
                let head = format!(
                    "spillway_slo_burn_rate{{tier=\"default\",target=\"first_token\",window=\"{window}\"}} "
                );
                out.lines().find_map(|line| line.strip_prefix(&head)?.parse::<f64>().ok()).unwrap()
            };
            (line("5m"), line("1h"), line("6h"))
        };
        assert_eq!(burn(0), (0.0, 0.0, 0.0));
        let pace = |wait_ms| Pace { wait_ms, gap_us: None };
        for (took, at_min) in [(100, 0), (101, 0), (50, 3), (900, 4)] {
            slo.note(Tier::Default, None, pace(took), at_min * MINUTE_MS);
        }
        // Two of four miss where one of ten may.
        assert_eq!(burn(4 * MINUTE_MS), (5.0, 5.0, 5.0));
        assert_eq!(burn(5 * MINUTE_MS), (5.0, 5.0, 5.0), "one of the last two");
        assert_eq!(burn(9 * MINUTE_MS), (0.0, 5.0, 5.0));
        assert_eq!(burn(64 * MINUTE_MS), (0.0, 0.0, 5.0));
        assert_eq!(burn(364 * MINUTE_MS), (0.0, 0.0, 0.0));
        // Six hours later the same slot begins anew.
        slo.note(Tier::Default, None, pace(0), 360 * MINUTE_MS);
        assert_eq!(burn(360 * MINUTE_MS).0, 0.0);
        slo.note(Tier::Priority, None, pace(9_000), 0);
        let mut out = String::new();
        slo.render(&mut out, 0);
        assert!(!out.contains("tier=\"priority\",target=\"first_token\""), "nothing was promised");
        assert!(out.contains("spillway_slo_misses_total{tier=\"default\",target=\"first_token\"} 2"));
    }
}
