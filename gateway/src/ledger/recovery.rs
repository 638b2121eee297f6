//! Ending what an earlier process left open.

use super::book::Book;
use super::store::Store;
use super::types::{EndReason, LedgerError, Timings, Tokens};

/// What is to be billed of a request whose answer is kept elsewhere.
pub type Finished<'a> = &'a dyn Fn(&str) -> Result<Option<Tokens>, LedgerError>;

/// How the holds found open at the start were ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Billed: at their last checkpoint, or for an answer that is kept.
    pub settled: usize,
    /// Released without cost: nothing had been delivered.
    pub voided: usize,
}

/// Ends every open hold in one transaction, so that a crash in here changes nothing.
pub(super) fn recover(
    book: &mut Book,
    store: &mut dyn Store,
    now_ms: u64,
    finished: Finished<'_>,
) -> Result<Recovery, LedgerError> {
    let mut recovery = Recovery::default();
    if book.open_requests().is_empty() {
        return Ok(recovery);
    }
    // Another gateway may have ended some of them meanwhile.
    book.begin(store)?;
    for (request_id, noted) in book.open_requests() {
        let (tokens, end) = match finished(&request_id)? {
            Some(tokens) => (Some(tokens), EndReason::Finished),
            None => (noted, EndReason::Recovered),
        };
        book.end_at_checkpoint(store, &request_id, tokens, end, now_ms, Timings::default())?;
        match tokens {
            Some(_) => recovery.settled += 1,
            None => recovery.voided += 1,
        }
    }
    book.flush(store)?;
    store.commit()?;
    tracing::info!(
        settled = recovery.settled,
        voided = recovery.voided,
        "ended requests of an earlier process"
    );
    Ok(recovery)
}
