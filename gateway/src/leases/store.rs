//! `leases.db` of the data directory: leases, how far their money is, and what became of each of their hours.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::LeaseError;
use super::lease::Lease;
use crate::ledger::Events;
use crate::sqlite;

/// Steps to the current version: a file of version n gets the steps from n on.
const STEPS: [&str; 2] = [TABLES, TARGETS];

/// How the targets of an hour were kept.
const TARGETS: &str = "
ALTER TABLE hours ADD COLUMN first_events INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hours ADD COLUMN first_missed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hours ADD COLUMN next_events INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hours ADD COLUMN next_missed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hours ADD COLUMN sla_picos INTEGER NOT NULL DEFAULT 0;
";

/// The object of a lease changes only by notice. `hours` are those whose use is known.
const TABLES: &str = "
CREATE TABLE leases (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, org_id TEXT NOT NULL, project_id TEXT NOT NULL,
    model TEXT NOT NULL, stage TEXT NOT NULL CHECK (stage IN ('pending', 'live', 'billed', 'done')),
    billed_ms INTEGER NOT NULL, accounted_ms INTEGER NOT NULL, object TEXT NOT NULL
) STRICT;
CREATE INDEX leases_of_project ON leases (project_id, seq);
CREATE INDEX leases_alive ON leases (seq) WHERE stage <> 'done';
CREATE TABLE hours (
    lease_id TEXT NOT NULL, hour_ms INTEGER NOT NULL, model TEXT NOT NULL, offered INTEGER NOT NULL,
    used INTEGER NOT NULL CHECK (used >= 0), resold INTEGER NOT NULL CHECK (resold >= 0 AND used + resold <= offered),
    rebate_picos INTEGER NOT NULL, PRIMARY KEY (lease_id, hour_ms)
) STRICT, WITHOUT ROWID;
CREATE INDEX hours_of_model ON hours (model, hour_ms);
";

/// How far a lease's money is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Its place is taken, its money perhaps not held.
    Pending,
    /// Granted.
    Live,
    /// Every hour is billed, the rest of the money is free.
    Billed,
    /// Nothing is left to do.
    Done,
}

impl Stage {
    const ALL: [Stage; 4] = [Stage::Pending, Stage::Live, Stage::Billed, Stage::Done];

    fn as_str(self) -> &'static str {
        match self {
            Stage::Pending => "pending",
            Stage::Live => "live",
            Stage::Billed => "billed",
            Stage::Done => "done",
        }
    }
}

/// A lease as it is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// In the order of granting.
    pub seq: i64,
    /// The lease.
    pub lease: Lease,
    /// How far its money is.
    pub stage: Stage,
    /// Hours before this are billed, Unix milliseconds.
    pub billed_ms: u64,
    /// The use of hours before this is known.
    pub accounted_ms: u64,
}

/// What became of the hours whose use is known, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// What the units guaranteed.
    pub offered: u64,
    /// What the holder used of it.
    pub used: u64,
    /// What flex and batch used of the rest.
    pub resold: u64,
    /// What came back for that, pico-USD.
    pub rebate_picos: i64,
    /// How the target of first tokens was kept.
    pub first: Events,
    /// The same of the time between tokens.
    pub next: Events,
    /// What came back for missed targets, pico-USD.
    pub sla_picos: i64,
}

/// What became of one hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hour {
    /// Its beginning, Unix milliseconds.
    pub at_ms: u64,
    /// Tokens and money.
    pub sums: Sums,
}

pub(super) fn open(dir: &Path) -> Result<Connection, LeaseError> {
    let mut db = sqlite::open(&dir.join("leases.db"))?;
    // A place that was sold must not be sold again after a power cut.
    db.pragma_update(None, "synchronous", "FULL")?;
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let known = STEPS.len() as i64;
    sqlite::migrate(&tx, &STEPS)?.map_err(|found| LeaseError::Schema { found, known })?;
    tx.commit()?;
    Ok(db)
}

const COLUMNS: &str = "seq, stage, billed_ms, accounted_ms, object";

fn read(row: &Row<'_>) -> rusqlite::Result<Result<Kept, LeaseError>> {
    let (stage, object): (String, String) = (row.get(1)?, row.get(4)?);
    let stage = Stage::ALL.into_iter().find(|known| known.as_str() == stage).unwrap_or(Stage::Pending);
    let (seq, billed_ms, accounted_ms) = (row.get(0)?, row.get(2)?, row.get(3)?);
    let lease = serde_json::from_str(&object);
    Ok(lease.map(|lease| Kept { seq, lease, stage, billed_ms, accounted_ms }).map_err(LeaseError::from))
}

fn all(db: &Connection, rest: &str, values: &[&dyn rusqlite::ToSql]) -> Result<Vec<Kept>, LeaseError> {
    let mut statement = db.prepare_cached(&format!("SELECT {COLUMNS} FROM leases {rest}"))?;
    let rows = statement.query_map(values, read)?;
    rows.map(|row| row?).collect()
}

/// Those with something left to do, the oldest first.
pub(super) fn alive(db: &Connection) -> Result<Vec<Kept>, LeaseError> {
    all(db, "WHERE stage <> 'done' ORDER BY seq", &[])
}

