//! Statements on the database. Every value is a bound parameter.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::secret::{self, Digest};
use super::{AccountsError, KeyLimits, KeyRow, MAX_NAME_CHARS, Names, NewKey};
use crate::money::Picos;

type Result<T> = std::result::Result<T, AccountsError>;

/// The id of the project, made where it does not exist.
pub(super) fn ensure_project(db: &Connection, org: &str, project: &str, now_ms: u64) -> Result<String> {
    check_name("organisation", org)?;
    check_name("project", project)?;
    let now = instant("now", now_ms)?;
    let org_id = match db
        .query_row("SELECT id FROM orgs WHERE name = ?1", [org], |row| row.get::<_, String>(0))
        .optional()?
    {
        Some(id) => id,
        None => {
            let id = secret::new_id("org")?;
            db.execute("INSERT INTO orgs (id, name, created_ms) VALUES (?1, ?2, ?3)", params![id, org, now])?;
            id
        }
    };
    let sql = "SELECT id FROM projects WHERE org_id = ?1 AND name = ?2";
    if let Some(id) = db.query_row(sql, [&org_id, project], |row| row.get(0)).optional()? {
        return Ok(id);
    }
    let id = secret::new_id("proj")?;
    db.execute(
        "INSERT INTO projects (id, org_id, name, created_ms) VALUES (?1, ?2, ?3, ?4)",
        params![id, org_id, project, now],
    )?;
    Ok(id)
}

pub(super) fn insert_key(
    db: &Connection,
    new: &NewKey,
    mac: &Digest,
    prefix: &str,
    now_ms: u64,
) -> Result<String> {
    check_name("key", &new.name)?;
    let project_id = ensure_project(db, &new.org, &new.project, now_ms)?;
    let id = secret::new_id("key")?;
    let budget = match new.budget {
        Some(Picos(value)) if value < 0 => {
            return Err(AccountsError::Range { what: "budget", value: value.into() });
        }
        budget => budget.map(|picos| picos.0),
    };
    let expires = new.expires_at_ms.map(|ms| instant("expiry", ms)).transpose()?;
    db.execute(
        "INSERT INTO keys (id, project_id, name, prefix, mac, requests_per_minute, tokens_per_minute, concurrency,
                           budget_picos, created_ms, expires_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            id,
            project_id,
            new.name,
            prefix,
            mac.as_slice(),
            new.limits.requests_per_minute,
            new.limits.tokens_per_minute,
            new.limits.concurrency,
            budget,
            instant("now", now_ms)?,
            expires
        ],
    )?;
    Ok(id)
}

const KEY_ROWS: &str =
    "SELECT k.id, k.name, k.prefix, o.name, p.name, k.created_ms, k.expires_ms, k.revoked_ms,
        k.budget_picos, k.requests_per_minute, k.tokens_per_minute, k.concurrency
 FROM keys k JOIN projects p ON p.id = k.project_id JOIN orgs o ON o.id = p.org_id";

pub(super) fn list_keys(db: &Connection) -> Result<Vec<KeyRow>> {
    let mut statement = db.prepare(&format!("{KEY_ROWS} ORDER BY k.created_ms, k.rowid"))?;
    let rows = statement.query_map([], key_row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn revoke_key(db: &Connection, text: &str, now_ms: u64) -> Result<KeyRow> {
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
    let (Some(mut row), true) = (found.pop(), count <= 1) else {
        let text = shorten(text);
        return Err(match count {
            0 => AccountsError::NoSuchKey(text),
            _ => AccountsError::Ambiguous { text, count },
        });
    };
    if row.revoked_ms.is_none() {
        let now = instant("now", now_ms)?;
        db.execute(
            "UPDATE keys SET revoked_ms = ?2 WHERE id = ?1 AND revoked_ms IS NULL",
            params![row.id, now],
        )?;
        row.revoked_ms = Some(now_ms);
    }
    Ok(row)
}

pub(super) fn set_org_disabled(db: &Connection, org: &str, disabled: bool, now_ms: u64) -> Result<()> {
    let at = if disabled { Some(instant("now", now_ms)?) } else { None };
    match db.execute("UPDATE orgs SET disabled_ms = ?2 WHERE name = ?1", params![org, at])? {
        0 => Err(AccountsError::NoSuchName { what: "organisation", name: shorten(org) }),
        _ => Ok(()),
    }
}

pub(super) fn set_project_limits(db: &Connection, org: &str, project: &str, limits: KeyLimits) -> Result<()> {
    let changed = db.execute(
        "UPDATE projects SET requests_per_minute = ?3, tokens_per_minute = ?4, concurrency = ?5
         WHERE name = ?2 AND org_id = (SELECT id FROM orgs WHERE name = ?1)",
        params![org, project, limits.requests_per_minute, limits.tokens_per_minute, limits.concurrency],
    )?;
    match changed {
        0 => Err(AccountsError::NoSuchName { what: "project", name: shorten(project) }),
        _ => Ok(()),
    }
}

pub(super) fn names(db: &Connection) -> Result<Names> {
    let mut statement = db.prepare(
        "SELECT id, name FROM orgs UNION ALL SELECT id, name FROM projects UNION ALL SELECT id, name FROM keys",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Names(rows.collect::<rusqlite::Result<_>>()?))
}

fn key_row(row: &Row<'_>) -> rusqlite::Result<KeyRow> {
    Ok(KeyRow {
        id: row.get(0)?,
        name: row.get(1)?,
        prefix: row.get(2)?,
        org: row.get(3)?,
        project: row.get(4)?,
        created_ms: row.get(5)?,
        expires_ms: row.get(6)?,
        revoked_ms: row.get(7)?,
        budget: row.get::<_, Option<i64>>(8)?.map(Picos),
        limits: limits(row, 9)?,
    })
}

/// Three limit columns from `first` on.
pub(super) fn limits(row: &Row<'_>, first: usize) -> rusqlite::Result<KeyLimits> {
    Ok(KeyLimits {
        requests_per_minute: row.get(first)?,
        tokens_per_minute: row.get(first + 1)?,
        concurrency: row.get(first + 2)?,
    })
}

fn check_name(what: &'static str, name: &str) -> Result<()> {
    let fits = !name.is_empty()
        && name.chars().take(MAX_NAME_CHARS + 1).count() <= MAX_NAME_CHARS
        && name.trim() == name
        && !name.chars().any(|c| c.is_control() || c == '/');
    if fits { Ok(()) } else { Err(AccountsError::Name { what, name: shorten(name) }) }
}

fn instant(what: &'static str, ms: u64) -> Result<i64> {
    i64::try_from(ms).map_err(|_| AccountsError::Range { what, value: ms.into() })
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}
