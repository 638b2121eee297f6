//! Rate and concurrency limits of keys and projects, in memory. Time is passed in, so the core is a pure state machine.
//!
//! A request reserves on both scopes at once or on none. What it reserved but did not use comes back at settlement;
//! what it used beyond is taken then and delays later requests.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::accounts::{Identity, KeyLimits};
use crate::config;

mod bucket;
mod scope;
#[cfg(test)]
mod tests;

use scope::{Caps, ScopeState};

/// Reservations between two clean-ups of idle scopes.
const SWEEP_EVERY: u32 = 4096;

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The API key's.
    Key,
    /// The project's.
    Project,
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitKind {
    /// Requests per minute.
    Requests,
    /// Tokens per minute.
    Tokens,
    /// Requests in flight.
    Concurrency,
}

impl LimitKind {
    /// The spelling in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            LimitKind::Requests => "requests_per_minute",
            LimitKind::Tokens => "tokens_per_minute",
            LimitKind::Concurrency => "concurrency",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Key => "key",
            Scope::Project => "project",
        })
    }
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LimitKind::Requests => "requests per minute",
            LimitKind::Tokens => "tokens per minute",
            LimitKind::Concurrency => "requests in flight",
        })
    }
}

/// A refusal; of several that apply, the one that lasts longest.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{scope} limit of {limit} {kind}: {used} used, {requested} requested")]
pub struct LimitError {
    /// Whose limit.
    pub scope: Scope,
    /// Which limit.
    pub kind: LimitKind,
    /// Its size.
    pub limit: u32,
    /// Taken at this moment (reserved or used, not yet refilled).
    pub used: u32,
    /// The part of `used` that requests in flight have reserved and may give back.
    pub reserved: u32,
    /// What the request needs.
    pub requested: u32,
    /// What would be admitted at this moment.
    pub admitted_now: u32,
    /// Time until all of the limit would be, if nobody came; for concurrency an estimate.
    pub reset_ms: u64,
    /// When the same request fits if nobody else comes first; for concurrency an estimate. `None`: it never fits.
    pub retry_after_ms: Option<u64>,
}

/// The figures of the six `x-ratelimit-*` headers, from whichever scope has less left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateHeaders {
    /// Requests per minute.
    pub limit_requests: u32,
    /// Requests that would be admitted now.
    pub remaining_requests: u32,
    /// Time until all of them would be.
    pub reset_requests_ms: u64,
    /// Tokens per minute.
    pub limit_tokens: u32,
    /// Tokens that would be admitted now.
    pub remaining_tokens: u32,
    /// Time until all of them would be.
    pub reset_tokens_ms: u64,
}

/// The limits' state; cheap to clone and share.
#[derive(Clone)]
pub struct Limiter {
    inner: Arc<Inner>,
}

struct Inner {
    key_defaults: Caps,
    project_defaults: Caps,
    scopes: Mutex<Scopes>,
}

#[derive(Default)]
struct Scopes {
    by_id: HashMap<String, ScopeState>,
    since_sweep: u32,
}

impl Limiter {
    /// Nothing used yet; `defaults` for keys and projects that have no limits of their own.
    pub fn new(defaults: &config::Limits) -> Self {
        let key_defaults = Caps {
            requests: defaults.key_requests_per_minute,
            tokens: defaults.key_tokens_per_minute,
            concurrency: defaults.key_concurrency,
        };
        let project_defaults = Caps {
            requests: defaults.project_requests_per_minute,
            tokens: defaults.project_tokens_per_minute,
            concurrency: defaults.project_concurrency,
        };
        Self { inner: Arc::new(Inner { key_defaults, project_defaults, scopes: Mutex::default() }) }
    }

