//! The ledger in PostgreSQL, for several gateways.
//!
//! Whoever writes locks the one row of `ledger_head` until it has committed. So the gateways' commits form one sequence, the
//! rows one chain, and each gateway knows all rows before its own: budgets are exact over all of them. A session holds an
//! advisory lock for the gateway's life; whose lock is free is dead, and its open requests are ended by any other.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use postgres::types::ToSql;
use postgres::{Client, Row, Statement};

use super::credit::{Grant, Purse};
use super::row::{Hash, Kind, Transfer};
use super::schema::COLUMNS;
use super::store::{Ended, Head, OpenRow, State, Store, StoreError, StoreResult};
use super::types::{BudgetScope, LedgerError, Settled};
use crate::money::{Picos, Tokens};

mod rows;
mod schema;
mod session;

use rows::{damaged, digest, get, ms, tokens, transfer, with_values};
use session::{LOCKS, connect, is_answer, migrate};

/// How long a lost connection is tried again; then the ledger is given up until a restart.
const RECONNECT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(100);
pub(super) struct PostgresStore {
    url: String,
    client: Client,
    statements: HashMap<&'static str, Statement>,
    /// Number of this process among all gateways.
    owner: i64,
    /// The last row that the book knows.
    known: i64,
    /// Rows added in the transaction: number and hash of the last.
    added: Option<(i64, u64, Hash)>,
    /// The connection broke and nothing was committed.
    is_lost: bool,
}

