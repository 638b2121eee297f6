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
use crate::api::openai::{chat, completions, embeddings, models, moderations};
use crate::api::organization::usage;
use crate::api::{
    admin as operator, azure, batches, capacity, files, idempotency, leases, openapi, quote, receipts,
    rerank, responses, tokenize,
};
use crate::metrics::Sample;
use crate::registry::Served;
use layers::{HeaderLimits, Observed};

/// The public listener: routes for customers. Handlers that take a `Caller` demand a key; all of these do but
/// those that give the public key of receipts and the documentation.
pub fn public(api: Shared, max_headers: usize, max_header_bytes: usize) -> Router {
    let observed = Observed { metrics: Arc::clone(&api.serving.metrics) };
    Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/messages", post(messages::create))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
        .route("/v1/responses", get(responses::connect).post(responses::create))
        .route("/v1/responses/compact", post(responses::compact))
        .route("/v1/responses/input_tokens", post(responses::input_tokens))
        .route("/v1/responses/{id}", get(responses::retrieve).delete(responses::delete))
        .route("/v1/responses/{id}/cancel", post(responses::cancel))
        .route("/v1/responses/{id}/input_items", get(responses::input_items))
        .route("/v1/files", get(files::list).post(files::create))
        .route("/v1/files/{id}", get(files::retrieve).delete(files::delete))
        .route("/v1/files/{id}/content", get(files::content))
        .route("/v1/batches", get(batches::list).post(batches::create))
        .route("/v1/batches/{id}", get(batches::retrieve))
        .route("/v1/batches/{id}/cancel", post(batches::cancel))
        .route("/v1/capacity", get(capacity::retrieve))
        .route("/v1/capacity/offers", get(leases::offers))
        .route("/v1/capacity/quote", post(quote::create))
        .route("/v1/capacity/leases", get(leases::list).post(leases::create))
        .route("/v1/capacity/leases/{id}", get(leases::retrieve).delete(leases::end))
        .route("/v1/moderations", post(moderations::create))
        .route("/v1/organization/costs", get(usage::costs))
        .route("/v1/organization/usage/completions", get(usage::completions))
        .route("/v1/organization/usage/embeddings", get(usage::embeddings))
        .route("/v1/receipts/keys", get(receipts::keys))
        .route("/v1/receipts/{request_id}", get(receipts::retrieve))
        .route("/.well-known/spillway-receipts.json", get(receipts::keys))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/rerank", post(rerank::rerank))
        .route("/v1/score", post(rerank::score))
        .route("/v1/tokenize", post(tokenize::tokenize))
        .route("/v1/detokenize", post(tokenize::detokenize))
        .route("/openai/deployments/{id}/chat/completions", post(azure::chat))
        .route("/openai/deployments/{id}/completions", post(azure::completions))
        .route("/openai/deployments/{id}/embeddings", post(azure::embeddings))
        .route("/openai/v1/chat/completions", post(chat::create))
        .route("/openai/v1/completions", post(completions::create))
        .route("/openai/v1/embeddings", post(embeddings::create))
        .route("/openai/v1/responses", get(responses::connect).post(responses::create))
        .route("/openai/v1/models", get(models::list))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::retrieve))
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(openapi::page))
        // Both in the same shape as every other refusal; axum adds `Allow`.
        .fallback(unknown_url)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::clone(&api))
        // Innermost, so that a panicking handler still gets headers, log line and count. Its guard has ended the request.
        .layer(from_fn(layers::catch_panic))
        .layer(from_fn_with_state(api, idempotency::once))
        // What hyper lets through but HTTP forbids, and limits with an answer in our shape.
        .layer(from_fn_with_state(HeaderLimits { max_headers, max_header_bytes }, layers::check_protocol))
        // Outermost: every answer, whoever made it, has an id, a duration and a line in the log.
        .layer(from_fn_with_state(observed, layers::observe))
}

/// The private listener: health and metrics without keys, administration with admin keys. Keep it away from customers.
pub fn admin(api: Shared, max_headers: usize, max_header_bytes: usize) -> Router {
    let observed = Observed { metrics: Arc::clone(&api.serving.metrics) };
    let operated = operator::routes()
        .layer(from_fn(layers::catch_panic))
        .layer(from_fn_with_state(HeaderLimits { max_headers, max_header_bytes }, layers::check_protocol))
        .layer(from_fn_with_state(observed, layers::observe));
    operated
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(operator::document))
        .route("/docs", get(openapi::page))
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
    if api.models.healthy() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }
}

