//! Organisations and projects.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Value, json};

use super::audit::{Note, note};
use super::{Result, check_name, instant, limits, listed, strings, unknown};
use crate::accounts::handle::By;
use crate::accounts::{AccountsError, KeyLimits, OrgRow, ProjectRow, ProjectSettings, secret};
use crate::money::Picos;

/// The id of the project, made where it does not exist.
pub(in crate::accounts) fn ensure_project(
    db: &Connection,
    by: &By<'_>,
    org: &str,
    project: &str,
) -> Result<String> {
    check_name("organisation", org)?;
    check_name("project", project)?;
    let org_id = match org_by(db, "name", org)? {
        Some(org) => org.id,
        None => insert_org(db, by, org)?.id,
    };
    let sql = "SELECT id FROM projects WHERE org_id = ?1 AND name = ?2";
    if let Some(id) = db.query_row(sql, [&org_id, project], |row| row.get(0)).optional()? {
        return Ok(id);
    }
    Ok(insert_project(db, by, &org_id, project, &ProjectSettings::default())?.id)
}

pub(in crate::accounts) fn insert_org(db: &Connection, by: &By<'_>, name: &str) -> Result<OrgRow> {
    check_name("organisation", name)?;
    if org_by(db, "name", name)?.is_some() {
        return Err(AccountsError::Exists { what: "organisation", name: name.to_owned() });
    }
    let id = secret::new_id("org")?;
    let now = instant("now", by.now_ms)?;
    db.execute("INSERT INTO orgs (id, name, created_ms) VALUES (?1, ?2, ?3)", params![id, name, now])?;
    let made = org(db, &id)?;
    note(
        db,
        by,
        Note {
            event: "organization.created",
            object_id: &id,
            project_id: None,
            before: None,
            after: Some(org_json(&made)),
        },
    )?;
    Ok(made)
}

pub(in crate::accounts) fn insert_project(
    db: &Connection,
    by: &By<'_>,
    org_id: &str,
    name: &str,
    settings: &ProjectSettings,
) -> Result<ProjectRow> {
    check_name("project", name)?;
    let sql = "SELECT count(*) FROM projects WHERE org_id = ?1 AND name = ?2";
    if db.query_row(sql, [org_id, name], |row| row.get::<_, i64>(0))? > 0 {
        return Err(AccountsError::Exists { what: "project", name: name.to_owned() });
    }
    let id = secret::new_id("proj")?;
    db.execute(
        "INSERT INTO projects (id, org_id, name, created_ms, allowed_tiers, default_tier, allowed_models, store_responses)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            id,
            org_id,
            name,
            instant("now", by.now_ms)?,
            listed(settings.allowed_tiers.as_deref()),
            settings.default_tier,
            listed(settings.allowed_models.as_deref()),
            settings.store_responses.as_str()
        ],
    )?;
    let made = project(db, &id)?;
    note(
        db,
        by,
        Note {
            event: "project.created",
            object_id: &id,
            project_id: Some(&id),
            before: None,
            after: Some(project_json(&made)),
        },
    )?;
    Ok(made)
}

const ORGS: &str = "SELECT id, name, created_ms, disabled_ms, credit_line_picos FROM orgs";

fn org_row(row: &Row<'_>) -> rusqlite::Result<OrgRow> {
    Ok(OrgRow {
        id: row.get(0)?,
        name: row.get(1)?,
        created_ms: row.get(2)?,
        disabled_ms: row.get(3)?,
        credit_line: row.get::<_, Option<i64>>(4)?.map(Picos),
    })
}

/// `column` is `id` or `name`.
fn org_by(db: &Connection, column: &'static str, text: &str) -> Result<Option<OrgRow>> {
    Ok(db.query_row(&format!("{ORGS} WHERE {column} = ?1"), [text], org_row).optional()?)
}

/// The organisation with this id or name.
pub(in crate::accounts) fn org(db: &Connection, text: &str) -> Result<OrgRow> {
    let found = match org_by(db, "id", text)? {
        None => org_by(db, "name", text)?,
        found => found,
    };
    found.ok_or_else(|| unknown("organisation", text))
}

