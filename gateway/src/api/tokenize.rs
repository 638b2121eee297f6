//! `POST /v1/tokenize` and `POST /v1/detokenize` (vLLM's shapes): the very ids that are billed. Free, but counted as requests.

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use engine::{Embedder, Engine};
use serde::Serialize;

use super::Shared;
use super::auth::Caller;
use super::body::Asked;
use super::encoding::{self, Content, Input};
use super::error::{ApiError, ApiResult, Code};
use super::fields::{Fields, invalid, unsupported};
use super::json::{Json, Object};
use super::openai::chat_request;
use super::openai::embeddings::json_answer;
use super::openai::params::{MAX_MODEL_BYTES, token_of};
use crate::registry::Served;
use crate::serving::PromptInput;

#[derive(Serialize, utoipa::ToSchema)]
struct Tokenized {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_strs: Option<Vec<String>>,
}

#[derive(Serialize, utoipa::ToSchema)]
struct Detokenized {
    prompt: String,
}

/// Takes one request of the caller's limits, and no tokens.
async fn count_request(api: &Shared, caller: &Caller) -> ApiResult<()> {
    let serving = &api.serving;
    let place = serving.limiter.admit(&caller.identity, 0, serving.monotonic_ms()).await;
    caller.note_limits(api);
    drop(place?);
    Ok(())
}

/// Token ids of a prompt or a conversation.
#[utoipa::path(
    post,
    path = "/v1/tokenize",
    operation_id = "tokenize",
    tag = "tokens",
    request_body = crate::api::openapi::vectors::TokenizeRequest,
    responses((status = 200, description = "The ids that would be billed.", body = Tokenized)),
)]
pub async fn tokenize(
    State(api): State<Shared>,
    caller: Caller,
    Asked(body): Asked,
) -> ApiResult<Response<Body>> {
    let mut fields = Fields::root(body)?;
    let model = fields.string("model", MAX_MODEL_BYTES)?;
    let model = fields.required("model", model)?;
    let messages = fields.take("messages");
    let prompt = fields.string("prompt", usize::MAX)?;
    let wants_texts = fields.boolean("return_token_strs")?.unwrap_or(false);
    if fields.boolean("add_generation_prompt")? == Some(false) {
        return Err(unsupported("add_generation_prompt"));
    }
    // Prompts get what the model wants before plain text, conversations what the template says: as they are billed.
    let adds_special = fields.boolean("add_special_tokens")?;
    if adds_special.is_some_and(|adds| adds != messages.is_none()) {
        return Err(unsupported("add_special_tokens"));
    }
    fields.finish(&["continue_final_message", "chat_template", "chat_template_kwargs", "tools"])?;
    let served = api.served(&caller.identity, &model)?;
    count_request(&api, &caller).await?;
    let (tokens, max_model_len) = match served {
        Served::Engine(engine) => {
            let input = prompt_of(&api, &model, messages, prompt)?;
            (input.tokenise(engine).await?, engine.context_len())
        }
        Served::Embedder(embedder) => {
            if messages.is_some() {
                return Err(invalid("messages", "this model takes no conversations; set 'prompt'"));
            }
            let text = prompt.ok_or_else(|| missing("prompt"))?;
            let inputs = vec![Input { param: "prompt".to_owned(), content: Content::Text(text) }];
            let inputs = encoding::encode(embedder, inputs, "prompt", u32::MAX).await?;
            (inputs.into_iter().next().unwrap_or_default().tokens, embedder.max_tokens())
        }
    };
    let texts = || tokens.iter().map(|token| token_text(served, *token)).collect();
    let token_strs = wants_texts.then(texts);
    Ok(json_answer(&Tokenized { count: tokens.len(), max_model_len, tokens, token_strs }))
}

fn missing(key: &str) -> ApiError {
    ApiError::param(Code::MissingParameter, key, format!("Missing required parameter: '{key}'."))
}

fn prompt_of(
    api: &Shared,
    model: &str,
    messages: Option<Json>,
    prompt: Option<String>,
) -> ApiResult<PromptInput> {
    match (messages, prompt) {
        (Some(_), Some(_)) => {
            let message = "Set either 'prompt' or 'messages', not both.";
            Err(ApiError::param(Code::ConflictingParameters, "prompt", message))
        }
        (None, None) => Err(missing("prompt")),
        (None, Some(text)) => Ok(PromptInput::Text(text)),
        (Some(messages), None) => {
            // Read as a chat would read it.
            let body = Object::from([
                ("model".to_owned(), Json::String(model.into())),
                ("messages".to_owned(), messages),
            ]);
            let common = chat_request::read(Json::Object(Box::new(body)), &api.limits)?;
            common.generation.prompts.into_iter().next().ok_or_else(|| missing("messages"))
        }
    }
}

/// Text of token ids.
#[utoipa::path(
    post,
    path = "/v1/detokenize",
    operation_id = "detokenize",
    tag = "tokens",
    request_body = crate::api::openapi::vectors::DetokenizeRequest,
    responses((status = 200, description = "The text.", body = Detokenized)),
)]
pub async fn detokenize(
    State(api): State<Shared>,
    caller: Caller,
    Asked(body): Asked,
) -> ApiResult<Response<Body>> {
    let mut fields = Fields::root(body)?;
    let model = fields.string("model", MAX_MODEL_BYTES)?;
    let model = fields.required("model", model)?;
    let tokens = fields.array("tokens", usize::MAX)?;
    let tokens = fields.required("tokens", tokens)?;
    fields.finish(&[])?;
    let ids = tokens.iter().enumerate().map(|(i, id)| token_of(&format!("tokens[{i}]"), id));
    let tokens: Vec<u32> = ids.collect::<ApiResult<_>>()?;
    let served = api.served(&caller.identity, &model)?;
    count_request(&api, &caller).await?;
    let vocab = match served {
        Served::Engine(engine) => engine.tokenizer().vocab_size(),
        Served::Embedder(embedder) => embedder.tokenizer().vocab_size(),
    };
    if let Some(at) = tokens.iter().position(|token| *token as usize >= vocab) {
        let reason = format!("token {} is not in the vocabulary of {vocab} tokens", tokens[at]);
        return Err(invalid(&format!("tokens[{at}]"), &reason));
    }
    let prompt = match served {
        Served::Engine(engine) => engine_text(engine, &tokens),
        Served::Embedder(embedder) => embedder_text(embedder, &tokens)?,
    };
    Ok(json_answer(&Detokenized { prompt }))
}

/// Control tokens show as their names, so that the text says what the model sees.
fn engine_text(engine: &Engine, tokens: &[u32]) -> String {
    let bytes: Vec<u8> =
        tokens.iter().flat_map(|token| engine.tokenizer().token_bytes(*token)).copied().collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn embedder_text(embedder: &Embedder, tokens: &[u32]) -> ApiResult<String> {
    embedder.tokenizer().decode(tokens).map_err(|error| invalid("tokens", &error.to_string()))
}

fn token_text(served: &Served, token: u32) -> String {
    match served {
        Served::Engine(engine) => String::from_utf8_lossy(engine.tokenizer().token_bytes(token)).into_owned(),
        Served::Embedder(embedder) => embedder.tokenizer().token_text(token).unwrap_or_default(),
    }
}
