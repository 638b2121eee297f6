//! Azure's paths: `/openai/deployments/{id}/...`, where the path names the model and wins over a `model` in the body, as it
//! does there. `api-version` is not looked at: there is one version.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Response;

use super::Shared;
use super::auth::Caller;
use super::body::Asked;
use super::error::ApiResult;
use super::json::Json;
use super::openai;

/// The body, with the path's deployment as its model.
fn of_deployment(deployment: String, mut body: Json) -> Json {
    if let Json::Object(object) = &mut body {
        object.insert("model".to_owned(), Json::String(deployment.into()));
    }
    body
}

/// Chat completions of a deployment.
#[utoipa::path(
    post,
    path = "/openai/deployments/{id}/chat/completions",
    operation_id = "azureChatCompletion",
    tag = "aliases",
    params(("id" = String, Path, description = "The model, which wins over the body's.")),
    request_body = crate::api::openapi::chat::ChatRequest,
    responses((status = 200, description = "The answer, or its chunks.", content((crate::api::openapi::chat::ChatCompletion = "application/json"), (String = "text/event-stream")))),
)]
pub async fn chat(
    State(api): State<Shared>,
    caller: Caller,
    Path(deployment): Path<String>,
    Asked(body): Asked,
) -> ApiResult<Response<Body>> {
    let body = of_deployment(deployment, body);
    let (generation, surface) = openai::chat::prepare(&api, &caller, body)?;
    generation.respond(&api, &caller, surface).await
}

/// Text completions of a deployment.
#[utoipa::path(
    post,
    path = "/openai/deployments/{id}/completions",
    operation_id = "azureCompletion",
    tag = "aliases",
    params(("id" = String, Path, description = "The model, which wins over the body's.")),
    request_body = crate::api::openapi::chat::CompletionRequest,
    responses((status = 200, description = "The continuations, or their chunks.", content((crate::api::openapi::chat::TextCompletion = "application/json"), (String = "text/event-stream")))),
)]
pub async fn completions(
    State(api): State<Shared>,
    caller: Caller,
    Path(deployment): Path<String>,
    Asked(body): Asked,
) -> ApiResult<Response<Body>> {
    let body = of_deployment(deployment, body);
    let (generation, surface) = openai::completions::prepare(&api, &caller, body).await?;
    generation.respond(&api, &caller, surface).await
}

/// Embeddings of a deployment.
#[utoipa::path(
    post,
    path = "/openai/deployments/{id}/embeddings",
    operation_id = "azureEmbedding",
    tag = "aliases",
    params(("id" = String, Path, description = "The model, which wins over the body's.")),
    request_body = crate::api::openapi::vectors::EmbeddingsRequest,
    responses((status = 200, description = "One vector an input.", body = super::openai::embeddings::List)),
)]
pub async fn embeddings(
    State(api): State<Shared>,
    caller: Caller,
    Path(deployment): Path<String>,
    Asked(body): Asked,
) -> ApiResult<Response<Body>> {
    let body = of_deployment(deployment, body);
    openai::embeddings::answer(&api, &caller, body).await
}
