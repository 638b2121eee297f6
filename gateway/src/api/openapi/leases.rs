//! Capacity that is sold ahead, in the document.

use utoipa::{IntoParams, ToSchema};

use super::chat::ModelId;

/// The time that offers are wanted for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OfferQuery {
    /// Only this model.
    pub model: Option<String>,
    /// First hour, Unix seconds; left out: the hour that has begun.
    #[param(minimum = 0)]
    pub start: Option<i64>,
    /// First instant after the last hour, Unix seconds; not with `hours`.
    #[param(minimum = 0)]
    pub end: Option<i64>,
    /// Number of hours; left out: those of the shortest lease.
    #[param(minimum = 1)]
    pub hours: Option<i64>,
}

/// What can be leased.
#[derive(ToSchema)]
pub struct OfferList {
    /// `list`.
    pub object: String,
    /// Unix seconds.
    pub created: u64,
    /// One a model that generates; none where nothing is leased.
    pub data: Vec<Offer>,
}

/// What can be leased of a model over the time asked for.
#[derive(ToSchema)]
pub struct Offer {
    /// `capacity.offer`.
    pub object: String,
    /// The model's id.
    pub model: String,
    /// First hour, Unix seconds.
    pub start: u64,
    /// First instant after the last hour, Unix seconds.
    pub end: u64,
    /// Units that can be leased at all.
    pub sellable_units: u32,
    /// Units that are free at every instant of the time.
    pub free_units: u64,
    /// What is agreed on.
    pub terms: OfferTerms,
    /// What is used is paid beside what is held; null: it cannot be sold.
    #[schema(required)]
    pub usage_price: Option<UsagePrice>,
    /// Why nothing can be leased; null: it can.
    #[schema(required)]
    pub unavailable: Option<String>,
}

/// Terms of a lease, and bounds of its time.
#[derive(ToSchema)]
pub struct OfferTerms {
    /// Terms of a lease.
    #[serde(flatten)]
    pub terms: LeaseTerms,
    /// Shortest lease.
    pub min_hours: u32,
    /// Longest lease.
    pub max_hours: u32,
    /// How far ahead it may begin.
    pub max_ahead_hours: u32,
}

/// Terms of a lease.
#[derive(ToSchema)]
pub struct LeaseTerms {
    /// Tokens a second that a unit guarantees.
    pub unit_tokens_per_second: u32,
    /// Prompt tokens, if computed, that weigh as one generated token in it.
    pub prompt_tokens_per_token: u32,
    /// What holding a unit for an hour costs, USD as a decimal string.
    pub unit_hour_usd: String,
    /// Hours from notice to an early end.
    pub notice_hours: u32,
    /// Part of the price that comes back for what was idle and used by flex and batch.
    pub rebate_percent: u32,
    /// Part of the price of hours that the operator takes back which is given as credit.
    pub reclaim_credit_percent: u32,
    /// How fast answers are to come; null: nothing is promised.
    #[schema(required)]
    pub sla: Option<LeaseSla>,
}

/// How fast answers under a lease are to come, and what comes back otherwise. Each clock hour (UTC) is judged by itself, by the
/// requests that ended in it.
#[derive(ToSchema)]
pub struct LeaseSla {
    /// Most time from a request's arrival to its first token; null: nothing is promised.
    #[schema(required)]
    pub first_token_ms: Option<u32>,
    /// Most mean time between two tokens of an answer; null: nothing is promised.
    #[schema(required)]
    pub inter_token_ms: Option<u32>,
    /// Parts of a thousand of the requests that are to keep a target.
    pub objective_permille: u32,
    /// Length of what is judged.
    pub window_hours: u32,
    /// Requests below which an hour is not judged.
    pub min_requests: u32,
    /// Part of the hour's holding price that comes back as credit, once, where any target was missed.
    pub credit_percent: u32,
}

/// Prices of the tier `reserved`, USD per 1M tokens as decimal strings.
#[derive(ToSchema)]
pub struct UsagePrice {
    /// `reserved`.
    pub service_tier: String,
    /// Prompt tokens that are computed.
    pub uncached_input_usd_per_million: String,
    /// Prompt tokens found in the cache.
    pub cached_input_usd_per_million: String,
    /// Generated tokens.
    pub output_usd_per_million: String,
}

