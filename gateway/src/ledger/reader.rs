//! Reading rows, by the writer at its start and by reports while a server writes.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::types::Type;
use rusqlite::{Connection, OpenFlags, Row};

use super::details::{Details, Tags};
use super::row::{Facts, Transfer};
use super::schema;
use super::types::LedgerError;
use crate::money::{Cost, Picos, PriceVersion, Tokens};

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
    db.busy_timeout(Duration::from_secs(5))?;
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
        hash: row.get(28)?,
        details: details(row)?.map(Arc::new),
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
    }))
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
