//! Errors of lower modules as refusals.

use std::time::Duration;

use engine::SubmitError;
use serde_json::json;

use super::{ApiError, Code};
use crate::accounts::{AccountsError, AuthError};
use crate::batches::BatchError;
use crate::civil;
use crate::files::FileError;
use crate::guard::{Refusal, Unjudged};
use crate::ledger::{BudgetShortage, CreditShortage, HoldError, LedgerError};
use crate::limits::{LimitError, LimitKind};
use crate::money::Picos;
use crate::responses::StoreError;
use crate::serving::{AdmitError, Cause, Expected, PriceError, TierError, tier_names};

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Missing => Self::new(
                Code::InvalidApiKey,
                "You didn't provide an API key. Send it as 'Authorization: Bearer YOUR_KEY'.",
            ),
            AuthError::Malformed | AuthError::Unknown => Self::new(
                Code::InvalidApiKey,
                "Incorrect API key provided. Create one with 'spillway keys create'.",
            ),
            AuthError::Revoked => {
                Self::new(Code::InvalidApiKey, "This API key was revoked. Use another one.")
            }
            AuthError::Expired => Self::new(Code::KeyExpired, "This API key has expired. Use another one."),
            AuthError::Address => Self::new(
                Code::IpNotAuthorized,
                "This API key does not work from your address. Use one of the addresses that it was made for.",
            ),
            AuthError::ProjectArchived => Self::new(
                Code::ProjectArchived,
                "The project of this API key is archived. Use a key of another one.",
            ),
            AuthError::OrgDisabled => {
                Self::new(Code::OrganisationDisabled, "The organization of this API key is disabled.")
            }
            AuthError::Unavailable => Self::new(
                Code::LedgerUnavailable,
                "Accounts cannot be read at the moment. Nothing was charged. Try again shortly.",
            )
            .retry_after_ms(1_000),
        }
    }
}

impl From<AccountsError> for ApiError {
    fn from(error: AccountsError) -> Self {
        let message = format!("{}.", capitalised(&error.to_string()));
        match error {
            AccountsError::Name { .. } => Self::param(Code::InvalidValue, "name", message),
            AccountsError::Setting { what, .. } => Self::param(Code::InvalidValue, what, message),
            AccountsError::Range { .. } | AccountsError::Ambiguous { .. } => {
                Self::new(Code::InvalidValue, message)
            }
            AccountsError::NoSuchKey(_) | AccountsError::NoSuchName { .. } => {
                Self::new(Code::NotFound, message)
            }
            AccountsError::Exists { .. } => Self::new(Code::AlreadyExists, message),
            other => server_error(&other.to_string()),
        }
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

impl From<LimitError> for ApiError {
    fn from(error: LimitError) -> Self {
        let code = match error.kind {
            LimitKind::Tokens => Code::RateTokens,
            LimitKind::Requests | LimitKind::Concurrency => Code::RateRequests,
        };
        let LimitError { scope, kind, limit, used, reserved, requested, admitted_now, reset_ms, .. } = error;
        let what = format!(
            "Rate limit reached for this {scope}: limit {limit} {kind}, used {used}, requested {requested}."
        );
        let refused = match error.retry_after_ms {
            Some(ms) => Self::new(code, format!("{what} Try again in {ms} ms.")).retry_after_ms(ms),
            None => Self::new(code, format!("{what} The request can never fit; make it smaller.")),
        };
        refused.details(json!({
            "scope": scope.to_string(), "kind": kind.as_str(), "limit": limit, "used": used, "reserved": reserved,
            "requested": requested, "admitted_now": admitted_now, "reset_ms": reset_ms,
            "retry_after_ms": error.retry_after_ms,
        }))
    }
}

impl ApiError {
    /// A text in the field `param` that the operator's content rules refuse.
    pub fn of_content(refusal: Refusal, param: &str) -> Self {
        match refusal {
            Refusal::Forbidden(rule) => {
                let message =
                    format!("The text breaks this server's content rule '{rule}'. Nothing was charged.");
                Self::param(Code::ContentPolicy, param, message)
            }
            Refusal::Unjudged(error) => unjudged(&error),
        }
    }
}

fn unjudged(error: &Unjudged) -> ApiError {
    tracing::error!(%error, "a text is refused without a judgement");
    let message =
        "Texts cannot be checked at the moment. Try again shortly; what you did not get is not charged.";
    ApiError::new(Code::GuardUnavailable, message).retry_after_ms(1_000)
}

impl From<TierError> for ApiError {
    fn from(error: TierError) -> Self {
        let (wanted, allowed) = (error.wanted.name(), tier_names(&error.allowed));
        let message =
            format!("The service tier '{wanted}' is not enabled for this project. Enabled are: {allowed}.");
        Self::param(Code::UnsupportedValue, "service_tier", message)
    }
}

impl From<HoldError> for ApiError {
    fn from(error: HoldError) -> Self {
        match error {
            HoldError::Budget(short) => budget(&short),
            HoldError::Credit(short) => credit(&short),
            other => ledger_unavailable(&other.to_string()),
        }
    }
}

fn budget(short: &BudgetShortage) -> ApiError {
    let BudgetShortage { scope, id, period, limit, spent, held, requested, resets_ms } = short;
    let resets = resets_ms.map(civil::format_ms);
    let per = if resets.is_some() { format!(" per {period}") } else { String::new() };
    let again = resets.as_ref().map(|at| format!(" It starts anew at {at}.")).unwrap_or_default();
    let message = format!(
        "The budget of this {scope} is used up: {limit} USD{per}, of which {spent} are spent and {held} held by requests \
         in flight; this request needs {requested}.{again}"
    );
    ApiError::new(Code::InsufficientQuota, message).details(json!({
        "scope": scope.as_str(), "id": id, "period": period.as_str(), "limit_usd": limit.to_usd(),
        "spent_usd": spent.to_usd(), "held_usd": held.to_usd(), "requested_usd": requested.to_usd(),
        "admitted_now_usd": left(limit.checked_sub(*spent), *held), "resets_at": resets,
    }))
}

fn credit(short: &CreditShortage) -> ApiError {
    let CreditShortage { balance, line, held, requested } = short;
    let message = format!(
        "The balance of this organization is used up: {balance} USD with a credit line of {line}, of which {held} are held \
         by requests in flight; this request needs {requested}. Add credit to go on."
    );
    ApiError::new(Code::CreditExhausted, message).details(json!({
        "scope": "organisation", "balance_usd": balance.to_usd(), "credit_line_usd": line.to_usd(),
        "held_usd": held.to_usd(), "requested_usd": requested.to_usd(),
        "admitted_now_usd": left(balance.checked_add(*line), *held),
    }))
}

/// What a smaller request could hold at this moment.
fn left(all: Option<Picos>, held: Picos) -> String {
    all.and_then(|all| all.checked_sub(held)).unwrap_or_default().max(Picos::ZERO).to_usd()
}

impl From<LedgerError> for ApiError {
    fn from(error: LedgerError) -> Self {
        ledger_unavailable(&error.to_string())
    }
}

fn ledger_unavailable(reason: &str) -> ApiError {
    tracing::error!(reason, "ledger unavailable");
    let message = "Usage cannot be recorded at the moment, so nothing is served. Nothing was charged. Try again shortly.";
    ApiError::new(Code::LedgerUnavailable, message).retry_after_ms(1_000)
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        server_error(&error.to_string())
    }
}

impl From<BatchError> for ApiError {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Full { whose, unfinished, limit } => Self::new(
                Code::BatchesFull,
                format!(
                    "{unfinished} batches of {whose} are not finished, the limit is {limit}. Wait for one to end."
                ),
            ),
            other => server_error(&other.to_string()),
        }
    }
}

