//! Opening the database file.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::BatchError;
use crate::sqlite;

const VERSION: i64 = 1;

/// A batch's numbers stand beside its object, because they change with every line. `waiting_tokens` is an estimate.
const TABLES: &str = "
CREATE TABLE batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, org_id TEXT NOT NULL, project_id TEXT NOT NULL,
    unfinished INTEGER NOT NULL, created_ms INTEGER NOT NULL, object TEXT NOT NULL,
    total INTEGER NOT NULL DEFAULT 0, completed INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
    uncached_input INTEGER NOT NULL DEFAULT 0, cached_input INTEGER NOT NULL DEFAULT 0,
    output INTEGER NOT NULL DEFAULT 0, cost_picos INTEGER NOT NULL DEFAULT 0,
    waiting_tokens INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX batches_of_project ON batches (project_id, seq);
CREATE INDEX batches_unfinished ON batches (org_id) WHERE unfinished;
CREATE TABLE lines (
    batch_id TEXT NOT NULL, n INTEGER NOT NULL, custom_id TEXT NOT NULL, start INTEGER NOT NULL,
    length INTEGER NOT NULL, tokens INTEGER NOT NULL, request_id TEXT, ok INTEGER,
    uncached_input INTEGER, cached_input INTEGER, output INTEGER, answer TEXT,
    UNIQUE (batch_id, n), UNIQUE (batch_id, custom_id),
    CHECK ((request_id IS NULL) = (ok IS NULL) AND (ok IS NULL) = (answer IS NULL))
) STRICT;
CREATE INDEX lines_waiting ON lines (batch_id, n) WHERE request_id IS NULL;
CREATE UNIQUE INDEX lines_by_request ON lines (request_id) WHERE request_id IS NOT NULL;
";

pub(super) fn open(dir: &Path) -> Result<Connection, BatchError> {
    let mut db = sqlite::open(&dir.join("batches.db"))?;
    // An answer must be durable before its bill is.
    db.pragma_update(None, "synchronous", "FULL")?;
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    sqlite::make(&tx, TABLES, VERSION)?.map_err(|found| BatchError::Schema { found, known: VERSION })?;
    tx.commit()?;
    Ok(db)
}
