//! Limits, tokens, money, a place in the engine: all or nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{
    Engine, Grammar, GrammarError, GrammarSource, Request, SamplingParams, Stop, SubmitError, Tier,
};

use super::demand::{Demand, Expected, PriceError};
use super::funds::Funds;
use super::inflight::Opening;
use super::streams::Streams;
use super::{Cause, InFlight, Phase, PromptInput, Serving, TierError, WireState, unix_ms};
use crate::accounts::Identity;
use crate::leases::{Lease, Overflow};
use crate::ledger::{Details, HoldError, HoldRequest, LedgerError, Tags};
use crate::limits::{Leased, LimitError, Reservation, Scope};
use crate::money::{MoneyError, Picos, PriceVersion};
use crate::receipts::Signer;

/// What is different for a line of a batch. It has the limits of batches in place of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchJob {
    /// Tier in rate card and bill.
    pub billed: &'static str,
    /// When its time is over; until then it waits for a place.
    pub until: Instant,
}

/// A checked request.
pub struct Job {
    /// Own id, also the ledger's key.
    pub request_id: String,
    /// Route, for the ledger and metrics.
    pub endpoint: &'static str,
    /// Who pays.
    pub identity: Arc<Identity>,
    /// What reports and receipts say about it.
    pub details: Details,
    /// Prompts, at least one.
    pub prompts: Vec<PromptInput>,
    /// Choices per prompt.
    pub n: u32,
    /// Wanted output limit per choice; absent: the rest of the context.
    pub max_tokens: Option<u32>,
    /// Sampling; the seed belongs to the first choice.
    pub sampling: SamplingParams,
    /// Stop conditions; `max_tokens` is filled in here.
    pub stop: Stop,
    /// Form of each choice.
    pub form: Option<GrammarSource>,
    /// The connection, when the answer is a stream.
    pub wire: Option<Arc<WireState>>,
    /// Whether tokens are delivered as they come.
    pub stream: bool,
    /// Tier that serves it, and is billed unless a batch says otherwise.
    pub tier: Tier,
    /// Set for a line of a batch.
    pub batch: Option<BatchJob>,
    /// What the caller demands beside the answer.
    pub demand: Demand,
    /// The lease that it uses; found at admission.
    pub lease: Option<Arc<Lease>>,
    /// Signs a receipt once it is billed, where one is wanted.
    pub signer: Option<Arc<Signer>>,
    /// When the request arrived.
    pub arrived: Instant,
}

impl Job {
    /// Tier in rate card and bill.
    fn billed(&self) -> &'static str {
        self.batch.map_or(self.tier.name(), |batch| batch.billed)
    }
}