impl From<FileError> for ApiError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Full { .. } => {
                let message = format!("The file cannot be kept: {error}. Delete files that you do not need.");
                Self::param(Code::StorageFull, "file", message)
            }
            other => server_error(&other.to_string()),
        }
    }
}

fn server_error(reason: &str) -> ApiError {
    tracing::error!(reason, "request failed");
    let message =
        "The server had an error while processing the request. Nothing was charged. Try again shortly.";
    ApiError::new(Code::ServerError, message).retry_after_ms(1_000)
}

fn shutting_down() -> ApiError {
    ApiError::new(Code::ShuttingDown, "The server is shutting down. Try again shortly.").retry_after_ms(1_000)
}

impl From<AdmitError> for ApiError {
    fn from(error: AdmitError) -> Self {
        match error {
            AdmitError::Limit(error) => error.into(),
            AdmitError::Tier(error) => error.into(),
            AdmitError::Lease { id, tokens_per_second, limit } => leased(&id, tokens_per_second, &limit),
            AdmitError::Hold(error) => error.into(),
            AdmitError::Ledger(error) => error.into(),
            AdmitError::ContextLength { prompt, context, exact, field } => {
                let about = if exact { "" } else { "at least " };
                let message = format!(
                    "This model's maximum context length is {context} tokens. However, your prompt has {about}{prompt} \
                     tokens and leaves no room for an answer. Please shorten it."
                );
                Self::param(Code::ContextLength, field, message)
            }
            AdmitError::EmptyPrompt => Self::param(
                Code::EmptyPrompt,
                "prompt",
                "Invalid 'prompt': a prompt must have at least one token.",
            ),
            AdmitError::UnknownToken { token, vocab } => Self::param(
                Code::InvalidValue,
                "prompt",
                format!("Invalid 'prompt': token {token} is not in the vocabulary of {vocab} tokens."),
            ),
            AdmitError::Conversation(reason) => Self::param(
                Code::InvalidValue,
                "messages",
                format!("The model cannot take these messages: {reason}."),
            ),
            AdmitError::Grammar(error) => {
                Self::new(Code::InvalidSchema, format!("The schema or grammar cannot be used: {error}."))
            }
            AdmitError::Deadline { wanted, expected } => too_soon(wanted, expected),
            AdmitError::Price(error) => too_cheap(&error),
            AdmitError::NoPrice(model) => server_error(&format!("no price is in force for model {model}")),
            AdmitError::Money(error) => server_error(&error.to_string()),
            AdmitError::Submit { source, retry_after_ms } => submit(source, retry_after_ms),
            AdmitError::QueueTimeout { waited_s, retry_after_ms } => Self::new(
                Code::Overloaded,
                format!("The server is busy: no place became free within {waited_s} s. Nothing was charged."),
            )
            .retry_after_ms(retry_after_ms),
            AdmitError::Cut(cause) => cause.into(),
            AdmitError::Draining => shutting_down(),
            AdmitError::Internal(reason) => server_error(&reason),
        }
    }
}

