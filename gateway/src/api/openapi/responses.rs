//! Responses in the document.

use std::collections::HashMap;

use serde_json::Value;
use utoipa::ToSchema;

use super::chat::{ModelId, generating};
use super::items::InputItem;
use super::parts::{FormatType, FunctionType, ToolChoice};

generating! {
    /// A conversation to go on with, kept by the server if wanted.
    #[schema(example = json!({"model": "smollm2-135m-instruct", "input": "Name three rivers.", "max_output_tokens": 16}))]
    ResponseRequest {
        /// A text, or items; not needed after `previous_response_id`.
        pub input: Option<Input>,
        /// Goes before everything else.
        pub instructions: Option<String>,
        /// The answer to go on from.
        #[schema(max_length = 256)]
        pub previous_response_id: Option<String>,
        /// Form of the answer.
        pub text: Option<TextSettings>,
        /// Functions that the model may call.
        pub tools: Option<Vec<ResponseTool>>,
        /// Whether it may, must, and which.
        pub tool_choice: Option<ToolChoice>,
        /// Several calls in one answer.
        pub parallel_tool_calls: Option<bool>,
        /// How it thinks lies with the model: only `effort` of `none`.
        #[schema(value_type = Option<Object>)]
        pub reasoning: Option<Value>,
        /// `auto`: the oldest items may be left out; `disabled`.
        pub truncation: Option<String>,
        /// Most tokens of the answer.
        #[schema(minimum = 1)]
        pub max_output_tokens: Option<i32>,
        /// A bound for tools of the server; there are none.
        #[schema(minimum = 1)]
        pub max_tool_calls: Option<i32>,
        /// `message.output_text.logprobs`.
        #[schema(max_items = 32)]
        pub include: Option<Vec<String>>,
        /// Likeliest tokens to tell; needs `include`.
        #[schema(minimum = 0, maximum = 20)]
        pub top_logprobs: Option<u32>,
        /// Keep the answer; unset: as the project does.
        pub store: Option<bool>,
        /// Answer at once and go on without the client.
        pub background: Option<bool>,
    }
}

/// What decides on the prompt of a response.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "smollm2-135m-instruct", "input": "Name three rivers."}))]
pub struct InputTokensRequest {
    /// Name of the model.
    pub model: ModelId,
    /// A text, or items.
    pub input: Option<Input>,
    /// Goes before everything else.
    pub instructions: Option<String>,
    /// The answer to go on from.
    #[schema(max_length = 256)]
    pub previous_response_id: Option<String>,
    /// Form of the answer.
    pub text: Option<TextSettings>,
    /// Functions that the model may call.
    pub tools: Option<Vec<ResponseTool>>,
    /// Whether it may, must, and which.
    pub tool_choice: Option<ToolChoice>,
    /// Several calls in one answer.
    pub parallel_tool_calls: Option<bool>,
    /// Only `effort` of `none`.
    #[schema(value_type = Option<Object>)]
    pub reasoning: Option<Value>,
    /// `auto` or `disabled`.
    pub truncation: Option<String>,
}

/// A conversation to be made short.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "smollm2-135m-instruct", "input": [{"role": "user", "content": "We launch on Tuesday."}, {"role": "assistant", "content": "Understood."}]}))]
pub struct CompactRequest {
    /// Name of the model that writes the summary.
    pub model: ModelId,
    /// A text, or items; not needed after `previous_response_id`.
    pub input: Option<Input>,
    /// Goes before everything else; not part of what comes out.
    pub instructions: Option<String>,
    /// The answer that the conversation goes up to.
    #[schema(max_length = 256)]
    pub previous_response_id: Option<String>,
    /// Tier that serves it.
    pub service_tier: Option<String>,
    /// Read, and not needed here: the beginnings of prompts are kept for the whole organisation.
    #[schema(max_length = 1024)]
    pub prompt_cache_key: Option<String>,
}

