//! The ledger in SQLite: write-ahead log, every commit synced, one connection that writes.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::details::Tags;
use super::reader::{self, FILE};
use super::row::{GENESIS, Kind, Transfer};
use super::schema::{COLUMNS, MIGRATIONS, TABLES, VERSION};
use super::store::{Ended, Head, KeySums, OpenRow, State, Store, StoreError, StoreResult};
use super::types::{EndReason, LedgerError};
use crate::config::make_private_dir;
use crate::money::{Picos, Tokens};
use crate::sqlite;

/// Pages in the log before it is folded into the file; larger than the default, so that fewer commits pay for it.
const WAL_PAGES: i64 = 4000;

pub(super) struct SqliteStore {
    db: Connection,
    /// Held as long as the store: two writers would each believe in their own balances.
    _lock: File,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        StoreError(error.to_string())
    }
}

impl SqliteStore {
    pub(super) fn open(dir: &Path) -> Result<Self, LedgerError> {
        let io = |path: &Path| {
            let path = path.display().to_string();
            move |source| LedgerError::Io { path, source }
        };
        make_private_dir(dir).map_err(io(dir))?;
        let path = dir.join("ledger.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LedgerError::Locked(path.display().to_string())),
            Err(TryLockError::Error(source)) => return Err(io(&path)(source)),
        }
        // A log that is still there was not folded in by a clean stop.
        let unclean = dir.join(format!("{FILE}-wal")).exists();
        // Only a reader that recovers the log after a crash can be in the way, and only for a moment.
        let db = sqlite::open(&dir.join(FILE))?;
        configure(&db)?;
        migrate(&db)?;
        reader::check_version(&db)?;
        if unclean {
            quick_check(&db)?;
        }
        db.set_prepared_statement_cache_capacity(32);
        Ok(Self { db, _lock: lock })
    }

    fn head(&self) -> rusqlite::Result<Head> {
        let last = "SELECT seq, at_ms, hash FROM transfers ORDER BY seq DESC LIMIT 1";
        let head = self
            .db
            .query_row(last, [], |row| Ok(Head { seq: row.get(0)?, at_ms: row.get(1)?, hash: row.get(2)? }))
            .optional()?;
        Ok(head.unwrap_or(Head { seq: 0, at_ms: 0, hash: GENESIS }))
    }

    fn sums(&self) -> rusqlite::Result<Vec<KeySums>> {
        let mut statement = self.db.prepare(
            "SELECT key_id, project_id, org_id, sum(cost_picos), sum(held_picos - released_picos)
             FROM transfers GROUP BY key_id, project_id, org_id",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(KeySums {
                key_id: row.get(0)?,
                project_id: row.get(1)?,
                org_id: row.get(2)?,
                spent: Picos(row.get(3)?),
                held: Picos(row.get(4)?),
            })
        })?;
        rows.collect()
    }

    fn open_rows(&self) -> rusqlite::Result<HashMap<String, OpenRow>> {
        let mut statement = self.db.prepare(&format!(
            "SELECT {COLUMNS} FROM transfers t WHERE kind IN ('hold', 'extend') AND NOT EXISTS (
                 SELECT 1 FROM transfers e WHERE e.request_id = t.request_id AND e.kind IN ('settle', 'void'))
             ORDER BY seq"
        ))?;
        let mut open: HashMap<String, OpenRow> = HashMap::new();
        for row in statement.query_map([], reader::transfer)? {
            let row = row?;
            let entry = open.entry(row.request_id);
            let hold = entry.or_insert(OpenRow {
                facts: row.facts,
                details: row.details,
                held: Picos::ZERO,
                checkpoint: None,
            });
            hold.held = hold
                .held
                .checked_add(row.held)
                .ok_or(rusqlite::Error::IntegralValueOutOfRange(17, row.held.0))?;
        }
        let mut statement =
            self.db.prepare("SELECT request_id, uncached_input, cached_input, output FROM checkpoints")?;
        for noted in statement.query_map([], |row| Ok((row.get::<_, String>(0)?, reader::tokens(row, 1)?)))? {
            let (request_id, tokens) = noted?;
            if let Some(hold) = open.get_mut(&request_id) {
                hold.checkpoint = Some(tokens);
            }
        }
        Ok(open)
    }
}

fn configure(db: &Connection) -> Result<(), LedgerError> {
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    // Asked back: SQLite ignores what a build or file system cannot do, and then nothing would be durable.
    let mode: String = db.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    let synchronous: i64 = db.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    if mode != "wal" || synchronous != 2 {
        let message =
            format!("journal_mode {mode:?} and synchronous {synchronous}, needed are \"wal\" and 2");
        return Err(LedgerError::Unavailable(message));
    }
    Ok(())
}

/// Makes the tables, or brings those of an earlier version up to date; all or nothing.
fn migrate(db: &Connection) -> Result<(), LedgerError> {
    let steps = match reader::version(db)? {
        0 => TABLES.to_owned(),
        found if (1..VERSION).contains(&found) => MIGRATIONS[found as usize - 1..].concat(),
        _ => return Ok(()),
    };
    Ok(db.execute_batch(&format!("BEGIN IMMEDIATE; {steps} PRAGMA user_version = {VERSION}; COMMIT;"))?)
}

