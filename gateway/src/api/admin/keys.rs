//! `/v1/organization/projects/{id}/api_keys`.

use axum::Json;
use axum::extract::{Path, Request};
use axum::http::Uri;
use serde_json::{Value, json};

use super::caller::Admin;
use super::document::{answers, requests};
use super::page::Page;
use super::read::{expiry, limits, list as list_of, restriction, text, texts};
use crate::accounts::{Accounts, AccountsError, IpNet, KeyLimits, KeyRow, NewKey, Permission};
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{Fields, invalid};
use crate::api::list::PageOf;
use crate::api::query::Query;
use crate::serving::unix_ms;

/// A right as the body spells it; the public API puts `api.` before.
struct Right(Permission);

impl std::str::FromStr for Right {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_prefix("api.").unwrap_or(text).parse().map(Self)
    }
}

fn rights(fields: &mut Fields) -> ApiResult<Option<Vec<Permission>>> {
    let rights = list_of::<Right>(fields, "scopes")?;
    Ok(rights.map(|rights| rights.into_iter().map(|right| right.0).collect()))
}

/// Makes a key; its value is told here and never again.
#[utoipa::path(
    post,
    path = "/v1/organization/projects/{id}/api_keys",
    operation_id = "createKey",
    tag = "keys",
    params(("id" = String, Path, description = "Id of the project.")),
    request_body = requests::KeyToMake,
    responses((status = 200, description = "The key, with its value.", body = answers::NewProjectKey)),
)]
pub(super) async fn create(admin: Admin, Path(id): Path<String>, request: Request) -> ApiResult<Json<Value>> {
    let mut fields = admin.fields(request).await?;
    let name = text(&mut fields, "name")?;
    let new = NewKey {
        name: fields.required("name", name)?,
        limits: limits(&mut fields, KeyLimits::default())?,
        expires_at_ms: expiry(&mut fields)?,
        permissions: restriction(false, rights(&mut fields)?, None),
        allowed_models: restriction(false, texts(&mut fields, "allowed_models")?, None),
        allowed_ips: list_of::<IpNet>(&mut fields, "allowed_ips")?.unwrap_or_default(),
        ..NewKey::default()
    };
    fields.finish(&[])?;
    let project = admin.run(move |accounts| accounts.project(&id)).await?;
    if project.archived_ms.is_some() {
        return Err(ApiError::new(
            Code::ProjectArchived,
            "The project is archived. Make keys of another one.",
        ));
    }
    let made = admin.run(move |accounts| {
        let org = accounts.org(&project.org_id)?.name;
        let created = accounts.create_key(&NewKey { org, project: project.name, ..new }, unix_ms())?;
        Ok((accounts.key(&created.id)?, created.secret))
    });
    let (key, secret) = made.await?;
    let mut shaped = shape(&key);
    shaped["value"] = secret.into();
    Ok(Json(shaped))
}

/// A project's working keys, by pages.
#[utoipa::path(
    get,
    path = "/v1/organization/projects/{id}/api_keys",
    operation_id = "listKeys",
    tag = "keys",
    params(
        ("id" = String, Path, description = "Id of the project."),
        requests::PageQuery,
        ("owner_project_access" = Option<String>, Query, description = "`active` or `any`."),
    ),
    responses((status = 200, description = "A page of keys.", body = PageOf<answers::ProjectKey>)),
)]
pub(super) async fn list(admin: Admin, Path(id): Path<String>, uri: Uri) -> ApiResult<Json<PageOf<Value>>> {
    let mut query = Query::read(&uri);
    let page = Page::read(&mut query, true)?;
    match query.string("owner_project_access")?.as_deref() {
        None | Some("active" | "any") => {}
        Some(_) => return Err(invalid("owner_project_access", "expected 'active' or 'any'")),
    }
    query.finish()?;
    let found = admin.run(move |accounts| {
        let project = accounts.project(&id)?;
        let mut keys = accounts.list_keys()?;
        keys.retain(|key| key.project_id == project.id && key.revoked_ms.is_none());
        Ok(keys)
    });
    page.of(found.await?.iter().map(shape).collect())
}

/// The project's working key of this id.
fn find(accounts: &Accounts, (project, id): &(String, String)) -> Result<KeyRow, AccountsError> {
    let found = accounts.key(id)?;
    match found.project_id == *project && found.revoked_ms.is_none() {
        true => Ok(found),
        false => Err(AccountsError::NoSuchKey(id.chars().take(80).collect())),
    }
}

