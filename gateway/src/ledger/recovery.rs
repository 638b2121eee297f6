//! Ending what an earlier process left open.

use super::book::Book;
use super::store::Store;
use super::types::{EndReason, LedgerError, Timings};

/// How the holds found open at the start were ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Billed at their last checkpoint.
    pub settled: usize,
    /// Released without cost: nothing had been delivered.
    pub voided: usize,
}

/// Ends every open hold in one transaction, so that a crash in here changes nothing.
pub(super) fn recover(book: &mut Book, store: &mut dyn Store, now_ms: u64) -> Result<Recovery, LedgerError> {
    let open = book.open_requests();
    let mut recovery = Recovery::default();
    if open.is_empty() {
        return Ok(recovery);
    }
    store.begin()?;
    for (request_id, noted) in open {
        book.end_at_checkpoint(store, &request_id, noted, EndReason::Recovered, now_ms, Timings::default())?;
        match noted {
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
