//! The money of leases.

use tokio::task::spawn_blocking;

use super::lease::Lease;
use super::store::{self, Hour, Kept, Stage, Sums};
use super::{LeaseError, Leases};
use crate::accounts::{Budget, Identity};
use crate::civil::HOUR_MS;
use crate::ledger::{
    Credit, CreditKind, Details, EndReason, HoldRequest, LEASES, LeaseCredit, Ledger, LedgerError, SLA,
    Settlement, Timings, hour_use,
};
use crate::money::{Picos, PriceVersion, Tokens};

/// Tier in price and bill.
const TIER: &str = "lease";
/// After an hour, until all that was settled in it is in the ledger.
const GRACE_MS: u64 = 10_000;

impl Leases {
    /// Grants a lease: its place is taken and its whole price is held, or nothing is. Where the future is dropped a
    /// pending one may be left until the next start.
    pub async fn grant(&self, ledger: &Ledger, payer: &Identity, lease: Lease) -> Result<Lease, LeaseError> {
        let start_ms = lease.start_ms();
        let amount = lease.fee(start_ms, lease.end_ms)?;
        let hold = HoldRequest {
            budgets: payer.budgets_of(None, std::iter::empty()),
            credit_line: payer.credit_line,
            ..hold(&lease, start_ms, amount, lease.created_ms)
        };
        let new = lease.clone();
        self.blocking(move |leases| leases.reserve(&new)).await?;
        let held = ledger.hold(hold).await;
        let id = lease.id.clone();
        if let Err(error) = held {
            self.blocking(move |leases| store::remove(&leases.lock(), &id)).await?;
            return Err(error.into());
        }
        self.blocking(move |leases| leases.enter(&id, Stage::Live)).await?;
        Ok(lease)
    }

    /// Gives up what an earlier process left pending; to be called once, before the first grant.
    pub async fn recover(&self, ledger: &Ledger, now_ms: u64) -> Result<(), LeaseError> {
        for kept in self.alive().await? {
            let Kept { lease, stage: Stage::Pending, .. } = kept else { continue };
            release(ledger, &entry(&lease, lease.start_ms()), now_ms).await?;
            self.blocking(move |leases| store::remove(&leases.lock(), &lease.id)).await?;
        }
        Ok(())
    }

    /// Does what is due at `now_ms`: bills hours that have begun, frees money that is not owed, gives back for hours that
    /// are over. What fails is tried again at the next call.
    pub async fn keep(&self, ledger: &Ledger, now_ms: u64) -> Result<(), LeaseError> {
        let _alone = self.inner.keeping.lock().await;
        if self.is_idle() {
            return Ok(());
        }
        for kept in self.alive().await? {
            if kept.stage == Stage::Live {
                self.bill(ledger, &kept, now_ms).await?;
            }
        }
        let mut due = Vec::new();
        for kept in self.alive().await?.into_iter().filter(|kept| kept.stage != Stage::Pending) {
            let known = kept.lease.end_ms.min(now_ms.saturating_sub(GRACE_MS) / HOUR_MS * HOUR_MS);
            let hours = (kept.accounted_ms..known).step_by(HOUR_MS as usize);
            due.extend(hours.map(|hour_ms| (hour_ms, kept.seq, kept.lease.clone())));
        }
        // Hour by hour, the oldest lease first: what is resold is resold once.
        due.sort_by_key(|(hour_ms, seq, _)| (*hour_ms, *seq));
        for (hour_ms, _, lease) in due {
            self.account(ledger, &lease, hour_ms, now_ms).await?;
        }
        for kept in self.alive().await? {
            if kept.stage == Stage::Billed && kept.accounted_ms >= kept.lease.end_ms {
                self.close(ledger, kept.lease, now_ms).await?;
            }
        }
        Ok(())
    }

    /// Bills the hours that have begun. After the last one nothing stays held.
    async fn bill(&self, ledger: &Ledger, kept: &Kept, now_ms: u64) -> Result<(), LeaseError> {
        let lease = &kept.lease;
        let mut hour_ms = kept.billed_ms;
        while hour_ms < lease.end_ms && hour_ms <= now_ms {
            let next_ms = hour_ms + HOUR_MS;
            let next = match next_ms < lease.end_ms {
                true => Some(hold(lease, next_ms, lease.fee(next_ms, lease.end_ms)?, now_ms)),
                false => None,
            };
            let settlement = Settlement {
                request_id: entry(lease, hour_ms),
                tokens: Tokens { uncached_input: lease.units_at(hour_ms), ..Tokens::default() },
                end: EndReason::Finished,
                at_ms: now_ms,
                timings: Timings::default(),
            };
            ledger.roll(settlement, next).await?;
            let id = lease.id.clone();
            self.blocking(move |leases| store::set_billed(&leases.lock(), &id, next_ms)).await?;
            hour_ms = next_ms;
        }
        if hour_ms >= lease.end_ms {
            // Held for hours that were given up.
            release(ledger, &entry(lease, hour_ms), now_ms).await?;
            let id = lease.id.clone();
            self.blocking(move |leases| leases.enter(&id, Stage::Billed)).await?;
        }
        Ok(())
    }

