//! `/v1/admin/organizations`: customers.

use axum::Json;
use axum::extract::{Path, Request};
use axum::http::Uri;
use serde_json::{Value, json};

use super::caller::Admin;
use super::document::{answers, requests};
use super::page::Page;
use super::read::{text, usd};
use crate::accounts::OrgRow;
use crate::api::error::ApiResult;
use crate::api::fields::{Fields, invalid};
use crate::api::list::PageOf;
use crate::api::query::Query;
use crate::money::Picos;
use crate::serving::unix_ms;

/// Makes an organisation.
#[utoipa::path(
    post,
    path = "/v1/admin/organizations",
    operation_id = "createOrganization",
    tag = "organizations",
    request_body = requests::OrganizationToMake,
    responses((status = 200, description = "The customer.", body = answers::Organization)),
)]
pub(super) async fn create(admin: Admin, request: Request) -> ApiResult<Json<Value>> {
    let mut fields = admin.fields(request).await?;
    let name = text(&mut fields, "name")?;
    let name = fields.required("name", name)?;
    let line = credit_line(&mut fields)?;
    fields.finish(&[])?;
    let made = admin.run(move |accounts| {
        let now = unix_ms();
        let made = accounts.create_org(&name, now)?;
        match line {
            None => Ok(made),
            line => accounts.set_credit_line(&made.id, line, now),
        }
    });
    Ok(Json(shape(&made.await?)))
}

/// All organisations, by pages.
#[utoipa::path(
    get,
    path = "/v1/admin/organizations",
    operation_id = "listOrganizations",
    tag = "organizations",
    params(requests::PageQuery),
    responses((status = 200, description = "A page of customers.", body = PageOf<answers::Organization>)),
)]
pub(super) async fn list(admin: Admin, uri: Uri) -> ApiResult<Json<PageOf<Value>>> {
    let mut query = Query::read(&uri);
    let page = Page::read(&mut query, true)?;
    query.finish()?;
    page.of(admin.run(|accounts| accounts.list_orgs()).await?.iter().map(shape).collect())
}

/// One organisation, by id or name.
#[utoipa::path(
    get,
    path = "/v1/admin/organizations/{id}",
    operation_id = "getOrganization",
    tag = "organizations",
    params(("id" = String, Path, description = "Id or name of the customer.")),
    responses((status = 200, description = "The customer.", body = answers::Organization)),
)]
pub(super) async fn retrieve(admin: Admin, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    Ok(Json(shape(&admin.run(move |accounts| accounts.org(&id)).await?)))
}

/// Switches an organisation off or on, or changes its credit line; null takes the bound away.
#[utoipa::path(
    post,
    path = "/v1/admin/organizations/{id}",
    operation_id = "changeOrganization",
    tag = "organizations",
    params(("id" = String, Path, description = "Id or name of the customer.")),
    request_body = requests::OrganizationChange,
    responses((status = 200, description = "The customer.", body = answers::Organization)),
)]
pub(super) async fn update(admin: Admin, Path(id): Path<String>, request: Request) -> ApiResult<Json<Value>> {
    let mut fields = admin.fields(request).await?;
    let disabled = match text(&mut fields, "status")?.as_deref() {
        None => None,
        Some("active") => Some(false),
        Some("disabled") => Some(true),
        Some(_) => return Err(invalid("status", "expected 'active' or 'disabled'")),
    };
    let unbounded = fields.is_null("credit_line_usd");
    let line = credit_line(&mut fields)?;
    fields.finish(&[])?;
    let changed = admin.run(move |accounts| {
        let now = unix_ms();
        let mut org = accounts.org(&id)?;
        if let Some(disabled) = disabled.filter(|disabled| *disabled != org.disabled_ms.is_some()) {
            org = accounts.set_org_disabled(&org.id, disabled, now)?;
        }
        match unbounded || line.is_some() {
            true => accounts.set_credit_line(&org.id, line, now),
            false => Ok(org),
        }
    });
    Ok(Json(shape(&changed.await?)))
}

fn credit_line(fields: &mut Fields) -> ApiResult<Option<Picos>> {
    match usd(fields, "credit_line_usd")? {
        Some(line) if line < Picos::ZERO => Err(invalid("credit_line_usd", "it must not be negative")),
        line => Ok(line),
    }
}

fn shape(org: &OrgRow) -> Value {
    json!({
        "id": org.id,
        "object": "organization",
        "name": org.name,
        "created_at": org.created_ms / 1_000,
        "status": if org.disabled_ms.is_some() { "disabled" } else { "active" },
        "disabled_at": org.disabled_ms.map(|ms| ms / 1_000),
        "credit_line_usd": org.credit_line.map(Picos::to_usd),
    })
}
