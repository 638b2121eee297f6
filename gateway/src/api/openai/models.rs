//! `GET /v1/models` and `GET /v1/models/{id}`.

use axum::Json;
use axum::extract::{Path, State};
use engine::Engine;

use super::wire::{Model, ModelList};
use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::error::ApiResult;

/// All models that the caller may use.
pub async fn list(State(api): State<Shared>, _caller: Caller) -> Json<ModelList> {
    Json(ModelList { object: "list", data: vec![model(&api.engine, api.created)] })
}

/// One model.
pub async fn retrieve(
    State(api): State<Shared>,
    _caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Model>> {
    Ok(Json(model(api.engine_of(&id)?, api.created)))
}

fn model(engine: &Engine, created: u64) -> Model {
    let card = engine.card();
    Model {
        id: card.id.clone(),
        object: "model",
        created,
        owned_by: card.owned_by.clone(),
        context_length: engine.context_len(),
    }
}
