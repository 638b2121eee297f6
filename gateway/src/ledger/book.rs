//! The ledger's rules, over balances in memory. Each operation checks first, then appends to the store, then changes
//! memory; a refusal changes nothing. After a store error the book is not used again.

use std::collections::HashMap;
use std::sync::Arc;

use super::details::Details;
use super::row::{Facts, Kind, Transfer};
use super::store::{Ended, Head, OpenRow, Store, StoreError};
use super::types::{
    BudgetScope, EndReason, HoldError, HoldRequest, LedgerError, MAX_REQUEST_ID, Settled, Settlement, Timings,
};
use crate::accounts::Budgets;
use crate::money::{Cost, Picos, Tokens};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Balance {
    spent: i64,
    held: i64,
}

struct OpenHold {
    facts: Arc<Facts>,
    details: Option<Arc<Details>>,
    held: Picos,
    budgets: Budgets,
    checkpoint: Option<Tokens>,
}

pub(super) struct Book {
    head: Head,
    balances: HashMap<(BudgetScope, String), Balance>,
    open: HashMap<String, OpenHold>,
}

impl From<StoreError> for HoldError {
    fn from(error: StoreError) -> Self {
        HoldError::Unavailable(error.0)
    }
}

impl From<StoreError> for LedgerError {
    fn from(error: StoreError) -> Self {
        LedgerError::Unavailable(error.0)
    }
}

impl Book {
    /// The book as of the store's last commit.
    pub(super) fn load(store: &mut dyn Store) -> Result<Self, LedgerError> {
        let state = store.load()?;
        let open = state.open.into_iter().map(|(id, row)| {
            let budgets = Budgets::default();
            let OpenRow { facts, details, held, checkpoint } = row;
            (id, OpenHold { facts, details, held, budgets, checkpoint })
        });
        let mut book = Self { head: state.head, balances: HashMap::new(), open: open.collect() };
        for sums in state.sums {
            for (scope, id) in [
                (BudgetScope::Key, sums.key_id),
                (BudgetScope::Project, sums.project_id),
                (BudgetScope::Organisation, sums.org_id),
            ] {
                let balance = book.balances.entry((scope, id)).or_default();
                balance.spent = add(balance.spent, sums.spent.0)?;
                balance.held = add(balance.held, sums.held.0)?;
            }
        }
        Ok(book)
    }

    pub(super) fn open_holds(&self) -> usize {
        self.open.len()
    }

    /// Requests with an open hold and their checkpoints, in a fixed order.
    pub(super) fn open_requests(&self) -> Vec<(String, Option<Tokens>)> {
        let mut open: Vec<_> = self.open.iter().map(|(id, hold)| (id.clone(), hold.checkpoint)).collect();
        open.sort_by(|a, b| a.0.cmp(&b.0));
        open
    }

    pub(super) fn hold(&mut self, store: &mut dyn Store, request: HoldRequest) -> Result<(), HoldError> {
        check(&request)?;
        if self.open.contains_key(&request.request_id) || store.ended(&request.request_id)?.is_some() {
            return Err(HoldError::Duplicate(request.request_id));
        }
        let facts = Arc::new(Facts {
            org_id: request.org_id,
            project_id: request.project_id,
            key_id: request.key_id,
            endpoint: request.endpoint,
            price: request.price,
            prompt_tokens: request.prompt_tokens,
            admitted_ms: request.at_ms,
        });
        self.check_budgets(&facts, &request.budgets, request.amount)?;
        let row = self.blank(Kind::Hold, &request.request_id, request.at_ms, &facts);
        let details = Some(Arc::new(request.details));
        self.append(store, Transfer { held: request.amount, details: details.clone(), ..row })?;
        self.move_money(&facts, request.amount.0, 0);
        let (held, budgets) = (request.amount, request.budgets);
        let hold = OpenHold { facts, details, held, budgets, checkpoint: None };
        self.open.insert(request.request_id, hold);
        Ok(())
    }

    pub(super) fn extend(
        &mut self,
        store: &mut dyn Store,
        request_id: &str,
        additional: Picos,
        at_ms: u64,
    ) -> Result<(), HoldError> {
        if additional.0 < 0 {
            return Err(HoldError::Invalid(format!("amount {additional} USD is negative")));
        }
        let unknown = || HoldError::UnknownRequest(request_id.to_owned());
        let hold = self.open.get(request_id).ok_or_else(unknown)?;
        let (facts, budgets) = (hold.facts.clone(), hold.budgets);
        let held = hold.held.checked_add(additional).ok_or_else(too_much)?;
        self.check_budgets(&facts, &budgets, additional)?;
        let row = self.blank(Kind::Extend, request_id, at_ms, &facts);
        self.append(store, Transfer { held: additional, ..row })?;
        self.move_money(&facts, additional.0, 0);
        self.open.get_mut(request_id).ok_or_else(unknown)?.held = held;
        Ok(())
    }

