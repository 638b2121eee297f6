//! `/v1/organization/admin_api_keys`.

use axum::Json;
use axum::extract::{Path, Request};
use axum::http::Uri;
use serde_json::{Value, json};

use super::caller::Admin;
use super::page::Page;
use super::read::text;
use crate::accounts::AdminKeyRow;
use crate::api::error::ApiResult;
use crate::api::query::Query;
use crate::serving::unix_ms;

/// Makes an admin key; its value is told here and never again.
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
pub(super) async fn list(admin: Admin, uri: Uri) -> ApiResult<Json<Value>> {
    let mut query = Query::read(&uri);
    let page = Page::read(&mut query, true)?;
    query.finish()?;
    let keys = admin.run(|accounts| accounts.list_admin_keys()).await?;
    page.of(keys.iter().map(shape).collect())
}

/// One of them.
pub(super) async fn retrieve(admin: Admin, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    Ok(Json(shape(&admin.run(move |accounts| accounts.admin_key(&id)).await?)))
}

/// Makes one useless, at once; it may be the caller's own.
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
