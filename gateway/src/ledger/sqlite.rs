//! The ledger in SQLite: write-ahead log, every commit synced, one connection that writes.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::LazyLock;

use rusqlite::{Connection, OptionalExtension, params};

use super::credit::{Grant, Purse};
use super::details::Tags;
use super::reader::{self, FILE};
use super::row::{GENESIS, Kind, Transfer};
use super::schema::{COLUMNS, STEPS, VERSION};
use super::store::{Ended, Head, OpenRow, State, Store, StoreError, StoreResult};
use super::types::{BudgetScope, EndReason, LedgerError};
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
        if unclean {
            quick_check(&db)?;
        }
        // Off while a step replaces a table that another refers to.
        db.pragma_update(None, "foreign_keys", false)?;
        migrate(&db)?;
        db.pragma_update(None, "foreign_keys", true)?;
        db.set_prepared_statement_cache_capacity(48);
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

    fn open_rows(&self) -> rusqlite::Result<HashMap<String, OpenRow>> {
        let mut statement = self.db.prepare(&OPEN_ROWS)?;
        let mut open: HashMap<String, OpenRow> = HashMap::new();
        let columns = COLUMNS.split(',').count();
        for row in statement.query_map([], |row| {
            let held: i64 = row.get(columns)?;
            let checkpoint = match row.get::<_, Option<u32>>(columns + 1)? {
                Some(_) => Some(reader::tokens(row, columns + 1)?),
                None => None,
            };
            Ok((reader::transfer(row)?, Picos(held), checkpoint))
        })? {
            let (row, held, checkpoint) = row?;
            open.insert(
                row.request_id,
                OpenRow {
                    facts: row.facts,
                    details: row.details,
                    at_ms: row.at_ms,
                    held,
                    lease: row.note,
                    checkpoint,
                    elsewhere: false,
                },
            );
        }
        Ok(open)
    }
}

/// Open holds, each found by the number of its row.
pub(super) static OPEN_ROWS: LazyLock<String> = LazyLock::new(|| {
    let columns: Vec<String> = COLUMNS.split(',').map(|column| format!("t.{}", column.trim())).collect();
    format!(
        "SELECT {}, o.held_picos, c.uncached_input, c.cached_input, c.output FROM open_holds o
         JOIN transfers t ON t.seq = o.seq LEFT JOIN checkpoints c ON c.request_id = o.request_id",
        columns.join(", ")
    )
});

/// Takes the file to the current version; each step in a transaction of its own.
fn migrate(db: &Connection) -> Result<(), LedgerError> {
    let found = reader::version(db)?;
    let steps = usize::try_from(found).ok().and_then(|found| STEPS.get(found..));
    let steps = steps.ok_or(LedgerError::Schema { found, known: VERSION })?;
    for (step, version) in steps.iter().zip(found + 1..) {
        db.execute_batch(&format!("BEGIN IMMEDIATE; {step} PRAGMA user_version = {version}; COMMIT;"))?;
    }
    Ok(())
}