/// A lease to make. All times are beginnings of hours (UTC).
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// Model.
    pub model: ModelId,
    /// Units from the beginning on.
    #[schema(minimum = 1)]
    pub units: u32,
    /// First hour, Unix seconds; left out: the hour that has begun, which is paid in full.
    #[schema(minimum = 0)]
    pub start: Option<i64>,
    /// First instant after the last hour, Unix seconds; this or `hours`.
    #[schema(minimum = 0)]
    pub end: Option<i64>,
    /// Number of hours; this or `end`.
    #[schema(minimum = 1)]
    pub hours: Option<i64>,
    /// Other numbers of units later on, in the order of time.
    pub ramp: Option<Vec<RampStep>>,
    /// What becomes of requests that the guaranteed rate does not admit; `reserved_only` where left out.
    pub overflow: Option<OverflowPolicy>,
}

/// From an hour on, so many units.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RampStep {
    /// Unix seconds.
    #[schema(minimum = 0)]
    pub at: i64,
    /// Units.
    #[schema(minimum = 1)]
    pub units: u32,
}

/// What becomes of requests that the guaranteed rate does not admit.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OverflowPolicy {
    /// They are refused.
    ReservedOnly,
    /// They are served and billed in the tier `default`.
    ReservedThenShared,
}

/// Where a lease is in its life.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeaseStatus {
    /// It has not begun.
    Scheduled,
    /// It can be used.
    Active,
    /// It is over.
    Ended,
    /// It was given up before it began.
    Cancelled,
    /// The operator took it back.
    Reclaimed,
}

/// The word that a lease ends early.
#[derive(ToSchema)]
pub struct LeaseNotice {
    /// Unix seconds.
    pub at: u64,
    /// `holder` or `operator`.
    pub by: String,
}

/// What holding costs; USD as decimal strings.
#[derive(ToSchema)]
pub struct LeaseHolding {
    /// From beginning to end.
    pub unit_hours: u64,
    /// Their price.
    pub usd: String,
    /// Those billed by now; an hour is billed when it begins.
    pub billed_unit_hours: u64,
    /// Their price.
    pub billed_usd: String,
}

/// What became of the capacity: offered = used + resold + idle.
#[derive(ToSchema)]
pub struct LeaseUse {
    /// Hours before this are counted, Unix seconds.
    pub until: u64,
    /// What the units guaranteed.
    pub offered_tokens: u64,
    /// What the holder used of it.
    pub used_tokens: u64,
    /// What flex and batch used of the rest.
    pub resold_tokens: u64,
    /// What nobody used.
    pub idle_tokens: u64,
    /// What came back as credit, USD as a decimal string.
    pub rebate_usd: String,
}

/// Requests, and how many of them missed a target.
#[derive(ToSchema)]
pub struct LeaseEvents {
    /// All that were counted; none where nothing is promised.
    pub requests: u64,
    /// Those above the target.
    pub missed: u64,
}

/// How the targets were kept over the hours counted in `use`.
#[derive(ToSchema)]
pub struct LeaseTargets {
    /// Time to the first token.
    pub first_token: LeaseEvents,
    /// Time between tokens.
    pub inter_token: LeaseEvents,
    /// What came back for hours in which one was missed, USD as a decimal string.
    pub credit_usd: String,
}

/// A lease.
#[derive(ToSchema)]
#[schema(as = Lease)]
pub struct LeaseObject {
    /// `lease_...`.
    pub id: String,
    /// `capacity.lease`.
    pub object: String,
    /// The model's id.
    pub model: String,
    /// Where it is in its life.
    pub status: LeaseStatus,
    /// Who pays.
    pub organization_id: String,
    /// Whose requests may use it.
    pub project_id: String,
    /// Unix seconds.
    pub created_at: u64,
    /// First hour, Unix seconds.
    pub start: u64,
    /// First instant after the last hour, Unix seconds.
    pub end: u64,
    /// The same before any notice.
    pub agreed_end: u64,
    /// Whether it ends early; null: it does not.
    #[schema(required)]
    pub notice: Option<LeaseNotice>,
    /// When it ended or was cancelled, Unix seconds; null: it did not.
    #[schema(required)]
    pub ended_at: Option<u64>,
    /// Units over time.
    pub steps: Vec<RampStep>,
    /// Units at this moment.
    pub units: u32,
    /// Tokens a second that they guarantee at this moment.
    pub tokens_per_second: u32,
    /// What becomes of more.
    pub overflow: OverflowPolicy,
    /// What was agreed.
    pub terms: LeaseTerms,
    /// What holding costs.
    pub holding: LeaseHolding,
    /// What became of it.
    pub r#use: LeaseUse,
    /// How its targets were kept.
    pub targets: LeaseTargets,
    /// What the operator owes for hours taken back, USD as a decimal string.
    pub reclaim_credit_usd: String,
}
