//! `POST /v1/messages` and `POST /v1/messages/count_tokens`.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use serde_json::{Value, json};

use super::request;
use super::surface::Message;
use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::body::Asked;
use crate::api::error::{ApiError, ApiResult};
use crate::api::generation::Generation;
use crate::api::json;

/// Answers a conversation, at once or as a stream. Any `anthropic-version` is taken: there is one form.
#[utoipa::path(
    post,
    path = "/v1/messages",
    operation_id = "createMessage",
    tag = "messages",
    request_body = crate::api::openapi::messages::MessageRequest,
    responses((status = 200, description = "The answer, or its events.", content((crate::api::openapi::messages::MessageObject = "application/json"), (String = "text/event-stream")))),
)]
pub async fn create(
    State(api): State<Shared>,
    caller: Caller,
    Asked(body): Asked,
) -> ApiResult<Response<Body>> {
    let (generation, surface) = prepare(&api, &caller, body)?;
    let response = generation.respond(&api, &caller, surface).await;
    response.map_err(in_own_words)
}

/// A refusal in the words of this surface's fields.
fn in_own_words(error: ApiError) -> ApiError {
    error.renamed(&[("format", "output_config.format")])
}

/// Reads a body: what to generate, and how to shape the answer.
pub fn prepare(api: &Shared, caller: &Caller, body: json::Json) -> ApiResult<(Generation, Message)> {
    let generation = request::read(body, &api.limits)?;
    let engine = api.engine_of(&caller.identity, &generation.model)?;
    let max_tokens = generation.max_tokens.unwrap_or(u32::MAX);
    let surface = Message::new(&caller.scope.request_id, &engine.card().id, max_tokens, engine.context_len());
    Ok((generation, surface))
}

/// The input tokens that a message would be billed for; free, but it counts as a request.
#[utoipa::path(
    post,
    path = "/v1/messages/count_tokens",
    operation_id = "countMessageTokens",
    tag = "messages",
    request_body = crate::api::openapi::messages::CountRequest,
    responses((status = 200, description = "The count.", body = crate::api::openapi::messages::TokenCount)),
)]
pub async fn count_tokens(
    State(api): State<Shared>,
    caller: Caller,
    Asked(body): Asked,
) -> ApiResult<Json<Value>> {
    let counted = request::read_count(body, &api.limits)?.count(&api, &caller).await;
    let tokens = counted.map_err(in_own_words)?;
    Ok(Json(json!({"input_tokens": tokens})))
}