fn quick_check(db: &Connection) -> Result<(), LedgerError> {
    let answer: String = db.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    if answer == "ok" { Ok(()) } else { Err(LedgerError::Corrupt(answer)) }
}

impl Store for SqliteStore {
    fn load(&mut self) -> StoreResult<State> {
        Ok(State { head: self.head()?, sums: self.sums()?, open: self.open_rows()? })
    }

    fn begin(&mut self) -> StoreResult<()> {
        Ok(self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)?)
    }

    fn append(&mut self, row: &Transfer) -> StoreResult<()> {
        let entries = row.entries().map_err(|error| StoreError(error.to_string()))?;
        // Checked again here, where it can still stop a wrong row from being written.
        if entries.iter().map(|entry| i128::from(entry.amount.0)).sum::<i128>() != 0 {
            return Err(StoreError(format!("entries of row {} do not add up to zero", row.seq)));
        }
        let (facts, price, details) = (&row.facts, &row.facts.price, row.details.as_deref());
        self.db.prepare_cached(insert_row())?.execute(params![
            row.seq,
            row.kind.as_str(),
            row.request_id,
            row.at_ms,
            facts.org_id,
            facts.project_id,
            facts.key_id,
            facts.endpoint,
            price.model,
            price.tier,
            price.id,
            price.effective_from_ms,
            price.uncached_input.0,
            price.cached_input.0,
            price.output.0,
            facts.prompt_tokens,
            facts.admitted_ms,
            row.held.0,
            row.released.0,
            row.tokens.uncached_input,
            row.tokens.cached_input,
            row.tokens.output,
            row.cost.uncached_input.0,
            row.cost.cached_input.0,
            row.cost.output.0,
            row.cost.total.0,
            row.end.map(EndReason::as_str),
            row.first_token_ms,
            row.hash.as_slice(),
            details.map(|details| &details.org_name),
            details.map(|details| &details.project_name),
            details.map(|details| &details.key_name),
            details.and_then(|details| details.user.as_deref()),
            details.and_then(|details| details.tags.as_ref()).map(Tags::as_json),
            details.and_then(|details| details.request_sha256),
            details.and_then(|details| details.weights_sha256),
        ])?;
        let mut insert = self.db.prepare_cached(
            "INSERT INTO entries (seq, line, account, amount_picos) VALUES (?1, ?2, ?3, ?4)",
        )?;
        for (line, entry) in entries.iter().enumerate() {
            insert.execute(params![row.seq, line, entry.account, entry.amount.0])?;
        }
        Ok(())
    }

    fn ended(&mut self, request_id: &str) -> StoreResult<Option<Ended>> {
        let sql = "SELECT kind, seq, cost_picos, uncached_input, cached_input, output, end_reason
                   FROM transfers WHERE request_id = ?1 AND kind IN ('settle', 'void')";
        let mut statement = self.db.prepare_cached(sql)?;
        let found = statement.query_row([request_id], |row| {
            let (kind, end): (String, Option<String>) = (row.get(0)?, row.get(6)?);
            Ok((kind, end, row.get(1)?, Picos(row.get(2)?), reader::tokens(row, 3)?))
        });
        let Some((kind, end, seq, cost, tokens)) = found.optional()? else { return Ok(None) };
        if kind == Kind::Void.as_str() {
            return Ok(Some(Ended::Voided));
        }
        let end =
            end.unwrap_or_default().parse().map_err(|error: LedgerError| StoreError(error.to_string()))?;
        Ok(Some(Ended::Settled(super::Settled { seq, cost, tokens, end })))
    }

    fn put_checkpoint(&mut self, request_id: &str, tokens: Tokens, at_ms: u64) -> StoreResult<()> {
        let mut statement = self.db.prepare_cached(
            "INSERT INTO checkpoints (request_id, uncached_input, cached_input, output, at_ms)
             VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (request_id) DO UPDATE SET uncached_input = ?2, cached_input = ?3, output = ?4, at_ms = ?5",
        )?;
        let Tokens { uncached_input, cached_input, output } = tokens;
        Ok(statement.execute(params![request_id, uncached_input, cached_input, output, at_ms]).map(drop)?)
    }

    fn delete_checkpoint(&mut self, request_id: &str) -> StoreResult<()> {
        let mut statement = self.db.prepare_cached("DELETE FROM checkpoints WHERE request_id = ?1")?;
        Ok(statement.execute([request_id]).map(drop)?)
    }

    fn commit(&mut self) -> StoreResult<()> {
        Ok(self.db.prepare_cached("COMMIT")?.execute([]).map(drop)?)
    }
}

/// The insert of a whole row, one parameter per column.
fn insert_row() -> &'static str {
    static SQL: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let parameters: Vec<_> = (1..=COLUMNS.split(',').count()).map(|at| format!("?{at}")).collect();
        format!("INSERT INTO transfers ({COLUMNS}) VALUES ({})", parameters.join(", "))
    });
    &SQL
}
