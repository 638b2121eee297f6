//! Errors in Anthropic's form. Whoever refuses a request on these routes - layer, fallback, key check, handler - says so in
//! the one [`ApiError`]; [`dress`] shapes it on the way out.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::api::error::{ApiError, Code};

/// Whether a path belongs to this surface.
pub fn speaks(path: &str) -> bool {
    path.strip_prefix("/v1/messages").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Gives an answer the surface's request id, and an error the surface's body and status.
pub fn dress(mut response: Response<Body>, request_id: &str) -> Response<Body> {
    if let Some(error) = response.extensions().get::<ApiError>() {
        let (status, body) = (status_of(error.code), body(error, request_id).to_string());
        *response.body_mut() = Body::from(body);
        *response.status_mut() = StatusCode::from_u16(status).expect("the table holds valid statuses");
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    if let Ok(id) = HeaderValue::from_str(request_id) {
        response.headers_mut().insert("request-id", id);
    }
    response
}

/// The error object, also inside a stream.
pub(super) fn body(error: &ApiError, request_id: &str) -> Value {
    let row = error.code.row();
    // Beyond the two documented fields: our stable code, and the field at fault.
    let details = json!({"error_code": row.code, "param": error.param});
    json!({
        "type": "error",
        "error": {"type": kind(error), "message": error.message, "details": details},
        "request_id": request_id,
    })
}

/// As in the table, but for the two that this API has statuses of its own for.
pub fn status_of(code: Code) -> u16 {
    match code.row() {
        row if row.code == "server_is_overloaded" => 529,
        row if row.kind == "insufficient_quota" => 402,
        row => row.status,
    }
}

fn kind(error: &ApiError) -> &'static str {
    match status_of(error.code) {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    #[test]
    fn paths() {
        for (path, ours) in [
            ("/v1/messages", true),
            ("/v1/messages/count_tokens", true),
            ("/v1/messages/", true),
            ("/v1/messagesx", false),
            ("/v1/chat/completions", false),
        ] {
            assert_eq!(speaks(path), ours, "{path}");
        }
    }

    #[test]
    fn every_code_has_a_kind_of_this_api() {
        let known = [
            "invalid_request_error",
            "authentication_error",
            "billing_error",
            "permission_error",
            "not_found_error",
            "request_too_large",
            "rate_limit_error",
            "timeout_error",
            "api_error",
            "overloaded_error",
        ];
        for code in Code::ALL {
            let error = ApiError::new(*code, "x");
            assert!(known.contains(&kind(&error)), "{code:?}");
            let response = dress(error.into_response(), "req_1");
            assert!(response.status().is_client_error() || response.status().is_server_error());
            assert_eq!(response.headers()["request-id"], "req_1");
        }
        assert_eq!(kind(&ApiError::new(Code::InsufficientQuota, "x")), "billing_error");
        assert_eq!(status_of(Code::Overloaded), 529);
    }

    #[test]
    fn answers_only_get_the_id() {
        let response = dress(Response::new(Body::from("{}")), "req_2");
        assert_eq!(
            (response.status().as_u16(), &response.headers()["request-id"]),
            (200, &"req_2".parse().unwrap())
        );
    }
}
