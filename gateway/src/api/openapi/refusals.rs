//! Refusals in the document, from the one table of errors.

use std::collections::BTreeMap;

use utoipa::openapi::path::Operation;
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{PartialSchema, ToSchema};

use super::messages::MessageError;
use super::operations;
use crate::api::anthropic;
use crate::api::error::Code;

/// The status of a reason on a surface.
type StatusOf = fn(Code) -> u16;

/// A refusal.
#[derive(ToSchema)]
#[schema(as = Error)]
pub struct ErrorBody {
    /// Why.
    pub error: ErrorObject,
}

/// Why a request was refused.
#[derive(ToSchema)]
pub struct ErrorObject {
    /// A sentence that says what to do next.
    pub message: String,
    /// Kind.
    pub r#type: String,
    /// The field at fault.
    #[schema(required)]
    pub param: Option<String>,
    /// Stable name of the reason.
    pub code: String,
    /// The message's figures for programs; with 429.
    pub details: Option<ErrorDetails>,
}

/// The figures of a limit that was reached.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum ErrorDetails {
    /// A limit of requests, tokens or concurrency.
    Rate(RateDetails),
    /// A budget.
    Budget(BudgetDetails),
    /// The balance of a prepaid organisation.
    Credit(CreditDetails),
}

/// A limit of requests, tokens or concurrency.
#[derive(ToSchema)]
pub struct RateDetails {
    /// `key`, `project`, `organisation` or `lease`.
    pub scope: String,
    /// `requests_per_minute`, `tokens_per_minute` or `concurrency`.
    pub kind: String,
    /// The limit.
    pub limit: u64,
    /// What was used.
    pub used: u64,
    /// What requests in flight have reserved.
    pub reserved: u64,
    /// What this request needs.
    pub requested: u64,
    /// What would be let in at this moment.
    pub admitted_now: u64,
    /// Until all of the limit is free, milliseconds.
    pub reset_ms: u64,
    /// When to come back; null: the request can never fit.
    #[schema(required)]
    pub retry_after_ms: Option<u64>,
    /// The lease whose guaranteed rate it is.
    pub lease: Option<String>,
    /// That rate.
    pub tokens_per_second: Option<u32>,
}

/// A budget; amounts in USD as decimal strings.
#[derive(ToSchema)]
pub struct BudgetDetails {
    /// `key`, `user`, `tag`, `project` or `organisation`.
    pub scope: String,
    /// Whose, by id.
    pub id: String,
    /// `hour`, `day`, `week`, `month` or `total`.
    pub period: String,
    /// The budget.
    pub limit_usd: String,
    /// What was spent.
    pub spent_usd: String,
    /// What requests in flight hold.
    pub held_usd: String,
    /// What this request needs.
    pub requested_usd: String,
    /// What would be let in at this moment.
    pub admitted_now_usd: String,
    /// When it starts anew; null: never.
    #[schema(required)]
    pub resets_at: Option<String>,
}

/// The balance of a prepaid organisation; amounts in USD as decimal strings.
#[derive(ToSchema)]
pub struct CreditDetails {
    /// `organisation`.
    pub scope: String,
    /// The balance.
    pub balance_usd: String,
    /// How far it may fall below zero.
    pub credit_line_usd: String,
    /// What requests in flight hold.
    pub held_usd: String,
    /// What this request needs.
    pub requested_usd: String,
    /// What would be let in at this moment.
    pub admitted_now_usd: String,
}

/// Adds the refusals that each operation may answer with.
pub(super) fn add(api: &mut OpenApi) {
    let components = api.components.get_or_insert_default();
    let mut schemas =
        vec![("Error".to_owned(), ErrorBody::schema()), ("MessageError".to_owned(), MessageError::schema())];
    ErrorBody::schemas(&mut schemas);
    MessageError::schemas(&mut schemas);
    components.schemas.extend(schemas);
    let surfaces: [(&str, StatusOf, &str); 2] = [
        ("Refusal", |code| code.row().status, "Error"),
        ("MessageRefusal", anthropic::status_of, "MessageError"),
    ];
    for (prefix, status_of, schema) in surfaces {
        for (status, codes) in by_status(status_of) {
            let response = refusal(&codes, schema);
            components.responses.insert(format!("{prefix}{status}"), RefOr::T(response));
        }
    }
    for (path, item) in &mut api.paths.paths {
        let is_anthropic = anthropic::speaks(path);
        let (prefix, status_of): (_, StatusOf) = if is_anthropic {
            ("MessageRefusal", anthropic::status_of)
        } else {
            ("Refusal", |code| code.row().status)
        };
        if let Some(operation) = &mut item.post {
            // A body is read before it is looked at, where there is an `Idempotency-Key`.
            operation.responses.responses.insert("413".to_owned(), reference(prefix, 413));
        }
        for operation in operations(item) {
            let statuses: Vec<u16> =
                by_status(status_of).into_keys().filter(|status| may(operation, *status)).collect();
            for status in statuses {
                operation.responses.responses.insert(status.to_string(), reference(prefix, status));
            }
        }
    }
}

fn reference(prefix: &str, status: u16) -> RefOr<Response> {
    RefOr::Ref(Ref::from_response_name(format!("{prefix}{status}")))
}

/// Whether an operation can be refused with this status.
fn may(operation: &Operation, status: u16) -> bool {
    let needs_key = operation.security.is_none();
    match status {
        401 | 402 | 403 | 409 | 429 => needs_key,
        413 | 415 => operation.request_body.is_some(),
        426 => operation.responses.responses.contains_key("101"),
        _ => true,
    }
}

fn by_status(status_of: StatusOf) -> BTreeMap<u16, Vec<&'static str>> {
    let mut statuses = BTreeMap::<u16, Vec<&str>>::new();
    for code in Code::ALL {
        let names = statuses.entry(status_of(*code)).or_default();
        if !names.contains(&code.row().code) {
            names.push(code.row().code);
        }
    }
    statuses
}

fn refusal(codes: &[&str], schema: &str) -> Response {
    let content = Content::new(Some(Ref::from_schema_name(schema)));
    let description = format!("Refused: `{}`.", codes.join("`, `"));
    ResponseBuilder::new().description(description).content("application/json", content).build()
}
