//! Carries one request through the engine and the ledger.
//!
//! [`Serving::admit`] takes limits, money and a place in the engine; the [`InFlight`] guard it returns owns them and ends
//! them exactly once, however the request ends.

mod admission;
mod allowance;
mod checkpoint;
mod delivery;
mod demand;
mod embedding;
mod funds;
mod inflight;
mod lifecycle;
mod meter;
mod pace;
mod rates;
mod spot;
mod step;
mod streams;
mod tiers;
mod tokenise;
mod upkeep;

pub use admission::{AdmitError, BatchJob, Job};
pub use delivery::{Delivery, WireState};
pub use demand::{Demand, Expected, PriceError, Quote, Size};
pub use embedding::{EmbedJob, Embedded, Held};
pub use inflight::InFlight;
pub use lifecycle::{Lifecycle, Phase};
pub use rates::Rates;
pub use step::{Cause, Receipt, Step};
pub use tiers::{TierError, TierPolicy, names as tier_names};
pub use tokenise::{PromptInput, off_thread};
pub use upkeep::{post_credits, upkeep};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use allowance::Allowances;
use spot::Spot;

use crate::capacity::Capacity;
use crate::config::{Config, Journal};
use crate::leases::Leases;
use crate::ledger::{Ledger, LedgerError, Settled, Settlement};
use crate::limits::Limiter;
use crate::metrics::Metrics;
use crate::receipts::{Receipt as Signed, Signer};
use crate::slo::Slo;

/// Time limits and allowances of admitted requests.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Output tokens per choice that are reserved and held at first, and each time the hold is extended.
    pub output_allowance: u32,
    /// Output tokens per choice that an answer is begun for where there is little money left.
    pub output_minimum: u32,
    /// How long a request may wait for the engine to begin.
    pub queue_wait: Duration,
    /// Whole life of a request.
    pub request_deadline: Duration,
    /// Silence after which a stream gets a sign of life.
    pub heartbeat: Duration,
    /// Which of the two a crash may find ahead: the client or the bill.
    pub journal: Journal,
}

impl Options {
    /// The configured values.
    pub fn of(config: &Config) -> Self {
        Self {
            output_allowance: config.limits.output_allowance_tokens,
            output_minimum: config.limits.output_minimum_tokens,
            queue_wait: Duration::from_secs(config.engine.queue_wait_s),
            request_deadline: Duration::from_secs(config.server.request_deadline_s),
            heartbeat: Duration::from_secs(config.server.heartbeat_seconds),
            journal: config.ledger.journal,
        }
    }
}

/// What every request shares.
pub struct Serving {
    /// Where money is recorded.
    pub ledger: Ledger,
    /// Requests, tokens and concurrency.
    pub limiter: Limiter,
    /// Prices.
    pub rates: Rates,
    /// Who may use which tier, and their weights.
    pub tiers: TierPolicy,
    /// Capacity that is sold ahead, where it is.
    pub leases: Option<Leases>,
    /// What the machine was measured to do, where it was.
    pub capacity: Option<Capacity>,
    /// Time limits and allowances.
    pub options: Options,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Whether tokens come as promised.
    pub slo: Slo,
    /// Whether the server is going down.
    pub lifecycle: Lifecycle,
    /// Output to reserve at first.
    allowances: Allowances,
    spot: Spot,
    /// Recent duration of admitted requests, for honest `retry-after`.
    typical_ms: AtomicU64,
    started: Instant,
}

impl Serving {
    /// Nothing in flight yet.
    pub fn new(ledger: Ledger, rates: Rates, config: &Config, lifecycle: Lifecycle) -> Self {
        Self {
            ledger,
            limiter: Limiter::new(&config.limits),
            rates,
            tiers: TierPolicy::new(&config.tiers),
            leases: None,
            capacity: None,
            options: Options::of(config),
            metrics: Arc::default(),
            slo: Slo::new(&config.slo),
            lifecycle,
            allowances: Allowances::new(&config.limits),
            spot: Spot::new(&config.spot),
            typical_ms: AtomicU64::new(1_000),
            started: Instant::now(),
        }
    }

    /// Milliseconds since the start, for limits: never runs backwards.
    pub fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How long requests have taken lately.
    pub fn typical_ms(&self) -> u64 {
        self.typical_ms.load(Ordering::Relaxed)
    }

    /// What `work` of a request that came at `arrived` comes to.
    ///
    /// # Errors
    /// The deadline passed before.
    pub async fn in_time<T>(&self, arrived: Instant, work: impl Future<Output = T>) -> Result<T, Cause> {
        let deadline = arrived + self.options.request_deadline;
        tokio::time::timeout_at(deadline.into(), work).await.map_err(|_| Cause::Deadline)
    }

    /// Bills a request, and has `signer` sign what for. Where an earlier call had billed it, nothing is signed.
    async fn settle(
        &self,
        settlement: Settlement,
        signer: Option<&Signer>,
    ) -> Result<(Settled, Option<Box<Signed>>), LedgerError> {
        let Some(signer) = signer else { return Ok((self.ledger.settle(settlement).await?, None)) };
        let (settled, evidence) = self.ledger.settle_evident(settlement).await?;
        Ok((settled, evidence.map(|evidence| Box::new(signer.sign(*evidence)))))
    }

    /// Milliseconds of a running average, new values weighing an eighth.
    fn note_duration(&self, duration: Duration) {
        let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(600_000);
        let old = self.typical_ms.load(Ordering::Relaxed);
        self.typical_ms.store((old * 7 + ms) / 8, Ordering::Relaxed);
    }

    /// When one of `waiting` requests over `running` ones can hope for a place. Below the 120 s above which SDKs give up.
    fn retry_after_ms(&self, waiting: usize, running: usize) -> u64 {
        let turns = (waiting as u64 + 1).div_ceil(running.max(1) as u64);
        (self.typical_ms.load(Ordering::Relaxed) * turns).clamp(500, 60_000)
    }
}

/// Wall clock, Unix milliseconds.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
