//! `POST /v1/chat/completions`.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use bytes::Bytes;
use engine::{Engine, TokenLogprob};

use super::chat_request;
use super::params::Common;
use super::surface::{ChunkOptions, closing, finish_reason, head, token_logprob, whole};
use super::wire::{ChatChoice, ChatChunkChoice, ChatDelta, ChatLogprobs, ChatMessage, Completion, Head};
use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::body::read_json;
use crate::api::error::ApiResult;
use crate::api::generation::{Choice, Ending, Generation, Piece, Surface, text_logprobs};
use crate::api::json::Json;
use crate::api::sse;
use crate::money::Tokens;
use crate::serving::Receipt;

/// Answers a conversation, at once or as a stream.
pub async fn create(
    State(api): State<Shared>,
    caller: Caller,
    request: Request,
) -> ApiResult<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = read_json(&caller.scope, &parts.headers, body, api.body).await?;
    let (generation, surface) = prepare(&api, &caller, body)?;
    generation.respond(&api, &caller, surface, parts.extensions.get().cloned()).await
}

/// Reads a body: what to generate, and how to shape the answer.
pub fn prepare(api: &Shared, caller: &Caller, body: Json) -> ApiResult<(Generation, Chat)> {
    let Common { generation, options } = chat_request::read(body, &api.limits)?;
    let engine = api.engine_of(&generation.model)?;
    let object = if generation.stream { "chat.completion.chunk" } else { "chat.completion" };
    let tier = api.serving.tiers.choose(&caller.identity, generation.tier)?;
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
        let text_bytes = choice.delta.content.map_or(0, str::len);
        let mut chunk = Completion::new(&self.head, vec![choice]);
        chunk.usage = self.options.no_usage();
        chunk.obfuscation = self.options.padding(text_bytes);
        sse::data(&chunk)
    }

    /// The first chunk of a choice.
    fn role(&self, choice: usize) -> Bytes {
        let delta = ChatDelta { role: Some("assistant"), content: Some(""), refusal: Some(None) };
        let choice = ChatChunkChoice { index: choice, delta, logprobs: None, finish_reason: None };
        let mut chunk = Completion::new(&self.head, vec![choice]);
        chunk.usage = self.options.no_usage();
        chunk.metadata = self.metadata.as_ref();
        chunk.obfuscation = self.options.padding(0);
        sse::data(&chunk)
    }

    fn logprobs(&self, entries: &[TokenLogprob]) -> Option<ChatLogprobs> {
        let entry = |entry: &TokenLogprob| token_logprob(self.engine.tokenizer(), entry);
        self.logprobs.then(|| ChatLogprobs {
            content: text_logprobs(&self.engine, entries).map(entry).collect(),
            refusal: None,
        })
    }
}

impl Surface for Chat {
    fn open(&mut self, choices: usize, _input: Tokens) -> Bytes {
        (0..choices).map(|choice| self.role(choice)).collect::<Vec<_>>().concat().into()
    }

    fn piece(&mut self, choice: usize, piece: &Piece) -> Bytes {
        let text = piece.text();
        let delta = ChatDelta { content: Some(&text), ..ChatDelta::default() };
        let logprobs = self.logprobs(&piece.logprobs);
        self.chunk(ChatChunkChoice { index: choice, delta, logprobs, finish_reason: None })
    }

    fn end(&mut self, choice: usize, rest: &Piece, ending: &Ending) -> Bytes {
        let finish_reason = Some(finish_reason(ending));
        let last = |logprobs| ChatChunkChoice {
            index: choice,
            delta: ChatDelta::default(),
            logprobs,
            finish_reason,
        };
        if rest.parts.is_empty() {
            let logprobs = self.logprobs(&rest.logprobs).filter(|logprobs| !logprobs.content.is_empty());
            return self.chunk(last(logprobs));
        }
        [self.piece(choice, rest), self.chunk(last(None))].concat().into()
    }

    fn close(&mut self, receipt: &Receipt) -> Bytes {
        closing::<ChatChunkChoice<'_>>(&self.head, self.options, receipt)
    }

    fn answer(&mut self, choices: Vec<Choice>, receipt: &Receipt) -> Vec<u8> {
        let choice = |(index, choice): (usize, Choice)| ChatChoice {
            index,
            logprobs: self.logprobs(&choice.logprobs),
            message: ChatMessage {
                role: "assistant",
                content: choice.text(),
                refusal: None,
                annotations: [],
            },
            finish_reason: finish_reason(&choice.ending),
        };
        let choices = choices.into_iter().enumerate().map(choice).collect();
        whole(&self.head, choices, self.metadata.as_ref(), receipt)
    }
}
