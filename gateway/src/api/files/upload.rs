//! `POST /v1/files`: a form with a file, which goes to the disk as it comes.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use multer::{Field, Multipart};
use serde_json::Value;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{object, on_disk, unknown_purpose};
use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{integer_of, invalid};
use crate::api::json;
use crate::api::scope::random;
use crate::files::{Draft, FileRow, Files, Purpose};
use crate::ledger::hex;
use crate::serving::unix_ms;

/// Written to the disk at one time.
const PIECE: usize = 256 << 10;
/// Longest value of a field that is not the file.
const MAX_FIELD_BYTES: usize = 1024;
/// Parts of a form: the fields that there are, and some to be refused by name.
const MAX_FIELDS: usize = 8;
/// What a form has around its file.
const FRAME_BYTES: u64 = 64 << 10;
/// Bounds of `expires_after[seconds]`, as the public API has them.
const MIN_EXPIRY_S: i64 = 3_600;
/// The same.
const MAX_EXPIRY_S: i64 = 2_592_000;

/// A new file's id.
pub(in crate::api) fn new_id() -> String {
    format!("file-{}", hex(&random::<12>()))
}

/// Keeps a file.
#[utoipa::path(
    post,
    path = "/v1/files",
    operation_id = "createFile",
    tag = "files",
    request_body(content = crate::api::openapi::jobs::FileForm, content_type = "multipart/form-data"),
    responses((status = 200, description = "The file.", body = crate::api::openapi::jobs::FileObject)),
)]
pub async fn create(State(api): State<Shared>, caller: Caller, request: Request) -> ApiResult<Json<Value>> {
    let (parts, body) = request.into_parts();
    let boundary = boundary(&parts.headers)?;
    let max_bytes = api.files.limits().max_file_mib << 20;
    let announced =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: u64| bytes > max_bytes + FRAME_BYTES) {
        return Err(too_large(max_bytes));
    }
    let (org, least) = (caller.identity.org_id.clone(), announced.unwrap_or(0).saturating_sub(FRAME_BYTES));
    on_disk(&api.files, move |files| files.check_room(&org, least)).await?;
    let _place = api.uploads.try_acquire().map_err(|_| {
        let message = "The server is taking as many uploads as it can. Try again shortly.";
        ApiError::new(Code::Overloaded, message).retry_after_ms(1_000)
    })?;
    let deadline = Duration::from_secs(api.files.limits().upload_deadline_s);
    let form = timeout(deadline, read(&api.files, boundary, body)).await.map_err(|_| {
        let message = format!("The file did not arrive within {} s.", deadline.as_secs());
        ApiError::new(Code::RequestTimeout, message)
    })??;
    keep(&api, &caller, form).await
}

async fn keep(api: &Shared, caller: &Caller, form: Form) -> ApiResult<Json<Value>> {
    let purpose = purpose(form.purpose.as_deref())?;
    let created_ms = unix_ms();
    let expires_ms = expiry_ms(&form, purpose, created_ms, api.files.limits().batch_ttl_days)?;
    let Some((id, name, draft)) = form.file else { return Err(missing("file")) };
    let row = FileRow {
        id,
        org_id: caller.identity.org_id.clone(),
        project_id: caller.identity.project_id.clone(),
        purpose,
        name,
        bytes: draft.bytes(),
        created_ms,
        expires_ms,
    };
    let row = on_disk(&api.files, move |files| files.keep(draft, row)).await?;
    Ok(Json(object(&row)))
}

fn boundary(headers: &HeaderMap) -> ApiResult<String> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    multer::parse_boundary(media_type).map_err(|_| {
        let message = "A file must be sent as a form, with Content-Type: multipart/form-data and a boundary.";
        ApiError::new(Code::UnsupportedMediaType, message)
    })
}

/// A form, read.
#[derive(Default)]
struct Form {
    purpose: Option<String>,
    anchor: Option<String>,
    seconds: Option<String>,
    /// Id, name and content.
    file: Option<(String, String, Draft)>,
}

async fn read(files: &Files, boundary: String, body: Body) -> ApiResult<Form> {
    let mut parts = Multipart::new(body.into_data_stream(), boundary);
    let mut form = Form::default();
    let mut count = 0;
    while let Some(field) = parts.next_field().await.map_err(broken)? {
        count += 1;
        if count > MAX_FIELDS {
            let message = format!("The form has more than {MAX_FIELDS} parts.");
            return Err(ApiError::new(Code::ArrayTooLong, message));
        }
        let name: String = field.name().unwrap_or_default().chars().take(128).collect();
        let place = match name.as_str() {
            "file" => {
                let is_first = form.file.replace(file(files, field).await?).is_none();
                if !is_first {
                    return Err(twice("file"));
                }
                continue;
            }
            "purpose" => &mut form.purpose,
            "expires_after[anchor]" => &mut form.anchor,
            "expires_after[seconds]" => &mut form.seconds,
            _ => {
                let message = format!("Unknown parameter: '{name}'.");
                return Err(ApiError::param(Code::UnknownParameter, name, message));
            }
        };
        if place.replace(text(&name, field).await?).is_some() {
            return Err(twice(&name));
        }
    }
    Ok(form)
}

