//! `/v1/capacity/offers` and `/v1/capacity/leases`: capacity that is sold ahead.

mod object;
mod request;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use engine::{Engine, Tier};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Shared;
use super::auth::Caller;
use super::body::Asked;
use super::error::{ApiError, ApiResult, Code};
use super::fields::invalid;
use super::list::PageOf;
use super::query::Query;
use super::scope::random;
use crate::accounts::Accounts;
use crate::civil::HOUR_MS;
use crate::leases::{Lease, LeaseError, Leases, Party, Terms};
use crate::ledger::hex;
use crate::registry::Served;
use crate::serving::unix_ms;
use object::{object, shape_of};
use request::{Span, Wanted};

/// Leases of one page.
const MAX_PAGE: u32 = 100;
const DEFAULT_PAGE: u32 = 20;

/// What can be leased of the models that the caller may use, when, and at what price. Nothing is leased where the list is
/// empty.
#[utoipa::path(
    get,
    path = "/v1/capacity/offers",
    operation_id = "listCapacityOffers",
    tag = "models",
    params(crate::api::openapi::leases::OfferQuery),
    responses((status = 200, description = "The offers.", body = crate::api::openapi::leases::OfferList)),
)]
pub async fn offers(State(api): State<Shared>, caller: Caller, uri: Uri) -> ApiResult<Json<Value>> {
    let mut query = Query::read(&uri);
    let model = query.string("model")?;
    let (start, end) = (query.integer("start", 0, i64::MAX)?, query.integer("end", 0, i64::MAX)?);
    let hours = query.integer("hours", 1, i64::MAX)?;
    query.finish()?;
    if let Some(model) = &model {
        api.engine_of(&caller.identity, model)?;
    }
    let now_ms = unix_ms();
    let list = |data: Vec<Value>| Json(json!({"object": "list", "created": now_ms / 1_000, "data": data}));
    let Some((leases, terms)) = offered(&api) else { return Ok(list(Vec::new())) };
    let span = Span::of(leases.limits(), start, end, hours, now_ms)?;
    let engines = api.models.iter().filter_map(|served| match served {
        Served::Engine(engine) => Some(engine),
        Served::Embedder(_) => None,
    });
    let mut data = Vec::new();
    for engine in engines {
        let id = engine.card().id.clone();
        if !caller.identity.may_use(&id) || model.as_ref().is_some_and(|model| *model != id) {
            continue;
        }
        let free = leases.blocking(move |leases| leases.free(&id, span.start_ms, span.end_ms)).await?;
        data.push(offer(&api, leases, engine, terms, span, free));
    }
    Ok(list(data))
}

fn offer(api: &Shared, leases: &Leases, engine: &Engine, terms: Terms, span: Span, free: u64) -> Value {
    let model = &engine.card().id;
    let sellable = leases.sellable(model);
    let limits = leases.limits();
    let usage = api.serving.rates.at(model, Tier::Reserved.name(), unix_ms()).map(|price| {
        json!({
            "service_tier": price.tier,
            "uncached_input_usd_per_million": price.uncached_input.to_usd_per_million(),
            "cached_input_usd_per_million": price.cached_input.to_usd_per_million(),
            "output_usd_per_million": price.output.to_usd_per_million(),
        })
    });
    let mut told = shape_of(&terms);
    told["min_hours"] = limits.min_hours.into();
    told["max_hours"] = limits.max_hours.into();
    told["max_ahead_hours"] = limits.max_ahead_hours.into();
    json!({
        "object": "capacity.offer", "model": model, "start": span.start_ms / 1_000, "end": span.end_ms / 1_000,
        "sellable_units": sellable.unwrap_or(0), "free_units": free, "terms": told, "usage_price": usage,
        "unavailable": sellable.is_none().then(|| uncalibrated(model)),
    })
}

fn uncalibrated(model: &str) -> String {
    format!("The capacity of the model '{model}' was not measured: the operator runs 'spillway calibrate'.")
}

