//! `/v1/batches`: many requests in a file, done when there is room and for less.

mod input;
mod line;
mod output;
mod runner;
mod slots;

pub use runner::Runner;

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::Shared;
use super::auth::Caller;
use super::body::Asked;
use super::error::{ApiError, ApiResult, Code};
use super::fields::{Fields, invalid};
use super::files;
use super::json::Json as Body;
use super::list::PageOf;
use super::openai::params::metadata;
use super::query::Query;
use super::scope::random;
use crate::accounts::Permission;
use crate::batches::{Batch, BatchError, Batches, Counts, Endpoint, Status};
use crate::config::{BatchWindow, Limits};
use crate::files::Purpose;
use crate::ledger::hex;
use crate::money::Picos;
use crate::serving::unix_ms;

/// Batches of one page, as the public API has it.
const MAX_PAGE: u32 = 100;
const DEFAULT_PAGE: u32 = 20;
/// Longest id of a file.
const MAX_ID_BYTES: usize = 128;

/// What a caller wants.
struct Wanted {
    endpoint: Endpoint,
    window: BatchWindow,
    input_file_id: String,
    output_ttl_s: Option<u64>,
    metadata: Option<Value>,
}

impl Wanted {
    fn read(body: Body, limits: &Limits) -> ApiResult<Self> {
        let mut fields = Fields::root(body)?;
        let file = fields.string("input_file_id", MAX_ID_BYTES)?;
        let input_file_id = fields.required("input_file_id", file)?;
        let endpoint = fields.string("endpoint", 128)?;
        let endpoint = Endpoint::at(&fields.required("endpoint", endpoint)?)
            .ok_or_else(|| one_of("endpoint", Endpoint::ALL.map(Endpoint::path)))?;
        let window = fields.string("completion_window", 16)?;
        let window = BatchWindow::named(&fields.required("completion_window", window)?)
            .ok_or_else(|| one_of("completion_window", BatchWindow::ALL.map(BatchWindow::as_str)))?;
        let output_ttl_s = match fields.take("output_expires_after") {
            None => None,
            Some(value) => {
                let mut own = Fields::nested(value, "output_expires_after")?;
                let (anchor, seconds) = (own.string("anchor", 64)?, own.integer("seconds", 0, i64::MAX)?);
                let (anchor, seconds) = (own.required("anchor", anchor)?, own.required("seconds", seconds)?);
                own.finish(&[])?;
                let paths = ("output_expires_after.anchor", "output_expires_after.seconds");
                Some(files::expiry_s(paths.0, &anchor, paths.1, seconds)?)
            }
        };
        let metadata = metadata(&mut fields, limits.max_metadata)?;
        fields.finish(&[])?;
        Ok(Self { endpoint, window, input_file_id, output_ttl_s, metadata })
    }
}

fn one_of(param: &str, known: [&str; 4]) -> ApiError {
    let message =
        format!("Invalid '{param}': this server offers {}.", known.map(|k| format!("'{k}'")).join(", "));
    ApiError::param(Code::UnsupportedValue, param, message)
}

/// Runs `work`, which waits for the disk, off the threads that serve connections.
async fn on_disk<T: Send + 'static>(
    batches: &Batches,
    work: impl FnOnce(&Batches) -> Result<T, BatchError> + Send + 'static,
) -> Result<T, BatchError> {
    let batches = batches.clone();
    let done = spawn_blocking(move || work(&batches)).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Begins a batch.
#[utoipa::path(
    post,
    path = "/v1/batches",
    operation_id = "createBatch",
    tag = "batches",
    request_body = crate::api::openapi::jobs::BatchRequest,
    responses((status = 200, description = "The batch.", body = crate::api::openapi::jobs::BatchObject)),
)]
pub async fn create(State(api): State<Shared>, caller: Caller, Asked(body): Asked) -> ApiResult<Json<Value>> {
    let wanted = Wanted::read(body, &api.limits)?;
    if !caller.identity.allows(Permission::ModelRequest) {
        let message = "This API key lacks the permission 'model.request', which the lines of a batch need.";
        return Err(ApiError::new(Code::InsufficientPermissions, message));
    }
    let file = files::find(&api, &caller, wanted.input_file_id.clone()).await.map_err(|mut error| {
        error.param = error.param.map(|_| "input_file_id".to_owned());
        error
    })?;
    let most = api.batches.limits().max_file_mib << 20;
    if file.purpose != Purpose::Batch {
        return Err(invalid("input_file_id", "the file must have the purpose 'batch'"));
    }
    if file.bytes > most {
        return Err(invalid("input_file_id", &format!("the file is larger than the maximum {most} bytes")));
    }
    let now_ms = unix_ms();
    let batch = Batch {
        id: format!("batch_{}", hex(&random::<12>())),
        org_id: caller.identity.org_id.clone(),
        project_id: caller.identity.project_id.clone(),
        key_id: caller.identity.key_id.clone(),
        endpoint: wanted.endpoint,
        window: wanted.window,
        input_file_id: file.id,
        output_file_id: None,
        error_file_id: None,
        model: None,
        status: Status::Validating,
        created_ms: now_ms,
        expires_ms: now_ms + wanted.window.ms(),
        reached: BTreeMap::new(),
        output_ttl_s: wanted.output_ttl_s,
        metadata: wanted.metadata,
        errors: Vec::new(),
        counts: Counts::default(),
    };
    let (new, input) = (batch.clone(), api.files.path(&batch.input_file_id));
    on_disk(&api.batches, move |batches| batches.create(&new, &input)).await?;
    api.runner.begin(&api, batch.id.clone());
    Ok(Json(object(&batch)))
}

