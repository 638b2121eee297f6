//! `/v1/organization/projects`.

use axum::Json;
use axum::extract::{Path, Request};
use axum::http::Uri;
use serde_json::{Value, json};

use super::caller::Admin;
use super::document::{answers, requests};
use super::page::Page;
use super::read::{limits, restriction, text, texts, tier};
use crate::accounts::{
    Accounts, AccountsError, KeyLimits, OrgRow, ProjectRow, ProjectSettings, StoreResponses,
};
use crate::api::error::ApiResult;
use crate::api::fields::{Fields, invalid};
use crate::api::list::PageOf;
use crate::api::query::Query;
use crate::serving::unix_ms;

/// Fields of the public API that mean nothing here.
const NOT_OFFERED: &[&str] = &["external_key_id", "geography", "residency"];

/// Makes a project.
#[utoipa::path(
    post,
    path = "/v1/organization/projects",
    operation_id = "createProject",
    tag = "projects",
    request_body = requests::ProjectToMake,
    responses((status = 200, description = "The project.", body = answers::Project)),
)]
pub(super) async fn create(admin: Admin, request: Request) -> ApiResult<Json<Value>> {
    let mut fields = admin.fields(request).await?;
    let name = text(&mut fields, "name")?;
    let name = fields.required("name", name)?;
    let org = text(&mut fields, "organization_id")?;
    let settings = settings(&mut fields, ProjectSettings::default())?;
    let limits = limits(&mut fields, KeyLimits::default())?;
    fields.finish(NOT_OFFERED)?;
    let made = admin.run(move |accounts| {
        let now = unix_ms();
        let org = org_of(accounts, org.as_deref())?;
        let made = accounts.create_project(&org.id, &name, &settings, now)?;
        match limits == KeyLimits::default() {
            true => Ok(made),
            false => accounts.update_project(&ProjectRow { limits, ..made }, now),
        }
    });
    Ok(Json(shape(&made.await?)))
}

/// The organisation that is meant: where there is only one it need not be named.
fn org_of(accounts: &Accounts, wanted: Option<&str>) -> Result<OrgRow, AccountsError> {
    if let Some(wanted) = wanted {
        return accounts.org(wanted);
    }
    let mut orgs = accounts.list_orgs()?;
    match (orgs.pop(), orgs.len()) {
        (Some(only), 0) => Ok(only),
        (_, others) => {
            let count = if others == 0 { 0 } else { others + 1 };
            let message = format!("name it by id or name: there are {count} organizations");
            Err(AccountsError::Setting { what: "organization_id", message })
        }
    }
}

/// All projects, by pages.
#[utoipa::path(
    get,
    path = "/v1/organization/projects",
    operation_id = "listProjects",
    tag = "projects",
    params(
        requests::PageQuery,
        ("include_archived" = Option<bool>, Query, description = "Archived ones, too."),
        ("organization_id" = Option<String>, Query, description = "Only those of one customer."),
    ),
    responses((status = 200, description = "A page of projects.", body = PageOf<answers::Project>)),
)]
pub(super) async fn list(admin: Admin, uri: Uri) -> ApiResult<Json<PageOf<Value>>> {
    let mut query = Query::read(&uri);
    let page = Page::read(&mut query, true)?;
    let with_archived = query.boolean("include_archived")?.unwrap_or(false);
    let org = query.string("organization_id")?;
    query.finish()?;
    let found = admin.run(move |accounts| {
        let org = org.map(|org| accounts.org(&org)).transpose()?;
        let mut projects = accounts.list_projects()?;
        projects.retain(|project| {
            (with_archived || project.archived_ms.is_none())
                && org.as_ref().is_none_or(|org| org.id == project.org_id)
        });
        Ok(projects)
    });
    page.of(found.await?.iter().map(shape).collect())
}

