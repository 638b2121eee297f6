//! `POST /v1/chat/completions`.

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use bytes::Bytes;
use engine::{Engine, Tier, TokenLogprob};

use super::chat_request;
use super::params::Common;
use super::surface::{ChunkOptions, closing, failing, finish_reason, head, token_logprob, whole};
use super::wire::{
    ChatChoice, ChatChunkChoice, ChatDelta, ChatLogprobs, ChatMessage, Completion, FunctionCall,
    FunctionDelta, Head, ToolCall, ToolCallDelta,
};
use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::body::Asked;
use crate::api::error::{ApiError, ApiResult};
use crate::api::generation::{Choice, Ending, Generation, Part, Piece, Surface};
use crate::api::json::Json;
use crate::api::sse;
use crate::money::Tokens;
use crate::receipts::Receipt as Signed;
use crate::serving::Receipt;

/// Answers a conversation, at once or as a stream.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    operation_id = "createChatCompletion",
    tag = "chat",
    request_body = crate::api::openapi::chat::ChatRequest,
    responses((status = 200, description = "The answer, or its chunks.", content((crate::api::openapi::chat::ChatCompletion = "application/json"), (String = "text/event-stream")))),
)]
pub async fn create(
    State(api): State<Shared>,
    caller: Caller,
    Asked(body): Asked,
) -> ApiResult<Response<Body>> {
    let (generation, surface) = prepare(&api, &caller, body)?;
    generation.respond(&api, &caller, surface).await
}

/// Reads a body: what to generate, and how to shape the answer.
pub fn prepare(api: &Shared, caller: &Caller, body: Json) -> ApiResult<(Generation, Chat)> {
    let Common { generation, options } = chat_request::read(body, &api.limits)?;
    let engine = api.engine_of(&caller.identity, &generation.model)?;
    let object = if generation.stream { "chat.completion.chunk" } else { "chat.completion" };
    let tier = caller.tier(api, generation.tier)?;
    let surface = Chat {
        head: head(engine, caller, tier, "chatcmpl", object),
        options,
        logprobs: generation.logprobs.is_some(),
        metadata: generation.metadata.clone(),
        engine: engine.clone(),
    };
    Ok((generation, surface))
}

/// Shapes chat answers.
pub struct Chat {
    head: Head,
    options: ChunkOptions,
    logprobs: bool,
    metadata: Option<serde_json::Value>,
    engine: Engine,
}

impl Chat {
    fn chunk(&self, choice: ChatChunkChoice<'_>) -> Bytes {
        let call = choice.delta.tool_calls.as_ref().map(|[call]| call.function.arguments);
        let text = choice.delta.content.or(choice.delta.reasoning_content).or(call);
        let text_bytes = text.map_or(0, str::len);
        let mut chunk = Completion::new(&self.head, vec![choice]);
        chunk.usage = self.options.no_usage();
        chunk.obfuscation = self.options.padding(text_bytes);
        sse::data(&chunk)
    }

    /// The first chunk of a choice.
    fn role(&self, choice: usize) -> Bytes {
        let delta = ChatDelta {
            role: Some("assistant"),
            content: Some(""),
            refusal: Some(None),
            ..ChatDelta::default()
        };
        let choice = ChatChunkChoice { index: choice, delta, logprobs: None, finish_reason: None };
        let mut chunk = Completion::new(&self.head, vec![choice]);
        chunk.usage = self.options.no_usage();
        chunk.metadata = self.metadata.as_ref();
        chunk.obfuscation = self.options.padding(0);
        sse::data(&chunk)
    }

    fn logprobs(&self, entries: &[TokenLogprob]) -> Option<ChatLogprobs> {
        let entry = |entry: &TokenLogprob| token_logprob(self.engine.tokenizer(), entry);
        self.logprobs.then(|| ChatLogprobs { content: entries.iter().map(entry).collect(), refusal: None })
    }
}

