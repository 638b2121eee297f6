//! The one error table: every refusal's status, type, code and retry advice.
//!
//! Lower modules have their own error enums; [`from`](self::from) maps each of them to a [`Code`] and a sentence.

mod from;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};

/// What a client may do with a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request fails again; SDKs know it from the status.
    No,
    /// Trying again later may succeed.
    Later,
    /// SDKs would retry this status by themselves and must not.
    Never,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// HTTP status.
    pub status: u16,
    /// `error.type`.
    pub kind: &'static str,
    /// `error.code`.
    pub code: &'static str,
    /// Retry advice.
    pub retry: Retry,
}

macro_rules! table {
    ($($(#[$doc:meta])* $name:ident => $status:literal $kind:literal $code:literal $retry:ident;)*) => {
        /// Every reason for which a request is refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// All rows, for tests and documentation.
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            /// This reason's row.
            pub const fn row(self) -> Row {
                match self { $(Code::$name => Row { status: $status, kind: $kind, code: $code, retry: Retry::$retry },)* }
            }
        }
    };
}

table! {
    /// The body is not JSON.
    InvalidJson => 400 "invalid_request_error" "invalid_json" No;
    /// The body broke off or its framing is wrong.
    InvalidBody => 400 "invalid_request_error" "invalid_body" No;
    /// Too much nesting.
    JsonTooDeep => 400 "invalid_request_error" "json_too_deep" No;
    /// A key occurs twice.
    DuplicateField => 400 "invalid_request_error" "duplicate_field" No;
    /// A value of the wrong JSON type.
    InvalidType => 400 "invalid_request_error" "invalid_type" No;
    /// A value that this field cannot take.
    InvalidValue => 400 "invalid_request_error" "invalid_value" No;
    /// A required field is absent.
    MissingParameter => 400 "invalid_request_error" "missing_required_parameter" No;
    /// A field that does not exist.
    UnknownParameter => 400 "invalid_request_error" "unknown_parameter" No;
    /// A field of the API that this server does not offer.
    UnsupportedParameter => 400 "invalid_request_error" "unsupported_parameter" No;
    /// A value of the API that this server does not offer.
    UnsupportedValue => 400 "invalid_request_error" "unsupported_value" No;
    /// Images, audio, files.
    UnsupportedContent => 400 "invalid_request_error" "unsupported_content" No;
    /// A schema or grammar that is malformed, too large or cannot be enforced.
    InvalidSchema => 400 "invalid_request_error" "invalid_schema" No;
    /// Two fields that exclude each other.
    ConflictingParameters => 400 "invalid_request_error" "conflicting_parameters" No;
    /// An integer below its range.
    IntegerBelowMin => 400 "invalid_request_error" "integer_below_min_value" No;
    /// An integer above its range.
    IntegerAboveMax => 400 "invalid_request_error" "integer_above_max_value" No;
    /// A number below its range.
    DecimalBelowMin => 400 "invalid_request_error" "decimal_below_min_value" No;
    /// A number above its range.
    DecimalAboveMax => 400 "invalid_request_error" "decimal_above_max_value" No;
    /// An array with too many items.
    ArrayTooLong => 400 "invalid_request_error" "array_above_max_length" No;
    /// An array without items.
    EmptyArray => 400 "invalid_request_error" "empty_array" No;
    /// A string with too many characters.
    StringTooLong => 400 "invalid_request_error" "string_above_max_length" No;
    /// A string without characters where one is needed.
    EmptyString => 400 "invalid_request_error" "empty_string" No;
    /// An object with too many entries.
    ObjectTooLarge => 400 "invalid_request_error" "object_above_max_properties" No;
    /// A prompt that breaks one of the operator's content rules.
    ContentPolicy => 400 "invalid_request_error" "content_policy_violation" No;
    /// The request may cost more than it carries as `max_price`.
    PriceTooLow => 400 "invalid_request_error" "max_price_too_low" No;
    /// A prompt without tokens.
    EmptyPrompt => 400 "invalid_request_error" "empty_prompt" No;
    /// More tokens than the model takes.
    ContextLength => 400 "invalid_request_error" "context_length_exceeded" No;
    /// The answer to go on from is not stored.
    PreviousResponseNotFound => 400 "invalid_request_error" "previous_response_not_found" No;
    /// A header or request line that HTTP forbids.
    InvalidRequest => 400 "invalid_request_error" "invalid_request" No;
    /// No key, an unknown key, a revoked key.
    InvalidApiKey => 401 "invalid_request_error" "invalid_api_key" No;
    /// The key's time is over.
    KeyExpired => 401 "invalid_request_error" "key_expired" No;
    /// The key does not work from this address.
    IpNotAuthorized => 401 "invalid_request_error" "ip_not_authorized" No;
    /// The key may not be used for this route.
    InsufficientPermissions => 403 "permission_error" "insufficient_permissions" No;
    /// The project is archived.
    ProjectArchived => 403 "permission_error" "project_archived" No;
    /// The organisation is switched off.
    OrganisationDisabled => 403 "permission_error" "organization_disabled" No;
    /// The model does not exist for this caller.
    ModelNotFound => 404 "invalid_request_error" "model_not_found" No;
    /// No stored answer of this id for this caller.
    ResponseNotFound => 404 "invalid_request_error" "response_not_found" No;
    /// No file of this id for this caller.
    FileNotFound => 404 "invalid_request_error" "file_not_found" No;
    /// No batch of this id for this caller.
    BatchNotFound => 404 "invalid_request_error" "batch_not_found" No;
    /// No lease of this id for this caller.
    LeaseNotFound => 404 "invalid_request_error" "lease_not_found" No;
    /// Nothing is leased here.
    LeasesNotOffered => 404 "invalid_request_error" "leases_not_offered" No;
    /// No receipt of this caller under this id.
    ReceiptNotFound => 404 "invalid_request_error" "receipt_not_found" No;
    /// Nothing of this id.
    NotFound => 404 "invalid_request_error" "not_found" No;
    /// No such route.
    UnknownUrl => 404 "invalid_request_error" "unknown_url" No;
    /// The route exists with other methods.
    MethodNotAllowed => 405 "invalid_request_error" "method_not_allowed" No;
    /// The request or its answer took too long.
    RequestTimeout => 408 "timeout" "request_timeout" Later;
    /// The deadline that the request carries passed.
    DeadlineMissed => 408 "timeout" "deadline_missed" Never;
    /// What the key stands for was billed, and its answer is not there.
    IdempotencyAnswerGone => 409 "invalid_request_error" "idempotency_answer_gone" Never;
    /// The name is taken.
    AlreadyExists => 409 "invalid_request_error" "already_exists" Never;
    /// The batch has ended, or is about to.
    BatchEnded => 409 "invalid_request_error" "batch_not_cancellable" Never;
    /// The lease is over, or cannot end earlier.
    LeaseNotEndable => 409 "invalid_request_error" "lease_not_endable" Never;
    /// The units are leased to others.
    CapacityNotFree => 409 "invalid_request_error" "capacity_not_free" Never;
    /// The body is larger than the limit.
    RequestTooLarge => 413 "invalid_request_error" "request_too_large" No;
    /// No room for more files.
    StorageFull => 413 "invalid_request_error" "storage_limit_exceeded" No;
    /// The request line is longer than the limit.
    UriTooLong => 414 "invalid_request_error" "uri_too_long" No;
    /// The body is not `application/json`.
    UnsupportedMediaType => 415 "invalid_request_error" "unsupported_media_type" No;
    /// The body is compressed.
    UnsupportedEncoding => 415 "invalid_request_error" "unsupported_encoding" No;
    /// An expectation other than `100-continue`.
    ExpectationFailed => 417 "invalid_request_error" "expectation_failed" No;
    /// The route speaks WebSocket alone.
    UpgradeRequired => 426 "invalid_request_error" "upgrade_required" No;
    /// A connection that is as old as connections get.
    SocketTooOld => 400 "invalid_request_error" "websocket_connection_limit_reached" No;
    /// The key stands for another request.
    IdempotencyKeyReuse => 422 "invalid_request_error" "idempotency_key_reuse" No;
    /// Requests per minute or concurrency.
    RateRequests => 429 "requests" "rate_limit_exceeded" Later;
    /// Tokens per minute.
    RateTokens => 429 "tokens" "rate_limit_exceeded" Later;
    /// Too many batches are not finished.
    BatchesFull => 429 "requests" "batch_limit_exceeded" Never;
    /// Too many leases are not over.
    LeasesFull => 429 "requests" "lease_limit_exceeded" Never;
    /// The guaranteed rate of a lease.
    LeaseRate => 429 "tokens" "lease_rate_exceeded" Later;
    /// The deadline that the request carries cannot be kept.
    DeadlineTooSoon => 429 "resource_unavailable" "deadline_not_feasible" Never;
    /// Nothing is left for those who can wait.
    NoSurplus => 429 "resource_unavailable" "flex_capacity_unavailable" Later;
    /// A budget is used up.
    InsufficientQuota => 429 "insufficient_quota" "insufficient_quota" Never;
    /// The organisation has no credit left.
    CreditExhausted => 429 "insufficient_quota" "credit_balance_exhausted" Never;
    /// Header fields larger or more than the limit.
    HeadersTooLarge => 431 "invalid_request_error" "request_headers_too_large" No;
    /// A fault of ours.
    ServerError => 500 "server_error" "server_error" Later;
    /// Queues are full.
    Overloaded => 503 "service_unavailable_error" "server_is_overloaded" Later;
    /// The server is going down.
    ShuttingDown => 503 "service_unavailable_error" "server_shutting_down" Later;
    /// The operator's content hook does not answer, and what it does not allow is refused.
    GuardUnavailable => 503 "service_unavailable_error" "content_hook_unavailable" Later;
    /// Nothing is served that cannot be metered.
    LedgerUnavailable => 503 "service_unavailable_error" "ledger_unavailable" Later;
}

/// A refusal on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The table's row.
    pub code: Code,
    /// A sentence that says what to do next.
    pub message: String,
    /// The field at fault.
    pub param: Option<String>,
    /// When to come back, for rows with [`Retry::Later`].
    pub retry_after_ms: Option<u64>,
    /// `Allow` of a 405.
    pub allow: Option<&'static str>,
    /// The figures of the message for programs, as `error.details`.
    pub details: Option<Box<Value>>,
}

