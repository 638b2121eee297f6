//! What can be done with an answer later: read, delete and cancel it, and list its input.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Response, Uri};
use serde_json::{Value, json};

use super::surface::json_body;
use super::{background, settings};
use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::invalid;
use crate::api::list::PageOf;
use crate::api::query::Query;
use crate::api::sse;
use crate::responses::Stored;
use crate::serving::unix_ms;

const DEFAULT_PAGE: u32 = 20;
const MAX_PAGE: u32 = 100;

/// The answer in its present state, or its events.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}",
    operation_id = "getResponse",
    tag = "responses",
    params(("id" = String, Path, description = "Id of the response."),
        ("stream" = Option<bool>, Query, description = "Tell the events instead."),
        ("starting_after" = Option<u32>, Query, description = "Number of the last event that is known."),
        ("include[]" = Option<Vec<String>>, Query, description = "`message.output_text.logprobs`."),
        ("include_obfuscation" = Option<bool>, Query, description = "Whoever made the events has decided on it.")),
    responses((status = 200, description = "The answer in its present state, or its events.", content((crate::api::openapi::responses::ResponseObject = "application/json"), (String = "text/event-stream")))),
)]
pub async fn retrieve(
    State(api): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    uri: Uri,
) -> ApiResult<Response<Body>> {
    let mut query = Query::read(&uri);
    let is_stream = query.boolean("stream")?.unwrap_or(false);
    let after = query.count("starting_after", 0, u32::MAX)?;
    includes(&mut query)?;
    // Whoever made the events has decided on it.
    query.boolean("include_obfuscation")?;
    query.finish()?;
    let org = &caller.identity.org_id;
    if !is_stream {
        if after.is_some() {
            return Err(invalid("starting_after", "it is only allowed when 'stream' is true"));
        }
        return Ok(json_body(&find(&api, org, &id)?.response));
    }
    let first = after.map_or(0, |number| number as usize + 1);
    // In this order: an answer that ends meanwhile is stored before it leaves the living.
    let watcher = api.background.watch(org, &id);
    let stored = find(&api, org, &id)?;
    match watcher {
        Some(watcher) if watcher.has_events() => {
            Ok(background::events(watcher, first, api.serving.options.heartbeat))
        }
        _ => past(&stored, first),
    }
}

fn past(stored: &Stored, first: usize) -> ApiResult<Response<Body>> {
    if !stored.events.is_empty() {
        return Ok(background::past_events(stored.events.get(first..).unwrap_or_default()));
    }
    // Its events are gone with the process that made them; its end is known.
    if stored.background && stored.response["status"] == "failed" {
        let failed =
            json!({"type": "response.failed", "sequence_number": first, "response": stored.response});
        let event = sse::event("response.failed", &failed);
        return Ok(background::past_events(&[String::from_utf8_lossy(&event).into_owned()]));
    }
    let message = "Only responses that were created with 'background' and 'stream' can be streamed again.";
    Err(ApiError::param(Code::InvalidValue, "stream", message))
}

/// Forgets an answer; one in the making ends first.
#[utoipa::path(
    delete,
    path = "/v1/responses/{id}",
    operation_id = "deleteResponse",
    tag = "responses",
    params(("id" = String, Path, description = "Id of the response.")),
    responses((status = 200, description = "It is gone.", body = crate::api::openapi::responses::Deleted)),
)]
pub async fn delete(
    State(api): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let org = &caller.identity.org_id;
    if let Some(watcher) = api.background.watch(org, &id) {
        watcher.cancel().await;
    }
    if !api.responses.delete(org, &id, unix_ms())? {
        return Err(not_found(&id));
    }
    Ok(Json(json!({"id": id, "object": "response", "deleted": true})))
}

/// Ends an answer in the making; one that has ended stays as it is.
#[utoipa::path(
    post,
    path = "/v1/responses/{id}/cancel",
    operation_id = "cancelResponse",
    tag = "responses",
    params(("id" = String, Path, description = "Id of the response.")),
    responses((status = 200, description = "The answer as far as it came.", body = crate::api::openapi::responses::ResponseObject)),
)]
pub async fn cancel(
    State(api): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response<Body>> {
    let org = &caller.identity.org_id;
    let stored = find(&api, org, &id)?;
    if !stored.background {
        let message = "Only responses that were created with 'background' can be cancelled.";
        return Err(ApiError::param(Code::InvalidValue, "id", message));
    }
    if let Some(watcher) = api.background.watch(org, &id) {
        watcher.cancel().await;
    }
    Ok(json_body(&find(&api, org, &id)?.response))
}

/// The answer's own input, page by page.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}/input_items",
    operation_id = "listInputItems",
    tag = "responses",
    params(("id" = String, Path, description = "Id of the response."),
        ("limit" = Option<u32>, Query, description = "Items of a page.", minimum = 1, maximum = 100),
        ("after" = Option<String>, Query, description = "Id of the last item that is known."),
        ("order" = Option<String>, Query, description = "`asc` or `desc`."),
        ("include[]" = Option<Vec<String>>, Query, description = "`message.output_text.logprobs`.")),
    responses((status = 200, description = "A page of items.", body = PageOf<super::items::Item>)),
)]
pub async fn input_items(
    State(api): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    uri: Uri,
) -> ApiResult<Json<PageOf<Value>>> {
    let mut query = Query::read(&uri);
    let limit = query.count("limit", 1, MAX_PAGE)?.unwrap_or(DEFAULT_PAGE) as usize;
    let after = query.string("after")?;
    let ascending = match query.string("order")?.as_deref() {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(_) => return Err(invalid("order", "expected 'asc' or 'desc'")),
    };
    includes(&mut query)?;
    query.finish()?;
    let stored = find(&api, &caller.identity.org_id, &id)?;
    let mut items = stored.input.as_array().cloned().unwrap_or_default();
    if !ascending {
        items.reverse();
    }
    if let Some(after) = after {
        let place = items.iter().position(|item| item["id"] == after.as_str());
        let place = place.ok_or_else(|| invalid("after", "the response has no input item of this id"))?;
        items.drain(..=place);
    }
    let has_more = items.len() > limit;
    items.truncate(limit);
    Ok(Json(PageOf::new(items, has_more)))
}

fn includes(query: &mut Query) -> ApiResult<()> {
    for name in query.all("include") {
        settings::includes_logprobs(&name)?;
    }
    Ok(())
}

fn find(api: &Shared, org: &str, id: &str) -> ApiResult<Stored> {
    api.responses.get(org, id, unix_ms())?.ok_or_else(|| not_found(id))
}

/// The same words for what never was, is gone, or is another's.
fn not_found(id: &str) -> ApiError {
    let shown: String = id.chars().take(64).collect();
    ApiError::param(Code::ResponseNotFound, "id", format!("Response with id '{shown}' not found."))
}
