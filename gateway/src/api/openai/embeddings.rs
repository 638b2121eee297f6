//! `POST /v1/embeddings`.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use models::{EmbeddingCard, ModelKind};
use serde::Serialize;

use super::params::MAX_MODEL_BYTES;
use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::body::Asked;
use crate::api::encoding::{self, Input, content};
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{Fields, invalid, not_empty};
use crate::api::json::Json;
use crate::config::{EmbeddingSection, Limits};
use crate::receipts::Receipt as Signed;
use crate::serving::{Held, Receipt};

/// A request, checked for itself.
#[derive(Debug, PartialEq, Eq)]
struct EmbeddingRequest {
    model: String,
    inputs: Vec<Input>,
    is_base64: bool,
    dimensions: Option<u32>,
    user: Option<String>,
}

impl EmbeddingRequest {
    fn read(body: Json, limits: &Limits, section: &EmbeddingSection) -> ApiResult<Self> {
        let mut fields = Fields::root(body)?;
        let model = fields.string("model", MAX_MODEL_BYTES)?;
        let model = fields.required("model", model)?;
        let input = fields.take("input");
        let inputs = inputs(fields.required("input", input)?, section.max_inputs)?;
        let is_base64 = match fields.string("encoding_format", 64)?.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => return Err(invalid("encoding_format", "expected 'float' or 'base64'")),
        };
        let dimensions = fields.count("dimensions", 1, 1 << 20)?;
        let user = fields.string("user", limits.user_bytes)?;
        fields.finish(&[])?;
        Ok(Self { model, inputs, is_base64, dimensions, user })
    }
}

/// A text, token ids, or an array of either.
fn inputs(value: Json, max: usize) -> ApiResult<Vec<Input>> {
    match value {
        Json::Array(items) if !matches!(items.first(), Some(Json::Integer(_) | Json::Float(_))) => {
            not_empty("input", &items)?;
            if items.len() > max {
                let message =
                    format!("Invalid 'input': the array has {} inputs, the maximum is {max}.", items.len());
                return Err(ApiError::param(Code::ArrayTooLong, "input", message));
            }
            let one = |(i, item)| {
                let param = format!("input[{i}]");
                Ok(Input { content: content(&param, item)?, param })
            };
            items.into_iter().enumerate().map(one).collect()
        }
        value => Ok(vec![Input { param: "input".to_owned(), content: content("input", value)? }]),
    }
}

#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Embeddings)]
pub(in crate::api) struct List {
    object: &'static str,
    data: Vec<Item>,
    model: String,
    usage: Usage,
    /// Extension: the signed receipt, where `x-spillway-receipt` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Box<Signed>>,
}

#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Embedding)]
struct Item {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = EmbeddingVector)]
#[serde(untagged)]
enum Vector {
    Floats(Vec<f32>),
    Base64(String),
}

/// Token counts of a request without output.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = InputUsage)]
pub struct Usage {
    /// Input tokens.
    pub prompt_tokens: u32,
    /// The same.
    pub total_tokens: u32,
    /// Extension: the settled amount in USD, a decimal string.
    pub cost_usd: String,
}

impl Usage {
    /// The counts as settled.
    pub fn of(receipt: &Receipt) -> Self {
        let tokens = receipt.tokens.uncached_input;
        Self { prompt_tokens: tokens, total_tokens: tokens, cost_usd: receipt.cost.to_usd() }
    }
}

/// Makes a vector of each input.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    operation_id = "createEmbedding",
    tag = "vectors",
    request_body = crate::api::openapi::vectors::EmbeddingsRequest,
    responses((status = 200, description = "One vector an input.", body = List)),
)]
pub async fn create(
    State(api): State<Shared>,
    caller: Caller,
    Asked(body): Asked,
) -> ApiResult<Response<Body>> {
    answer(&api, &caller, body).await
}

/// Answers a body that was read.
pub async fn answer(api: &Shared, caller: &Caller, body: Json) -> ApiResult<Response<Body>> {
    let (mut answer, mut held) = hold(api, caller, body).await?;
    held.settle().await?;
    answer.receipt = held.take_signed();
    Ok(json_answer(&answer))
}

/// The answer to a body that was read, and what is still to be billed for it.
pub(in crate::api) async fn hold(api: &Shared, caller: &Caller, body: Json) -> ApiResult<(List, Held)> {
    let request = EmbeddingRequest::read(body, &api.limits, &api.embedding)?;
    let embedder = api.embedder_of(&caller.identity, &request.model)?;
    if embedder.card().kind != ModelKind::Embedding {
        let message =
            format!("The model '{}' scores pairs of texts. Use /v1/rerank or /v1/score.", request.model);
        return Err(ApiError::param(Code::UnsupportedValue, "model", message));
    }
    let card = embedder.card().embedding.clone().unwrap_or_default();
    let dimensions = dimensions(request.dimensions, &card, embedder.width())?;
    let wanted = encoding::Request { endpoint: "/v1/embeddings", param: "input", user: request.user };
    let mut held = encoding::held_vectors(api, caller, embedder, wanted, request.inputs).await?;
    let item = |(index, mut vector): (usize, Vec<f32>)| {
        if dimensions < vector.len() {
            vector.truncate(dimensions);
            if card.normalize {
                models::encoder::normalize(&mut vector);
            }
        }
        let embedding =
            if request.is_base64 { Vector::Base64(base64(&vector)) } else { Vector::Floats(vector) };
        Item { object: "embedding", index, embedding }
    };
    let list = List {
        object: "list",
        data: std::mem::take(&mut held.vectors).into_iter().enumerate().map(item).collect(),
        model: request.model,
        usage: Usage::of(&held.receipt),
        receipt: None,
    };
    Ok((list, held))
}

