//! What goes out: the objects of the OpenAI API, field by field.

use serde::Serialize;
use utoipa::ToSchema;

use crate::receipts::Receipt;

/// Token counts of a finished request, and what it cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    /// Input tokens, cached ones included.
    pub prompt_tokens: u32,
    /// Output tokens over all choices.
    pub completion_tokens: u32,
    /// Both.
    pub total_tokens: u32,
    /// Split of the input.
    pub prompt_tokens_details: PromptDetails,
    /// Split of the output.
    pub completion_tokens_details: CompletionDetails,
    /// Extension: the settled amount in USD, a decimal string.
    pub cost_usd: String,
}

/// Split of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PromptDetails {
    /// Tokens whose keys and values were already there.
    pub cached_tokens: u32,
    /// Always 0: text models only.
    pub audio_tokens: u32,
}

/// Split of the output; these models neither reason nor speak.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct CompletionDetails {
    /// Always 0.
    pub reasoning_tokens: u32,
    /// Always 0.
    pub audio_tokens: u32,
    /// Always 0.
    pub accepted_prediction_tokens: u32,
    /// Always 0.
    pub rejected_prediction_tokens: u32,
}

/// The fields that every chunk and every answer share.
#[derive(Clone, Debug, Serialize)]
pub struct Head {
    /// `chatcmpl-...` or `cmpl-...`.
    pub id: String,
    /// The object's name.
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    /// The model's id.
    pub model: String,
    /// Changes when weights or engine change.
    pub system_fingerprint: String,
    /// Tier that served the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<&'static str>,
    /// Extension: the signed receipt, once there is one: in the answer, or in the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Box<Receipt>>,
}

/// An answer or a chunk with choices of kind `C`.
#[derive(Debug, Serialize)]
pub struct Completion<'a, C> {
    /// Shared fields.
    #[serde(flatten)]
    pub head: &'a Head,
    /// Choices; empty in the usage chunk.
    pub choices: Vec<C>,
    /// Absent, `null` (chunks before the usage chunk) or the counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    /// The caller's own tags, given back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<&'a serde_json::Value>,
    /// Padding that hides the length of the delta.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub obfuscation: Option<&'static str>,
}

impl<'a, C> Completion<'a, C> {
    /// Only head and choices.
    pub fn new(head: &'a Head, choices: Vec<C>) -> Self {
        Self { head, choices, usage: None, metadata: None, obfuscation: None }
    }
}

/// A choice of `chat.completion`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChoice {
    /// Position.
    pub index: usize,
    /// The answer.
    pub message: ChatMessage,
    /// Log probabilities when asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub finish_reason: &'static str,
}

/// The assistant's message.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatMessage {
    /// `assistant`.
    pub role: &'static str,
    /// The text; `null` where there are only calls.
    pub content: Option<String>,
    /// Extension: the thinking before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Calls of tools.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Always `null`.
    pub refusal: Option<String>,
    /// Always empty.
    #[schema(value_type = Vec<Object>)]
    pub annotations: [(); 0],
}

/// A call of a tool.
#[derive(Debug, Serialize, ToSchema)]
pub struct ToolCall {
    /// Its id.
    pub id: String,
    /// `function`.
    pub r#type: &'static str,
    /// Name and arguments.
    pub function: FunctionCall,
}

/// Name and arguments of a call.
#[derive(Debug, Serialize, ToSchema)]
pub struct FunctionCall {
    /// Name of the tool.
    pub name: String,
    /// JSON text.
    pub arguments: String,
}

/// What a chunk adds to a call.
#[derive(Debug, Serialize)]
pub struct ToolCallDelta<'a> {
    /// Number of the call.
    pub index: usize,
    /// Its id, in its first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    /// `function`, in its first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<&'static str>,
    /// What is new.
    pub function: FunctionDelta<'a>,
}

/// What a chunk adds to name and arguments.
#[derive(Debug, Serialize)]
pub struct FunctionDelta<'a> {
    /// In its first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    /// More JSON text.
    pub arguments: &'a str,
}

