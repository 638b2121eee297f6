//! Statements on the database. Every value is a bound parameter.

pub(super) mod admin_keys;
pub(super) mod audit;
pub(super) mod budgets;
pub(super) mod credits;
pub(super) mod keys;
pub(super) mod orgs;
pub(super) mod prices;

use std::fmt::Display;
use std::str::FromStr;

use rusqlite::types::Type;
use rusqlite::{Connection, Row};

use super::{AccountsError, KeyLimits, MAX_NAME_CHARS, Names};

type Result<T> = std::result::Result<T, AccountsError>;

/// Names of every organisation, project and key by id.
pub(super) fn names(db: &Connection) -> Result<Names> {
    let mut statement = db.prepare(
        "SELECT id, name FROM orgs UNION ALL SELECT id, name FROM projects UNION ALL SELECT id, name FROM keys",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Names(rows.collect::<rusqlite::Result<_>>()?))
}

/// Three limit columns from `first` on.
pub(super) fn limits(row: &Row<'_>, first: usize) -> rusqlite::Result<KeyLimits> {
    Ok(KeyLimits {
        requests_per_minute: row.get(first)?,
        tokens_per_minute: row.get(first + 1)?,
        concurrency: row.get(first + 2)?,
    })
}

/// A column with a list: a JSON array of strings; NULL is `None`.
pub(super) fn list<T: FromStr<Err = String>>(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Vec<T>>> {
    let Some(text) = row.get::<_, Option<String>>(at)? else { return Ok(None) };
    let refused = |error: Box<dyn std::error::Error + Send + Sync>| {
        rusqlite::Error::FromSqlConversionFailure(at, Type::Text, error)
    };
    let texts: Vec<String> = serde_json::from_str(&text).map_err(|error| refused(error.into()))?;
    texts
        .iter()
        .map(|text| text.parse().map_err(|error: String| refused(error.into())))
        .collect::<rusqlite::Result<_>>()
        .map(Some)
}

/// A list of plain strings.
pub(super) fn strings(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Vec<String>>> {
    Ok(list::<Text>(row, at)?.map(|texts| texts.into_iter().map(|text| text.0).collect()))
}

struct Text(String);

impl FromStr for Text {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Ok(Self(text.to_owned()))
    }
}

/// A list as its column.
fn listed<T: Display>(list: Option<&[T]>) -> Option<String> {
    let texts: Vec<String> = list?.iter().map(T::to_string).collect();
    Some(serde_json::Value::from(texts).to_string())
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

fn unknown(what: &'static str, name: &str) -> AccountsError {
    AccountsError::NoSuchName { what, name: shorten(name) }
}
