//! `POST /v1/chat/completions`.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use bytes::Bytes;
use engine::{Engine, TokenLogprob};

use super::chat_request::ChatRequest;
use super::surface::{ChunkOptions, Collected, Piece, Surface, head, text_logprobs, token_text};
use super::wire::{
    ChatAlternative, ChatChoice, ChatChunkChoice, ChatDelta, ChatLogprobs, ChatMessage, ChatTokenLogprob,
    Completion, Head, Usage,
};
use super::{stream, unary};
use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::body::read_json;
use crate::api::error::ApiResult;
use crate::api::scope::random;
use crate::api::sse;
use crate::serving::{Job, PromptInput};

/// Answers a conversation, at once or as a stream.
pub async fn create(
    State(api): State<Shared>,
    caller: Caller,
    request: Request,
) -> ApiResult<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = read_json(&parts.headers, body, api.body).await?;
    let ChatRequest { common, messages, max_tokens, logprobs } = ChatRequest::read(body, &api.limits)?;
    let engine = api.engine_of(&common.model)?;
    let mut sampling = common.sampling(engine.card(), engine.tokenizer().vocab_size(), logprobs)?;
    sampling.seed = common.seed.map_or_else(|| u64::from_ne_bytes(random()), i64::cast_unsigned);
    let job = Job {
        request_id: caller.scope.request_id.clone(),
        endpoint: "/v1/chat/completions",
        identity: caller.identity.clone(),
        prompts: vec![PromptInput::Chat(messages)],
        n: common.n,
        max_tokens,
        sampling,
        stop: common.stop,
        wire: parts.extensions.get().cloned(),
        stream: common.stream,
        arrived: caller.scope.arrived,
    };
    let flight = caller.admit(&api, job).await?;
    let object = if common.stream { "chat.completion.chunk" } else { "chat.completion" };
    let surface = Chat {
        head: head(&api, &caller, "chatcmpl", object),
        options: ChunkOptions { include_usage: common.include_usage, obfuscate: common.obfuscate },
        logprobs: logprobs.is_some(),
        metadata: common.metadata,
        engine: engine.clone(),
    };
    let choices = common.n as usize;
    if common.stream {
        return Ok(stream::respond(flight, surface, choices, common.include_usage));
    }
    unary::respond(flight, surface, choices).await
}

struct Chat {
    head: Head,
    options: ChunkOptions,
    logprobs: bool,
    metadata: Option<serde_json::Value>,
    engine: Engine,
}

impl Chat {
    fn chunk(&self, choice: ChatChunkChoice<'_>) -> Bytes {
        let text_bytes = choice.delta.content.map_or(0, str::len);
        let mut chunk = Completion::new(&self.head, vec![choice]);
        chunk.usage = self.options.no_usage();
        chunk.obfuscation = self.options.padding(text_bytes);
        sse::data(&chunk)
    }

    fn logprobs(&self, entries: &[TokenLogprob]) -> Option<ChatLogprobs> {
        let tokenizer = self.engine.tokenizer();
        let alternative = |token: u32, logprob: f32| ChatAlternative {
            token: token_text(tokenizer, token),
            logprob,
            bytes: tokenizer.token_bytes(token).to_vec(),
        };
        let entry = |entry: &TokenLogprob| ChatTokenLogprob {
            token: alternative(entry.token, entry.logprob),
            top_logprobs: entry.top.iter().map(|&(token, logprob)| alternative(token, logprob)).collect(),
        };
        self.logprobs.then(|| ChatLogprobs {
            content: text_logprobs(tokenizer, entries).map(entry).collect(),
            refusal: None,
        })
    }
}

impl Surface for Chat {
    fn opening(&self, choice: usize) -> Option<Bytes> {
        let delta = ChatDelta { role: Some("assistant"), content: Some(""), refusal: Some(None) };
        let choice = ChatChunkChoice { index: choice, delta, logprobs: None, finish_reason: None };
        let mut chunk = Completion::new(&self.head, vec![choice]);
        chunk.usage = self.options.no_usage();
        chunk.metadata = self.metadata.as_ref();
        chunk.obfuscation = self.options.padding(0);
        Some(sse::data(&chunk))
    }

    fn piece(&mut self, choice: usize, piece: &Piece) -> Bytes {
        let delta = ChatDelta { content: Some(&piece.text), ..ChatDelta::default() };
        let logprobs = self.logprobs(&piece.logprobs);
        self.chunk(ChatChunkChoice { index: choice, delta, logprobs, finish_reason: None })
    }

    fn finish(&mut self, choice: usize, rest: &Piece, reason: &'static str) -> Bytes {
        let logprobs = self.logprobs(&rest.logprobs).filter(|logprobs| !logprobs.content.is_empty());
        let delta = ChatDelta::default();
        self.chunk(ChatChunkChoice { index: choice, delta, logprobs, finish_reason: Some(reason) })
    }

    fn usage(&self, usage: Usage) -> Bytes {
        let mut chunk: Completion<'_, ChatChunkChoice<'_>> = Completion::new(&self.head, Vec::new());
        chunk.usage = Some(Some(usage));
        sse::data(&chunk)
    }

    fn answer(&mut self, choices: Vec<Collected>, usage: Usage) -> Vec<u8> {
        let choice = |(index, choice): (usize, Collected)| ChatChoice {
            index,
            logprobs: self.logprobs(&choice.output.logprobs),
            message: ChatMessage {
                role: "assistant",
                content: choice.output.text,
                refusal: None,
                annotations: [],
            },
            finish_reason: choice.finish_reason,
        };
        let choices = choices.into_iter().enumerate().map(choice).collect();
        let mut answer = Completion::new(&self.head, choices);
        answer.usage = Some(Some(usage));
        answer.metadata = self.metadata.as_ref();
        serde_json::to_vec(&answer).expect("wire structs have string keys and no failing serializers")
    }
}
