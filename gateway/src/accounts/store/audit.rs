//! The audit log: append only.

use rusqlite::{Connection, Row, params};
use serde_json::Value;

use super::{Result, instant};
use crate::accounts::AuditRow;
use crate::accounts::handle::By;

/// What is noted about a change.
pub(in crate::accounts) struct Note<'a> {
    pub(in crate::accounts) event: &'static str,
    pub(in crate::accounts) object_id: &'a str,
    pub(in crate::accounts) project_id: Option<&'a str>,
    pub(in crate::accounts) before: Option<Value>,
    pub(in crate::accounts) after: Option<Value>,
}

/// Adds a line, in the transaction of the change itself.
pub(in crate::accounts) fn note(db: &Connection, by: &By<'_>, note: Note<'_>) -> Result<()> {
    let text = |value: Option<Value>| value.map(|value| value.to_string());
    db.execute(
        "INSERT INTO audit (at_ms, actor, event, object_id, project_id, before, after)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            instant("now", by.now_ms)?,
            by.actor,
            note.event,
            note.object_id,
            note.project_id,
            text(note.before),
            text(note.after)
        ],
    )?;
    Ok(())
}

/// Up to `limit` lines, the newest first, older than line `before`.
pub(in crate::accounts) fn list(db: &Connection, before: i64, limit: usize) -> Result<Vec<AuditRow>> {
    let mut statement = db.prepare(
        "SELECT seq, at_ms, actor, event, object_id, project_id, before, after FROM audit WHERE seq < ?1
         ORDER BY seq DESC LIMIT ?2",
    )?;
    let rows = statement.query_map(params![before, limit], row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn row(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    Ok(AuditRow {
        seq: row.get(0)?,
        at_ms: row.get(1)?,
        actor: row.get(2)?,
        event: row.get(3)?,
        object_id: row.get(4)?,
        project_id: row.get(5)?,
        before: row.get(6)?,
        after: row.get(7)?,
    })
}
