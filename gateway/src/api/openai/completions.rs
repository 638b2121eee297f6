//! `POST /v1/completions`.

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use bytes::Bytes;
use engine::{Engine, Tier, TokenLogprob};
use models::Tokenizer;
use serde_json::{Map, Value};

use super::completion_request;
use super::params::Common;
use super::surface::{ChunkOptions, closing, failing, finish_reason, head, token_text, whole};
use super::wire::{Completion, Head, TextChoice, TextLogprobs};
use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::body::Asked;
use crate::api::error::{ApiError, ApiResult};
use crate::api::generation::{Choice, Ending, Generation, Piece, Surface};
use crate::api::json::Json;
use crate::api::sse;
use crate::money::Tokens;
use crate::receipts::Receipt as Signed;
use crate::serving::{PromptInput, Receipt};

/// Continues one or many prompts, at once or as a stream.
#[utoipa::path(
    post,
    path = "/v1/completions",
    operation_id = "createCompletion",
    tag = "chat",
    request_body = crate::api::openapi::chat::CompletionRequest,
    responses((status = 200, description = "The continuations, or their chunks.", content((crate::api::openapi::chat::TextCompletion = "application/json"), (String = "text/event-stream")))),
)]
pub async fn create(
    State(api): State<Shared>,
    caller: Caller,
    Asked(body): Asked,
) -> ApiResult<Response<Body>> {
    let (generation, surface) = prepare(&api, &caller, body).await?;
    generation.respond(&api, &caller, surface).await
}

/// Reads a body: what to generate, and how to shape the answer.
pub async fn prepare(api: &Shared, caller: &Caller, body: Json) -> ApiResult<(Generation, Text)> {
    let (Common { mut generation, options }, echo) = completion_request::read(body, &api.limits)?;
    let engine = api.engine_of(&caller.identity, &generation.model)?;
    let tier = caller.tier(api, generation.tier)?;
    let mut echoes = Vec::new();
    if echo {
        for prompt in &mut generation.prompts {
            echoes.push(Echo::of(prompt, engine).await?);
        }
    }
    let surface = Text {
        head: head(engine, caller, tier, "cmpl", "text_completion"),
        options,
        logprobs: generation.logprobs.is_some(),
        per_prompt: generation.n as usize,
        echoes,
        choices: vec![Said::default(); generation.choices()],
        metadata: generation.metadata.clone(),
        engine: engine.clone(),
    };
    Ok((generation, surface))
}

/// A prompt that the answer repeats.
struct Echo {
    text: String,
    tokens: Vec<u32>,
    /// Tokens at its beginning that the model needs and the caller did not write.
    hidden: usize,
}

impl Echo {
    /// Repeats `prompt`, which becomes tokens.
    async fn of(prompt: &mut PromptInput, engine: &Engine) -> ApiResult<Self> {
        let tokenizer = engine.tokenizer();
        let tokens = prompt.clone().tokenise(engine).await?;
        let (text, hidden) = match prompt {
            PromptInput::Text(text) => (text.clone(), usize::from(tokenizer.bos_id().is_some())),
            PromptInput::Chat(_) | PromptInput::Tokens(_) => {
                let bytes: Vec<u8> =
                    tokens.iter().flat_map(|token| tokenizer.token_bytes(*token)).copied().collect();
                (String::from_utf8_lossy(&bytes).into_owned(), 0)
            }
        };
        *prompt = PromptInput::Tokens(tokens.clone());
        Ok(Self { text, tokens, hidden })
    }
}

/// Shapes text completions.
pub struct Text {
    head: Head,
    options: ChunkOptions,
    logprobs: bool,
    /// Choices of one prompt.
    per_prompt: usize,
    /// One a prompt, or none.
    echoes: Vec<Echo>,
    choices: Vec<Said>,
    metadata: Option<Value>,
    engine: Engine,
}

/// How far a choice is.
#[derive(Clone, Debug, Default)]
struct Said {
    /// Characters told in lists of log probabilities.
    characters: usize,
    /// Something was told, so the prompt was repeated.
    begun: bool,
}

/// What a piece of output says in this form.
struct Told {
    text: String,
    logprobs: Option<TextLogprobs>,
}