/// One batch.
#[utoipa::path(
    get,
    path = "/v1/batches/{id}",
    operation_id = "getBatch",
    tag = "batches",
    params(("id" = String, Path, description = "Id of the batch.")),
    responses((status = 200, description = "The batch.", body = crate::api::openapi::jobs::BatchObject)),
)]
pub async fn retrieve(
    State(api): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    Ok(Json(object(&find(&api, &caller, id).await?)))
}

/// The project's batches, page by page.
#[utoipa::path(
    get,
    path = "/v1/batches",
    operation_id = "listBatches",
    tag = "batches",
    params(("limit" = Option<u32>, Query, description = "Batches of a page.", minimum = 1, maximum = 100),
        ("after" = Option<String>, Query, description = "Id of the last batch that is known.")),
    responses((status = 200, description = "A page of batches.", body = PageOf<crate::api::openapi::jobs::BatchObject>)),
)]
pub async fn list(State(api): State<Shared>, caller: Caller, uri: Uri) -> ApiResult<Json<PageOf<Value>>> {
    let mut query = Query::read(&uri);
    let limit = query.count("limit", 1, MAX_PAGE)?.unwrap_or(DEFAULT_PAGE) as usize;
    let after = query.string("after")?;
    query.finish()?;
    let project = caller.identity.project_id.clone();
    let found = on_disk(&api.batches, move |batches| batches.list(&project, after.as_deref(), limit)).await?;
    let (page, has_more) = found.ok_or_else(|| invalid("after", "the project has no batch of this id"))?;
    Ok(Json(PageOf::new(page.iter().map(object).collect(), has_more)))
}

/// Ends a batch: what is in flight is dropped and costs nothing, what is done is kept.
#[utoipa::path(
    post,
    path = "/v1/batches/{id}/cancel",
    operation_id = "cancelBatch",
    tag = "batches",
    params(("id" = String, Path, description = "Id of the batch.")),
    responses((status = 200, description = "The batch.", body = crate::api::openapi::jobs::BatchObject)),
)]
pub async fn cancel(
    State(api): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let batch = find(&api, &caller, id.clone()).await?;
    if matches!(batch.status, Status::Cancelling | Status::Cancelled) {
        return Ok(Json(object(&batch)));
    }
    let wanted = id.clone();
    let from = &[Status::Validating, Status::InProgress];
    let cancelled = on_disk(&api.batches, move |batches| {
        batches.advance(&wanted, from, Status::Cancelling, unix_ms(), |_| ())
    });
    match cancelled.await {
        Ok(batch) => {
            api.runner.stop(&id);
            Ok(Json(object(&batch)))
        }
        Err(BatchError::Moved(_)) => {
            let status = find(&api, &caller, id).await?.status.as_str();
            let message = format!("A batch with the status '{status}' cannot be cancelled.");
            Err(ApiError::param(Code::BatchEnded, "id", message))
        }
        Err(error) => Err(error.into()),
    }
}

async fn find(api: &Shared, caller: &Caller, id: String) -> ApiResult<Batch> {
    let (project, wanted) = (caller.identity.project_id.clone(), id.clone());
    let found = on_disk(&api.batches, move |batches| batches.get(&project, &wanted)).await?;
    found.ok_or_else(|| {
        let shown: String = id.chars().take(64).collect();
        ApiError::param(Code::BatchNotFound, "id", format!("No batch found with id '{shown}'."))
    })
}

/// The object as clients see it.
fn object(batch: &Batch) -> Value {
    let at = |status: Status| batch.reached.get(&status).map(|ms| ms / 1_000);
    let counts = &batch.counts;
    // Their ids are chosen before they are there.
    let file = |id: &Option<String>| id.clone().filter(|_| batch.status.is_final());
    let input = counts.uncached_input + counts.cached_input;
    let errors = (!batch.errors.is_empty()).then(|| json!({"object": "list", "data": batch.errors}));
    json!({
        "id": batch.id, "object": "batch", "endpoint": batch.endpoint.path(), "model": batch.model,
        "errors": errors, "input_file_id": batch.input_file_id, "completion_window": batch.window.as_str(),
        "status": batch.status.as_str(), "output_file_id": file(&batch.output_file_id),
        "error_file_id": file(&batch.error_file_id), "created_at": batch.created_ms / 1_000,
        "in_progress_at": at(Status::InProgress), "expires_at": batch.expires_ms / 1_000,
        "finalizing_at": at(Status::Finalizing), "completed_at": at(Status::Completed),
        "failed_at": at(Status::Failed), "expired_at": at(Status::Expired),
        "cancelling_at": at(Status::Cancelling), "cancelled_at": at(Status::Cancelled),
        "request_counts": {"total": counts.total, "completed": counts.completed, "failed": counts.failed},
        "usage": {
            "input_tokens": input, "input_tokens_details": {"cached_tokens": counts.cached_input},
            "output_tokens": counts.output, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": input + counts.output, "cost_usd": Picos(counts.cost_picos).to_usd(),
        },
        "metadata": batch.metadata,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::json;
    use crate::api::openapi::testing::assert_documented;

    #[test]
    fn requests_are_read_as_documented() {
        let body = r#"{"input_file_id":"file-1","endpoint":"/v1/responses","completion_window":"24h",
            "output_expires_after":{"anchor":"created_at","seconds":3600},"metadata":{"a":"b"}}"#;
        let body = json::parse(body.as_bytes(), 8).unwrap();
        assert_documented("BatchRequest", || assert!(Wanted::read(body, &Limits::default()).is_ok()));
    }
}
