//! What the ledger needs of a store. The rules live in [`super::book`]; a store only keeps rows, and the sums that could
//! be computed from them. SQLite is for one gateway, PostgreSQL for several.

use std::collections::HashMap;
use std::sync::Arc;

use super::credit::{Grant, Purse};
use super::details::Details;
use super::row::{Facts, Hash, Transfer};
use super::types::{BudgetScope, Settled};
use crate::money::{Picos, Tokens};

/// A store that failed. The writer gives it up: after a failed sync nothing it says can be relied on.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct StoreError(pub(super) String);

pub(super) type StoreResult<T> = Result<T, StoreError>;

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ended {
    Settled(Settled),
    Voided,
}

/// The last row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) seq: i64,
    pub(super) at_ms: u64,
    pub(super) hash: Hash,
}

/// A hold without an end.
#[derive(Clone, Debug)]
pub(super) struct OpenRow {
    pub(super) facts: Arc<Facts>,
    pub(super) details: Option<Arc<Details>>,
    /// When it was taken.
    pub(super) at_ms: u64,
    pub(super) held: Picos,
    /// The lease that it uses or pays for.
    pub(super) lease: Option<String>,
    pub(super) checkpoint: Option<Tokens>,
    /// Whether another gateway, that lives, serves the request.
    pub(super) elsewhere: bool,
}

/// What is needed to go on; sums are asked for when they are needed.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) head: Head,
    pub(super) open: HashMap<String, OpenRow>,
}

/// A place for rows. All changes happen between `begin` and `commit`, and reads see them; after an error the store is
/// not used again.
pub(super) trait Store: Send {
    /// Reads the state at the last commit, without going through ended requests.
    fn load(&mut self) -> StoreResult<State>;
    /// Starts a transaction. The rows that others have added since the last one, in order; nobody adds any during this one.
    fn begin(&mut self) -> StoreResult<Vec<Transfer>>;
    /// Adds a row and its entries; keeps the set of open holds.
    fn append(&mut self, row: &Transfer) -> StoreResult<()>;
    /// How `request_id` ended, if it did.
    fn ended(&mut self, request_id: &str) -> StoreResult<Option<Ended>>;
    /// Replaces the checkpoint of a request.
    fn put_checkpoint(&mut self, request_id: &str, tokens: Tokens, at_ms: u64) -> StoreResult<()>;
    /// Forgets the checkpoint of a request, if any.
    fn delete_checkpoint(&mut self, request_id: &str) -> StoreResult<()>;
    /// What the account spent in the hours from the first instant up to the second, or in all.
    fn spent(&mut self, scope: BudgetScope, id: &str, hours: Option<(u64, u64)>) -> StoreResult<i64>;
    /// Adds to what the account spent in an hour and in all.
    fn add_spent(&mut self, scope: BudgetScope, id: &str, hour_ms: u64, picos: i64) -> StoreResult<()>;
    /// The organisation's credit.
    fn purse(&mut self, org_id: &str) -> StoreResult<Purse>;
    /// Adds to the organisation's credit over all time.
    fn add_credited(&mut self, org_id: &str, picos: i64) -> StoreResult<()>;
    /// Makes a grant or changes what is left of it.
    fn put_grant(&mut self, org_id: &str, grant: &Grant) -> StoreResult<()>;
    /// The row of a grant or correction.
    fn credit_row(&mut self, id: &str) -> StoreResult<Option<i64>>;
    /// Organisations with a grant past its time.
    fn due_orgs(&mut self, now_ms: u64) -> StoreResult<Vec<String>>;
    /// Open requests whose gateway died, and their checkpoints. Of a store with one writer there are none after its start.
    fn orphans(&mut self) -> StoreResult<Vec<(String, Option<Tokens>)>>;
    /// Makes the transaction durable.
    fn commit(&mut self) -> StoreResult<()>;
    /// After a failed transaction: true where none of it was committed, and the store can be used again.
    fn recover(&mut self) -> bool;
}
