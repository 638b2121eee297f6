//! What the ledger needs of a store. The rules live in [`super::book`]; a store only keeps rows.

use std::collections::HashMap;
use std::sync::Arc;

use super::details::Details;
use super::row::{Facts, Hash, Transfer};
use super::types::Settled;
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

/// Sums over one key's rows.
#[derive(Clone, Debug)]
pub(super) struct KeySums {
    pub(super) key_id: String,
    pub(super) project_id: String,
    pub(super) org_id: String,
    pub(super) spent: Picos,
    pub(super) held: Picos,
}

/// A hold without an end.
#[derive(Clone, Debug)]
pub(super) struct OpenRow {
    pub(super) facts: Arc<Facts>,
    pub(super) details: Option<Arc<Details>>,
    pub(super) held: Picos,
    pub(super) checkpoint: Option<Tokens>,
}

/// Everything needed to go on.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) head: Head,
    pub(super) sums: Vec<KeySums>,
    pub(super) open: HashMap<String, OpenRow>,
}

/// A place for rows. All changes happen between `begin` and `commit`; after an error the store is not used again.
pub(super) trait Store: Send {
    /// Reads the state at the last commit.
    fn load(&mut self) -> StoreResult<State>;
    /// Starts a transaction.
    fn begin(&mut self) -> StoreResult<()>;
    /// Adds a row and its entries.
    fn append(&mut self, row: &Transfer) -> StoreResult<()>;
    /// How `request_id` ended, if it did; sees the open transaction.
    fn ended(&mut self, request_id: &str) -> StoreResult<Option<Ended>>;
    /// Replaces the checkpoint of a request.
    fn put_checkpoint(&mut self, request_id: &str, tokens: Tokens, at_ms: u64) -> StoreResult<()>;
    /// Forgets the checkpoint of a request, if any.
    fn delete_checkpoint(&mut self, request_id: &str) -> StoreResult<()>;
    /// Makes the transaction durable.
    fn commit(&mut self) -> StoreResult<()>;
}