/// A deadline that cannot be kept. The next quarter of a second is told, so that asking for it is not asking too little.
fn too_soon(wanted: Duration, expected: Expected) -> ApiError {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let possible = (ms(expected.total()) / 250 + 2) * 250;
    let seconds = possible as f64 / 1e3;
    let message = format!(
        "The answer cannot be there within {} ms: it would take about {} ms. Nothing was charged. Ask with a 'deadline' of \
         {seconds} s or more, for fewer tokens, or in a higher service tier.",
        ms(wanted),
        ms(expected.total()),
    );
    ApiError::param(Code::DeadlineTooSoon, "deadline", message).details(json!({
        "deadline_ms": ms(wanted), "expected_wait_ms": expected.wait_ms, "expected_run_ms": expected.run_ms,
        "accepted_deadline": seconds,
    }))
}

fn too_cheap(error: &PriceError) -> ApiError {
    let PriceError { offered, needed, tokens } = error;
    let message = format!(
        "The request may cost {needed} USD, which is more than its 'max_price' of {offered}. Offer that much, or ask for at \
         most {tokens} output tokens a choice."
    );
    ApiError::param(Code::PriceTooLow, "max_price", message).details(json!({
        "max_price_usd": offered.to_usd(), "accepted_max_price_usd": needed.to_usd(), "accepted_max_tokens": tokens,
    }))
}

/// The guaranteed rate of a lease that does not overflow.
fn leased(id: &str, tokens_per_second: u32, limit: &LimitError) -> ApiError {
    let LimitError { used, reserved, requested, admitted_now, reset_ms, retry_after_ms, .. } = *limit;
    let what = format!(
        "The lease '{id}' guarantees {tokens_per_second} tokens per second, as many as a minute's at once: {used} of \
         {} are used, this request weighs {requested}.",
        limit.limit
    );
    let refused = match retry_after_ms {
        Some(ms) => {
            ApiError::new(Code::LeaseRate, format!("{what} Try again in {ms} ms, or use the tier 'default'."))
                .retry_after_ms(ms)
        }
        None => {
            let advice = "It can never fit; make it smaller, or use the tier 'default'.";
            ApiError::new(Code::LeaseRate, format!("{what} {advice}"))
        }
    };
    refused.details(json!({
        "scope": limit.scope.to_string(), "kind": limit.kind.as_str(), "limit": limit.limit, "used": used,
        "reserved": reserved, "requested": requested, "admitted_now": admitted_now, "reset_ms": reset_ms,
        "retry_after_ms": retry_after_ms, "lease": id, "tokens_per_second": tokens_per_second,
    }))
}

fn submit(error: SubmitError, retry_after_ms: u64) -> ApiError {
    match error {
        SubmitError::Full { .. } => ApiError::new(
            Code::Overloaded,
            "The server is busy and its queue is full. Nothing was charged. Try again shortly.",
        )
        .retry_after_ms(retry_after_ms),
        SubmitError::Draining => shutting_down(),
        SubmitError::Unhealthy => server_error("the engine is unhealthy"),
        SubmitError::TooManyBlocks { .. } => ApiError::param(
            Code::ContextLength,
            "max_tokens",
            "Prompt and answer together need more cache than this server has. Ask for fewer tokens.",
        ),
        other => ApiError::new(Code::InvalidValue, format!("The request cannot be served: {other}.")),
    }
}

impl From<Cause> for ApiError {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Deadline => Self::new(
                Code::RequestTimeout,
                "The request was not finished within the server's deadline. Ask for fewer tokens or try again.",
            )
            .retry_after_ms(1_000),
            Cause::Late => Self::param(
                Code::DeadlineMissed,
                "deadline",
                "The answer was not finished within the request's deadline. What was charged for it is given back.",
            ),
            Cause::Shutdown => shutting_down(),
            Cause::Budget(error) => error.into(),
            Cause::Ledger(reason) => ledger_unavailable(&reason),
            Cause::Engine(reason) => server_error(&reason),
            Cause::Unjudged(error) => unjudged(&error),
        }
    }
}
