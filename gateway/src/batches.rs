//! Batches and their lines: `batches.db` of the data directory, and their input in `batches/`.
//!
//! A line's answer is durable here before its bill is in the ledger. Where a crash comes between the two, the ledger asks
//! at its next start what is to be billed of the request ([`Batches::finished`]); a line without an answer costs nothing
//! and is done again. So each line has one answer and one bill.

mod lines;
mod schema;
#[cfg(test)]
mod tests;
mod types;

pub use lines::{Answer, Line, NewLine};
pub use types::{Batch, Counts, Endpoint, InputError, Status};

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use crate::config::{BatchesSection, make_private_dir};

const MS_PER_DAY: u64 = 86_400_000;

/// Why batches cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// A file or directory cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// The database failed.
    #[error("batches database: {0}")]
    Database(#[from] rusqlite::Error),
    /// Made by another version.
    #[error("batches database has schema version {found}, this program knows {known}")]
    Schema {
        /// Version in the file.
        found: i64,
        /// Version of this program.
        known: i64,
    },
    /// A row that is not what was written.
    #[error("a batch is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
    /// No batch of this id, or in another state.
    #[error("batch {0} is not in the state for this")]
    Moved(String),
    /// A line that has its answer already.
    #[error("line {n} of batch {id} has an answer")]
    Answered {
        /// The batch.
        id: String,
        /// The line.
        n: u32,
    },
    /// Too many are not finished.
    #[error("{unfinished} batches of {whose} are not finished, the limit is {limit}")]
    Full {
        /// Whose.
        whose: &'static str,
        /// How many there are.
        unfinished: u32,
        /// The limit.
        limit: u32,
    },
}

/// The store; cheap to clone. Calls block on the disk.
#[derive(Clone)]
pub struct Batches {
    inner: Arc<Inner>,
}

struct Inner {
    db: Mutex<Connection>,
    folder: PathBuf,
    section: BatchesSection,
}

impl Batches {
    /// Opens or makes the store in `dir`.
    pub fn open(dir: &Path, section: &BatchesSection, now_ms: u64) -> Result<Self, BatchError> {
        let folder = dir.join("batches");
        make_private_dir(&folder).map_err(|source| io_error(&folder, source))?;
        let db = schema::open(dir)?;
        let batches =
            Self { inner: Arc::new(Inner { db: Mutex::new(db), folder, section: section.clone() }) };
        batches.sweep(now_ms)?;
        batches.remove_strays()?;
        Ok(batches)
    }