/// Why a request was not admitted, or failed before its first token. It costs nothing.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// A limit of the key or project.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The guaranteed rate of a lease that is not to overflow.
    #[error("lease {id} guarantees {tokens_per_second} tokens/s: {limit}")]
    Lease {
        /// The lease.
        id: String,
        /// Its rate at this moment.
        tokens_per_second: u32,
        /// The limit of a minute.
        limit: LimitError,
    },
    /// The project has no lease of this model, and may not use the tier without one.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// The prompt does not fit.
    #[error("the prompt has {prompt} tokens, the model takes less than {context}")]
    ContextLength {
        /// Tokens, or a lower bound for them.
        prompt: usize,
        /// The model's context.
        context: usize,
        /// Whether `prompt` was counted.
        exact: bool,
        /// The request's field with the prompt.
        field: &'static str,
    },
    /// A prompt without tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A token id beyond the vocabulary.
    #[error("token {token} is not in the vocabulary of {vocab} tokens")]
    UnknownToken {
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// The model's template refuses the messages.
    #[error("{0}")]
    Conversation(String),
    /// The form cannot be compiled.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// The deadline cannot be kept.
    #[error("wanted within {wanted:?}, expected in {expected:?}")]
    Deadline {
        /// What the caller demands.
        wanted: Duration,
        /// What can be expected.
        expected: Expected,
    },
    /// The caller offers too little.
    #[error(transparent)]
    Price(#[from] PriceError),
    /// No price for the model: it cannot be sold.
    #[error("no price is in force for model {0}")]
    NoPrice(String),
    /// More money than the counters hold.
    #[error(transparent)]
    Money(#[from] MoneyError),
    /// A budget, or the ledger itself.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// The ledger failed after the hold.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The engine refuses.
    #[error("{source}")]
    Submit {
        /// The engine's reason.
        source: SubmitError,
        /// When a place may be free.
        retry_after_ms: u64,
    },
    /// Waited too long for the engine.
    #[error("no place became free within {waited_s} s")]
    QueueTimeout {
        /// Seconds waited.
        waited_s: u64,
        /// When a place may be free.
        retry_after_ms: u64,
    },
    /// It could not be finished.
    #[error("cut off: {0:?}")]
    Cut(Cause),
    /// The server is going down.
    #[error("the server is shutting down")]
    Draining,
    /// A fault of ours.
    #[error("{0}")]
    Internal(String),
}

impl AdmitError {
    /// When the lease would admit it; never is last.
    fn wait_ms(&self) -> u64 {
        match self {
            AdmitError::Lease { limit, .. } => limit.retry_after_ms.unwrap_or(u64::MAX),
            _ => u64::MAX,
        }
    }
}

impl Serving {
    /// Admits `job`: when this returns, the engine has begun and the money is held, durably.
    pub async fn admit(self: &Arc<Self>, engine: &Engine, mut job: Job) -> Result<InFlight, AdmitError> {
        if self.lifecycle.phase() != Phase::Serving {
            return Err(AdmitError::Draining);
        }
        if job.batch.is_none() {
            self.check_exhausted(&job.identity)?;
        }
        let grammar = compile(engine, job.form.take()).await?;
        let mut prompts = Vec::with_capacity(job.prompts.len());
        for prompt in std::mem::take(&mut job.prompts) {
            prompts.push(prompt.tokenise(engine).await?);
        }
        let allowance = self.allowances.of(&job.identity.key_id, &engine.card().id);
        let mut plan = Plan::new(&prompts, &job, engine.context_len(), allowance);
        let tokens = plan.prompt_total().saturating_add(plan.covered);
        let reservation = match job.batch {
            None => Some(self.reserve(engine, &mut job, &plan, tokens).await?),
            Some(_) => None,
        };
        let price = self.price(engine, job.billed())?;
        self.check_demand(engine, job.ask(), &mut plan, &price)?;
        let funds = Funds::new(price.clone(), &plan, self.options.output_minimum)?;
        let hold = hold_request(&job, engine, &plan, &price, funds.amount()?);
        let streams = self.submit(engine, prompts, &job, &plan, grammar.as_ref())?;
        let mut flight =
            InFlight::new(Opening { serving: Arc::clone(self), job, plan, funds, reservation, streams });
        flight.open(hold, || self.queue_timeout(engine)).await?;
        Ok(flight)
    }

    /// Takes from the limits; in the tier `reserved` also from the project's leases of the model, where it has some. What
    /// they do not admit goes on in the tier `default`, if one of them says so.
    async fn reserve(
        &self,
        engine: &Engine,
        job: &mut Job,
        plan: &Plan,
        tokens: u32,
    ) -> Result<Reservation, AdmitError> {
        let (now_ms, model) = (unix_ms(), engine.card().id.as_str());
        let mut leases = match (&self.leases, job.tier) {
            (Some(leases), Tier::Reserved) => leases.serving(&job.identity.project_id, Some(model), now_ms),
            _ => Vec::new(),
        };
        if leases.is_empty() {
            if job.tier == Tier::Reserved {
                // It may have been let in for a lease of another model, or one that is over by now.
                self.tiers.choose(&job.identity, Some(Tier::Reserved))?;
            }
            return Ok(self.limiter.admit(&job.identity, tokens, self.monotonic_ms()).await?);
        }
        let is_shared = leases.iter().any(|lease| lease.overflow == Overflow::ReservedThenShared);
        let mut refused: Option<AdmitError> = None;
        // Those that end first are used first.
        leases.sort_by_key(|lease| lease.end_ms);
        for lease in leases {
            let rate = lease.tokens_per_minute(now_ms);
            let leased = Leased {
                id: &lease.id,
                tokens_per_minute: rate,
                tokens: lease.weight(plan.prompt_total(), plan.covered),
            };
            match self.limiter.reserve_leased(&job.identity, tokens, leased, self.monotonic_ms()) {
                Ok(reservation) => {
                    job.lease = Some(lease);
                    return Ok(reservation);
                }
                Err(limit) if limit.scope == Scope::Lease => {
                    let (id, tokens_per_second) = (lease.id.clone(), rate / 60);
                    let error = AdmitError::Lease { id, tokens_per_second, limit };
                    let is_sooner = refused.as_ref().is_none_or(|other| error.wait_ms() < other.wait_ms());
                    refused = if is_sooner { Some(error) } else { refused };
                }
                // A limit of the key, project or organisation, which no other lease changes.
                Err(limit) => return Err(limit.into()),
            }
        }
        match refused {
            Some(error) if !is_shared => Err(error),
            _ => {
                job.tier = Tier::Default;
                Ok(self.limiter.admit(&job.identity, tokens, self.monotonic_ms()).await?)
            }
        }
    }

    /// Refuses before any work when nothing at all is left of a limit.
    pub fn check_exhausted(&self, identity: &Identity) -> Result<(), AdmitError> {
        let now = self.monotonic_ms();
        let left = self.limiter.headers_here(identity, now);
        if left.remaining_requests == 0 || left.remaining_tokens == 0 {
            drop(self.limiter.reserve(identity, 1, now)?);
        }
        Ok(())
    }

    fn submit(
        &self,
        engine: &Engine,
        prompts: Vec<Vec<u32>>,
        job: &Job,
        plan: &Plan,
        grammar: Option<&Grammar>,
    ) -> Result<Streams, AdmitError> {
        let mut streams = Streams::default();
        let tenant = self.tiers.tenant(&job.identity);
        for (prompt, &max_tokens) in prompts.into_iter().zip(&plan.max_tokens) {
            for _ in 0..job.n {
                let mut sampling = job.sampling.clone();
                // Each choice has a seed of its own, all of them derived from the first.
                sampling.seed = sampling.seed.wrapping_add(streams.len() as u64);
                let request = Request {
                    prompt: prompt.clone(),
                    sampling,
                    stop: Stop { max_tokens, ..job.stop.clone() },
                    salt: job.identity.org_id.clone(),
                    tier: job.tier,
                    tenant: tenant.clone(),
                    grammar: grammar.cloned(),
                };
                let stream = engine.submit(request).map_err(|source| {
                    let stats = engine.stats();
                    let retry_after_ms = self.retry_after_ms(stats.waiting, stats.running);
                    AdmitError::Submit { source, retry_after_ms }
                })?;
                streams.push(stream);
            }
        }
        Ok(streams)
    }

    fn queue_timeout(&self, engine: &Engine) -> AdmitError {
        let stats = engine.stats();
        let waited: Duration = self.options.queue_wait;
        let retry_after_ms = self.retry_after_ms(stats.waiting, stats.running);
        AdmitError::QueueTimeout { waited_s: waited.as_secs(), retry_after_ms }
    }
}

/// Compiles the form, off the threads that serve connections.
async fn compile(engine: &Engine, form: Option<GrammarSource>) -> Result<Option<Grammar>, AdmitError> {
    let Some(form) = form else { return Ok(None) };
    let engine = engine.clone();
    let job = tokio::task::spawn_blocking(move || engine.compile(&form));
    let compiled = job.await.map_err(|e| AdmitError::Internal(format!("compiling failed: {e}")))?;
    Ok(Some(compiled?))
}

/// Sizes of a request, known before it runs.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Length of each prompt.
    pub(super) prompt_tokens: Vec<u32>,
    /// Output limit of each prompt's choices.
    pub(super) max_tokens: Vec<u32>,
    /// Choices per prompt.
    pub(super) n: u32,
    /// Output tokens of all choices that the first hold pays for.
    pub(super) covered: u32,
}

impl Plan {
    fn new(prompts: &[Vec<u32>], job: &Job, context: usize, allowance: u32) -> Self {
        let length = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        let prompt_tokens: Vec<u32> = prompts.iter().map(|prompt| length(prompt.len())).collect();
        let room = |prompt: &u32| length(context).saturating_sub(*prompt);
        // None at all are generated where only the prompt is scored.
        let least = job.max_tokens.unwrap_or(1).min(1);
        let limit = |prompt: &u32| job.max_tokens.unwrap_or(u32::MAX).min(room(prompt)).max(least);
        let max_tokens: Vec<u32> = prompt_tokens.iter().map(limit).collect();
        let plan = Self { prompt_tokens, max_tokens, n: job.n, covered: 0 };
        Self { covered: plan.output_within(allowance), ..plan }
    }

    pub(super) fn prompt_total(&self) -> u32 {
        self.prompt_tokens.iter().sum()
    }

    /// Most output tokens of all choices.
    pub(super) fn output_limit(&self) -> u32 {
        self.output_within(u32::MAX)
    }

    /// The same with no choice longer than `most`.
    pub(super) fn output_within(&self, most: u32) -> u32 {
        let each = self.max_tokens.iter().map(|max| max.min(&most).saturating_mul(self.n));
        each.fold(0, u32::saturating_add)
    }
}

fn hold_request(job: &Job, engine: &Engine, plan: &Plan, price: &PriceVersion, amount: Picos) -> HoldRequest {
    let tags = job.details.tags.as_ref().map(Tags::pairs).unwrap_or_default();
    HoldRequest {
        request_id: job.request_id.clone(),
        key_id: job.identity.key_id.clone(),
        project_id: job.identity.project_id.clone(),
        org_id: job.identity.org_id.clone(),
        model: engine.card().id.clone(),
        tier: job.billed().to_owned(),
        price: price.clone(),
        amount,
        prompt_tokens: plan.prompt_total(),
        budgets: job.identity.budgets_of(
            job.details.user.as_deref(),
            tags.iter().map(|(key, value)| (key.as_str(), value.as_str())),
        ),
        credit_line: job.identity.credit_line,
        at_ms: unix_ms(),
        endpoint: job.endpoint.to_owned(),
        details: job.details.clone(),
        lease: job.lease.as_ref().map(|lease| lease.id.clone()),
    }
}