pub(super) fn find(db: &Connection, id: &str) -> Result<Option<Kept>, LeaseError> {
    Ok(all(db, "WHERE id = ?1", &[&id])?.pop())
}

/// Up to `limit` of the project's (of all: where there is none), the newest first; `None`: `after` is not among them.
pub(super) fn page(
    db: &Connection,
    project_id: Option<&str>,
    after: Option<&str>,
    limit: usize,
) -> Result<Option<Vec<Kept>>, LeaseError> {
    let mut before = i64::MAX;
    if let Some(after) = after {
        let sql =
            "SELECT seq FROM leases WHERE id = ?1 AND (?2 IS NULL OR project_id = ?2) AND stage <> 'pending'";
        let mut statement = db.prepare_cached(sql)?;
        let Some(seq) = statement.query_row(params![after, project_id], |row| row.get(0)).optional()? else {
            return Ok(None);
        };
        before = seq;
    }
    let rest = "WHERE (?1 IS NULL OR project_id = ?1) AND seq < ?2 AND stage <> 'pending' ORDER BY seq DESC LIMIT ?3";
    Ok(Some(all(db, rest, &[&project_id, &before, &limit])?))
}

pub(super) fn insert(db: &Connection, lease: &Lease) -> Result<(), LeaseError> {
    let start_ms = lease.start_ms();
    db.execute(
        "INSERT INTO leases (id, org_id, project_id, model, stage, billed_ms, accounted_ms, object)
         VALUES (?1, ?2, ?3, ?4, 'pending', ?5, ?5, ?6)",
        params![
            lease.id,
            lease.org_id,
            lease.project_id,
            lease.model,
            start_ms,
            serde_json::to_string(lease)?
        ],
    )?;
    Ok(())
}

pub(super) fn remove(db: &Connection, id: &str) -> Result<(), LeaseError> {
    Ok(db.execute("DELETE FROM leases WHERE id = ?1 AND stage = 'pending'", [id]).map(drop)?)
}

pub(super) fn update(db: &Connection, lease: &Lease) -> Result<(), LeaseError> {
    let object = serde_json::to_string(lease)?;
    Ok(db.execute("UPDATE leases SET object = ?2 WHERE id = ?1", params![lease.id, object]).map(drop)?)
}

pub(super) fn set_stage(db: &Connection, id: &str, stage: Stage) -> Result<(), LeaseError> {
    let sql = "UPDATE leases SET stage = ?2 WHERE id = ?1";
    Ok(db.execute(sql, params![id, stage.as_str()]).map(drop)?)
}

pub(super) fn set_billed(db: &Connection, id: &str, until_ms: u64) -> Result<(), LeaseError> {
    Ok(db.execute("UPDATE leases SET billed_ms = ?2 WHERE id = ?1", params![id, until_ms]).map(drop)?)
}

/// What all leases of the model resold in the hour.
pub(super) fn resold(db: &Connection, model: &str, hour_ms: u64) -> Result<u64, LeaseError> {
    let sql = "SELECT coalesce(sum(resold), 0) FROM hours WHERE model = ?1 AND hour_ms = ?2";
    Ok(db.prepare_cached(sql)?.query_row(params![model, hour_ms], |row| row.get(0))?)
}

/// Notes what became of an hour, and that the hours until its end are known.
pub(super) fn put_hour(
    db: &mut Connection,
    lease: &Lease,
    hour: Hour,
    end_ms: u64,
) -> Result<(), LeaseError> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let Sums { offered, used, resold, rebate_picos, first, next, sla_picos } = hour.sums;
    tx.execute(
        "INSERT INTO hours (lease_id, hour_ms, model, offered, used, resold, rebate_picos, first_events, first_missed,
                            next_events, next_missed, sla_picos)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        params![
            lease.id,
            hour.at_ms,
            lease.model,
            offered,
            used,
            resold,
            rebate_picos,
            first.all,
            first.missed,
            next.all,
            next.missed,
            sla_picos
        ],
    )?;
    tx.execute("UPDATE leases SET accounted_ms = ?2 WHERE id = ?1", params![lease.id, end_ms])?;
    Ok(tx.commit()?)
}

/// Sums over the lease's hours.
pub(super) fn sums(db: &Connection, id: &str) -> Result<Sums, LeaseError> {
    let sql = "SELECT coalesce(sum(offered), 0), coalesce(sum(used), 0), coalesce(sum(resold), 0),
                      coalesce(sum(rebate_picos), 0), coalesce(sum(first_events), 0), coalesce(sum(first_missed), 0),
                      coalesce(sum(next_events), 0), coalesce(sum(next_missed), 0), coalesce(sum(sla_picos), 0) FROM hours WHERE lease_id = ?1";
    let mut statement = db.prepare_cached(sql)?;
    let read = |row: &Row<'_>| {
        Ok(Sums {
            offered: row.get(0)?,
            used: row.get(1)?,
            resold: row.get(2)?,
            rebate_picos: row.get(3)?,
            first: Events { all: row.get(4)?, missed: row.get(5)? },
            next: Events { all: row.get(6)?, missed: row.get(7)? },
            sla_picos: row.get(8)?,
        })
    };
    Ok(statement.query_row([id], read)?)
}
