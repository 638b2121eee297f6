//! The three limits of one key or project.

use super::bucket::Bucket;
use super::{LimitError, LimitKind, RateHeaders, Scope};

/// When a place frees cannot be known; this is the hint given.
pub(super) const CONCURRENCY_RETRY_MS: u64 = 1000;

/// Limits in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caps {
    pub(super) requests: u32,
    pub(super) tokens: u32,
    pub(super) concurrency: u32,
}

#[derive(Debug)]
pub(super) struct ScopeState {
    requests: Bucket,
    tokens: Bucket,
    concurrency: u32,
    pub(super) in_flight: u32,
}

impl ScopeState {
    pub(super) fn new(caps: Caps, now_ms: u64) -> Self {
        Self {
            requests: Bucket::full(caps.requests, now_ms),
            tokens: Bucket::full(caps.tokens, now_ms),
            concurrency: caps.concurrency,
            in_flight: 0,
        }
    }

    pub(super) fn advance(&mut self, caps: Caps, now_ms: u64) {
        self.requests.advance(caps.requests, now_ms);
        self.tokens.advance(caps.tokens, now_ms);
        self.concurrency = caps.concurrency;
    }

    /// Every limit that one more request of `tokens` tokens would break.
    pub(super) fn refusals(&self, scope: Scope, tokens: u32) -> Vec<LimitError> {
        let rate = |kind, bucket: &Bucket, requested| {
            let wait_ms = bucket.wait_ms(requested);
            let admitted_now = bucket.remaining().min(bucket.limit());
            let used = bucket.limit() - admitted_now;
            (wait_ms != Some(0)).then(|| LimitError {
                scope,
                kind,
                limit: bucket.limit(),
                used,
                reserved: bucket.reserved().min(used),
                requested,
                admitted_now,
                reset_ms: bucket.reset_ms(),
                retry_after_ms: wait_ms,
            })
        };
        let places = (self.in_flight >= self.concurrency).then(|| LimitError {
            scope,
            kind: LimitKind::Concurrency,
            limit: self.concurrency,
            used: self.in_flight,
            reserved: 0,
            requested: 1,
            admitted_now: 0,
            reset_ms: CONCURRENCY_RETRY_MS,
            retry_after_ms: (self.concurrency > 0).then_some(CONCURRENCY_RETRY_MS),
        });
        [rate(LimitKind::Requests, &self.requests, 1), rate(LimitKind::Tokens, &self.tokens, tokens), places]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Takes a request, a place and the tokens; the ticket is for [`ScopeState::release`].
    pub(super) fn take(&mut self, tokens: u32) -> u64 {
        self.requests.take(1);
        self.in_flight += 1;
        self.tokens.reserve(tokens)
    }

    /// Frees the place; gives back unused tokens, or takes those beyond the reservation at `now_ms`.
    pub(super) fn release(&mut self, ticket: u64, reserved: u32, actual: u32, now_ms: Option<u64>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.tokens.give_back(ticket, reserved.saturating_sub(actual));
        if actual > reserved {
            // Refilled first: a debit from a level not yet topped up would be partly forgiven.
            if let Some(now_ms) = now_ms {
                self.tokens.advance(self.tokens.limit(), now_ms);
            }
            self.tokens.take(actual - reserved);
        }
    }

    pub(super) fn headers(&self) -> RateHeaders {
        RateHeaders {
            limit_requests: self.requests.limit(),
            remaining_requests: self.requests.remaining(),
            reset_requests_ms: self.requests.reset_ms(),
            limit_tokens: self.tokens.limit(),
            remaining_tokens: self.tokens.remaining(),
            reset_tokens_ms: self.tokens.reset_ms(),
        }
    }

    /// True where forgetting the scope would change nothing.
    pub(super) fn is_idle(&self, now_ms: u64) -> bool {
        let full = |bucket: &Bucket| {
            let mut bucket = bucket.clone();
            bucket.advance(bucket.limit(), now_ms);
            bucket.reset_ms() == 0
        };
        self.in_flight == 0 && full(&self.requests) && full(&self.tokens)
    }
}

impl RateHeaders {
    /// For requests and for tokens the figures of whichever side has less left.
    pub(super) fn tighter(self, other: RateHeaders) -> RateHeaders {
        let (requests, tokens) = (
            if other.remaining_requests < self.remaining_requests { other } else { self },
            if other.remaining_tokens < self.remaining_tokens { other } else { self },
        );
        RateHeaders {
            limit_tokens: tokens.limit_tokens,
            remaining_tokens: tokens.remaining_tokens,
            reset_tokens_ms: tokens.reset_tokens_ms,
            ..requests
        }
    }
}
