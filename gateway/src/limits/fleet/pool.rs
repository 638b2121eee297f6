//! What one gateway may still admit for one scope without asking: its lease. A pure state machine; time is passed in.

use super::super::scope::{CONCURRENCY_RETRY_MS, Caps};
use super::super::{LimitError, LimitKind, RateHeaders, Scope};
use super::ask::{Ask, Grant, MINUTE_MS, Pair, Sharing, scaled};

/// How long an unused place stays leased.
const IDLE_PLACE_MS: u64 = 1_000;
/// How long an unused pool is remembered; by then its limits are full again in any case.
const IDLE_POOL_MS: u64 = 120_000;

/// What a request that must ask holds in its hand meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hand {
    units: Pair,
    place: bool,
    /// Asks for a lease, too.
    leads: bool,
}

#[derive(Debug)]
pub(super) struct Pool {
    caps: Caps,
    /// Leased and unused; negative after a debit.
    level: Pair,
    pub(super) in_use: u32,
    /// Leased, those in use among them.
    places: u32,
    /// To be told with the next question.
    back: Pair,
    /// Somebody asks for a lease already.
    asking: bool,
    /// Used since Redis is away.
    used: Pair,
    /// Own share added since then.
    refilled: Pair,
    /// What was left to everybody, and when.
    seen: Option<(Pair, u64)>,
    touched_ms: u64,
    renewed_ms: u64,
}

impl Pool {
    pub(super) fn new(caps: Caps, now_ms: u64) -> Self {
        Self {
            caps,
            level: Pair::default(),
            in_use: 0,
            places: 0,
            back: Pair::default(),
            asking: false,
            used: Pair::default(),
            refilled: Pair::default(),
            seen: None,
            touched_ms: now_ms,
            renewed_ms: now_ms,
        }
    }

    pub(super) fn touch(&mut self, caps: Caps, now_ms: u64) {
        self.caps = caps;
        self.touched_ms = now_ms;
    }

    /// Adds the own share of what has refilled since Redis went away. It begins with nothing: all that was there may have
    /// been taken by others.
    pub(super) fn refill(&mut self, sharing: Sharing, since_ms: u64, now_ms: u64) {
        let elapsed = i64::try_from(now_ms.saturating_sub(since_ms)).unwrap_or(i64::MAX);
        let one = |level: &mut i64, refilled: &mut i64, limit: u32| {
            let all = i64::from(limit).saturating_mul(elapsed) / i64::from(sharing.gateways.max(1));
            let more = all.saturating_sub(*refilled);
            *refilled = all;
            // A lease that is larger stays, it was taken from the common limit.
            *level = level.saturating_add(more).min(sharing.share(limit).max(*level));
        };
        one(&mut self.level.requests, &mut self.refilled.requests, self.caps.requests);
        one(&mut self.level.tokens, &mut self.refilled.tokens, self.caps.tokens);
    }

    /// True where a request of `tokens` fits into the lease; `sharing` while Redis is away.
    pub(super) fn covers(&self, tokens: u32, away: Option<Sharing>) -> bool {
        let places = away.map_or(self.places, |sharing| self.away_places(sharing));
        self.level.requests >= MINUTE_MS
            && (tokens == 0 || self.level.tokens >= scaled(tokens))
            && self.in_use < places
    }

    fn away_places(&self, sharing: Sharing) -> u32 {
        self.places.max(self.caps.concurrency / sharing.gateways.max(1))
    }

    pub(super) fn take(&mut self, tokens: u32, away: bool) {
        self.level.requests -= MINUTE_MS;
        self.level.tokens -= scaled(tokens);
        self.in_use += 1;
        if away {
            self.used.requests += MINUTE_MS;
            self.used.tokens += scaled(tokens);
        }
    }

