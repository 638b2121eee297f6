//! Capacity sold ahead: `leases.db` of the data directory, and its money in the ledger.
//!
//! Everything counts in whole hours, so that what is owed is a whole number of unit-hours times a price. A lease's place is
//! taken first, then its money is held, then it is granted; a crash in between leaves a pending one, which the next start
//! gives up. From then on its state is a function of the lease and the time alone, and [`Leases::keep`] brings the money
//! after it: each hour is billed once when it begins, under the id `<lease>.<hour>`, and what is held goes on to the next;
//! once an hour is over, what was idle of it and used by flex and batch is given back, under `<lease>.<hour>.rebate`, and so
//! is the agreed part of its price where its requests missed a target, under `<lease>.<hour>.sla`. What they did is in the
//! ledger, with each of them. The ledger takes each id once, so all of it may be tried again at any time.

mod books;
mod lease;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rusqlite::{Connection, TransactionBehavior};

use crate::capacity::Measured;
use crate::config::LeasesSection;
use crate::ledger::{HoldError, LedgerError};
use crate::money::{MoneyError, Picos};

pub use lease::{Lease, Notice, NoticeError, Overflow, Party, Sla, State, Step, Terms, most_held};
pub use store::{Hour, Kept, Stage, Sums};

/// Why a lease is not granted, kept or read.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The database failed.
    #[error("leases database: {0}")]
    Database(#[from] rusqlite::Error),
    /// Made by another version.
    #[error("leases database has schema version {found}, this program knows {known}")]
    Schema {
        /// Version in the file.
        found: i64,
        /// Version of this program.
        known: i64,
    },
    /// A row that is not what was written.
    #[error("a lease is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
    /// All that can be sold is sold at some instant.
    #[error("{wanted} units are wanted, {free} of {sellable} are free over the whole time")]
    Full {
        /// Most units of the lease.
        wanted: u32,
        /// Free at every instant of it.
        free: u64,
        /// What can be sold.
        sellable: u32,
    },
    /// The organisation has too many that are not over.
    #[error("the organisation has {0} leases that are not over")]
    TooMany(u32),
    /// No lease of this id.
    #[error("no lease {0}")]
    Unknown(String),
    /// It cannot be ended early.
    #[error(transparent)]
    Notice(#[from] NoticeError),
    /// Its money cannot be held.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// It costs more than the counters hold.
    #[error(transparent)]
    Money(#[from] MoneyError),
}

/// Leases with the use of their hours, and whether there are more.
pub type Page = (Vec<(Kept, Sums)>, bool);

/// The leases; cheap to clone. Calls that are not `async` block on the disk, but for [`Leases::serving`].
#[derive(Clone)]
pub struct Leases {
    inner: Arc<Inner>,
}

struct Inner {
    db: Mutex<Connection>,
    /// Those granted and not over, as of the last change, the oldest first.
    granted: RwLock<Vec<Arc<Lease>>>,
    dir: PathBuf,
    section: LeasesSection,
    price: Option<Picos>,
    sellable: HashMap<String, u32>,
    /// Held by who brings the money after the leases.
    keeping: tokio::sync::Mutex<()>,
}

/// Units of a model that can be sold: what it does within the promised latency, less the reserve, in whole units.
pub fn sellable_units(measured: &Measured, inter_token_ms: f64, section: &LeasesSection) -> u32 {
    let speed = measured.within(inter_token_ms).map_or(0.0, |point| point.output_tokens_per_second);
    let sold = speed * f64::from(100 - section.reserve_percent.min(100)) / 100.0;
    // The cast saturates.
    (sold / f64::from(section.unit_tokens_per_second)) as u32
}

impl Leases {
    /// Opens or makes the store in `dir`, the ledger's directory. `sellable` has the units of each model that was measured.
    pub fn open(
        dir: &Path,
        section: &LeasesSection,
        sellable: HashMap<String, u32>,
    ) -> Result<Self, LeaseError> {
        let inner = Inner {
            db: Mutex::new(store::open(dir)?),
            granted: RwLock::default(),
            dir: dir.to_owned(),
            // Checked when the configuration was loaded.
            price: section.price().ok().flatten(),
            section: section.clone(),
            sellable,
            keeping: tokio::sync::Mutex::default(),
        };
        let leases = Self { inner: Arc::new(inner) };
        leases.refresh(&leases.lock())?;
        Ok(leases)
    }

    /// The bounds of leases.
    pub fn limits(&self) -> &LeasesSection {
        &self.inner.section
    }

    /// The price of a unit-hour; `None`: nothing is leased.
    pub fn price(&self) -> Option<Picos> {
        self.inner.price
    }

    /// Units of the model that can be sold; `None`: it was not measured.
    pub fn sellable(&self, model: &str) -> Option<u32> {
        self.inner.sellable.get(model).copied()
    }

    /// What a lease that is made now agrees on; `None`: nothing is leased.
    pub fn terms(&self) -> Option<Terms> {
        let section = &self.inner.section;
        Some(Terms {
            unit_tokens_per_second: section.unit_tokens_per_second,
            prompt_tokens_per_token: section.prompt_tokens_per_token,
            unit_hour_picos: self.inner.price?.0,
            rebate_percent: section.rebate_percent,
            notice_hours: section.notice_hours,
            reclaim_credit_percent: section.reclaim_credit_percent,
            sla: Sla {
                first_token_ms: section.sla_first_token_ms,
                inter_token_ms: section.sla_inter_token_ms,
                objective_permille: section.sla_objective_permille,
                min_requests: section.sla_min_requests,
                credit_percent: section.sla_credit_percent,
            },
        })
    }

    /// Leases that the project may use for the model at `now_ms`, the oldest first.
    pub fn serving(&self, project_id: &str, model: Option<&str>, now_ms: u64) -> Vec<Arc<Lease>> {
        let granted = self.inner.granted.read().unwrap_or_else(PoisonError::into_inner);
        let is_of = |lease: &&Arc<Lease>| {
            lease.project_id == project_id
                && model.is_none_or(|model| lease.model == model)
                && lease.state(now_ms) == State::Active
        };
        granted.iter().filter(is_of).cloned().collect()
    }

    /// Units of the model that are free at every instant from `from_ms` up to `to_ms`.
    pub fn free(&self, model: &str, from_ms: u64, to_ms: u64) -> Result<u64, LeaseError> {
        let alive = store::alive(&self.lock())?;
        let sellable = self.sellable(model).unwrap_or(0);
        let own = alive.iter().map(|kept| &kept.lease).filter(|lease| lease.model == model);
        Ok(u64::from(sellable).saturating_sub(most_held(own, from_ms, to_ms)))
    }

    /// A project's lease, or anybody's.
    pub fn get(&self, project_id: Option<&str>, id: &str) -> Result<Option<(Kept, Sums)>, LeaseError> {
        let db = self.lock();
        let found = store::find(&db, id)?.filter(|kept| {
            kept.stage != Stage::Pending && project_id.is_none_or(|project| kept.lease.project_id == project)
        });
        let Some(kept) = found else { return Ok(None) };
        let sums = store::sums(&db, id)?;
        Ok(Some((kept, sums)))
    }

    /// Up to `limit` of a project's (or of all), the newest first, and whether there are more; `None` where `after` is not
    /// among them.
    pub fn list(
        &self,
        project_id: Option<&str>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<Page>, LeaseError> {
        let db = self.lock();
        let Some(mut page) = store::page(&db, project_id, after, limit.saturating_add(1))? else {
            return Ok(None);
        };
        let has_more = page.len() > limit;
        page.truncate(limit);
        let with_sums = page.into_iter().map(|kept| {
            let sums = store::sums(&db, &kept.lease.id)?;
            Ok((kept, sums))
        });
        Ok(Some((with_sums.collect::<Result<_, LeaseError>>()?, has_more)))
    }

    /// Ends a lease early; see [`Lease::give_notice`]. Its money follows with [`Leases::keep`].
    pub fn give_notice(&self, id: &str, by: Party, now_ms: u64) -> Result<(), LeaseError> {
        let db = self.lock();
        let kept = store::find(&db, id)?.filter(|kept| kept.stage != Stage::Pending);
        let mut lease = kept.ok_or_else(|| LeaseError::Unknown(id.to_owned()))?.lease;
        lease.give_notice(by, now_ms)?;
        store::update(&db, &lease)?;
        self.refresh(&db)
    }

    /// Takes the place of `lease`, so that it cannot be sold again, until it is [granted](Self::grant) or given up.
    fn reserve(&self, lease: &Lease) -> Result<(), LeaseError> {
        let sellable = self.sellable(&lease.model).unwrap_or(0);
        let mut db = self.lock();
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let alive = store::alive(&tx)?;
        let is_own = |kept: &&Kept| {
            kept.lease.org_id == lease.org_id
                && !matches!(
                    kept.lease.state(lease.created_ms),
                    State::Ended | State::Cancelled | State::Reclaimed
                )
        };
        let limit = self.inner.section.max_per_organisation;
        if alive.iter().filter(is_own).count() >= limit as usize {
            return Err(LeaseError::TooMany(limit));
        }
        let (from_ms, to_ms) = (lease.start_ms(), lease.end_ms);
        let others = || alive.iter().map(|kept| &kept.lease).filter(|other| other.model == lease.model);
        if most_held(others().chain([lease]), from_ms, to_ms) > u64::from(sellable) {
            let free = u64::from(sellable).saturating_sub(most_held(others(), from_ms, to_ms));
            let wanted = lease.steps.iter().map(|step| step.units).max().unwrap_or(0);
            return Err(LeaseError::Full { wanted, free, sellable });
        }
        store::insert(&tx, lease)?;
        Ok(tx.commit()?)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic while holding the lock leaves at worst an open transaction, which its guard has rolled back.
        self.inner.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no lease has anything left to do.
    fn is_idle(&self) -> bool {
        self.inner.granted.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Takes over what requests may use.
    fn refresh(&self, db: &Connection) -> Result<(), LeaseError> {
        let alive = store::alive(db)?.into_iter().filter(|kept| kept.stage != Stage::Pending);
        let granted = alive.map(|kept| Arc::new(kept.lease)).collect();
        *self.inner.granted.write().unwrap_or_else(PoisonError::into_inner) = granted;
        Ok(())
    }
}
