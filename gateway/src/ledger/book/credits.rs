//! The part of the book about balances that are paid in.

use std::sync::Arc;

use super::{Book, LAST_MS};
use crate::ledger::credit::Purse;
use crate::ledger::row::{Facts, Kind, LEASES, Transfer};
use crate::ledger::store::{Store, StoreError, StoreResult};
use crate::ledger::types::{
    BudgetPeriod, BudgetScope, Credit, CreditKind, CreditShortage, HoldError, LedgerError, MAX_REQUEST_ID,
};
use crate::money::Picos;

impl Book {
    /// Changes an organisation's balance; the number of its row. The same id again changes nothing.
    pub(in crate::ledger) fn credit(
        &mut self,
        store: &mut dyn Store,
        credit: &Credit,
    ) -> Result<i64, LedgerError> {
        check(credit)?;
        if let Some(seq) = store.credit_row(&credit.id)? {
            return Ok(seq);
        }
        let at_ms = self.time(credit.at_ms);
        self.expire(store, &credit.org_id, at_ms)?;
        let spent = self.spent(store, &credit.org_id, at_ms)?;
        let seq = self.head.seq + 1;
        let purse = self.purse(store, &credit.org_id)?;
        let in_range = i128::from(purse.credited) + i128::from(credit.amount.0) - i128::from(spent);
        if i64::try_from(in_range).is_err() || purse.credited.checked_add(credit.amount.0).is_none() {
            return Err(LedgerError::Invalid("the balance would exceed 9223372 USD".to_owned()));
        }
        let changed = if credit.amount > Picos::ZERO {
            purse.grant(seq, credit.amount, credit.expires_ms, spent).into_iter().collect()
        } else {
            purse.credited += credit.amount.0;
            purse.take(Picos(-credit.amount.0))
        };
        let kind = match credit.kind {
            CreditKind::Grant => Kind::Grant,
            CreditKind::Correction => Kind::Correct,
        };
        let about = credit.lease.as_deref();
        let facts = Arc::new(about.map_or_else(
            || Facts::of_org(&credit.org_id),
            |about| Facts {
                project_id: about.project_id.clone(),
                key_id: about.key_id.clone(),
                endpoint: LEASES.to_owned(),
                price: about.price.clone(),
                admitted_ms: about.hour_ms,
                ..Facts::of_org(&credit.org_id)
            },
        ));
        let row = Transfer {
            details: about.map(|about| Arc::new(about.details.clone())),
            credit: credit.amount,
            expires_ms: credit.expires_ms,
            note: Some(credit.note.clone()),
            ..self.blank(kind, &credit.id, at_ms, &facts)
        };
        self.append(store, row)?;
        store.add_credited(&credit.org_id, credit.amount.0)?;
        for grant in changed {
            store.put_grant(&credit.org_id, &grant)?;
        }
        Ok(seq)
    }

    /// Gives back what a request cost whose promised deadline was missed; it is called once, when the request is billed.
    pub(super) fn refund(&mut self, store: &mut dyn Store, billed: &Transfer) -> StoreResult<()> {
        let amount = billed.owed();
        if amount == Picos::ZERO {
            return Ok(());
        }
        let row = Transfer {
            details: billed.details.clone(),
            credit: amount,
            note: billed.note.clone(),
            ..self.blank(Kind::Refund, &billed.request_id, billed.at_ms, &billed.facts)
        };
        let org_id = billed.facts.org_id.as_str();
        let spent = self.spent(store, org_id, billed.at_ms)?;
        let row = self.append(store, row)?;
        let changed = self.purse(store, org_id)?.grant(row.seq, amount, None, spent);
        store.add_credited(org_id, amount.0)?;
        changed.iter().try_for_each(|grant| store.put_grant(org_id, grant))
    }

    /// Ends every grant past its time, of all organisations.
    pub(in crate::ledger) fn expire_all(
        &mut self,
        store: &mut dyn Store,
        at_ms: u64,
    ) -> Result<(), LedgerError> {
        let at_ms = self.time(at_ms);
        for org_id in store.due_orgs(at_ms)? {
            self.expire(store, &org_id, at_ms)?;
        }
        Ok(())
    }

