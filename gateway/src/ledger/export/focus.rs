//! FOCUS: the FinOps Open Cost and Usage Specification, its Cost and Usage dataset.
//!
//! One line stands for all tokens of one class that one key had of one model in one hour, at one tier, price and tag set.
//! So price × quantity is the cost, exactly: a price per 1M tokens has 6 decimal places, a quantity of 1M tokens has 6,
//! and an amount of pico-USD has 12.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Write};

use super::lines::record;
use super::{ExportError, LineError, Lines, Request};
use crate::civil;
use crate::config::Reports;
use crate::ledger::details::Tags;
use crate::ledger::row::{Charge, Kind, SLA, Transfer};
use crate::ledger::types::LedgerError;
use crate::money::Picos;

mod columns;
pub(in crate::ledger) mod lint;
mod parquet;

pub(in crate::ledger) use columns::invoice_id;
pub(super) use parquet::FocusParquet;

const HOUR_MS: u64 = 3_600_000;
/// Classes of what is given back: for idle capacity or hours taken back, for a missed target, for a missed deadline.
const REBATE: &str = "rebate";
const SLA_CREDIT: &str = "sla_credit";
const REFUND: &str = "refund";

/// What a line is about, within its hour; lines are in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Group {
    category: Category,
    org_id: String,
    project_id: String,
    key_id: String,
    model: String,
    tier: String,
    price_id: String,
    class: &'static str,
    /// The lease that it uses, pays for, or gives back for.
    lease: Option<String>,
    tags: Option<Tags>,
    /// There were more tag sets than may be told apart.
    tags_omitted: bool,
}

/// What a line charges for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Category {
    /// Tokens.
    Usage,
    /// The holding of capacity.
    Purchase,
    /// What is given back.
    Credit,
}

impl Category {
    fn of(row: &Transfer) -> Self {
        match row.kind {
            Kind::Grant | Kind::Refund => Self::Credit,
            _ if row.facts.is_holding() => Self::Purchase,
            _ => Self::Usage,
        }
    }
}

/// Sums over a group's requests, and what they have in common.
#[derive(Clone, Debug)]
struct Sums {
    org_name: String,
    project_name: String,
    key_name: String,
    price: Picos,
    tokens: u64,
    cost: i128,
    requests: u64,
    first_seq: i64,
    last_seq: i64,
}

/// A line before it is text.
pub(in crate::ledger) struct Line<'a> {
    reports: &'a Reports,
    hour_ms: u64,
    group: &'a Group,
    sums: &'a Sums,
}

/// Collects an hour, then writes it: rows come in the order of time, so memory is bounded by one hour.
pub(in crate::ledger) struct Focus<'a> {
    reports: &'a Reports,
    hour_ms: u64,
    groups: BTreeMap<Group, Sums>,
    tag_sets: HashMap<String, HashSet<Tags>>,
}

impl<'a> Focus<'a> {
    pub(super) fn new(request: &Request<'a>) -> Result<Self, ExportError> {
        let period = request.period;
        for ms in [period.from_ms, period.to_ms] {
            if ms % HOUR_MS != 0 && period.to_ms != super::Period::ALL.to_ms {
                return Err(ExportError::NotAnHour(civil::format_ms(ms)));
            }
        }
        Ok(Self::of(request.reports))
    }

    /// Nothing collected yet.
    pub(in crate::ledger) fn of(reports: &'a Reports) -> Self {
        Self { reports, hour_ms: 0, groups: BTreeMap::new(), tag_sets: HashMap::new() }
    }

    /// Takes a row of the current hour, or of a later one after [`Focus::drain`].
    pub(in crate::ledger) fn add(&mut self, row: &Transfer) -> Result<(), LedgerError> {
        self.hour_ms = hour_of(row);
        let (tags, tags_omitted) = self.tags_of(row);
        let used = row.charges().into_iter().filter(|charge| charge.tokens > 0);
        let given = (row.credit > Picos::ZERO).then(|| Charge {
            class: given_class(row),
            tokens: 0,
            price: Picos::ZERO,
            cost: Picos(-row.credit.0),
        });
        for charge in used.chain(given) {
            let group = group_of(row, &charge, tags.clone(), tags_omitted);
            let sums = self.groups.entry(group).or_insert_with(|| Sums::new(row, &charge));
            sums.add(row, &charge)?;
        }
        Ok(())
    }