/// Leases capacity: when this answers, the units are the project's and the whole price of holding them is held.
#[utoipa::path(
    post,
    path = "/v1/capacity/leases",
    operation_id = "createCapacityLease",
    tag = "models",
    request_body = crate::api::openapi::leases::LeaseRequest,
    responses((status = 200, description = "The lease.", body = crate::api::openapi::leases::LeaseObject)),
)]
pub async fn create(
    State(api): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    Asked(body): Asked,
) -> ApiResult<Json<Value>> {
    let now_ms = unix_ms();
    let (leases, terms) = offered(&api).ok_or_else(not_offered)?;
    let id = headers.get("idempotency-key").map_or_else(new_id, |key| named_id(&caller, key.as_bytes()));
    // Made by an attempt whose answer was lost with the process; the key itself is kept for a while only.
    let (known, project) = (id.clone(), caller.identity.project_id.clone());
    let made = leases.blocking(move |leases| leases.get(Some(&project), &known)).await?;
    let ttl_ms = u64::from(api.idempotency.ttl_hours()) * HOUR_MS;
    let id = match made {
        Some((kept, sums)) if kept.lease.created_ms + ttl_ms > now_ms => {
            return Ok(Json(object(&kept, sums, now_ms)?));
        }
        Some(_) => new_id(),
        None => id,
    };
    let wanted = Wanted::read(body, leases.limits(), now_ms)?;
    api.engine_of(&caller.identity, &wanted.model)?;
    if leases.sellable(&wanted.model).is_none() {
        return Err(ApiError::param(Code::UnsupportedValue, "model", uncalibrated(&wanted.model)));
    }
    let identity = caller.identity.clone();
    let lease = Lease {
        id,
        org_id: identity.org_id.clone(),
        org_name: identity.org_name.clone(),
        project_id: identity.project_id.clone(),
        project_name: identity.project_name.clone(),
        key_id: identity.key_id.clone(),
        key_name: identity.key_name.clone(),
        model: wanted.model,
        steps: wanted.steps,
        end_ms: wanted.end_ms,
        agreed_end_ms: wanted.end_ms,
        overflow: wanted.overflow,
        terms,
        created_ms: now_ms,
        notice: None,
    };
    let (leases, ledger) = (leases.clone(), api.serving.ledger.clone());
    let accounts = api.accounts.by(&identity.key_id);
    // In a task of its own: a caller that goes away must not leave half of it.
    let granting = tokio::spawn(async move {
        let lease = leases.grant(&ledger, &identity, lease).await?;
        let about = json!({
            "model": lease.model, "units": lease.units_at(lease.start_ms()), "start": lease.start_ms() / 1_000,
            "end": lease.end_ms / 1_000, "usd": lease.fee(lease.start_ms(), lease.end_ms)?.to_usd(),
        });
        note(&accounts, "lease.created", &lease.id, &lease.project_id, about).await;
        if let Err(error) = leases.keep(&ledger, unix_ms()).await {
            tracing::error!(%error, "the money of leases cannot be kept");
        }
        Ok::<_, LeaseError>(lease.id)
    });
    let granted = granting.await.map_err(|error| LeaseError::Unknown(error.to_string()));
    let id = granted.and_then(|granted| granted)?;
    Ok(Json(find(&api, Some(&caller), id).await?))
}

fn new_id() -> String {
    format!("lease_{}", hex(&random::<12>()))
}

/// The id of what the project asks for under an `Idempotency-Key`.
fn named_id(caller: &Caller, key: &[u8]) -> String {
    let mut hasher = Sha256::new();
    for part in [caller.identity.project_id.as_bytes(), key, &caller.scope.body_sha256().unwrap_or_default()]
    {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    format!("lease_{}", hex(&hasher.finalize()[..12]))
}

/// One lease.
#[utoipa::path(
    get,
    path = "/v1/capacity/leases/{id}",
    operation_id = "getCapacityLease",
    tag = "models",
    params(("id" = String, Path, description = "Id of the lease.")),
    responses((status = 200, description = "The lease.", body = crate::api::openapi::leases::LeaseObject)),
)]
pub async fn retrieve(
    State(api): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    Ok(Json(find(&api, Some(&caller), id).await?))
}

/// The project's leases, page by page, the newest first.
#[utoipa::path(
    get,
    path = "/v1/capacity/leases",
    operation_id = "listCapacityLeases",
    tag = "models",
    params(("limit" = Option<u32>, Query, description = "Leases of a page.", minimum = 1, maximum = 100),
        ("after" = Option<String>, Query, description = "Id of the last lease that is known.")),
    responses((status = 200, description = "A page of leases.", body = PageOf<crate::api::openapi::leases::LeaseObject>)),
)]
pub async fn list(State(api): State<Shared>, caller: Caller, uri: Uri) -> ApiResult<Json<PageOf<Value>>> {
    let project = caller.identity.project_id.clone();
    Ok(Json(page(&api, Some(project), &uri).await?))
}

/// Ends a lease early: at the first beginning of an hour that keeps the notice period and cuts no hour that has begun.
/// Where that is not after its beginning, it is cancelled and costs nothing.
#[utoipa::path(
    delete,
    path = "/v1/capacity/leases/{id}",
    operation_id = "endCapacityLease",
    tag = "models",
    params(("id" = String, Path, description = "Id of the lease.")),
    responses((status = 200, description = "The lease.", body = crate::api::openapi::leases::LeaseObject)),
)]
pub async fn end(
    State(api): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    find(&api, Some(&caller), id.clone()).await?;
    let accounts = api.accounts.by(&caller.identity.key_id);
    Ok(Json(give_notice(&api, &accounts, id, Party::Holder).await?))
}

