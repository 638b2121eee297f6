//! All routes and layers, top to bottom.

mod layers;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::api::Shared;
use crate::api::anthropic::messages;
use crate::api::error::{ApiError, Code};
use crate::api::openai::{chat, completions, models, moderations};
use crate::api::organization::usage;
use crate::api::receipts;
use crate::api::responses;
use crate::metrics::Sample;
use layers::{HeaderLimits, Observed};

/// The public listener: routes for customers. Handlers that take a `Caller` demand a key; all of these do but
/// the one that gives the public key of receipts.
pub fn public(api: Shared, max_headers: usize, max_header_bytes: usize) -> Router {
    let observed = Observed { metrics: Arc::clone(&api.serving.metrics) };
    Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/messages", post(messages::create))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
        .route("/v1/responses", post(responses::create))
        .route("/v1/responses/input_tokens", post(responses::input_tokens))
        .route("/v1/responses/{id}", get(responses::retrieve).delete(responses::delete))
        .route("/v1/responses/{id}/cancel", post(responses::cancel))
        .route("/v1/responses/{id}/input_items", get(responses::input_items))
        .route("/v1/moderations", post(moderations::create))
        .route("/v1/organization/costs", get(usage::costs))
        .route("/v1/organization/usage/completions", get(usage::completions))
        .route("/v1/organization/usage/embeddings", get(usage::embeddings))
        .route("/v1/receipts/keys", get(receipts::keys))
        .route("/v1/receipts/{request_id}", get(receipts::retrieve))
        .route("/.well-known/spillway-receipts.json", get(receipts::keys))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::retrieve))
        // Both in the same shape as every other refusal; axum adds `Allow`.
        .fallback(unknown_url)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(api)
        // Innermost, so that a panicking handler still gets headers, log line and count. Its guard has ended the request.
        .layer(from_fn(layers::catch_panic))
        // What hyper lets through but HTTP forbids, and limits with an answer in our shape.
        .layer(from_fn_with_state(HeaderLimits { max_headers, max_header_bytes }, layers::check_protocol))
        // Outermost: every answer, whoever made it, has an id, a duration and a line in the log.
        .layer(from_fn_with_state(observed, layers::observe))
}

/// The private listener: health, metrics. No keys; keep it away from customers.
pub fn admin(api: Shared) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(unknown_url)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(api)
}

async fn unknown_url(request: axum::extract::Request) -> ApiError {
    let path: String = request.uri().path().chars().take(128).collect();
    ApiError::new(Code::UnknownUrl, format!("Unknown request URL: {} {path}.", request.method()))
}

async fn method_not_allowed(request: axum::extract::Request) -> ApiError {
    let path: String = request.uri().path().chars().take(128).collect();
    ApiError::new(
        Code::MethodNotAllowed,
        format!("The method {} is not allowed for {path}.", request.method()),
    )
}

/// The process answers. It stays true while draining, so that nobody kills a server that is finishing its streams.
async fn healthz(State(api): State<Shared>) -> StatusCode {
    if api.engine.healthy() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }
}

/// New requests are welcome.
async fn readyz(State(api): State<Shared>) -> StatusCode {
    if api.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn metrics(State(api): State<Shared>) -> Response {
    let engine = api.engine.stats();
    let gauge = |name, help, value: usize| -> Sample { (name, "gauge", help, value as f64) };
    let counter = |name, help, value: u64| -> Sample { (name, "counter", help, value as f64) };
    let samples = [
        gauge("spillway_ready", "Whether new requests are welcome.", usize::from(api.is_ready())),
        gauge("spillway_engine_running", "Sequences that hold cache blocks.", engine.running),
        gauge("spillway_engine_waiting", "Sequences that wait for admission.", engine.waiting),
        gauge("spillway_engine_blocks", "Cache blocks.", engine.total_blocks),
        gauge("spillway_engine_blocks_free", "Cache blocks that hold nothing.", engine.free_blocks),
        gauge("spillway_engine_blocks_cached", "Cache blocks that only keep a prefix.", engine.cached_blocks),
        counter("spillway_engine_steps_total", "Steps run.", engine.steps),
        counter("spillway_engine_prompt_tokens_total", "Prompt tokens admitted.", engine.prompt_tokens),
        counter(
            "spillway_engine_cached_tokens_total",
            "Prompt tokens found in the prefix cache.",
            engine.cached_tokens,
        ),
        counter("spillway_engine_generated_tokens_total", "Tokens generated.", engine.generated_tokens),
        counter("spillway_engine_preemptions_total", "Times a sequence lost its blocks.", engine.preemptions),
        counter("spillway_engine_cancelled_total", "Sequences cancelled.", engine.cancelled),
        gauge("spillway_engine_last_step_us", "Duration of the last step.", engine.last_step_us as usize),
        gauge("spillway_ledger_open_holds", "Requests whose money is held.", api.serving.ledger.open_holds()),
        gauge("spillway_ledger_queue", "Commands waiting for the ledger.", api.serving.ledger.queued()),
    ];
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
    (headers, api.serving.metrics.render(&samples)).into_response()
}