/// A conversation made short.
#[derive(ToSchema)]
pub struct Compaction {
    /// `resp_...`; it names no response that could be fetched.
    pub id: String,
    /// `response.compaction`.
    pub object: String,
    /// Unix seconds.
    pub created_at: u64,
    /// Input for whatever goes on: what was said by users, systems and developers, then the summary of all of it.
    #[schema(value_type = Vec<crate::api::responses::items::Item>)]
    pub output: Vec<Value>,
    /// What the summary cost.
    pub usage: ResponseUsage,
    /// Extension: the signed receipt, where `x-spillway-receipt` asked for it.
    pub receipt: Option<crate::receipts::Receipt>,
}

/// A text, or items.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Input {
    /// What the user says.
    Text(String),
    /// Messages, calls, their answers, reasoning, references.
    Items(Vec<InputItem>),
}

/// Form of the answer.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TextSettings {
    /// Which.
    pub format: Option<TextFormat>,
    /// `medium`.
    pub verbosity: Option<String>,
}

/// Form of the answer.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TextFormat {
    /// Which.
    pub r#type: FormatType,
    /// A label.
    #[schema(max_length = 64)]
    pub name: Option<String>,
    /// A label.
    pub description: Option<String>,
    /// Refuse keywords that cannot be enforced.
    pub strict: Option<bool>,
    /// The schema.
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
}

/// A function that the model may call.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseTool {
    /// `function`.
    pub r#type: FunctionType,
    /// Name.
    #[schema(pattern = "^[A-Za-z0-9_-]+$", max_length = 128)]
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// JSON schema of its arguments.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Refuse keywords that cannot be enforced.
    pub strict: Option<bool>,
}

/// An answer and the settings that it was made with.
#[derive(ToSchema)]
#[schema(as = Response)]
pub struct ResponseObject {
    /// `resp_...`.
    pub id: String,
    /// `response`.
    pub object: String,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds.
    pub completed_at: Option<u64>,
    /// How far it is.
    pub status: ResponseStatus,
    /// Extension: the signed receipt, where `x-spillway-receipt` asked for it; at the end.
    pub receipt: Option<crate::receipts::Receipt>,
    /// Why it failed.
    #[schema(value_type = Option<Object>, required)]
    pub error: Option<Value>,
    /// Why it is incomplete.
    #[schema(value_type = Option<Object>, required)]
    pub incomplete_details: Option<Value>,
    /// The model's id.
    pub model: String,
    /// What was said, thought and called.
    #[schema(value_type = Vec<crate::api::responses::items::Item>)]
    pub output: Vec<Value>,
    /// Counts and cost.
    pub usage: Option<ResponseUsage>,
    /// The caller's own tags.
    pub metadata: HashMap<String, String>,
    /// The answer that it goes on from.
    pub previous_response_id: Option<String>,
    /// Whether it is kept.
    pub store: bool,
}

/// How far an answer is.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResponseStatus {
    /// It goes on.
    InProgress,
    /// It ended by itself.
    Completed,
    /// It was cut.
    Incomplete,
    /// The client wanted no more.
    Cancelled,
    /// It broke off.
    Failed,
}

/// Counts and cost.
#[derive(ToSchema)]
pub struct ResponseUsage {
    /// Input tokens, cached ones included.
    pub input_tokens: u32,
    /// Output tokens.
    pub output_tokens: u32,
    /// Both.
    pub total_tokens: u32,
    /// Extension: the settled amount in USD, a decimal string.
    pub cost_usd: String,
}

/// Number of input tokens.
#[derive(ToSchema)]
pub struct InputTokens {
    /// `response.input_tokens`.
    pub object: String,
    /// The count.
    pub input_tokens: u64,
}

/// What was deleted.
#[derive(ToSchema)]
pub struct Deleted {
    /// Its id.
    pub id: String,
    /// `response`.
    pub object: String,
    /// `true`.
    pub deleted: bool,
}