/// A choice of `chat.completion.chunk`.
#[derive(Debug, Serialize)]
pub struct ChatChunkChoice<'a> {
    /// Position.
    pub index: usize,
    /// What is new.
    pub delta: ChatDelta<'a>,
    /// Log probabilities when asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Set in the choice's last chunk.
    pub finish_reason: Option<&'static str>,
}

/// What a chunk adds to the message.
#[derive(Debug, Default, Serialize)]
pub struct ChatDelta<'a> {
    /// In the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// New text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<&'a str>,
    /// Extension: new thinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<&'a str>,
    /// New calls, or more of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<[ToolCallDelta<'a>; 1]>,
    /// `null` in the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Option<()>>,
}

/// Log probabilities in chat form.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// One entry a token.
    pub content: Vec<ChatTokenLogprob>,
    /// Always `null`.
    #[schema(value_type = Option<String>)]
    pub refusal: Option<()>,
}

/// A sampled token and its rivals.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatTokenLogprob {
    /// The token itself.
    #[serde(flatten)]
    pub token: ChatAlternative,
    /// Most likely tokens, best first.
    pub top_logprobs: Vec<ChatAlternative>,
}

/// A token with its probability.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatAlternative {
    /// Text; what is not UTF-8 by itself shows as replacement characters.
    pub token: String,
    /// Natural logarithm of the probability.
    pub logprob: f32,
    /// Exact bytes of the text; none for a control token, which shows by its name alone.
    #[schema(value_type = Vec<u32>)]
    pub bytes: Vec<u8>,
}

/// A choice of `text_completion`, whole or chunk.
#[derive(Debug, Serialize, ToSchema)]
pub struct TextChoice<'a> {
    /// Text or new text.
    pub text: &'a str,
    /// Position.
    pub index: usize,
    /// Log probabilities when asked for.
    pub logprobs: Option<TextLogprobs>,
    /// Why it ended.
    pub finish_reason: Option<&'static str>,
}

/// Log probabilities in the older form: parallel lists.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct TextLogprobs {
    /// Tokens as text.
    pub tokens: Vec<String>,
    /// Their log probabilities; `null` for the first token of all.
    pub token_logprobs: Vec<Option<f32>>,
    /// Most likely tokens at each place; `null` for the first token of all.
    #[schema(value_type = Vec<Option<std::collections::HashMap<String, f32>>>)]
    pub top_logprobs: Vec<Option<serde_json::Map<String, serde_json::Value>>>,
    /// Where each token starts, in characters of the text.
    pub text_offset: Vec<usize>,
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    /// Name to use in requests.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// Unix seconds of the load.
    pub created: u64,
    /// Who made it.
    pub owned_by: String,
    /// Extension: name for people.
    pub name: String,
    /// Extension: `chat`, `embedding` or `rerank`.
    pub kind: &'static str,
    /// Extension: most tokens of prompt and answer together, or of one input.
    pub context_length: usize,
    /// Extension: most tokens of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<usize>,
    /// Extension: values of a vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<usize>,
    /// Extension: how rerank and score compare texts: `cross_encoder` or `embedding_cosine`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerank_method: Option<&'static str>,
    /// Extension: optional request fields that are honoured.
    pub supported_parameters: Vec<&'static str>,
    /// Extension: service tiers it is sold at.
    pub tiers: Vec<String>,
    /// Extension: prices in force, by tier.
    pub pricing: std::collections::BTreeMap<String, Prices>,
    /// Extension: what it can do at once, and does.
    pub capacity: Capacity,
}

/// Prices of one tier, decimal strings.
#[derive(Debug, Serialize, ToSchema)]
pub struct Prices {
    /// `USD per 1M tokens`.
    pub unit: &'static str,
    /// For prompt tokens that are computed.
    pub uncached_input: String,
    /// For prompt tokens found in the cache.
    pub cached_input: String,
    /// For generated tokens.
    pub output: String,
}

/// Load of a model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Capacity {
    /// Most sequences in one batch; absent where only tokens bound it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<usize>,
    /// Sequences or requests in the works.
    pub running: usize,
}

/// The list of models.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// Models.
    pub data: Vec<Model>,
}