/// New requests are welcome.
async fn readyz(State(api): State<Shared>) -> StatusCode {
    if api.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn metrics(State(api): State<Shared>) -> Response {
    let gauge =
        |name, help, value: usize| Sample { name, kind: "gauge", help, model: None, value: value as f64 };
    let mut samples = vec![
        gauge("spillway_ready", "Whether new requests are welcome.", usize::from(api.is_ready())),
        gauge(
            "spillway_limits_shared",
            "1 where limits are kept together with other gateways now.",
            usize::from(api.serving.limiter.is_shared() == Some(true)),
        ),
        gauge("spillway_ledger_open_holds", "Requests whose money is held.", api.serving.ledger.open_holds()),
        gauge("spillway_ledger_queue", "Commands waiting for the ledger.", api.serving.ledger.queued()),
    ];
    samples.extend(api.models.iter().flat_map(of_model));
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
    let mut page = api.serving.metrics.render(samples);
    api.serving.slo.render(&mut page, api.serving.monotonic_ms());
    (headers, page).into_response()
}

/// What a model's engine tells of itself.
fn of_model(served: &Served) -> Vec<Sample> {
    let id = &served.card().id;
    let sample = |name, kind, help, value: f64| Sample { name, kind, help, model: Some(id.clone()), value };
    let gauge = |name, help, value: usize| sample(name, "gauge", help, value as f64);
    let counter = |name, help, value: u64| sample(name, "counter", help, value as f64);
    match served {
        Served::Engine(engine) => {
            let engine = engine.stats();
            vec![
                gauge("spillway_engine_running", "Sequences that hold cache blocks.", engine.running),
                gauge("spillway_engine_waiting", "Sequences that wait for admission.", engine.waiting),
                gauge("spillway_engine_blocks", "Cache blocks.", engine.total_blocks),
                gauge("spillway_engine_blocks_free", "Cache blocks that hold nothing.", engine.free_blocks),
                gauge(
                    "spillway_engine_blocks_cached",
                    "Cache blocks that only keep a prefix.",
                    engine.cached_blocks,
                ),
                counter("spillway_engine_steps_total", "Steps run.", engine.steps),
                counter(
                    "spillway_engine_prompt_tokens_total",
                    "Prompt tokens admitted.",
                    engine.prompt_tokens,
                ),
                counter(
                    "spillway_engine_cached_tokens_total",
                    "Prompt tokens found in the prefix cache.",
                    engine.cached_tokens,
                ),
                counter(
                    "spillway_engine_generated_tokens_total",
                    "Tokens generated.",
                    engine.generated_tokens,
                ),
                counter(
                    "spillway_engine_preemptions_total",
                    "Times a sequence lost its blocks.",
                    engine.preemptions,
                ),
                counter("spillway_engine_cancelled_total", "Sequences cancelled.", engine.cancelled),
                gauge(
                    "spillway_engine_last_step_us",
                    "Duration of the last step.",
                    engine.last_step_us as usize,
                ),
            ]
        }
        Served::Embedder(embedder) => {
            let embedder = embedder.stats();
            vec![
                gauge("spillway_embedder_running", "Requests without all their vectors.", embedder.running),
                gauge("spillway_embedder_waiting", "Inputs that wait for a step.", embedder.waiting),
                gauge("spillway_embedder_waiting_tokens", "Tokens of those inputs.", embedder.waiting_tokens),
                counter("spillway_embedder_steps_total", "Steps run.", embedder.steps),
                counter("spillway_embedder_inputs_total", "Vectors made.", embedder.inputs),
                counter("spillway_embedder_tokens_total", "Tokens in them.", embedder.tokens),
                counter(
                    "spillway_embedder_cancelled_total",
                    "Requests whose caller was gone.",
                    embedder.cancelled,
                ),
                gauge(
                    "spillway_embedder_last_step_us",
                    "Duration of the last step.",
                    embedder.last_step_us as usize,
                ),
            ]
        }
    }
}