impl PostgresStore {
    /// Connects and makes the tables where there are none.
    pub(super) fn open(url: &str) -> Result<Self, LedgerError> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|error| LedgerError::Unavailable(error.to_string()))?;
        let owner = LOCKS | i64::from(u32::from_le_bytes(random));
        let mut client = connect(url).map_err(|error| LedgerError::Unavailable(error.0))?;
        migrate(&mut client)?;
        let mut store = Self {
            url: url.to_owned(),
            client,
            statements: HashMap::new(),
            owner,
            known: 0,
            added: None,
            is_lost: false,
        };
        if !store.claim()? {
            return Err(LedgerError::Locked(format!("gateway number {owner}")));
        }
        Ok(store)
    }

    /// Rows after `seq`, at most `limit` of them.
    pub(super) fn rows_after(&mut self, seq: i64, limit: i64) -> StoreResult<Vec<Transfer>> {
        self.query(&ROWS_AFTER, &[&seq, &limit])?.iter().map(transfer).collect()
    }

    /// Says to all that this gateway lives.
    fn claim(&mut self) -> StoreResult<bool> {
        let owner = self.owner;
        let row = self.client.query_one("SELECT pg_try_advisory_lock($1)", &[&owner])?;
        get(&row, 0)
    }

    fn query(&mut self, sql: &'static str, values: &[&(dyn ToSql + Sync)]) -> StoreResult<Vec<Row>> {
        let statement = self.statement(sql)?;
        Ok(self.client.query(&statement, values)?)
    }

    fn first(&mut self, sql: &'static str, values: &[&(dyn ToSql + Sync)]) -> StoreResult<Option<Row>> {
        Ok(self.query(sql, values)?.into_iter().next())
    }

    fn execute(&mut self, sql: &'static str, values: &[&(dyn ToSql + Sync)]) -> StoreResult<()> {
        let statement = self.statement(sql)?;
        Ok(self.client.execute(&statement, values).map(drop)?)
    }

    fn statement(&mut self, sql: &'static str) -> StoreResult<Statement> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql)?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    /// Gateways with open holds that are alive, this one aside.
    fn living(&mut self) -> StoreResult<HashSet<i64>> {
        let owner = self.owner;
        let owners = self.query("SELECT DISTINCT owner FROM open_holds WHERE owner <> $1", &[&owner])?;
        let mut living = HashSet::new();
        for row in owners {
            let other: i64 = get(&row, 0)?;
            // Whoever gets the lock proves that nobody has it; it is let go at the end of the statement's transaction.
            let free = self.first("SELECT pg_try_advisory_xact_lock($1)", &[&other])?;
            if !free.as_ref().map(|row| get(row, 0)).transpose()?.unwrap_or(false) {
                living.insert(other);
            }
        }
        Ok(living)
    }

    /// A new session in place of a broken one.
    fn reconnect(&mut self) -> StoreResult<()> {
        let deadline = Instant::now() + RECONNECT;
        loop {
            let tried = connect(&self.url).and_then(|client| {
                self.client = client;
                self.statements.clear();
                self.claim()
            });
            match tried {
                Ok(true) => return Ok(()),
                // The server has not noticed yet that the old session is gone.
                Ok(false) if Instant::now() < deadline => {}
                Ok(false) => return Err(StoreError("the old session still holds its lock".to_owned())),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => {}
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether the transaction whose COMMIT got no answer was committed: its last row is there, or is not.
    fn was_committed(&mut self) -> StoreResult<bool> {
        self.reconnect()?;
        let Some((seq, _, hash)) = self.added else { return Ok(false) };
        let row = self.first("SELECT hash FROM transfers WHERE seq = $1", &[&seq])?;
        Ok(row.map(|row| digest(&row, 0)).transpose()?.flatten() == Some(hash))
    }

    fn keep_open(&mut self, row: &Transfer) -> StoreResult<()> {
        let (id, owner) = (&row.request_id, self.owner);
        match row.kind {
            Kind::Hold => {
                let sql =
                    "INSERT INTO open_holds (request_id, seq, held_picos, owner) VALUES ($1, $2, $3, $4)";
                self.execute(sql, &[id, &row.seq, &row.held.0, &owner])
            }
            Kind::Extend => {
                let sql = "UPDATE open_holds SET held_picos = held_picos + $2 WHERE request_id = $1";
                self.execute(sql, &[id, &row.held.0])
            }
            Kind::Settle | Kind::Void => self.execute("DELETE FROM open_holds WHERE request_id = $1", &[id]),
            Kind::Grant | Kind::Expire | Kind::Correct | Kind::Refund => Ok(()),
        }
    }
}

static INSERT: LazyLock<String> = LazyLock::new(|| {
    let parameters: Vec<_> = (1..=COLUMNS.split(',').count()).map(|at| format!("${at}")).collect();
    format!("INSERT INTO transfers ({COLUMNS}) VALUES ({})", parameters.join(", "))
});

static ROWS_AFTER: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {COLUMNS} FROM transfers WHERE seq > $1 ORDER BY seq LIMIT $2"));

static OPEN_ROWS: LazyLock<String> = LazyLock::new(|| {
    let columns: Vec<String> = COLUMNS.split(',').map(|column| format!("t.{}", column.trim())).collect();
    format!(
        "SELECT {}, o.held_picos, o.owner, c.uncached_input, c.cached_input, c.output FROM open_holds o
         JOIN transfers t ON t.seq = o.seq LEFT JOIN checkpoints c ON c.request_id = o.request_id",
        columns.join(", ")
    )
});

impl Store for PostgresStore {
    fn load(&mut self) -> StoreResult<State> {
        // One state throughout, and nobody writes meanwhile.
        self.client.batch_execute("BEGIN")?;
        let head = self.client.query_one("SELECT seq, at_ms, hash FROM ledger_head FOR UPDATE", &[])?;
        let hash = digest(&head, 2)?.ok_or_else(|| StoreError("no head".to_owned()))?;
        let head = Head { seq: get(&head, 0)?, at_ms: ms(&head, 1)?, hash };
        let living = self.living()?;
        let width = COLUMNS.split(',').count();
        let mut open = HashMap::new();
        for row in self.query(&OPEN_ROWS, &[])? {
            let checkpoint = match get::<Option<i64>>(&row, width + 2)? {
                Some(_) => Some(tokens(&row, width + 2)?),
                None => None,
            };
            let hold = transfer(&row)?;
            let open_row = OpenRow {
                facts: hold.facts,
                details: hold.details,
                at_ms: hold.at_ms,
                held: Picos(get(&row, width)?),
                lease: hold.note,
                checkpoint,
                elsewhere: living.contains(&get(&row, width + 1)?),
            };
            open.insert(hold.request_id, open_row);
        }
        self.client.batch_execute("COMMIT")?;
        (self.known, self.added) = (head.seq, None);
        Ok(State { head, open })
    }

    fn begin(&mut self) -> StoreResult<Vec<Transfer>> {
        self.added = None;
        self.client.batch_execute("BEGIN")?;
        let head = self.first("SELECT seq FROM ledger_head FOR UPDATE", &[])?;
        let seq: i64 = head.as_ref().map(|head| get(head, 0)).transpose()?.unwrap_or(0);
        if seq == self.known {
            return Ok(Vec::new());
        }
        let rows = self.rows_after(self.known, i64::MAX)?;
        self.known = seq;
        Ok(rows)
    }

    fn append(&mut self, row: &Transfer) -> StoreResult<()> {
        let entries = row.entries().map_err(|error| StoreError(error.to_string()))?;
        if entries.iter().map(|entry| i128::from(entry.amount.0)).sum::<i128>() != 0 {
            return Err(StoreError(format!("entries of row {} do not add up to zero", row.seq)));
        }
        with_values(row, |values| self.execute(&INSERT, values))?;
        self.keep_open(row)?;
        let lines: Vec<i64> = (0..).take(entries.len()).collect();
        let accounts: Vec<&str> = entries.iter().map(|entry| entry.account.as_str()).collect();
        let amounts: Vec<i64> = entries.iter().map(|entry| entry.amount.0).collect();
        let sql = "INSERT INTO entries (seq, line, account, amount_picos)
                   SELECT $1, e.* FROM unnest($2::bigint[], $3::text[], $4::bigint[]) e";
        self.execute(sql, &[&row.seq, &lines, &accounts, &amounts])?;
        self.added = Some((row.seq, row.at_ms, row.hash));
        Ok(())
    }

    fn ended(&mut self, request_id: &str) -> StoreResult<Option<Ended>> {
        let sql = "SELECT kind, seq, cost_picos, uncached_input, cached_input, output, end_reason
                   FROM transfers WHERE request_id = $1 AND kind IN ('settle', 'void')";
        let Some(row) = self.first(sql, &[&request_id])? else { return Ok(None) };
        if get::<&str>(&row, 0)? == Kind::Void.as_str() {
            return Ok(Some(Ended::Voided));
        }
        let end = get::<Option<String>>(&row, 6)?.unwrap_or_default().parse().map_err(damaged)?;
        let (seq, cost, tokens) = (get(&row, 1)?, Picos(get(&row, 2)?), tokens(&row, 3)?);
        Ok(Some(Ended::Settled(Settled { seq, cost, tokens, end })))
    }

    fn put_checkpoint(&mut self, request_id: &str, tokens: Tokens, at_ms: u64) -> StoreResult<()> {
        let sql = "INSERT INTO checkpoints (request_id, uncached_input, cached_input, output, at_ms)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (request_id) DO UPDATE SET uncached_input = $2, cached_input = $3, output = $4, at_ms = $5";
        let [uncached, cached, output] =
            [tokens.uncached_input, tokens.cached_input, tokens.output].map(i64::from);
        self.execute(sql, &[&request_id, &uncached, &cached, &output, &at_ms.cast_signed()])
    }

    fn delete_checkpoint(&mut self, request_id: &str) -> StoreResult<()> {
        self.execute("DELETE FROM checkpoints WHERE request_id = $1", &[&request_id])
    }

    fn spent(&mut self, scope: BudgetScope, id: &str, hours: Option<(u64, u64)>) -> StoreResult<i64> {
        // A total is one row; a period's hours are a range of the primary key.
        let (from, to) = hours.map_or((-1, 0), |(from, to)| (from.cast_signed(), to.cast_signed()));
        let sql = "SELECT coalesce(sum(picos), 0)::bigint FROM spent
                   WHERE scope = $1 AND id = $2 AND hour_ms >= $3 AND hour_ms < $4";
        let row = self.first(sql, &[&scope.as_str(), &id, &from, &to])?;
        row.map_or(Ok(0), |row| get(&row, 0))
    }

    fn add_spent(&mut self, scope: BudgetScope, id: &str, hour_ms: u64, picos: i64) -> StoreResult<()> {
        let sql = "INSERT INTO spent (scope, id, hour_ms, picos) VALUES ($1, $2, $3, $4)
                   ON CONFLICT (scope, id, hour_ms) DO UPDATE SET picos = spent.picos + $4";
        for hour in [hour_ms.cast_signed(), -1] {
            self.execute(sql, &[&scope.as_str(), &id, &hour, &picos])?;
        }
        Ok(())
    }

    fn purse(&mut self, org_id: &str) -> StoreResult<Purse> {
        let credited = self.first("SELECT picos FROM credited WHERE org_id = $1", &[&org_id])?;
        let credited = credited.map_or(Ok(0), |row| get(&row, 0))?;
        let sql = "SELECT seq, left_picos, expires_ms FROM grants WHERE org_id = $1 AND left_picos > 0";
        let grants = self.query(sql, &[&org_id])?.into_iter().map(|row| {
            let expires_ms = get::<Option<i64>>(&row, 2)?.map(i64::cast_unsigned);
            Ok(Grant { seq: get(&row, 0)?, left: Picos(get(&row, 1)?), expires_ms })
        });
        Ok(Purse::new(credited, grants.collect::<StoreResult<_>>()?))
    }

    fn add_credited(&mut self, org_id: &str, picos: i64) -> StoreResult<()> {
        let sql = "INSERT INTO credited (org_id, picos) VALUES ($1, $2)
                   ON CONFLICT (org_id) DO UPDATE SET picos = credited.picos + $2";
        self.execute(sql, &[&org_id, &picos])
    }

    fn put_grant(&mut self, org_id: &str, grant: &Grant) -> StoreResult<()> {
        let sql = "INSERT INTO grants (seq, org_id, left_picos, expires_ms) VALUES ($1, $2, $3, $4)
                   ON CONFLICT (seq) DO UPDATE SET left_picos = $3";
        let expires_ms = grant.expires_ms.map(u64::cast_signed);
        self.execute(sql, &[&grant.seq, &org_id, &grant.left.0, &expires_ms])
    }

    fn credit_row(&mut self, id: &str) -> StoreResult<Option<i64>> {
        let sql = "SELECT seq FROM transfers WHERE request_id = $1 AND kind IN ('grant', 'correct')";
        self.first(sql, &[&id])?.map(|row| get(&row, 0)).transpose()
    }

    fn due_orgs(&mut self, now_ms: u64) -> StoreResult<Vec<String>> {
        let sql = "SELECT DISTINCT org_id FROM grants
                   WHERE left_picos > 0 AND expires_ms IS NOT NULL AND expires_ms <= $1 ORDER BY org_id";
        self.query(sql, &[&now_ms.cast_signed()])?.iter().map(|row| get(row, 0)).collect()
    }

    fn orphans(&mut self) -> StoreResult<Vec<(String, Option<Tokens>)>> {
        let (living, owner) = (self.living()?, self.owner);
        let sql = "SELECT o.request_id, o.owner, c.uncached_input, c.cached_input, c.output FROM open_holds o
                   LEFT JOIN checkpoints c ON c.request_id = o.request_id WHERE o.owner <> $1 ORDER BY o.request_id";
        let mut orphans = Vec::new();
        for row in self.query(sql, &[&owner])? {
            if !living.contains(&get(&row, 1)?) {
                let noted = get::<Option<i64>>(&row, 2)?.map(|_| tokens(&row, 2)).transpose()?;
                orphans.push((get(&row, 0)?, noted));
            }
        }
        Ok(orphans)
    }

    fn commit(&mut self) -> StoreResult<()> {
        if let Some((seq, at_ms, hash)) = self.added {
            let sql = "UPDATE ledger_head SET seq = $1, at_ms = $2, hash = $3";
            self.execute(sql, &[&seq, &at_ms.cast_signed(), &hash.as_slice()])?;
        }
        if let Err(error) = self.client.batch_execute("COMMIT") {
            if is_answer(&error) {
                return Err(error.into());
            }
            if !self.was_committed()? {
                self.is_lost = true;
                return Err(error.into());
            }
        }
        self.known = self.added.map_or(self.known, |(seq, _, _)| seq);
        Ok(())
    }

    fn recover(&mut self) -> bool {
        let was_lost = std::mem::take(&mut self.is_lost);
        if self.client.batch_execute("ROLLBACK").is_ok() {
            // The session lives: a statement was refused, and would be again.
            return was_lost;
        }
        let connected = self.reconnect();
        if let Err(error) = &connected {
            tracing::error!(%error, "PostgreSQL cannot be reached");
        }
        connected.is_ok()
    }
}
