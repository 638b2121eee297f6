//! One concern, one function.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, Uri, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;

use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::scope::Scope;
use crate::api::{admin, anthropic};
use crate::metrics::Metrics;

/// Longest request target; routes are short and take no query.
const MAX_URI_BYTES: usize = 8 << 10;

/// What [`observe`] writes to.
#[derive(Clone)]
pub(super) struct Observed {
    pub(super) metrics: Arc<Metrics>,
}

/// Gives the request its [`Scope`], and the answer its headers, count and log line.
pub(super) async fn observe(State(observed): State<Observed>, mut request: Request, next: Next) -> Response {
    let scope = Arc::new(Scope::new());
    request.extensions_mut().insert(Arc::clone(&scope));
    let method = request.method().clone();
    let is_anthropic = anthropic::speaks(request.uri().path());
    let mut response = next.run(request).await;
    if is_anthropic {
        response = anthropic::dress(response, &scope.request_id);
    }
    scope.write_headers(response.headers_mut());
    let status = response.status().as_u16();
    // Unknown paths share one label: the set of labels must not grow with what strangers send.
    let route = response.extensions().get::<Route>().map_or("unknown", |route| route.0);
    let code = response.extensions().get::<ApiError>().map(|error| error.code);
    scope.note_answer(&observed.metrics, method.as_str(), route, status, code);
    response
}

/// The matched route, carried by the answer.
#[derive(Clone, Copy)]
struct Route(&'static str);

/// The routes by name; a `MatchedPath` is not static.
const ROUTES: &[&str] = &[
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/responses",
    "/v1/responses/compact",
    "/v1/responses/input_tokens",
    "/v1/responses/{id}",
    "/v1/responses/{id}/cancel",
    "/v1/responses/{id}/input_items",
    "/v1/files",
    "/v1/files/{id}",
    "/v1/files/{id}/content",
    "/v1/batches",
    "/v1/batches/{id}",
    "/v1/batches/{id}/cancel",
    "/v1/capacity",
    "/v1/capacity/offers",
    "/v1/capacity/quote",
    "/v1/capacity/leases",
    "/v1/capacity/leases/{id}",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/score",
    "/v1/tokenize",
    "/v1/detokenize",
    "/openai/deployments/{id}/chat/completions",
    "/openai/deployments/{id}/completions",
    "/openai/deployments/{id}/embeddings",
    "/openai/v1/chat/completions",
    "/openai/v1/completions",
    "/openai/v1/embeddings",
    "/openai/v1/responses",
    "/openai/v1/models",
    "/v1/models",
    "/v1/models/{*id}",
    "/v1/moderations",
    "/v1/receipts/keys",
    "/v1/receipts/{request_id}",
    "/.well-known/spillway-receipts.json",
    "/v1/organization/costs",
    "/v1/organization/usage/completions",
    "/v1/organization/usage/embeddings",
    "/openapi.json",
    "/docs",
];

/// Turns a panic into a 500, and notes the route.
pub(super) async fn catch_panic(request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let known = ROUTES.iter().chain(&admin::ROUTES).copied();
    let route = matched.and_then(|path| known.into_iter().find(|route| *route == path.as_str()));
    let outcome = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = outcome.unwrap_or_else(|_| {
        let message =
            "The server had an error while processing the request. Nothing was charged. Try again shortly.";
        ApiError::new(Code::ServerError, message).retry_after_ms(1_000).into_response()
    });
    if let Some(route) = route {
        response.extensions_mut().insert(Route(route));
    }
    response
}

/// Bounds of a request's header.
#[derive(Clone, Copy)]
pub(super) struct HeaderLimits {
    pub(super) max_headers: usize,
    pub(super) max_header_bytes: usize,
}

/// Refuses what hyper lets through.
pub(super) async fn check_protocol(
    State(limits): State<HeaderLimits>,
    request: Request,
    next: Next,
) -> Response {
    match check(&limits, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn check(limits: &HeaderLimits, request: &Request) -> ApiResult<()> {
    let uri_bytes = uri_bytes(request.uri());
    if uri_bytes > MAX_URI_BYTES {
        let message = format!("The URL is longer than the maximum {MAX_URI_BYTES} bytes.");
        return Err(ApiError::new(Code::UriTooLong, message));
    }
    if !decodes_to_text(request.uri().path()) {
        return Err(ApiError::new(Code::InvalidRequest, "The URL's path must be UTF-8 when it is decoded."));
    }
    let headers = request.headers();
    let (count, bytes) = (headers.len(), header_bytes(headers) + uri_bytes);
    if count > limits.max_headers || bytes > limits.max_header_bytes {
        let HeaderLimits { max_headers, max_header_bytes } = limits;
        let message = format!(
            "The header is larger than the maximum {max_headers} fields or {max_header_bytes} bytes."
        );
        return Err(ApiError::new(Code::HeadersTooLarge, message));
    }
    let hosts = headers.get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() >= Version::HTTP_11) {
        return Err(ApiError::new(Code::InvalidRequest, "The request must have exactly one Host header."));
    }
    let expects = headers.get(header::EXPECT);
    if expects.is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(ApiError::new(Code::ExpectationFailed, "Only 'Expect: 100-continue' can be met."));
    }
    let coding = headers.get(header::TRANSFER_ENCODING);
    if coding.is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        let message = "Compressed bodies are not accepted: only 'Transfer-Encoding: chunked' is.";
        return Err(ApiError::new(Code::UnsupportedEncoding, message));
    }
    if request.method() == Method::CONNECT {
        let mut error = ApiError::new(Code::MethodNotAllowed, "CONNECT is not allowed here.");
        error.allow = Some("GET, HEAD, POST");
        return Err(error);
    }
    Ok(())
}

/// Whether a path with its percent signs decoded is text, as the names in it are.
fn decodes_to_text(path: &str) -> bool {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.filter(|_| first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    std::str::from_utf8(&decoded).is_ok()
}

fn uri_bytes(uri: &Uri) -> usize {
    uri.path_and_query().map_or(0, |target| target.as_str().len())
}

/// As on the wire: name, colon, space, value, line end.
fn header_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_text() {
        for (path, is_text) in [
            ("/v1/models/a%2Fb", true),
            ("/%C3%BC", true),
            ("/%", true),
            ("/%zz%2", true),
            ("/%ff", false),
            ("/a%C3", false),
        ] {
            assert_eq!(decodes_to_text(path), is_text, "{path}");
        }
    }
}
