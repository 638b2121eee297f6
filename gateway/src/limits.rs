//! Rate and concurrency limits of keys, projects and organisations, in memory; shared by several gateways where [`fleet`]
//! joins them. Time is passed in, so the core is a pure state machine.
//!
//! A request reserves on both scopes at once or on none. What it reserved but did not use comes back at settlement;
//! what it used beyond is taken then and delays later requests.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::accounts::{Identity, KeyLimits};
use crate::config;

mod bucket;
mod fleet;
mod reservation;
mod scope;
#[cfg(test)]
mod tests;

pub use fleet::FleetError;
pub use reservation::Reservation;

use fleet::Fleet;
use reservation::Taken;
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
    /// The organisation's.
    Organisation,
    /// The guaranteed rate of a lease.
    Lease,
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
            Scope::Organisation => "organisation",
            Scope::Lease => "lease",
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

/// What a request takes of the guaranteed rate of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leased<'a> {
    /// The lease.
    pub id: &'a str,
    /// Its rate at this moment.
    pub tokens_per_minute: u32,
    /// What the request weighs.
    pub tokens: u32,
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
    /// Limits kept together with other gateways.
    fleet: Option<Arc<Fleet>>,
}

struct Inner {
    key_defaults: Caps,
    project_defaults: Caps,
    organisation_defaults: Caps,
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
        let organisation_defaults = Caps {
            requests: defaults.organisation_requests_per_minute,
            tokens: defaults.organisation_tokens_per_minute,
            concurrency: defaults.organisation_concurrency,
        };
        let scopes = Mutex::default();
        let inner = Inner { key_defaults, project_defaults, organisation_defaults, scopes };
        Self { inner: Arc::new(inner), fleet: None }
    }

    /// The same limits, kept together with all gateways that name the same Redis; alone where none is named. To be called
    /// within the runtime.
    pub fn join(self, section: &config::FleetSection) -> Result<Self, FleetError> {
        let fleet = section.redis_url.as_deref().map(|url| Fleet::start(section, url)).transpose()?;
        Ok(Self { fleet, ..self })
    }

    /// As [`Limiter::reserve`], and also from the guaranteed rate of a lease, which gives as much as a minute at once.
    /// Leases are no fleet's.
    pub fn reserve_leased(
        &self,
        identity: &Identity,
        tokens: u32,
        leased: Leased<'_>,
        now_ms: u64,
    ) -> Result<Reservation, LimitError> {
        self.take(identity, tokens, Some(leased), now_ms)
    }

    /// As [`Limiter::reserve`], in all gateways together.
    pub async fn admit(
        &self,
        identity: &Identity,
        tokens: u32,
        now_ms: u64,
    ) -> Result<Reservation, LimitError> {
        let Some(fleet) = &self.fleet else { return self.reserve(identity, tokens, now_ms) };
        let wanted = self.inner.wanted(identity);
        if let Some(never) = wanted.iter().find_map(|&(scope, _, caps)| caps.never(scope, tokens)) {
            return Err(never);
        }
        let share = fleet.take(&wanted, tokens).await?;
        // No gateway alone admits more than the limit either.
        match self.reserve(identity, tokens, now_ms) {
            Ok(mut reservation) => {
                reservation.share = Some(share);
                Ok(reservation)
            }
            Err(error) => {
                share.undo();
                Err(error)
            }
        }
    }

    /// Whether the limits are shared now: `None` for a gateway of its own, false while Redis is away.
    pub fn is_shared(&self) -> Option<bool> {
        self.fleet.as_ref().map(|fleet| !fleet.is_away())
    }

    /// Takes one request, `tokens` tokens and one place, from key, project and organisation, or nothing, in this gateway.
    /// `now_ms` is any clock in milliseconds; where it runs backwards nothing refills.
    pub fn reserve(&self, identity: &Identity, tokens: u32, now_ms: u64) -> Result<Reservation, LimitError> {
        self.take(identity, tokens, None, now_ms)
    }

    fn take(
        &self,
        identity: &Identity,
        tokens: u32,
        leased: Option<Leased<'_>>,
        now_ms: u64,
    ) -> Result<Reservation, LimitError> {
        let mut scopes = self.inner.lock();
        scopes.sweep(now_ms);
        let own = self.inner.wanted(identity).map(|(scope, id, caps)| (scope, id, caps, tokens));
        let leased = leased.map(|leased| {
            let caps = Caps { requests: u32::MAX, tokens: leased.tokens_per_minute, concurrency: u32::MAX };
            (Scope::Lease, leased.id, caps, leased.tokens)
        });
        let wanted = || own.into_iter().chain(leased);
        let refusals = wanted()
            .flat_map(|(scope, id, caps, tokens)| scopes.touch(id, caps, now_ms).refusals(scope, tokens));
        // `None` (never) outlasts every wait.
        if let Some(worst) = refusals.max_by_key(|error| error.retry_after_ms.unwrap_or(u64::MAX)) {
            return Err(worst);
        }
        let taken = wanted().map(|(scope, id, caps, tokens)| Taken {
            scope,
            id: id.to_owned(),
            ticket: scopes.touch(id, caps, now_ms).take(tokens),
            tokens,
        });
        let taken = taken.collect();
        Ok(Reservation { inner: self.inner.clone(), taken, tokens, settled: false, share: None })
    }

    /// What is left to `identity` at `now_ms`.
    pub fn headers(&self, identity: &Identity, now_ms: u64) -> RateHeaders {
        let here = self.headers_here(identity, now_ms);
        let wanted = self.inner.wanted(identity);
        match self.fleet.as_ref().and_then(|fleet| fleet.headers(&wanted)) {
            Some(together) => together.tighter(here),
            None => here,
        }
    }

    /// What is left to `identity` in this gateway, the others aside.
    pub fn headers_here(&self, identity: &Identity, now_ms: u64) -> RateHeaders {
        let mut scopes = self.inner.lock();
        let [key, project, organisation] =
            self.inner.wanted(identity).map(|(_, id, caps)| scopes.touch(id, caps, now_ms).headers());
        key.tighter(project).tighter(organisation)
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
    fn wanted<'a>(&self, identity: &'a Identity) -> [(Scope, &'a str, Caps); 3] {
        [
            (Scope::Key, &identity.key_id, self.key_defaults.with(&identity.limits)),
            (Scope::Project, &identity.project_id, self.project_defaults.with(&identity.project_limits)),
            (Scope::Organisation, &identity.org_id, self.organisation_defaults),
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

impl Caps {
    /// Why a request of `tokens` is never admitted, if so.
    fn never(self, scope: Scope, tokens: u32) -> Option<LimitError> {
        let refuse = |kind, limit, requested| LimitError {
            scope,
            kind,
            limit,
            used: 0,
            reserved: 0,
            requested,
            admitted_now: limit,
            reset_ms: 0,
            retry_after_ms: None,
        };
        if tokens > self.tokens {
            return Some(refuse(LimitKind::Tokens, self.tokens, tokens));
        }
        (self.requests == 0).then(|| refuse(LimitKind::Requests, 0, 1))
    }

    fn with(self, own: &KeyLimits) -> Caps {
        Caps {
            requests: own.requests_per_minute.unwrap_or(self.requests),
            tokens: own.tokens_per_minute.unwrap_or(self.tokens),
            concurrency: own.concurrency.unwrap_or(self.concurrency),
        }
    }
}
