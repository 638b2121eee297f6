//! What an organisation's balance comes to, for reports.

use std::path::Path;

use rusqlite::{OptionalExtension, params};

use super::reader;
use super::types::{BudgetScope, LedgerError};
use crate::money::Picos;

/// An organisation's balance as of the last commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Granted less expired, plus corrections, over all time.
    pub credited: Picos,
    /// Billed over all time.
    pub spent: Picos,
    /// Held by requests in flight.
    pub held: Picos,
    /// Grants with something left, the first to expire first.
    pub grants: Vec<GrantLeft>,
}

/// What is left of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantLeft {
    /// Its row.
    pub seq: i64,
    /// How much.
    pub left: Picos,
    /// First instant at which it is gone, Unix milliseconds.
    pub expires_ms: Option<u64>,
}

impl Balance {
    /// Credited less spent; negative is owed.
    pub fn total(&self) -> Picos {
        Picos(self.credited.0.saturating_sub(self.spent.0))
    }

    /// What requests may still hold, down to the credit line.
    pub fn available(&self, line: Picos) -> Picos {
        Picos(self.total().0.saturating_add(line.0).saturating_sub(self.held.0).max(0))
    }
}

/// An account, and the first hour and the hour after the last; without hours: over all time.
pub type Spender<'a> = (BudgetScope, &'a str, Option<(u64, u64)>);

/// What each account spent in its hours.
pub fn spent_in(dir: &Path, accounts: &[Spender<'_>]) -> Result<Vec<Picos>, LedgerError> {
    let db = reader::open(dir)?;
    let mut statement = db.prepare(
        "SELECT coalesce(sum(picos), 0) FROM spent WHERE scope = ?1 AND id = ?2 AND hour_ms >= ?3 AND hour_ms < ?4",
    )?;
    let sums = accounts.iter().map(|(scope, id, hours)| {
        // The total stands beside the hours.
        let (from, to) = hours.map_or((-1, 0), |(from, to)| (from.cast_signed(), to.cast_signed()));
        statement.query_row(params![scope.as_str(), id, from, to], |row| row.get(0).map(Picos))
    });
    Ok(sums.collect::<rusqlite::Result<_>>()?)
}

/// Whether a request that has ended cost something; false for one that the ledger does not know.
pub fn was_billed(dir: &Path, request_id: &str) -> Result<bool, LedgerError> {
    let db = match reader::open(dir) {
        Err(LedgerError::Missing(_)) => return Ok(false),
        opened => opened?,
    };
    let sql = "SELECT cost_picos > 0 FROM transfers WHERE request_id = ?1 AND kind IN ('settle', 'void')";
    Ok(db.query_row(sql, [request_id], |row| row.get(0)).optional()?.unwrap_or(false))
}

/// The balance of an organisation in the ledger of `dir`, zero where there is none yet; works while a server writes.
pub fn balance(dir: &Path, org_id: &str) -> Result<Balance, LedgerError> {
    let db = match reader::open(dir) {
        Err(LedgerError::Missing(_)) => return Ok(Balance::default()),
        opened => opened?,
    };
    let sum = |sql: &str, values: &[&dyn rusqlite::ToSql]| -> rusqlite::Result<Picos> {
        let found: Option<Option<i64>> = db.query_row(sql, values, |row| row.get(0)).optional()?;
        Ok(Picos(found.flatten().unwrap_or(0)))
    };
    let scope = BudgetScope::Organisation.as_str();
    let credited = sum("SELECT picos FROM credited WHERE org_id = ?1", params![org_id])?;
    let spent =
        sum("SELECT picos FROM spent WHERE scope = ?1 AND id = ?2 AND hour_ms = -1", params![scope, org_id])?;
    let held = sum(
        "SELECT sum(o.held_picos) FROM open_holds o JOIN transfers t ON t.seq = o.seq WHERE t.org_id = ?1",
        params![org_id],
    )?;
    let mut statement = db.prepare(
        "SELECT seq, left_picos, expires_ms FROM grants WHERE org_id = ?1 AND left_picos > 0
         ORDER BY expires_ms IS NULL, expires_ms, seq",
    )?;
    let grants = statement.query_map([org_id], |row| {
        Ok(GrantLeft { seq: row.get(0)?, left: Picos(row.get(1)?), expires_ms: row.get(2)? })
    })?;
    Ok(Balance { credited, spent, held, grants: grants.collect::<rusqlite::Result<_>>()? })
}
