//! What is left to be used, in the document.

use utoipa::ToSchema;

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
