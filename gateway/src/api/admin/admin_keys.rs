//! `/v1/organization/admin_api_keys`.

use axum::Json;
use axum::extract::{Path, Request};
use axum::http::Uri;
use serde_json::{Value, json};

use super::caller::Admin;
use super::document::{answers, requests};
use super::page::Page;
use super::read::text;
use crate::accounts::AdminKeyRow;
use crate::api::error::ApiResult;
use crate::api::list::PageOf;
use crate::api::query::Query;
use crate::serving::unix_ms;

/// Makes an admin key; its value is told here and never again.
#[utoipa::path(
    post,
    path = "/v1/organization/admin_api_keys",
    operation_id = "createAdminKey",
    tag = "admin keys",
    request_body = requests::Named,
    responses((status = 200, description = "The key, with its value.", body = answers::NewAdminKey)),
)]
pub(super) async fn create(admin: Admin, request: Request) -> ApiResult<Json<Value>> {
    let mut fields = admin.fields(request).await?;
    let name = text(&mut fields, "name")?;
    let name = fields.required("name", name)?;
    fields.finish(&["expires_in_seconds"])?;
    let (key, secret) = admin.run(move |accounts| accounts.create_admin_key(&name, unix_ms())).await?;
    let mut shaped = shape(&key);
    shaped["value"] = secret.into();
    Ok(Json(shaped))
}

/// The working admin keys, by pages.
#[utoipa::path(
    get,
    path = "/v1/organization/admin_api_keys",
    operation_id = "listAdminKeys",
    tag = "admin keys",
    params(requests::PageQuery),
    responses((status = 200, description = "A page of keys.", body = PageOf<answers::AdminKey>)),
)]
pub(super) async fn list(admin: Admin, uri: Uri) -> ApiResult<Json<PageOf<Value>>> {
    let mut query = Query::read(&uri);
    let page = Page::read(&mut query, true)?;
    query.finish()?;
    let keys = admin.run(|accounts| accounts.list_admin_keys()).await?;
    page.of(keys.iter().map(shape).collect())
}

/// One of them.
#[utoipa::path(
    get,
    path = "/v1/organization/admin_api_keys/{id}",
    operation_id = "getAdminKey",
    tag = "admin keys",
    params(("id" = String, Path, description = "Id of the key.")),
    responses((status = 200, description = "The key.", body = answers::AdminKey)),
)]
pub(super) async fn retrieve(admin: Admin, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    Ok(Json(shape(&admin.run(move |accounts| accounts.admin_key(&id)).await?)))
}

/// Makes one useless, at once; it may be the caller's own.
#[utoipa::path(
    delete,
    path = "/v1/organization/admin_api_keys/{id}",
    operation_id = "deleteAdminKey",
    tag = "admin keys",
    params(("id" = String, Path, description = "Id of the key.")),
    responses((status = 200, description = "It is gone.", body = answers::Deleted)),
)]
pub(super) async fn delete(admin: Admin, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    let gone = admin.run(move |accounts| accounts.revoke_admin_key(&id, unix_ms())).await?;
    Ok(Json(json!({"id": gone.id, "object": "organization.admin_api_key.deleted", "deleted": true})))
}

fn shape(key: &AdminKeyRow) -> Value {
    json!({
        "id": key.id,
        "object": "organization.admin_api_key",
        "name": key.name,
        "redacted_value": format!("{}...", key.prefix),
        "created_at": key.created_ms / 1_000,
        "last_used_at": key.last_used_ms.map(|ms| ms / 1_000),
        "expires_at": null,
        "owner": {"type": "user", "object": "organization.user", "name": key.name, "role": "owner"},
    })
}
