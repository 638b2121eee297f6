//! Usage and cost over a period, grouped.

mod buckets;

use std::path::Path;

use rusqlite::params;

use super::period::Period;
use super::reader;
use super::types::LedgerError;
use crate::accounts::Names;
use crate::money::Picos;

pub use buckets::{AnswerError, Dimension, Line, Question, Served, Watermark, answer};

/// True of requests, unlike of what is paid for the holding of capacity.
const REQUEST: &str = "endpoint <> '/v1/capacity/leases'";

/// What a line of the report stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// Organisations.
    Organisation,
    /// Projects.
    Project,
    /// API keys.
    Key,
    /// Models.
    Model,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    /// Id of the organisation, project, key or model.
    pub id: String,
    /// Its name, where known.
    pub name: String,
    /// Settled requests.
    pub requests: u64,
    /// Uncached prompt tokens.
    pub uncached_input: u64,
    /// Cached prompt tokens.
    pub cached_input: u64,
    /// Generated tokens.
    pub output: u64,
    /// What they cost.
    pub cost: Picos,
}

/// The report for `period` of the ledger in `dir`, dearest line first; works while a server writes.
pub fn usage(dir: &Path, names: &Names, period: Period, by: GroupBy) -> Result<Vec<UsageRow>, LedgerError> {
    let column = match by {
        GroupBy::Organisation => "org_id",
        GroupBy::Project => "project_id",
        GroupBy::Key => "key_id",
        GroupBy::Model => "model",
    };
    let db = reader::open(dir)?;
    let mut statement = db.prepare(&format!(
        "SELECT {column}, count(*) FILTER (WHERE {REQUEST}), coalesce(sum(uncached_input) FILTER (WHERE {REQUEST}), 0),
                sum(cached_input), sum(output), sum(cost_picos)
         FROM transfers WHERE kind = 'settle' AND at_ms >= ?1 AND at_ms < ?2
         GROUP BY {column} ORDER BY sum(cost_picos) DESC, {column}"
    ))?;
    let rows = statement.query_map(params![period.from_ms, period.to_ms], |row| {
        let id: String = row.get(0)?;
        Ok(UsageRow {
            name: names.of(&id).to_owned(),
            id,
            requests: row.get(1)?,
            uncached_input: row.get(2)?,
            cached_input: row.get(3)?,
            output: row.get(4)?,
            cost: Picos(row.get(5)?),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
