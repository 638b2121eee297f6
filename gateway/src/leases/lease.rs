//! One lease: units of guaranteed speed over whole hours, and everything that follows from it and the time.

use serde::{Deserialize, Serialize};

use crate::civil::HOUR_MS;
use crate::ledger::Events;
use crate::money::{MoneyError, Picos};

/// From an instant on, so many units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The beginning of an hour, Unix milliseconds.
    pub at_ms: u64,
    /// At least one.
    pub units: u32,
}

/// What becomes of a request that the guaranteed rate does not admit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// It is refused.
    ReservedOnly,
    /// It is served and billed in the tier `default`.
    ReservedThenShared,
}

impl Overflow {
    /// The spelling in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Overflow::ReservedOnly => "reserved_only",
            Overflow::ReservedThenShared => "reserved_then_shared",
        }
    }

    /// The policy of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::ReservedOnly, Self::ReservedThenShared].into_iter().find(|policy| policy.as_str() == name)
    }
}

/// What was agreed; a change of the configuration changes nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Generated tokens a second that a unit guarantees.
    pub unit_tokens_per_second: u32,
    /// Prompt tokens that weigh as one generated.
    pub prompt_tokens_per_token: u32,
    /// Price of a unit-hour, pico-USD.
    pub unit_hour_picos: i64,
    /// Part of it that comes back for what was resold.
    pub rebate_percent: u32,
    /// Hours from notice to end.
    pub notice_hours: u32,
    /// Part of the price of hours taken back that is given as credit.
    pub reclaim_credit_percent: u32,
    /// How fast answers are to come; leases of the first form promise nothing.
    #[serde(default)]
    pub sla: Sla,
}

/// How fast the answers under a lease are to come, and what comes back otherwise. Each clock hour is judged by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sla {
    /// Target of the time from request to first token; 0: none.
    pub first_token_ms: u32,
    /// Target of the mean time between two tokens of an answer; 0: none.
    pub inter_token_ms: u32,
    /// Parts of a thousand of an hour's requests that are to keep a target.
    pub objective_permille: u32,
    /// Requests of an hour below which it is not judged.
    pub min_requests: u32,
    /// Part of the hour's holding price that comes back.
    pub credit_percent: u32,
}

impl Sla {
    /// Whether any target is promised.
    pub fn is_promised(&self) -> bool {
        self.first_token_ms > 0 || self.inter_token_ms > 0
    }

    /// Whether more requests of an hour missed a target than may.
    pub fn is_breached_by(&self, events: Events) -> bool {
        let allowed = u64::from(1_000_u32.saturating_sub(self.objective_permille));
        events.all >= u64::from(self.min_requests) && events.missed * 1_000 > events.all * allowed
    }
}

/// Who ends a lease early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// Who holds it.
    Holder,
    /// Who sells it.
    Operator,
}

/// The word that a lease ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// When it was given, Unix milliseconds.
    pub at_ms: u64,
    /// By whom.
    pub by: Party,
}

/// Where a lease is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has not begun.
    Scheduled,
    /// It can be used.
    Active,
    /// It is over, in its time or by notice of its holder.
    Ended,
    /// It was given up before it began, and costs nothing.
    Cancelled,
    /// It is over by notice of the operator.
    Reclaimed,
}

impl State {
    /// The spelling in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Scheduled => "scheduled",
            State::Active => "active",
            State::Ended => "ended",
            State::Cancelled => "cancelled",
            State::Reclaimed => "reclaimed",
        }
    }
}

/// A lease. All instants are Unix milliseconds; beginning, steps and end are beginnings of hours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// `lease_...`.
    pub id: String,
    /// Who pays.
    pub org_id: String,
    /// Its name then.
    pub org_name: String,
    /// Whose requests may use it.
    pub project_id: String,
    /// Its name then.
    pub project_name: String,
    /// The key that made it.
    pub key_id: String,
    /// Its name then.
    pub key_name: String,
    /// The model.
    pub model: String,
    /// Units over time, rising in time; the first step is at the beginning.
    pub steps: Vec<Step>,
    /// First instant after it.
    pub end_ms: u64,
    /// The same before any notice.
    pub agreed_end_ms: u64,
    /// What becomes of more than it guarantees.
    pub overflow: Overflow,
    /// What was agreed.
    pub terms: Terms,
    /// When it was made.
    pub created_ms: u64,
    /// Whether and when it was ended early.
    pub notice: Option<Notice>,
}

/// Why a lease cannot be ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoticeError {
    /// It is over, or notice was given.
    #[error("the lease is over, or notice was given already")]
    Over,
    /// The notice period is longer than what is left.
    #[error("with the notice period it would end at {0} ms, which is not before its end")]
    TooLate(u64),
}

impl Lease {
    /// First instant of it.
    pub fn start_ms(&self) -> u64 {
        self.steps.first().map_or(self.end_ms, |step| step.at_ms)
    }

    /// Units at an instant; none before and after.
    pub fn units_at(&self, ms: u64) -> u32 {
        if ms >= self.end_ms {
            return 0;
        }
        self.steps.iter().rev().find(|step| step.at_ms <= ms).map_or(0, |step| step.units)
    }

    /// Where it is at `now_ms`.
    pub fn state(&self, now_ms: u64) -> State {
        let by = self.notice.map(|notice| notice.by);
        match () {
            () if self.end_ms <= self.start_ms() => State::Cancelled,
            () if now_ms < self.start_ms() => State::Scheduled,
            () if now_ms < self.end_ms => State::Active,
            () if by == Some(Party::Operator) => State::Reclaimed,
            () => State::Ended,
        }
    }