impl Chat {
    /// A chunk for each part, and a last one with the reason where there is one. The first carries the log probabilities.
    fn parts(&self, index: usize, piece: &Piece, finish_reason: Option<&'static str>) -> Vec<u8> {
        let mut logprobs = self.logprobs(&piece.logprobs).filter(|logprobs| !logprobs.content.is_empty());
        let mut bytes = Vec::new();
        let mut push = |delta, finish_reason| {
            let logprobs = logprobs.take();
            bytes.extend(self.chunk(ChatChunkChoice { index, delta, logprobs, finish_reason }));
        };
        for part in &piece.parts {
            push(delta(part), None);
        }
        if finish_reason.is_some() {
            push(ChatDelta::default(), finish_reason);
        }
        bytes
    }
}

fn delta(part: &Part) -> ChatDelta<'_> {
    match part {
        Part::Text(text) => ChatDelta { content: Some(text), ..ChatDelta::default() },
        Part::Reasoning(text) => ChatDelta { reasoning_content: Some(text), ..ChatDelta::default() },
        Part::CallStart { index, id, name } => {
            let function = FunctionDelta { name: Some(name), arguments: "" };
            let call = ToolCallDelta { index: *index, id: Some(id), r#type: Some("function"), function };
            ChatDelta { tool_calls: Some([call]), ..ChatDelta::default() }
        }
        Part::CallArguments { index, text } => {
            let function = FunctionDelta { name: None, arguments: text };
            let call = ToolCallDelta { index: *index, id: None, r#type: None, function };
            ChatDelta { tool_calls: Some([call]), ..ChatDelta::default() }
        }
    }
}

/// The message of a whole answer.
fn message(parts: Vec<Part>) -> ChatMessage {
    let (mut content, mut reasoning) = (String::new(), String::new());
    let mut tool_calls: Vec<ToolCall> = Vec::new();
    for part in parts {
        match part {
            Part::Text(text) => content.push_str(&text),
            Part::Reasoning(text) => reasoning.push_str(&text),
            Part::CallStart { id, name, .. } => {
                let function = FunctionCall { name, arguments: String::new() };
                tool_calls.push(ToolCall { id, r#type: "function", function });
            }
            Part::CallArguments { index, text } => {
                if let Some(call) = tool_calls.get_mut(index) {
                    call.function.arguments.push_str(&text);
                }
            }
        }
    }
    ChatMessage {
        role: "assistant",
        content: (!content.is_empty() || tool_calls.is_empty()).then_some(content),
        reasoning_content: (!reasoning.is_empty()).then_some(reasoning),
        tool_calls,
        refusal: None,
        annotations: [],
    }
}

impl Surface for Chat {
    fn served(&mut self, tier: Tier) {
        self.head.service_tier = Some(tier.name());
    }

    fn open(&mut self, choices: usize, _input: Tokens) -> Bytes {
        (0..choices).map(|choice| self.role(choice)).collect::<Vec<_>>().concat().into()
    }

    fn piece(&mut self, choice: usize, piece: &Piece) -> Bytes {
        self.parts(choice, piece, None).into()
    }

    fn end(&mut self, choice: usize, rest: &Piece, ending: &Ending) -> Bytes {
        self.parts(choice, rest, Some(finish_reason(ending))).into()
    }

    fn signed(&mut self, receipt: Box<Signed>) {
        self.head.receipt = Some(receipt);
    }

    fn close(&mut self, receipt: &Receipt) -> Bytes {
        closing::<ChatChunkChoice<'_>>(&self.head, self.options, receipt)
    }

    fn fail(&mut self, error: &ApiError) -> Bytes {
        failing(&self.head, error)
    }

    fn answer(&mut self, choices: Vec<Choice>, receipt: &Receipt) -> Vec<u8> {
        let choice = |(index, choice): (usize, Choice)| ChatChoice {
            index,
            logprobs: self.logprobs(&choice.logprobs),
            finish_reason: finish_reason(&choice.ending),
            message: message(choice.parts),
        };
        let choices = choices.into_iter().enumerate().map(choice).collect();
        whole(&self.head, choices, self.metadata.as_ref(), receipt)
    }
}
