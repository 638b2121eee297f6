//! The HTTP surfaces: what comes in is checked here, what goes out is shaped here.

pub mod anthropic;
pub mod auth;
pub mod body;
pub mod error;
pub mod fields;
pub mod functions;
pub mod generation;
pub mod json;
pub mod openai;
pub mod organization;
pub mod query;
pub mod receipts;
pub mod responses;
pub mod scope;
pub mod sse;
pub mod strict_schema;

use std::sync::Arc;

use engine::Engine;

use self::body::BodyLimits;
use self::error::{ApiError, ApiResult, Code};
use crate::accounts::Accounts;
use crate::config::{Config, Limits};
use crate::guard::Guard;
use crate::receipts::Signer;
use crate::responses::{Background, Store};
use crate::serving::{Serving, unix_ms};

/// What all handlers share.
pub struct Api {
    /// Keys.
    pub accounts: Accounts,
    /// Admission and money.
    pub serving: Arc<Serving>,
    /// The model served.
    pub engine: Engine,
    /// Answers that are kept.
    pub responses: Arc<Store>,
    /// Answers in the making that no client has to wait for.
    pub background: Background,
    /// When the model was loaded, Unix seconds.
    pub created: u64,
    /// Content rules.
    pub guard: Guard,
    /// Bounds of request fields.
    pub limits: Limits,
    /// Bounds of request bodies.
    pub body: BodyLimits,
    /// Where reports are read from.
    pub reports: organization::ReportSource,
}

/// Handle of [`Api`] in handlers.
pub type Shared = Arc<Api>;

impl Api {
    /// Ready to answer.
    pub fn new(
        accounts: Accounts,
        serving: Arc<Serving>,
        responses: Arc<Store>,
        engine: Engine,
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
            engine,
            responses,
            background: Background::default(),
            created: unix_ms() / 1_000,
            guard,
            limits: config.limits.clone(),
            body,
            reports,
        }
    }

    /// The engine of `model`, or 404 in the same words for every name that cannot be used.
    pub fn engine_of(&self, model: &str) -> ApiResult<&Engine> {
        if self.engine.card().id == model {
            return Ok(&self.engine);
        }
        let shown: String = model.chars().take(128).collect();
        let message = format!("The model '{shown}' does not exist or you do not have access to it.");
        Err(ApiError::param(Code::ModelNotFound, "model", message))
    }

    /// Whether new work would be served.
    pub fn is_ready(&self) -> bool {
        self.serving.lifecycle.phase() == crate::serving::Phase::Serving
            && self.engine.healthy()
            && self.serving.ledger.healthy()
    }
}
