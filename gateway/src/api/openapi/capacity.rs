//! What is left to be used, in the document.

use utoipa::ToSchema;

use super::chat::ModelId;
use crate::capacity::Point;

/// What is left, by model and tier.
#[derive(ToSchema)]
pub struct CapacityList {
    /// `list`.
    pub object: String,
    /// Unix seconds.
    pub created: u64,
    /// One a model that generates.
    pub data: Vec<ModelCapacity>,
}

/// What is left of a model.
#[derive(ToSchema)]
pub struct ModelCapacity {
    /// `capacity`.
    pub object: String,
    /// The model's id.
    pub model: String,
    /// Most requests that run at one time.
    pub max_concurrent: usize,
    /// The cache that requests share.
    pub kv_tokens: CacheTokens,
    /// One a tier that the caller may use.
    pub tiers: Vec<TierCapacity>,
    /// What the machine was measured to do; null: nothing was.
    #[schema(required)]
    pub measured: Option<MeasuredCapacity>,
}

/// The cache in tokens.
#[derive(ToSchema)]
pub struct CacheTokens {
    /// All.
    pub total: usize,
    /// Those that no request holds.
    pub free: usize,
}

/// What is left for a tier.
#[derive(ToSchema)]
pub struct TierCapacity {
    /// The tier.
    pub service_tier: String,
    /// In words.
    pub level: CapacityLevel,
    /// Requests that would begin at once.
    pub free_concurrent: usize,
    /// Estimate of the wait of one that comes now.
    pub expected_wait_ms: u64,
    /// Requests that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
}

/// How much is left.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CapacityLevel {
    /// At least half.
    High,
    /// At least a tenth.
    Medium,
    /// Something.
    Low,
    /// Nothing: who comes now waits.
    LimitReached,
}

/// What a machine was measured to do.
#[derive(ToSchema)]
pub struct MeasuredCapacity {
    /// Unix seconds.
    pub measured_at: u64,
    /// By number of sequences, rising.
    pub points: Vec<Point>,
    /// What can be sold.
    pub sellable: SellableCapacity,
}

/// What can be sold with a promise.
#[derive(ToSchema)]
pub struct SellableCapacity {
    /// The promise: time between two tokens, 99 of 100 are shorter.
    pub inter_token_p99_ms: f64,
    /// The fastest point that keeps it; null: none does.
    #[schema(required)]
    pub point: Option<Point>,
}

/// The size of a request, and what it demands.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuoteRequest {
    /// Name of the model.
    pub model: ModelId,
    /// Tokens of the prompt, as `/v1/tokenize` counts them.
    #[schema(minimum = 1)]
    pub input_tokens: u32,
    /// Most output tokens of a choice; left out: the rest of the context.
    #[schema(minimum = 1)]
    pub max_tokens: Option<u32>,
    /// Choices.
    #[schema(minimum = 1)]
    pub n: Option<u32>,
    /// Tier; left out: the project's default.
    #[schema(max_length = 64)]
    pub service_tier: Option<String>,
    /// Seconds until the whole answer has to be there.
    #[schema(minimum = 0.001, maximum = 86400)]
    pub deadline: Option<f64>,
    /// Most that the request may cost, USD as a decimal string.
    #[schema(max_length = 40)]
    pub max_price: Option<String>,
}

/// What a request could expect if it came now.
#[derive(ToSchema)]
#[schema(as = Quote)]
pub struct QuoteObject {
    /// `capacity.quote`.
    pub object: String,
    /// Unix seconds.
    pub created: u64,
    /// The model's id.
    pub model: String,
    /// Tier that would serve it.
    pub service_tier: String,
    /// Tokens of the prompt.
    pub input_tokens: u32,
    /// Choices.
    pub n: u32,
    /// Most output tokens of a choice, as bounded by context and price.
    pub max_tokens: u32,
    /// Whether its deadline and price would be accepted.
    pub admitted: bool,
    /// Estimate of the time until it begins, as `/v1/capacity` tells it.
    pub expected_wait_ms: u64,
    /// From there to the last token of an answer as long as most; null: the machine was not measured.
    #[schema(required)]
    pub expected_run_ms: Option<u64>,
    /// Names the prices.
    pub price_version: String,
    /// What it costs at most, USD as a decimal string.
    pub max_price_usd: String,
    /// What it costs with an answer as long as most.
    pub expected_price_usd: String,
    /// The error that it would get; null: none.
    #[schema(required, value_type = Option<Object>)]
    pub refusal: Option<serde_json::Value>,
}
