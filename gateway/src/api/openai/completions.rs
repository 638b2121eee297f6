//! `POST /v1/completions`.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use bytes::Bytes;
use engine::{Engine, TokenLogprob};
use serde_json::Value;

use super::completion_request::CompletionRequest;
use super::surface::{ChunkOptions, Collected, Piece, Surface, head, text_logprobs, token_text};
use super::wire::{Completion, Head, TextChoice, TextLogprobs, Usage};
use super::{stream, unary};
use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::body::read_json;
use crate::api::error::ApiResult;
use crate::api::scope::random;
use crate::api::sse;
use crate::serving::Job;

/// Continues one or many prompts, at once or as a stream.
pub async fn create(
    State(api): State<Shared>,
    caller: Caller,
    request: Request,
) -> ApiResult<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = read_json(&parts.headers, body, api.body).await?;
    let CompletionRequest { common, prompts, max_tokens, logprobs } =
        CompletionRequest::read(body, &api.limits)?;
    let engine = api.engine_of(&common.model)?;
    let mut sampling = common.sampling(engine.card(), engine.tokenizer().vocab_size(), logprobs)?;
    sampling.seed = common.seed.map_or_else(|| u64::from_ne_bytes(random()), i64::cast_unsigned);
    let choices = prompts.len() * common.n as usize;
    let job = Job {
        request_id: caller.scope.request_id.clone(),
        endpoint: "/v1/completions",
        identity: caller.identity.clone(),
        prompts,
        n: common.n,
        max_tokens: Some(max_tokens),
        sampling,
        stop: common.stop,
        wire: parts.extensions.get().cloned(),
        stream: common.stream,
        arrived: caller.scope.arrived,
    };
    let flight = caller.admit(&api, job).await?;
    let surface = Text {
        head: head(&api, &caller, "cmpl", "text_completion"),
        options: ChunkOptions { include_usage: common.include_usage, obfuscate: common.obfuscate },
        logprobs: logprobs.is_some(),
        offsets: vec![0; choices],
        metadata: common.metadata,
        engine: engine.clone(),
    };
    if common.stream {
        return Ok(stream::respond(flight, surface, choices, common.include_usage));
    }
    unary::respond(flight, surface, choices).await
}

struct Text {
    head: Head,
    options: ChunkOptions,
    logprobs: bool,
    /// Characters that each choice has said.
    offsets: Vec<usize>,
    metadata: Option<Value>,
    engine: Engine,
}

impl Text {
    fn chunk(&self, choice: TextChoice<'_>) -> Bytes {
        let text_bytes = choice.text.len();
        let mut chunk = Completion::new(&self.head, vec![choice]);
        chunk.usage = self.options.no_usage();
        chunk.obfuscation = self.options.padding(text_bytes);
        sse::data(&chunk)
    }

    fn logprobs(&mut self, choice: usize, entries: &[TokenLogprob]) -> Option<TextLogprobs> {
        if !self.logprobs {
            return None;
        }
        let tokenizer = self.engine.tokenizer();
        let mut lists = TextLogprobs::default();
        for entry in text_logprobs(tokenizer, entries) {
            let text = token_text(tokenizer, entry.token);
            let top = entry
                .top
                .iter()
                .map(|&(token, logprob)| (token_text(tokenizer, token), Value::from(logprob)));
            lists.text_offset.push(self.offsets[choice]);
            self.offsets[choice] += text.chars().count();
            lists.tokens.push(text);
            lists.token_logprobs.push(entry.logprob);
            lists.top_logprobs.push(top.collect());
        }
        Some(lists)
    }
}

impl Surface for Text {
    fn opening(&self, _choice: usize) -> Option<Bytes> {
        None
    }

    fn piece(&mut self, choice: usize, piece: &Piece) -> Bytes {
        let logprobs = self.logprobs(choice, &piece.logprobs);
        self.chunk(TextChoice { text: &piece.text, index: choice, logprobs, finish_reason: None })
    }

    fn finish(&mut self, choice: usize, rest: &Piece, reason: &'static str) -> Bytes {
        let logprobs = self.logprobs(choice, &rest.logprobs).filter(|logprobs| !logprobs.tokens.is_empty());
        self.chunk(TextChoice { text: "", index: choice, logprobs, finish_reason: Some(reason) })
    }

    fn usage(&self, usage: Usage) -> Bytes {
        let mut chunk: Completion<'_, TextChoice<'_>> = Completion::new(&self.head, Vec::new());
        chunk.usage = Some(Some(usage));
        sse::data(&chunk)
    }

    fn answer(&mut self, choices: Vec<Collected>, usage: Usage) -> Vec<u8> {
        let shaped = choices.iter().enumerate().map(|(index, choice)| TextChoice {
            text: &choice.output.text,
            index,
            logprobs: self.logprobs(index, &choice.output.logprobs),
            finish_reason: Some(choice.finish_reason),
        });
        let shaped = shaped.collect();
        let mut answer = Completion::new(&self.head, shaped);
        answer.usage = Some(Some(usage));
        answer.metadata = self.metadata.as_ref();
        serde_json::to_vec(&answer).expect("wire structs have string keys and no failing serializers")
    }
}