    /// Takes into the hand what is there, and says what to ask for.
    pub(super) fn ask(&mut self, id: &str, tokens: u32, sharing: Sharing) -> (Ask, Hand) {
        let back = self.take_back();
        let grab = |level: &mut i64, need: i64| {
            // Whole units only: the rest is asked for.
            let had = (*level).clamp(0, need) / MINUTE_MS * MINUTE_MS;
            *level -= had;
            had
        };
        let units = Pair {
            requests: grab(&mut self.level.requests, MINUTE_MS),
            tokens: grab(&mut self.level.tokens, scaled(tokens)),
        };
        let place = self.in_use < self.places;
        self.in_use += u32::from(place);
        let need = [1 - whole(units.requests), tokens - whole(units.tokens), u32::from(!place)];
        let leads = !std::mem::replace(&mut self.asking, true);
        let limits = [self.caps.requests, self.caps.tokens, self.caps.concurrency];
        let want = std::array::from_fn(|at| {
            let lease = if leads { sharing.lease(limits[at]) } else { 0 };
            // No more is leased than a lease, whatever the question is about.
            let held = match at {
                0 => whole(self.level.requests),
                1 => whole(self.level.tokens),
                _ => self.places - self.in_use.min(self.places),
            };
            need[at].saturating_add(lease.saturating_sub(held))
        });
        let ask = Ask { id: id.to_owned(), caps: self.caps, need, want, back, places_back: 0, places: None };
        (ask, Hand { units, place, leads })
    }

    /// The answer to a question of a request; with `taken` the hand is full now and becomes the request's.
    pub(super) fn answered(&mut self, ask: &Ask, hand: Hand, grant: Grant, taken: bool, now_ms: u64) {
        self.asking &= !hand.leads;
        self.seen = Some((grant.level, now_ms));
        if !taken {
            return self.put_down(hand);
        }
        self.level.requests += (grant.requests - i64::from(ask.need[0])) * MINUTE_MS;
        self.level.tokens += (grant.tokens - i64::from(ask.need[1])) * MINUTE_MS;
        self.places += u32::try_from(grant.places).unwrap_or(0);
        self.in_use += u32::from(!hand.place);
        self.renewed_ms = now_ms;
    }

    /// The question failed; what was used already must not be forgotten.
    pub(super) fn failed(&mut self, ask: &Ask, hand: Hand) {
        self.asking &= !hand.leads;
        self.put_down(hand);
        self.lost(ask);
    }

    /// As [`Pool::failed`] for a report. What was given back is not given again: it may have arrived.
    pub(super) fn lost(&mut self, ask: &Ask) {
        self.back.requests += ask.back.requests.min(0);
        self.back.tokens += ask.back.tokens.min(0);
    }

    fn put_down(&mut self, hand: Hand) {
        self.level.requests += hand.units.requests;
        self.level.tokens += hand.units.tokens;
        self.in_use -= u32::from(hand.place);
    }

    /// Ends a request taken `age_ms` ago. `counts`: the request itself stays counted.
    pub(super) fn release(
        &mut self,
        sharing: Sharing,
        (reserved, actual): (u32, u32),
        age_ms: u64,
        counts: bool,
        away: bool,
    ) {
        self.in_use = self.in_use.saturating_sub(1);
        let unused =
            Pair { requests: if counts { 0 } else { MINUTE_MS }, tokens: scaled(reserved) - scaled(actual) };
        let age = i64::try_from(age_ms).unwrap_or(i64::MAX);
        let one = |level: &mut i64, back: &mut i64, used: &mut i64, unused: i64, limit: u32| {
            // While it was taken, at most this much refilled that a full bucket would have spilt.
            let spilt = i64::from(limit).saturating_mul(age);
            if away {
                *used -= unused;
                let spilt = spilt / i64::from(sharing.gateways.max(1));
                let most = sharing.share(limit).max(*level);
                *level = (*level + unused.saturating_sub(spilt).max(unused.min(0))).min(most);
                return;
            }
            *level += unused;
            let over = (*level - scaled(sharing.lease(limit))).clamp(0, unused.max(0));
            *level -= over;
            *back += over.saturating_sub(spilt).max(0);
        };
        let Self { level, back, used, caps, .. } = self;
        one(&mut level.requests, &mut back.requests, &mut used.requests, unused.requests, caps.requests);
        one(&mut level.tokens, &mut back.tokens, &mut used.tokens, unused.tokens, caps.tokens);
    }

