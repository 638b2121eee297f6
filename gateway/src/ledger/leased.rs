//! What was used and resold of leased capacity in an hour, by the ledger's word alone.

use std::path::Path;

use rusqlite::params;

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
}

/// What the ledger in `dir` says of the hour from `hour_ms`; `prompt_weight` prompt tokens weigh as one generated.
pub fn hour_use(
    dir: &Path,
    model: &str,
    lease: &str,
    hour_ms: u64,
    prompt_weight: u32,
) -> Result<HourUse, LedgerError> {
    let db = reader::open(dir)?;
    let span = reader::span(&db, Period { from_ms: hour_ms, to_ms: hour_ms + HOUR_MS })?;
    let sql = "SELECT coalesce(sum(CASE WHEN note = ?4 THEN tokens END), 0),
                      coalesce(sum(CASE WHEN tier = 'flex' OR tier = 'batch' OR tier LIKE 'batch\\_%' ESCAPE '\\'
                                        THEN tokens END), 0)
               FROM (SELECT note, tier, output + (uncached_input + ?5 - 1) / ?5 AS tokens FROM transfers
                     WHERE kind = 'settle' AND seq BETWEEN ?1 AND ?2 AND model = ?3
                     AND endpoint <> ?6)";
    let values = params![span.first, span.last, model, lease, prompt_weight, LEASES];
    Ok(db.query_row(sql, values, |row| Ok(HourUse { leased: row.get(0)?, surplus: row.get(1)? }))?)
}
