//! The ledger's rules, over balances in memory. Each operation checks first, then appends to the store, then changes
//! memory; a refusal changes nothing. After a store error the book is not used again.

mod credits;
mod others;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::balances::{Balances, too_much};
use super::credit::Purse;
use super::details::Details;
use super::row::{Counted, Facts, Hash, Kind, Transfer};
use super::store::{Ended, Head, Store, StoreError};
use super::types::{
    BudgetScope, EndReason, HoldError, HoldRequest, LedgerError, MAX_REQUEST_ID, Settled, Settlement, Timings,
};
use crate::accounts::Budget;
use crate::money::{Cost, Picos, Tokens};

/// A settling row and the hash of the row before.
pub(super) type Evident = (Transfer, Hash);

struct OpenHold {
    facts: Arc<Facts>,
    details: Option<Arc<Details>>,
    /// When it was taken; its cost counts in the periods around this instant.
    at_ms: u64,
    held: Picos,
    lease: Option<String>,
    budgets: Vec<Budget>,
    credit_line: Option<Picos>,
    checkpoint: Option<Tokens>,
    /// Whether another gateway serves the request.
    elsewhere: bool,
}

pub(super) struct Book {
    head: Head,
    balances: Balances,
    purses: HashMap<String, Purse>,
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
        let mut balances = Balances::default();
        balances.seen(state.head.seq);
        let mut open = HashMap::new();
        for (id, row) in state.open {
            balances.hold(store, &row.facts, row.at_ms, row.held, 1)?;
            let hold = OpenHold {
                facts: row.facts,
                details: row.details,
                at_ms: row.at_ms,
                held: row.held,
                lease: row.lease,
                budgets: Vec::new(),
                credit_line: None,
                checkpoint: row.checkpoint,
                elsewhere: row.elsewhere,
            };
            open.insert(id, hold);
        }
        Ok(Self { head: state.head, balances, purses: HashMap::new(), open })
    }

    pub(super) fn open_holds(&self) -> usize {
        self.open.len()
    }

    /// The last row.
    pub(super) fn head(&self) -> Head {
        self.head
    }

    /// Requests with an open hold that no other gateway serves, and their checkpoints, in a fixed order. What is held for
    /// leases goes on over a restart.
    pub(super) fn open_requests(&self) -> Vec<(String, Option<Tokens>)> {
        let own = self.open.iter().filter(|(_, hold)| !hold.elsewhere && !hold.facts.is_holding());
        let mut open: Vec<_> = own.map(|(id, hold)| (id.clone(), hold.checkpoint)).collect();
        open.sort_by(|a, b| a.0.cmp(&b.0));
        open
    }

    pub(super) fn hold(&mut self, store: &mut dyn Store, request: HoldRequest) -> Result<(), HoldError> {
        check(&request)?;
        if self.open.contains_key(&request.request_id) || store.ended(&request.request_id)?.is_some() {
            return Err(HoldError::Duplicate(request.request_id));
        }
        let counted: BTreeSet<Counted> = request
            .budgets
            .iter()
            .filter(|budget| matches!(budget.scope, BudgetScope::User | BudgetScope::Tag))
            .map(|budget| Counted { scope: budget.scope, id: budget.id.clone() })
            .collect();
        let facts = Arc::new(Facts {
            org_id: request.org_id,
            project_id: request.project_id,
            key_id: request.key_id,
            endpoint: request.endpoint,
            price: request.price,
            prompt_tokens: request.prompt_tokens,
            admitted_ms: request.at_ms,
            counted: counted.into_iter().collect(),
        });
        let at_ms = self.time(request.at_ms);
        self.expire(store, &facts.org_id, at_ms)?;
        self.balances.check(store, &facts, &request.budgets, request.amount, at_ms)?;
        self.check_credit(store, &facts, request.credit_line, request.amount, at_ms)?;
        let row = self.blank(Kind::Hold, &request.request_id, at_ms, &facts);
        let details = Some(Arc::new(request.details));
        let note = request.lease.clone();
        self.append(store, Transfer { held: request.amount, details: details.clone(), note, ..row })?;
        self.balances.hold(store, &facts, at_ms, request.amount, 1)?;
        let hold = OpenHold {
            facts,
            details,
            at_ms,
            held: request.amount,
            lease: request.lease,
            budgets: request.budgets,
            credit_line: request.credit_line,
            checkpoint: None,
            elsewhere: false,
        };
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
        let (facts, taken_ms, credit_line) = (hold.facts.clone(), hold.at_ms, hold.credit_line);
        let held = hold.held.checked_add(additional).ok_or_else(too_much)?;
        self.balances.check(store, &facts, &hold.budgets, additional, taken_ms)?;
        self.check_credit(store, &facts, credit_line, additional, taken_ms)?;
        let row = self.blank(Kind::Extend, request_id, at_ms, &facts);
        self.append(store, Transfer { held: additional, ..row })?;
        self.balances.hold(store, &facts, taken_ms, additional, 0)?;
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
        self.settle_evident(store, settlement).map(|(settled, _)| settled)
    }

    /// As [`Book::settle`]; with what receipts say of it, unless it was settled before.
    pub(super) fn settle_evident(
        &mut self,
        store: &mut dyn Store,
        settlement: &Settlement,
    ) -> Result<(Settled, Option<Evident>), LedgerError> {
        let request_id = settlement.request_id.as_str();
        let Some(hold) = self.open.get(request_id) else {
            return match store.ended(request_id)? {
                Some(Ended::Settled(first)) => Ok((first, None)),
                Some(Ended::Voided) => Err(LedgerError::Voided(request_id.to_owned())),
                None => Err(LedgerError::UnknownRequest(request_id.to_owned())),
            };
        };
        let cost = affordable(request_id, hold, settlement.tokens)?;
        let (facts, taken_ms, released) = (hold.facts.clone(), hold.at_ms, hold.held);
        let row = Transfer {
            released,
            tokens: settlement.tokens,
            cost,
            end: Some(settlement.end),
            first_token_ms: settlement.timings.first_token_ms.filter(|&ms| ms > 0),
            pace: settlement.timings.pace,
            details: hold.details.clone(),
            note: hold.lease.clone(),
            ..self.blank(Kind::Settle, request_id, settlement.at_ms, &facts)
        };
        let previous = self.head.hash;
        let row = self.append(store, row)?;
        store.delete_checkpoint(request_id)?;
        self.balances.end(store, &facts, taken_ms, released, cost.total)?;
        self.spend(store, &facts.org_id, cost.total)?;
        self.open.remove(request_id);
        self.refund(store, &row)?;
        let settled = row.settled();
        let settled = settled
            .ok_or_else(|| LedgerError::Corrupt(format!("settle {request_id:?} has no end reason")))?;
        Ok((settled, Some((row, previous))))
    }

    /// Settles one hold and takes the next, in one commit. Where the first has ended already, nothing changes.
    pub(super) fn roll(
        &mut self,
        store: &mut dyn Store,
        settlement: &Settlement,
        next: Option<&HoldRequest>,
    ) -> Result<Settled, LedgerError> {
        if let (true, Some(next)) = (self.open.contains_key(&settlement.request_id), next) {
            // Before the other is released, so that what secures both cannot expire in between.
            self.hold(store, next.clone()).map_err(|error| match error {
                HoldError::Unavailable(reason) => LedgerError::Unavailable(reason),
                other => LedgerError::Invalid(other.to_string()),
            })?;
        }
        self.settle(store, settlement)
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
        let (facts, taken_ms, released) = (hold.facts.clone(), hold.at_ms, hold.held);
        let row = Transfer { released, ..self.blank(Kind::Void, request_id, at_ms, &facts) };
        self.append(store, row)?;
        store.delete_checkpoint(request_id)?;
        self.balances.end(store, &facts, taken_ms, released, Picos::ZERO)?;
        self.open.remove(request_id);
        Ok(())
    }

    /// Writes the sums that have changed; before each commit.
    pub(super) fn flush(&mut self, store: &mut dyn Store) -> Result<(), StoreError> {
        self.balances.flush(store)
    }

    /// A clock that went back must not move rows into a period already reported.
    fn time(&self, at_ms: u64) -> u64 {
        at_ms.min(LAST_MS).max(self.head.at_ms)
    }

    fn blank(&self, kind: Kind, request_id: &str, at_ms: u64, facts: &Arc<Facts>) -> Transfer {
        Transfer {
            seq: self.head.seq + 1,
            kind,
            request_id: request_id.to_owned(),
            at_ms: self.time(at_ms),
            facts: facts.clone(),
            held: Picos::ZERO,
            released: Picos::ZERO,
            tokens: Tokens::default(),
            cost: Cost::default(),
            end: None,
            first_token_ms: None,
            pace: None,
            details: None,
            credit: Picos::ZERO,
            expires_ms: None,
            note: None,
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
