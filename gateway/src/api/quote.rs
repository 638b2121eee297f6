//! `POST /v1/capacity/quote`: what a request would cost and how long it would take.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Shared;
use super::auth::Caller;
use super::body::Asked;
use super::error::{ApiError, ApiResult};
use super::fields::Fields;
use super::json;
use super::openai::params::{self, MAX_MODEL_BYTES};
use crate::serving::{Quote, Size, unix_ms};

/// What a request of this size could expect if it came now, and whether its `deadline` and `max_price` would be met. It
/// takes no place, holds no money and promises nothing.
#[utoipa::path(
    post,
    path = "/v1/capacity/quote",
    operation_id = "quoteRequest",
    tag = "models",
    request_body = crate::api::openapi::capacity::QuoteRequest,
    responses((status = 200, description = "What to expect.", body = crate::api::openapi::capacity::QuoteObject)),
)]
pub async fn create(State(api): State<Shared>, caller: Caller, Asked(body): Asked) -> ApiResult<Json<Value>> {
    let asked = Wanted::read(body, api.limits.max_n)?;
    let engine = api.engine_of(&caller.identity, &asked.model)?;
    let tier = caller.tier(&api, asked.tier)?;
    let quote = api.serving.quote(engine, &caller.identity.key_id, tier, asked.size, asked.demand)?;
    let Quote { price, max_tokens, at_most, likely, expected, refusal } = quote;
    Ok(Json(json!({
        "object": "capacity.quote", "created": unix_ms() / 1_000, "model": engine.card().id,
        "service_tier": tier.name(), "input_tokens": asked.size.prompt, "n": asked.size.n, "max_tokens": max_tokens,
        "admitted": refusal.is_none(), "expected_wait_ms": expected.wait_ms, "expected_run_ms": expected.run_ms,
        "price_version": price.id, "max_price_usd": at_most.to_usd(), "expected_price_usd": likely.to_usd(),
        "refusal": refusal.map(|error| ApiError::from(error).body()["error"].take()),
    })))
}

#[derive(Debug)]
struct Wanted {
    model: String,
    tier: Option<engine::Tier>,
    size: Size,
    demand: crate::serving::Demand,
}

impl Wanted {
    fn read(body: json::Json, max_n: u32) -> ApiResult<Self> {
        let mut fields = Fields::root(body)?;
        let model = fields.string("model", MAX_MODEL_BYTES)?;
        let model = fields.required("model", model)?;
        let prompt = fields.count("input_tokens", 1, u32::MAX)?;
        let prompt = fields.required("input_tokens", prompt)?;
        let max_tokens = params::max_tokens(&mut fields, "max_tokens")?;
        let n = fields.count("n", 1, max_n)?.unwrap_or(1);
        let (tier, demand) = (params::service_tier(&mut fields)?, params::demand(&mut fields)?);
        fields.finish(&[])?;
        Ok(Self { model, tier, size: Size { prompt, n, max_tokens }, demand })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::openapi::testing::assert_documented;

    #[test]
    fn requests_are_read_as_documented() {
        let body =
            br#"{"model":"m","input_tokens":7,"max_tokens":9,"n":2,"service_tier":"flex","deadline":2.5,
            "max_price":"0.01"}"#;
        assert_documented("QuoteRequest", || {
            let asked = Wanted::read(json::parse(body, 8).unwrap(), 8).unwrap();
            assert_eq!(asked.size, Size { prompt: 7, n: 2, max_tokens: Some(9) });
            assert_eq!(asked.demand.max_price.map(|price| price.to_usd()).as_deref(), Some("0.01"));
        });
    }
}