/// Ends a lease early and brings its money after it; `accounts` name who does it.
pub(super) async fn give_notice(
    api: &Shared,
    accounts: &Accounts,
    id: String,
    by: Party,
) -> ApiResult<Value> {
    let leases = api.serving.leases.as_ref().ok_or_else(|| not_found(&id))?;
    let ended = id.clone();
    leases.blocking(move |leases| leases.give_notice(&ended, by, unix_ms())).await?;
    if let Err(error) = leases.keep(&api.serving.ledger, unix_ms()).await {
        tracing::error!(%error, "the money of leases cannot be kept");
    }
    let lease = find(api, None, id).await?;
    let about = json!({
        "status": lease["status"], "notice": lease["notice"], "end": lease["end"],
        "reclaim_credit_usd": lease["reclaim_credit_usd"],
    });
    let text = |name: &str| lease[name].as_str().unwrap_or_default();
    note(accounts, "lease.ended", text("id"), text("project_id"), about).await;
    Ok(lease)
}

/// Notes in the audit log what was done to a lease. It is done already, so a failure is only told in the server's log.
async fn note(accounts: &Accounts, event: &'static str, id: &str, project_id: &str, about: Value) {
    let (accounts, id, project_id) = (accounts.clone(), id.to_owned(), project_id.to_owned());
    let noting = move || accounts.note_lease(event, &id, &project_id, about, unix_ms());
    match tokio::task::spawn_blocking(noting).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, event, "the audit log cannot be written"),
        Err(error) => tracing::error!(%error, event, "the audit log cannot be written"),
    }
}

/// A lease of the caller's project, or anybody's.
async fn find(api: &Shared, caller: Option<&Caller>, id: String) -> ApiResult<Value> {
    let leases = api.serving.leases.as_ref().ok_or_else(|| not_found(&id))?;
    let (project, wanted) = (caller.map(|caller| caller.identity.project_id.clone()), id.clone());
    let found = leases.blocking(move |leases| leases.get(project.as_deref(), &wanted)).await?;
    let (kept, sums) = found.ok_or_else(|| not_found(&id))?;
    object(&kept, sums, unix_ms())
}

/// A page of the project's leases, or of all.
pub(super) async fn page(api: &Shared, project: Option<String>, uri: &Uri) -> ApiResult<PageOf<Value>> {
    let mut query = Query::read(uri);
    let limit = query.count("limit", 1, MAX_PAGE)?.unwrap_or(DEFAULT_PAGE) as usize;
    let after = query.string("after")?;
    query.finish()?;
    let unknown = || invalid("after", "the list has no lease of this id");
    let found = match &api.serving.leases {
        None if after.is_some() => None,
        None => Some((Vec::new(), false)),
        Some(leases) => {
            let list = move |leases: &Leases| leases.list(project.as_deref(), after.as_deref(), limit);
            leases.blocking(list).await?
        }
    };
    let (page, has_more) = found.ok_or_else(unknown)?;
    let now_ms = unix_ms();
    let shown: Vec<Value> =
        page.iter().map(|(kept, sums)| object(kept, *sums, now_ms)).collect::<ApiResult<_>>()?;
    Ok(PageOf::new(shown, has_more))
}

/// The leases and what a new one agrees on, where capacity is leased.
fn offered(api: &Shared) -> Option<(&Leases, Terms)> {
    let leases = api.serving.leases.as_ref()?;
    Some((leases, leases.terms()?))
}

fn not_offered() -> ApiError {
    ApiError::new(
        Code::LeasesNotOffered,
        "This server leases no capacity. Its operator sets 'leases.unit_hour_usd' to offer it.",
    )
}

fn not_found(id: &str) -> ApiError {
    let shown: String = id.chars().take(64).collect();
    ApiError::param(Code::LeaseNotFound, "id", format!("No lease found with id '{shown}'."))
}

impl From<LeaseError> for ApiError {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Full { wanted, free, sellable } => ApiError::param(
                Code::CapacityNotFree,
                "units",
                format!(
                    "Of {sellable} units that can be leased, {free} are free over the whole time; {wanted} are wanted. \
                     Ask for fewer, or for another time: GET /v1/capacity/offers tells what is free."
                ),
            ),
            LeaseError::TooMany(limit) => ApiError::new(
                Code::LeasesFull,
                format!("Your organization has {limit} leases that are not over, which is the limit."),
            ),
            LeaseError::Notice(_) => ApiError::param(
                Code::LeaseNotEndable,
                "id",
                "The lease is over, was ended already, or ends before its notice period would.",
            ),
            LeaseError::Hold(error) => error.into(),
            LeaseError::Ledger(error) => error.into(),
            LeaseError::Money(_) => invalid("units", "the lease costs more than can be counted"),
            LeaseError::Unknown(id) => not_found(&id),
            other => {
                tracing::error!(error = %other, "leases cannot be kept");
                let message = "The leases cannot be read or written at the moment. Try again shortly.";
                ApiError::new(Code::ServerError, message).retry_after_ms(1_000)
            }
        }
    }
}

/// How far ahead times may lie, so that arithmetic on them is safe: ten years.
const FAR_MS: u64 = 10 * 8784 * HOUR_MS;
