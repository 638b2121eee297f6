//! `POST /v1/rerank` (Cohere's shape) and `POST /v1/score` (vLLM's): how well texts fit each other.
//!
//! A cross-encoder reads each pair as a whole; its relevance is the logistic of its logit, 0 to 1. An embedder compares
//! vectors: its relevance is their cosine, -1 to 1. The answer's `method` and the model's entry in `/v1/models` say which.

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use engine::Embedder;
use models::ModelKind;
use serde::Serialize;

use super::Shared;
use super::auth::Caller;
use super::body::Asked;
use super::encoding::{self, Content, Input, text};
use super::error::{ApiError, ApiResult, Code};
use super::fields::{Fields, invalid, not_empty, wrong_type};
use super::json::Json;
use super::openai::embeddings::{Usage, json_answer};
use super::openai::params::MAX_MODEL_BYTES;
use crate::receipts::Receipt as Signed;
use crate::serving::{Receipt, unix_ms};

/// How a model scores.
pub fn method(kind: ModelKind) -> &'static str {
    if kind == ModelKind::Rerank { "cross_encoder" } else { "embedding_cosine" }
}

#[derive(Serialize, utoipa::ToSchema)]
struct Reranked {
    id: String,
    model: String,
    results: Vec<Ranked>,
    method: &'static str,
    usage: Usage,
    /// Extension: the signed receipt, where `x-spillway-receipt` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Box<Signed>>,
}

#[derive(Serialize, utoipa::ToSchema)]
struct Ranked {
    index: usize,
    relevance_score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Document>,
}

#[derive(Clone, Serialize, utoipa::ToSchema)]
#[schema(as = RerankedDocument)]
struct Document {
    text: String,
}

#[derive(Serialize, utoipa::ToSchema)]
struct Scores {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    data: Vec<Score>,
    method: &'static str,
    usage: Usage,
    /// Extension: the signed receipt, where `x-spillway-receipt` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Box<Signed>>,
}

#[derive(Serialize, utoipa::ToSchema)]
struct Score {
    index: usize,
    object: &'static str,
    score: f64,
}

/// A text and the request's field that it came in.
type Named = (String, String);

/// Ranks documents by their relevance to a query.
#[utoipa::path(
    post,
    path = "/v1/rerank",
    operation_id = "rerank",
    tag = "vectors",
    request_body = crate::api::openapi::vectors::RerankRequest,
    responses((status = 200, description = "Best first.", body = Reranked)),
)]
pub async fn rerank(
    State(api): State<Shared>,
    caller: Caller,
    Asked(body): Asked,
) -> ApiResult<Response<Body>> {
    let mut fields = Fields::root(body)?;
    let model = fields.string("model", MAX_MODEL_BYTES)?;
    let model = fields.required("model", model)?;
    let query = fields.take("query");
    let query = text("query", fields.required("query", query)?)?;
    let documents = fields.array("documents", api.embedding.max_inputs)?;
    let documents = fields.required("documents", documents)?;
    not_empty("documents", &documents)?;
    let named = |(i, item)| {
        let param = format!("documents[{i}]");
        Ok((document(&param, item)?, param))
    };
    let documents: Vec<Named> = documents.into_iter().enumerate().map(named).collect::<ApiResult<_>>()?;
    let top_n = fields.count("top_n", 1, u32::MAX)?.map_or(usize::MAX, |n| n as usize);
    let returns = fields.boolean("return_documents")?.unwrap_or(false);
    // Nothing is cut off silently, so there is nothing for these to say.
    fields.finish(&["max_tokens_per_doc", "max_chunks_per_doc", "rank_fields", "truncation"])?;
    let embedder = api.embedder_of(&caller.identity, &model)?;
    let pairs: Vec<(Named, Named)> =
        documents.iter().map(|document| ((query.clone(), "query".to_owned()), document.clone())).collect();
    let Scored { scores, receipt, signed } = scores(&api, &caller, embedder, "/v1/rerank", pairs).await?;
    let mut results: Vec<Ranked> = scores
        .into_iter()
        .zip(documents)
        .enumerate()
        .map(|(index, (relevance_score, (text, _)))| Ranked {
            index,
            relevance_score,
            document: returns.then_some(Document { text }),
        })
        .collect();
    // Equal ones stay in the order of the request.
    results.sort_by(|a, b| b.relevance_score.total_cmp(&a.relevance_score));
    results.truncate(top_n);
    let id = format!("rerank-{}", caller.scope.suffix());
    let method = method(embedder.card().kind);
    let usage = Usage::of(&receipt);
    Ok(json_answer(&Reranked { id, model, results, method, usage, receipt: signed }))
}

