//! What every account has spent and holds, in all and by calendar period.
//!
//! A hold belongs to the periods in which it was taken, and its cost with it, however long it lives: so a period's
//! spending can still grow after its end, but never beyond what was held within it. Sums of accounts are read from the
//! store when they are first needed; what changed is written once a commit.

use std::collections::{BTreeMap, HashMap};

use super::row::{Facts, Transfer};
use super::store::{Store, StoreResult};
use super::types::{BudgetPeriod, BudgetScope, BudgetShortage, HoldError};
use crate::accounts::Budget;
use crate::civil::HOUR_MS;
use crate::money::Picos;

/// Accounts kept in memory without an open hold; beyond that all of these are dropped, and read again when needed.
const MAX_IDLE: usize = 65_536;
/// Periods of one account that are looked through for ones that nobody needs any more.
const MAX_WINDOWS: usize = 16;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) spent: i64,
    pub(super) held: i64,
}

/// One period of one account.
#[derive(Debug)]
struct Window {
    period: BudgetPeriod,
    start_ms: u64,
    sum: Sum,
    /// Holds taken in it and not ended.
    open: u32,
    /// Last row of others that `sum` counted when it was read.
    as_of: i64,
}

#[derive(Debug, Default)]
struct Account {
    windows: Vec<Window>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Balances {
    accounts: HashMap<BudgetScope, HashMap<String, Account>>,
    /// Spent since the last flush, by account and hour of the hold.
    dirty: BTreeMap<(BudgetScope, String, u64), i64>,
    /// Last row that the store counts in what it says was spent, the own ones aside.
    seen: i64,
}

impl Balances {
    /// Sum of the account's period around `at_ms`.
    pub(super) fn sum(
        &mut self,
        store: &mut dyn Store,
        account: (BudgetScope, &str),
        period: BudgetPeriod,
        at_ms: u64,
    ) -> StoreResult<Sum> {
        self.touch(store, account, at_ms)?;
        let (start_ms, _) = period.around(at_ms);
        let found =
            self.account(account).windows.iter().find(|w| (w.period, w.start_ms) == (period, start_ms));
        Ok(found.map(|window| window.sum).unwrap_or_default())
    }

    /// Makes sure that the account has a window of each period around `at_ms`.
    fn touch(&mut self, store: &mut dyn Store, account: (BudgetScope, &str), at_ms: u64) -> StoreResult<()> {
        let (scope, id) = account;
        for period in BudgetPeriod::ALL {
            let (start_ms, end_ms) = period.around(at_ms);
            let windows = &self.account(account).windows;
            if windows.iter().any(|w| (w.period, w.start_ms) == (period, start_ms)) {
                continue;
            }
            let stored = store.spent(scope, id, end_ms.map(|end_ms| (start_ms, end_ms)))?;
            let within = |hour_ms: u64| end_ms.is_none_or(|end_ms| (start_ms..end_ms).contains(&hour_ms));
            let from = (scope, id.to_owned(), 0)..=(scope, id.to_owned(), u64::MAX);
            let unsaved = self.dirty.range(from).filter(|((_, _, hour_ms), _)| within(*hour_ms));
            let spent = stored + unsaved.map(|(_, picos)| picos).sum::<i64>();
            let sum = Sum { spent, held: 0 };
            let window = Window { period, start_ms, sum, open: 0, as_of: self.seen };
            self.account(account).windows.push(window);
        }
        let windows = &mut self.account(account).windows;
        if windows.len() > MAX_WINDOWS {
            windows.retain(|w| w.open > 0 || w.start_ms == w.period.around(at_ms).0);
        }
        Ok(())
    }

    fn account(&mut self, (scope, id): (BudgetScope, &str)) -> &mut Account {
        let accounts = self.accounts.entry(scope).or_default();
        if !accounts.contains_key(id) {
            accounts.insert(id.to_owned(), Account::default());
        }
        accounts.get_mut(id).expect("inserted above")
    }

