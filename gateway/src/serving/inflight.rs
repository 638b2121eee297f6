//! The guard of one admitted request.
//!
//! It owns the limit reservation, the money hold and the engine streams, and lives inside the response body (or the future
//! of a unary answer). Whatever ends that - the last token, an error, a client that is gone, a deadline, a panic - ends the
//! guard, and the guard ends the three exactly once.

mod journal;
mod waiting;

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Event, Finish, FinishReason, Tier};
use tokio::time::timeout;

use super::admission::{AdmitError, Job, Plan};
use super::checkpoint::Checkpoints;
use super::delivery::Delivery;
use super::funds::Funds;
use super::meter::Meter;
use super::pace::Stopwatch;
use super::step::{Cause, Receipt, Step};
use super::streams::Streams;
use super::{Phase, Serving, unix_ms};
use crate::ledger::{EndReason, HoldRequest, LedgerError, Settlement, Timings};
use crate::limits::Reservation;
use crate::money::{MoneyError, PriceVersion, Tokens};
use crate::receipts::Receipt as Signed;
use waiting::during;

/// Everything a guard begins with.
pub(super) struct Opening {
    pub(super) serving: Arc<Serving>,
    pub(super) job: Job,
    pub(super) plan: Plan,
    pub(super) funds: Funds,
    pub(super) reservation: Option<Reservation>,
    pub(super) streams: Streams,
}

/// See the module.
pub struct InFlight {
    serving: Arc<Serving>,
    job: Job,
    plan: Plan,
    funds: Funds,
    meter: Meter,
    delivery: Arc<Delivery>,
    checkpoints: Checkpoints,
    reservation: Option<Reservation>,
    streams: Streams,
    /// An event that was seen while the request was opened.
    first: Option<(usize, Option<Event>)>,
    /// Whether the ledger may know of the request.
    held: bool,
    /// The whole answer is kept where the client finds it, so all of it is billed whatever comes.
    kept: bool,
    ended: bool,
    /// The receipt of what was billed, where one is wanted.
    signed: Option<Box<Signed>>,
    last_delta: Option<Instant>,
    watch: Stopwatch,
    first_token_ms: Option<u64>,
}

impl InFlight {
    pub(super) fn new(opening: Opening) -> Self {
        let Opening { serving, job, plan, funds, reservation, streams } = opening;
        let meter = Meter::new(&plan.prompt_tokens, plan.n as usize);
        let delivery = Arc::new(Delivery::new(streams.len(), job.wire.clone()));
        Self {
            checkpoints: Checkpoints::new(Instant::now()),
            reservation,
            first: None,
            held: false,
            kept: false,
            ended: false,
            signed: None,
            last_delta: None,
            watch: Stopwatch::new(job.arrived, streams.len()),
            first_token_ms: None,
            serving,
            job,
            plan,
            funds,
            meter,
            delivery,
            streams,
        }
    }

    /// Returns once the money is held and the engine has begun, which go on side by side.
    pub(super) async fn open(
        &mut self,
        hold: HoldRequest,
        queue_timeout: impl Fn() -> AdmitError,
    ) -> Result<(), AdmitError> {
        self.held = true;
        let ledger = self.serving.ledger.clone();
        let funds = &mut self.funds;
        let held = async { funds.hold(&ledger, hold).await.map_err(AdmitError::Hold) };
        let usual = self.serving.options.queue_wait;
        let own = self.job.batch.map(|batch| batch.until.saturating_duration_since(Instant::now()));
        let left = match self.job.deadline(self.serving.options.request_deadline, Duration::ZERO) {
            (promised, Cause::Late) => promised.saturating_duration_since(Instant::now()),
            _ => Duration::MAX,
        };
        let (usual, is_late) = (own.unwrap_or(usual), left < own.unwrap_or(usual));
        let refusal = || if is_late { AdmitError::Cut(Cause::Late) } else { queue_timeout() };
        let wait = usual.min(left);
        let lifecycle = self.serving.lifecycle.clone();
        let streams = &mut self.streams;
        let begun = async {
            tokio::select! {
                () = lifecycle.reached(Phase::Cut) => Err(AdmitError::Draining),
                first = timeout(wait, streams.next()) => first.map_err(|_| refusal()),
            }
        };
        let result = futures::future::try_join(held, begun).await;
        match &result {
            Err(AdmitError::Hold(_)) => self.held = false,
            Err(AdmitError::QueueTimeout { .. }) => self.void(EndReason::Timeout),
            Err(AdmitError::Cut(cause)) => self.void(cause.end()),
            _ => {}
        }
        match result?.1 {
            (choice, Some(Event::Started { cached_tokens })) => self.meter.started(choice, cached_tokens),
            first => self.first = Some(first),
        }
        Ok(())
    }

    /// Input tokens of all prompts; the cached ones as far as known by now.
    pub fn input(&self) -> Tokens {
        Tokens { output: 0, ..self.meter.whole() }
    }

