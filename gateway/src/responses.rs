//! Answers that are kept: `responses.db` of the data directory.
//!
//! An answer is kept with its own input, for the organisation that asked, until its time is over or until newer answers of
//! the organisation need its room. It is no billable fact: the ledger does not depend on it.

mod live;
mod schema;
#[cfg(test)]
mod tests;

pub use live::{Background, Run, Watcher};

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;

use crate::config::ResponsesSection;

const MS_PER_DAY: u64 = 86_400_000;
/// Expired rows leave at the latest so long after their time, as far as anybody stores; nobody sees them from the first
/// instant on.
const SWEEP_EVERY_MS: u64 = 60_000;

/// Why answers cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// The directory.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The database failed.
    #[error("responses database: {0}")]
    Database(#[from] rusqlite::Error),
    /// Made by another version.
    #[error("responses database has schema version {found}, this program knows {known}")]
    Schema {
        /// Version in the file.
        found: i64,
        /// Version of this program.
        known: i64,
    },
    /// A row that is not what was written.
    #[error("response {id} is damaged: {source}")]
    Damaged {
        /// Its id.
        id: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// Alone larger than everything an organisation may keep.
    #[error("an answer of {bytes} bytes is larger than responses.org_mib = {limit_mib} MiB")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit_mib: usize,
    },
}

/// An answer to be kept, or as it was kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// `resp_...`.
    pub id: String,
    /// Whose it is; nobody else sees it.
    pub org_id: String,
    /// The answer that it goes on from.
    pub previous_id: Option<String>,
    /// The object as clients see it; its `status` says whether it is complete.
    pub response: Value,
    /// Its own input, an array of items.
    pub input: Value,
    /// Events of a background stream, each a whole server-sent event; number `i` has the sequence number `i`.
    pub events: Vec<String>,
    /// Whether it runs without a client, and may be cancelled.
    pub background: bool,
    /// When it was asked for, Unix milliseconds.
    pub created_ms: u64,
}

/// The store; one connection, short statements.
pub struct Store {
    db: Mutex<Inner>,
    ttl_ms: u64,
    org_mib: usize,
    max_chain: u32,
}

struct Inner {
    db: Connection,
    swept_ms: u64,
}

