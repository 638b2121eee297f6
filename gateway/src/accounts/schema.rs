//! Opening the database file.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::AccountsError;
use super::secret::Pepper;
use crate::sqlite;

/// One step for each version: a file of version n gets the steps from n on.
const STEPS: [&str; 3] = [FIRST, SECOND, THIRD];

const FIRST: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE orgs (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_ms INTEGER NOT NULL, disabled_ms INTEGER
) STRICT;
CREATE TABLE projects (
    id TEXT PRIMARY KEY, org_id TEXT NOT NULL REFERENCES orgs (id), name TEXT NOT NULL,
    requests_per_minute INTEGER, tokens_per_minute INTEGER, concurrency INTEGER, created_ms INTEGER NOT NULL,
    UNIQUE (org_id, name)
) STRICT;
CREATE TABLE keys (
    id TEXT PRIMARY KEY, project_id TEXT NOT NULL REFERENCES projects (id), name TEXT NOT NULL,
    prefix TEXT NOT NULL, mac BLOB NOT NULL UNIQUE CHECK (length(mac) = 32),
    requests_per_minute INTEGER, tokens_per_minute INTEGER, concurrency INTEGER,
    budget_picos INTEGER CHECK (budget_picos >= 0),
    created_ms INTEGER NOT NULL, expires_ms INTEGER, revoked_ms INTEGER
) STRICT;
";

/// Lists are JSON arrays of strings, where NULL stands for everything. `keys.budget_picos` has moved to `budgets`.
const SECOND: &str = "
ALTER TABLE orgs ADD COLUMN credit_line_picos INTEGER CHECK (credit_line_picos >= 0);
ALTER TABLE projects ADD COLUMN archived_ms INTEGER;
ALTER TABLE projects ADD COLUMN allowed_tiers TEXT;
ALTER TABLE projects ADD COLUMN default_tier TEXT;
ALTER TABLE projects ADD COLUMN allowed_models TEXT;
ALTER TABLE projects ADD COLUMN store_responses TEXT NOT NULL DEFAULT 'true'
    CHECK (store_responses IN ('false', 'true', 'never'));
ALTER TABLE keys ADD COLUMN permissions TEXT;
ALTER TABLE keys ADD COLUMN allowed_models TEXT;
ALTER TABLE keys ADD COLUMN allowed_ips TEXT;
ALTER TABLE keys ADD COLUMN last_used_ms INTEGER;
CREATE TABLE budgets (
    scope TEXT NOT NULL, subject TEXT NOT NULL, period TEXT NOT NULL,
    limit_picos INTEGER NOT NULL CHECK (limit_picos >= 0),
    PRIMARY KEY (scope, subject, period)
) STRICT, WITHOUT ROWID;
INSERT INTO budgets SELECT 'key', id, 'total', budget_picos FROM keys WHERE budget_picos IS NOT NULL;
ALTER TABLE keys DROP COLUMN budget_picos;
CREATE TABLE admin_keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, prefix TEXT NOT NULL,
    mac BLOB NOT NULL UNIQUE CHECK (length(mac) = 32),
    created_ms INTEGER NOT NULL, revoked_ms INTEGER, last_used_ms INTEGER
) STRICT;
CREATE TABLE prices (
    id TEXT PRIMARY KEY, model TEXT NOT NULL, tier TEXT NOT NULL, effective_from_ms INTEGER NOT NULL,
    uncached_input INTEGER NOT NULL, cached_input INTEGER NOT NULL, output INTEGER NOT NULL,
    created_ms INTEGER NOT NULL, UNIQUE (model, tier, effective_from_ms)
) STRICT;
CREATE TABLE credit_orders (
    id TEXT PRIMARY KEY, org_id TEXT NOT NULL REFERENCES orgs (id), kind TEXT NOT NULL, amount_picos INTEGER NOT NULL,
    expires_ms INTEGER, note TEXT NOT NULL, actor TEXT NOT NULL, created_ms INTEGER NOT NULL, refused TEXT, seq INTEGER
) STRICT;
CREATE INDEX credit_orders_waiting ON credit_orders (created_ms) WHERE seq IS NULL AND refused IS NULL;
CREATE TABLE alerts (
    scope TEXT NOT NULL, subject TEXT NOT NULL, period TEXT NOT NULL, start_ms INTEGER NOT NULL,
    threshold INTEGER NOT NULL, at_ms INTEGER NOT NULL,
    PRIMARY KEY (scope, subject, period, start_ms, threshold)
) STRICT, WITHOUT ROWID;
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, actor TEXT NOT NULL, event TEXT NOT NULL,
    object_id TEXT NOT NULL, project_id TEXT, before TEXT, after TEXT
) STRICT;
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT raise(ABORT, 'append only'); END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT raise(ABORT, 'append only'); END;
";

/// An alert without `next_ms` was told, or given up.
const THIRD: &str = "
ALTER TABLE alerts ADD COLUMN end_ms INTEGER;
ALTER TABLE alerts ADD COLUMN limit_picos INTEGER NOT NULL DEFAULT 0;
ALTER TABLE alerts ADD COLUMN spent_picos INTEGER NOT NULL DEFAULT 0;
ALTER TABLE alerts ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE alerts ADD COLUMN next_ms INTEGER;
ALTER TABLE alerts ADD COLUMN told_ms INTEGER;
CREATE INDEX alerts_due ON alerts (next_ms) WHERE next_ms IS NOT NULL;
";

pub(super) fn open(dir: &Path, pepper: &Pepper) -> Result<Connection, AccountsError> {
    // The command line and the server share the file.
    let mut db = sqlite::open(&dir.join("spillway.db"))?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = STEPS.len() as i64;
    let steps = usize::try_from(found).ok().and_then(|found| STEPS.get(found..));
    for step in steps.ok_or(AccountsError::Schema { found, known })? {
        tx.execute_batch(step)?;
    }
    if found != known {
        tx.pragma_update(None, "user_version", known)?;
    }
    check_pepper(&tx, dir, pepper)?;
    tx.commit()?;
    Ok(db)
}

/// Ties the database to its pepper: with another one every key would just be unknown, and nobody would know why.
fn check_pepper(db: &Connection, dir: &Path, pepper: &Pepper) -> Result<(), AccountsError> {
    let mac = pepper.mac("pepper check").to_vec();
    let stored: Option<Vec<u8>> =
        db.query_row("SELECT value FROM meta WHERE name = 'pepper'", [], |row| row.get(0)).optional()?;
    match stored {
        Some(stored) if stored != mac => {
            Err(AccountsError::WrongPepper { path: dir.join("pepper").display().to_string() })
        }
        Some(_) => Ok(()),
        None => {
            db.execute("INSERT INTO meta (name, value) VALUES ('pepper', ?1)", params![mac])?;
            Ok(())
        }
    }
}