    /// What to tell the server, debits beyond the lease included.
    fn take_back(&mut self) -> Pair {
        let debt = |level: &mut i64| {
            let debt = (*level).min(0);
            *level -= debt;
            debt
        };
        let back = std::mem::take(&mut self.back);
        Pair {
            requests: back.requests + debt(&mut self.level.requests),
            tokens: back.tokens + debt(&mut self.level.tokens),
        }
    }

    /// What is to be reported from time to time, if anything: debits, refunds, places that are not needed.
    pub(super) fn report(&mut self, id: &str, sharing: Sharing, renew_ms: u64, now_ms: u64) -> Option<Ask> {
        let is_idle = now_ms.saturating_sub(self.touched_ms) > IDLE_PLACE_MS;
        let keep = if is_idle { 0 } else { sharing.lease(self.caps.concurrency) };
        let idle = self.places.saturating_sub(self.in_use);
        let places_back = if self.asking { 0 } else { idle.saturating_sub(keep) };
        let is_due = self.places > 0 && now_ms.saturating_sub(self.renewed_ms) >= renew_ms;
        let owes = self.level.requests < 0 || self.level.tokens < 0;
        if places_back == 0 && !is_due && !owes && self.back == Pair::default() {
            return None;
        }
        self.places -= places_back;
        self.renewed_ms = now_ms;
        let back = self.take_back();
        Some(Ask { places_back, ..self.plain(id, back) })
    }

    /// When Redis is back: everything in use, and what was used meanwhile.
    pub(super) fn resync(&mut self, id: &str, sharing: Sharing, now_ms: u64) -> Option<Ask> {
        let used = std::mem::take(&mut self.used);
        let owed = |level: i64, used: i64, limit: u32| {
            // What has refilled meanwhile need not be paid twice.
            let missing = (sharing.share(limit) - level).max(0);
            -used.clamp(0, missing)
        };
        let debit = Pair {
            requests: owed(self.level.requests, used.requests, self.caps.requests),
            tokens: owed(self.level.tokens, used.tokens, self.caps.tokens),
        };
        self.level = Pair { requests: self.level.requests.min(0), tokens: self.level.tokens.min(0) };
        let back = self.take_back();
        let back = Pair { requests: back.requests + debit.requests, tokens: back.tokens + debit.tokens };
        self.places = self.in_use;
        self.renewed_ms = now_ms;
        let is_plain = self.in_use == 0 && back == Pair::default();
        (!is_plain).then(|| Ask { places: Some(self.in_use), ..self.plain(id, back) })
    }

    /// Nothing needed or wanted.
    fn plain(&self, id: &str, back: Pair) -> Ask {
        let (need, want) = ([0; 3], [0; 3]);
        Ask { id: id.to_owned(), caps: self.caps, need, want, back, places_back: 0, places: None }
    }

    /// Redis has gone away just now.
    pub(super) fn went_away(&mut self) {
        (self.used, self.refilled) = (Pair::default(), Pair::default());
    }

    /// Redis is back: what was used between the report and now is still owed.
    pub(super) fn came_back(&mut self) {
        let used = std::mem::take(&mut self.used);
        self.back.requests -= used.requests.max(0);
        self.back.tokens -= used.tokens.max(0);
        self.level = Pair { requests: self.level.requests.min(0), tokens: self.level.tokens.min(0) };
    }

    pub(super) fn is_idle(&self, now_ms: u64) -> bool {
        self.in_use == 0
            && self.places == 0
            && !self.asking
            && self.back == Pair::default()
            && now_ms.saturating_sub(self.touched_ms) > IDLE_POOL_MS
    }

