//! Rows that this book did not write: of other gateways, and of a ledger that is copied.

use std::sync::Arc;

use super::{Book, OpenHold};
use crate::ledger::row::{Kind, Transfer};
use crate::ledger::store::{Head, Store, StoreError, StoreResult};
use crate::ledger::types::{EndReason, LedgerError, Timings};
use crate::money::Picos;

impl Book {
    /// Starts a transaction and takes in what others have written since the last.
    pub(in crate::ledger) fn begin(&mut self, store: &mut dyn Store) -> StoreResult<()> {
        let rows = store.begin()?;
        let Some(last) = rows.last() else { return Ok(()) };
        self.balances.seen(last.seq);
        rows.iter().try_for_each(|row| self.adopt(store, row))
    }

    fn adopt(&mut self, store: &mut dyn Store, row: &Transfer) -> StoreResult<()> {
        self.check_next(row).map_err(|error| StoreError(error.to_string()))?;
        match row.kind {
            Kind::Hold => self.open_hold(store, row, true)?,
            Kind::Extend => self.extend_hold(store, row)?,
            Kind::Settle | Kind::Void => {
                if let Some(hold) = self.open.remove(&row.request_id) {
                    self.balances.end_elsewhere(store, row, hold.at_ms)?;
                }
                self.purses.remove(&row.facts.org_id);
            }
            Kind::Grant | Kind::Expire | Kind::Correct | Kind::Refund => {
                drop(self.purses.remove(&row.facts.org_id))
            }
        }
        self.head = Head { seq: row.seq, at_ms: row.at_ms, hash: row.hash };
        Ok(())
    }

    /// Writes a row of another ledger as it stands, sums included.
    pub(in crate::ledger) fn replay(
        &mut self,
        store: &mut dyn Store,
        row: &Transfer,
    ) -> Result<(), LedgerError> {
        self.check_next(row)?;
        store.append(row)?;
        match row.kind {
            Kind::Hold => self.open_hold(store, row, true)?,
            Kind::Extend => self.extend_hold(store, row)?,
            Kind::Settle | Kind::Void => {
                let hold = self.open.remove(&row.request_id);
                let hold = hold.ok_or_else(|| LedgerError::UnknownRequest(row.request_id.clone()))?;
                store.delete_checkpoint(&row.request_id)?;
                self.balances.end(store, &row.facts, hold.at_ms, row.released, row.cost.total)?;
                self.spend(store, &row.facts.org_id, row.cost.total)?;
            }
            Kind::Grant | Kind::Expire | Kind::Correct | Kind::Refund => self.replay_credit(store, row)?,
        }
        self.head = Head { seq: row.seq, at_ms: row.at_ms, hash: row.hash };
        Ok(())
    }

    fn check_next(&self, row: &Transfer) -> Result<(), LedgerError> {
        if row.seq != self.head.seq + 1 || row.chained(&self.head.hash) != row.hash {
            return Err(LedgerError::Corrupt(format!(
                "row {} does not follow on row {}",
                row.seq, self.head.seq
            )));
        }
        Ok(())
    }

    fn open_hold(&mut self, store: &mut dyn Store, row: &Transfer, elsewhere: bool) -> StoreResult<()> {
        self.balances.hold(store, &row.facts, row.at_ms, row.held, 1)?;
        let hold = OpenHold {
            facts: Arc::clone(&row.facts),
            details: row.details.clone(),
            at_ms: row.at_ms,
            held: row.held,
            lease: row.note.clone(),
            budgets: Vec::new(),
            credit_line: None,
            checkpoint: None,
            elsewhere,
        };
        self.open.insert(row.request_id.clone(), hold);
        Ok(())
    }

    fn extend_hold(&mut self, store: &mut dyn Store, row: &Transfer) -> StoreResult<()> {
        let unknown = || StoreError(format!("row {} extends no hold", row.seq));
        let hold = self.open.get_mut(&row.request_id).ok_or_else(unknown)?;
        hold.held = Picos(hold.held.0.saturating_add(row.held.0));
        let at_ms = hold.at_ms;
        self.balances.hold(store, &row.facts, at_ms, row.held, 0)
    }

    /// Ends the requests of gateways that died, each at its last checkpoint; how many were billed and how many voided.
    pub(in crate::ledger) fn end_orphans(
        &mut self,
        store: &mut dyn Store,
        at_ms: u64,
    ) -> Result<(usize, usize), LedgerError> {
        let orphans = store.orphans()?;
        let billed = orphans.iter().filter(|(_, noted)| noted.is_some()).count();
        let voided = orphans.len() - billed;
        for (request_id, noted) in orphans {
            self.end_at_checkpoint(
                store,
                &request_id,
                noted,
                EndReason::Recovered,
                at_ms,
                Timings::default(),
            )?;
        }
        Ok((billed, voided))
    }

    /// The book anew as of the store's last commit; only what the store does not keep is taken from the old one.
    pub(in crate::ledger) fn reload(&mut self, store: &mut dyn Store) -> Result<(), LedgerError> {
        let mut book = Book::load(store)?;
        for (id, hold) in &mut book.open {
            if let Some(old) = self.open.get_mut(id) {
                hold.budgets = std::mem::take(&mut old.budgets);
                hold.credit_line = old.credit_line;
                hold.elsewhere = old.elsewhere;
            }
        }
        *self = book;
        Ok(())
    }

    /// What a row of credit did to the purse of its organisation, as its number says.
    fn replay_credit(&mut self, store: &mut dyn Store, row: &Transfer) -> Result<(), LedgerError> {
        let org_id = row.facts.org_id.as_str();
        let spent = self.spent(store, org_id, row.at_ms)?;
        let purse = self.purse(store, org_id)?;
        let changed: Vec<_> = if row.kind == Kind::Expire {
            let seq = row.request_id.rsplit(' ').next().and_then(|digits| digits.parse().ok());
            let amount = Picos(row.credit.0.saturating_neg());
            let changed = seq.and_then(|seq| purse.expire(seq, amount));
            let gone = || LedgerError::Corrupt(format!("row {} ends a grant that is not there", row.seq));
            vec![changed.ok_or_else(gone)?]
        } else if row.credit > Picos::ZERO {
            purse.grant(row.seq, row.credit, row.expires_ms, spent).into_iter().collect()
        } else {
            purse.credited += row.credit.0;
            purse.take(Picos(row.credit.0.saturating_neg()))
        };
        store.add_credited(org_id, row.credit.0)?;
        for grant in changed {
            store.put_grant(org_id, &grant)?;
        }
        Ok(())
    }
}