/// One key.
#[utoipa::path(
    get,
    path = "/v1/organization/projects/{id}/api_keys/{key_id}",
    operation_id = "getKey",
    tag = "keys",
    params(
        ("id" = String, Path, description = "Id of the project."),
        ("key_id" = String, Path, description = "Id of the key."),
    ),
    responses((status = 200, description = "The key.", body = answers::ProjectKey)),
)]
pub(super) async fn retrieve(admin: Admin, Path(ids): Path<(String, String)>) -> ApiResult<Json<Value>> {
    Ok(Json(shape(&admin.run(move |accounts| find(accounts, &ids)).await?)))
}

/// Changes what the body names.
#[utoipa::path(
    post,
    path = "/v1/organization/projects/{id}/api_keys/{key_id}",
    operation_id = "changeKey",
    tag = "keys",
    params(
        ("id" = String, Path, description = "Id of the project."),
        ("key_id" = String, Path, description = "Id of the key."),
    ),
    request_body = requests::KeyChange,
    responses((status = 200, description = "The key.", body = answers::ProjectKey)),
)]
pub(super) async fn update(
    admin: Admin,
    Path(ids): Path<(String, String)>,
    request: Request,
) -> ApiResult<Json<Value>> {
    let mut fields = admin.fields(request).await?;
    let old = admin.run(move |accounts| find(accounts, &ids)).await?;
    if old.expires_ms.is_some_and(|at| at <= unix_ms()) {
        return Err(ApiError::new(
            Code::InvalidValue,
            "The key has expired and cannot be changed. Make another one.",
        ));
    }
    let nulls = (fields.is_null("scopes"), fields.is_null("allowed_models"), fields.is_null("expires_at"));
    let name = text(&mut fields, "name")?.unwrap_or_else(|| old.name.clone());
    let expires_ms = expiry(&mut fields)?.or(old.expires_ms.filter(|_| !nulls.2));
    let limits = limits(&mut fields, old.limits)?;
    let permissions = restriction(nulls.0, rights(&mut fields)?, old.permissions);
    let allowed_models = restriction(nulls.1, texts(&mut fields, "allowed_models")?, old.allowed_models);
    let allowed_ips = list_of::<IpNet>(&mut fields, "allowed_ips")?.unwrap_or(old.allowed_ips);
    fields.finish(&[])?;
    let new = KeyRow { name, expires_ms, limits, permissions, allowed_models, allowed_ips, ..old };
    Ok(Json(shape(&admin.run(move |accounts| accounts.update_key(&new, unix_ms())).await?)))
}

/// Makes a key useless.
#[utoipa::path(
    delete,
    path = "/v1/organization/projects/{id}/api_keys/{key_id}",
    operation_id = "deleteKey",
    tag = "keys",
    params(
        ("id" = String, Path, description = "Id of the project."),
        ("key_id" = String, Path, description = "Id of the key."),
    ),
    responses((status = 200, description = "It is gone.", body = answers::Deleted)),
)]
pub(super) async fn delete(admin: Admin, Path(ids): Path<(String, String)>) -> ApiResult<Json<Value>> {
    let gone = admin.run(move |accounts| accounts.revoke_key(&find(accounts, &ids)?.id, unix_ms())).await?;
    Ok(Json(json!({"id": gone.id, "object": "organization.project.api_key.deleted", "deleted": true})))
}

fn shape(key: &KeyRow) -> Value {
    let seconds = |ms: Option<u64>| ms.map(|ms| ms / 1_000);
    let scopes: Vec<&str> = key.permissions.iter().flatten().map(|right| right.as_str()).collect();
    json!({
        "id": key.id,
        "object": "organization.project.api_key",
        "name": key.name,
        "redacted_value": format!("{}...", key.prefix),
        "created_at": key.created_ms / 1_000,
        "last_used_at": seconds(key.last_used_ms),
        "expires_at": seconds(key.expires_ms),
        "project_id": key.project_id,
        "scopes": scopes,
        "allowed_models": key.allowed_models,
        "allowed_ips": key.allowed_ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "requests_per_minute": key.limits.requests_per_minute,
        "tokens_per_minute": key.limits.tokens_per_minute,
        "concurrency": key.limits.concurrency,
        // A key belongs to its project alone, as those of service accounts do.
        "owner": {"type": "service_account", "service_account": {
            "id": key.id, "name": key.name, "created_at": key.created_ms / 1_000, "role": "member",
        }},
        "owner_project_access": "active",
    })
}
