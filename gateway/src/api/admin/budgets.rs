//! `/v1/admin/budgets`: limits on what keys, projects, organisations, end users and tags may spend in a period.

use std::str::FromStr;

use axum::Json;
use axum::extract::Request;
use axum::http::Uri;
use serde_json::{Value, json};

use super::caller::Admin;
use super::document::{answers, requests};
use super::page::Page;
use super::read::{text, usd};
use crate::accounts::Budget;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::invalid;
use crate::api::list::PageOf;
use crate::api::query::Query;
use crate::config::{BudgetPeriod, BudgetScope};
use crate::money::Picos;
use crate::serving::unix_ms;

/// Makes a budget, or changes its limit.
#[utoipa::path(
    post,
    path = "/v1/admin/budgets",
    operation_id = "setBudget",
    tag = "money",
    request_body = requests::BudgetToSet,
    responses((status = 200, description = "The budget.", body = answers::SpendLimit)),
)]
pub(super) async fn set(admin: Admin, request: Request) -> ApiResult<Json<Value>> {
    let mut fields = admin.fields(request).await?;
    let (scope, id) = (text(&mut fields, "scope")?, text(&mut fields, "subject_id")?);
    let scope = parsed("scope", &fields.required("scope", scope)?)?;
    let id = fields.required("subject_id", id)?;
    let period =
        text(&mut fields, "period")?.map_or(Ok(BudgetPeriod::Total), |text| parsed("period", &text))?;
    let limit = usd(&mut fields, "limit_usd")?;
    let limit = fields.required("limit_usd", limit)?;
    fields.finish(&[])?;
    if limit < Picos::ZERO {
        return Err(invalid("limit_usd", "it must not be negative"));
    }
    let budget = Budget { scope, id, period, limit };
    let shaped = shape(&budget);
    admin.run(move |accounts| accounts.set_budget(&budget, unix_ms())).await?;
    Ok(Json(shaped))
}

/// All budgets made by command or API, by pages; those of the configuration are in its file.
#[utoipa::path(
    get,
    path = "/v1/admin/budgets",
    operation_id = "listBudgets",
    tag = "money",
    params(
        requests::PageQuery,
        ("scope" = Option<String>, Query, description = "Only of this scope."),
        ("subject_id" = Option<String>, Query, description = "Only of this subject."),
    ),
    responses((status = 200, description = "A page of budgets.", body = PageOf<answers::SpendLimit>)),
)]
pub(super) async fn list(admin: Admin, uri: Uri) -> ApiResult<Json<PageOf<Value>>> {
    let mut query = Query::read(&uri);
    let page = Page::read(&mut query, true)?;
    let scope: Option<BudgetScope> = query.string("scope")?.map(|text| parsed("scope", &text)).transpose()?;
    let subject = query.string("subject_id")?;
    query.finish()?;
    let mut budgets = admin.run(|accounts| accounts.list_budgets()).await?;
    budgets.retain(|budget| {
        scope.is_none_or(|scope| scope == budget.scope) && subject.as_ref().is_none_or(|id| *id == budget.id)
    });
    page.of(budgets.iter().map(shape).collect())
}

/// Removes the budget that `scope`, `subject_id` and `period` of the query name.
#[utoipa::path(
    delete,
    path = "/v1/admin/budgets",
    operation_id = "deleteBudget",
    tag = "money",
    params(
        ("scope" = String, Query, description = "Its scope."),
        ("subject_id" = String, Query, description = "Whose it is."),
        ("period" = String, Query, description = "Its period."),
    ),
    responses((status = 200, description = "It is gone.", body = answers::Deleted)),
)]
pub(super) async fn remove(admin: Admin, uri: Uri) -> ApiResult<Json<Value>> {
    let mut query = Query::read(&uri);
    let mut part = |name: &str| {
        let missing = || format!("Missing required parameter: '{name}', in the query.");
        query.string(name)?.ok_or_else(|| ApiError::param(Code::MissingParameter, name, missing()))
    };
    let (scope, subject, period) = (part("scope")?, part("subject_id")?, part("period")?);
    query.finish()?;
    let (scope, period): (BudgetScope, BudgetPeriod) = (parsed("scope", &scope)?, parsed("period", &period)?);
    let id = budget_id(scope, &subject, period);
    admin.run(move |accounts| accounts.remove_budget(scope, &subject, period, unix_ms())).await?;
    Ok(Json(json!({"id": id, "object": "budget.deleted", "deleted": true})))
}

/// The API spells `organization`, configuration and ledger `organisation`: both are taken.
fn parsed<T: FromStr<Err = String>>(name: &str, text: &str) -> ApiResult<T> {
    let text = if text == "organization" { "organisation" } else { text };
    text.parse().map_err(|error: String| invalid(name, &error))
}

fn budget_id(scope: BudgetScope, subject: &str, period: BudgetPeriod) -> String {
    format!("{scope}:{subject}:{period}")
}

fn shape(budget: &Budget) -> Value {
    let Budget { scope, id, period, limit } = budget;
    json!({
        "id": budget_id(*scope, id, *period),
        "object": "budget",
        "scope": scope.as_str(),
        "subject_id": id,
        "period": period.as_str(),
        "limit_usd": limit.to_usd(),
    })
}