fn configure(db: &Connection) -> Result<(), LedgerError> {
    db.pragma_update(None, "synchronous", "FULL")?;
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

fn quick_check(db: &Connection) -> Result<(), LedgerError> {
    let answer: String = db.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    if answer == "ok" { Ok(()) } else { Err(LedgerError::Corrupt(answer)) }
}

impl Store for SqliteStore {
    fn load(&mut self) -> StoreResult<State> {
        Ok(State { head: self.head()?, open: self.open_rows()? })
    }

    fn begin(&mut self) -> StoreResult<Vec<Transfer>> {
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(Vec::new())
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
            reader::counted_text(&facts.counted),
            row.credit.0,
            row.expires_ms,
            row.note,
            row.deadline_ms(),
            row.pace.map(|pace| pace.wait_ms),
            row.pace.and_then(|pace| pace.gap_us),
        ])?;
        self.keep_open(row)?;
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

    fn spent(&mut self, scope: BudgetScope, id: &str, hours: Option<(u64, u64)>) -> StoreResult<i64> {
        // A total is one row; a period's hours are a range of the primary key.
        let (from, to) = hours.map_or((-1, 0), |(from, to)| (from.cast_signed(), to.cast_signed()));
        let mut statement = self.db.prepare_cached(SPENT)?;
        Ok(statement.query_row(params![scope.as_str(), id, from, to], |row| row.get(0))?)
    }

    fn add_spent(&mut self, scope: BudgetScope, id: &str, hour_ms: u64, picos: i64) -> StoreResult<()> {
        let mut statement = self.db.prepare_cached(
            "INSERT INTO spent (scope, id, hour_ms, picos) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (scope, id, hour_ms) DO UPDATE SET picos = picos + ?4",
        )?;
        for hour in [hour_ms.cast_signed(), -1] {
            statement.execute(params![scope.as_str(), id, hour, picos])?;
        }
        Ok(())
    }

    fn purse(&mut self, org_id: &str) -> StoreResult<Purse> {
        let mut statement = self.db.prepare_cached("SELECT picos FROM credited WHERE org_id = ?1")?;
        let credited = statement.query_row([org_id], |row| row.get(0)).optional()?.unwrap_or(0);
        let mut statement = self.db.prepare_cached(
            "SELECT seq, left_picos, expires_ms FROM grants WHERE org_id = ?1 AND left_picos > 0",
        )?;
        let grants = statement.query_map([org_id], |row| {
            Ok(Grant { seq: row.get(0)?, left: Picos(row.get(1)?), expires_ms: row.get(2)? })
        })?;
        Ok(Purse::new(credited, grants.collect::<rusqlite::Result<_>>()?))
    }

    fn add_credited(&mut self, org_id: &str, picos: i64) -> StoreResult<()> {
        let mut statement = self.db.prepare_cached(
            "INSERT INTO credited (org_id, picos) VALUES (?1, ?2) ON CONFLICT (org_id) DO UPDATE SET picos = picos + ?2",
        )?;
        Ok(statement.execute(params![org_id, picos]).map(drop)?)
    }

    fn put_grant(&mut self, org_id: &str, grant: &Grant) -> StoreResult<()> {
        let mut statement = self.db.prepare_cached(
            "INSERT INTO grants (seq, org_id, left_picos, expires_ms) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (seq) DO UPDATE SET left_picos = ?3",
        )?;
        Ok(statement.execute(params![grant.seq, org_id, grant.left.0, grant.expires_ms]).map(drop)?)
    }

    fn credit_row(&mut self, id: &str) -> StoreResult<Option<i64>> {
        let sql = "SELECT seq FROM transfers WHERE request_id = ?1 AND kind IN ('grant', 'correct')";
        Ok(self.db.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?)
    }

    fn due_orgs(&mut self, now_ms: u64) -> StoreResult<Vec<String>> {
        let sql = "SELECT DISTINCT org_id FROM grants
                   WHERE left_picos > 0 AND expires_ms IS NOT NULL AND expires_ms <= ?1 ORDER BY org_id";
        let mut statement = self.db.prepare_cached(sql)?;
        let rows = statement.query_map([now_ms], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn orphans(&mut self) -> StoreResult<Vec<(String, Option<Tokens>)>> {
        Ok(Vec::new())
    }

    fn recover(&mut self) -> bool {
        // After a failed sync nothing that the file says can be relied on.
        false
    }

    fn commit(&mut self) -> StoreResult<()> {
        Ok(self.db.prepare_cached("COMMIT")?.execute([]).map(drop)?)
    }
}

/// What an account spent from one hour up to another.
pub(super) const SPENT: &str = "SELECT coalesce(sum(picos), 0) FROM spent
                                WHERE scope = ?1 AND id = ?2 AND hour_ms >= ?3 AND hour_ms < ?4";

impl SqliteStore {
    fn keep_open(&self, row: &Transfer) -> rusqlite::Result<()> {
        let id = &row.request_id;
        match row.kind {
            Kind::Hold => {
                let sql = "INSERT INTO open_holds (request_id, seq, held_picos) VALUES (?1, ?2, ?3)";
                self.db.prepare_cached(sql)?.execute(params![id, row.seq, row.held.0])
            }
            Kind::Extend => {
                let sql = "UPDATE open_holds SET held_picos = held_picos + ?2 WHERE request_id = ?1";
                self.db.prepare_cached(sql)?.execute(params![id, row.held.0])
            }
            Kind::Settle | Kind::Void => {
                self.db.prepare_cached("DELETE FROM open_holds WHERE request_id = ?1")?.execute([id])
            }
            Kind::Grant | Kind::Expire | Kind::Correct | Kind::Refund => Ok(0),
        }
        .map(drop)
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
