//! Vectors, ranking, tokens and moderation in the document.

use serde_json::Value;
use utoipa::ToSchema;

use super::chat::ModelId;
use super::parts::{Message, OneOrMany, Prompt};

/// Inputs to make vectors of.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "all-minilm-l6-v2", "input": ["The weather is lovely today."]}))]
pub struct EmbeddingsRequest {
    /// Name of an embedder.
    pub model: ModelId,
    /// A text, token ids, or a list of either.
    pub input: Prompt,
    /// `float` or `base64`.
    pub encoding_format: Option<EncodingFormat>,
    /// Values of each vector, where the model's can be cut.
    #[schema(minimum = 1)]
    pub dimensions: Option<i32>,
    /// A label.
    pub user: Option<String>,
}

/// How vectors are written.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodingFormat {
    /// Numbers.
    Float,
    /// Little-endian f32 values.
    Base64,
}

/// Documents to put in order.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "all-minilm-l6-v2", "query": "weather", "documents": ["It is sunny.", "He drives."]}))]
pub struct RerankRequest {
    /// Name of an embedder or cross-encoder.
    pub model: ModelId,
    /// What they shall fit.
    #[schema(min_length = 1)]
    pub query: String,
    /// Texts, or objects with one.
    #[schema(min_items = 1)]
    pub documents: Vec<RankedDocument>,
    /// Results to tell.
    #[schema(minimum = 1)]
    pub top_n: Option<u32>,
    /// Repeat the documents.
    pub return_documents: Option<bool>,
}

/// A text, or an object with one.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum RankedDocument {
    /// A text.
    Text(String),
    /// An object.
    Object(DocumentText),
}

/// A document.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DocumentText {
    /// Its text.
    #[schema(min_length = 1)]
    pub text: String,
}

/// Pairs to score: one against many, or many against as many.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "all-minilm-l6-v2", "text_1": "weather", "text_2": ["It is sunny.", "He drives."]}))]
pub struct ScoreRequest {
    /// Name of an embedder or cross-encoder.
    pub model: ModelId,
    /// One side.
    pub text_1: OneOrMany,
    /// The other.
    pub text_2: OneOrMany,
}

/// A text or conversation to count; one of the two.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "smollm2-135m-instruct", "prompt": "Hello"}))]
pub struct TokenizeRequest {
    /// Name of a model.
    pub model: ModelId,
    /// A text.
    pub prompt: Option<String>,
    /// A conversation.
    pub messages: Option<Vec<Message>>,
    /// Tell the text of each token.
    pub return_token_strs: Option<bool>,
    /// `true`.
    pub add_generation_prompt: Option<bool>,
    /// As the model does by itself.
    pub add_special_tokens: Option<bool>,
}

/// Token ids to read.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "smollm2-135m-instruct", "tokens": [504, 3575]}))]
pub struct DetokenizeRequest {
    /// Name of a model.
    pub model: ModelId,
    /// Token ids.
    pub tokens: Vec<u32>,
}

/// Texts to search for what the operator's content rules name.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"input": "Is this fine?"}))]
pub struct ModerationRequest {
    /// A text, texts, or text parts.
    pub input: ModerationInput,
    /// Not looked at: there is one set of rules.
    #[schema(max_length = 256)]
    pub model: Option<String>,
}

/// A text, texts, or text parts.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum ModerationInput {
    /// A text.
    Text(String),
    /// Several.
    Many(Vec<Value>),
}
