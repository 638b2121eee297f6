//! From texts of a request to the inputs of an embedder: encoded off the HTTP threads, whole or refused.

use engine::Embedder;
use models::EncoderInput;

use super::Shared;
use super::auth::Caller;
use super::error::{ApiError, ApiResult, Code};
use super::fields::{invalid, string_of, wrong_type};
use super::json::Json;
use super::openai::params::token_of;
use crate::ledger::{Details, parse_sha256};
use crate::serving::{EmbedJob, Embedded, Held};

/// What one input is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A text.
    Text(String),
    /// Two texts for a cross-encoder.
    Pair(String, String),
    /// Token ids, taken as they are: what `/v1/tokenize` returns.
    Tokens(Vec<u32>),
}

/// An input and the request's field that it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// As `param` names it.
    pub param: String,
    /// What it says.
    pub content: Content,
}

/// A text that is not empty.
pub fn text(param: &str, value: Json) -> ApiResult<String> {
    match value {
        Json::String(text) if text.is_empty() => {
            let message = format!("Invalid '{param}': the text must not be empty.");
            Err(ApiError::param(Code::EmptyString, param, message))
        }
        // The body's own limit bounds it.
        value => string_of(param, value, usize::MAX),
    }
}

/// One input: a text, or an array of token ids.
pub fn content(param: &str, value: Json) -> ApiResult<Content> {
    match value {
        Json::String(_) => Ok(Content::Text(text(param, value)?)),
        Json::Array(ids) if ids.is_empty() => {
            let message = format!("Invalid '{param}': the array must have at least one token id.");
            Err(ApiError::param(Code::EmptyArray, param, message))
        }
        Json::Array(ids) => {
            let ids = ids.iter().enumerate().map(|(i, id)| token_of(&format!("{param}[{i}]"), id));
            Ok(Content::Tokens(ids.collect::<ApiResult<_>>()?))
        }
        other => Err(wrong_type(param, "a string or an array of token ids", &other)),
    }
}

/// What a request for vectors has beside its inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Route, for the ledger and metrics.
    pub endpoint: &'static str,
    /// Field of the inputs as a whole.
    pub param: &'static str,
    /// Name of the caller's end user.
    pub user: Option<String>,
}

/// Encodes `inputs` and has `embedder` make their vectors, billed to `caller`.
pub async fn vectors(
    api: &Shared,
    caller: &Caller,
    embedder: &Embedder,
    request: Request,
    inputs: Vec<Input>,
) -> ApiResult<Embedded> {
    let mut held = held_vectors(api, caller, embedder, request, inputs).await?;
    let receipt = held.settle().await?;
    let signed = held.take_signed();
    Ok(Embedded { vectors: held.vectors, receipt, signed })
}

/// The same without the bill.
pub async fn held_vectors(
    api: &Shared,
    caller: &Caller,
    embedder: &Embedder,
    request: Request,
    inputs: Vec<Input>,
) -> ApiResult<Held> {
    if caller.batch.is_none() {
        // A caller with nothing left is refused before any work.
        api.serving.check_exhausted(&caller.identity)?;
    }
    api.serving.in_time(caller.scope.arrived, screen(api, embedder, &inputs)).await??;
    let limit = api.embedding.max_request_tokens;
    let inputs = encode(embedder, inputs, request.param, limit).await?;
    let job = EmbedJob {
        request_id: caller.scope.request_id.clone(),
        endpoint: request.endpoint,
        identity: caller.identity.clone(),
        inputs,
        details: Details {
            user: request.user,
            request_sha256: caller.scope.body_sha256(),
            weights_sha256: parse_sha256(&embedder.card().sha256),
            ..Details::of(&caller.identity)
        },
        batch: caller.batch,
        signer: caller.signer(api),
        arrived: caller.scope.arrived,
    };
    let held = api.serving.vectors(embedder, job).await;
    caller.note_limits(api);
    Ok(held?)
}

/// Refuses what the operator's content rules forbid, as for prompts.
async fn screen(api: &Shared, embedder: &Embedder, inputs: &[Input]) -> ApiResult<()> {
    if !api.guard.screens_input() {
        return Ok(());
    }
    let texts = inputs.iter().flat_map(|Input { param, content }| {
        let texts = match content {
            Content::Text(text) => vec![text.clone()],
            Content::Pair(first, second) => vec![first.clone(), second.clone()],
            // Ids outside the vocabulary are refused when they are encoded.
            Content::Tokens(tokens) => vec![embedder.tokenizer().decode(tokens).unwrap_or_default()],
        };
        texts.into_iter().map(move |text| (text, param))
    });
    let screened = api.guard.screen_all(texts.collect()).await;
    screened.map_err(|(refusal, param)| ApiError::of_content(refusal, param))
}

/// Encodes on a blocking thread: texts may be megabytes long.
pub async fn encode(
    embedder: &Embedder,
    inputs: Vec<Input>,
    param: &'static str,
    limit: u32,
) -> ApiResult<Vec<EncoderInput>> {
    let embedder = embedder.clone();
    let job = tokio::task::spawn_blocking(move || encode_all(&embedder, inputs, param, limit));
    job.await.unwrap_or_else(|error| {
        tracing::error!(%error, "encoding failed");
        Err(ApiError::new(Code::ServerError, "The server had an error while encoding. Nothing was charged."))
    })
}

fn encode_all(
    embedder: &Embedder,
    inputs: Vec<Input>,
    param: &'static str,
    limit: u32,
) -> ApiResult<Vec<EncoderInput>> {
    let mut total = 0;
    let mut encoded = Vec::with_capacity(inputs.len());
    for Input { param: own, content } in inputs {
        let input = encode_one(embedder, &own, content)?;
        let (tokens, most) = (input.tokens.len(), embedder.max_tokens());
        if tokens > most {
            let message = format!(
                "Invalid '{own}': it has {tokens} tokens, this model takes at most {most} (those around the text \
                 included). Shorten or split it: nothing is cut off silently."
            );
            return Err(ApiError::param(Code::ContextLength, own, message));
        }
        total += tokens;
        if total > limit as usize {
            let message =
                format!("Invalid '{param}': more than the maximum {limit} tokens in one request. Split it.");
            return Err(ApiError::param(Code::ContextLength, param, message));
        }
        encoded.push(input);
    }
    Ok(encoded)
}

fn encode_one(embedder: &Embedder, param: &str, content: Content) -> ApiResult<EncoderInput> {
    let tokenizer = embedder.tokenizer();
    let encoded = match &content {
        Content::Text(text) => tokenizer.encode(text),
        Content::Pair(first, second) => tokenizer.encode_pair(first, second),
        Content::Tokens(tokens) => {
            let vocab = tokenizer.vocab_size();
            if let Some(token) = tokens.iter().find(|token| **token as usize >= vocab) {
                let reason = format!("token {token} is not in the vocabulary of {vocab} tokens");
                return Err(invalid(param, &reason));
            }
            return Ok(EncoderInput { tokens: tokens.clone(), type_ids: Vec::new() });
        }
    };
    encoded.map_err(|error| invalid(param, &error.to_string()))
}
