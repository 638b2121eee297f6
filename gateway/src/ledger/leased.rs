//! What was used and resold of leased capacity in an hour, by the ledger's word alone.

use std::path::Path;

use rusqlite::{Row, params};

use super::period::Period;
use super::reader;
use super::row::LEASES;
use super::types::LedgerError;
use crate::civil::HOUR_MS;

/// Tokens of one model in one hour, by when they were settled; prompt tokens that had to be computed weigh less than
/// generated ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HourUse {
    /// Under the lease.
    pub leased: u64,
    /// In the tiers that live on what is left, by everybody.
    pub surplus: u64,
    /// First tokens of requests under the lease.
    pub first: Events,
    /// Their times between tokens.
    pub next: Events,
}

/// How many requests there were, and how many of them missed a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// All of them.
    pub all: u64,
    /// Those that missed it.
    pub missed: u64,
}

/// What the ledger in `dir` says of the hour from `hour_ms`; `prompt_weight` prompt tokens weigh as one generated.
/// `targets` are those of the first token and between tokens, in milliseconds; 0: none, then nothing is counted.
pub fn hour_use(
    dir: &Path,
    model: &str,
    lease: &str,
    hour_ms: u64,
    prompt_weight: u32,
    targets: [u32; 2],
) -> Result<HourUse, LedgerError> {
    let db = reader::open(dir)?;
    let span = reader::span(&db, Period { from_ms: hour_ms, to_ms: hour_ms + HOUR_MS })?;
    let sql = "SELECT coalesce(sum(CASE WHEN note = ?4 THEN tokens END), 0),
                      coalesce(sum(CASE WHEN tier = 'flex' OR tier = 'batch' OR tier LIKE 'batch\\_%' ESCAPE '\\'
                                        THEN tokens END), 0),
                      count(CASE WHEN note = ?4 AND ?7 > 0 THEN wait_ms END),
                      count(CASE WHEN note = ?4 AND ?7 > 0 AND wait_ms > ?7 THEN 1 END),
                      count(CASE WHEN note = ?4 AND ?8 > 0 THEN gap_us END),
                      count(CASE WHEN note = ?4 AND ?8 > 0 AND gap_us > ?8 * 1000 THEN 1 END)
               FROM (SELECT note, tier, wait_ms, gap_us, output + (uncached_input + ?5 - 1) / ?5 AS tokens FROM transfers
                     WHERE kind = 'settle' AND seq BETWEEN ?1 AND ?2 AND model = ?3
                     AND endpoint <> ?6)";
    let [first, next] = targets;
    let values = params![span.first, span.last, model, lease, prompt_weight, LEASES, first, next];
    let events = |row: &Row<'_>, at| -> rusqlite::Result<Events> {
        Ok(Events { all: row.get(at)?, missed: row.get(at + 1)? })
    };
    let read = |row: &Row<'_>| {
        let (first, next) = (events(row, 2)?, events(row, 4)?);
        Ok(HourUse { leased: row.get(0)?, surplus: row.get(1)?, first, next })
    };
    Ok(db.query_row(sql, values, read)?)
}
