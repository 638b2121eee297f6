//! `GET /v1/organization/audit_logs`.

use axum::Json;
use axum::http::Uri;
use serde_json::{Map, Value, json};

use super::caller::Admin;
use super::document::{answers, requests};
use super::page::Page;
use crate::accounts::{AuditFilter, AuditRow};
use crate::api::error::ApiResult;
use crate::api::fields::invalid;
use crate::api::list::PageOf;
use crate::api::query::Query;

/// Later than year 9999 is a mistake.
const MAX_TIME_S: i64 = 253_402_300_799;
/// What an id begins with, before the line's number.
const PREFIX: &str = "audit_";

/// The lines that pass the filter, the newest first, by pages.
#[utoipa::path(
    get,
    path = "/v1/organization/audit_logs",
    operation_id = "listAuditLogs",
    tag = "audit log",
    params(requests::PageQuery, requests::AuditQuery),
    responses((status = 200, description = "A page of lines.", body = PageOf<answers::AuditLine>)),
)]
pub(super) async fn list(admin: Admin, uri: Uri) -> ApiResult<Json<PageOf<Value>>> {
    let mut query = Query::read(&uri);
    let page = Page::read(&mut query, false)?;
    let mut filter = AuditFilter {
        below: page.after.as_deref().map(|id| number("after", id)).transpose()?,
        above: query.string("before")?.map(|id| number("before", &id)).transpose()?,
        events: query.all("event_types"),
        actors: query.all("actor_ids"),
        projects: query.all("project_ids"),
        objects: query.all("resource_ids"),
        ..AuditFilter::default()
    };
    times(&mut query, &mut filter)?;
    query.finish()?;
    let limit = page.limit;
    let backwards = filter.above.is_some() && filter.below.is_none();
    let mut lines = admin.run(move |accounts| accounts.audit_log(&filter, limit + 1)).await?;
    let has_more = lines.len() > limit;
    if has_more && backwards {
        lines.remove(0);
    }
    lines.truncate(limit);
    Ok(Json(PageOf::new(lines.iter().map(shape).collect(), has_more)))
}

fn number(param: &str, id: &str) -> ApiResult<i64> {
    let digits = id.strip_prefix(PREFIX).and_then(|digits| digits.parse().ok());
    digits.filter(|seq| *seq > 0).ok_or_else(|| invalid(param, "it is no id of the audit log"))
}

/// `effective_at[gt]` and its like, in whole seconds.
fn times(query: &mut Query, filter: &mut AuditFilter) -> ApiResult<()> {
    let mut bound = |name: &str| query.integer(name, 0, MAX_TIME_S).map(|s| s.map(i64::unsigned_abs));
    let from = [bound("effective_at[gt]")?.map(|s| s + 1), bound("effective_at[gte]")?];
    let to = [bound("effective_at[lt]")?, bound("effective_at[lte]")?.map(|s| s + 1)];
    filter.from_ms = from.into_iter().flatten().max().map(|s| s * 1_000);
    filter.to_ms = to.into_iter().flatten().min().map(|s| s * 1_000);
    Ok(())
}

fn shape(line: &AuditRow) -> Value {
    let parsed = |text: &Option<String>| {
        text.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok()).unwrap_or(Value::Null)
    };
    let (before, after) = (parsed(&line.before), parsed(&line.after));
    let actor = match line.actor.as_str() {
        "cli" => json!({"type": "session", "session": {"user": {"id": "cli"}}}),
        id => json!({"type": "api_key", "api_key": {"id": id, "type": "service_account"}}),
    };
    let change = if line.event.ends_with(".created") { "data" } else { "changes_requested" };
    let mut shaped = Map::new();
    shaped.insert("id".to_owned(), format!("{PREFIX}{}", line.seq).into());
    shaped.insert("type".to_owned(), line.event.clone().into());
    shaped.insert("effective_at".to_owned(), (line.at_ms / 1_000).into());
    shaped.insert("actor".to_owned(), actor);
    shaped.insert("project".to_owned(), line.project_id.as_ref().map_or(Value::Null, |id| json!({"id": id})));
    shaped.insert(line.event.clone(), json!({"id": line.object_id, change: after, "before": before}));
    Value::Object(shaped)
}
