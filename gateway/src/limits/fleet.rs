//! Limits that several gateways keep together, through Redis.
//!
//! Redis has the buckets of every scope, and one script checks and takes from all of them at once, by its own clock. It
//! hands out leases: a gateway takes a few percent of a limit ahead and then admits without asking, so the hot path is
//! local. Bounds, for g gateways and a lease of L:
//!
//! - in any window, requests and tokens admitted by all together ≤ limit + rate × window + g × L; requests in flight ≤ limit;
//! - without Redis each gateway refills only its part of the rate (limit / `fleet.gateways`), beginning with what it has
//!   leased: all together stay within the same bound, and less is admitted than before. Requests in flight: its part of
//!   the limit on each gateway, beside those that were running elsewhere when Redis went away;
//! - a gateway that alone has lost Redis adds its part to what the others still take: ≤ limit × (1 + 1 / `fleet.gateways`);
//! - places of a gateway that died come free after `fleet.place_ttl_s`;
//! - a Redis that comes back empty begins with empty buckets that fill within a minute.
//!
//! Nothing here is money: what is billed stands in the ledger alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::scope::Caps;
use super::{LimitError, RateHeaders, Scope};
use crate::config::FleetSection;

mod ask;
mod link;
mod pool;
#[cfg(test)]
mod tests;

use ask::{Ask, Sharing};
use link::{Link, LinkError};
use pool::{Hand, Pool};

/// Between two reports of refunds and places: what a gateway gives back is there for others this soon.
const TICK: Duration = Duration::from_millis(100);
/// Scopes of one report, so that no script runs long.
const REPORT: usize = 64;
/// Ticks between two looks for pools that nobody needs.
const SWEEP_EVERY: u32 = 600;

/// Why a gateway cannot share its limits.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The address is not one.
    #[error("fleet.redis_url: {0}")]
    Address(String),
    /// No randomness for the gateway's name.
    #[error("no random numbers: {0}")]
    Random(String),
}

pub(super) struct Fleet {
    link: Link,
    sharing: Sharing,
    state: Mutex<State>,
    started: Instant,
}

struct State {
    pools: HashMap<String, Pool>,
    /// Since when Redis does not answer.
    away_since: Option<u64>,
}

/// A scope that a request needs.
#[derive(Clone, Debug)]
struct Wanted {
    scope: Scope,
    id: String,
    caps: Caps,
}

impl Fleet {
    /// Connects in the background; until then it is as if Redis were away.
    pub(super) fn start(section: &FleetSection, url: &str) -> Result<Arc<Self>, FleetError> {
        let client = redis::Client::open(url).map_err(|e| FleetError::Address(e.to_string()))?;
        let mut name = [0; 8];
        getrandom::fill(&mut name).map_err(|e| FleetError::Random(e.to_string()))?;
        let gateway = format!("{:016x}", u64::from_le_bytes(name));
        let place_ttl = Duration::from_secs(section.place_ttl_s);
        let timeout = Duration::from_millis(section.timeout_ms);
        let link = Link::new(client, section.redis_prefix.clone(), gateway, timeout, place_ttl);
        let sharing = Sharing { lease_percent: section.lease_percent, gateways: section.gateways };
        let state = Mutex::new(State { pools: HashMap::new(), away_since: Some(0) });
        let fleet = Arc::new(Self { link, sharing, state, started: Instant::now() });
        tokio::spawn(tend(Arc::downgrade(&fleet)));
        Ok(fleet)
    }

