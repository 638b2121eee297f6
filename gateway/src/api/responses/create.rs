//! `POST /v1/responses` and `POST /v1/responses/input_tokens`.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use serde_json::{Value, json};

use super::events::Output;
use super::input::Given;
use super::items::{Item, item_id, response_of};
use super::memory::{Memory, Remember};
use super::request::{self, Wanted};
use super::sealed;
use super::surface::{Answer, Keep};
use super::{background, conversation, object};
use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::body::Asked;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::generation::Generation;
use crate::api::json;
use crate::responses::Stored;
use crate::serving::unix_ms;

/// What a request comes to.
pub struct Prepared {
    /// What to generate.
    pub generation: Generation,
    /// How to shape it.
    pub answer: Answer,
    /// Whether the client does not wait for it.
    pub background: bool,
}

/// Answers at once, as a stream, or in the background.
#[utoipa::path(
    post,
    path = "/v1/responses",
    operation_id = "createResponse",
    tag = "responses",
    request_body = crate::api::openapi::responses::ResponseRequest,
    responses((status = 200, description = "The answer, or its events.", content((crate::api::openapi::responses::ResponseObject = "application/json"), (String = "text/event-stream")))),
)]
pub async fn create(
    State(api): State<Shared>,
    caller: Caller,
    Asked(body): Asked,
) -> ApiResult<Response<Body>> {
    let Prepared { generation, answer, background } = prepare(&api, &caller, body).await?;
    let response = if background {
        background::start(&api, &caller, generation, answer).await
    } else {
        generation.respond(&api, &caller, answer).await
    };
    response.map_err(about_input)
}

/// Reads a body and the stored answers that it goes on from.
pub async fn prepare(api: &Shared, caller: &Caller, body: json::Json) -> ApiResult<Prepared> {
    prepare_wanted(api, caller, request::read(body, &api.limits)?, None).await
}

/// The same on a connection that remembers its last answer.
pub(super) async fn prepare_wanted(
    api: &Shared,
    caller: &Caller,
    mut wanted: Wanted,
    memory: Option<&Arc<Memory>>,
) -> ApiResult<Prepared> {
    let stores = request::is_stored(&wanted, caller.identity.project.store_responses)?;
    let engine = api.engine_of(&caller.identity, &wanted.generation.model)?;
    let suffix = caller.scope.suffix();
    let (before, own) = set_prompt(api, caller, &mut wanted, suffix, memory).await?;
    let Wanted { generation, previous, background, obfuscate, repeated, .. } = wanted;
    let remember = memory.map(|memory| Remember {
        memory: Arc::clone(memory),
        previous: previous.clone(),
        items: [before, own.clone()].concat(),
    });
    let defaults = &engine.card().sampling;
    let sampling = &generation.sampling;
    let sampling =
        (sampling.temperature.unwrap_or(defaults.temperature), sampling.top_p.unwrap_or(defaults.top_p));
    let tier = caller.tier(api, generation.tier)?;
    let id = format!("resp_{suffix}");
    let begun = object::begin(&id, engine, tier, repeated, sampling, stores);
    let keep = stores.then(|| Keep {
        store: Arc::clone(&api.responses),
        stored: Stored {
            id,
            org_id: caller.identity.org_id.clone(),
            previous_id: previous,
            input: json!(own),
            background,
            created_ms: unix_ms(),
            ..Stored::default()
        },
    });
    let output = Output::new(suffix, own.len(), obfuscate);
    let mut answer = Answer::new(begun, output, generation.logprobs.is_some(), engine.clone(), keep);
    answer.remember = remember;
    Ok(Prepared { generation, answer, background })
}

/// The input tokens that an answer would be billed for; free, but it counts as a request.
#[utoipa::path(
    post,
    path = "/v1/responses/input_tokens",
    operation_id = "countInputTokens",
    tag = "responses",
    request_body = crate::api::openapi::responses::InputTokensRequest,
    responses((status = 200, description = "The count.", body = crate::api::openapi::responses::InputTokens)),
)]
pub async fn input_tokens(
    State(api): State<Shared>,
    caller: Caller,
    Asked(body): Asked,
) -> ApiResult<Json<Value>> {
    let mut wanted = request::read_count(body, &api.limits)?;
    set_prompt(&api, &caller, &mut wanted, caller.scope.suffix(), None).await?;
    let tokens = wanted.generation.count(&api, &caller).await.map_err(about_input)?;
    Ok(Json(json!({"object": "response.input_tokens", "input_tokens": tokens})))
}