    /// Every limit that one more request of `tokens` breaks, by what the server said, or by the own share.
    pub(super) fn refusals(
        &self,
        scope: Scope,
        tokens: u32,
        grant: Option<(&Ask, Grant)>,
        sharing: Sharing,
    ) -> Vec<LimitError> {
        let gateways = if grant.is_some() { 1 } else { i64::from(sharing.gateways.max(1)) };
        let (need, level, free) = match grant {
            Some((ask, grant)) => (ask.need, grant.level, grant.free),
            None => {
                let places = self.away_places(sharing);
                ([1, tokens, 1], self.level, i64::from(places) - i64::from(self.in_use))
            }
        };
        let rate = |kind, need: u32, level: i64, limit: u32, requested: u32| {
            let missing = scaled(need) - level;
            let never = requested > limit || (gateways > 1 && scaled(requested) > sharing.share(limit));
            let wait = missing.saturating_mul(gateways).checked_add(i64::from(limit) - 1);
            let wait_ms = wait.and_then(|wait| wait.checked_div(limit.into())).filter(|_| !never);
            let admitted_now = whole(level).min(limit);
            let reset = (scaled(limit) - level).max(0).saturating_mul(gateways).checked_div(limit.into());
            (need > 0 && missing > 0).then(|| LimitError {
                scope,
                kind,
                limit,
                used: limit - admitted_now,
                // What requests in other gateways may give back is not known here.
                reserved: 0,
                requested,
                admitted_now,
                reset_ms: reset.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0),
                retry_after_ms: wait_ms.and_then(|ms| u64::try_from(ms).ok()),
            })
        };
        let places = (i64::from(need[2]) > free).then(|| LimitError {
            scope,
            kind: LimitKind::Concurrency,
            limit: self.caps.concurrency,
            used: u32::try_from(i64::from(self.caps.concurrency) - free).unwrap_or(self.caps.concurrency),
            reserved: 0,
            requested: 1,
            admitted_now: 0,
            reset_ms: CONCURRENCY_RETRY_MS,
            retry_after_ms: (self.caps.concurrency > 0).then_some(CONCURRENCY_RETRY_MS),
        });
        [
            rate(LimitKind::Requests, need[0], level.requests, self.caps.requests, 1),
            rate(LimitKind::Tokens, need[1], level.tokens, self.caps.tokens, tokens),
            places,
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// What is left as last heard, or of the own share; `None` where nothing was heard yet.
    pub(super) fn headers(&self, away: Option<Sharing>, now_ms: u64) -> Option<RateHeaders> {
        let (common, seen_ms) = match away {
            Some(_) => (Pair::default(), now_ms),
            None => self.seen?,
        };
        let elapsed = i64::try_from(now_ms.saturating_sub(seen_ms)).unwrap_or(i64::MAX);
        let one = |level: i64, common: i64, limit: u32| {
            let refilled = common.saturating_add(i64::from(limit).saturating_mul(elapsed)).min(scaled(limit));
            let left = if away.is_some() { level } else { refilled.saturating_add(level) };
            let left = left.clamp(0, scaled(limit));
            let missing = scaled(limit) - left;
            let reset = missing.checked_div(limit.into()).unwrap_or(0);
            (whole(left), u64::try_from(reset).unwrap_or(0))
        };
        let requests = one(self.level.requests, common.requests, self.caps.requests);
        let tokens = one(self.level.tokens, common.tokens, self.caps.tokens);
        Some(RateHeaders {
            limit_requests: self.caps.requests,
            remaining_requests: requests.0,
            reset_requests_ms: requests.1,
            limit_tokens: self.caps.tokens,
            remaining_tokens: tokens.0,
            reset_tokens_ms: tokens.1,
        })
    }
}

fn whole(level: i64) -> u32 {
    u32::try_from(level.max(0) / MINUTE_MS).unwrap_or(u32::MAX)
}
