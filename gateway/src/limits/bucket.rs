//! A token bucket in whole numbers: a level in 1/60000 units, so that a limit per minute refills exactly per millisecond.
//!
//! A refund must restore what the level *would* be, not more: while a reservation holds the level down, refill goes in
//! that a full bucket would have spilt, and handing out both would admit more than the limit. So each open reservation
//! keeps a shadow level, that of a bucket full just after its own take, and a refund never lifts the level above it.
//! That costs one addition per open reservation and change.

const MINUTE_MS: i64 = 60_000;

/// Holds at most `limit` units and refills `limit` units a minute; the level may be negative after a debit.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    limit: u32,
    level: i64,
    at_ms: u64,
    next_ticket: u64,
    /// Open reservations, oldest first.
    open: Vec<Open>,
}

/// An open reservation.
#[derive(Clone, Debug)]
struct Open {
    ticket: u64,
    /// The level of a bucket that was full just after the take.
    shadow: i64,
    units: u32,
}

impl Bucket {
    pub(super) fn full(limit: u32, now_ms: u64) -> Self {
        Self { limit, level: scaled(limit), at_ms: now_ms, next_ticket: 0, open: Vec::new() }
    }

    /// Refills up to `now_ms` and adopts a changed limit (what was used stays used).
    pub(super) fn advance(&mut self, limit: u32, now_ms: u64) {
        // Nothing refills within a millisecond, in which a busy gateway asks many times.
        if let Some(elapsed) = now_ms.checked_sub(self.at_ms).filter(|elapsed| *elapsed > 0) {
            let refill = i64::try_from(elapsed).unwrap_or(i64::MAX).saturating_mul(i64::from(self.limit));
            let full = scaled(self.limit);
            self.levels(|level| level.saturating_add(refill).min(full));
            self.at_ms = now_ms;
        }
        if limit != self.limit {
            let change = scaled(limit) - scaled(self.limit);
            self.levels(|level| level.saturating_add(change));
            self.limit = limit;
        }
    }

    /// Takes for good.
    pub(super) fn take(&mut self, units: u32) {
        self.levels(|level| level.saturating_sub(scaled(units)));
    }

    /// Takes with a ticket for a later [`Bucket::give_back`].
    pub(super) fn reserve(&mut self, units: u32) -> u64 {
        self.take(units);
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.open.push(Open { ticket, shadow: scaled(self.limit), units });
        ticket
    }

    /// Closes the reservation; `units` of it were not used.
    pub(super) fn give_back(&mut self, ticket: u64, units: u32) {
        let Ok(at) = self.open.binary_search_by_key(&ticket, |open| open.ticket) else { return };
        let Open { shadow, .. } = self.open.remove(at);
        let restore = |level: &mut i64| *level = level.saturating_add(scaled(units)).min(shadow);
        restore(&mut self.level);
        // The take lies after the takes of older reservations only, so only their shadows held it.
        self.open[..at].iter_mut().for_each(|open| restore(&mut open.shadow));
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// Units of all open reservations.
    pub(super) fn reserved(&self) -> u32 {
        self.open.iter().fold(0, |sum, open| sum.saturating_add(open.units))
    }

    /// Whole units that would be admitted now.
    pub(super) fn remaining(&self) -> u32 {
        u32::try_from(self.level.max(0) / MINUTE_MS).unwrap_or(u32::MAX)
    }

    /// Milliseconds until `units` fit: 0 if now, `None` if they never do.
    pub(super) fn wait_ms(&self, units: u32) -> Option<u64> {
        if units > self.limit {
            return None;
        }
        let missing = scaled(units).saturating_sub(self.level);
        if missing <= 0 {
            return Some(0);
        }
        // A limit of 0 in debt never recovers.
        let rate = u64::from(self.limit);
        u64::try_from(missing).ok()?.checked_add(rate)?.checked_sub(1)?.checked_div(rate)
    }

    /// Milliseconds until it is full.
    pub(super) fn reset_ms(&self) -> u64 {
        self.wait_ms(self.limit).unwrap_or(0)
    }

    fn levels(&mut self, change: impl Fn(i64) -> i64) {
        self.level = change(self.level);
        self.open.iter_mut().for_each(|open| open.shadow = change(open.shadow));
    }
}

fn scaled(units: u32) -> i64 {
    i64::from(units) * MINUTE_MS
}
