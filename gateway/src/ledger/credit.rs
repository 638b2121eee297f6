//! What is left of an organisation's credit. Spending takes from the grant that expires first; what no grant covers is
//! debt, and the next grant pays it.

use crate::money::Picos;

/// What is left of one grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// Its row.
    pub(super) seq: i64,
    pub(super) left: Picos,
    /// First instant at which the rest is gone, Unix milliseconds.
    pub(super) expires_ms: Option<u64>,
}

/// One organisation's credit. Either something is left or something is owed, never both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Purse {
    /// Granted less expired, plus corrections, over all time.
    pub(super) credited: i64,
    /// Those with something left, the first to expire first.
    pub(super) grants: Vec<Grant>,
}

impl Purse {
    /// As of the store.
    pub(super) fn new(credited: i64, mut grants: Vec<Grant>) -> Self {
        grants.sort_by_key(Grant::order);
        Self { credited, grants }
    }

    /// What a grant of `amount` leaves after the debt is paid, given what was `spent` in all. Nothing left is no grant.
    pub(super) fn grant(
        &mut self,
        seq: i64,
        amount: Picos,
        expires_ms: Option<u64>,
        spent: i64,
    ) -> Option<Grant> {
        let left: i64 = self.grants.iter().map(|grant| grant.left.0).sum();
        let debt = i128::from(left) - (i128::from(self.credited) - i128::from(spent));
        self.credited += amount.0;
        let left = i64::try_from((i128::from(amount.0) - debt).max(0)).unwrap_or(i64::MAX);
        if left == 0 {
            return None;
        }
        let grant = Grant { seq, left: Picos(left), expires_ms };
        let at = self.grants.partition_point(|other| other.order() <= grant.order());
        self.grants.insert(at, grant);
        Some(grant)
    }

    /// Takes what was spent or corrected away; the grants that changed.
    pub(super) fn take(&mut self, amount: Picos) -> Vec<Grant> {
        let mut missing = amount.0;
        let mut changed = Vec::new();
        for grant in &mut self.grants {
            let part = missing.min(grant.left.0);
            if part > 0 {
                grant.left.0 -= part;
                missing -= part;
                changed.push(*grant);
            }
        }
        self.grants.retain(|grant| grant.left > Picos::ZERO);
        changed
    }

    /// A grant past its time, and how much of it can go: what is held by requests in flight stays until they end.
    pub(super) fn due(&self, now_ms: u64, held: i64) -> Option<(Grant, Picos)> {
        let free = self.grants.iter().map(|grant| grant.left.0).sum::<i64>() - held;
        let due = self.grants.iter().find(|grant| grant.expires_ms.is_some_and(|at| at <= now_ms));
        due.map(|grant| (*grant, Picos(grant.left.0.min(free)))).filter(|(_, amount)| *amount > Picos::ZERO)
    }

    /// Takes `amount` off the grant, for its expiry.
    pub(super) fn expire(&mut self, seq: i64, amount: Picos) -> Option<Grant> {
        let grant = self.grants.iter_mut().find(|grant| grant.seq == seq && grant.left >= amount)?;
        grant.left.0 -= amount.0;
        let changed = *grant;
        self.credited -= amount.0;
        self.grants.retain(|grant| grant.left > Picos::ZERO);
        Some(changed)
    }
}

impl Grant {
    fn order(&self) -> (u64, i64) {
        (self.expires_ms.unwrap_or(u64::MAX), self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_expires_first_is_spent_first_and_debt_is_paid_first() {
        let mut purse = Purse::default();
        assert_eq!(purse.grant(1, Picos(100), None, 30).map(|grant| grant.left), Some(Picos(70)));
        purse.grant(2, Picos(50), Some(9), 30).unwrap();
        let changed = purse.take(Picos(60));
        let left: Vec<_> = changed.iter().map(|grant| (grant.seq, grant.left.0)).collect();
        assert_eq!(left, [(2, 0), (1, 60)]);
        assert_eq!(purse.take(Picos(100)).len(), 1);
        // 190 spent, 150 credited: a grant of 40 only pays the debt.
        assert_eq!(purse.grant(3, Picos(40), None, 190), None);
        assert_eq!(purse.grant(4, Picos(5), Some(20), 190).map(|grant| grant.left), Some(Picos(5)));
        assert_eq!(purse.due(19, 0), None);
        assert_eq!(purse.due(20, 3).map(|(grant, amount)| (grant.seq, amount.0)), Some((4, 2)));
        assert_eq!(purse.expire(4, Picos(2)).map(|grant| grant.left), Some(Picos(3)));
        assert_eq!(purse.credited, 193);
    }
}