    /// Where the body books what it hands over.
    pub fn delivery(&self) -> &Arc<Delivery> {
        &self.delivery
    }

    /// The tier that serves it, and is billed.
    pub fn tier(&self) -> Tier {
        self.job.tier
    }

    /// The prices that it is billed at.
    pub fn price(&self) -> &PriceVersion {
        self.funds.price()
    }

    /// The request's id.
    pub fn request_id(&self) -> &str {
        &self.job.request_id
    }

    /// Choices whose end was not seen yet.
    pub fn unfinished(&self) -> Vec<usize> {
        self.streams.unfinished().collect()
    }

    /// Ends one choice; what it generated until now counts.
    pub fn close(&mut self, choice: usize) {
        self.streams.close(choice);
    }

    /// The next thing to tell. After [`Step::Done`] or [`Step::Cut`] call [`settle`](Self::settle) or
    /// [`cut`](Self::cut).
    pub async fn next(&mut self) -> Step {
        self.watch.asked(Instant::now());
        let step = self.advance().await;
        self.watch.told(Instant::now());
        step
    }

    async fn advance(&mut self) -> Step {
        loop {
            let (choice, event) = match self.first.take() {
                Some(first) => first,
                None if self.streams.is_done() => return Step::Done,
                None => match self.wait().await {
                    Ok(event) => event,
                    Err(step) => return step,
                },
            };
            if let Some(step) = self.observe(choice, event).await {
                return step;
            }
        }
    }

    async fn wait(&mut self) -> Result<(usize, Option<Event>), Step> {
        during(&self.serving, &self.job, self.watch.idle(), self.streams.next()).await
    }

