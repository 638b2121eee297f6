//! Copying a ledger row by row into another store, or going on with a copy.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::book::Book;
use super::postgres::PostgresStore;
use super::row::Transfer;
use super::schema::COLUMNS;
use super::sqlite::SqliteStore;
use super::store::Store;
use super::types::LedgerError;
use super::{details::hex, reader};

/// Rows of one transaction.
const BATCH: i64 = 1000;

/// Where a ledger is.
#[derive(Clone, PartialEq, Eq)]
pub enum Place {
    /// In `ledger.db` of a data directory.
    Directory(PathBuf),
    /// In a PostgreSQL database, as `postgres://user:password@host/database`.
    Postgres(String),
}

impl FromStr for Place {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_address = text.starts_with("postgres://") || text.starts_with("postgresql://");
        Ok(if is_address { Self::Postgres(text.to_owned()) } else { Self::Directory(text.into()) })
    }
}

/// Without the password of an address.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Postgres(_) => f.write_str("PostgreSQL"),
        }
    }
}

/// Where rows are read.
enum Source {
    Sqlite(rusqlite::Connection),
    Postgres(Box<PostgresStore>),
}

impl Source {
    fn open(place: &Place) -> Result<Self, LedgerError> {
        Ok(match place {
            Place::Directory(dir) => Self::Sqlite(reader::open(dir)?),
            Place::Postgres(url) => Self::Postgres(Box::new(PostgresStore::open(url)?)),
        })
    }

    fn rows_after(&mut self, seq: i64) -> Result<Vec<Transfer>, LedgerError> {
        match self {
            Self::Sqlite(db) => {
                // Each look sees the last commit.
                db.execute_batch("COMMIT; BEGIN")?;
                let sql = format!("SELECT {COLUMNS} FROM transfers WHERE seq > ?1 ORDER BY seq LIMIT ?2");
                let mut statement = db.prepare_cached(&sql)?;
                let rows = statement.query_map([seq, BATCH], reader::transfer)?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            }
            Self::Postgres(store) => Ok(store.rows_after(seq, BATCH)?),
        }
    }
}

/// Copies a ledger and goes on with the copy.
pub struct Copier {
    source: Source,
    store: Box<dyn Store>,
    book: Book,
}

impl Copier {
    /// Opens both. What is in the target already must be the beginning of the same ledger.
    pub fn open(from: &Place, to: &Place) -> Result<Self, LedgerError> {
        let mut source = Source::open(from)?;
        let mut store: Box<dyn Store> = match to {
            Place::Directory(dir) => Box::new(SqliteStore::open(dir)?),
            Place::Postgres(url) => Box::new(PostgresStore::open(url)?),
        };
        let book = Book::load(store.as_mut())?;
        let head = book.head();
        if head.seq > 0 {
            let same = source.rows_after(head.seq - 1)?;
            if same.first().is_none_or(|row| (row.seq, row.hash) != (head.seq, head.hash)) {
                let message = format!("the rows in {to:?} are not the beginning of those in {from:?}");
                return Err(LedgerError::Corrupt(message));
            }
        }
        Ok(Self { source, store, book })
    }

    /// Copies all rows that are not in the target yet, checking their chain; how many. Requests that are open stay open
    /// in the copy.
    pub fn go_on(&mut self) -> Result<u64, LedgerError> {
        let mut rows = 0;
        loop {
            let batch = self.source.rows_after(self.book.head().seq)?;
            if batch.is_empty() {
                return Ok(rows);
            }
            self.book.begin(self.store.as_mut())?;
            for row in &batch {
                self.book.replay(self.store.as_mut(), row)?;
            }
            self.book.flush(self.store.as_mut())?;
            self.store.commit()?;
            rows += batch.len() as u64;
        }
    }

    /// Number and hash, in hex, of the last row; equal heads mean equal ledgers.
    pub fn head(&self) -> (i64, String) {
        let head = self.book.head();
        (head.seq, hex(&head.hash))
    }

    /// Requests that are not ended in the copy.
    pub fn open_requests(&self) -> usize {
        self.book.open_holds()
    }
}