    pub(super) fn checkpoint(
        &mut self,
        store: &mut dyn Store,
        request_id: &str,
        tokens: Tokens,
        at_ms: u64,
    ) -> Result<(), LedgerError> {
        let hold = self
            .open
            .get_mut(request_id)
            .ok_or_else(|| LedgerError::UnknownRequest(request_id.to_owned()))?;
        if hold.checkpoint.is_some_and(|noted| noted == tokens || !tokens.covers(noted)) {
            return Ok(());
        }
        affordable(request_id, hold, tokens)?;
        store.put_checkpoint(request_id, tokens, at_ms)?;
        hold.checkpoint = Some(tokens);
        Ok(())
    }

    pub(super) fn settle(
        &mut self,
        store: &mut dyn Store,
        settlement: &Settlement,
    ) -> Result<Settled, LedgerError> {
        let request_id = settlement.request_id.as_str();
        let Some(hold) = self.open.get(request_id) else {
            return match store.ended(request_id)? {
                Some(Ended::Settled(first)) => Ok(first),
                Some(Ended::Voided) => Err(LedgerError::Voided(request_id.to_owned())),
                None => Err(LedgerError::UnknownRequest(request_id.to_owned())),
            };
        };
        let cost = affordable(request_id, hold, settlement.tokens)?;
        let (facts, released) = (hold.facts.clone(), hold.held);
        let row = Transfer {
            released,
            tokens: settlement.tokens,
            cost,
            end: Some(settlement.end),
            first_token_ms: settlement.timings.first_token_ms.filter(|&ms| ms > 0),
            details: hold.details.clone(),
            ..self.blank(Kind::Settle, request_id, settlement.at_ms, &facts)
        };
        let row = self.append(store, row)?;
        store.delete_checkpoint(request_id)?;
        self.move_money(&facts, -released.0, cost.total.0);
        self.open.remove(request_id);
        row.settled().ok_or_else(|| LedgerError::Corrupt(format!("settle {request_id:?} has no end reason")))
    }

    /// Settles for a caller that cannot hear a refusal: where the cost is above the hold, at the last checkpoint.
    pub(super) fn settle_within_hold(
        &mut self,
        store: &mut dyn Store,
        settlement: &Settlement,
    ) -> Result<(), LedgerError> {
        match self.settle(store, settlement) {
            Err(error @ (LedgerError::SettleExceedsHold { .. } | LedgerError::Money(_))) => {
                tracing::error!(%error, "settled at the last checkpoint");
                let noted = self.open.get(&settlement.request_id).and_then(|hold| hold.checkpoint);
                self.end_at_checkpoint(
                    store,
                    &settlement.request_id,
                    noted,
                    settlement.end,
                    settlement.at_ms,
                    settlement.timings,
                )
            }
            other => other.map(drop),
        }
    }

    /// Bills what was noted, or voids where nothing was.
    pub(super) fn end_at_checkpoint(
        &mut self,
        store: &mut dyn Store,
        request_id: &str,
        noted: Option<Tokens>,
        end: EndReason,
        at_ms: u64,
        timings: Timings,
    ) -> Result<(), LedgerError> {
        match noted {
            Some(tokens) => {
                let request_id = request_id.to_owned();
                self.settle(store, &Settlement { request_id, tokens, end, at_ms, timings }).map(drop)
            }
            None => self.void(store, request_id, at_ms),
        }
    }

    pub(super) fn void(
        &mut self,
        store: &mut dyn Store,
        request_id: &str,
        at_ms: u64,
    ) -> Result<(), LedgerError> {
        let Some(hold) = self.open.get(request_id) else {
            return match store.ended(request_id)? {
                Some(Ended::Voided) => Ok(()),
                Some(Ended::Settled(_)) => Err(LedgerError::AlreadySettled(request_id.to_owned())),
                None => Err(LedgerError::UnknownRequest(request_id.to_owned())),
            };
        };
        let (facts, released) = (hold.facts.clone(), hold.held);
        let row = Transfer { released, ..self.blank(Kind::Void, request_id, at_ms, &facts) };
        self.append(store, row)?;
        store.delete_checkpoint(request_id)?;
        self.move_money(&facts, -released.0, 0);
        self.open.remove(request_id);
        Ok(())
    }

