//! Orders to change a balance. Whoever has the ledger open posts them; the order's id makes sure that it happens once.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Value, json};

use super::audit::{Note, note};
use super::orgs::org;
use super::{Result, instant, unknown};
use crate::accounts::handle::By;
use crate::accounts::{AccountsError, CreditOrder, NewCredit, secret};
use crate::money::Picos;

/// Longest note, in bytes.
const MAX_NOTE: usize = 512;

const ROWS: &str = "SELECT id, org_id, kind, amount_picos, expires_ms, note, actor, created_ms, refused, seq FROM credit_orders";

fn row(row: &Row<'_>) -> rusqlite::Result<CreditOrder> {
    let kind: String = row.get(2)?;
    let parse = |error: String| {
        rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, error.into())
    };
    Ok(CreditOrder {
        id: row.get(0)?,
        org_id: row.get(1)?,
        kind: kind.parse().map_err(parse)?,
        amount: Picos(row.get(3)?),
        expires_ms: row.get(4)?,
        note: row.get(5)?,
        actor: row.get(6)?,
        created_ms: row.get(7)?,
        refused: row.get(8)?,
        seq: row.get(9)?,
    })
}

/// Adds an order; one of the same id is given back as it is.
pub(in crate::accounts) fn insert(db: &Connection, by: &By<'_>, new: &NewCredit) -> Result<CreditOrder> {
    let org = org(db, &new.org)?;
    if new.note.len() > MAX_NOTE || new.note.chars().any(char::is_control) {
        let message = format!("must be at most {MAX_NOTE} bytes without control characters");
        return Err(AccountsError::Setting { what: "note", message });
    }
    let id = match &new.id {
        Some(id) => id.clone(),
        None => secret::new_id("cred")?,
    };
    if let Some(found) = find(db, &id)? {
        return Ok(found);
    }
    db.execute(
        "INSERT INTO credit_orders (id, org_id, kind, amount_picos, expires_ms, note, actor, created_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            id,
            org.id,
            new.kind.as_str(),
            new.amount.0,
            new.expires_ms.map(|ms| instant("expiry", ms)).transpose()?,
            new.note,
            by.actor,
            instant("now", by.now_ms)?
        ],
    )?;
    let made = get(db, &id)?;
    let after = Some(order_json(&made));
    note(db, by, Note { event: "credit.created", object_id: &id, project_id: None, before: None, after })?;
    Ok(made)
}

fn find(db: &Connection, id: &str) -> Result<Option<CreditOrder>> {
    Ok(db.query_row(&format!("{ROWS} WHERE id = ?1"), [id], row).optional()?)
}

/// The order with this id.
pub(in crate::accounts) fn get(db: &Connection, id: &str) -> Result<CreditOrder> {
    find(db, id)?.ok_or_else(|| unknown("credit", id))
}

/// Orders that are neither posted nor refused, oldest first.
pub(in crate::accounts) fn waiting(db: &Connection) -> Result<Vec<CreditOrder>> {
    let sql = format!("{ROWS} WHERE seq IS NULL AND refused IS NULL ORDER BY created_ms, rowid");
    let mut statement = db.prepare_cached(&sql)?;
    let rows = statement.query_map([], row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// All orders of an organisation, oldest first.
pub(in crate::accounts) fn of_org(db: &Connection, org_id: &str) -> Result<Vec<CreditOrder>> {
    let mut statement = db.prepare(&format!("{ROWS} WHERE org_id = ?1 ORDER BY created_ms, rowid"))?;
    let rows = statement.query_map([org_id], row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Notes the row that posted the order, or why the ledger refused it.
pub(in crate::accounts) fn finish(
    db: &Connection,
    id: &str,
    outcome: std::result::Result<i64, &str>,
) -> Result<()> {
    let (seq, refused) = (outcome.ok(), outcome.err());
    db.execute(
        "UPDATE credit_orders SET seq = ?2, refused = ?3 WHERE id = ?1 AND seq IS NULL AND refused IS NULL",
        params![id, seq, refused],
    )?;
    Ok(())
}

fn order_json(order: &CreditOrder) -> Value {
    json!({
        "id": order.id, "organization_id": order.org_id, "kind": order.kind.as_str(),
        "amount_usd": order.amount.to_usd(), "expires_ms": order.expires_ms, "note": order.note,
    })
}
