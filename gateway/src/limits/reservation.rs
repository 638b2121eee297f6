//! What an admitted request holds until it ends.

use std::fmt;
use std::sync::Arc;

use super::fleet::Share;
use super::{Inner, Scope};

/// What one request has taken of one scope.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) scope: Scope,
    pub(super) id: String,
    pub(super) ticket: u64,
    pub(super) tokens: u32,
}

/// What one request has taken. Dropping it unsettled gives back its place and all its tokens (the request itself
/// stays counted).
#[must_use = "dropping it gives the reservation back"]
pub struct Reservation {
    pub(super) inner: Arc<Inner>,
    pub(super) taken: Vec<Taken>,
    pub(super) tokens: u32,
    pub(super) settled: bool,
    pub(super) share: Option<Share>,
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("taken", &self.taken)
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}

impl Reservation {
    /// Tokens reserved.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Ends the request: unused tokens return at once, those beyond the reservation are taken now.
    pub fn settle(self, actual_tokens: u32, now_ms: u64) {
        self.settle_leased(actual_tokens, 0, now_ms);
    }

    /// The same where the request weighed `leased` in the rate of its lease, if it has one.
    pub fn settle_leased(mut self, actual_tokens: u32, leased: u32, now_ms: u64) {
        self.release(actual_tokens, leased, Some(now_ms));
    }

    fn release(&mut self, actual: u32, leased: u32, now_ms: Option<u64>) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        if let Some(share) = self.share.take() {
            share.settle(actual);
        }
        let mut scopes = self.inner.lock();
        for Taken { scope, id, ticket, tokens } in &self.taken {
            let actual = if *scope == Scope::Lease { leased } else { actual };
            if let Some(state) = scopes.by_id.get_mut(id) {
                state.release(*ticket, *tokens, actual, now_ms);
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release(0, 0, None);
    }
}
