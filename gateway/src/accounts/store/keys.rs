//! Keys of customers.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Value, json};

use super::audit::{Note, note};
use super::budgets::set_budget;
use super::orgs::ensure_project;
use super::{Result, check_name, instant, limits, list, listed, shorten, strings};
use crate::accounts::budgets::Budget;
use crate::accounts::handle::By;
use crate::accounts::secret::{self, Digest};
use crate::accounts::{AccountsError, KeyRow, NewKey};
use crate::config::BudgetScope;

pub(in crate::accounts) fn insert_key(
    db: &Connection,
    by: &By<'_>,
    new: &NewKey,
    mac: &Digest,
    prefix: &str,
) -> Result<String> {
    check_name("key", &new.name)?;
    let project_id = ensure_project(db, by, &new.org, &new.project)?;
    let id = secret::new_id("key")?;
    let expires = new.expires_at_ms.map(|ms| instant("expiry", ms)).transpose()?;
    let ips = (!new.allowed_ips.is_empty()).then_some(new.allowed_ips.as_slice());
    db.execute(
        "INSERT INTO keys (id, project_id, name, prefix, mac, requests_per_minute, tokens_per_minute, concurrency,
                           created_ms, expires_ms, permissions, allowed_models, allowed_ips)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        params![
            id,
            project_id,
            new.name,
            prefix,
            mac.as_slice(),
            new.limits.requests_per_minute,
            new.limits.tokens_per_minute,
            new.limits.concurrency,
            instant("now", by.now_ms)?,
            expires,
            listed(new.permissions.as_deref()),
            listed(new.allowed_models.as_deref()),
            listed(ips),
        ],
    )?;
    let made = key(db, &id)?;
    note(
        db,
        by,
        Note {
            event: "api_key.created",
            object_id: &id,
            project_id: Some(&project_id),
            before: None,
            after: Some(key_json(&made)),
        },
    )?;
    for allowance in &new.budgets {
        let (id, period, limit) = (id.clone(), allowance.period, allowance.limit);
        set_budget(db, by, &Budget { scope: BudgetScope::Key, id, period, limit })?;
    }
    Ok(id)
}

const KEY_ROWS: &str =
    "SELECT k.id, k.name, k.prefix, o.name, p.name, k.project_id, k.created_ms, k.expires_ms, k.revoked_ms,
        k.last_used_ms, k.requests_per_minute, k.tokens_per_minute, k.concurrency, k.permissions, k.allowed_models,
        k.allowed_ips
 FROM keys k JOIN projects p ON p.id = k.project_id JOIN orgs o ON o.id = p.org_id";

fn key_row(row: &Row<'_>) -> rusqlite::Result<KeyRow> {
    Ok(KeyRow {
        id: row.get(0)?,
        name: row.get(1)?,
        prefix: row.get(2)?,
        org: row.get(3)?,
        project: row.get(4)?,
        project_id: row.get(5)?,
        created_ms: row.get(6)?,
        expires_ms: row.get(7)?,
        revoked_ms: row.get(8)?,
        last_used_ms: row.get(9)?,
        limits: limits(row, 10)?,
        permissions: list(row, 13)?,
        allowed_models: strings(row, 14)?,
        allowed_ips: list(row, 15)?.unwrap_or_default(),
    })
}

pub(in crate::accounts) fn list_keys(db: &Connection) -> Result<Vec<KeyRow>> {
    let mut statement = db.prepare(&format!("{KEY_ROWS} ORDER BY k.created_ms, k.rowid"))?;
    let rows = statement.query_map([], key_row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(in crate::accounts) fn key(db: &Connection, id: &str) -> Result<KeyRow> {
    let found = db.query_row(&format!("{KEY_ROWS} WHERE k.id = ?1"), [id], key_row).optional()?;
    found.ok_or_else(|| AccountsError::NoSuchKey(shorten(id)))
}

pub(in crate::accounts) fn revoke_key(db: &Connection, by: &By<'_>, text: &str) -> Result<KeyRow> {
    let mut found = Vec::new();
    // An id is exact; a name or prefix is looked for among working keys only, so that old ones don't stand in the way.
    for condition in ["k.id = ?1", "(k.name = ?1 OR k.prefix = ?1) AND k.revoked_ms IS NULL"] {
        let mut statement = db.prepare(&format!("{KEY_ROWS} WHERE {condition}"))?;
        found = statement.query_map([text], key_row)?.collect::<rusqlite::Result<Vec<_>>>()?;
        if !found.is_empty() {
            break;
        }
    }
    let count = found.len();
    let (Some(before), true) = (found.pop(), count <= 1) else {
        let text = shorten(text);
        return Err(match count {
            0 => AccountsError::NoSuchKey(text),
            _ => AccountsError::Ambiguous { text, count },
        });
    };
    if before.revoked_ms.is_some() {
        return Ok(before);
    }
    db.execute(
        "UPDATE keys SET revoked_ms = ?2 WHERE id = ?1 AND revoked_ms IS NULL",
        params![before.id, instant("now", by.now_ms)?],
    )?;
    let after = key(db, &before.id)?;
    note(
        db,
        by,
        Note {
            event: "api_key.deleted",
            object_id: &after.id,
            project_id: Some(&after.project_id),
            before: Some(key_json(&before)),
            after: Some(key_json(&after)),
        },
    )?;
    Ok(after)
}

/// Writes everything about a key that may change; its name, limits, rights and lists.
pub(in crate::accounts) fn update_key(db: &Connection, by: &By<'_>, new: &KeyRow) -> Result<KeyRow> {
    check_name("key", &new.name)?;
    let before = key(db, &new.id)?;
    let ips = (!new.allowed_ips.is_empty()).then_some(new.allowed_ips.as_slice());
    db.execute(
        "UPDATE keys SET name = ?2, requests_per_minute = ?3, tokens_per_minute = ?4, concurrency = ?5,
             permissions = ?6, allowed_models = ?7, allowed_ips = ?8, expires_ms = ?9 WHERE id = ?1",
        params![
            new.id,
            new.name,
            new.limits.requests_per_minute,
            new.limits.tokens_per_minute,
            new.limits.concurrency,
            listed(new.permissions.as_deref()),
            listed(new.allowed_models.as_deref()),
            listed(ips),
            new.expires_ms.map(|ms| instant("expiry", ms)).transpose()?,
        ],
    )?;
    let after = key(db, &new.id)?;
    note(
        db,
        by,
        Note {
            event: "api_key.updated",
            object_id: &after.id,
            project_id: Some(&after.project_id),
            before: Some(key_json(&before)),
            after: Some(key_json(&after)),
        },
    )?;
    Ok(after)
}

fn key_json(key: &KeyRow) -> Value {
    let texts = |list: &[String]| list.to_vec();
    json!({
        "id": key.id, "name": key.name, "prefix": key.prefix, "project_id": key.project_id,
        "expires_ms": key.expires_ms, "revoked_ms": key.revoked_ms,
        "requests_per_minute": key.limits.requests_per_minute, "tokens_per_minute": key.limits.tokens_per_minute,
        "concurrency": key.limits.concurrency,
        "permissions": key.permissions.as_ref().map(|list| list.iter().map(|p| p.as_str()).collect::<Vec<_>>()),
        "allowed_models": key.allowed_models.as_deref().map(texts),
        "allowed_ips": key.allowed_ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
