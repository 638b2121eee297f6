//! Recomputing the sums that are kept beside the rows.

use std::collections::{BTreeMap, HashMap};

use rusqlite::Connection;

use super::credit::Purse;
use super::row::{Kind, Transfer};
use super::types::{BudgetScope, LedgerError};
use crate::civil::HOUR_MS;
use crate::money::Picos;

/// Sums over rows taken in one after the other.
#[derive(Default)]
pub(super) struct Tally {
    /// Open holds: hour, number of the row, amount.
    open: HashMap<String, (i64, i64, i64)>,
    /// By scope, account and hour of the hold; -1 is the total.
    spent: BTreeMap<(String, String, i64), i64>,
    purses: BTreeMap<String, Purse>,
    problems: Vec<String>,
}

impl Tally {
    pub(super) fn observe(&mut self, row: &Transfer) {
        let hour = (row.at_ms / HOUR_MS * HOUR_MS).cast_signed();
        match row.kind {
            Kind::Hold => drop(self.open.insert(row.request_id.clone(), (hour, row.seq, row.held.0))),
            Kind::Extend => {
                if let Some((_, _, held)) = self.open.get_mut(&row.request_id) {
                    *held += row.held.0;
                }
            }
            Kind::Settle | Kind::Void => {
                let hour = self.open.remove(&row.request_id).map_or(hour, |(hour, _, _)| hour);
                self.spend(row, hour);
            }
            Kind::Grant | Kind::Expire | Kind::Correct | Kind::Refund => self.credit(row),
        }
    }

    fn spend(&mut self, row: &Transfer, hour: i64) {
        let cost = row.cost.total;
        if cost == Picos::ZERO {
            return;
        }
        for (scope, id) in row.facts.accounts() {
            for hour in [hour, -1] {
                *self.spent.entry((scope.as_str().to_owned(), id.to_owned(), hour)).or_default() += cost.0;
            }
        }
        self.purses.entry(row.facts.org_id.clone()).or_default().take(cost);
    }

    fn credit(&mut self, row: &Transfer) {
        let org_id = &row.facts.org_id;
        let total = (BudgetScope::Organisation.as_str().to_owned(), org_id.clone(), -1);
        let spent = self.spent.get(&total).copied().unwrap_or(0);
        let purse = self.purses.entry(org_id.clone()).or_default();
        if row.kind == Kind::Expire {
            let named = row.request_id.rsplit(' ').next().and_then(|digits| digits.parse().ok());
            let amount = Picos(row.credit.0.saturating_neg());
            let past = |seq| {
                let grant = purse.grants.iter().find(|grant| grant.seq == seq);
                grant.is_some_and(|grant| grant.expires_ms.is_some_and(|at| at <= row.at_ms))
            };
            if !named.is_some_and(past) || named.and_then(|seq| purse.expire(seq, amount)).is_none() {
                self.problems.push(format!("row {}: expiry of what no grant has left", row.seq));
            }
        } else if row.credit > Picos::ZERO {
            purse.grant(row.seq, row.credit, row.expires_ms, spent);
        } else {
            purse.credited += row.credit.0;
            purse.take(Picos(row.credit.0.saturating_neg()));
        }
    }

    /// What the tables say that the rows do not.
    pub(super) fn problems(mut self, db: &Connection) -> Result<Vec<String>, LedgerError> {
        self.check_spent(db)?;
        self.check_open(db)?;
        self.check_credit(db)?;
        Ok(self.problems)
    }

    fn check_spent(&mut self, db: &Connection) -> Result<(), LedgerError> {
        let mut statement = db.prepare("SELECT scope, id, hour_ms, picos FROM spent")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (key, kept): ((String, String, i64), i64) =
                ((row.get(0)?, row.get(1)?, row.get(2)?), row.get(3)?);
            let rows_say = self.spent.remove(&key).unwrap_or(0);
            if kept != rows_say {
                let (scope, id, hour) = key;
                self.problems
                    .push(format!("{scope} {id}, hour {hour}: {kept} kept as spent, rows say {rows_say}"));
            }
        }
        for ((scope, id, hour), picos) in std::mem::take(&mut self.spent) {
            self.problems.push(format!("{scope} {id}, hour {hour}: {picos} spent are not kept"));
        }
        Ok(())
    }

    fn check_open(&mut self, db: &Connection) -> Result<(), LedgerError> {
        let mut statement = db.prepare("SELECT request_id, seq, held_picos FROM open_holds")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (id, kept): (String, (i64, i64)) = (row.get(0)?, (row.get(1)?, row.get(2)?));
            if self.open.remove(&id).map(|(_, seq, held)| (seq, held)) != Some(kept) {
                self.problems.push(format!("request {id:?} is kept as open with {kept:?}"));
            }
        }
        for id in self.open.keys() {
            self.problems.push(format!("request {id:?} is open but not kept"));
        }
        Ok(())
    }

    fn check_credit(&mut self, db: &Connection) -> Result<(), LedgerError> {
        let mut credited: BTreeMap<String, i64> = db
            .prepare("SELECT org_id, picos FROM credited")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut left: BTreeMap<(String, i64), i64> = db
            .prepare("SELECT org_id, seq, left_picos FROM grants WHERE left_picos > 0")?
            .query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?
            .collect::<rusqlite::Result<_>>()?;
        for (org_id, purse) in &self.purses {
            if credited.remove(org_id).unwrap_or(0) != purse.credited {
                self.problems.push(format!("organisation {org_id}: rows say {} credited", purse.credited));
            }
            for grant in &purse.grants {
                if left.remove(&(org_id.clone(), grant.seq)) != Some(grant.left.0) {
                    self.problems.push(format!("grant of row {}: rows say {} left", grant.seq, grant.left.0));
                }
            }
        }
        if !credited.is_empty() || !left.is_empty() {
            self.problems.push("credit is kept that no row gives".to_owned());
        }
        Ok(())
    }
}
