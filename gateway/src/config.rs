//! The configuration: one TOML file, then environment overrides, then checks. Every default, unit and bound is in
//! [`sections`].
//!
//! An override is `SPILLWAY__<SECTION>__<KEY>=<value>`, in capitals with two underscores between the parts:
//! `SPILLWAY__SERVER__LISTEN=0.0.0.0:8080`, `SPILLWAY__ENGINE__THREADS=2`. A list takes TOML's inline form.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::money::{MoneyError, PriceVersion, RateCard};

mod alerts;
mod budget;
mod device;
mod embedding;
mod fleet;
mod grammar;
mod guard;
mod idempotency;
mod journal;
mod leases;
mod load;
mod market;
mod money;
mod reports;
mod sections;
mod spot;
#[cfg(test)]
mod tests;
mod tiers;

pub use alerts::{AlertsSection, WEBHOOK_SECRET_PREFIX};
pub use budget::{Allowance, BudgetPeriod, BudgetRule, BudgetScope};
pub use device::DeviceChoice;
pub use embedding::EmbeddingSection;
pub use fleet::FleetSection;
pub use grammar::GrammarSection;
pub use guard::{GuardHook, GuardRule, GuardSection, HookFailure, InputAction, OutputAction};
pub use idempotency::IdempotencySection;
pub use journal::Journal;
pub use leases::LeasesSection;
pub use market::{BatchWindow, BatchesSection, CapacitySection, FilesSection, SloSection};
pub use money::{DEMO_EMBEDDER, Decimal, Instant, Money, PriceRule};
pub use reports::Reports;
pub use sections::{
    Bound, Data, EngineSection, LedgerSection, Limits, ModelRule, ModelSection, ResponsesSection, Server,
    TenantRule, Tiers, WebSocketSection, make_private_dir,
};
pub use spot::{SpotRule, SpotSection};

/// Everything an operator may set. A missing section or key takes its default; an unknown one is refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[[models]]`: all models served; without any, the one of `[model]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelRule>,
    /// Listeners, deadlines and sizes of the HTTP server.
    pub server: Server,
    /// Default limits of keys and projects, and bounds of a request's fields.
    pub limits: Limits,
    /// The batching engine.
    pub engine: EngineSection,
    /// Service tiers and shares.
    pub tiers: Tiers,
    /// Embedders and cross-encoders.
    pub embedding: EmbeddingSection,
    /// Schemas, patterns and grammars of callers.
    pub grammar: GrammarSection,
    /// The model served, and where weights are kept.
    pub model: ModelSection,
    /// Prices and budgets.
    pub money: Money,
    /// Content rules.
    pub guard: GuardSection,
    /// Where state lives.
    pub data: Data,
    /// The ledger's writer.
    pub ledger: LedgerSection,
    /// Several gateways together.
    pub fleet: FleetSection,
    /// Answers that are kept.
    pub responses: ResponsesSection,
    /// Responses over WebSocket.
    pub websocket: WebSocketSection,
    /// Requests that may be sent twice.
    pub idempotency: IdempotencySection,
    /// Files of customers.
    pub files: FilesSection,
    /// Requests in files, done when there is room.
    pub batches: BatchesSection,
    /// What is promised of what the machine can serve.
    pub capacity: CapacitySection,
    /// Capacity that is sold ahead.
    pub leases: LeasesSection,
    /// Flex prices that follow what is free.
    pub spot: SpotSection,
    /// Targets of the tiers.
    pub slo: SloSection,
    /// Alerts of budgets.
    pub alerts: AlertsSection,
    /// Reports and exports.
    pub reports: Reports,
}

/// Why a configuration is refused. Every message names the key or variable, the value and what is allowed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration file {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("configuration file {path}: {message}")]
    Parse {
        /// The file.
        path: String,
        /// The parser's message with line and key.
        message: String,
    },
    /// An override that names no key or has a value of the wrong type.
    #[error("environment variable {variable}={value:?}: {message}")]
    Variable {
        /// The variable.
        variable: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        message: String,
    },
    /// A number outside its bounds.
    #[error("{key} = {value} {unit} is outside {min}..={max}")]
    OutOfBounds {
        /// `section.key`.
        key: String,
        /// The value.
        value: u64,
        /// Its unit.
        unit: &'static str,
        /// Smallest value allowed.
        min: u64,
        /// Largest value allowed.
        max: u64,
    },
    /// A value that breaks another rule.
    #[error("{key} = {value:?}: {message}")]
    Invalid {
        /// `section.key`.
        key: String,
        /// The value.
        value: String,
        /// What is allowed.
        message: String,
    },
    /// A price or budget that is not an exact amount.
    #[error("{key}: {source}")]
    Money {
        /// The key.
        key: String,
        /// The cause.
        source: MoneyError,
    },
}