    /// True where `row` belongs to an hour after what is collected.
    pub(in crate::ledger) fn is_past(&self, row: &Transfer) -> bool {
        hour_of(row) != self.hour_ms
    }

    /// Gives the lines of the hour and forgets it.
    pub(in crate::ledger) fn drain<E>(
        &mut self,
        mut each: impl FnMut(&Line<'_>) -> Result<(), E>,
    ) -> Result<u64, E> {
        self.tag_sets.clear();
        let groups = std::mem::take(&mut self.groups);
        for (group, sums) in &groups {
            each(&Line { reports: self.reports, hour_ms: self.hour_ms, group, sums })?;
        }
        Ok(groups.len() as u64)
    }

    /// The row's tags, and whether they are left out because the hour has too many sets.
    fn tags_of(&mut self, row: &Transfer) -> (Option<Tags>, bool) {
        let Some(tags) = row.details.as_ref().and_then(|details| details.tags.clone()) else {
            return (None, false);
        };
        let known = self.tag_sets.entry(row.facts.org_id.clone()).or_default();
        if known.len() >= self.reports.max_tag_sets && !known.contains(&tags) {
            return (None, true);
        }
        known.insert(tags.clone());
        (Some(tags), false)
    }
}

fn hour_of(row: &Transfer) -> u64 {
    row.at_ms - row.at_ms % HOUR_MS
}

fn given_class(row: &Transfer) -> &'static str {
    match row.kind {
        Kind::Refund => REFUND,
        _ if row.request_id.ends_with(SLA) => SLA_CREDIT,
        _ => REBATE,
    }
}

fn group_of(row: &Transfer, charge: &Charge, tags: Option<Tags>, tags_omitted: bool) -> Group {
    let (facts, price) = (&row.facts, &row.facts.price);
    Group {
        category: Category::of(row),
        org_id: facts.org_id.clone(),
        project_id: facts.project_id.clone(),
        key_id: facts.key_id.clone(),
        model: price.model.clone(),
        tier: price.tier.clone(),
        price_id: price.id.clone(),
        class: charge.class,
        lease: row.lease().map(str::to_owned),
        tags,
        tags_omitted,
    }
}

impl Sums {
    fn new(row: &Transfer, charge: &Charge) -> Self {
        let name = |of: fn(&crate::ledger::Details) -> &String, id: &String| {
            row.details.as_deref().map_or(id, of).clone()
        };
        Self {
            org_name: name(|details| &details.org_name, &row.facts.org_id),
            project_name: name(|details| &details.project_name, &row.facts.project_id),
            key_name: name(|details| &details.key_name, &row.facts.key_id),
            price: charge.price,
            tokens: 0,
            cost: 0,
            requests: 0,
            first_seq: row.seq,
            last_seq: row.seq,
        }
    }

    fn add(&mut self, row: &Transfer, charge: &Charge) -> Result<(), LedgerError> {
        self.tokens += u64::from(charge.tokens);
        self.cost += i128::from(charge.cost.0);
        self.requests += 1;
        self.last_seq = row.seq;
        if row.credit == Picos::ZERO && self.cost != i128::from(self.price.0) * i128::from(self.tokens) {
            let message = format!("row {}: price x tokens of {} is not its cost", row.seq, charge.class);
            return Err(LedgerError::Corrupt(message));
        }
        Ok(())
    }
}

impl Lines for Focus<'_> {
    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        record(out, columns::COLUMNS.iter().map(|(name, _)| name))
    }

    fn row(&mut self, row: &Transfer, out: &mut dyn Write) -> Result<u64, LineError> {
        let written = if self.is_past(row) { self.end(out)? } else { 0 };
        self.add(row).map_err(|error| LineError::Refused(error.into()))?;
        Ok(written)
    }

    fn end(&mut self, out: &mut dyn Write) -> Result<u64, LineError> {
        self.drain(|line| Ok(record(out, columns::COLUMNS.iter().map(|(_, value)| value(line)))?))
    }
}
