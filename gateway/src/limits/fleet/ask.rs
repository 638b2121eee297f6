//! What is asked of Redis for one scope and what it answers, in numbers.

use super::super::scope::Caps;

/// Amounts are in 1/60000 units, so that a limit per minute refills exactly per millisecond.
pub(super) const MINUTE_MS: i64 = 60_000;

/// How much a lease is, and what is left to a gateway that cannot ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sharing {
    /// Part of a limit that is leased ahead, percent.
    pub(super) lease_percent: u32,
    /// Gateways among which the limits are divided while Redis is away.
    pub(super) gateways: u32,
}

impl Sharing {
    /// Units leased ahead; none of a small limit, so that it is exact.
    pub(super) fn lease(self, limit: u32) -> u32 {
        u32::try_from(u64::from(limit) * u64::from(self.lease_percent) / 100).unwrap_or(limit)
    }

    pub(super) fn share(self, limit: u32) -> i64 {
        scaled(limit) / i64::from(self.gateways.max(1))
    }
}

/// Requests and tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) requests: i64,
    pub(super) tokens: i64,
}

/// Numbers for one scope, as the script takes them.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) id: String,
    pub(super) caps: Caps,
    pub(super) need: [u32; 3],
    pub(super) want: [u32; 3],
    /// Given back, or used already where negative.
    pub(super) back: Pair,
    pub(super) places_back: u32,
    /// All places held, where the server's note may be wrong.
    pub(super) places: Option<u32>,
}

impl Ask {
    pub(super) fn numbers(&self) -> [i64; 13] {
        let Caps { requests, tokens, concurrency } = self.caps;
        let [need_requests, need_tokens, need_places] = self.need.map(i64::from);
        let [want_requests, want_tokens, want_places] = self.want.map(i64::from);
        [
            requests.into(),
            tokens.into(),
            concurrency.into(),
            need_requests,
            need_tokens,
            need_places,
            want_requests,
            want_tokens,
            want_places,
            self.back.requests,
            self.back.tokens,
            self.places_back.into(),
            self.places.map_or(-1, i64::from),
        ]
    }
}

/// The script's answer for one scope.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Grant {
    pub(super) requests: i64,
    pub(super) tokens: i64,
    pub(super) places: i64,
    /// Left to everybody after it.
    pub(super) level: Pair,
    pub(super) free: i64,
}

impl Grant {
    /// From six numbers.
    pub(super) fn read(numbers: &[i64]) -> Self {
        let at = |at: usize| numbers.get(at).copied().unwrap_or(0);
        let level = Pair { requests: at(3), tokens: at(4) };
        Self { requests: at(0), tokens: at(1), places: at(2), level, free: at(5) }
    }
}

/// Whole units as an amount.
pub(super) fn scaled(units: u32) -> i64 {
    i64::from(units) * MINUTE_MS
}
