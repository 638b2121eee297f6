//! `GET /v1/receipts/{request_id}` and the public key to check them with.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::Shared;
use super::auth::Caller;
use super::error::{ApiError, ApiResult, Code};
use crate::receipts::Receipt;

/// The receipt of a settled request of the caller's organisation.
#[utoipa::path(
    get,
    path = "/v1/receipts/{request_id}",
    operation_id = "getReceipt",
    tag = "reports",
    params(("request_id" = String, Path, description = "`x-request-id` of an answer.")),
    responses((status = 200, description = "The receipt.", body = Receipt)),
)]
pub async fn retrieve(
    State(api): State<Shared>,
    caller: Caller,
    Path(request_id): Path<String>,
) -> ApiResult<Json<Receipt>> {
    let _place = api.reports.places.acquire().await;
    let (reader, id) = (Arc::clone(&api), request_id.clone());
    let found =
        tokio::task::spawn_blocking(move || reader.reports.signer.find(&reader.reports.dir, &id)).await;
    let failed = |error: &dyn std::fmt::Display| {
        tracing::error!(%error, "receipt");
        let message = "The ledger cannot be read at the moment. Try again shortly.";
        ApiError::new(Code::LedgerUnavailable, message).retry_after_ms(1_000)
    };
    let receipt = found.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    receipt.filter(|receipt| receipt.organization_id == caller.identity.org_id).map(Json).ok_or_else(|| {
        let shown: String = request_id.chars().take(128).collect();
        let message = format!(
            "No settled request '{shown}' in your organization. Give the 'x-request-id' of an answer."
        );
        ApiError::param(Code::ReceiptNotFound, "request_id", message)
    })
}

/// The public key. No API key is needed: whoever holds a receipt may check it.
#[utoipa::path(
    get,
    path = "/v1/receipts/keys",
    operation_id = "listReceiptKeys",
    tag = "reports",
    security(()),
    responses((status = 200, description = "The keys.", body = crate::api::openapi::reports::ReceiptKeys)),
)]
pub async fn keys(State(api): State<Shared>) -> Json<Value> {
    let signer = &api.reports.signer;
    let key = json!({"id": signer.key_id(), "algorithm": "Ed25519", "public_key": signer.public_key()});
    Json(json!({"object": "list", "data": [key]}))
}
