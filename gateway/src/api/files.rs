//! `/v1/files`: files that a project uploads or that its batches make.

pub(super) mod upload;

pub use upload::create;
pub(super) use upload::{expiry_s, new_id};

use std::fs::File;
use std::io::{self, Read};

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, Response, Uri, header};
use bytes::Bytes;
use futures::stream::unfold;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::Shared;
use super::auth::Caller;
use super::error::{ApiError, ApiResult, Code};
use super::fields::invalid;
use super::list::PageOf;
use super::query::Query;
use crate::files::{FileError, FileRow, Files, Listing, Purpose};
use crate::serving::unix_ms;

/// Files of one page, as the public API has it.
const MAX_PAGE: u32 = 10_000;
/// Read from the disk at one time.
const PIECE: usize = 256 << 10;

/// The object as clients see it.
pub fn object(row: &FileRow) -> Value {
    json!({
        "id": row.id, "object": "file", "bytes": row.bytes, "created_at": row.created_ms / 1_000,
        "expires_at": row.expires_ms.map(|ms| ms / 1_000), "filename": row.name,
        "purpose": row.purpose.as_str(), "status": "processed", "status_details": null,
    })
}

/// Runs `work`, which waits for the disk, off the threads that serve connections.
pub async fn on_disk<T: Send + 'static>(
    files: &Files,
    work: impl FnOnce(&Files) -> Result<T, FileError> + Send + 'static,
) -> ApiResult<T> {
    let files = files.clone();
    match spawn_blocking(move || work(&files)).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(ApiError::new(Code::ServerError, "The file could not be handled. Try again shortly.")),
    }
}

/// The project's files, page by page.
#[utoipa::path(
    get,
    path = "/v1/files",
    operation_id = "listFiles",
    tag = "files",
    params(crate::api::openapi::jobs::FileQuery),
    responses((status = 200, description = "A page of files.", body = PageOf<crate::api::openapi::jobs::FileObject>)),
)]
pub async fn list(State(api): State<Shared>, caller: Caller, uri: Uri) -> ApiResult<Json<PageOf<Value>>> {
    let mut query = Query::read(&uri);
    let purpose = match query.string("purpose")? {
        None => None,
        Some(name) => Some(Purpose::named(&name).ok_or_else(|| unknown_purpose(&Purpose::ALL))?),
    };
    let limit = query.count("limit", 1, MAX_PAGE)?.unwrap_or(MAX_PAGE) as usize;
    let after = query.string("after")?;
    let ascending = match query.string("order")?.as_deref() {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(_) => return Err(invalid("order", "expected 'asc' or 'desc'")),
    };
    query.finish()?;
    let project = caller.identity.project_id.clone();
    let listing = Listing { purpose, after, ascending, limit };
    let found = on_disk(&api.files, move |files| files.list(&project, &listing, unix_ms())).await?;
    let (rows, has_more) = found.ok_or_else(|| invalid("after", "the project has no file of this id"))?;
    Ok(Json(PageOf::new(rows.iter().map(object).collect(), has_more)))
}

/// One file.
#[utoipa::path(
    get,
    path = "/v1/files/{id}",
    operation_id = "getFile",
    tag = "files",
    params(("id" = String, Path, description = "Id of the file.")),
    responses((status = 200, description = "The file.", body = crate::api::openapi::jobs::FileObject)),
)]
pub async fn retrieve(
    State(api): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    Ok(Json(object(&find(&api, &caller, id).await?)))
}

/// Forgets a file. A batch that was made from it goes on.
#[utoipa::path(
    delete,
    path = "/v1/files/{id}",
    operation_id = "deleteFile",
    tag = "files",
    params(("id" = String, Path, description = "Id of the file.")),
    responses((status = 200, description = "It is gone.", body = crate::api::openapi::jobs::DeletedFile)),
)]
pub async fn delete(
    State(api): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let (project, wanted) = (caller.identity.project_id.clone(), id.clone());
    if !on_disk(&api.files, move |files| files.delete(&project, &wanted, unix_ms())).await? {
        return Err(not_found(&id));
    }
    Ok(Json(json!({"id": id, "object": "file", "deleted": true})))
}

/// The bytes of a file, as they were written.
#[utoipa::path(
    get,
    path = "/v1/files/{id}/content",
    operation_id = "getFileContent",
    tag = "files",
    params(("id" = String, Path, description = "Id of the file.")),
    responses((status = 200, description = "Its bytes.", body = String, content_type = "application/octet-stream")),
)]
pub async fn content(
    State(api): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response<Body>> {
    let row = find(&api, &caller, id).await?;
    let id = row.id.clone();
    let file = on_disk(&api.files, move |files| files.content(&id)).await?;
    let pieces = unfold(Some(file), |file| async move { next_piece(file?).await });
    let mut response = Response::new(Body::from_stream(pieces));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(row.bytes));
    // What a browser is shown must not run in the name of this server.
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// The next bytes; an error ends the stream, and the connection with it, because the length was told.
async fn next_piece(mut file: File) -> Option<(io::Result<Bytes>, Option<File>)> {
    let read = spawn_blocking(move || {
        let mut piece = vec![0; PIECE];
        file.read(&mut piece).map(|count| {
            piece.truncate(count);
            (piece, file)
        })
    });
    match read.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok((piece, _)) if piece.is_empty() => None,
        Ok((piece, file)) => Some((Ok(piece.into()), Some(file))),
        Err(error) => Some((Err(error), None)),
    }
}

/// A file of the caller's project.
pub async fn find(api: &Shared, caller: &Caller, id: String) -> ApiResult<FileRow> {
    let (project, wanted) = (caller.identity.project_id.clone(), id.clone());
    let found = on_disk(&api.files, move |files| files.get(&project, &wanted, unix_ms())).await?;
    found.ok_or_else(|| not_found(&id))
}

/// The same words for what never was, is gone, or is another's.
fn not_found(id: &str) -> ApiError {
    let shown: String = id.chars().take(64).collect();
    ApiError::param(Code::FileNotFound, "id", format!("No such file: '{shown}'."))
}

fn unknown_purpose(known: &[Purpose]) -> ApiError {
    let names: Vec<String> = known.iter().map(|purpose| format!("'{}'", purpose.as_str())).collect();
    let message = format!("Invalid 'purpose': this server keeps files for {}.", names.join(", "));
    ApiError::param(Code::UnsupportedValue, "purpose", message)
}
