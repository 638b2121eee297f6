//! The response object.

use engine::{Engine, Tier};
use serde_json::{Value, json};

use super::items::Item;
use crate::api::error::ApiError;
use crate::api::generation::Ending;
use crate::money::Tokens;
use crate::serving::{Receipt, unix_ms};

/// How an answer ended.
pub(super) enum End<'a> {
    /// By itself.
    Of(&'a Ending, &'a Receipt),
    /// A client wanted no more.
    Cancelled(&'a Receipt),
    /// It broke off.
    Failed(&'a ApiError),
}

/// The object while nothing is said yet; `repeated` are fields of the request.
pub(super) fn begin(
    id: &str,
    engine: &Engine,
    tier: Tier,
    repeated: Value,
    sampling: (f32, f32),
    store: bool,
) -> Value {
    let mut object = json!({
        "id": id, "object": "response", "created_at": unix_ms() / 1_000, "completed_at": null, "status": "in_progress",
        "error": null, "incomplete_details": null, "model": engine.card().id, "output": [], "usage": null,
        "temperature": number(sampling.0), "top_p": number(sampling.1), "service_tier": tier.name(), "store": store,
    });
    if let (Some(object), Value::Object(repeated)) = (object.as_object_mut(), repeated) {
        object.extend(repeated);
    }
    object
}

/// With the digits that the client wrote, not those of the next double.
pub(super) fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().unwrap_or_default().into()
}

/// The object at its end.
pub(super) fn end(begun: &Value, items: &[Item], end: &End<'_>) -> Value {
    let mut object = begun.clone();
    object["output"] = json!(items);
    object["completed_at"] = (unix_ms() / 1_000).into();
    object["status"] = match end {
        End::Of(Ending::Length | Ending::ContentFilter, _) => "incomplete",
        End::Of(..) => "completed",
        End::Cancelled(_) => "cancelled",
        End::Failed(_) => "failed",
    }
    .into();
    match end {
        End::Of(ending, receipt) => {
            let reason = match ending {
                Ending::Length => Some("max_output_tokens"),
                Ending::ContentFilter => Some("content_filter"),
                Ending::Stop(_) | Ending::ToolCalls => None,
            };
            if let Some(reason) = reason {
                object["incomplete_details"] = json!({"reason": reason});
                object["completed_at"] = Value::Null;
            }
            object["usage"] = usage(receipt);
        }
        End::Cancelled(receipt) => object["usage"] = usage(receipt),
        End::Failed(error) => object["error"] = failure(error),
    }
    object
}

pub(super) fn usage(receipt: &Receipt) -> Value {
    let Tokens { uncached_input, cached_input, output } = receipt.tokens;
    let input = uncached_input + cached_input;
    json!({
        "input_tokens": input,
        "input_tokens_details": {"cached_tokens": cached_input, "cache_write_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input + output,
        // Extension: the settled amount, a decimal string.
        "cost_usd": receipt.cost.to_usd(),
    })
}

/// The codes inside a response are a short list of their own.
fn failure(error: &ApiError) -> Value {
    let code = match error.code.row().status {
        429 => "rate_limit_exceeded",
        400..500 if error.code.row().status != 408 => "invalid_prompt",
        _ => "server_error",
    };
    json!({"code": code, "message": error.message})
}