    /// Ends the organisation's grants past their time, as far as no request in flight may still need them.
    pub(super) fn expire(&mut self, store: &mut dyn Store, org_id: &str, at_ms: u64) -> StoreResult<()> {
        let held =
            self.balances.sum(store, (BudgetScope::Organisation, org_id), BudgetPeriod::Total, at_ms)?.held;
        while let Some((grant, amount)) = self.purse(store, org_id)?.due(at_ms, held) {
            let facts = Arc::new(Facts::of_org(org_id));
            let id = format!("expiry of row {}", grant.seq);
            let row = Transfer { credit: Picos(-amount.0), ..self.blank(Kind::Expire, &id, at_ms, &facts) };
            self.append(store, row)?;
            let changed = self.purse(store, org_id)?.expire(grant.seq, amount);
            let changed = changed.ok_or_else(|| StoreError(format!("grant of row {} is gone", grant.seq)))?;
            store.add_credited(org_id, -amount.0)?;
            store.put_grant(org_id, &changed)?;
        }
        Ok(())
    }

    /// The balance less what is held must cover `amount`, down to the credit line.
    pub(super) fn check_credit(
        &mut self,
        store: &mut dyn Store,
        facts: &Facts,
        line: Option<Picos>,
        amount: Picos,
        at_ms: u64,
    ) -> Result<(), HoldError> {
        let Some(line) = line else { return Ok(()) };
        let account = (BudgetScope::Organisation, facts.org_id.as_str());
        let total = self.balances.sum(store, account, BudgetPeriod::Total, at_ms)?;
        let balance = i128::from(self.purse(store, &facts.org_id)?.credited) - i128::from(total.spent);
        if balance + i128::from(line.0) < i128::from(total.held) + i128::from(amount.0) {
            let balance = Picos(i64::try_from(balance).unwrap_or(i64::MIN));
            let held = Picos(total.held);
            return Err(HoldError::Credit(CreditShortage { balance, line, held, requested: amount }));
        }
        Ok(())
    }

    /// Takes a bill from the grants.
    pub(super) fn spend(&mut self, store: &mut dyn Store, org_id: &str, cost: Picos) -> StoreResult<()> {
        if cost > Picos::ZERO {
            for grant in self.purse(store, org_id)?.take(cost) {
                store.put_grant(org_id, &grant)?;
            }
        }
        Ok(())
    }

    pub(super) fn spent(&mut self, store: &mut dyn Store, org_id: &str, at_ms: u64) -> StoreResult<i64> {
        let account = (BudgetScope::Organisation, org_id);
        Ok(self.balances.sum(store, account, BudgetPeriod::Total, at_ms)?.spent)
    }

    pub(super) fn purse(&mut self, store: &mut dyn Store, org_id: &str) -> StoreResult<&mut Purse> {
        if !self.purses.contains_key(org_id) {
            self.purses.insert(org_id.to_owned(), store.purse(org_id)?);
        }
        Ok(self.purses.get_mut(org_id).expect("inserted above"))
    }
}

fn check(credit: &Credit) -> Result<(), LedgerError> {
    let invalid = |message: String| Err(LedgerError::Invalid(message));
    if credit.id.is_empty() || credit.id.len() > MAX_REQUEST_ID {
        return invalid(format!("id has {} bytes, allowed are 1 to {MAX_REQUEST_ID}", credit.id.len()));
    }
    let negative = credit.amount < Picos::ZERO;
    if credit.amount == Picos::ZERO
        || credit.amount.0 == i64::MIN
        || (negative && credit.kind == CreditKind::Grant)
    {
        return invalid(format!("amount {} USD is not positive", credit.amount));
    }
    let last = credit.expires_ms.unwrap_or(LAST_MS);
    if credit.kind == CreditKind::Correction && credit.expires_ms.is_some() {
        return invalid("a correction does not expire".to_owned());
    }
    if last <= credit.at_ms || last > LAST_MS {
        return invalid("the expiry is not in the future".to_owned());
    }
    Ok(())
}
