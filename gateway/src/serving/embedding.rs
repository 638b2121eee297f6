//! Carries a request for vectors through limits, embedder and ledger. It is one piece: all its vectors or none.

use std::sync::Arc;
use std::time::Instant;

use engine::{EmbedError, Embedder, Tier};
use models::EncoderInput;
use tokio::time::timeout_at;

use super::{AdmitError, BatchJob, Cause, Phase, Receipt, Serving, unix_ms};
use crate::accounts::Identity;
use crate::ledger::{Details, EndReason, HoldRequest, Settlement, Timings};
use crate::limits::Reservation;
use crate::money::Tokens;
use crate::receipts::{Receipt as Signed, Signer};

/// An embedder takes all work in its order.
const TIER: Tier = Tier::Default;

/// A checked request for vectors.
pub struct EmbedJob {
    /// Own id, also the ledger's key.
    pub request_id: String,
    /// Route, for the ledger and metrics.
    pub endpoint: &'static str,
    /// Who pays.
    pub identity: Arc<Identity>,
    /// Inputs, at least one, each of a length that the model takes.
    pub inputs: Vec<EncoderInput>,
    /// What reports and receipts say about it.
    pub details: Details,
    /// Set for a line of a batch.
    pub batch: Option<BatchJob>,
    /// Signs a receipt once it is billed, where one is wanted.
    pub signer: Option<Arc<Signer>>,
    /// When the request arrived.
    pub arrived: Instant,
}

/// What a request for vectors came to.
#[derive(Debug)]
pub struct Embedded {
    /// One an input.
    pub vectors: Vec<Vec<f32>>,
    /// What was billed.
    pub receipt: Receipt,
    /// The receipt of it, where one is wanted.
    pub signed: Option<Box<Signed>>,
}

/// Vectors that are not billed yet. Dropping it bills nothing, unless they were noted as kept.
pub struct Held {
    /// One an input.
    pub vectors: Vec<Vec<f32>>,
    /// What is going to be billed.
    pub receipt: Receipt,
    guard: Guard,
}

impl Held {
    /// Notes that the answer is where the client finds it: from here on it is billed, whatever comes.
    pub fn note_kept(&mut self) {
        self.guard.kept = Some(self.receipt.tokens);
    }

    /// Bills them; when this returns, the bill is durable and its numbers may be told.
    pub async fn settle(&mut self) -> Result<Receipt, AdmitError> {
        self.guard.settle(self.receipt.tokens).await
    }

    /// The signed receipt, once they are billed and where one is wanted.
    pub fn take_signed(&mut self) -> Option<Box<Signed>> {
        self.guard.signed.take()
    }
}

impl Serving {
    /// Holds the money while the embedder works, and settles when it is done. A client that leaves pays nothing.
    pub async fn embed(self: &Arc<Self>, embedder: &Embedder, job: EmbedJob) -> Result<Embedded, AdmitError> {
        let mut held = self.vectors(embedder, job).await?;
        let receipt = held.settle().await?;
        let signed = held.take_signed();
        Ok(Embedded { vectors: held.vectors, receipt, signed })
    }