/// A 200 with this body.
pub fn json_answer(value: &impl Serialize) -> Response<Body> {
    let mut response = Response::new(Body::from(to_json(value)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// As it goes out.
pub fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("wire structs have string keys and no failing serializers")
}

/// Values of each vector: fewer than the model makes only where its card says that they can be cut.
fn dimensions(wanted: Option<u32>, card: &EmbeddingCard, width: usize) -> ApiResult<usize> {
    let Some(wanted) = wanted.map(|wanted| wanted as usize) else { return Ok(width) };
    let least = card.min_dimensions.unwrap_or(width);
    if (least..=width).contains(&wanted) {
        return Ok(wanted);
    }
    let allowed = if least == width { format!("exactly {width}") } else { format!("{least} to {width}") };
    let message = format!("Invalid 'dimensions': this model makes vectors of {allowed} values.");
    Err(ApiError::param(Code::UnsupportedValue, "dimensions", message))
}

/// Little-endian f32 values, as the SDKs decode them.
fn base64(vector: &[f32]) -> String {
    STANDARD.encode(vector.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::encoding::Content;
    use crate::api::json;

    fn read(extra: &str) -> ApiResult<EmbeddingRequest> {
        let body = json::parse(format!(r#"{{"model":"m",{extra}}}"#).as_bytes(), 64).unwrap();
        EmbeddingRequest::read(
            body,
            &Limits::default(),
            &EmbeddingSection { max_inputs: 3, ..Default::default() },
        )
    }

    #[test]
    fn inputs_in_four_shapes() {
        for (text, count) in
            [("\"a\"", 1), ("[\"a\",\"b\"]", 2), ("[1,2]", 1), ("[[1],[2,3]]", 2), ("[[1],\"a\"]", 2)]
        {
            assert_eq!(read(&format!("\"input\":{text}")).unwrap().inputs.len(), count, "{text}");
        }
        let request =
            read(r#""input":[[7,8],"x"],"encoding_format":"base64","dimensions":4,"user":"u""#).unwrap();
        assert_eq!(
            request.inputs[0],
            Input { param: "input[0]".into(), content: Content::Tokens(vec![7, 8]) }
        );
        assert_eq!(
            (request.is_base64, request.dimensions, request.user.as_deref()),
            (true, Some(4), Some("u"))
        );
    }

    #[test]
    fn refusals_name_the_input() {
        for (extra, code, param) in [
            (r#""user":"u""#, Code::MissingParameter, "input"),
            (r#""input":"""#, Code::EmptyString, "input"),
            (r#""input":[]"#, Code::EmptyArray, "input"),
            (r#""input":["a",""]"#, Code::EmptyString, "input[1]"),
            (r#""input":[[1],[]]"#, Code::EmptyArray, "input[1]"),
            (r#""input":["a",7]"#, Code::InvalidType, "input[1]"),
            (r#""input":[1,"a"]"#, Code::InvalidType, "input[1]"),
            (r#""input":[-1]"#, Code::IntegerBelowMin, "input[0]"),
            (r#""input":{}"#, Code::InvalidType, "input"),
            (r#""input":["a","b","c","d"]"#, Code::ArrayTooLong, "input"),
            (r#""input":"a","encoding_format":"int8""#, Code::InvalidValue, "encoding_format"),
            (r#""input":"a","dimensions":0"#, Code::IntegerBelowMin, "dimensions"),
            (r#""input":"a","truncate":true"#, Code::UnknownParameter, "truncate"),
        ] {
            let error = read(extra).unwrap_err();
            assert_eq!((error.code, error.param.as_deref()), (code, Some(param)), "{extra}");
        }
    }

    #[test]
    fn vectors_are_cut_only_where_the_card_allows() {
        let card = |min_dimensions| EmbeddingCard { min_dimensions, ..EmbeddingCard::default() };
        assert_eq!(dimensions(None, &card(None), 384).unwrap(), 384);
        assert_eq!(dimensions(Some(384), &card(None), 384).unwrap(), 384);
        assert_eq!(dimensions(Some(64), &card(Some(64)), 384).unwrap(), 64);
        for (wanted, min) in [(383, None), (385, None), (63, Some(64)), (385, Some(64))] {
            assert_eq!(dimensions(Some(wanted), &card(min), 384).unwrap_err().code, Code::UnsupportedValue);
        }
        assert_eq!(base64(&[1.0, -2.5]), "AACAPwAAIMA=");
    }

    #[test]
    fn the_document_lists_what_is_read() {
        let read = || assert!(read(r#""input":"a""#).is_ok());
        crate::api::openapi::testing::assert_documented("EmbeddingsRequest", read);
    }
}
