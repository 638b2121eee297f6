//! Reading rows, by the writer at its start and by reports while a server writes.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use rusqlite::types::Type;
use rusqlite::{Connection, OpenFlags, Row};

use super::details::{Details, Tags};
use super::period::Period;
use super::row::{Counted, Facts, Transfer};
use super::schema;
use super::types::{LedgerError, Pace};
use crate::money::{Cost, Picos, PriceVersion, Tokens};
use crate::sqlite;

/// The ledger's file in a data directory.
pub(super) const FILE: &str = "ledger.db";

/// A connection that cannot write, inside one transaction: it sees one commit's state throughout.
pub(super) fn open(dir: &Path) -> Result<Connection, LedgerError> {
    let path = dir.join(FILE);
    if !path.exists() {
        return Err(LedgerError::Missing(path.display().to_string()));
    }
    let db = Connection::open_with_flags(
        &path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    db.busy_timeout(sqlite::BUSY)?;
    check_version(&db)?;
    db.execute_batch("BEGIN")?;
    Ok(db)
}

pub(super) fn check_version(db: &Connection) -> Result<(), LedgerError> {
    match version(db)? {
        schema::VERSION => Ok(()),
        found => Err(LedgerError::Schema { found, known: schema::VERSION }),
    }
}

pub(super) fn version(db: &Connection) -> rusqlite::Result<i64> {
    db.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// The rows of a period.
pub(super) struct Span {
    /// First of them.
    pub(super) first: i64,
    /// Last of them; below `first` where there are none.
    pub(super) last: i64,
    /// No row can be added to the period any more: a row outside it is there already, and time never runs backwards.
    pub(super) is_final: bool,
}

/// Rows are in the order of their instants, so their numbers are a period's bounds: found by bisection, without an index.
pub(super) fn span(db: &Connection, period: Period) -> rusqlite::Result<Span> {
    let last: i64 = db.query_row("SELECT coalesce(max(seq), 0) FROM transfers", [], |row| row.get(0))?;
    let mut at = db.prepare("SELECT at_ms FROM transfers WHERE seq >= ?1 ORDER BY seq LIMIT 1")?;
    let mut first_from = |ms: u64| -> rusqlite::Result<i64> {
        let (mut low, mut high) = (1, last + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            match at.query_row([middle], |row| row.get::<_, u64>(0))? < ms {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        Ok(low)
    };
    let (first, end) = (first_from(period.from_ms)?, first_from(period.to_ms)?);
    Ok(Span { first, last: end - 1, is_final: end <= last })
}

/// A row in the order of [`schema::COLUMNS`].
pub(super) fn transfer(row: &Row<'_>) -> rusqlite::Result<Transfer> {
    let picos = |at: usize| row.get(at).map(Picos);
    let price = PriceVersion {
        id: row.get(10)?,
        model: row.get(8)?,
        tier: row.get(9)?,
        effective_from_ms: row.get(11)?,
        uncached_input: picos(12)?,
        cached_input: picos(13)?,
        output: picos(14)?,
    };
    let facts = Facts {
        org_id: row.get(4)?,
        project_id: row.get(5)?,
        key_id: row.get(6)?,
        endpoint: row.get(7)?,
        price,
        prompt_tokens: row.get(15)?,
        admitted_ms: row.get(16)?,
        counted: counted(row, 36)?,
    };
    Ok(Transfer {
        seq: row.get(0)?,
        kind: parsed(row, 1)?,
        request_id: row.get(2)?,
        at_ms: row.get(3)?,
        facts: Arc::new(facts),
        held: picos(17)?,
        released: picos(18)?,
        tokens: tokens(row, 19)?,
        cost: Cost {
            uncached_input: picos(22)?,
            cached_input: picos(23)?,
            output: picos(24)?,
            total: picos(25)?,
        },
        end: match row.get_ref(26)?.data_type() {
            Type::Null => None,
            _ => Some(parsed(row, 26)?),
        },
        first_token_ms: row.get(27)?,
        pace: match row.get(41)? {
            Some(wait_ms) => Some(Pace { wait_ms, gap_us: row.get(42)? }),
            None => None,
        },
        hash: row.get(28)?,
        details: details(row)?.map(Arc::new),
        credit: picos(37)?,
        expires_ms: row.get(38)?,
        note: row.get(39)?,
    })
}

/// `None` for kinds of rows and ledgers that have none.
fn details(row: &Row<'_>) -> rusqlite::Result<Option<Details>> {
    let Some(org_name) = row.get(29)? else { return Ok(None) };
    Ok(Some(Details {
        org_name,
        project_name: row.get(30)?,
        key_name: row.get(31)?,
        user: row.get(32)?,
        tags: row.get::<_, Option<String>>(33)?.map(Tags::stored),
        request_sha256: row.get(34)?,
        weights_sha256: row.get(35)?,
        deadline_ms: row.get(40)?,
    }))
}

/// The counted accounts: a JSON array of `[scope, id]`, or NULL for none.
fn counted(row: &Row<'_>, at: usize) -> rusqlite::Result<Vec<Counted>> {
    let text = row.get::<_, Option<String>>(at)?;
    counted_of(text.as_deref())
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(at, Type::Text, Box::new(error)))
}

/// The accounts that a row's text names.
pub(super) fn counted_of(text: Option<&str>) -> Result<Vec<Counted>, LedgerError> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let pairs: Vec<(String, String)> =
        serde_json::from_str(text).map_err(|error| LedgerError::Corrupt(error.to_string()))?;
    let counted = |(scope, id): (String, String)| {
        Ok(Counted { scope: scope.parse().map_err(LedgerError::Corrupt)?, id })
    };
    pairs.into_iter().map(counted).collect()
}

/// The counted accounts as [`counted_of`] reads them.
pub(super) fn counted_text(counted: &[Counted]) -> Option<String> {
    let pairs: Vec<[&str; 2]> = counted.iter().map(|c| [c.scope.as_str(), &c.id]).collect();
    (!pairs.is_empty()).then(|| serde_json::json!(pairs).to_string())
}

/// Three token columns from `first` on.
pub(super) fn tokens(row: &Row<'_>, first: usize) -> rusqlite::Result<Tokens> {
    Ok(Tokens {
        uncached_input: row.get(first)?,
        cached_input: row.get(first + 1)?,
        output: row.get(first + 2)?,
    })
}

fn parsed<T: FromStr<Err = LedgerError>>(row: &Row<'_>, at: usize) -> rusqlite::Result<T> {
    row.get_ref(at)?
        .as_str()?
        .parse()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(at, Type::Text, Box::new(error)))
}