async fn text(name: &str, mut field: Field<'_>) -> ApiResult<String> {
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(broken)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_FIELD_BYTES {
            let message = format!("Invalid '{name}': it is longer than the maximum {MAX_FIELD_BYTES} bytes.");
            return Err(ApiError::param(Code::StringTooLong, name, message));
        }
    }
    String::from_utf8(bytes).map_err(|_| invalid(name, "expected UTF-8"))
}

/// Writes the file to the disk while it comes.
async fn file(files: &Files, mut field: Field<'_>) -> ApiResult<(String, String, Draft)> {
    let limits = files.limits();
    let max_bytes = limits.max_file_mib << 20;
    let name = field.file_name().unwrap_or_default().to_owned();
    if name.is_empty() || name.len() > limits.max_name_bytes || name.chars().any(char::is_control) {
        let message =
            format!("its name must be 1 to {} bytes without control characters", limits.max_name_bytes);
        return Err(invalid("file", &message));
    }
    let id = new_id();
    let begun = id.clone();
    let mut draft = on_disk(files, move |files| files.draft(&begun)).await?;
    let mut piece = Vec::with_capacity(PIECE);
    loop {
        let more = field.chunk().await.map_err(broken)?;
        let is_over = more.is_none();
        piece.extend_from_slice(&more.unwrap_or_default());
        if draft.bytes() + piece.len() as u64 > max_bytes {
            return Err(too_large(max_bytes));
        }
        if piece.len() >= PIECE || is_over {
            (draft, piece) = write(draft, piece).await?;
        }
        if is_over {
            return Ok((id, name, draft));
        }
    }
}

async fn write(mut draft: Draft, mut piece: Vec<u8>) -> ApiResult<(Draft, Vec<u8>)> {
    let written = spawn_blocking(move || {
        draft.write(&piece)?;
        piece.clear();
        Ok((draft, piece))
    });
    match written.await {
        Ok(result) => result.map_err(|error: crate::files::FileError| error.into()),
        Err(_) => Err(ApiError::new(Code::ServerError, "The file could not be written. Try again shortly.")),
    }
}

fn purpose(name: Option<&str>) -> ApiResult<Purpose> {
    let offered = [Purpose::Batch, Purpose::UserData];
    let name = name.ok_or_else(|| missing("purpose"))?;
    let found = Purpose::named(name).filter(|purpose| offered.contains(purpose));
    found.ok_or_else(|| unknown_purpose(&offered))
}

/// When the file goes: as the form says, or after the time for its purpose.
fn expiry_ms(form: &Form, purpose: Purpose, created_ms: u64, batch_ttl_days: u64) -> ApiResult<Option<u64>> {
    match (&form.anchor, &form.seconds) {
        (None, None) => {
            let ttl_ms = batch_ttl_days * 86_400_000;
            Ok((purpose != Purpose::UserData).then(|| created_ms.saturating_add(ttl_ms)))
        }
        (Some(anchor), Some(seconds)) => {
            let path = "expires_after[seconds]";
            let seconds = seconds.parse().map_err(|_| invalid(path, "expected an integer"))?;
            Ok(Some(
                created_ms.saturating_add(1_000 * expiry_s("expires_after[anchor]", anchor, path, seconds)?),
            ))
        }
        (None, Some(_)) => Err(missing("expires_after[anchor]")),
        (Some(_), None) => Err(missing("expires_after[seconds]")),
    }
}

/// Checks a lifetime; its paths are those of its two fields.
pub(in crate::api) fn expiry_s(
    anchor_path: &str,
    anchor: &str,
    seconds_path: &str,
    seconds: i64,
) -> ApiResult<u64> {
    if anchor != "created_at" {
        return Err(invalid(anchor_path, "expected 'created_at'"));
    }
    let seconds = integer_of(seconds_path, &json::Json::Integer(seconds), MIN_EXPIRY_S, MAX_EXPIRY_S)?;
    Ok(seconds.unsigned_abs())
}

fn missing(name: &str) -> ApiError {
    ApiError::param(Code::MissingParameter, name, format!("Missing required parameter: '{name}'."))
}

fn twice(name: &str) -> ApiError {
    ApiError::param(Code::DuplicateField, name, format!("The form has '{name}' twice."))
}

fn too_large(max_bytes: u64) -> ApiError {
    let message = format!("The file is larger than the maximum {max_bytes} bytes.");
    ApiError::param(Code::RequestTooLarge, "file", message)
}

fn broken(_: multer::Error) -> ApiError {
    ApiError::new(Code::InvalidBody, "The form broke off or is not valid multipart/form-data.")
}
