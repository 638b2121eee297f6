//! Opening the database file.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::FileError;
use crate::sqlite;

const VERSION: i64 = 1;

/// `orgs` is kept by triggers: what an organisation uses is known without adding it up.
const TABLES: &str = "
CREATE TABLE files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, org_id TEXT NOT NULL, project_id TEXT NOT NULL,
    purpose TEXT NOT NULL, name TEXT NOT NULL, bytes INTEGER NOT NULL, created_ms INTEGER NOT NULL, expires_ms INTEGER
) STRICT;
CREATE INDEX files_of_project ON files (project_id, seq);
CREATE INDEX files_by_expiry ON files (expires_ms) WHERE expires_ms IS NOT NULL;
CREATE TABLE orgs (
    org_id TEXT PRIMARY KEY, files INTEGER NOT NULL, bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER file_added AFTER INSERT ON files BEGIN
    INSERT INTO orgs (org_id, files, bytes) VALUES (new.org_id, 1, new.bytes)
    ON CONFLICT (org_id) DO UPDATE SET files = files + 1, bytes = bytes + new.bytes;
END;
CREATE TRIGGER file_removed AFTER DELETE ON files BEGIN
    UPDATE orgs SET files = files - 1, bytes = bytes - old.bytes WHERE org_id = old.org_id;
END;
";

pub(super) fn open(dir: &Path) -> Result<Connection, FileError> {
    let mut db = sqlite::open(&dir.join("files.db"))?;
    db.pragma_update(None, "synchronous", "FULL")?;
    // What replaces a row removes it first, and the triggers must hear of it.
    db.pragma_update(None, "recursive_triggers", true)?;
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    sqlite::make(&tx, TABLES, VERSION)?.map_err(|found| FileError::Schema { found, known: VERSION })?;
    tx.commit()?;
    Ok(db)
}
