//! `GET /v1/models` and `GET /v1/models/{id}`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};

use super::wire::{Capacity, Model, ModelList, Prices};
use crate::api::auth::Caller;
use crate::api::error::ApiResult;
use crate::api::{Shared, rerank};
use crate::money::RateCard;
use crate::registry::Served;
use crate::serving::unix_ms;

/// Sampling and output fields that generating models honour.
const GENERATING: &[&str] = &[
    "frequency_penalty",
    "ignore_eos",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "min_p",
    "min_tokens",
    "n",
    "parallel_tool_calls",
    "presence_penalty",
    "repetition_penalty",
    "response_format",
    "seed",
    "service_tier",
    "stop",
    "stop_token_ids",
    "stream",
    "stream_options",
    "structured_outputs",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
];

/// All models that the caller may use.
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "listModels",
    tag = "models",
    responses((status = 200, description = "The models.", body = ModelList)),
)]
pub async fn list(State(api): State<Shared>, caller: Caller) -> Json<ModelList> {
    let usable = api.models.iter().filter(|served| caller.identity.may_use(&served.card().id));
    Json(ModelList { object: "list", data: usable.map(|served| model(&api, served)).collect() })
}

/// One model.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    operation_id = "getModel",
    tag = "models",
    params(("id" = String, Path, description = "Its name; slashes may stand as they are.")),
    responses((status = 200, description = "The model.", body = Model)),
)]
pub async fn retrieve(
    State(api): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Model>> {
    Ok(Json(model(&api, api.served(&caller.identity, &id)?)))
}

fn model(api: &Shared, served: &Served) -> Model {
    let card = served.card();
    let pricing = prices(&api.serving.rates.card(), &card.id, unix_ms());
    let (context_length, max_output_tokens, capacity, supported): (_, _, _, &[&str]) = match served {
        Served::Engine(engine) => {
            let capacity = Capacity {
                max_concurrent: Some(engine.config().max_num_seqs),
                running: engine.stats().running,
            };
            (engine.context_len(), Some(engine.context_len() - 1), capacity, GENERATING)
        }
        Served::Embedder(embedder) => {
            let capacity = Capacity { max_concurrent: None, running: embedder.stats().running };
            (embedder.max_tokens(), None, capacity, &["dimensions", "encoding_format", "user"])
        }
    };
    let (dimensions, rerank_method) = match served {
        Served::Engine(_) => (None, None),
        Served::Embedder(embedder) => {
            let makes_vectors = card.embedding.is_some();
            (makes_vectors.then(|| embedder.width()), Some(rerank::method(card.kind)))
        }
    };
    Model {
        id: card.id.clone(),
        object: "model",
        created: api.created,
        owned_by: card.owned_by.clone(),
        name: card.name.clone(),
        kind: card.kind.as_str(),
        context_length,
        max_output_tokens,
        dimensions,
        rerank_method,
        supported_parameters: supported.to_vec(),
        tiers: pricing.keys().cloned().collect(),
        pricing,
        capacity,
    }
}

/// What is in force at `now_ms`, by tier.
fn prices(rates: &RateCard, model: &str, now_ms: u64) -> BTreeMap<String, Prices> {
    let tiers = rates.versions().iter().filter(|version| version.model == model).map(|version| &version.tier);
    let price = |tier: &String| {
        let version = rates.at(model, tier, now_ms)?;
        let prices = Prices {
            unit: "USD per 1M tokens",
            uncached_input: version.uncached_input.to_usd_per_million(),
            cached_input: version.cached_input.to_usd_per_million(),
            output: version.output.to_usd_per_million(),
        };
        Some((tier.clone(), prices))
    };
    tiers.filter_map(price).collect()
}