    /// Holds the money while the embedder works.
    pub async fn vectors(self: &Arc<Self>, embedder: &Embedder, job: EmbedJob) -> Result<Held, AdmitError> {
        if self.lifecycle.phase() != Phase::Serving {
            return Err(AdmitError::Draining);
        }
        let total: usize = job.inputs.iter().map(|input| input.tokens.len()).sum();
        let tokens = u32::try_from(total).map_err(|_| AdmitError::Internal("too many tokens".to_owned()))?;
        let model = &embedder.card().id;
        let billed = job.batch.map_or(TIER.name(), |batch| batch.billed);
        let price =
            self.rates.at(model, billed, unix_ms()).ok_or_else(|| AdmitError::NoPrice(model.clone()))?;
        let amount = price.uncached_input.times(tokens)?;
        let reservation = match job.batch {
            None => Some(self.limiter.admit(&job.identity, tokens, self.monotonic_ms()).await?),
            Some(_) => None,
        };
        let hold = HoldRequest {
            request_id: job.request_id.clone(),
            key_id: job.identity.key_id.clone(),
            project_id: job.identity.project_id.clone(),
            org_id: job.identity.org_id.clone(),
            model: model.clone(),
            tier: billed.to_owned(),
            price,
            amount,
            prompt_tokens: tokens,
            budgets: job.identity.budgets_of(job.details.user.as_deref(), std::iter::empty()),
            credit_line: job.identity.credit_line,
            at_ms: unix_ms(),
            endpoint: job.endpoint.to_owned(),
            details: job.details,
            lease: None,
        };
        let vectors = embedder.submit(job.inputs).map_err(|source| {
            let stats = embedder.stats();
            AdmitError::Submit { source, retry_after_ms: self.retry_after_ms(stats.running, 1) }
        })?;
        let mut guard = Guard {
            serving: Arc::clone(self),
            request_id: job.request_id,
            endpoint: job.endpoint,
            arrived: job.arrived,
            reservation,
            held: true,
            kept: None,
            signer: job.signer,
            signed: None,
            ended: false,
        };
        let held = async { self.ledger.hold(hold).await.map_err(AdmitError::Hold) };
        let usual = job.arrived + self.options.request_deadline;
        let deadline = job.batch.map_or(usual, |batch| batch.until).into();
        let computed = async {
            tokio::select! {
                () = self.lifecycle.reached(Phase::Cut) => Err(AdmitError::Draining),
                vectors = timeout_at(deadline, vectors.all()) => match vectors {
                    Err(_) => Err(AdmitError::Cut(Cause::Deadline)),
                    Ok(Err(EmbedError::Failed(reason))) => Err(AdmitError::Internal(reason)),
                    Ok(Err(EmbedError::Cancelled)) => Err(AdmitError::Draining),
                    Ok(Ok(vectors)) => Ok(vectors),
                },
            }
        };
        let result = futures::future::try_join(held, computed).await;
        if let Err(AdmitError::Hold(_)) = result {
            guard.held = false;
        }
        let ((), vectors) = result?;
        let tokens = Tokens { uncached_input: tokens, ..Tokens::default() };
        Ok(Held { vectors, receipt: Receipt { tokens, cost: amount }, guard })
    }
}

/// Ends limits and hold exactly once, however the request ends.
struct Guard {
    serving: Arc<Serving>,
    request_id: String,
    endpoint: &'static str,
    arrived: Instant,
    reservation: Option<Reservation>,
    /// Whether the ledger may know of the request.
    held: bool,
    /// What is billed although nobody has settled it, because the answer is kept.
    kept: Option<Tokens>,
    signer: Option<Arc<Signer>>,
    /// The receipt of what was billed, where one is wanted.
    signed: Option<Box<Signed>>,
    ended: bool,
}

impl Guard {
    fn settlement(&self, tokens: Tokens) -> Settlement {
        Settlement {
            request_id: self.request_id.clone(),
            tokens,
            end: EndReason::Finished,
            at_ms: unix_ms(),
            timings: Timings::default(),
        }
    }

    async fn settle(&mut self, tokens: Tokens) -> Result<Receipt, AdmitError> {
        let settlement = self.settlement(tokens);
        let (settled, signed) = self.serving.settle(settlement, self.signer.as_deref()).await?;
        self.signed = signed;
        self.end(settled.tokens, EndReason::Finished);
        Ok(Receipt { tokens: settled.tokens, cost: settled.cost })
    }

    fn end(&mut self, tokens: Tokens, end: EndReason) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Some(reservation) = self.reservation.take() {
            let actual = u32::try_from(tokens.total()).unwrap_or(u32::MAX);
            reservation.settle(actual, self.serving.monotonic_ms());
        }
        let duration = self.arrived.elapsed();
        self.serving.note_duration(duration);
        let metrics = &self.serving.metrics;
        metrics.duration.observe(duration);
        metrics.endings.add(self.endpoint, end.as_str(), 1);
        metrics.tokens.add(self.endpoint, "uncached_input", tokens.uncached_input.into());
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if let Some(tokens) = self.kept {
            self.serving.ledger.settle_detached(self.settlement(tokens));
            return self.end(tokens, EndReason::Finished);
        }
        if self.held {
            self.serving.ledger.void_detached(&self.request_id, unix_ms());
        }
        let end = if std::thread::panicking() { EndReason::Error } else { EndReason::Disconnected };
        self.end(Tokens::default(), end);
    }
}