    /// Finds out what became of an hour, and gives back.
    async fn account(
        &self,
        ledger: &Ledger,
        lease: &Lease,
        hour_ms: u64,
        now_ms: u64,
    ) -> Result<(), LeaseError> {
        let asked = lease.clone();
        let sums = self.blocking(move |leases| leases.use_of(&asked, hour_ms)).await?;
        if sums.rebate_picos > 0 {
            let id = format!("{}.rebate", entry(lease, hour_ms));
            ledger.credit(credit(lease, id, Picos(sums.rebate_picos), hour_ms, now_ms)).await?;
        }
        if sums.sla_picos > 0 {
            let id = format!("{}{SLA}", entry(lease, hour_ms));
            ledger.credit(credit(lease, id, Picos(sums.sla_picos), hour_ms, now_ms)).await?;
        }
        let lease = lease.clone();
        let hour = Hour { at_ms: hour_ms, sums };
        let put = move |leases: &Leases| store::put_hour(&mut leases.lock(), &lease, hour, hour_ms + HOUR_MS);
        self.blocking(put).await
    }

    /// What the ledger says of an hour: the holder's use first, then what flex and batch used of the rest and no other
    /// lease was paid for.
    fn use_of(&self, lease: &Lease, hour_ms: u64) -> Result<Sums, LeaseError> {
        let weight = lease.terms.prompt_tokens_per_token;
        let targets = [lease.terms.sla.first_token_ms, lease.terms.sla.inter_token_ms];
        let found = hour_use(&self.inner.dir, &lease.model, &lease.id, hour_ms, weight, targets)?;
        let offered = u64::from(lease.units_at(hour_ms)) * lease.unit_hour_tokens();
        let used = found.leased.min(offered);
        let left = found.surplus.saturating_sub(store::resold(&self.lock(), &lease.model, hour_ms)?);
        let resold = left.min(offered - used);
        Ok(Sums {
            offered,
            used,
            resold,
            rebate_picos: lease.rebate(resold)?.0,
            first: found.first,
            next: found.next,
            sla_picos: lease.sla_credit(hour_ms, found.first, found.next)?.0,
        })
    }

    /// Ends what was reclaimed with its credit.
    async fn close(&self, ledger: &Ledger, lease: Lease, now_ms: u64) -> Result<(), LeaseError> {
        let amount = lease.reclaim_credit()?;
        if amount > Picos::ZERO {
            let id = format!("{}.reclaim", lease.id);
            ledger.credit(credit(&lease, id, amount, lease.end_ms, now_ms)).await?;
        }
        self.blocking(move |leases| leases.enter(&lease.id, Stage::Done)).await
    }

    fn enter(&self, id: &str, stage: Stage) -> Result<(), LeaseError> {
        let db = self.lock();
        store::set_stage(&db, id, stage)?;
        self.refresh(&db)
    }

    async fn alive(&self) -> Result<Vec<Kept>, LeaseError> {
        self.blocking(|leases| store::alive(&leases.lock())).await
    }

    /// Runs `work`, which waits for the disk, off the threads that serve connections.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Leases) -> Result<T, LeaseError> + Send + 'static,
    ) -> Result<T, LeaseError> {
        let leases = self.clone();
        let done = spawn_blocking(move || work(&leases)).await;
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

/// Frees what is held under `id`, if anything is.
async fn release(ledger: &Ledger, id: &str, now_ms: u64) -> Result<(), LeaseError> {
    match ledger.void(id, now_ms).await {
        Err(LedgerError::UnknownRequest(_)) => Ok(()),
        other => Ok(other?),
    }
}

/// Id of an hour in the ledger.
fn entry(lease: &Lease, hour_ms: u64) -> String {
    format!("{}.{}", lease.id, hour_ms / HOUR_MS)
}

fn price(lease: &Lease) -> PriceVersion {
    let unit_hour = Picos(lease.terms.unit_hour_picos);
    PriceVersion::new(&lease.model, TIER, lease.created_ms, unit_hour, Picos::ZERO, Picos::ZERO)
}

fn details(lease: &Lease) -> Details {
    Details {
        org_name: lease.org_name.clone(),
        project_name: lease.project_name.clone(),
        key_name: lease.key_name.clone(),
        ..Details::default()
    }
}

/// What is held for the hours from `hour_ms` on. It was admitted with the lease, so no budget stops it.
fn hold(lease: &Lease, hour_ms: u64, amount: Picos, now_ms: u64) -> HoldRequest {
    HoldRequest {
        request_id: entry(lease, hour_ms),
        key_id: lease.key_id.clone(),
        project_id: lease.project_id.clone(),
        org_id: lease.org_id.clone(),
        model: lease.model.clone(),
        tier: TIER.to_owned(),
        endpoint: LEASES.to_owned(),
        price: price(lease),
        amount,
        prompt_tokens: 0,
        budgets: Vec::<Budget>::new(),
        credit_line: None,
        details: details(lease),
        lease: Some(lease.id.clone()),
        at_ms: now_ms,
    }
}

fn credit(lease: &Lease, id: String, amount: Picos, hour_ms: u64, now_ms: u64) -> Credit {
    let about = LeaseCredit {
        project_id: lease.project_id.clone(),
        key_id: lease.key_id.clone(),
        price: price(lease),
        details: details(lease),
        hour_ms,
    };
    Credit {
        id,
        org_id: lease.org_id.clone(),
        kind: CreditKind::Grant,
        amount,
        expires_ms: None,
        note: lease.id.clone(),
        lease: Some(Box::new(about)),
        at_ms: now_ms,
    }
}