impl Store {
    /// Opens or makes the database. Answers that were still being made when the last process ended are marked as failed.
    pub fn open(dir: &Path, section: &ResponsesSection, now_ms: u64) -> Result<Self, StoreError> {
        let db = schema::open(dir)?;
        schema::fail_unfinished(&db, now_ms)?;
        Ok(Self {
            db: Mutex::new(Inner { db, swept_ms: 0 }),
            ttl_ms: u64::from(section.ttl_days) * MS_PER_DAY,
            org_mib: section.org_mib,
            max_chain: section.max_chain,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while holding the lock leaves at worst an open transaction, which its guard has rolled back.
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an answer, in place of an earlier state of it. Takes room from the oldest answers of its organisation.
    pub fn put(&self, stored: &Stored, now_ms: u64) -> Result<(), StoreError> {
        let (response, input) = (stored.response.to_string(), stored.input.to_string());
        let events = stored.events.concat();
        let bytes = response.len() + input.len() + events.len();
        let limit = self.org_mib << 20;
        if bytes > limit {
            return Err(StoreError::TooLarge { bytes, limit_mib: self.org_mib });
        }
        let status = stored.response["status"].as_str().unwrap_or_default();
        let mut inner = self.lock();
        let swept = inner.swept_ms;
        let tx = inner.db.transaction()?;
        tx.prepare_cached(
            "INSERT OR REPLACE INTO responses (id, org_id, previous_id, status, background, created_ms, expires_ms, bytes,
                                               response, input, events)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            stored.id,
            stored.org_id,
            stored.previous_id,
            status,
            stored.background,
            stored.created_ms,
            stored.created_ms.saturating_add(self.ttl_ms),
            bytes,
            response,
            input,
            events
        ])?;
        if now_ms.saturating_sub(swept) >= SWEEP_EVERY_MS {
            tx.execute("DELETE FROM responses WHERE expires_ms <= ?1", [now_ms])?;
        }
        make_room(&tx, &stored.org_id, &stored.id, limit)?;
        tx.commit()?;
        if now_ms.saturating_sub(swept) >= SWEEP_EVERY_MS {
            inner.swept_ms = now_ms;
        }
        Ok(())
    }

    /// An answer of an organisation.
    pub fn get(&self, org_id: &str, id: &str, now_ms: u64) -> Result<Option<Stored>, StoreError> {
        let inner = self.lock();
        let mut statement = inner.db.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM responses WHERE id = ?1 AND org_id = ?2 AND expires_ms > ?3"
        ))?;
        let raw = statement.query_row(params![id, org_id, now_ms], raw).optional()?;
        raw.map(Raw::parse).transpose()
    }

    /// An answer and all that it goes on from, oldest first and without their events; `None` in place of those where one of them is not kept any more,
    /// or where they are more than allowed.
    pub fn chain(&self, org_id: &str, id: &str, now_ms: u64) -> Result<Option<Vec<Stored>>, StoreError> {
        let inner = self.lock();
        let mut statement = inner.db.prepare_cached(&format!(
            "WITH RECURSIVE chain (n, cid) AS (
                 SELECT 0, ?1 UNION ALL
                 SELECT n + 1, previous_id FROM chain JOIN responses ON id = cid
                 WHERE org_id = ?2 AND previous_id IS NOT NULL AND n + 1 < ?4
             )
             SELECT {WITHOUT_EVENTS} FROM chain JOIN responses ON id = cid
             WHERE org_id = ?2 AND expires_ms > ?3 ORDER BY n DESC"
        ))?;
        let rows = statement.query_map(params![id, org_id, now_ms, self.max_chain], raw)?;
        let mut chain = Vec::new();
        for row in rows {
            chain.push(row?.parse()?);
        }
        let complete = chain.first().is_some_and(|first: &Stored| first.previous_id.is_none());
        Ok(complete.then_some(chain))
    }

    /// Forgets an answer; false where the organisation has none of that id.
    pub fn delete(&self, org_id: &str, id: &str, now_ms: u64) -> Result<bool, StoreError> {
        let inner = self.lock();
        let sql = "DELETE FROM responses WHERE id = ?1 AND org_id = ?2 AND expires_ms > ?3";
        Ok(inner.db.prepare_cached(sql)?.execute(params![id, org_id, now_ms])? > 0)
    }
}

/// Deletes the oldest answers of an organisation until the others fit; never `keep`.
fn make_room(db: &Connection, org_id: &str, keep: &str, limit: usize) -> Result<(), StoreError> {
    loop {
        let used: i64 = db
            .prepare_cached("SELECT bytes FROM orgs WHERE org_id = ?1")?
            .query_row([org_id], |row| row.get(0))
            .optional()?
            .unwrap_or(0);
        if usize::try_from(used).unwrap_or(0) <= limit {
            return Ok(());
        }
        let oldest = "DELETE FROM responses WHERE rowid = (
            SELECT rowid FROM responses WHERE org_id = ?1 AND id <> ?2 ORDER BY created_ms, rowid LIMIT 1)";
        if db.prepare_cached(oldest)?.execute(params![org_id, keep])? == 0 {
            return Ok(());
        }
    }
}

const COLUMNS: &str = "id, org_id, previous_id, response, input, events, background, created_ms";
const WITHOUT_EVENTS: &str = "id, org_id, previous_id, response, input, '', background, created_ms";

struct Raw {
    stored: Stored,
    response: String,
    input: String,
    events: String,
}

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    let stored = Stored {
        id: row.get(0)?,
        org_id: row.get(1)?,
        previous_id: row.get(2)?,
        background: row.get(6)?,
        created_ms: row.get(7)?,
        ..Stored::default()
    };
    Ok(Raw { stored, response: row.get(3)?, input: row.get(4)?, events: row.get(5)? })
}

impl Raw {
    fn parse(self) -> Result<Stored, StoreError> {
        let Raw { mut stored, response, input, events } = self;
        let damaged = |source| StoreError::Damaged { id: stored.id.clone(), source };
        (stored.response, stored.input) = (
            serde_json::from_str(&response).map_err(damaged)?,
            serde_json::from_str(&input).map_err(damaged)?,
        );
        stored.events = events.split_inclusive("\n\n").map(str::to_owned).collect();
        Ok(stored)
    }
}
