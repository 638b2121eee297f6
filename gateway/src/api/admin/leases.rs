//! `/v1/admin/leases`: everybody's leases, and taking one back.

use axum::Json;
use axum::extract::Path;
use axum::http::Uri;
use serde_json::Value;

use super::caller::Admin;
use crate::api::error::ApiResult;
use crate::api::leases;
use crate::api::list::PageOf;
use crate::api::openapi::leases::LeaseObject;
use crate::leases::Party;

/// All leases, page by page, the newest first.
#[utoipa::path(
    get,
    path = "/v1/admin/leases",
    operation_id = "listLeases",
    tag = "leases",
    params(("limit" = Option<u32>, Query, description = "Leases of a page.", minimum = 1, maximum = 100),
        ("after" = Option<String>, Query, description = "Id of the last lease that is known.")),
    responses((status = 200, description = "A page of leases.", body = PageOf<LeaseObject>)),
)]
pub(super) async fn list(admin: Admin, uri: Uri) -> ApiResult<Json<PageOf<Value>>> {
    Ok(Json(leases::page(&admin.api, None, &uri).await?))
}

/// Takes a lease back: it ends early, with the notice that was agreed and the credit for the hours taken back.
#[utoipa::path(
    post,
    path = "/v1/admin/leases/{id}/reclaim",
    operation_id = "reclaimLease",
    tag = "leases",
    params(("id" = String, Path, description = "Id of the lease.")),
    responses((status = 200, description = "The lease.", body = LeaseObject)),
)]
pub(super) async fn reclaim(admin: Admin, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    Ok(Json(leases::give_notice(&admin.api, admin.accounts(), id, Party::Operator).await?))
}