/// Scores pairs of texts: one against many, or many against as many.
#[utoipa::path(
    post,
    path = "/v1/score",
    operation_id = "score",
    tag = "vectors",
    request_body = crate::api::openapi::vectors::ScoreRequest,
    responses((status = 200, description = "One score a pair.", body = Scores)),
)]
pub async fn score(
    State(api): State<Shared>,
    caller: Caller,
    Asked(body): Asked,
) -> ApiResult<Response<Body>> {
    let mut fields = Fields::root(body)?;
    let model = fields.string("model", MAX_MODEL_BYTES)?;
    let model = fields.required("model", model)?;
    let first = side(&mut fields, "text_1", api.embedding.max_inputs)?;
    let second = side(&mut fields, "text_2", api.embedding.max_inputs)?;
    fields.finish(&["truncate_prompt_tokens"])?;
    let pairs: Vec<(Named, Named)> = match (first.len(), second.len()) {
        (1, _) => second.into_iter().map(|second| (first[0].clone(), second)).collect(),
        (a, b) if a == b => first.into_iter().zip(second).collect(),
        (a, b) => {
            let reason = format!("it has {b} texts, 'text_1' has {a}; give one against many, or as many");
            return Err(invalid("text_2", &reason));
        }
    };
    let embedder = api.embedder_of(&caller.identity, &model)?;
    let Scored { scores, receipt, signed } = scores(&api, &caller, embedder, "/v1/score", pairs).await?;
    let data = scores.into_iter().enumerate().map(|(index, score)| Score { index, object: "score", score });
    Ok(json_answer(&Scores {
        id: format!("score-{}", caller.scope.suffix()),
        object: "list",
        created: unix_ms() / 1_000,
        data: data.collect(),
        method: method(embedder.card().kind),
        model,
        usage: Usage::of(&receipt),
        receipt: signed,
    }))
}

/// A text, or an object with one.
fn document(param: &str, value: Json) -> ApiResult<String> {
    match value {
        Json::String(_) => text(param, value),
        Json::Object(_) => {
            let mut fields = Fields::nested(value, param)?;
            let inner = fields.take("text");
            let inner = fields.required("text", inner)?;
            let path = fields.path("text");
            fields.finish(&[])?;
            text(&path, inner)
        }
        other => Err(wrong_type(param, "a string or an object with 'text'", &other)),
    }
}

fn side(fields: &mut Fields, key: &'static str, max: usize) -> ApiResult<Vec<Named>> {
    let value = fields.take(key);
    match fields.required(key, value)? {
        Json::Array(items) => {
            not_empty(key, &items)?;
            if items.len() > max {
                let message =
                    format!("Invalid '{key}': the array has {} texts, the maximum is {max}.", items.len());
                return Err(ApiError::param(Code::ArrayTooLong, key, message));
            }
            let named = |(i, item)| {
                let param = format!("{key}[{i}]");
                Ok((text(&param, item)?, param))
            };
            items.into_iter().enumerate().map(named).collect()
        }
        value => Ok(vec![(text(key, value)?, key.to_owned())]),
    }
}

/// The score of each pair, and what they were billed.
struct Scored {
    scores: Vec<f64>,
    receipt: Receipt,
    signed: Option<Box<Signed>>,
}

async fn scores(
    api: &Shared,
    caller: &Caller,
    embedder: &Embedder,
    endpoint: &'static str,
    pairs: Vec<(Named, Named)>,
) -> ApiResult<Scored> {
    let request = encoding::Request {
        endpoint,
        param: if endpoint == "/v1/score" { "text_2" } else { "documents" },
        user: None,
    };
    if embedder.card().kind == ModelKind::Rerank {
        let pair = |((first, _), (second, param)): (Named, Named)| Input {
            param,
            content: Content::Pair(first, second),
        };
        let inputs = pairs.into_iter().map(pair).collect();
        let embedded = encoding::vectors(api, caller, embedder, request, inputs).await?;
        let logistic = |logit: f32| 1.0 / (1.0 + (-f64::from(logit)).exp());
        let scores = embedded.vectors.iter().map(|vector| logistic(vector[0])).collect();
        return Ok(Scored { scores, receipt: embedded.receipt, signed: embedded.signed });
    }
    // Each text is embedded, and paid for, once, however many pairs it stands in.
    let mut places = std::collections::HashMap::new();
    let mut inputs = Vec::new();
    let mut place = |(text, param): Named| {
        *places.entry(text.clone()).or_insert_with(|| {
            inputs.push(Input { param, content: Content::Text(text) });
            inputs.len() - 1
        })
    };
    let ends: Vec<(usize, usize)> =
        pairs.into_iter().map(|(first, second)| (place(first), place(second))).collect();
    let embedded = encoding::vectors(api, caller, embedder, request, inputs).await?;
    let score = |&(a, b): &(usize, usize)| cosine(&embedded.vectors[a], &embedded.vectors[b]);
    let scores = ends.iter().map(score).collect();
    Ok(Scored { scores, receipt: embedded.receipt, signed: embedded.signed })
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}
