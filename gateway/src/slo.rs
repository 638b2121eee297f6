//! Whether tokens come as promised: targets by service tier, what missed them, and how fast the misses use up what an
//! objective allows.
//!
//! The burn rate is the part that missed, over the part that may (Google's Site Reliability Workbook, chapter 5): at 1 the
//! objective is just kept, at 100 with an objective of 99 % everything misses.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use engine::Tier;

use crate::config::SloSection;

const MINUTE_MS: u64 = 60_000;
/// Windows of the burn rate: name and minutes. The last is the longest.
const WINDOWS: [(&str, u64); 2] = [("5m", 5), ("1h", 60)];
const MINUTES: usize = WINDOWS[1].1 as usize;

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Time from request to first token.
    FirstToken,
    /// Time between two tokens.
    NextToken,
}

impl Target {
    const ALL: [Target; 2] = [Target::FirstToken, Target::NextToken];

    fn name(self) -> &'static str {
        match self {
            Target::FirstToken => "first_token",
            Target::NextToken => "inter_token",
        }
    }
}

/// Targets and how they are kept; time is passed in.
#[derive(Debug)]
pub struct Slo {
    /// By tier and target; `None`: nothing is promised.
    targets: [[Option<Duration>; 2]; 6],
    /// Part that may miss.
    allowed: f64,
    tracks: [[Mutex<Track>; 2]; 6],
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
    minutes: [Minute; MINUTES],
}

impl Default for Track {
    fn default() -> Self {
        Self { events: 0, misses: 0, minutes: [Minute::default(); MINUTES] }
    }
}

impl Track {
    fn note(&mut self, is_miss: bool, minute: u64) {
        self.events += 1;
        self.misses += u64::from(is_miss);
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

impl Slo {
    /// The configured targets, nothing seen yet.
    pub fn new(section: &SloSection) -> Self {
        let ms = |ms: u32| (ms > 0).then(|| Duration::from_millis(ms.into()));
        let targets = [
            [ms(section.internal_first_token_ms), ms(section.internal_inter_token_ms)],
            [ms(section.reserved_first_token_ms), ms(section.reserved_inter_token_ms)],
            [ms(section.priority_first_token_ms), ms(section.priority_inter_token_ms)],
            [ms(section.default_first_token_ms), ms(section.default_inter_token_ms)],
            [ms(section.flex_first_token_ms), ms(section.flex_inter_token_ms)],
            [None, None],
        ];
        let allowed = 1.0 - f64::from(section.objective_permille) / 1e3;
        Self { targets, allowed, tracks: Default::default() }
    }

    /// Counts one time against its target, where there is one. `now_ms` is any clock that does not go back.
    pub fn note(&self, tier: Tier, target: Target, took: Duration, now_ms: u64) {
        let (tier, at) = (tier.index(), target as usize);
        if let Some(most) = self.targets[tier][at] {
            let mut track = self.tracks[tier][at].lock().unwrap_or_else(PoisonError::into_inner);
            // From 1 on: 0 is a minute in which nothing was seen.
            track.note(took > most, now_ms / MINUTE_MS + 1);
        }
    }

    /// Adds its samples to a report in Prometheus' text format.
    pub fn render(&self, out: &mut String, now_ms: u64) {
        let minute = now_ms / MINUTE_MS + 1;
        let mut lines: [String; 3] = Default::default();
        for tier in Tier::ALL {
            for target in
                Target::ALL.into_iter().filter(|t| self.targets[tier.index()][*t as usize].is_some())
            {
                let track = self.tracks[tier.index()][target as usize].lock();
                let track = track.unwrap_or_else(PoisonError::into_inner);
                let labels = format!("tier=\"{}\",target=\"{}\"", tier.name(), target.name());
                let _ = writeln!(lines[0], "spillway_slo_events_total{{{labels}}} {}", track.events);
                let _ = writeln!(lines[1], "spillway_slo_misses_total{{{labels}}} {}", track.misses);
                for (name, window) in WINDOWS {
                    let rate = track.missed(window, minute) / self.allowed;
                    let _ =
                        writeln!(lines[2], "spillway_slo_burn_rate{{{labels},window=\"{name}\"}} {rate:.4}");
                }
            }
        }
        for ((name, kind, help), lines) in [
            ("spillway_slo_events_total", "counter", "Times that have a target."),
            ("spillway_slo_misses_total", "counter", "Times above their target."),
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
            (line("5m"), line("1h"))
        };
        assert_eq!(burn(0), (0.0, 0.0));
        for (took, at_min) in [(100, 0), (101, 0), (50, 3), (900, 4)] {
            slo.note(Tier::Default, Target::FirstToken, Duration::from_millis(took), at_min * MINUTE_MS);
        }
        // Two of four miss where one of ten may.
        assert_eq!(burn(4 * MINUTE_MS), (5.0, 5.0));
        assert_eq!(burn(5 * MINUTE_MS), (5.0, 5.0), "one of the last two");
        assert_eq!(burn(9 * MINUTE_MS), (0.0, 5.0));
        assert_eq!(burn(64 * MINUTE_MS), (0.0, 0.0));
        // An hour later the same slot begins anew.
        slo.note(Tier::Default, Target::FirstToken, Duration::ZERO, 60 * MINUTE_MS);
        assert_eq!(burn(60 * MINUTE_MS).0, 0.0);
        slo.note(Tier::Priority, Target::FirstToken, Duration::from_secs(9), 0);
        let mut out = String::new();
        slo.render(&mut out, 0);
        assert!(!out.contains("tier=\"priority\",target=\"first_token\""), "nothing was promised");
        assert!(out.contains("spillway_slo_misses_total{tier=\"default\",target=\"first_token\"} 2"));
    }
}
