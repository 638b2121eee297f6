//! `GET /v1/organization/usage/completions`, `/usage/embeddings` and `/costs`.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde_json::{Map, Value, json};

use super::query::{Group, Report};
use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::invalid;
use crate::ledger::usage::{AnswerError, Dimension, Line, Question, Served, Watermark, answer};
use crate::money::Picos;
use crate::serving::unix_ms;

/// Usage of whatever generates text.
#[utoipa::path(
    get,
    path = "/v1/organization/usage/completions",
    operation_id = "usageOfCompletions",
    tag = "reports",
    params(crate::api::openapi::reports::ReportQuery),
    responses((status = 200, description = "A page of buckets.", body = crate::api::openapi::reports::ReportPage)),
)]
pub async fn completions(State(api): State<Shared>, caller: Caller, uri: Uri) -> ApiResult<Json<Value>> {
    page(&api, &caller, &uri, Served::Completions).await
}

/// Usage of embeddings.
#[utoipa::path(
    get,
    path = "/v1/organization/usage/embeddings",
    operation_id = "usageOfEmbeddings",
    tag = "reports",
    params(crate::api::openapi::reports::ReportQuery),
    responses((status = 200, description = "A page of buckets.", body = crate::api::openapi::reports::ReportPage)),
)]
pub async fn embeddings(State(api): State<Shared>, caller: Caller, uri: Uri) -> ApiResult<Json<Value>> {
    page(&api, &caller, &uri, Served::Embeddings).await
}

/// Costs of everything.
#[utoipa::path(
    get,
    path = "/v1/organization/costs",
    operation_id = "costs",
    tag = "reports",
    params(crate::api::openapi::reports::ReportQuery),
    responses((status = 200, description = "A page of buckets.", body = crate::api::openapi::reports::ReportPage)),
)]
pub async fn costs(State(api): State<Shared>, caller: Caller, uri: Uri) -> ApiResult<Json<Value>> {
    page(&api, &caller, &uri, Served::All).await
}

async fn page(api: &Shared, caller: &Caller, uri: &Uri, served: Served) -> ApiResult<Json<Value>> {
    let query = Report::read(uri, served == Served::All)?;
    let width = query.width.seconds;
    let end = query.end_time.unwrap_or(unix_ms() / 1_000 + 1);
    let first = query.page.unwrap_or(query.start_time) / width * width;
    let last = (first + query.limit * width).min(end.max(first));
    let question = Question {
        org_id: caller.identity.org_id.clone(),
        served,
        from_ms: first.max(query.start_time) * 1_000,
        to_ms: last * 1_000,
        width_ms: width * 1_000,
        group_by: query.group_by.iter().map(|group| dimension(*group)).collect(),
        only: query.only.clone(),
        max_lines: api.reports.options.max_page_results,
    };
    let (lines, watermark) = read(api, question).await?;
    if watermark.sequence < query.min_sequence {
        return Err(invalid("min_sequence", &format!("the ledger ends at row {}", watermark.sequence)));
    }
    let mut lines = lines.into_iter().peekable();
    let mut buckets = Vec::new();
    for start in (first..last).step_by(width as usize) {
        let mut results = Vec::new();
        while let Some(line) = lines.next_if(|line| line.from_ms == start * 1_000) {
            results.extend(shape(&line, &query.group_by, served));
        }
        let end_time = (start + width).min(end);
        buckets.push(json!({"object": "bucket", "start_time": start.max(query.start_time), "end_time": end_time, "results": results}));
    }
    let has_more = last < end;
    Ok(Json(json!({
        "object": "page",
        "data": buckets,
        "has_more": has_more,
        "next_page": has_more.then(|| format!("page_{last}")),
        "ledger": {"sequence": watermark.sequence, "complete_until": watermark.complete_until_ms / 1_000},
    })))
}