    /// Spent + held + `amount` must stay within every budget, in its period around `at_ms`.
    pub(super) fn check(
        &mut self,
        store: &mut dyn Store,
        facts: &Facts,
        budgets: &[Budget],
        amount: Picos,
        at_ms: u64,
    ) -> Result<(), HoldError> {
        for account in facts.accounts() {
            // Without a budget there is still the end of the number range.
            let total = self.sum(store, account, BudgetPeriod::Total, at_ms)?;
            if after(total, amount) > i128::from(i64::MAX) {
                return Err(too_much());
            }
        }
        for budget in budgets {
            let Budget { scope, id, period, limit } = budget;
            let sum = self.sum(store, (*scope, id), *period, at_ms)?;
            if after(sum, amount) > i128::from(limit.0) {
                return Err(HoldError::Budget(Box::new(BudgetShortage {
                    scope: *scope,
                    id: id.clone(),
                    period: *period,
                    limit: *limit,
                    spent: Picos(sum.spent),
                    held: Picos(sum.held),
                    requested: amount,
                    resets_ms: period.around(at_ms).1,
                })));
            }
        }
        Ok(())
    }

    /// Holds `amount` in every account, for a hold taken at `at_ms`; `holds` counts new holds (0 for an extension).
    /// Cannot overflow: [`Balances::check`] bounds spent + held by `i64::MAX`.
    pub(super) fn hold(
        &mut self,
        store: &mut dyn Store,
        facts: &Facts,
        at_ms: u64,
        amount: Picos,
        holds: u32,
    ) -> StoreResult<()> {
        self.each(store, facts, at_ms, |window| {
            window.sum.held += amount.0;
            window.open += holds;
        })
    }

    /// Ends a hold of `released` taken at `at_ms` that cost `cost`, which is no more.
    pub(super) fn end(
        &mut self,
        store: &mut dyn Store,
        facts: &Facts,
        at_ms: u64,
        released: Picos,
        cost: Picos,
    ) -> StoreResult<()> {
        self.each(store, facts, at_ms, |window| {
            window.sum.held -= released.0;
            window.sum.spent += cost.0;
            window.open = window.open.saturating_sub(1);
        })?;
        if cost > Picos::ZERO {
            let hour_ms = at_ms / HOUR_MS * HOUR_MS;
            for (scope, id) in facts.accounts() {
                *self.dirty.entry((scope, id.to_owned(), hour_ms)).or_default() += cost.0;
            }
        }
        Ok(())
    }

    /// What the store says from now on counts all rows up to `seq`.
    pub(super) fn seen(&mut self, seq: i64) {
        self.seen = seq;
    }

    /// Ends a hold taken at `at_ms` by a row that another gateway has written, sums included.
    pub(super) fn end_elsewhere(
        &mut self,
        store: &mut dyn Store,
        row: &Transfer,
        at_ms: u64,
    ) -> StoreResult<()> {
        self.each(store, &row.facts, at_ms, |window| {
            window.sum.held -= row.released.0;
            window.open = window.open.saturating_sub(1);
            if row.seq > window.as_of {
                window.sum.spent += row.cost.total.0;
            }
        })
    }

    fn each(
        &mut self,
        store: &mut dyn Store,
        facts: &Facts,
        at_ms: u64,
        change: impl Fn(&mut Window),
    ) -> StoreResult<()> {
        for account in facts.accounts() {
            self.touch(store, account, at_ms)?;
            let windows = self.account(account).windows.iter_mut();
            windows.filter(|w| w.start_ms == w.period.around(at_ms).0).for_each(&change);
        }
        Ok(())
    }

    /// Writes what was spent since the last call; before each commit.
    pub(super) fn flush(&mut self, store: &mut dyn Store) -> StoreResult<()> {
        for ((scope, id, hour_ms), picos) in std::mem::take(&mut self.dirty) {
            store.add_spent(scope, &id, hour_ms, picos)?;
        }
        if self.accounts.values().map(HashMap::len).sum::<usize>() > MAX_IDLE {
            for accounts in self.accounts.values_mut() {
                accounts.retain(|_, account| account.windows.iter().any(|window| window.open > 0));
            }
        }
        Ok(())
    }
}

fn after(sum: Sum, amount: Picos) -> i128 {
    i128::from(sum.spent) + i128::from(sum.held) + i128::from(amount.0)
}

pub(super) fn too_much() -> HoldError {
    HoldError::Invalid("spent and held together would exceed 9223372 USD".to_owned())
}