/// Sets the prompt; returns the items that it goes on from, and the request's own items with their ids.
pub(super) async fn set_prompt(
    api: &Shared,
    caller: &Caller,
    wanted: &mut Wanted,
    suffix: &str,
    memory: Option<&Arc<Memory>>,
) -> ApiResult<(Vec<Item>, Vec<Item>)> {
    let org = &caller.identity.org_id;
    let mut before = match &wanted.previous {
        Some(id) => match memory.and_then(|memory| memory.recall(id)) {
            Some(items) => items,
            None => history(api, org, id)?,
        },
        None => Vec::new(),
    };
    let mut own = Vec::with_capacity(wanted.input.len());
    for (i, given) in std::mem::take(&mut wanted.input).into_iter().enumerate() {
        let mut item = match given {
            Given::Item(item) => item,
            Given::Reference(id) => referenced(api, org, &id, i)?,
        };
        item.set_id(item_id(item.prefix(), suffix, i));
        own.push(item);
    }
    sealed::open_all(api, org, &mut before, "previous_response_id")?;
    sealed::open_all(api, org, &mut own, "input")?;
    conversation::check_calls(&before, &own)?;
    let engine = api.engine_of(&caller.identity, &wanted.generation.model)?;
    let all = [&before[..], &own[..]].concat();
    let (instructions, truncate) = (wanted.instructions.as_deref(), wanted.truncate);
    conversation::set_prompt(&mut wanted.generation, engine, instructions, &all, truncate)
        .await
        .map_err(about_input)?;
    Ok((before, own))
}

/// Input and output of an answer and all that it goes on from.
fn history(api: &Shared, org: &str, id: &str) -> ApiResult<Vec<Item>> {
    let path = "previous_response_id";
    let chain = api.responses.chain(org, id, unix_ms())?.ok_or_else(|| {
        let shown: String = id.chars().take(64).collect();
        let message =
            format!("Previous response with id '{shown}' not found: it, or one before it, is not stored.");
        ApiError::param(Code::PreviousResponseNotFound, path, message)
    })?;
    if let Some(last) = chain.last()
        && !matches!(last.response["status"].as_str(), Some("completed" | "incomplete"))
    {
        let message = format!(
            "Previous response with id '{}' cannot be continued: its status is {}.",
            last.id, last.response["status"]
        );
        return Err(ApiError::param(Code::InvalidValue, path, message));
    }
    let mut items = Vec::new();
    for stored in chain {
        items.extend(items_of(&stored, stored.input.clone())?);
        items.extend(items_of(&stored, stored.response["output"].clone())?);
    }
    Ok(items)
}

fn items_of(stored: &Stored, items: Value) -> ApiResult<Vec<Item>> {
    serde_json::from_value(items).map_err(|source| {
        let damaged = crate::responses::StoreError::Damaged { id: stored.id.clone(), source };
        ApiError::from(damaged)
    })
}

/// The item of an earlier answer.
fn referenced(api: &Shared, org: &str, id: &str, place: usize) -> ApiResult<Item> {
    let stored = match response_of(id) {
        Some(response_id) => api.responses.get(org, &response_id, unix_ms())?,
        None => None,
    };
    if let Some(stored) = stored {
        let items = [stored.input.clone(), stored.response["output"].clone()];
        for list in items {
            if let Some(item) = items_of(&stored, list)?.into_iter().find(|item| item.id() == id) {
                return Ok(item);
            }
        }
    }
    let shown: String = id.chars().take(64).collect();
    let message =
        format!("Item with id '{shown}' not found: its response is not stored. Send the item itself.");
    Err(ApiError::param(Code::InvalidValue, format!("input[{place}].id"), message))
}

/// A refusal in the words of this surface's fields.
pub(super) fn about_input(error: ApiError) -> ApiError {
    error.renamed(&[("messages", "input"), ("format", "text.format"), ("logprobs", "include")])
}
