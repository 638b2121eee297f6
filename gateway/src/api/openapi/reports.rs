//! A customer's own reports in the document.

use utoipa::{IntoParams, ToSchema};

/// What a report is about.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ReportQuery {
    /// Begin, Unix seconds.
    #[param(minimum = 0)]
    pub start_time: i64,
    /// End, Unix seconds; unset: now.
    #[param(minimum = 0)]
    pub end_time: Option<i64>,
    /// `1m`, `1h` or `1d`.
    pub bucket_width: Option<String>,
    /// Buckets of a page.
    #[param(minimum = 1)]
    pub limit: Option<u32>,
    /// `project_id`, `user_id`, `api_key_id`, `model`, `service_tier`; of costs `line_item` too.
    pub group_by: Option<Vec<String>>,
    /// Only these projects.
    pub project_ids: Option<Vec<String>>,
    /// Only these users.
    pub user_ids: Option<Vec<String>>,
    /// Only these keys.
    pub api_key_ids: Option<Vec<String>>,
    /// Only these models.
    pub models: Option<Vec<String>>,
    /// Only these tiers.
    pub service_tiers: Option<Vec<String>>,
    /// `next_page` of the page before.
    pub page: Option<String>,
    /// A ledger row that the answer must have seen.
    #[param(minimum = 0)]
    pub min_sequence: Option<i64>,
}

/// A page of buckets.
#[derive(ToSchema)]
pub struct ReportPage {
    /// `page`.
    pub object: String,
    /// Buckets.
    pub data: Vec<ReportBucket>,
    /// Whether there are more.
    pub has_more: bool,
    /// For the parameter `page`.
    #[schema(required)]
    pub next_page: Option<String>,
    /// How far the page reaches.
    pub ledger: ReportLedger,
}

/// A stretch of time.
#[derive(ToSchema)]
pub struct ReportBucket {
    /// `bucket`.
    pub object: String,
    /// Unix seconds.
    pub start_time: u64,
    /// Unix seconds.
    pub end_time: u64,
    /// One a group.
    pub results: Vec<ReportResult>,
}

/// A group's part of a bucket.
#[derive(ToSchema)]
#[serde(tag = "object")]
pub enum ReportResult {
    /// Of generation.
    #[serde(rename = "organization.usage.completions.result")]
    Completions(CompletionsResult),
    /// Of embeddings and what else makes vectors.
    #[serde(rename = "organization.usage.embeddings.result")]
    Embeddings(EmbeddingsResult),
    /// Of costs.
    #[serde(rename = "organization.costs.result")]
    Costs(CostsResult),
}

/// Tokens of generation.
#[derive(ToSchema)]
pub struct CompletionsResult {
    /// All of the input.
    pub input_tokens: u64,
    /// What a cache had of it.
    pub input_cached_tokens: u64,
    /// What no cache had of it.
    pub input_uncached_tokens: u64,
    /// 0.
    pub input_audio_tokens: u64,
    /// Output.
    pub output_tokens: u64,
    /// 0.
    pub output_audio_tokens: u64,
    /// Requests.
    pub num_model_requests: u64,
    /// Null: see `service_tier`.
    #[schema(required)]
    pub batch: Option<bool>,
    /// The group.
    #[serde(flatten)]
    pub group: ReportGroup,
}

/// Tokens of vectors.
#[derive(ToSchema)]
pub struct EmbeddingsResult {
    /// Input.
    pub input_tokens: u64,
    /// Requests.
    pub num_model_requests: u64,
    /// The group.
    #[serde(flatten)]
    pub group: ReportGroup,
}

/// What was paid.
#[derive(ToSchema)]
pub struct CostsResult {
    /// The amount.
    pub amount: ReportAmount,
    /// A model and what of it, like `smollm2-135m-instruct, output_tokens`; null where not grouped by it.
    #[schema(required)]
    pub line_item: Option<String>,
    /// How much of it; where grouped by it.
    pub quantity: Option<u64>,
    /// `tokens` or `unit_hours`; where grouped by it.
    pub quantity_unit: Option<String>,
    /// The group.
    #[serde(flatten)]
    pub group: ReportGroup,
}

/// An amount.
#[derive(ToSchema)]
pub struct ReportAmount {
    /// The nearest double.
    pub value: f64,
    /// `usd`.
    pub currency: String,
    /// Extension: the exact amount, a decimal string.
    pub value_usd: String,
}

/// What a result is about; null where not grouped by it.
#[derive(ToSchema)]
pub struct ReportGroup {
    /// The project.
    #[schema(required)]
    pub project_id: Option<String>,
    /// The end user.
    #[schema(required)]
    pub user_id: Option<String>,
    /// The key.
    #[schema(required)]
    pub api_key_id: Option<String>,
    /// The model.
    #[schema(required)]
    pub model: Option<String>,
    /// The tier.
    #[schema(required)]
    pub service_tier: Option<String>,
}

/// How far a page reaches.
#[derive(ToSchema)]
pub struct ReportLedger {
    /// The last row that it has seen.
    pub sequence: i64,
    /// Buckets that end by then, Unix seconds, never change.
    pub complete_until: u64,
}

/// Public keys of receipts.
#[derive(ToSchema)]
pub struct ReceiptKeys {
    /// `list`.
    pub object: String,
    /// Keys.
    pub data: Vec<ReceiptKey>,
}

/// A public key.
#[derive(ToSchema)]
pub struct ReceiptKey {
    /// As `signing_key_id` in receipts.
    pub id: String,
    /// `Ed25519`.
    pub algorithm: String,
    /// Hex.
    pub public_key: String,
}
