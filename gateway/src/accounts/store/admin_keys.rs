//! Keys of the operator, for the admin listener.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Value, json};

use super::audit::{Note, note};
use super::{Result, check_name, instant, unknown};
use crate::accounts::AdminKeyRow;
use crate::accounts::handle::By;
use crate::accounts::secret::{self, Digest};

pub(in crate::accounts) fn insert(
    db: &Connection,
    by: &By<'_>,
    name: &str,
    mac: &Digest,
    prefix: &str,
) -> Result<AdminKeyRow> {
    check_name("key", name)?;
    let id = secret::new_id("adm")?;
    db.execute(
        "INSERT INTO admin_keys (id, name, prefix, mac, created_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![id, name, prefix, mac.as_slice(), instant("now", by.now_ms)?],
    )?;
    let made = get(db, &id)?;
    note(
        db,
        by,
        Note {
            event: "admin_api_key.created",
            object_id: &id,
            project_id: None,
            before: None,
            after: Some(row_json(&made)),
        },
    )?;
    Ok(made)
}

const ROWS: &str =
    "SELECT id, name, prefix, created_ms, last_used_ms FROM admin_keys WHERE revoked_ms IS NULL";

fn row(row: &Row<'_>) -> rusqlite::Result<AdminKeyRow> {
    Ok(AdminKeyRow {
        id: row.get(0)?,
        name: row.get(1)?,
        prefix: row.get(2)?,
        created_ms: row.get(3)?,
        last_used_ms: row.get(4)?,
    })
}

/// Keys that work, oldest first.
pub(in crate::accounts) fn list(db: &Connection) -> Result<Vec<AdminKeyRow>> {
    let mut statement = db.prepare(&format!("{ROWS} ORDER BY created_ms, rowid"))?;
    let rows = statement.query_map([], row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The working key with this id.
pub(in crate::accounts) fn get(db: &Connection, id: &str) -> Result<AdminKeyRow> {
    let found = db.query_row(&format!("{ROWS} AND id = ?1"), [id], row).optional()?;
    found.ok_or_else(|| unknown("admin key", id))
}

/// Makes a working key useless.
pub(in crate::accounts) fn revoke(db: &Connection, by: &By<'_>, id: &str) -> Result<AdminKeyRow> {
    let before = get(db, id)?;
    let now = instant("now", by.now_ms)?;
    db.execute("UPDATE admin_keys SET revoked_ms = ?2 WHERE id = ?1", params![id, now])?;
    note(
        db,
        by,
        Note {
            event: "admin_api_key.deleted",
            object_id: id,
            project_id: None,
            before: Some(row_json(&before)),
            after: None,
        },
    )?;
    Ok(before)
}

/// The working key with this keyed hash.
pub(in crate::accounts) fn find(db: &Connection, mac: &Digest) -> Result<Option<AdminKeyRow>> {
    let mut statement = db.prepare_cached(&format!("{ROWS} AND mac = ?1"))?;
    Ok(statement.query_row([mac.as_slice()], row).optional()?)
}

fn row_json(key: &AdminKeyRow) -> Value {
    json!({"id": key.id, "name": key.name, "prefix": key.prefix})
}
