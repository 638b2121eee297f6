//! Chat and text completions in the document.

use std::collections::HashMap;

use serde_json::Value;
use utoipa::ToSchema;

use super::parts::{Message, Prompt, ResponseFormat, StructuredOutputs, Tool, ToolChoice};
use crate::api::openai::wire::{ChatChoice, Usage};
use crate::receipts::Receipt;

/// Name of a model, as `/v1/models` lists it.
#[derive(ToSchema)]
#[schema(examples("smollm2-135m-instruct"))]
pub struct ModelId(pub String);

/// Declares the body of a request that generates: its own fields and those that say how to choose tokens.
macro_rules! generating {
    ($(#[$meta:meta])* $name:ident { $($own:tt)* }) => {
        #[derive(ToSchema)]
        $(#[$meta])*
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($own)*
            /// Name of the model.
            pub model: ModelId,
            /// Answer as server-sent events.
            pub stream: Option<bool>,
            /// `default`, `flex`, `priority`, `scale`, `auto` and their synonyms.
            #[schema(max_length = 64)]
            pub service_tier: Option<String>,
            /// Seconds from the request's arrival until the whole answer has to be there. What cannot be kept is refused at once;
            /// what is missed ends there and costs nothing.
            #[schema(minimum = 0.001, maximum = 86400)]
            pub deadline: Option<f64>,
            /// Most that the request may cost, USD as a decimal string. It bounds the output where nothing else does.
            #[schema(max_length = 40)]
            pub max_price: Option<String>,
            /// Pairs that the answer gives back and reports can be grouped by.
            pub metadata: Option<HashMap<String, String>>,
            /// A label; changes nothing.
            pub user: Option<String>,
            /// A label; goes before `user`.
            pub safety_identifier: Option<String>,
            /// A hint that one server has no use for.
            #[schema(max_length = 1024)]
            pub prompt_cache_key: Option<String>,
            /// Equal seeds give equal answers.
            pub seed: Option<i64>,
            /// 0 is greedy; unset: as the model's card says.
            #[schema(minimum = 0, maximum = 2)]
            pub temperature: Option<f64>,
            /// Smallest set of tokens with this much probability.
            #[schema(minimum = 0, maximum = 1)]
            pub top_p: Option<f64>,
            /// Most likely tokens; 0 and -1: all.
            #[schema(minimum = -1)]
            pub top_k: Option<i32>,
            /// Least probability, as a part of the likeliest token's.
            #[schema(minimum = 0, maximum = 1)]
            pub min_p: Option<f64>,
            /// Taken from the logits of tokens that were said.
            #[schema(minimum = -2, maximum = 2)]
            pub presence_penalty: Option<f64>,
            /// The same for each time.
            #[schema(minimum = -2, maximum = 2)]
            pub frequency_penalty: Option<f64>,
            /// Divides the logits of tokens that were said.
            #[schema(minimum = 0.01, maximum = 100)]
            pub repetition_penalty: Option<f64>,
            /// Token ids and what is added to their logits.
            pub logit_bias: Option<HashMap<String, f64>>,
            /// Tokens before the answer may end.
            #[schema(minimum = 0)]
            pub min_tokens: Option<i32>,
            /// Go on after the model's end.
            pub ignore_eos: Option<bool>,
            /// Strings at which the answer ends.
            pub stop: Option<$crate::api::openapi::parts::OneOrMany>,
            /// Tokens at which the answer ends.
            #[schema(max_items = 64)]
            pub stop_token_ids: Option<Vec<u32>>,
            /// How to stream.
            pub stream_options: Option<$crate::api::openapi::parts::StreamOptions>,
        }
    };
}
pub(super) use generating;

generating! {
    /// A conversation to answer.
    #[schema(example = json!({
        "model": "smollm2-135m-instruct", "max_tokens": 16,
        "messages": [{"role": "user", "content": "Name three rivers."}],
    }))]
    ChatRequest {
        /// What was said so far.
        #[schema(min_items = 1)]
        pub messages: Vec<Message>,
        /// Choices.
        #[schema(minimum = 1)]
        pub n: Option<u32>,
        /// Most tokens of the answer.
        #[schema(minimum = 1)]
        pub max_tokens: Option<i32>,
        /// The same by its newer name.
        #[schema(minimum = 1)]
        pub max_completion_tokens: Option<i32>,
        /// Tell the probability of each token.
        pub logprobs: Option<bool>,
        /// And those of its rivals; needs `logprobs`.
        #[schema(minimum = 0, maximum = 20)]
        pub top_logprobs: Option<u32>,
        /// Functions that the model may call.
        pub tools: Option<Vec<Tool>>,
        /// Whether it may, must, and which.
        pub tool_choice: Option<ToolChoice>,
        /// Several calls in one answer.
        pub parallel_tool_calls: Option<bool>,
        /// Form of the answer.
        pub response_format: Option<ResponseFormat>,
        /// Extension: forms beyond JSON.
        pub structured_outputs: Option<StructuredOutputs>,
        /// `["text"]`.
        #[schema(max_items = 8)]
        pub modalities: Option<Vec<String>>,
        /// `none`.
        #[schema(max_length = 64)]
        pub reasoning_effort: Option<String>,
        /// `false`: chats are not kept.
        pub store: Option<bool>,
        /// Refused: use `tools`.
        pub functions: Option<Value>,
        /// Refused: use `tool_choice`.
        pub function_call: Option<Value>,
    }
}