/// One project.
#[utoipa::path(
    get,
    path = "/v1/organization/projects/{id}",
    operation_id = "getProject",
    tag = "projects",
    params(("id" = String, Path, description = "Id of the project.")),
    responses((status = 200, description = "The project.", body = answers::Project)),
)]
pub(super) async fn retrieve(admin: Admin, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    Ok(Json(shape(&admin.run(move |accounts| accounts.project(&id)).await?)))
}

/// Changes what the body names; null gives up a setting.
#[utoipa::path(
    post,
    path = "/v1/organization/projects/{id}",
    operation_id = "changeProject",
    tag = "projects",
    params(("id" = String, Path, description = "Id of the project.")),
    request_body = requests::ProjectChange,
    responses((status = 200, description = "The project.", body = answers::Project)),
)]
pub(super) async fn update(admin: Admin, Path(id): Path<String>, request: Request) -> ApiResult<Json<Value>> {
    let mut fields = admin.fields(request).await?;
    let old = admin.run(move |accounts| accounts.project(&id)).await?;
    let name = text(&mut fields, "name")?.unwrap_or_else(|| old.name.clone());
    let settings = settings(&mut fields, old.settings.clone())?;
    let limits = limits(&mut fields, old.limits)?;
    fields.finish(NOT_OFFERED)?;
    let new = ProjectRow { name, settings, limits, ..old };
    Ok(Json(shape(&admin.run(move |accounts| accounts.update_project(&new, unix_ms())).await?)))
}

/// Ends a project: its keys are refused from now on.
#[utoipa::path(
    post,
    path = "/v1/organization/projects/{id}/archive",
    operation_id = "archiveProject",
    tag = "projects",
    params(("id" = String, Path, description = "Id of the project.")),
    responses((status = 200, description = "The project.", body = answers::Project)),
)]
pub(super) async fn archive(admin: Admin, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    let archived = admin.run(move |accounts| {
        let now = unix_ms();
        let found = accounts.project(&id)?;
        if found.archived_ms.is_some() {
            return Ok(found);
        }
        accounts.update_project(&ProjectRow { archived_ms: Some(now), ..found }, now)
    });
    Ok(Json(shape(&archived.await?)))
}

fn settings(fields: &mut Fields, old: ProjectSettings) -> ApiResult<ProjectSettings> {
    let null = |key: &str| fields.is_null(key);
    let nulls = (null("allowed_tiers"), null("default_tier"), null("allowed_models"));
    let allowed_tiers = texts(fields, "allowed_tiers")?;
    for (at, name) in allowed_tiers.iter().flatten().enumerate() {
        tier(&format!("allowed_tiers[{at}]"), name)?;
    }
    let default_tier = text(fields, "default_tier")?;
    if let Some(name) = &default_tier {
        tier("default_tier", name)?;
    }
    let store = text(fields, "store_responses")?;
    let store = store.map(|text| text.parse::<StoreResponses>()).transpose();
    Ok(ProjectSettings {
        allowed_tiers: restriction(nulls.0, allowed_tiers, old.allowed_tiers),
        default_tier: default_tier.or(old.default_tier.filter(|_| !nulls.1)),
        allowed_models: restriction(nulls.2, texts(fields, "allowed_models")?, old.allowed_models),
        store_responses: store
            .map_err(|error| invalid("store_responses", &error))?
            .unwrap_or(old.store_responses),
    })
}

fn shape(project: &ProjectRow) -> Value {
    let ProjectRow { id, name, org_id, created_ms, archived_ms, limits, settings } = project;
    json!({
        "id": id,
        "object": "organization.project",
        "name": name,
        "created_at": created_ms / 1_000,
        "archived_at": archived_ms.map(|ms| ms / 1_000),
        "status": if archived_ms.is_some() { "archived" } else { "active" },
        "organization_id": org_id,
        "allowed_tiers": settings.allowed_tiers,
        "default_tier": settings.default_tier,
        "allowed_models": settings.allowed_models,
        "store_responses": settings.store_responses.as_str(),
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "concurrency": limits.concurrency,
    })
}
