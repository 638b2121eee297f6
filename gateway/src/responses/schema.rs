//! Opening the database file.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior, params};
use serde_json::{Value, json};

use super::StoreError;
use crate::config::make_private_dir;
use crate::sqlite;

const VERSION: i64 = 1;

/// `orgs` is kept by triggers: what an organisation uses is known without adding it up.
const TABLES: &str = "
CREATE TABLE responses (
    id TEXT PRIMARY KEY, org_id TEXT NOT NULL, previous_id TEXT, status TEXT NOT NULL, background INTEGER NOT NULL,
    created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, bytes INTEGER NOT NULL,
    response TEXT NOT NULL, input TEXT NOT NULL, events TEXT NOT NULL
) STRICT;
CREATE INDEX responses_by_age ON responses (org_id, created_ms);
CREATE INDEX responses_by_expiry ON responses (expires_ms);
CREATE INDEX responses_unfinished ON responses (status) WHERE status IN ('queued', 'in_progress');
CREATE TABLE orgs (org_id TEXT PRIMARY KEY, bytes INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TRIGGER responses_added AFTER INSERT ON responses BEGIN
    INSERT INTO orgs (org_id, bytes) VALUES (new.org_id, new.bytes)
    ON CONFLICT (org_id) DO UPDATE SET bytes = bytes + new.bytes;
END;
CREATE TRIGGER responses_removed AFTER DELETE ON responses BEGIN
    UPDATE orgs SET bytes = bytes - old.bytes WHERE org_id = old.org_id;
END;
";

pub(super) fn open(dir: &Path) -> Result<Connection, StoreError> {
    make_private_dir(dir).map_err(|source| StoreError::Io { path: dir.display().to_string(), source })?;
    let mut db = sqlite::open(&dir.join("responses.db"))?;
    // A crash of the process loses nothing, a crash of the machine the last moments; no money hangs on them.
    db.pragma_update(None, "synchronous", "NORMAL")?;
    // What replaces a row removes it first, and the triggers must hear of it.
    db.pragma_update(None, "recursive_triggers", true)?;
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    sqlite::make(&tx, TABLES, VERSION)?.map_err(|found| StoreError::Schema { found, known: VERSION })?;
    tx.commit()?;
    Ok(db)
}

/// Nobody goes on with what another process has begun.
pub(super) fn fail_unfinished(db: &Connection, now_ms: u64) -> Result<(), StoreError> {
    let mut statement =
        db.prepare("SELECT id, response FROM responses WHERE status IN ('queued', 'in_progress')")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    for (id, text) in rows.collect::<rusqlite::Result<Vec<_>>>()? {
        let damaged = |source| StoreError::Damaged { id: id.clone(), source };
        let mut response: Value = serde_json::from_str(&text).map_err(damaged)?;
        interrupted(&mut response, now_ms);
        db.execute(
            "UPDATE responses SET status = 'failed', response = ?2 WHERE id = ?1",
            params![id, response.to_string()],
        )?;
    }
    Ok(())
}

/// Marks an answer as failed because its process ended.
pub(super) fn interrupted(response: &mut Value, now_ms: u64) {
    response["status"] = "failed".into();
    response["error"] = json!({
        "code": "server_error",
        "message": "The server stopped while it was working on this response. Nothing was charged. Create it again.",
    });
    response["completed_at"] = (now_ms / 1_000).into();
}