    /// Takes one request, `tokens` tokens and one place from every scope, or nothing.
    pub(super) async fn take(
        self: &Arc<Self>,
        scopes: &[(Scope, &str, Caps)],
        tokens: u32,
    ) -> Result<Share, LimitError> {
        let wanted: Vec<Wanted> =
            scopes.iter().map(|&(scope, id, caps)| Wanted { scope, id: id.to_owned(), caps }).collect();
        if let Some(result) = self.take_here(&wanted, tokens) {
            return result;
        }
        // A task of its own: what Redis has handed out is kept where the client goes away meanwhile.
        let fleet = Arc::clone(self);
        match tokio::spawn(async move { fleet.ask(wanted, tokens).await }).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends, and this request with it.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// From the leases; without Redis that is all there is.
    fn take_here(self: &Arc<Self>, wanted: &[Wanted], tokens: u32) -> Option<Result<Share, LimitError>> {
        let now_ms = self.now_ms();
        let mut state = self.lock();
        let away = state.away_since;
        for want in wanted {
            let pool = state.touch(want, now_ms);
            if let Some(since_ms) = away {
                pool.refill(self.sharing, since_ms, now_ms);
            }
        }
        let sharing = away.map(|_| self.sharing);
        let pools = || wanted.iter().filter_map(|want| Some((want, state.pools.get(&want.id)?)));
        if pools().all(|(_, pool)| pool.covers(tokens, sharing)) {
            wanted.iter().for_each(|want| state.touch(want, now_ms).take(tokens, away.is_some()));
            return Some(Ok(self.share(wanted, tokens, now_ms)));
        }
        away?;
        let refusals = pools().flat_map(|(want, pool)| pool.refusals(want.scope, tokens, None, self.sharing));
        worst(refusals).map(Err)
    }

    async fn ask(self: Arc<Self>, wanted: Vec<Wanted>, tokens: u32) -> Result<Share, LimitError> {
        let (asks, hands): (Vec<Ask>, Vec<Hand>) = {
            let now_ms = self.now_ms();
            let mut state = self.lock();
            wanted.iter().map(|want| state.touch(want, now_ms).ask(&want.id, tokens, self.sharing)).unzip()
        };
        let answer = self.link.call(&asks).await;
        let now_ms = self.now_ms();
        let mut state = self.lock();
        let asked = wanted.iter().zip(asks.iter().zip(&hands));
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                asked.for_each(|(want, (ask, hand))| state.touch(want, now_ms).failed(ask, *hand));
                self.went_away(&mut state, &error, now_ms);
                drop(state);
                return self.take_here(&wanted, tokens).unwrap_or_else(|| Err(refused(&wanted, tokens)));
            }
        };
        let mut refusals = Vec::new();
        for ((want, (ask, hand)), grant) in asked.zip(&answer.grants) {
            let pool = state.touch(want, now_ms);
            pool.answered(ask, *hand, *grant, answer.taken, now_ms);
            if !answer.taken {
                refusals.extend(pool.refusals(want.scope, tokens, Some((ask, *grant)), self.sharing));
            }
        }
        if answer.taken {
            return Ok(self.share(&wanted, tokens, now_ms));
        }
        Err(worst(refusals.into_iter()).unwrap_or_else(|| refused(&wanted, tokens)))
    }

    /// The figures of the scope with least left; `None` where Redis was not asked about any yet.
    pub(super) fn headers(&self, scopes: &[(Scope, &str, Caps)]) -> Option<RateHeaders> {
        let now_ms = self.now_ms();
        let mut state = self.lock();
        let away = state.away_since;
        let headers = scopes.iter().filter_map(|(_, id, _)| {
            let pool = state.pools.get_mut(*id)?;
            if let Some(since_ms) = away {
                pool.refill(self.sharing, since_ms, now_ms);
            }
            pool.headers(away.map(|_| self.sharing), now_ms)
        });
        headers.reduce(RateHeaders::tighter)
    }

    /// True while Redis does not answer.
    pub(super) fn is_away(&self) -> bool {
        self.lock().away_since.is_some()
    }

    fn share(self: &Arc<Self>, wanted: &[Wanted], tokens: u32, at_ms: u64) -> Share {
        let ids = wanted.iter().map(|want| want.id.clone()).collect();
        Share { fleet: Arc::clone(self), ids, tokens, at_ms, ended: false }
    }

    fn release(&self, ids: &[String], tokens: (u32, u32), at_ms: u64, counts: bool) {
        let age_ms = self.now_ms().saturating_sub(at_ms);
        let mut state = self.lock();
        let away = state.away_since.is_some();
        for id in ids {
            if let Some(pool) = state.pools.get_mut(id) {
                pool.release(self.sharing, tokens, age_ms, counts, away);
            }
        }
    }

    fn went_away(&self, state: &mut State, error: &LinkError, now_ms: u64) {
        self.link.disconnect();
        if state.away_since.is_none() {
            tracing::warn!(%error, "Redis is away: this gateway admits its own part of each limit");
            state.away_since = Some(now_ms);
            state.pools.values_mut().for_each(Pool::went_away);
        }
    }

    /// Connects where needed, reports refunds, debits and places.
    async fn tick(&self) {
        let result = if self.is_away() { self.come_back().await } else { self.report().await };
        if let Err(error) = result {
            let now_ms = self.now_ms();
            let mut state = self.lock();
            self.went_away(&mut state, &error, now_ms);
        }
    }

    async fn come_back(&self) -> Result<(), LinkError> {
        self.link.connect().await?;
        let asks = self.asks(|pool, id, now_ms| pool.resync(id, self.sharing, now_ms));
        self.tell(&asks).await?;
        let mut state = self.lock();
        state.away_since = None;
        state.pools.values_mut().for_each(Pool::came_back);
        tracing::info!("Redis is there: limits are shared");
        Ok(())
    }

    async fn report(&self) -> Result<(), LinkError> {
        let renew_ms = u64::try_from(self.link.place_ttl().as_millis() / 3).unwrap_or(u64::MAX);
        let asks = self.asks(|pool, id, now_ms| pool.report(id, self.sharing, renew_ms, now_ms));
        self.tell(&asks).await
    }

    fn asks(&self, mut ask: impl FnMut(&mut Pool, &str, u64) -> Option<Ask>) -> Vec<Ask> {
        let now_ms = self.now_ms();
        let mut state = self.lock();
        state.pools.iter_mut().filter_map(|(id, pool)| ask(pool, id, now_ms)).collect()
    }

    async fn tell(&self, asks: &[Ask]) -> Result<(), LinkError> {
        for (at, chunk) in asks.chunks(REPORT).enumerate() {
            if let Err(error) = self.link.call_patiently(chunk).await {
                let mut state = self.lock();
                for ask in &asks[at * REPORT..] {
                    if let Some(pool) = state.pools.get_mut(&ask.id) {
                        pool.lost(ask);
                    }
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn sweep(&self) {
        let now_ms = self.now_ms();
        self.lock().pools.retain(|_, pool| !pool.is_idle(now_ms));
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is a few integer operations that cannot panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn touch(&mut self, want: &Wanted, now_ms: u64) -> &mut Pool {
        if !self.pools.contains_key(&want.id) {
            self.pools.insert(want.id.clone(), Pool::new(want.caps, now_ms));
        }
        let pool = self.pools.get_mut(&want.id).expect("inserted above");
        pool.touch(want.caps, now_ms);
        pool
    }
}

/// Runs until the fleet is dropped.
async fn tend(fleet: Weak<Fleet>) {
    for tick in 0_u32.. {
        let Some(fleet) = fleet.upgrade() else { return };
        fleet.tick().await;
        if tick % SWEEP_EVERY == SWEEP_EVERY - 1 {
            fleet.sweep();
        }
        drop(fleet);
        tokio::time::sleep(TICK).await;
    }
}

/// The refusal that lasts longest; `None` (never) outlasts every wait.
fn worst(refusals: impl Iterator<Item = LimitError>) -> Option<LimitError> {
    refusals.max_by_key(|error| error.retry_after_ms.unwrap_or(u64::MAX))
}

/// Where Redis came back or changed its mind between two questions: try again at once.
fn refused(wanted: &[Wanted], tokens: u32) -> LimitError {
    let tick_ms = u64::try_from(TICK.as_millis()).unwrap_or(1);
    let (scope, limit) = wanted.first().map_or((Scope::Key, 0), |want| (want.scope, want.caps.tokens));
    LimitError {
        scope,
        kind: super::LimitKind::Tokens,
        limit,
        used: limit,
        reserved: 0,
        requested: tokens,
        admitted_now: 0,
        reset_ms: tick_ms,
        retry_after_ms: Some(tick_ms),
    }
}

/// What one request has taken of the common limits; dropping it gives back its place and its tokens.
pub(super) struct Share {
    fleet: Arc<Fleet>,
    ids: Vec<String>,
    tokens: u32,
    at_ms: u64,
    ended: bool,
}

impl Share {
    /// Unused tokens come back; those beyond are taken now.
    pub(super) fn settle(mut self, actual: u32) {
        self.end(actual, true);
    }

    /// As if it had never been taken.
    pub(super) fn undo(mut self) {
        self.end(0, false);
    }

    fn end(&mut self, actual: u32, counts: bool) {
        if !std::mem::replace(&mut self.ended, true) {
            self.fleet.release(&self.ids, (self.tokens, actual), self.at_ms, counts);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.end(0, true);
    }
}
