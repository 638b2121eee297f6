//! Lines of batches.

use rusqlite::{ErrorCode, OptionalExtension, TransactionBehavior, params};

use super::{BatchError, Batches};
use crate::money::Tokens;
use crate::serving::Receipt;

/// A line as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLine {
    /// Its number, from 0.
    pub n: u32,
    /// The caller's name for it.
    pub custom_id: String,
    /// Where it begins in the input, and its length, bytes.
    pub place: (u64, u32),
    /// Estimate of its prompt's tokens.
    pub tokens: u64,
}

/// A line without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 0.
    pub n: u32,
    /// The caller's name for it.
    pub custom_id: String,
    /// Where it begins in the input, and its length, bytes.
    pub place: (u64, u32),
}

/// What a line came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The request that was made of it.
    pub request_id: String,
    /// Whether it belongs into the output file, not the error file.
    pub is_ok: bool,
    /// What is billed.
    pub receipt: Receipt,
    /// Its line there.
    pub text: String,
}

impl Batches {
    /// Adds lines; gives the number of the first one whose `custom_id` is not new, and adds none then.
    pub fn add_lines(&self, id: &str, lines: &[NewLine]) -> Result<Option<u32>, BatchError> {
        let mut db = self.lock();
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut insert = tx.prepare_cached(
            "INSERT INTO lines (batch_id, n, custom_id, start, length, tokens) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        for line in lines {
            let (start, length) = line.place;
            let added = insert.execute(params![id, line.n, line.custom_id, start, length, line.tokens]);
            match added {
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                    return Ok(Some(line.n));
                }
                added => added?,
            };
        }
        drop(insert);
        let tokens: u64 = lines.iter().map(|line| line.tokens).sum();
        tx.prepare_cached("UPDATE batches SET waiting_tokens = waiting_tokens + ?2 WHERE id = ?1")?
            .execute(params![id, tokens])?;
        tx.commit()?;
        Ok(None)
    }

    /// Forgets the lines of a batch, to read them again.
    pub fn clear_lines(&self, id: &str) -> Result<(), BatchError> {
        let mut db = self.lock();
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.execute("DELETE FROM lines WHERE batch_id = ?1", [id])?;
        tx.execute("UPDATE batches SET waiting_tokens = 0 WHERE id = ?1", [id])?;
        Ok(tx.commit()?)
    }

    /// Up to `limit` lines without an answer from number `from` on.
    pub fn waiting(&self, id: &str, from: u32, limit: usize) -> Result<Vec<Line>, BatchError> {
        let db = self.lock();
        let mut statement = db.prepare_cached(
            "SELECT n, custom_id, start, length FROM lines
             WHERE batch_id = ?1 AND n >= ?2 AND request_id IS NULL ORDER BY n LIMIT ?3",
        )?;
        let rows = statement.query_map(params![id, from, limit], |row| {
            Ok(Line { n: row.get(0)?, custom_id: row.get(1)?, place: (row.get(2)?, row.get(3)?) })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Keeps a line's answer, durably; its only one.
    pub fn keep_answer(&self, id: &str, n: u32, answer: &Answer) -> Result<(), BatchError> {
        let Receipt { tokens, cost } = answer.receipt;
        let mut db = self.lock();
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let waited: Option<u64> = tx
            .prepare_cached(
                "UPDATE lines SET request_id = ?3, ok = ?4, uncached_input = ?5, cached_input = ?6, output = ?7,
                    answer = ?8
                 WHERE batch_id = ?1 AND n = ?2 AND request_id IS NULL RETURNING tokens",
            )?
            .query_row(
                params![
                    id,
                    n,
                    answer.request_id,
                    answer.is_ok,
                    tokens.uncached_input,
                    tokens.cached_input,
                    tokens.output,
                    answer.text
                ],
                |row| row.get(0),
            )
            .optional()?;
        let waited = waited.ok_or_else(|| BatchError::Answered { id: id.to_owned(), n })?;
        tx.prepare_cached(
            "UPDATE batches SET completed = completed + ?2, failed = failed + 1 - ?2,
                uncached_input = uncached_input + ?3, cached_input = cached_input + ?4, output = output + ?5,
                cost_picos = cost_picos + ?6, waiting_tokens = waiting_tokens - ?7 WHERE id = ?1",
        )?
        .execute(params![
            id,
            answer.is_ok,
            tokens.uncached_input,
            tokens.cached_input,
            tokens.output,
            cost.0,
            waited
        ])?;
        Ok(tx.commit()?)
    }

    /// What is to be billed of a request whose answer is kept.
    pub fn finished(&self, request_id: &str) -> Result<Option<Tokens>, BatchError> {
        let db = self.lock();
        let mut statement = db.prepare_cached(
            "SELECT uncached_input, cached_input, output FROM lines WHERE request_id = ?1 AND ok",
        )?;
        let tokens = statement.query_row([request_id], |row| {
            Ok(Tokens { uncached_input: row.get(0)?, cached_input: row.get(1)?, output: row.get(2)? })
        });
        Ok(tokens.optional()?)
    }

    /// Up to `limit` lines from number `from` on: number, `custom_id`, and whether it is an answer with its text.
    #[allow(clippy::type_complexity, reason = "read in one place")]
    pub fn answers(
        &self,
        id: &str,
        from: u32,
        limit: usize,
    ) -> Result<Vec<(u32, String, Option<(bool, String)>)>, BatchError> {
        let db = self.lock();
        let mut statement = db.prepare_cached(
            "SELECT n, custom_id, ok, answer FROM lines WHERE batch_id = ?1 AND n >= ?2 ORDER BY n LIMIT ?3",
        )?;
        let rows = statement.query_map(params![id, from, limit], |row| {
            let (ok, answer): (Option<bool>, Option<String>) = (row.get(2)?, row.get(3)?);
            Ok((row.get(0)?, row.get(1)?, ok.zip(answer)))
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}
