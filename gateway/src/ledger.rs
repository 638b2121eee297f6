//! The ledger: what every request costs, exactly once, whatever ends it.
//!
//! A request's money goes *hold → (extend) → settle | void*. One writer thread owns the store and commits whatever is
//! queued at once, then answers; an answer therefore means durable. Rows are append only, double entry and chained by
//! hash; reports are derived from them alone (see [`export`], [`usage`], [`verify`]).

use std::path::Path;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::config::LedgerSection;
use crate::money::Picos;

mod balance;
mod balances;
mod book;
pub mod copy;
mod credit;
mod details;
mod evidence;
pub mod export;
mod leased;
pub mod mirror;
mod period;
mod postgres;
mod reader;
mod recovery;
mod row;
mod schema;
mod sqlite;
pub mod statement;
mod store;
mod tally;
#[cfg(test)]
mod tests;
mod types;
pub mod usage;
pub mod verify;
mod writer;

pub use balance::{Balance, GrantLeft, Spender, balance, spent_in, was_billed};
pub use details::{Details, Sha256Digest, Tags, hex, parse_sha256};
pub use evidence::{Evidence, Evidences};
pub use leased::{Events, HourUse, hour_use};
pub use period::{Period, PeriodError};
pub use recovery::{Finished, Recovery};
pub use row::LEASES;
pub(crate) use row::SLA;
pub use types::{
    BudgetPeriod, BudgetScope, BudgetShortage, Credit, CreditKind, CreditShortage, EndReason, HoldError,
    HoldRequest, LeaseCredit, LedgerError, Pace, Settled, Settlement, Timings, Tokens,
};

use writer::{Command, Shared};