/// Answer of a handler that may refuse.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// A refusal without a field at fault.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None, retry_after_ms: None, allow: None, details: None }
    }

    /// A refusal of the field `param`.
    pub fn param(code: Code, param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(code, message) }
    }

    /// The same refusal where the field at fault has another name; `names` are pairs of ours and the surface's own.
    pub fn renamed(mut self, names: &[(&str, &str)]) -> Self {
        let Some(param) = &mut self.param else { return self };
        if let Some((ours, own)) = names.iter().find(|(ours, _)| ours == param) {
            self.message = self.message.replace(&format!("'{ours}'"), &format!("'{own}'"));
            *param = (*own).to_owned();
        }
        self
    }

    /// The same refusal with the time after which a retry makes sense.
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// The same refusal of a request of `tier`: for the tiers that live on surplus a full server is no fault.
    pub fn of_tier(mut self, tier: engine::Tier) -> Self {
        if self.code == Code::Overloaded && tier >= engine::Tier::Flex {
            self.code = Code::NoSurplus;
            self.message.push_str(" The tier 'default' may have room.");
        }
        self
    }

    /// The same refusal with its figures for programs.
    pub fn details(mut self, details: Value) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// The object that clients parse, also inside a stream.
    pub fn body(&self) -> Value {
        let row = self.code.row();
        let mut error =
            json!({"message": self.message, "type": row.kind, "param": self.param, "code": row.code});
        if let Some(details) = &self.details {
            error["details"] = Value::clone(details);
        }
        json!({"error": error})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        let row = self.code.row();
        let mut response = Response::new(Body::from(self.body().to_string()));
        *response.status_mut() = StatusCode::from_u16(row.status).expect("the table holds valid statuses");
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if row.status == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"spillway\""));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if row.status == 426 {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        // What is left unread on the connection is of unknown length, so it cannot carry another request.
        if matches!(row.status, 408 | 413 | 414 | 431) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if row.retry == Retry::Never {
            headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
        } else if row.status == 429 && self.retry_after_ms.is_none() {
            // Larger than the limit itself: no wait helps.
            headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
        } else if let Some(ms) = self.retry_after_ms {
            // Whole seconds are rounded up: obeying either header must be enough.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
            headers.insert(HeaderName::from_static("retry-after-ms"), HeaderValue::from(ms));
        }
        // For layers: the count of refusals, and surfaces that shape errors in their own way.
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_an_error_status_with_names() {
        for code in Code::ALL {
            let row = code.row();
            assert!((400..600).contains(&row.status), "{row:?}");
            assert!(!row.kind.is_empty() && !row.code.is_empty());
            assert_eq!(row.retry != Retry::No, matches!(row.status, 408 | 409 | 429 | 500..), "{row:?}");
        }
    }

    #[test]
    fn money_is_never_retried_and_rate_says_when() {
        let money = ApiError::new(Code::InsufficientQuota, "x").retry_after_ms(5).into_response();
        assert_eq!(money.status(), 429);
        assert_eq!(money.headers()["x-should-retry"], "false");
        assert!(!money.headers().contains_key("retry-after"));
        let rate = ApiError::new(Code::RateTokens, "x").retry_after_ms(1_001).into_response();
        assert_eq!(rate.headers()["retry-after"], "2");
        assert_eq!(rate.headers()["retry-after-ms"], "1001");
        assert!(!rate.headers().contains_key("x-should-retry"));
    }

    #[test]
    fn body_has_the_four_fields() {
        let error = ApiError::param(Code::InvalidValue, "stop", "no");
        assert_eq!(
            error.body().to_string(),
            r#"{"error":{"message":"no","type":"invalid_request_error","param":"stop","code":"invalid_value"}}"#
        );
        let response = ApiError::new(Code::InvalidApiKey, "x").into_response();
        assert!(response.headers().contains_key("www-authenticate"));
    }
}
