//! The HTTP surfaces: what comes in is checked here, what goes out is shaped here.

pub mod admin;
pub mod anthropic;
pub mod auth;
pub mod azure;
pub mod batches;
pub mod body;
pub mod capacity;
pub mod encoding;
pub mod error;
pub mod fields;
pub mod files;
pub mod functions;
pub mod generation;
pub mod idempotency;
pub mod json;
pub mod leases;
pub mod list;
pub mod openai;
pub mod openapi;
pub mod organization;
pub mod query;
pub mod quote;
pub mod receipts;
pub mod rerank;
pub mod responses;
pub mod scope;
pub mod sse;
pub mod strict_schema;
pub mod tokenize;

use std::sync::Arc;

use engine::{Embedder, Engine};

use self::body::BodyLimits;
use self::error::{ApiError, ApiResult, Code};
use crate::accounts::{Accounts, Identity};
use crate::batches::Batches;
use crate::capacity::Capacity;
use crate::config::{Config, EmbeddingSection, Limits};
use crate::files::Files;
use crate::guard::Guard;
use crate::idempotency::Idempotency;
use crate::receipts::Signer;
use crate::registry::{Registry, Served};
use crate::responses::{Background, Store};
use crate::serving::{Serving, unix_ms};

/// What all handlers share.
pub struct Api {
    /// Keys.
    pub accounts: Accounts,
    /// Admission and money.
    pub serving: Arc<Serving>,
    /// The models served.
    pub models: Registry,
    /// Answers that are kept.
    pub responses: Arc<Store>,
    /// Keys of requests that may be sent twice.
    pub idempotency: Idempotency,
    /// Answers in the making that no client has to wait for.
    pub background: Background,
    /// Files of customers.
    pub files: Files,
    /// Batches.
    pub batches: Batches,
    /// What does them.
    pub runner: batches::Runner,
    /// What the machine was measured to do.
    pub capacity: Option<Capacity>,
    /// Time between tokens that is promised, milliseconds.
    pub capacity_target_ms: f64,
    /// Places for uploads.
    pub uploads: tokio::sync::Semaphore,
    /// When the model was loaded, Unix seconds.
    pub created: u64,
    /// Content rules.
    pub guard: Guard,
    /// Bounds of request fields.
    pub limits: Limits,
    /// Bounds of requests for vectors.
    pub embedding: EmbeddingSection,
    /// Bounds of request bodies.
    pub body: BodyLimits,
    /// Longest summary of a compacted conversation, tokens.
    pub compact_max_tokens: u32,
    /// Connections that stay open for one request after the other.
    pub sockets: responses::Sockets,
    /// Where reports are read from.
    pub reports: organization::ReportSource,
}

/// What is kept of requests and for customers beside their bills.
pub struct Kept {
    /// Answers for a later `GET`.
    pub responses: Arc<Store>,
    /// Answers to requests that may be sent twice.
    pub idempotency: Idempotency,
    /// Files.
    pub files: Files,
    /// Batches.
    pub batches: Batches,
    /// What was measured.
    pub capacity: Option<Capacity>,
}

/// Handle of [`Api`] in handlers.
pub type Shared = Arc<Api>;

impl Api {
    /// Ready to answer.
    pub fn new(
        accounts: Accounts,
        serving: Arc<Serving>,
        kept: Kept,
        models: Registry,
        guard: Guard,
        signer: Signer,
        config: &Config,
    ) -> Self {
        let body = BodyLimits {
            max_bytes: config.server.max_body_bytes,
            max_depth: config.limits.json_depth,
            deadline: std::time::Duration::from_secs(config.server.body_deadline_s),
        };
        let reports =
            organization::ReportSource::new(config.data.dir.clone(), config.reports.clone(), signer);
        Self {
            accounts,
            serving,
            models,
            responses: kept.responses,
            idempotency: kept.idempotency,
            background: Background::default(),
            files: kept.files,
            batches: kept.batches,
            capacity: kept.capacity,
            capacity_target_ms: f64::from(config.capacity.inter_token_ms),
            runner: batches::Runner::new(&config.batches),
            uploads: tokio::sync::Semaphore::new(config.files.max_uploads),
            created: unix_ms() / 1_000,
            guard,
            limits: config.limits.clone(),
            embedding: config.embedding.clone(),
            body,
            compact_max_tokens: config.responses.compact_max_tokens,
            sockets: responses::Sockets::new(&config.websocket),
            reports,
        }
    }

    /// The engine of `model`, which must be one that generates.
    pub fn engine_of(&self, caller: &Identity, model: &str) -> ApiResult<&Engine> {
        match self.served(caller, model)? {
            Served::Engine(engine) => Ok(engine),
            Served::Embedder(embedder) => {
                let kind = embedder.card().kind.as_str();
                let message = format!("The model '{model}' does not generate text: its kind is '{kind}'.");
                Err(ApiError::param(Code::UnsupportedValue, "model", message))
            }
        }
    }

    /// The embedder or cross-encoder of `model`.
    pub fn embedder_of(&self, caller: &Identity, model: &str) -> ApiResult<&Embedder> {
        match self.served(caller, model)? {
            Served::Embedder(embedder) => Ok(embedder),
            Served::Engine(_) => {
                let message = format!("The model '{model}' generates text and makes no vectors.");
                Err(ApiError::param(Code::UnsupportedValue, "model", message))
            }
        }
    }

    /// The model of this name, or 404 in the same words for every name that the caller cannot use.
    pub fn served(&self, caller: &Identity, model: &str) -> ApiResult<&Served> {
        let usable = self.models.get(model).filter(|_| caller.may_use(model));
        usable.ok_or_else(|| no_model(model))
    }

    /// Whether new work would be served.
    pub fn is_ready(&self) -> bool {
        self.serving.lifecycle.phase() == crate::serving::Phase::Serving
            && self.models.healthy()
            && self.serving.ledger.healthy()
    }
}

fn no_model(model: &str) -> ApiError {
    let shown: String = model.chars().take(128).collect();
    let message = format!("The model '{shown}' does not exist or you do not have access to it.");
    ApiError::param(Code::ModelNotFound, "model", message)
}