impl Config {
    /// Reads `path` if given, applies the overrides in `env` (other variables are ignored) and validates the result.
    pub fn load(
        path: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        let mut table = match path {
            Some(path) => load::read(path)?,
            None => toml::Table::new(),
        };
        load::apply_overrides(&mut table, env)?;
        let name = path.map_or_else(|| "(none)".to_owned(), |path| path.display().to_string());
        let config = Config::deserialize(toml::Value::Table(table))
            .map_err(|error| ConfigError::Parse { path: name, message: load::one_line(&error) })?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every bound and the rules between keys.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.server.check_bounds()?;
        self.limits.check_bounds()?;
        self.engine.check_bounds()?;
        self.tiers.validate()?;
        self.embedding.check_bounds()?;
        self.grammar.check_bounds()?;
        self.ledger.check_bounds()?;
        self.fleet.validate()?;
        self.responses.check_bounds()?;
        self.websocket.check_bounds()?;
        self.idempotency.check_bounds()?;
        self.files.check_bounds()?;
        self.batches.check_bounds()?;
        self.capacity.check_bounds()?;
        self.leases.validate(&self.fleet)?;
        self.slo.check_bounds()?;
        self.alerts.validate()?;
        self.guard.validate()?;
        self.reports.check_bounds()?;
        for (key, value) in [("provider", &self.reports.provider), ("region", &self.reports.region)] {
            if value.is_empty() || value.len() > 128 || value.chars().any(char::is_control) {
                let message = "must be 1 to 128 bytes without control characters";
                return Err(invalid(&format!("reports.{key}"), value, message));
            }
        }
        if !self.engine.block_size.is_power_of_two() {
            return Err(invalid("engine.block_size", &self.engine.block_size, "must be a power of two"));
        }
        if self.engine.prefill_chunk > self.engine.max_batched_tokens {
            let message =
                format!("must not exceed engine.max_batched_tokens = {}", self.engine.max_batched_tokens);
            return Err(invalid("engine.prefill_chunk", &self.engine.prefill_chunk, &message));
        }
        if self.engine.max_num_seqs > self.engine.max_batched_tokens {
            let message =
                format!("must not exceed engine.max_batched_tokens = {}", self.engine.max_batched_tokens);
            return Err(invalid("engine.max_num_seqs", &self.engine.max_num_seqs, &message));
        }
        self.validate_models()?;
        if self.data.dir.as_os_str().is_empty() {
            return Err(invalid("data.dir", &"", "must name a directory"));
        }
        let served = self.served();
        self.spot.validate(&served.iter().map(|rule| rule.id.as_str()).collect::<Vec<_>>())?;
        self.money.validate(&served)
    }

    /// All models to serve, at least one.
    pub fn served(&self) -> Vec<ModelRule> {
        if !self.models.is_empty() {
            return self.models.clone();
        }
        vec![ModelRule { id: self.model.id.clone(), path: self.model.path.clone() }]
    }

    fn validate_models(&self) -> Result<(), ConfigError> {
        let default = ModelSection { dir: self.model.dir.clone(), ..ModelSection::default() };
        if !self.models.is_empty() && self.model != default {
            let message = "a single model stands in [model], several in [[models]]: not in both";
            return Err(invalid("model.id", &self.model.id, message));
        }
        let served = self.served();
        for (at, ModelRule { id, .. }) in served.iter().enumerate() {
            let key = if self.models.is_empty() { "model.id".to_owned() } else { format!("models[{at}].id") };
            if id.is_empty() || id.len() > 128 || id.chars().any(char::is_control) {
                return Err(invalid(&key, id, "must be 1 to 128 bytes without control characters"));
            }
            if served[..at].iter().any(|earlier| earlier.id == *id) {
                return Err(invalid(&key, id, "occurs twice"));
            }
        }
        Ok(())
    }

    /// The prices as a rate card. After a successful [`Config::load`] it cannot fail.
    pub fn rate_card(&self) -> Result<RateCard, ConfigError> {
        self.rate_card_with(&[])
    }

    /// The prices together with versions that were added later, none of which may begin at the instant of another.
    pub fn rate_card_with(&self, added: &[PriceVersion]) -> Result<RateCard, ConfigError> {
        let mut versions = self.money.rate_card()?.versions().to_vec();
        versions.extend_from_slice(added);
        let card = RateCard::new(versions)
            .map_err(|source| ConfigError::Money { key: "money.price".to_owned(), source })?;
        self.tiers.complete(card)
    }
}

/// Every bounded number of the configuration.
pub fn bounds() -> impl Iterator<Item = &'static Bound> {
    let sections = [
        Server::BOUNDS,
        Limits::BOUNDS,
        EngineSection::BOUNDS,
        Tiers::BOUNDS,
        EmbeddingSection::BOUNDS,
        GrammarSection::BOUNDS,
        GuardHook::BOUNDS,
        LedgerSection::BOUNDS,
        FleetSection::BOUNDS,
        ResponsesSection::BOUNDS,
        WebSocketSection::BOUNDS,
        IdempotencySection::BOUNDS,
        AlertsSection::BOUNDS,
        FilesSection::BOUNDS,
        CapacitySection::BOUNDS,
        LeasesSection::BOUNDS,
        SloSection::BOUNDS,
        SpotSection::BOUNDS,
        BatchesSection::BOUNDS,
        Reports::BOUNDS,
    ];
    sections.into_iter().flatten()
}

fn invalid(key: &str, value: &dyn std::fmt::Display, message: &str) -> ConfigError {
    ConfigError::Invalid { key: key.to_owned(), value: value.to_string(), message: message.to_owned() }
}