    /// Waits for `work` as for the engine: until there is a heartbeat to tell, or the request must end.
    ///
    /// # Errors
    /// The step to tell meanwhile; `work` is dropped.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Step> {
        self.watch.asked(Instant::now());
        let done = during(&self.serving, &self.job, self.watch.idle(), work).await;
        self.watch.told(Instant::now());
        done
    }

    async fn observe(&mut self, choice: usize, event: Option<Event>) -> Option<Step> {
        match event {
            Some(Event::Started { cached_tokens }) => {
                self.meter.started(choice, cached_tokens);
                None
            }
            Some(Event::Prompt(logprobs)) => Some(Step::Prompt(choice, logprobs)),
            Some(Event::Delta(delta)) => {
                if let Err(cause) = self.cover(delta.tokens).await {
                    return Some(Step::Cut(cause));
                }
                self.meter.generated(choice, delta.tokens);
                self.time_delta(choice, delta.tokens);
                Some(Step::Delta(choice, delta))
            }
            Some(Event::Finished(finish)) => Some(self.finished(choice, finish)),
            None => Some(Step::Cut(Cause::Engine("the stream broke off".to_owned()))),
        }
    }

    fn finished(&mut self, choice: usize, finish: Finish) -> Step {
        let counted = self.meter.of(choice);
        let limit = self.plan.max_tokens[choice / self.plan.n as usize];
        self.streams.close(choice);
        match &finish.reason {
            FinishReason::Error(reason) => Step::Cut(Cause::Engine(reason.clone())),
            FinishReason::Cancelled => Step::Cut(Cause::Shutdown),
            // The bill rests on these numbers, so they are not taken on trust.
            _ if finish.usage.completion_tokens != counted || counted > limit => {
                let told = finish.usage.completion_tokens;
                Step::Cut(Cause::Engine(format!("{told} tokens told, {counted} counted, {limit} allowed")))
            }
            FinishReason::Stop | FinishReason::Length => Step::Finished(choice, finish),
        }
    }

    fn time_delta(&mut self, choice: usize, tokens: u32) {
        let now = Instant::now();
        self.watch.piece(choice, tokens, now);
        let (metrics, tier) = (&self.serving.metrics, self.job.tier.index());
        match self.last_delta.replace(now) {
            None => {
                self.first_token_ms = Some(unix_ms());
                metrics.first_token.observe(now - self.job.arrived);
                metrics.tier_first_token[tier].observe(now - self.job.arrived);
            }
            Some(last) => {
                metrics.next_token.observe(now - last);
                metrics.tier_next_token[tier].observe(now - last);
            }
        }
    }

    /// Makes sure that the hold pays for `tokens` more.
    async fn cover(&mut self, tokens: u32) -> Result<(), Cause> {
        let needed = self.meter.total() + tokens;
        let choices = u32::try_from(self.streams.len()).unwrap_or(u32::MAX);
        let allowance = self.serving.options.output_allowance.saturating_mul(choices);
        let covered = self.funds.cover(&self.serving.ledger, &self.job.request_id, needed, allowance).await;
        covered.map_err(Cause::from)
    }

    /// What [`settle`](Self::settle) is going to bill.
    pub fn preview(&self) -> Result<Receipt, MoneyError> {
        let tokens = self.meter.whole();
        Ok(Receipt { tokens, cost: self.funds.cost(tokens)? })
    }

    /// Notes that the whole answer is where the client finds it: from here on all of it is billed, whatever comes.
    pub fn note_kept(&mut self) {
        self.kept = true;
    }

    /// Bills everything: all choices are complete, or a unary answer ends at its budget. When this returns, the bill is
    /// durable and the numbers may be told.
    pub async fn settle(&mut self, end: EndReason) -> Result<Receipt, LedgerError> {
        self.streams.cancel();
        self.settle_tokens(self.meter.whole(), end).await
    }

    /// Ends a stream before its time: bills what was handed over, or nothing if that is nothing.
    pub async fn cut(&mut self, cause: &Cause) {
        self.streams.cancel();
        let tokens = self.meter.part(&self.sent());
        tracing::warn!(request_id = self.job.request_id, cause = ?cause, "request cut off");
        if tokens.output > 0 {
            // On failure the guard's drop leaves a settlement behind for when the ledger is back.
            let _ = self.settle_tokens(tokens, cause.end()).await;
        } else {
            self.void(cause.end());
        }
    }

    async fn settle_tokens(&mut self, tokens: Tokens, end: EndReason) -> Result<Receipt, LedgerError> {
        let settlement = self.settlement(tokens, end);
        let (settled, signed) = self.serving.settle(settlement, self.job.signer.as_deref()).await?;
        self.signed = signed;
        self.end(settled.tokens, end);
        Ok(Receipt { tokens: settled.tokens, cost: settled.cost })
    }

    /// The signed receipt, once it is billed and where one is wanted.
    pub fn take_signed(&mut self) -> Option<Box<Signed>> {
        self.signed.take()
    }

    fn settlement(&self, tokens: Tokens, end: EndReason) -> Settlement {
        let timings = Timings { first_token_ms: self.first_token_ms, pace: self.watch.ended(end) };
        Settlement { request_id: self.job.request_id.clone(), tokens, end, at_ms: unix_ms(), timings }
    }

    fn void(&mut self, end: EndReason) {
        let is_owed_an_account = self.job.lease.is_some() && self.watch.pace().is_none();
        if let Some(_waited) = self.watch.ended(end).filter(|_| self.held && is_owed_an_account) {
            // It costs nothing, but the lessee was promised something, so that it is kept how long it waited in vain.
            self.serving.ledger.settle_detached(self.settlement(Tokens::default(), end));
        } else if self.held {
            self.serving.ledger.void_detached(&self.job.request_id, unix_ms());
        }
        self.end(Tokens::default(), end);
    }

    /// Everything but the ledger; the first call counts.
    fn end(&mut self, tokens: Tokens, end: EndReason) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.streams.cancel();
        if let Some(reservation) = self.reservation.take() {
            let actual = u32::try_from(tokens.total()).unwrap_or(u32::MAX);
            let lease = self.job.lease.as_ref();
            let leased = lease.map_or(0, |lease| lease.weight(tokens.uncached_input, tokens.output));
            reservation.settle_leased(actual, leased, self.serving.monotonic_ms());
        }
        if end == EndReason::Finished {
            let (key_id, model) = (&self.job.identity.key_id, self.funds.model());
            for choice in 0..self.streams.len() {
                self.serving.allowances.note(key_id, model, self.meter.of(choice));
            }
        }
        if let Some(pace) = self.watch.ended(end) {
            let lease = self.job.lease.as_deref();
            self.serving.slo.note(self.job.tier, lease, pace, self.serving.monotonic_ms());
        }
        let duration = self.job.arrived.elapsed();
        self.serving.note_duration(duration);
        let metrics = &self.serving.metrics;
        let endpoint = self.job.endpoint;
        metrics.duration.observe(duration);
        metrics.endings.add(endpoint, end.as_str(), 1);
        for (class, count) in [
            ("uncached_input", tokens.uncached_input),
            ("cached_input", tokens.cached_input),
            ("output", tokens.output),
        ] {
            metrics.tokens.add(endpoint, class, count.into());
            metrics.tier_tokens.add(self.job.tier.name(), class, count.into());
        }
        tracing::info!(
            request_id = self.job.request_id,
            project = self.job.identity.project_id,
            key = self.job.identity.key_id,
            end = end.as_str(),
            uncached_input = tokens.uncached_input,
            cached_input = tokens.cached_input,
            output = tokens.output,
            duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            "request ended"
        );
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if self.kept {
            let tokens = self.meter.whole();
            self.serving.ledger.settle_detached(self.settlement(tokens, EndReason::Finished));
            return self.end(tokens, EndReason::Finished);
        }
        let end = if std::thread::panicking() { EndReason::Error } else { EndReason::Disconnected };
        // A unary answer hands nothing over before it is settled, so this is zero for it.
        let tokens = self.meter.part(&self.sent());
        if tokens.output == 0 {
            return self.void(end);
        }
        self.serving.ledger.settle_detached(self.settlement(tokens, end));
        self.end(tokens, end);
    }
}