impl Text {
    fn chunk(&self, choice: TextChoice<'_>) -> Bytes {
        let text_bytes = choice.text.len();
        let mut chunk = Completion::new(&self.head, vec![choice]);
        chunk.usage = self.options.no_usage();
        chunk.obfuscation = self.options.padding(text_bytes);
        sse::data(&chunk)
    }

    /// New text of a choice, after its prompt where that is to be repeated and was not yet.
    fn told(&mut self, choice: usize, text: &str, prompt: &[TokenLogprob], new: &[TokenLogprob]) -> Told {
        let begun = std::mem::replace(&mut self.choices[choice].begun, true);
        let echo = self.echoes.get(choice / self.per_prompt).filter(|_| !begun);
        let text = echo.map_or_else(String::new, |echo| echo.text.clone()) + text;
        if !self.logprobs {
            return Told { text, logprobs: None };
        }
        let tokenizer = self.engine.tokenizer();
        let mut lists = TextLogprobs::default();
        let mut offset = self.choices[choice].characters;
        let mut list = |token: u32, entry: Option<&TokenLogprob>| {
            let text = token_text(tokenizer, token);
            lists.text_offset.push(offset);
            offset += if tokenizer.is_control(token) { 0 } else { text.chars().count() };
            lists.tokens.push(text);
            lists.token_logprobs.push(entry.map(|entry| entry.logprob));
            lists.top_logprobs.push(entry.map(|entry| rivals(tokenizer, entry)));
        };
        if let Some(echo) = echo {
            let entries = std::iter::once(None).chain(prompt.iter().map(Some));
            echo.tokens.iter().zip(entries).skip(echo.hidden).for_each(|(token, entry)| list(*token, entry));
        }
        new.iter().for_each(|entry| list(entry.token, Some(entry)));
        self.choices[choice].characters = offset;
        Told { text, logprobs: Some(lists) }
    }
}

/// The most likely tokens by their text; of several that look alike the likeliest.
fn rivals(tokenizer: &Tokenizer, entry: &TokenLogprob) -> Map<String, Value> {
    let mut rivals = Map::new();
    for &(token, logprob) in &entry.top {
        rivals.entry(token_text(tokenizer, token)).or_insert_with(|| logprob.into());
    }
    rivals
}

impl Surface for Text {
    fn served(&mut self, tier: Tier) {
        self.head.service_tier = Some(tier.name());
    }

    fn open(&mut self, _choices: usize, _input: Tokens) -> Bytes {
        Bytes::new()
    }

    fn piece(&mut self, choice: usize, piece: &Piece) -> Bytes {
        let Told { text, logprobs } = self.told(choice, &piece.text(), &piece.prompt, &piece.logprobs);
        self.chunk(TextChoice { text: &text, index: choice, logprobs, finish_reason: None })
    }

    fn end(&mut self, choice: usize, rest: &Piece, ending: &Ending) -> Bytes {
        let Told { text, logprobs } = self.told(choice, &rest.text(), &rest.prompt, &rest.logprobs);
        let logprobs = logprobs.filter(|logprobs| !logprobs.tokens.is_empty());
        let finish_reason = Some(finish_reason(ending));
        self.chunk(TextChoice { text: &text, index: choice, logprobs, finish_reason })
    }

    fn signed(&mut self, receipt: Box<Signed>) {
        self.head.receipt = Some(receipt);
    }

    fn close(&mut self, receipt: &Receipt) -> Bytes {
        closing::<TextChoice<'_>>(&self.head, self.options, receipt)
    }

    fn fail(&mut self, error: &ApiError) -> Bytes {
        failing(&self.head, error)
    }

    fn answer(&mut self, choices: Vec<Choice>, receipt: &Receipt) -> Vec<u8> {
        let tell =
            |(i, choice): (usize, &Choice)| self.told(i, &choice.text(), &choice.prompt, &choice.logprobs);
        let told: Vec<Told> = choices.iter().enumerate().map(tell).collect();
        let mut shaped = Vec::with_capacity(told.len());
        for (index, (told, choice)) in told.iter().zip(&choices).enumerate() {
            let finish_reason = Some(finish_reason(&choice.ending));
            let logprobs = told.logprobs.clone();
            shaped.push(TextChoice { text: &told.text, index, logprobs, finish_reason });
        }
        whole(&self.head, shaped, self.metadata.as_ref(), receipt)
    }
}