    /// Unit-hours from one beginning of an hour to another.
    pub fn unit_hours(&self, from_ms: u64, to_ms: u64) -> u64 {
        let ends = self.steps.iter().skip(1).map(|step| step.at_ms).chain([u64::MAX]);
        let parts = self.steps.iter().zip(ends).map(|(step, end_ms)| {
            let (from, to) = (step.at_ms.max(from_ms), end_ms.min(to_ms));
            u64::from(step.units) * (to.saturating_sub(from) / HOUR_MS)
        });
        parts.sum()
    }

    /// What holding costs from one beginning of an hour to another.
    pub fn fee(&self, from_ms: u64, to_ms: u64) -> Result<Picos, MoneyError> {
        let picos = i128::from(self.unit_hours(from_ms, to_ms)) * i128::from(self.terms.unit_hour_picos);
        i64::try_from(picos).map(Picos).map_err(|_| MoneyError::OutOfRange)
    }

    /// Tokens that a unit guarantees an hour.
    pub fn unit_hour_tokens(&self) -> u64 {
        u64::from(self.terms.unit_tokens_per_second) * 3_600
    }

    /// The guaranteed rate at an instant, tokens a minute.
    pub fn tokens_per_minute(&self, ms: u64) -> u32 {
        let rate = u64::from(self.units_at(ms)) * u64::from(self.terms.unit_tokens_per_second) * 60;
        u32::try_from(rate).unwrap_or(u32::MAX)
    }

    /// What a request takes of the rate: all that is generated, and computed prompt tokens by their weight.
    pub fn weight(&self, computed_prompt: u32, generated: u32) -> u32 {
        generated.saturating_add(computed_prompt.div_ceil(self.terms.prompt_tokens_per_token.max(1)))
    }

    /// Ends it early: at the first beginning of an hour that keeps the notice period and does not cut an hour that has
    /// begun. Where that is not after its beginning it costs nothing.
    pub fn give_notice(&mut self, by: Party, now_ms: u64) -> Result<(), NoticeError> {
        if self.notice.is_some() || now_ms >= self.end_ms {
            return Err(NoticeError::Over);
        }
        let kept = now_ms.saturating_add(u64::from(self.terms.notice_hours) * HOUR_MS);
        let mut end_ms = kept.div_ceil(HOUR_MS) * HOUR_MS;
        if now_ms >= self.start_ms() {
            end_ms = end_ms.max(now_ms / HOUR_MS * HOUR_MS + HOUR_MS);
        }
        if end_ms >= self.end_ms {
            return Err(NoticeError::TooLate(end_ms));
        }
        self.end_ms = end_ms.max(self.start_ms());
        self.notice = Some(Notice { at_ms: now_ms, by });
        Ok(())
    }

    /// What the operator owes for the hours that it took back.
    pub fn reclaim_credit(&self) -> Result<Picos, MoneyError> {
        if self.notice.is_none_or(|notice| notice.by != Party::Operator) {
            return Ok(Picos::ZERO);
        }
        let fee = self.fee(self.end_ms, self.agreed_end_ms)?;
        let part = i128::from(fee.0) * i128::from(self.terms.reclaim_credit_percent) / 100;
        Ok(Picos(i64::try_from(part).map_err(|_| MoneyError::OutOfRange)?))
    }

    /// What comes back for the hour from `hour_ms`, whose requests kept or missed their targets like this: once, however
    /// many targets were missed.
    pub fn sla_credit(&self, hour_ms: u64, first: Events, next: Events) -> Result<Picos, MoneyError> {
        let sla = self.terms.sla;
        if !sla.is_breached_by(first) && !sla.is_breached_by(next) {
            return Ok(Picos::ZERO);
        }
        let fee = self.fee(hour_ms, hour_ms + HOUR_MS)?;
        let part = i128::from(fee.0) * i128::from(sla.credit_percent) / 100;
        Ok(Picos(i64::try_from(part).map_err(|_| MoneyError::OutOfRange)?))
    }

    /// What comes back for `resold` tokens of it.
    pub fn rebate(&self, resold: u64) -> Result<Picos, MoneyError> {
        let full = i128::from(resold)
            * i128::from(self.terms.unit_hour_picos)
            * i128::from(self.terms.rebate_percent);
        let part = full / (100 * i128::from(self.unit_hour_tokens().max(1)));
        Ok(Picos(i64::try_from(part).map_err(|_| MoneyError::OutOfRange)?))
    }
}

/// Most units that `leases` hold together at one instant from `from_ms` up to `to_ms`.
pub fn most_held<'a>(leases: impl IntoIterator<Item = &'a Lease>, from_ms: u64, to_ms: u64) -> u64 {
    let mut changes: Vec<(u64, i64)> = Vec::new();
    for lease in leases {
        let mut held = 0;
        for step in lease.steps.iter().take_while(|step| step.at_ms < lease.end_ms) {
            changes.push((step.at_ms, i64::from(step.units) - held));
            held = i64::from(step.units);
        }
        changes.push((lease.end_ms, -held));
    }
    changes.sort_by_key(|(ms, _)| *ms);
    let (mut held, mut most) = (0_i64, 0_i64);
    for at in 0..changes.len() {
        held += changes[at].1;
        let until = changes.get(at + 1).map_or(u64::MAX, |(ms, _)| *ms);
        // What holds from here until the next change, as far as any of it is asked for.
        if changes[at].0.max(from_ms) < until.min(to_ms) {
            most = most.max(held);
        }
    }
    u64::try_from(most).unwrap_or(0)
}