generating! {
    /// Texts to continue.
    #[schema(example = json!({"model": "smollm2-135m-instruct", "prompt": "The capital of France is", "max_tokens": 8}))]
    CompletionRequest {
        /// A text, token ids, or a list of either.
        pub prompt: Prompt,
        /// Choices of each prompt.
        #[schema(minimum = 1)]
        pub n: Option<u32>,
        /// Most tokens of each answer; with 0 the prompt is only scored.
        #[schema(minimum = 0)]
        pub max_tokens: Option<i32>,
        /// Likeliest tokens to tell the probability of.
        #[schema(minimum = 0, maximum = 5)]
        pub logprobs: Option<u32>,
        /// Repeat the prompt in the answer.
        pub echo: Option<bool>,
        /// Only the empty one.
        pub suffix: Option<String>,
        /// Extension: form of the answer.
        pub structured_outputs: Option<StructuredOutputs>,
        /// `false`: completions are not kept.
        pub store: Option<bool>,
    }
}

/// An answer.
#[derive(ToSchema)]
pub struct ChatCompletion {
    /// `chatcmpl-...`.
    pub id: String,
    /// `chat.completion`.
    pub object: String,
    /// Unix seconds.
    pub created: u64,
    /// The model's id.
    pub model: String,
    /// Changes when weights or engine change.
    pub system_fingerprint: String,
    /// Tier that served the request.
    pub service_tier: Option<String>,
    /// Choices.
    pub choices: Vec<ChatChoice>,
    /// Counts and cost.
    pub usage: Usage,
    /// Extension: the signed receipt, where `x-spillway-receipt` asks for it.
    pub receipt: Option<Receipt>,
    /// The caller's own tags.
    pub metadata: Option<HashMap<String, String>>,
}

/// A continuation.
#[derive(ToSchema)]
pub struct TextCompletion {
    /// `cmpl-...`.
    pub id: String,
    /// `text_completion`.
    pub object: String,
    /// Unix seconds.
    pub created: u64,
    /// The model's id.
    pub model: String,
    /// Changes when weights or engine change.
    pub system_fingerprint: String,
    /// Tier that served the request.
    pub service_tier: Option<String>,
    /// Choices.
    #[schema(value_type = Vec<crate::api::openai::wire::TextChoice>)]
    pub choices: Vec<Value>,
    /// Counts and cost.
    pub usage: Usage,
    /// Extension: the signed receipt, where `x-spillway-receipt` asks for it.
    pub receipt: Option<Receipt>,
    /// The caller's own tags.
    pub metadata: Option<HashMap<String, String>>,
}
