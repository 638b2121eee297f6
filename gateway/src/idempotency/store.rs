//! The database of finished answers.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::live::{All, Run, Watcher};
use super::{Answer, Begun, Fingerprint, Id};
use crate::config::{IdempotencySection, make_private_dir};
use crate::sqlite;

const VERSION: i64 = 1;
const MS_PER_HOUR: u64 = 3_600_000;
/// Expired keys leave at the latest so long after their time; nobody sees them from the first instant on.
const SWEEP_EVERY_MS: u64 = 60_000;

/// A row without a status is in flight, or was when its process ended; one without a body is billed but not kept.
const TABLES: &str = "
CREATE TABLE answers (
    project_id TEXT NOT NULL, key TEXT NOT NULL, fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),
    request_id TEXT NOT NULL, created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL,
    status INTEGER, headers TEXT, body BLOB, UNIQUE (project_id, key)
) STRICT;
CREATE INDEX answers_by_age ON answers (project_id, created_ms);
CREATE INDEX answers_by_expiry ON answers (expires_ms);
CREATE INDEX answers_in_flight ON answers (request_id) WHERE status IS NULL;
CREATE TABLE used (project_id TEXT PRIMARY KEY, bytes INTEGER NOT NULL, keys INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TRIGGER answers_added AFTER INSERT ON answers BEGIN
    INSERT INTO used VALUES (new.project_id, coalesce(length(new.body), 0), 1)
    ON CONFLICT (project_id) DO UPDATE SET bytes = bytes + excluded.bytes, keys = keys + 1;
END;
CREATE TRIGGER answers_changed AFTER UPDATE OF body ON answers BEGIN
    UPDATE used SET bytes = bytes + coalesce(length(new.body), 0) - coalesce(length(old.body), 0)
    WHERE project_id = new.project_id;
END;
CREATE TRIGGER answers_removed AFTER DELETE ON answers BEGIN
    UPDATE used SET bytes = bytes - coalesce(length(old.body), 0), keys = keys - 1 WHERE project_id = old.project_id;
END;
";

/// Why keys cannot be kept or read.
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
    #[error("idempotency database: {0}")]
    Database(#[from] rusqlite::Error),
    /// Made by another version.
    #[error("idempotency database has schema version {found}, this program knows {VERSION}")]
    Schema {
        /// Version in the file.
        found: i64,
    },
    /// A row that is not what was written.
    #[error("the headers kept of {request_id} are damaged: {source}")]
    Damaged {
        /// The request.
        request_id: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// Whether an attempt was billed cannot be told.
    #[error("what became of {request_id}: {reason}")]
    Unknown {
        /// The request.
        request_id: String,
        /// The cause.
        reason: String,
    },
}

/// Keys of requests and their answers.
pub struct Idempotency {
    db: Mutex<Inner>,
    live: All,
    section: IdempotencySection,
}

struct Inner {
    db: Connection,
    swept_ms: u64,
}

impl Idempotency {
    /// Opens or makes the database. Of the requests that were in flight when the last process ended, `billed` says
    /// which the ledger charged for: their keys stay taken, the others are free again.
    pub fn open(
        dir: &Path,
        section: &IdempotencySection,
        billed: impl Fn(&str) -> Result<bool, String>,
    ) -> Result<Self, StoreError> {
        make_private_dir(dir).map_err(|source| StoreError::Io { path: dir.display().to_string(), source })?;
        let mut db = sqlite::open(&dir.join("idempotency.db"))?;
        // A key that was taken must stay taken after a power cut, or a retry could be billed again.
        db.pragma_update(None, "synchronous", "FULL")?;
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        sqlite::make(&tx, TABLES, VERSION)?.map_err(|found| StoreError::Schema { found })?;
        resolve(&tx, billed)?;
        tx.commit()?;
        let inner = Inner { db, swept_ms: 0 };
        Ok(Self { db: Mutex::new(inner), live: All::default(), section: section.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while holding the lock leaves at worst an open transaction, which its guard has rolled back.
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a key is kept.
    pub fn ttl_hours(&self) -> u32 {
        self.section.ttl_hours
    }

    /// Largest body that is carried for a key, in bytes.
    pub fn max_answer_bytes(&self) -> usize {
        self.section.max_answer_kib << 10
    }

    /// Takes the key, or says who has it. `Begun::New` means durable.
    pub fn begin(
        &self,
        id: &Id,
        fingerprint: Fingerprint,
        request_id: &str,
        now_ms: u64,
    ) -> Result<Begun, StoreError> {
        // The lock covers both looks, so that of two equal requests one is the first.
        let mut inner = self.lock();
        if let Some(live) = self.live.get(id) {
            let same = live.fingerprint == fingerprint;
            return Ok(if same { Begun::Live(Watcher::of(live)) } else { Begun::Mismatch });
        }
        let swept_ms = inner.swept_ms;
        let sweeps = now_ms.saturating_sub(swept_ms) >= SWEEP_EVERY_MS;
        let tx = inner.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if sweeps {
            tx.execute("DELETE FROM answers WHERE expires_ms <= ?1", [now_ms])?;
        } else {
            let sql = "DELETE FROM answers WHERE project_id = ?1 AND key = ?2 AND expires_ms <= ?3";
            tx.prepare_cached(sql)?.execute(params![id.project_id, id.key, now_ms])?;
        }
        if let Some(found) = find(&tx, id, fingerprint)? {
            return Ok(found);
        }
        let expires_ms = now_ms.saturating_add(u64::from(self.section.ttl_hours) * MS_PER_HOUR);
        tx.prepare_cached(
            "INSERT INTO answers (project_id, key, fingerprint, request_id, created_ms, expires_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![id.project_id, id.key, fingerprint, request_id, now_ms, expires_ms])?;
        make_room(&tx, &id.project_id, &self.section)?;
        tx.commit()?;
        if sweeps {
            inner.swept_ms = now_ms;
        }
        Ok(Begun::New(self.live.begin(id, fingerprint, request_id)))
    }

    /// The request ended without cost: the key is free again, for the next attempt.
    pub fn forget(&self, run: &Run) -> Result<(), StoreError> {
        let sql = "DELETE FROM answers WHERE project_id = ?1 AND key = ?2 AND status IS NULL";
        self.lock().db.prepare_cached(sql)?.execute(params![run.id.project_id, run.id.key])?;
        Ok(())
    }

    /// Keeps the answer; without a body, only that there was one.
    pub fn keep(
        &self,
        run: &Run,
        status: u16,
        headers: &[(String, String)],
        body: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let headers = serde_json::json!(headers).to_string();
        let mut inner = self.lock();
        let tx = inner.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.prepare_cached(
            "UPDATE answers SET status = ?3, headers = ?4, body = ?5 WHERE project_id = ?1 AND key = ?2",
        )?
        .execute(params![run.id.project_id, run.id.key, status, headers, body])?;
        make_room(&tx, &run.id.project_id, &self.section)?;
        Ok(tx.commit()?)
    }

    /// Returns once no request with a key is in flight.
    pub async fn idle(&self) {
        self.live.idle().await;
    }
}

/// Who has the key, if anybody.
fn find(tx: &Transaction<'_>, id: &Id, fingerprint: Fingerprint) -> Result<Option<Begun>, StoreError> {
    type Found = (Fingerprint, String, Option<u16>, Option<String>, Option<Vec<u8>>);
    let sql = "SELECT fingerprint, request_id, status, headers, body FROM answers WHERE project_id = ?1 AND key = ?2";
    let found: Option<Found> = tx
        .prepare_cached(sql)?
        .query_row(params![id.project_id, id.key], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })
        .optional()?;
    Ok(match found {
        None => None,
        Some((kept, ..)) if kept != fingerprint => Some(Begun::Mismatch),
        Some((_, request_id, Some(status), Some(headers), Some(body))) => {
            let damaged = |source| StoreError::Damaged { request_id: request_id.clone(), source };
            let headers = serde_json::from_str(&headers).map_err(damaged)?;
            Some(Begun::Done(Answer { request_id, status, headers, body: body.into() }))
        }
        Some(_) => Some(Begun::Gone),
    })
}

/// Ends what was in flight when the last process ended.
fn resolve(tx: &Transaction<'_>, billed: impl Fn(&str) -> Result<bool, String>) -> Result<(), StoreError> {
    let mut statement = tx.prepare("SELECT request_id FROM answers WHERE status IS NULL")?;
    let ids = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    for request_id in ids {
        let is_billed = billed(&request_id)
            .map_err(|reason| StoreError::Unknown { request_id: request_id.clone(), reason })?;
        let sql = match is_billed {
            true => "UPDATE answers SET status = 0 WHERE request_id = ?1 AND status IS NULL",
            false => "DELETE FROM answers WHERE request_id = ?1 AND status IS NULL",
        };
        tx.execute(sql, [request_id])?;
    }
    Ok(())
}

/// Drops the oldest bodies of a project until the others fit, and its oldest keys beyond their number.
fn make_room(tx: &Transaction<'_>, project_id: &str, section: &IdempotencySection) -> Result<(), StoreError> {
    let limit = u64::try_from(section.project_mib << 20).unwrap_or(u64::MAX);
    let used = |column: &str| -> rusqlite::Result<u64> {
        let sql = format!("SELECT {column} FROM used WHERE project_id = ?1");
        tx.prepare_cached(&sql)?.query_row([project_id], |row| row.get(0))
    };
    while used("bytes")? > limit {
        let oldest = "UPDATE answers SET body = NULL WHERE rowid = (SELECT rowid FROM answers
            WHERE project_id = ?1 AND body IS NOT NULL ORDER BY created_ms, rowid LIMIT 1)";
        if tx.prepare_cached(oldest)?.execute([project_id])? == 0 {
            break;
        }
    }
    while used("keys")? > u64::from(section.project_keys) {
        let oldest = "DELETE FROM answers WHERE rowid = (SELECT rowid FROM answers
            WHERE project_id = ?1 AND status IS NOT NULL ORDER BY created_ms, rowid LIMIT 1)";
        if tx.prepare_cached(oldest)?.execute([project_id])? == 0 {
            break;
        }
    }
    Ok(())
}
