//! Anthropic's messages in the document.

use serde_json::Value;
use utoipa::ToSchema;

use super::chat::ModelId;

/// A conversation to answer.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "model": "smollm2-135m-instruct", "max_tokens": 16, "messages": [{"role": "user", "content": "Name three rivers."}],
}))]
pub struct MessageRequest {
    /// Name of the model.
    pub model: ModelId,
    /// What was said so far; the user speaks last.
    #[schema(min_items = 1)]
    pub messages: Vec<Turn>,
    /// Most tokens of the answer.
    #[schema(minimum = 1)]
    pub max_tokens: i32,
    /// What the operator says.
    pub system: Option<Blocks>,
    /// Answer as server-sent events.
    pub stream: Option<bool>,
    /// 0 is greedy.
    #[schema(minimum = 0, maximum = 1)]
    pub temperature: Option<f64>,
    /// Smallest set of tokens with this much probability.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// Most likely tokens.
    #[schema(minimum = 0)]
    pub top_k: Option<i32>,
    /// Strings at which the answer ends.
    pub stop_sequences: Option<Vec<String>>,
    /// `user_id`, a label.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Value>,
    /// `auto` or `standard_only`.
    pub service_tier: Option<String>,
    /// Functions that the model may call.
    pub tools: Option<Vec<MessageTool>>,
    /// `auto`, `any`, `tool` or `none`.
    #[schema(value_type = Option<Object>)]
    pub tool_choice: Option<Value>,
    /// `format`: a JSON schema for the answer.
    #[schema(value_type = Option<Object>)]
    pub output_config: Option<Value>,
    /// Whether the model thinks lies with the model: `adaptive` or `disabled`.
    #[schema(value_type = Option<Object>)]
    pub thinking: Option<Value>,
    /// A hint; every prefix is cached.
    #[schema(value_type = Option<Object>)]
    pub cache_control: Option<Value>,
    /// `standard`.
    pub speed: Option<String>,
}

/// What decides on the prompt of a message.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Name three rivers."}]}))]
pub struct CountRequest {
    /// Name of the model.
    pub model: ModelId,
    /// What was said so far.
    #[schema(min_items = 1)]
    pub messages: Vec<Turn>,
    /// What the operator says.
    pub system: Option<Blocks>,
    /// Functions that the model may call.
    pub tools: Option<Vec<MessageTool>>,
    /// `auto`, `any`, `tool` or `none`.
    #[schema(value_type = Option<Object>)]
    pub tool_choice: Option<Value>,
    /// `format`: a JSON schema for the answer.
    #[schema(value_type = Option<Object>)]
    pub output_config: Option<Value>,
    /// `adaptive` or `disabled`.
    #[schema(value_type = Option<Object>)]
    pub thinking: Option<Value>,
    /// A hint.
    #[schema(value_type = Option<Object>)]
    pub cache_control: Option<Value>,
    /// `standard`.
    pub speed: Option<String>,
}

/// Something said.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Who speaks.
    pub role: Speaker,
    /// What.
    pub content: Blocks,
}

/// Who speaks.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// The user.
    User,
    /// The model.
    Assistant,
    /// The operator.
    System,
}

/// A text, or blocks.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Blocks {
    /// A text.
    Text(String),
    /// Blocks of type `text`, `thinking`, `tool_use`, `tool_result`.
    #[schema(value_type = Vec<Object>)]
    Blocks(Vec<Value>),
}

/// A function that the model may call.
#[derive(ToSchema)]
pub struct MessageTool {
    /// Name.
    #[schema(pattern = "^[A-Za-z0-9_-]+$", max_length = 128)]
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// JSON schema of its arguments.
    #[schema(value_type = Option<Object>)]
    pub input_schema: Option<Value>,
}

/// An answer.
#[derive(ToSchema)]
#[schema(as = AnthropicMessage)]
pub struct MessageObject {
    /// `msg_...`.
    pub id: String,
    /// `message`.
    pub r#type: String,
    /// `assistant`.
    pub role: String,
    /// The model's id.
    pub model: String,
    /// Blocks of type `text`, `thinking`, `tool_use`.
    #[schema(value_type = Vec<Object>)]
    pub content: Vec<Value>,
    /// Why it ended.
    #[schema(required)]
    pub stop_reason: Option<String>,
    /// The string at which it ended.
    #[schema(required)]
    pub stop_sequence: Option<String>,
    /// Counts and cost.
    pub usage: MessageUsage,
    /// Extension: the signed receipt, where `x-spillway-receipt` asks for it.
    pub receipt: Option<crate::receipts::Receipt>,
}

/// Counts and cost.
#[derive(ToSchema)]
pub struct MessageUsage {
    /// Input tokens that were computed.
    pub input_tokens: u32,
    /// Always 0: caching costs nothing extra.
    pub cache_creation_input_tokens: u32,
    /// Input tokens found in the cache.
    pub cache_read_input_tokens: u32,
    /// Output tokens.
    pub output_tokens: u32,
    /// Extension: the settled amount in USD, a decimal string.
    pub cost_usd: String,
}

/// Number of input tokens.
#[derive(ToSchema)]
pub struct TokenCount {
    /// The count.
    pub input_tokens: u64,
}

/// A refusal in Anthropic's form.
#[derive(ToSchema)]
pub struct MessageError {
    /// `error`.
    pub r#type: String,
    /// Why.
    pub error: MessageErrorObject,
    /// As in the header `request-id`.
    pub request_id: String,
}

/// Why a request was refused.
#[derive(ToSchema)]
pub struct MessageErrorObject {
    /// Kind, in Anthropic's words.
    pub r#type: String,
    /// A sentence that says what to do next.
    pub message: String,
    /// `error_code`, as elsewhere in this API, and `param`, the field at fault.
    #[schema(value_type = Object)]
    pub details: Value,
}