async fn read(api: &Shared, question: Question) -> ApiResult<(Vec<Line>, Watermark)> {
    let _place = api.reports.places.acquire().await;
    let dir = api.reports.dir.clone();
    let answered = tokio::task::spawn_blocking(move || answer(&dir, &question)).await;
    match answered {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(AnswerError::Ledger(error))) => Err(error.into()),
        Ok(Err(AnswerError::TooMany(most))) => {
            let message = format!(
                "The answer has more than {most} lines. Ask for fewer buckets with 'limit', or for fewer groups."
            );
            Err(ApiError::param(Code::InvalidValue, "limit", message))
        }
        Err(_) => Err(ApiError::new(Code::ServerError, "The report could not be made. Try again shortly.")),
    }
}

/// A line item is a model's token class; the classes are told apart afterwards.
fn dimension(group: Group) -> Dimension {
    match group {
        Group::By(dimension) => dimension,
        Group::LineItem => Dimension::Model,
    }
}

/// The results of a line: one, or one for each token class.
fn shape(line: &Line, groups: &[Group], served: Served) -> Vec<Value> {
    let value = |wanted: Group| {
        let at = groups.iter().position(|group| *group == wanted);
        at.and_then(|at| line.group[at].clone())
    };
    let by = |dimension: Dimension| value(Group::By(dimension));
    let [(uncached, uncached_cost), (cached, cached_cost), (output, output_cost)] = line.classes;
    let ids = json!({
        "project_id": by(Dimension::Project),
        "user_id": by(Dimension::User),
        "api_key_id": by(Dimension::Key),
        "model": by(Dimension::Model),
        "service_tier": by(Dimension::Tier),
    });
    let with = |own: Value| {
        let mut result = own.as_object().cloned().unwrap_or_default();
        result.extend(ids.as_object().cloned().unwrap_or_default());
        Value::Object(result)
    };
    match served {
        Served::Completions => vec![with(json!({
            "object": "organization.usage.completions.result",
            "input_tokens": uncached + cached,
            "input_cached_tokens": cached,
            "input_uncached_tokens": uncached,
            "input_audio_tokens": 0,
            "output_tokens": output,
            "output_audio_tokens": 0,
            "num_model_requests": line.requests,
            "batch": null,
        }))],
        Served::Embeddings => vec![with(json!({
            "object": "organization.usage.embeddings.result",
            "input_tokens": uncached + cached,
            "num_model_requests": line.requests,
        }))],
        Served::All if groups.contains(&Group::LineItem) => {
            let model = value(Group::LineItem).unwrap_or_default();
            let classes = [
                ("input_tokens", uncached, uncached_cost),
                ("cached_input_tokens", cached, cached_cost),
                ("output_tokens", output, output_cost),
                ("unit_hours", line.held.0, line.held.1),
            ];
            let used = classes.into_iter().filter(|(_, quantity, _)| *quantity > 0);
            used.map(|(class, quantity, cost)| {
                let mut item = Map::from_iter([("line_item".to_owned(), format!("{model}, {class}").into())]);
                let unit = if class == "unit_hours" { class } else { "tokens" };
                item.insert("quantity".to_owned(), quantity.into());
                item.insert("quantity_unit".to_owned(), unit.into());
                with(cost_result(cost, item))
            })
            .collect()
        }
        Served::All => {
            let total = [uncached_cost, cached_cost, output_cost, line.held.1];
            let total =
                total.into_iter().try_fold(Picos::ZERO, Picos::checked_add).unwrap_or(Picos(i64::MAX));
            vec![with(cost_result(total, Map::from_iter([("line_item".to_owned(), Value::Null)])))]
        }
    }
}

/// `value` is what clients of the OpenAI API read; the exact amount is `value_usd`.
fn cost_result(cost: Picos, item: Map<String, Value>) -> Value {
    let mut result = Map::new();
    result.insert("object".to_owned(), "organization.costs.result".into());
    let value = cost.0 as f64 / 1e12;
    result
        .insert("amount".to_owned(), json!({"value": value, "currency": "usd", "value_usd": cost.to_usd()}));
    result.extend(item);
    Value::Object(result)
}