pub(in crate::accounts) fn list_orgs(db: &Connection) -> Result<Vec<OrgRow>> {
    let mut statement = db.prepare(&format!("{ORGS} ORDER BY created_ms, rowid"))?;
    let rows = statement.query_map([], org_row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Changes one column of an organisation.
fn update_org(
    db: &Connection,
    by: &By<'_>,
    text: &str,
    event: &'static str,
    (column, value): (&'static str, Option<i64>),
) -> Result<OrgRow> {
    let before = org(db, text)?;
    db.execute(&format!("UPDATE orgs SET {column} = ?2 WHERE id = ?1"), params![before.id, value])?;
    let after = org(db, &before.id)?;
    note(
        db,
        by,
        Note {
            event,
            object_id: &after.id,
            project_id: None,
            before: Some(org_json(&before)),
            after: Some(org_json(&after)),
        },
    )?;
    Ok(after)
}

pub(in crate::accounts) fn set_org_disabled(
    db: &Connection,
    by: &By<'_>,
    text: &str,
    disabled: bool,
) -> Result<OrgRow> {
    let at = if disabled { Some(instant("now", by.now_ms)?) } else { None };
    let event = if disabled { "organization.disabled" } else { "organization.enabled" };
    update_org(db, by, text, event, ("disabled_ms", at))
}

pub(in crate::accounts) fn set_credit_line(
    db: &Connection,
    by: &By<'_>,
    text: &str,
    line: Option<Picos>,
) -> Result<OrgRow> {
    if let Some(Picos(value)) = line.filter(|line| line.0 < 0) {
        return Err(AccountsError::Range { what: "credit line", value: value.into() });
    }
    update_org(db, by, text, "organization.credit_line.updated", ("credit_line_picos", line.map(|l| l.0)))
}

const PROJECTS: &str =
    "SELECT id, name, org_id, created_ms, archived_ms, requests_per_minute, tokens_per_minute, concurrency,
        allowed_tiers, default_tier, allowed_models, store_responses FROM projects";

/// Four setting columns from `first` on.
pub(in crate::accounts) fn settings(row: &Row<'_>, first: usize) -> rusqlite::Result<ProjectSettings> {
    let stored: String = row.get(first + 3)?;
    Ok(ProjectSettings {
        allowed_tiers: strings(row, first)?,
        default_tier: row.get(first + 1)?,
        allowed_models: strings(row, first + 2)?,
        // The column takes no other values than these.
        store_responses: stored.parse().unwrap_or_default(),
    })
}

fn project_row(row: &Row<'_>) -> rusqlite::Result<ProjectRow> {
    Ok(ProjectRow {
        id: row.get(0)?,
        name: row.get(1)?,
        org_id: row.get(2)?,
        created_ms: row.get(3)?,
        archived_ms: row.get(4)?,
        limits: limits(row, 5)?,
        settings: settings(row, 8)?,
    })
}

pub(in crate::accounts) fn project(db: &Connection, id: &str) -> Result<ProjectRow> {
    let found = db.query_row(&format!("{PROJECTS} WHERE id = ?1"), [id], project_row).optional()?;
    found.ok_or_else(|| unknown("project", id))
}

/// The project with this name.
pub(in crate::accounts) fn project_named(db: &Connection, org_text: &str, name: &str) -> Result<ProjectRow> {
    let org = org(db, org_text)?;
    let sql = format!("{PROJECTS} WHERE org_id = ?1 AND name = ?2");
    let found = db.query_row(&sql, [org.id.as_str(), name], project_row).optional()?;
    found.ok_or_else(|| unknown("project", name))
}

pub(in crate::accounts) fn list_projects(db: &Connection) -> Result<Vec<ProjectRow>> {
    let mut statement = db.prepare(&format!("{PROJECTS} ORDER BY created_ms, rowid"))?;
    let rows = statement.query_map([], project_row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Writes everything about a project that may change.
pub(in crate::accounts) fn update_project(
    db: &Connection,
    by: &By<'_>,
    new: &ProjectRow,
) -> Result<ProjectRow> {
    check_name("project", &new.name)?;
    let before = project(db, &new.id)?;
    let sql = "SELECT count(*) FROM projects WHERE org_id = ?1 AND name = ?2 AND id <> ?3";
    if db.query_row(sql, [&before.org_id, &new.name, &new.id], |row| row.get::<_, i64>(0))? > 0 {
        return Err(AccountsError::Exists { what: "project", name: new.name.clone() });
    }
    let KeyLimits { requests_per_minute, tokens_per_minute, concurrency } = new.limits;
    db.execute(
        "UPDATE projects SET name = ?2, archived_ms = ?3, requests_per_minute = ?4, tokens_per_minute = ?5,
             concurrency = ?6, allowed_tiers = ?7, default_tier = ?8, allowed_models = ?9, store_responses = ?10
         WHERE id = ?1",
        params![
            new.id,
            new.name,
            new.archived_ms,
            requests_per_minute,
            tokens_per_minute,
            concurrency,
            listed(new.settings.allowed_tiers.as_deref()),
            new.settings.default_tier,
            listed(new.settings.allowed_models.as_deref()),
            new.settings.store_responses.as_str()
        ],
    )?;
    let after = project(db, &new.id)?;
    let archived = after.archived_ms.is_some() && before.archived_ms.is_none();
    note(
        db,
        by,
        Note {
            event: if archived { "project.archived" } else { "project.updated" },
            object_id: &new.id,
            project_id: Some(&new.id),
            before: Some(project_json(&before)),
            after: Some(project_json(&after)),
        },
    )?;
    Ok(after)
}

fn org_json(org: &OrgRow) -> Value {
    json!({
        "id": org.id, "name": org.name, "disabled_ms": org.disabled_ms,
        "credit_line_usd": org.credit_line.map(Picos::to_usd),
    })
}

fn project_json(project: &ProjectRow) -> Value {
    let ProjectSettings { allowed_tiers, default_tier, allowed_models, store_responses } = &project.settings;
    json!({
        "id": project.id, "name": project.name, "organization_id": project.org_id, "archived_ms": project.archived_ms,
        "requests_per_minute": project.limits.requests_per_minute,
        "tokens_per_minute": project.limits.tokens_per_minute, "concurrency": project.limits.concurrency,
        "allowed_tiers": allowed_tiers, "default_tier": default_tier, "allowed_models": allowed_models,
        "store_responses": store_responses.as_str(),
    })
}
