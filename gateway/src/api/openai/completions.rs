//! `POST /v1/completions`.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use bytes::Bytes;
use engine::{Engine, TokenLogprob};
use serde_json::Value;

use super::completion_request;
use super::params::Common;
use super::surface::{ChunkOptions, closing, finish_reason, head, token_text, whole};
use super::wire::{Completion, Head, TextChoice, TextLogprobs};
use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::body::read_json;
use crate::api::error::ApiResult;
use crate::api::generation::{Choice, Ending, Generation, Piece, Surface, text_logprobs};
use crate::api::json::Json;
use crate::api::sse;
use crate::money::Tokens;
use crate::serving::Receipt;

/// Continues one or many prompts, at once or as a stream.
pub async fn create(
    State(api): State<Shared>,
    caller: Caller,
    request: Request,
) -> ApiResult<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = read_json(&parts.headers, body, api.body).await?;
    let (generation, surface) = prepare(&api, &caller, body)?;
    generation.respond(&api, &caller, surface, parts.extensions.get().cloned()).await
}

/// Reads a body: what to generate, and how to shape the answer.
pub fn prepare(api: &Shared, caller: &Caller, body: Json) -> ApiResult<(Generation, Text)> {
    let Common { generation, options } = completion_request::read(body, &api.limits)?;
    let engine = api.engine_of(&generation.model)?;
    let surface = Text {
        head: head(engine, caller, "cmpl", "text_completion"),
        options,
        logprobs: generation.logprobs.is_some(),
        offsets: vec![0; generation.choices()],
        metadata: generation.metadata.clone(),
        engine: engine.clone(),
    };
    Ok((generation, surface))
}

/// Shapes text completions.
pub struct Text {
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
        let engine = self.engine.clone();
        let tokenizer = engine.tokenizer();
        let mut lists = TextLogprobs::default();
        for entry in text_logprobs(&engine, entries) {
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
    fn open(&mut self, _choices: usize, _input: Tokens) -> Bytes {
        Bytes::new()
    }

    fn piece(&mut self, choice: usize, piece: &Piece) -> Bytes {
        let logprobs = self.logprobs(choice, &piece.logprobs);
        self.chunk(TextChoice { text: &piece.text(), index: choice, logprobs, finish_reason: None })
    }

    fn end(&mut self, choice: usize, rest: &Piece, ending: &Ending) -> Bytes {
        let logprobs = self.logprobs(choice, &rest.logprobs).filter(|logprobs| !logprobs.tokens.is_empty());
        let finish_reason = Some(finish_reason(ending));
        self.chunk(TextChoice { text: &rest.text(), index: choice, logprobs, finish_reason })
    }

    fn close(&mut self, receipt: &Receipt) -> Bytes {
        closing::<TextChoice<'_>>(&self.head, self.options, receipt)
    }

    fn answer(&mut self, choices: Vec<Choice>, receipt: &Receipt) -> Vec<u8> {
        let texts: Vec<String> = choices.iter().map(Choice::text).collect();
        let shaped = choices.iter().zip(&texts).enumerate().map(|(index, (choice, text))| TextChoice {
            text,
            index,
            logprobs: self.logprobs(index, &choice.logprobs),
            finish_reason: Some(finish_reason(&choice.ending)),
        });
        let shaped = shaped.collect();
        whole(&self.head, shaped, self.metadata.as_ref(), receipt)
    }
}
