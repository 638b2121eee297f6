//! A customer's own reports in the document.

use serde_json::Value;
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
    #[schema(value_type = Vec<Object>)]
    pub results: Vec<Value>,
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
