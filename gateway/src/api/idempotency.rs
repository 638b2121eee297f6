//! `Idempotency-Key`: a request that is sent again is the same request.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, response};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::stream::unfold;
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};

use super::Shared;
use super::auth::{Caller, RECEIPT};
use super::body::read_bytes;
use super::error::{ApiError, ApiResult, Code};
use crate::accounts::StoreResponses;
use crate::idempotency::{Answer, Begun, Fingerprint, Head, Id, Run, StoreError, Watcher};
use crate::serving::{WireState, unix_ms};

const HEADER: &str = "idempotency-key";
/// The route whose bodies are too large to be compared.
pub const UPLOADS: &str = "/v1/files";
/// Says that an answer, or its beginning, was there before.
pub const REPLAYED: &str = "idempotent-replayed";
/// The request that was carried out, and billed.
pub const ORIGINAL: &str = "x-original-request-id";

/// Carries out the first request of a key, and gives those that follow the same answer.
pub async fn once(State(api): State<Shared>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST || !request.headers().contains_key(HEADER) {
        return next.run(request).await;
    }
    attempt(api, request, next).await.unwrap_or_else(ApiError::into_response)
}

async fn attempt(api: Shared, request: Request, next: Next) -> ApiResult<Response> {
    let (mut parts, body) = request.into_parts();
    let caller = Caller::from_request_parts(&mut parts, &api).await?;
    let mut keys = parts.headers.get_all(HEADER).iter();
    let key = keys.next().and_then(|key| key.to_str().ok()).unwrap_or_default().to_owned();
    if keys.next().is_some() {
        let message = "The request must have one Idempotency-Key header, not several.";
        return Err(ApiError::param(Code::InvalidValue, "Idempotency-Key", message));
    }
    if parts.uri.path() == UPLOADS {
        let message = "An upload takes no Idempotency-Key: it costs nothing, and a second one is a second file. Leave \
                       the header out.";
        return Err(ApiError::param(Code::UnsupportedValue, "Idempotency-Key", message));
    }
    let bytes = read_bytes(&parts.headers, body, api.body).await?;
    let fingerprint = fingerprint(&parts.uri.to_string(), &bytes, caller.wants_receipt);
    let id = Id { project_id: caller.identity.project_id.clone(), key };
    let request_id = caller.scope.request_id.clone();
    let begun =
        stored(&api, move |api| api.idempotency.begin(&id, fingerprint, &request_id, unix_ms())).await?;
    match begun {
        Begun::New(run) => {
            // The task is not bound to this connection: what it is billed for is what it keeps.
            parts.extensions.remove::<Arc<WireState>>();
            let watcher = run.watch();
            let keeps = caller.identity.project.store_responses != StoreResponses::Never;
            let request = Request::from_parts(parts, Body::from(bytes));
            tokio::spawn(carry_out(api, run, next, request, keeps));
            follow(watcher, false).await
        }
        Begun::Live(watcher) => follow(watcher, true).await,
        Begun::Done(answer) => replay(answer),
        Begun::Gone => {
            let message = "A request with this Idempotency-Key was carried out and billed, but its answer is not kept (any \
                           more). Use a new key to ask again.";
            Err(ApiError::param(Code::IdempotencyAnswerGone, "Idempotency-Key", message))
        }
        Begun::Mismatch => {
            let message = format!(
                "This Idempotency-Key was used for a request with another body, URL or {RECEIPT}. Use a new key."
            );
            Err(ApiError::param(Code::IdempotencyKeyReuse, "Idempotency-Key", message))
        }
    }
}

fn fingerprint(target: &str, body: &[u8], wants_receipt: bool) -> Fingerprint {
    let mut hasher = Sha256::new();
    hasher.update((target.len() as u64).to_le_bytes());
    hasher.update(target);
    hasher.update(body);
    if wants_receipt {
        // After a JSON body, which no other one continues like this.
        hasher.update(b" receipt");
    }
    hasher.finalize().into()
}

