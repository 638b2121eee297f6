//! Opening the database file.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::AccountsError;
use super::secret::Pepper;
use crate::sqlite;

const VERSION: i64 = 1;

const TABLES: &str = "
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

pub(super) fn open(dir: &Path, pepper: &Pepper) -> Result<Connection, AccountsError> {
    // The command line and the server share the file.
    let mut db = sqlite::open(&dir.join("spillway.db"))?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found == 0 {
        tx.execute_batch(TABLES)?;
        tx.pragma_update(None, "user_version", VERSION)?;
    } else if found != VERSION {
        return Err(AccountsError::Schema { found, known: VERSION });
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
