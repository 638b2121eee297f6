//! Reads a request body: media type, size, deadline, then strict JSON.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRef, FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};

use super::Shared;
use super::error::{ApiError, ApiResult, Code};
use super::json::{self, Json, JsonError};
use super::scope::Scope;

/// How much of an oversized body is read and thrown away, in multiples of the limit, so that a client that writes before it
/// reads sees the 413 instead of a reset connection.
const DISCARD_FACTOR: usize = 16;

/// Bounds of a body.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Largest body.
    pub max_bytes: usize,
    /// Deepest nesting.
    pub max_depth: usize,
    /// Time for the whole body to arrive.
    pub deadline: Duration,
}

/// A request's body, for handlers: after the caller, so that strangers are refused before anything is read.
pub struct Asked(pub Json);

impl<S: Send + Sync> FromRequest<S> for Asked
where
    Shared: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> ApiResult<Self> {
        let (parts, body) = request.into_parts();
        let scope = parts.extensions.get::<Arc<Scope>>().cloned().unwrap_or_default();
        read_json(&scope, &parts.headers, body, Shared::from_ref(state).body).await.map(Self)
    }
}

/// The body as a JSON value; its hash is noted in `scope`, for the request's row and receipt.
pub async fn read_json(
    scope: &Scope,
    headers: &HeaderMap,
    body: Body,
    limits: BodyLimits,
) -> ApiResult<Json> {
    check_headers(headers)?;
    let bytes = read_bytes(headers, body, limits).await?;
    parse(scope, &bytes, limits)
}

/// What has arrived in full as a JSON value; its hash is noted in `scope`.
pub fn parse(scope: &Scope, bytes: &[u8], limits: BodyLimits) -> ApiResult<Json> {
    scope.note_body(Sha256::digest(bytes).into());
    json::parse(bytes, limits.max_depth).map_err(refusal)
}

/// The body as it came, whatever it is.
pub async fn read_bytes(headers: &HeaderMap, body: Body, limits: BodyLimits) -> ApiResult<Bytes> {
    let announced = body.size_hint().exact().or_else(|| body.size_hint().upper());
    let most = if headers.contains_key(header::EXPECT) { 1 } else { DISCARD_FACTOR };
    if announced.is_some_and(|bytes| bytes > limits.max_bytes.saturating_mul(most) as u64) {
        return Err(too_large(limits.max_bytes));
    }
    tokio::time::timeout(limits.deadline, read_bounded(body, limits.max_bytes))
        .await
        .map_err(|_| timed_out(limits.deadline))?
}

fn check_headers(headers: &HeaderMap) -> ApiResult<()> {
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(ApiError::new(
            Code::UnsupportedEncoding,
            "Compressed bodies are not accepted. Leave out Content-Encoding.",
        ));
    }
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    if is_utf8_json(media_type) {
        return Ok(());
    }
    Err(ApiError::new(
        Code::UnsupportedMediaType,
        "The body must be sent with Content-Type: application/json in UTF-8.",
    ))
}

fn is_utf8_json(media_type: &str) -> bool {
    let mut parts = media_type.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    is_json
        && parts.filter(|part| !part.is_empty()).all(|part| match part.split_once('=') {
            Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
                let value = value.trim().trim_matches('"');
                value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8")
            }
            _ => true,
        })
}

async fn read_bounded(mut body: Body, max_bytes: usize) -> ApiResult<Bytes> {
    let mut read = BytesMut::new();
    let mut discarded = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            ApiError::new(Code::InvalidBody, "The body broke off or its framing is not valid HTTP.")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if discarded > 0 || read.len() + data.len() > max_bytes {
            discarded += read.len() + data.len();
            read = BytesMut::new();
            if discarded > max_bytes.saturating_mul(DISCARD_FACTOR) {
                break;
            }
        } else {
            read.extend_from_slice(&data);
        }
    }
    if discarded > 0 { Err(too_large(max_bytes)) } else { Ok(read.freeze()) }
}

fn too_large(max_bytes: usize) -> ApiError {
    ApiError::new(Code::RequestTooLarge, format!("The body is larger than the maximum {max_bytes} bytes."))
}

fn timed_out(deadline: Duration) -> ApiError {
    let message = format!("The body did not arrive within {} s.", deadline.as_secs());
    ApiError::new(Code::RequestTimeout, message)
}

fn refusal(error: JsonError) -> ApiError {
    match error {
        JsonError::Invalid(reason) => {
            ApiError::new(Code::InvalidJson, format!("The body is not valid JSON: {reason}."))
        }
        JsonError::Duplicate(key) => {
            let key: String = key.chars().take(128).collect();
            let message = format!("The key '{key}' occurs twice in one object.");
            ApiError::param(Code::DuplicateField, key, message)
        }
        JsonError::TooDeep(limit) => {
            ApiError::new(Code::JsonTooDeep, format!("Arrays and objects are nested more than {limit} deep."))
        }
        JsonError::TooManyValues => {
            ApiError::new(Code::ArrayTooLong, format!("The body has more than {} values.", json::MAX_VALUES))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BodyLimits = BodyLimits { max_bytes: 64, max_depth: 8, deadline: Duration::from_secs(5) };

    fn headers(pairs: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    async fn code(headers: &HeaderMap, body: impl Into<Body>) -> Option<Code> {
        read_json(&Scope::new(), headers, body.into(), LIMITS).await.err().map(|e| e.code)
    }

    #[tokio::test]
    async fn media_types() {
        let cases = [
            ("application/json", None),
            ("Application/JSON; charset=\"UTF-8\"", None),
            ("application/json; charset=utf-16", Some(Code::UnsupportedMediaType)),
            ("text/plain", Some(Code::UnsupportedMediaType)),
            ("multipart/form-data; boundary=x", Some(Code::UnsupportedMediaType)),
            ("application/x-www-form-urlencoded", Some(Code::UnsupportedMediaType)),
        ];
        for (media_type, want) in cases {
            assert_eq!(
                code(&headers(&[(header::CONTENT_TYPE, media_type)]), "{}").await,
                want,
                "{media_type}"
            );
        }
        assert_eq!(code(&HeaderMap::new(), "{}").await, Some(Code::UnsupportedMediaType));
        let gzip = headers(&[(header::CONTENT_TYPE, "application/json"), (header::CONTENT_ENCODING, "gzip")]);
        assert_eq!(code(&gzip, "{}").await, Some(Code::UnsupportedEncoding));
    }

    #[tokio::test]
    async fn sizes_and_syntax() {
        let json = headers(&[(header::CONTENT_TYPE, "application/json")]);
        assert_eq!(code(&json, format!("\"{}\"", "x".repeat(62))).await, None);
        assert_eq!(code(&json, format!("\"{}\"", "x".repeat(63))).await, Some(Code::RequestTooLarge));
        assert_eq!(code(&json, "").await, Some(Code::InvalidJson));
        assert_eq!(code(&json, "{\"a\":1,\"a\":2}").await, Some(Code::DuplicateField));
        assert_eq!(code(&json, "[".repeat(9)).await, Some(Code::JsonTooDeep));
        let unending = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let slow = BodyLimits { deadline: Duration::from_millis(1), ..LIMITS };
        let error = read_json(&Scope::new(), &json, unending, slow).await.unwrap_err();
        assert_eq!(error.code, Code::RequestTimeout);
    }
}