async fn stored<T: Send + 'static>(
    api: &Shared,
    work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
) -> ApiResult<T> {
    let api = Arc::clone(api);
    let done = tokio::task::spawn_blocking(move || work(&api)).await;
    let reason = match done {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::error!(reason, "idempotency keys cannot be kept");
    let message = "The Idempotency-Key cannot be kept at the moment. Nothing was charged. Try again shortly.";
    Err(ApiError::new(Code::LedgerUnavailable, message).retry_after_ms(1_000))
}

/// Runs the request to its end, whoever still looks on.
async fn carry_out(api: Shared, run: Run, next: Next, request: Request, keeps: bool) {
    let (head, mut body) = next.run(request).await.into_parts();
    if !head.status.is_success() {
        return refuse(&api, run, head, body).await;
    }
    run.head(head.clone());
    let (mut bytes, mut whole) = (0, true);
    while let Some(frame) = body.frame().await {
        let Some(piece) = frame.ok().and_then(|frame| frame.into_data().ok()) else {
            whole = false;
            break;
        };
        bytes += piece.len();
        if bytes > api.idempotency.max_answer_bytes() {
            // Dropping the body ends the request; what was told until now is billed.
            tracing::warn!(bytes, "an answer is larger than idempotency.max_answer_kib");
            whole = false;
            break;
        }
        run.tell(piece);
    }
    drop(body);
    let ended = stored(&api, move |api| {
        let body = run.body();
        let body = (keeps && whole).then_some(&body[..]);
        api.idempotency.keep(&run, head.status.as_u16(), &texts(&head), body)?;
        if whole {
            run.complete();
        }
        Ok(())
    });
    // The failure is in the log; the key stays taken.
    let _ = ended.await;
}

/// Frees the key of a refusal before its first byte is told: who knows of it can use the key again.
async fn refuse(api: &Shared, run: Run, head: Head, body: Body) {
    let body = body.collect().await;
    let freed = stored(api, move |api| {
        api.idempotency.forget(&run)?;
        Ok(run)
    });
    // The failure is in the log; the key stays taken.
    let Ok(run) = freed.await else { return };
    run.unlist();
    run.head(head);
    if let Ok(body) = body {
        run.tell(body.to_bytes());
        run.complete();
    }
}

fn texts(head: &Head) -> Vec<(String, String)> {
    let text = |(name, value): (&HeaderName, &HeaderValue)| {
        value.to_str().ok().map(|value| (name.to_string(), value.to_owned()))
    };
    head.headers.iter().filter_map(text).collect()
}

/// The answer as it comes, from its start.
async fn follow(mut watcher: Watcher, is_repeated: bool) -> ApiResult<Response> {
    let Some(mut head) = watcher.head().await else {
        let message = "The server had an error while processing the request. Try again shortly.";
        return Err(ApiError::new(Code::ServerError, message).retry_after_ms(1_000));
    };
    if is_repeated {
        mark(&mut head, watcher.request_id());
    }
    let pieces = unfold(Some((watcher, 0)), |state| async move {
        let (mut watcher, number) = state?;
        match watcher.piece(number).await {
            Ok(piece) => piece.map(|piece| (Ok(piece), Some((watcher, number + 1)))),
            Err(broken) => Some((Err(broken), None)),
        }
    });
    Ok(Response::from_parts(head, Body::from_stream(pieces)))
}

fn replay(answer: Answer) -> ApiResult<Response> {
    let Answer { request_id, status, headers, body } = answer;
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse()) {
            head.headers.append(name, value);
        }
    }
    mark(&mut head, &request_id);
    Ok(Response::from_parts(head, Body::from(body)))
}

fn mark(head: &mut response::Parts, request_id: &str) {
    head.headers.insert(REPLAYED, HeaderValue::from_static("true"));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        head.headers.insert(ORIGINAL, id);
    }
}