/// Handle on the ledger's writer; cheap to clone. Dropping the last one commits what is queued and joins the thread.
#[derive(Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("healthy", &self.healthy()).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens (or makes) the ledger in `dir` for writing, ends what an earlier process left open, and starts the writer.
    /// A second process that tries is refused with [`LedgerError::Locked`].
    pub fn open(dir: &Path, options: &LedgerSection, now_ms: u64) -> Result<Ledger, LedgerError> {
        Self::open_with(dir, options, now_ms, &|_| Ok(None))
    }

    /// As [`Ledger::open`], where requests may have been finished that the ledger did not hear of: `finished` gives what
    /// is to be billed of a request whose answer is kept elsewhere.
    pub fn open_with(
        dir: &Path,
        options: &LedgerSection,
        now_ms: u64,
        finished: Finished<'_>,
    ) -> Result<Ledger, LedgerError> {
        let store = sqlite::SqliteStore::open(dir)?;
        Self::start(Box::new(store), options, now_ms, finished)
    }

    /// As [`Ledger::open_with`] in a PostgreSQL database that several gateways share. Budgets are exact over all of them. It blocks
    /// and needs a thread that runs no futures.
    pub fn open_shared(
        url: &str,
        options: &LedgerSection,
        now_ms: u64,
        finished: Finished<'_>,
    ) -> Result<Ledger, LedgerError> {
        let store = postgres::PostgresStore::open(url)?;
        Self::start(Box::new(store), options, now_ms, finished)
    }

    fn start(
        mut store: Box<dyn store::Store>,
        options: &LedgerSection,
        now_ms: u64,
        finished: Finished<'_>,
    ) -> Result<Ledger, LedgerError> {
        let mut book = book::Book::load(store.as_mut())?;
        let recovery = recovery::recover(&mut book, store.as_mut(), now_ms, finished)?;
        Ok(Self { shared: Shared::start(store, book, recovery, options)? })
    }

    /// What was found open at the start, and how it ended.
    pub fn recovery(&self) -> &Recovery {
        self.shared.recovery()
    }

    /// False once a write has failed: nothing is accepted until the process restarts.
    pub fn healthy(&self) -> bool {
        self.shared.healthy()
    }

    /// Requests whose money is held now, as of the last commit.
    pub fn open_holds(&self) -> usize {
        self.shared.open_holds()
    }

    /// Commands waiting for the writer (detached ones not counted).
    pub fn queued(&self) -> usize {
        self.shared.queued()
    }

    /// Holds money for a request against every budget above its key. `Ok` means durable. A hold whose future is
    /// dropped before it answers is voided.
    pub async fn hold(&self, request: HoldRequest) -> Result<(), HoldError> {
        let (request_id, at_ms) = (request.request_id.clone(), request.at_ms);
        let (ack, answer) = oneshot::channel();
        self.shared.send(Command::Hold(Box::new(request), ack)).await?;
        let mut pending = PendingHold { ledger: self, request_id, at_ms, answer: Some(answer) };
        pending.answer().await
    }

    /// Adds to a hold, under the budgets it was admitted with.
    pub async fn extend(&self, request_id: &str, additional: Picos, at_ms: u64) -> Result<(), HoldError> {
        let (ack, answer) = oneshot::channel();
        let request_id = request_id.to_owned();
        self.shared.send(Command::Extend { request_id, additional, at_ms, ack }).await?;
        answer.await.unwrap_or_else(|_| Err(HoldError::Unavailable(writer::GONE.to_owned())))
    }

    /// Notes the tokens delivered so far; recovery bills the last note. One that is behind an earlier note is ignored.
    pub async fn checkpoint(&self, request_id: &str, tokens: Tokens, at_ms: u64) -> Result<(), LedgerError> {
        let (ack, answer) = oneshot::channel();
        let request_id = request_id.to_owned();
        self.shared.send(Command::Checkpoint { request_id, tokens, at_ms, ack: Some(ack) }).await?;
        answer.await.unwrap_or_else(|_| Err(LedgerError::Unavailable(writer::GONE.to_owned())))
    }

    /// As [`Ledger::checkpoint`] without waiting. False: the queue is full or the ledger failed; try again later.
    pub fn checkpoint_detached(&self, request_id: &str, tokens: Tokens, at_ms: u64) -> bool {
        let request_id = request_id.to_owned();
        self.shared.try_send(Command::Checkpoint { request_id, tokens, at_ms, ack: None })
    }

    /// Bills a request and releases the rest of its hold. `Ok` means durable; a second settle returns the first result.
    pub async fn settle(&self, settlement: Settlement) -> Result<Settled, LedgerError> {
        let (ack, answer) = oneshot::channel();
        self.shared.send(Command::Settle(Box::new(settlement), ack)).await?;
        answer.await.unwrap_or_else(|_| Err(LedgerError::Unavailable(writer::GONE.to_owned())))
    }

    /// As [`Ledger::settle`], with what a receipt says of it; `None` where an earlier call had settled it.
    pub async fn settle_evident(
        &self,
        settlement: Settlement,
    ) -> Result<(Settled, Option<Box<Evidence>>), LedgerError> {
        let (ack, answer) = oneshot::channel();
        self.shared.send(Command::SettleEvident(Box::new(settlement), ack)).await?;
        answer.await.unwrap_or_else(|_| Err(LedgerError::Unavailable(writer::GONE.to_owned())))
    }

    /// Bills what is held for one hour of a lease and holds the `next`, without looking at budgets and balance: both are
    /// parts of what was admitted. `Ok` means durable; the same again changes nothing.
    pub async fn roll(
        &self,
        settlement: Settlement,
        next: Option<HoldRequest>,
    ) -> Result<Settled, LedgerError> {
        let (ack, answer) = oneshot::channel();
        let next = next.map(Box::new);
        self.shared.send(Command::Roll(Box::new(settlement), next, ack)).await?;
        answer.await.unwrap_or_else(|_| Err(LedgerError::Unavailable(writer::GONE.to_owned())))
    }

    /// Ends a request without cost. A second void is accepted; a settled request is refused.
    pub async fn void(&self, request_id: &str, at_ms: u64) -> Result<(), LedgerError> {
        let (ack, answer) = oneshot::channel();
        let request_id = request_id.to_owned();
        self.shared.send(Command::Void { request_id, at_ms, ack: Some(ack) }).await?;
        answer.await.unwrap_or_else(|_| Err(LedgerError::Unavailable(writer::GONE.to_owned())))
    }

    /// Settles without waiting, for `Drop`: never blocks, never refused for a full queue (there is at most one per
    /// hold). A cost above the hold is billed at the last checkpoint instead, so that the hold ends.
    pub fn settle_detached(&self, settlement: Settlement) {
        self.shared.send_detached(Command::SettleDetached(Box::new(settlement)));
    }

    /// Voids without waiting, for `Drop`. Does nothing where the request is unknown or has ended.
    pub fn void_detached(&self, request_id: &str, at_ms: u64) {
        let request_id = request_id.to_owned();
        self.shared.send_detached(Command::Void { request_id, at_ms, ack: None });
    }

    /// Changes an organisation's balance; the number of its row. `Ok` means durable; the same id again changes nothing.
    pub async fn credit(&self, credit: Credit) -> Result<i64, LedgerError> {
        let (ack, answer) = oneshot::channel();
        self.shared.send(Command::Credit(Box::new(credit), ack)).await?;
        answer.await.unwrap_or_else(|_| Err(LedgerError::Unavailable(writer::GONE.to_owned())))
    }

    /// Ends grants past their time and requests of gateways that died, without waiting. They are found anyway when their organisation sends a request; a
    /// call from time to time is for the reports of those that send none.
    pub fn expire_credit(&self, at_ms: u64) {
        self.shared.try_send(Command::Expire { at_ms });
    }

    /// Commits everything queued and stops the writer; blocks until done. Later calls answer `Unavailable`.
    pub fn close(&self) {
        self.shared.close();
    }
}

/// A hold not yet answered. Dropped early, it makes sure that nobody's money stays held.
struct PendingHold<'a> {
    ledger: &'a Ledger,
    request_id: String,
    at_ms: u64,
    answer: Option<oneshot::Receiver<Result<(), HoldError>>>,
}

impl PendingHold<'_> {
    async fn answer(&mut self) -> Result<(), HoldError> {
        let answer = self.answer.as_mut().expect("taken only below and in drop");
        let result = answer.await.unwrap_or_else(|_| Err(HoldError::Unavailable(writer::GONE.to_owned())));
        self.answer = None;
        result
    }
}

impl Drop for PendingHold<'_> {
    fn drop(&mut self) {
        // Either the answer is there already, or closing makes the writer's send fail and the writer voids.
        if let Some(answer) = &mut self.answer {
            answer.close();
            if let Ok(Ok(())) = answer.try_recv() {
                self.ledger.void_detached(&self.request_id, self.at_ms);
            }
        }
    }
}
