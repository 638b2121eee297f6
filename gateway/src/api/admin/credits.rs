//! `/v1/admin/organizations/{id}/credits` and `/balance`.

use axum::Json;
use axum::extract::{Path, Request};
use axum::http::{HeaderMap, Uri};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::caller::{Admin, blocking};
use super::document::{answers, requests};
use super::page::Page;
use super::read::{expiry, text, usd};
use crate::accounts::{CreditKind, CreditOrder, NewCredit};
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::invalid;
use crate::api::list::PageOf;
use crate::api::query::Query;
use crate::ledger::{self, Balance, hex};
use crate::money::Picos;
use crate::serving::{post_credits, unix_ms};

/// Gives or takes credit; when this answers, the ledger has its row. The same `Idempotency-Key` again is the same credit.
#[utoipa::path(
    post,
    path = "/v1/admin/organizations/{id}/credits",
    operation_id = "createCredit",
    tag = "money",
    params(
        ("id" = String, Path, description = "Id or name of the customer."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same again is the same credit."),
    ),
    request_body = requests::CreditToGive,
    responses((status = 200, description = "The credit.", body = answers::Credit)),
)]
pub(super) async fn create(
    admin: Admin,
    Path(id): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> ApiResult<Json<Value>> {
    let mut fields = admin.fields(request).await?;
    let amount = usd(&mut fields, "amount_usd")?;
    let amount = fields.required("amount_usd", amount)?;
    let kind = text(&mut fields, "kind")?.map_or(Ok(CreditKind::Grant), |kind| kind.parse());
    let kind = kind.map_err(|error: String| invalid("kind", &error))?;
    let expires_ms = expiry(&mut fields)?;
    let note = text(&mut fields, "note")?.unwrap_or_default();
    fields.finish(&[])?;
    let org = admin.run(move |accounts| accounts.org(&id)).await?;
    check(kind, amount, expires_ms)?;
    let key = headers.get("idempotency-key").map(|key| key.as_bytes());
    let id = key.map(|key| {
        let digest = Sha256::digest([org.id.as_bytes(), b"\n", key].concat());
        format!("cred_{}", hex(&digest))
    });
    let new = NewCredit { id, org: org.id.clone(), kind, amount, expires_ms, note: note.clone() };
    let order = admin.run(move |accounts| accounts.order_credit(&new, unix_ms())).await?;
    if (order.kind, order.amount, order.note.as_str()) != (kind, amount, note.as_str()) {
        let message = "This Idempotency-Key was used for another credit. Use a new key for a new credit.";
        return Err(ApiError::param(Code::IdempotencyKeyReuse, "Idempotency-Key", message));
    }
    post_credits(&admin.api.accounts, &admin.api.serving.ledger).await.map_err(|reason| {
        tracing::error!(reason, "credit cannot be posted");
        let message = "The ledger cannot be written at the moment. The credit is noted and will be posted.";
        ApiError::new(Code::LedgerUnavailable, message).retry_after_ms(1_000)
    })?;
    let order = admin.run(move |accounts| accounts.credit_order(&order.id)).await?;
    match &order.refused {
        Some(reason) => Err(invalid("amount_usd", reason)),
        None => Ok(Json(shape(&order))),
    }
}

/// What the ledger would refuse, before anything is noted.
fn check(kind: CreditKind, amount: Picos, expires_ms: Option<u64>) -> ApiResult<()> {
    if amount == Picos::ZERO || (kind == CreditKind::Grant && amount < Picos::ZERO) {
        return Err(invalid("amount_usd", "a grant must be positive, a correction not zero"));
    }
    if kind == CreditKind::Correction && expires_ms.is_some() {
        return Err(invalid("expires_at", "a correction does not expire"));
    }
    Ok(())
}

/// The orders of an organisation, by pages.
#[utoipa::path(
    get,
    path = "/v1/admin/organizations/{id}/credits",
    operation_id = "listCredits",
    tag = "money",
    params(("id" = String, Path, description = "Id or name of the customer."), requests::PageQuery),
    responses((status = 200, description = "A page of credits.", body = PageOf<answers::Credit>)),
)]
pub(super) async fn list(admin: Admin, Path(id): Path<String>, uri: Uri) -> ApiResult<Json<PageOf<Value>>> {
    let mut query = Query::read(&uri);
    let page = Page::read(&mut query, true)?;
    query.finish()?;
    page.of(admin.run(move |accounts| accounts.list_credits(&id)).await?.iter().map(shape).collect())
}

/// What an organisation has, owes, and may still spend.
#[utoipa::path(
    get,
    path = "/v1/admin/organizations/{id}/balance",
    operation_id = "getBalance",
    tag = "money",
    params(("id" = String, Path, description = "Id or name of the customer.")),
    responses((status = 200, description = "The balance.", body = answers::OrganizationBalance)),
)]
pub(super) async fn balance(admin: Admin, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    let org = admin.run(move |accounts| accounts.org(&id)).await?;
    let (dir, org_id) = (admin.api.reports.dir.clone(), org.id.clone());
    let balance = blocking(move || ledger::balance(&dir, &org_id).map_err(ApiError::from)).await?;
    Ok(Json(balance_shape(&org.id, org.credit_line, &balance)))
}

fn balance_shape(org_id: &str, line: Option<Picos>, balance: &Balance) -> Value {
    let grants = balance.grants.iter().map(|grant| {
        json!({
            "ledger_sequence": grant.seq,
            "left_usd": grant.left.to_usd(),
            "expires_at": grant.expires_ms.map(|ms| ms / 1_000),
        })
    });
    json!({
        "object": "organization.balance",
        "organization_id": org_id,
        "balance_usd": balance.total().to_usd(),
        "credited_usd": balance.credited.to_usd(),
        "spent_usd": balance.spent.to_usd(),
        "held_usd": balance.held.to_usd(),
        "credit_line_usd": line.map(Picos::to_usd),
        "available_usd": line.map(|line| balance.available(line).to_usd()),
        "grants": grants.collect::<Vec<_>>(),
    })
}

fn shape(order: &CreditOrder) -> Value {
    let status = match (order.seq, &order.refused) {
        (Some(_), _) => "posted",
        (None, Some(_)) => "refused",
        (None, None) => "waiting",
    };
    json!({
        "id": order.id,
        "object": "organization.credit",
        "organization_id": order.org_id,
        "kind": order.kind.as_str(),
        "amount_usd": order.amount.to_usd(),
        "expires_at": order.expires_ms.map(|ms| ms / 1_000),
        "note": order.note,
        "actor_id": order.actor,
        "created_at": order.created_ms / 1_000,
        "status": status,
        "refused": order.refused,
        "ledger_sequence": order.seq,
    })
}