    /// The limits.
    pub fn limits(&self) -> &BatchesSection {
        &self.inner.section
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic while holding the lock leaves at worst an open transaction, which its guard has rolled back.
        self.inner.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn input_path(&self, id: &str) -> PathBuf {
        self.inner.folder.join(format!("{id}.jsonl"))
    }

    /// Begins a batch over the file `input`, which may be deleted by its owner from then on.
    pub fn create(&self, batch: &Batch, input: &Path) -> Result<(), BatchError> {
        let path = self.input_path(&batch.id);
        fs::hard_link(input, &path).map_err(|source| io_error(input, source))?;
        let created = self.insert(batch);
        if created.is_err() {
            // Where it cannot be removed now, the next start does it.
            let _ = fs::remove_file(&path);
        }
        created
    }

    fn insert(&self, batch: &Batch) -> Result<(), BatchError> {
        let section = &self.inner.section;
        let mut db = self.lock();
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (all, own): (u32, u32) = tx.query_row(
            "SELECT count(*), coalesce(sum(org_id = ?1), 0) FROM batches WHERE unfinished",
            [&batch.org_id],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        for (whose, unfinished, limit) in
            [("your organization", own, section.org_unfinished), ("all customers", all, section.unfinished)]
        {
            if unfinished >= limit {
                return Err(BatchError::Full { whose, unfinished, limit });
            }
        }
        tx.execute(
            "INSERT INTO batches (id, org_id, project_id, unfinished, created_ms, object)
             VALUES (?1, ?2, ?3, 1, ?4, ?5)",
            params![
                batch.id,
                batch.org_id,
                batch.project_id,
                batch.created_ms,
                serde_json::to_string(batch)?
            ],
        )?;
        Ok(tx.commit()?)
    }

    /// Opens a batch's input.
    pub fn input(&self, id: &str) -> Result<File, BatchError> {
        let path = self.input_path(id);
        File::open(&path).map_err(|source| io_error(&path, source))
    }

    /// A project's batch.
    pub fn get(&self, project_id: &str, id: &str) -> Result<Option<Batch>, BatchError> {
        Ok(self.load(id)?.filter(|batch| batch.project_id == project_id))
    }

    /// A batch, whoever's it is.
    pub fn load(&self, id: &str) -> Result<Option<Batch>, BatchError> {
        find(&self.lock(), id)
    }

    /// Up to `limit` of a project's batches, the newest first, and whether there are more; `None` where `after` is not
    /// among them.
    pub fn list(
        &self,
        project_id: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<(Vec<Batch>, bool)>, BatchError> {
        let db = self.lock();
        let place: Option<i64> = match after {
            None => None,
            Some(id) => {
                let sql = "SELECT seq FROM batches WHERE id = ?1 AND project_id = ?2";
                match db.prepare_cached(sql)?.query_row([id, project_id], |row| row.get(0)).optional()? {
                    Some(seq) => Some(seq),
                    None => return Ok(None),
                }
            }
        };
        let mut statement = db.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM batches WHERE project_id = ?1 AND (?2 IS NULL OR seq < ?2)
             ORDER BY seq DESC LIMIT ?3"
        ))?;
        let rows = statement.query_map(params![project_id, place, limit.saturating_add(1)], read)?;
        let mut batches = Vec::new();
        for row in rows {
            batches.push(row??);
        }
        let has_more = batches.len() > limit;
        batches.truncate(limit);
        Ok(Some((batches, has_more)))
    }

    /// Ids of all that are not finished, the oldest first.
    pub fn unfinished(&self) -> Result<Vec<String>, BatchError> {
        let db = self.lock();
        let mut statement = db.prepare("SELECT id FROM batches WHERE unfinished ORDER BY seq")?;
        let rows = statement.query_map([], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Tokens of an organisation's lines that wait.
    pub fn waiting_tokens(&self, org_id: &str) -> Result<u64, BatchError> {
        let sql = "SELECT coalesce(sum(waiting_tokens), 0) FROM batches WHERE org_id = ?1 AND unfinished";
        Ok(self.lock().prepare_cached(sql)?.query_row([org_id], |row| row.get(0))?)
    }

    /// Takes a batch from one of `from` to `to` and lets `change` write what else is new about it.
    pub fn advance(
        &self,
        id: &str,
        from: &[Status],
        to: Status,
        now_ms: u64,
        change: impl FnOnce(&mut Batch),
    ) -> Result<Batch, BatchError> {
        let mut db = self.lock();
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut batch = find(&tx, id)?
            .filter(|batch| from.contains(&batch.status))
            .ok_or_else(|| BatchError::Moved(id.to_owned()))?;
        batch.status = to;
        batch.reached.insert(to, now_ms);
        change(&mut batch);
        tx.prepare_cached(
            "UPDATE batches SET object = ?2, unfinished = ?3, failed = ?4, total = ?5,
                waiting_tokens = CASE WHEN ?3 THEN waiting_tokens ELSE 0 END WHERE id = ?1",
        )?
        .execute(params![
            id,
            serde_json::to_string(&batch)?,
            !to.is_final(),
            batch.counts.failed,
            batch.counts.total
        ])?;
        if to.is_final() {
            tx.prepare_cached("DELETE FROM lines WHERE batch_id = ?1")?.execute([id])?;
        }
        tx.commit()?;
        drop(db);
        if to.is_final() {
            // Where it cannot be removed now, the next start does it.
            let _ = fs::remove_file(self.input_path(id));
        }
        Ok(batch)
    }

    /// Forgets batches that are finished long enough.
    pub fn sweep(&self, now_ms: u64) -> Result<(), BatchError> {
        let before = now_ms.saturating_sub(self.inner.section.keep_days * MS_PER_DAY);
        self.lock().execute("DELETE FROM batches WHERE NOT unfinished AND created_ms < ?1", [before])?;
        Ok(())
    }

    /// Removes inputs of batches that are finished, or that were never begun.
    fn remove_strays(&self) -> Result<(), BatchError> {
        let folder = &self.inner.folder;
        let unfinished = self.unfinished()?;
        for entry in fs::read_dir(folder).map_err(|source| io_error(folder, source))? {
            let path = entry.map_err(|source| io_error(folder, source))?.path();
            if !unfinished.iter().any(|id| self.input_path(id) == path) {
                fs::remove_file(&path).map_err(|source| io_error(&path, source))?;
            }
        }
        Ok(())
    }
}

fn io_error(path: &Path, source: io::Error) -> BatchError {
    BatchError::Io { path: path.display().to_string(), source }
}

const COLUMNS: &str = "object, total, completed, failed, uncached_input, cached_input, output, cost_picos";

fn find(db: &Connection, id: &str) -> Result<Option<Batch>, BatchError> {
    let mut statement = db.prepare_cached(&format!("SELECT {COLUMNS} FROM batches WHERE id = ?1"))?;
    statement.query_row([id], read).optional()?.transpose()
}

fn read(row: &Row<'_>) -> rusqlite::Result<Result<Batch, BatchError>> {
    let object: String = row.get(0)?;
    let counts = Counts {
        total: row.get(1)?,
        completed: row.get(2)?,
        failed: row.get(3)?,
        uncached_input: row.get(4)?,
        cached_input: row.get(5)?,
        output: row.get(6)?,
        cost_picos: row.get(7)?,
    };
    let batch = serde_json::from_str(&object).map(|batch| Batch { counts, ..batch });
    Ok(batch.map_err(BatchError::from))
}
