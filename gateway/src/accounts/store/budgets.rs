//! Budgets made by command or API; those of the configuration are not in the database.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

use super::audit::{Note, note};
use super::{Result, unknown};
use crate::accounts::AccountsError;
use crate::accounts::budgets::Budget;
use crate::accounts::handle::By;
use crate::config::{BudgetPeriod, BudgetScope};
use crate::money::Picos;

/// Makes a budget or changes its limit.
pub(in crate::accounts) fn set_budget(db: &Connection, by: &By<'_>, budget: &Budget) -> Result<()> {
    let Budget { scope, id, period, limit } = budget;
    if limit.0 < 0 {
        return Err(AccountsError::Range { what: "budget", value: limit.0.into() });
    }
    check_subject(db, *scope, id)?;
    let before = limit_of(db, *scope, id, *period)?;
    db.execute(
        "INSERT INTO budgets (scope, subject, period, limit_picos) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (scope, subject, period) DO UPDATE SET limit_picos = ?4",
        params![scope.as_str(), id, period.as_str(), limit.0],
    )?;
    let event = if before.is_some() { "budget.updated" } else { "budget.created" };
    let before = before.map(|limit| budget_json(&Budget { limit, ..budget.clone() }));
    note(db, by, Note { event, object_id: id, project_id: None, before, after: Some(budget_json(budget)) })
}

/// Removes a budget.
pub(in crate::accounts) fn remove_budget(
    db: &Connection,
    by: &By<'_>,
    scope: BudgetScope,
    id: &str,
    period: BudgetPeriod,
) -> Result<()> {
    let limit = limit_of(db, scope, id, period)?;
    let limit = limit.ok_or_else(|| unknown("budget", &format!("{scope} {id} {period}")))?;
    db.execute(
        "DELETE FROM budgets WHERE scope = ?1 AND subject = ?2 AND period = ?3",
        [scope.as_str(), id, period.as_str()],
    )?;
    let before = Some(budget_json(&Budget { scope, id: id.to_owned(), period, limit }));
    note(db, by, Note { event: "budget.deleted", object_id: id, project_id: None, before, after: None })
}

/// All budgets in the database, in a fixed order.
pub(in crate::accounts) fn list_budgets(db: &Connection) -> Result<Vec<Budget>> {
    let mut statement = db.prepare_cached(
        "SELECT scope, subject, period, limit_picos FROM budgets ORDER BY scope, subject, period",
    )?;
    let rows = statement.query_map([], |row| {
        let (scope, id, period, limit): (String, String, String, i64) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        Ok((scope, id, period, Picos(limit)))
    })?;
    let mut budgets = Vec::new();
    for row in rows {
        let (scope, id, period, limit) = row?;
        let setting = |message| AccountsError::Setting { what: "budgets", message };
        let (scope, period) = (scope.parse().map_err(setting)?, period.parse().map_err(setting)?);
        budgets.push(Budget { scope, id, period, limit });
    }
    Ok(budgets)
}

fn limit_of(db: &Connection, scope: BudgetScope, id: &str, period: BudgetPeriod) -> Result<Option<Picos>> {
    let sql = "SELECT limit_picos FROM budgets WHERE scope = ?1 AND subject = ?2 AND period = ?3";
    let found = db.query_row(sql, [scope.as_str(), id, period.as_str()], |row| row.get(0).map(Picos));
    Ok(found.optional()?)
}

/// The account must exist; end users and tags need no more than their organisation.
fn check_subject(db: &Connection, scope: BudgetScope, id: &str) -> Result<()> {
    let (table, key, rest) = match scope {
        BudgetScope::Key => ("keys", id, None),
        BudgetScope::Project => ("projects", id, None),
        BudgetScope::Organisation => ("orgs", id, None),
        BudgetScope::User | BudgetScope::Tag => {
            let (org, rest) = id.split_once('/').unwrap_or((id, ""));
            ("orgs", org, Some(rest))
        }
    };
    let what = match table {
        "keys" => "key",
        "projects" => "project",
        _ => "organisation",
    };
    let sql = format!("SELECT count(*) FROM {table} WHERE id = ?1");
    if db.query_row(&sql, [key], |row| row.get::<_, i64>(0))? == 0 {
        return Err(unknown(what, key));
    }
    let fits = match (scope, rest) {
        (BudgetScope::Tag, Some(tag)) => tag.split_once('=').is_some_and(|(key, _)| !key.is_empty()),
        (_, Some(user)) => !user.is_empty(),
        (_, None) => true,
    };
    if fits {
        return Ok(());
    }
    let message = format!("{id:?} must be ORGANISATION_ID/USER, or ORGANISATION_ID/KEY=VALUE for a tag");
    Err(AccountsError::Setting { what: "budget", message })
}

fn budget_json(budget: &Budget) -> Value {
    let Budget { scope, id, period, limit } = budget;
    json!({"scope": scope.as_str(), "subject": id, "period": period.as_str(), "limit_usd": limit.to_usd()})
}