    /// Spent + held + `amount` must stay within every budget.
    fn check_budgets(&self, facts: &Facts, budgets: &Budgets, amount: Picos) -> Result<(), HoldError> {
        let limits = [budgets.key, budgets.project, budgets.org];
        for ((scope, id), limit) in scopes(facts).into_iter().zip(limits) {
            let balance = self.balances.get(&(scope, id.to_owned())).copied().unwrap_or_default();
            let after = i128::from(balance.spent) + i128::from(balance.held) + i128::from(amount.0);
            // Without a budget there is still the end of the number range.
            if after > i128::from(limit.unwrap_or(Picos(i64::MAX)).0) {
                return Err(match limit {
                    Some(limit) => HoldError::Budget {
                        scope,
                        limit,
                        spent: Picos(balance.spent),
                        held: Picos(balance.held),
                        requested: amount,
                    },
                    None => too_much(),
                });
            }
        }
        Ok(())
    }

    /// Cannot overflow: `check_budgets` bounds spent + held by `i64::MAX`, and a settle moves no more than was held.
    fn move_money(&mut self, facts: &Facts, held: i64, spent: i64) {
        for (scope, id) in scopes(facts) {
            let balance = self.balances.entry((scope, id.to_owned())).or_default();
            balance.held += held;
            balance.spent += spent;
        }
    }

    fn blank(&self, kind: Kind, request_id: &str, at_ms: u64, facts: &Arc<Facts>) -> Transfer {
        Transfer {
            seq: self.head.seq + 1,
            kind,
            request_id: request_id.to_owned(),
            // A clock that went back must not move rows into a period already reported.
            at_ms: at_ms.min(LAST_MS).max(self.head.at_ms),
            facts: facts.clone(),
            held: Picos::ZERO,
            released: Picos::ZERO,
            tokens: Tokens::default(),
            cost: Cost::default(),
            end: None,
            first_token_ms: None,
            details: None,
            hash: self.head.hash,
        }
    }

    fn append(&mut self, store: &mut dyn Store, mut row: Transfer) -> Result<Transfer, StoreError> {
        row.hash = row.chained(&self.head.hash);
        store.append(&row)?;
        self.head = Head { seq: row.seq, at_ms: row.at_ms, hash: row.hash };
        Ok(row)
    }
}

/// Times beyond year 9999 are a broken clock.
const LAST_MS: u64 = 253_402_300_799_999;

fn scopes(facts: &Facts) -> [(BudgetScope, &str); 3] {
    [
        (BudgetScope::Key, &facts.key_id),
        (BudgetScope::Project, &facts.project_id),
        (BudgetScope::Organisation, &facts.org_id),
    ]
}

fn check(request: &HoldRequest) -> Result<(), HoldError> {
    let invalid = |message: String| Err(HoldError::Invalid(message));
    let price = &request.price;
    if request.request_id.is_empty() || request.request_id.len() > MAX_REQUEST_ID {
        return invalid(format!(
            "request id has {} bytes, allowed are 1 to {MAX_REQUEST_ID}",
            request.request_id.len()
        ));
    }
    if request.amount.0 < 0 {
        return invalid(format!("amount {} USD is negative", request.amount));
    }
    if request.at_ms > LAST_MS {
        return invalid(format!("admission time {} ms is beyond year 9999", request.at_ms));
    }
    if (price.model.as_str(), price.tier.as_str()) != (request.model.as_str(), request.tier.as_str()) {
        return invalid(format!(
            "price {} is for model {:?}, tier {:?}, not {:?}, {:?}",
            price.id, price.model, price.tier, request.model, request.tier
        ));
    }
    Ok(())
}

fn affordable(request_id: &str, hold: &OpenHold, tokens: Tokens) -> Result<Cost, LedgerError> {
    let cost = hold.facts.price.cost(tokens)?;
    if cost.total > hold.held {
        let request_id = request_id.to_owned();
        return Err(LedgerError::SettleExceedsHold { request_id, cost: cost.total, held: hold.held });
    }
    Ok(cost)
}

fn too_much() -> HoldError {
    HoldError::Invalid("spent and held together would exceed 9223372 USD".to_owned())
}

fn add(a: i64, b: i64) -> Result<i64, LedgerError> {
    a.checked_add(b).ok_or_else(|| LedgerError::Corrupt("balances do not fit".to_owned()))
}