    /// Takes one request, `tokens` tokens and one place, from key and project, or nothing. `now_ms` is any
    /// clock in milliseconds; where it runs backwards nothing refills.
    pub fn reserve(&self, identity: &Identity, tokens: u32, now_ms: u64) -> Result<Reservation, LimitError> {
        let mut scopes = self.inner.lock();
        scopes.sweep(now_ms);
        let wanted = self.inner.wanted(identity);
        let refusals = wanted
            .iter()
            .flat_map(|&(scope, id, caps)| scopes.touch(id, caps, now_ms).refusals(scope, tokens));
        // `None` (never) outlasts every wait.
        if let Some(worst) = refusals.max_by_key(|error| error.retry_after_ms.unwrap_or(u64::MAX)) {
            return Err(worst);
        }
        let taken = wanted.map(|(_, id, caps)| (id.to_owned(), scopes.touch(id, caps, now_ms).take(tokens)));
        Ok(Reservation { inner: self.inner.clone(), taken, tokens, settled: false })
    }

    /// What is left to `identity` at `now_ms`.
    pub fn headers(&self, identity: &Identity, now_ms: u64) -> RateHeaders {
        let mut scopes = self.inner.lock();
        let [key, project] =
            self.inner.wanted(identity).map(|(_, id, caps)| scopes.touch(id, caps, now_ms).headers());
        key.tighter(project)
    }

    /// Requests in flight of key and project, for tests and metrics.
    pub fn in_flight(&self, identity: &Identity) -> (u32, u32) {
        let scopes = self.inner.lock();
        let of = |id: &str| scopes.by_id.get(id).map_or(0, |state| state.in_flight);
        (of(&identity.key_id), of(&identity.project_id))
    }

    /// Scopes held in memory; idle ones are dropped from time to time.
    pub fn scopes(&self) -> usize {
        self.inner.lock().by_id.len()
    }
}

impl Inner {
    fn wanted<'a>(&self, identity: &'a Identity) -> [(Scope, &'a str, Caps); 2] {
        [
            (Scope::Key, &identity.key_id, self.key_defaults.with(&identity.limits)),
            (Scope::Project, &identity.project_id, self.project_defaults.with(&identity.project_limits)),
        ]
    }

    fn lock(&self) -> MutexGuard<'_, Scopes> {
        // Every change under the lock is a few integer operations that cannot panic half-way.
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scopes {
    fn touch(&mut self, id: &str, caps: Caps, now_ms: u64) -> &mut ScopeState {
        if !self.by_id.contains_key(id) {
            self.by_id.insert(id.to_owned(), ScopeState::new(caps, now_ms));
        }
        let state = self.by_id.get_mut(id).expect("inserted above");
        state.advance(caps, now_ms);
        state
    }

    fn sweep(&mut self, now_ms: u64) {
        self.since_sweep += 1;
        if self.since_sweep >= SWEEP_EVERY {
            self.since_sweep = 0;
            self.by_id.retain(|_, state| !state.is_idle(now_ms));
        }
    }
}

/// What one request has taken. Dropping it unsettled gives back its place and all its tokens (the request itself
/// stays counted).
#[must_use = "dropping it gives the reservation back"]
pub struct Reservation {
    inner: Arc<Inner>,
    /// Scope and its ticket.
    taken: [(String, u64); 2],
    tokens: u32,
    settled: bool,
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
    pub fn settle(mut self, actual_tokens: u32, now_ms: u64) {
        self.release(actual_tokens, Some(now_ms));
    }

    fn release(&mut self, actual: u32, now_ms: Option<u64>) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let mut scopes = self.inner.lock();
        for (id, ticket) in &self.taken {
            if let Some(state) = scopes.by_id.get_mut(id) {
                state.release(*ticket, self.tokens, actual, now_ms);
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release(0, None);
    }
}

impl Caps {
    fn with(self, own: &KeyLimits) -> Caps {
        Caps {
            requests: own.requests_per_minute.unwrap_or(self.requests),
            tokens: own.tokens_per_minute.unwrap_or(self.tokens),
            concurrency: own.concurrency.unwrap_or(self.concurrency),
        }
    }
}
