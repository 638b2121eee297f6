//! The audit log: append only.

use rusqlite::{Connection, Row, params};
use serde_json::Value;

use super::{Result, instant};
use crate::accounts::handle::By;
use crate::accounts::{AuditFilter, AuditRow};

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

/// Up to `limit` lines that pass the filter, the newest first.
pub(in crate::accounts) fn list(
    db: &Connection,
    filter: &AuditFilter,
    limit: usize,
) -> Result<Vec<AuditRow>> {
    // Lists travel as JSON; an empty one lets everything pass.
    let listed = |list: &[String]| (!list.is_empty()).then(|| Value::from(list.to_vec()).to_string());
    let bound = |ms: Option<u64>, open: i64| ms.map_or(open, |ms| i64::try_from(ms).unwrap_or(i64::MAX));
    // The lines just after a place are found from it upwards.
    let order = if filter.above.is_some() && filter.below.is_none() { "ASC" } else { "DESC" };
    let mut statement = db.prepare(&format!(
        "SELECT seq, at_ms, actor, event, object_id, project_id, before, after FROM audit
         WHERE seq < ?1 AND seq > ?2 AND at_ms >= ?3 AND at_ms < ?4
           AND (?5 IS NULL OR event IN (SELECT value FROM json_each(?5)))
           AND (?6 IS NULL OR actor IN (SELECT value FROM json_each(?6)))
           AND (?7 IS NULL OR project_id IN (SELECT value FROM json_each(?7)))
           AND (?8 IS NULL OR object_id IN (SELECT value FROM json_each(?8)))
         ORDER BY seq {order} LIMIT ?9"
    ))?;
    let values = params![
        filter.below.unwrap_or(i64::MAX),
        filter.above.unwrap_or(0),
        bound(filter.from_ms, 0),
        bound(filter.to_ms, i64::MAX),
        listed(&filter.events),
        listed(&filter.actors),
        listed(&filter.projects),
        listed(&filter.objects),
        limit
    ];
    let mut found = statement.query_map(values, row)?.collect::<rusqlite::Result<Vec<_>>>()?;
    found.sort_by_key(|line| std::cmp::Reverse(line.seq));
    Ok(found)
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
