//! The entries beside their rows.

use rusqlite::Rows;

use crate::ledger::row::Entry;
use crate::money::Picos;

/// Entries in row order, handed out row by row.
pub(super) struct EntryCursor<'a> {
    rows: Rows<'a>,
    pub(super) next: Option<(i64, Entry)>,
}

impl<'a> EntryCursor<'a> {
    pub(super) fn new(rows: Rows<'a>) -> rusqlite::Result<Self> {
        let mut cursor = Self { rows, next: None };
        cursor.advance()?;
        Ok(cursor)
    }

    fn advance(&mut self) -> rusqlite::Result<Option<(i64, Entry)>> {
        let next = match self.rows.next()? {
            Some(row) => Some((row.get(0)?, Entry { account: row.get(1)?, amount: Picos(row.get(2)?) })),
            None => None,
        };
        Ok(std::mem::replace(&mut self.next, next))
    }

    /// The entries of row `seq`; those of rows before it have no row and stay in front, to be reported.
    pub(super) fn take(&mut self, seq: i64) -> rusqlite::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        while self.next.as_ref().is_some_and(|(at, _)| *at == seq) {
            entries.extend(self.advance()?.map(|(_, entry)| entry));
        }
        Ok(entries)
    }
}
