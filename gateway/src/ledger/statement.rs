//! The monthly statement of one organisation, as a page to read, to print and to keep: one HTML file without anything
//! outside it. A pure function of the ledger and the issuer's name, like every report.

use std::collections::BTreeMap;
use std::path::Path;

use super::export::{ExportError, WITH_CREDITS, each_row};
use super::period::Period;
use super::reader;
use super::types::LedgerError;
use crate::civil;
use crate::money::Picos;

mod page;

const DAY_MS: u64 = 86_400_000;

/// What to state.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Whose statement, by id.
    pub org_id: &'a str,
    /// Name to show where the month has no request.
    pub org_name: &'a str,
    /// A calendar month.
    pub month: Period,
    /// Who sells.
    pub provider: &'a str,
}

/// Tokens of one class at one price of one model, over the month.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Item {
    price: Picos,
    tokens: u64,
    cost: i128,
}

/// Sums of a project, key, model or day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    requests: u64,
    tokens: u64,
    cost: i128,
}

impl Sums {
    fn add(&mut self, tokens: u64, cost: Picos) {
        self.requests += 1;
        self.tokens += tokens;
        self.cost += i128::from(cost.0);
    }
}

/// Everything that a statement says.
#[derive(Debug, Default)]
struct Statement {
    org_id: String,
    org_name: String,
    provider: String,
    month: String,
    from_ms: u64,
    is_final: bool,
    rows: Option<(i64, i64)>,
    total: Sums,
    /// By model, tier, class and price version.
    items: BTreeMap<(String, String, &'static str, String), Item>,
    /// By project name and key name, with the key's id.
    keys: BTreeMap<(String, String, String), Sums>,
    /// One a day of the month.
    days: Vec<Sums>,
    /// What was given back to the balance, by lease.
    rebates: BTreeMap<String, i128>,
}

/// The page, and what it says is due.
pub fn statement(dir: &Path, request: &Request<'_>) -> Result<(String, Picos), ExportError> {
    let db = reader::open(dir)?;
    let month = request.month;
    let mut statement = Statement {
        org_id: request.org_id.to_owned(),
        org_name: request.org_name.to_owned(),
        provider: request.provider.to_owned(),
        month: civil::format_date(month.from_ms).chars().take(7).collect(),
        from_ms: month.from_ms,
        days: vec![Sums::default(); usize::try_from((month.to_ms - month.from_ms) / DAY_MS).unwrap_or(31)],
        ..Statement::default()
    };
    let summary = each_row(&db, WITH_CREDITS, month, Some(request.org_id), |row| {
        if row.end.is_none() {
            let lease = row.lease().unwrap_or_default().to_owned();
            *statement.rebates.entry(lease).or_default() += i128::from(row.credit.0);
            return Ok(());
        }
        let (tokens, cost) = (row.used(), row.cost.total);
        statement.total.add(tokens, cost);
        let day = usize::try_from((row.at_ms - month.from_ms) / DAY_MS).unwrap_or(usize::MAX);
        if let Some(day) = statement.days.get_mut(day) {
            day.add(tokens, cost);
        }
        let (facts, details) = (&row.facts, row.details.as_deref());
        if let Some(details) = details {
            statement.org_name.clone_from(&details.org_name);
        }
        let project = details.map_or(&facts.project_id, |details| &details.project_name).clone();
        let key = details.map_or(&facts.key_id, |details| &details.key_name).clone();
        statement.keys.entry((project, key, facts.key_id.clone())).or_default().add(tokens, cost);
        for charge in row.charges().into_iter().filter(|charge| charge.tokens > 0) {
            let price = &facts.price;
            let about = (price.model.clone(), price.tier.clone(), charge.class, price.id.clone());
            let item = statement.items.entry(about).or_default();
            item.price = charge.price;
            item.tokens += u64::from(charge.tokens);
            item.cost += i128::from(charge.cost.0);
        }
        Ok(())
    })?;
    statement.is_final = summary.is_final;
    statement.rows = summary.first_seq.zip(summary.last_seq);
    statement.check(summary.cost)?;
    Ok((page::render(&statement), summary.cost))
}

impl Statement {
    /// The parts are the whole, to the pico-USD, and price x quantity is each part.
    fn check(&self, total: Picos) -> Result<(), LedgerError> {
        let items: i128 = self.items.values().map(|item| item.cost).sum();
        let keys: i128 = self.keys.values().map(|sums| sums.cost).sum();
        let days: i128 = self.days.iter().map(|sums| sums.cost).sum();
        let exact = |item: &Item| item.cost == i128::from(item.price.0) * i128::from(item.tokens);
        if [items, keys, days, self.total.cost].iter().any(|sum| *sum != i128::from(total.0))
            || !self.items.values().all(exact)
        {
            return Err(LedgerError::Corrupt(format!("the parts of {} are not its total", self.month)));
        }
        Ok(())
    }
}
