//! What every generating route does, whatever it speaks: a [`Generation`] is read from a body, [`begin`](Generation::begin)s,
//! and tells [`Piece`]s, which the route's [`Surface`] shapes as a stream or as one answer.

mod form;
mod output;
mod run;
mod sampling;
pub mod stream;
pub mod surface;
pub mod unary;

pub use output::{Choice, Ending, Part, Piece};
pub use run::{Progress, Run};
pub use sampling::Sampling;
pub use surface::Surface;

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response};
use engine::{Engine, Stop, Tier};
use models::{OutputParser, Tool};
use serde_json::Value;

use super::Shared;
use super::auth::Caller;
use super::error::{ApiError, ApiResult, Code};
use super::fields::invalid;
use super::scope::random;
use crate::guard::Guard;
use crate::ledger::{Details, Tags, parse_sha256};
use crate::money::{Picos, PriceVersion};
use crate::serving::{AdmitError, Demand, Job, PromptInput, WireState, unix_ms};

/// What a caller wants generated, checked for itself but not yet against the model.
#[derive(Debug, Default)]
pub struct Generation {
    /// Route, for the ledger and metrics.
    pub endpoint: &'static str,
    /// Wanted model.
    pub model: String,
    /// Prompts, at least one. Tools of a conversation are taken from [`tools`](Self::tools).
    pub prompts: Vec<PromptInput>,
    /// Choices per prompt; at least 1.
    pub n: u32,
    /// Wanted output limit per choice; absent: the rest of the context; 0: only with `prompt_logprobs`.
    pub max_tokens: Option<u32>,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// Where to end; `max_tokens` in it is not used.
    pub stop: Stop,
    /// Number of alternatives when log probabilities are wanted.
    pub logprobs: Option<u8>,
    /// The same for the prompts, whose cached beginnings are then computed again.
    pub prompt_logprobs: Option<u8>,
    /// Form that the text must have.
    pub format: Format,
    /// What the model may call.
    pub tools: ToolUse,
    /// Whether tokens are delivered as they come.
    pub stream: bool,
    /// Wanted service tier; absent: the project's default.
    pub tier: Option<Tier>,
    /// What the caller demands beside the answer.
    pub demand: Demand,
    /// Name of the caller's end user, for the log.
    pub user: Option<String>,
    /// Tags, given back in the answer: an object of strings.
    pub metadata: Option<Value>,
}

/// The prices that a request was admitted at, as the answer tells them.
fn price_headers(price: &PriceVersion) -> HeaderMap {
    let usd = Picos::to_usd_per_million;
    let prices = format!(
        "uncached_input={}, cached_input={}, output={}",
        usd(price.uncached_input),
        usd(price.cached_input),
        usd(price.output)
    );
    let mut headers = HeaderMap::new();
    for (name, value) in [("x-price-version", price.id.clone()), ("x-price-usd-per-million", prices)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers
}

/// Form of the answer's text.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Format {
    /// Free.
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON of a schema.
    JsonSchema {
        /// The schema.
        schema: Value,
        /// Refuse keywords that cannot be enforced; else they are passed over.
        strict: bool,
    },
    /// One of these texts.
    Choice(Vec<String>),
    /// Matches this regular expression as a whole.
    Regex(String),
    /// A word of this Lark grammar.
    Lark(String),
}

/// Tools and how to use them.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolUse {
    /// May be empty.
    pub tools: Vec<Tool>,
    /// Whether to call.
    pub choice: ToolChoice,
    /// More than one call in an answer.
    pub parallel: bool,
}

impl Default for ToolUse {
    fn default() -> Self {
        Self { tools: Vec::new(), choice: ToolChoice::Auto, parallel: true }
    }
}

/// Whether the model calls tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// It must not.
    None,
    /// As it likes.
    #[default]
    Auto,
    /// It must call at least one.
    Required,
    /// It must call this one.
    Named(String),
}

impl Generation {
    /// Begins it and answers over HTTP in the form of `surface`.
    pub async fn respond(
        self,
        api: &Shared,
        caller: &Caller,
        mut surface: impl Surface,
    ) -> ApiResult<Response<Body>> {
        let is_stream = self.stream;
        let mut run = self.begin(api, caller, caller.wire.clone()).await?;
        surface.served(run.flight().tier());
        let price = price_headers(run.flight().price());
        let mut response =
            if is_stream { stream::respond(run, surface) } else { unary::respond(run, surface).await? };
        response.headers_mut().extend(price);
        Ok(response)
    }

    /// Input tokens that it would be billed for. Generates nothing and is free, but counts as a request.
    pub async fn count(self, api: &Shared, caller: &Caller) -> ApiResult<u64> {
        let serving = &api.serving;
        let place = serving.limiter.admit(&caller.identity, 0, serving.monotonic_ms()).await;
        caller.note_limits(api);
        let place = place?;
        let tokens = self.measure(api.engine_of(&caller.identity, &self.model)?).await?;
        drop(place);
        Ok(tokens as u64)
    }

    /// Tokens of its prompts, each of which must fit into the model's context.
    pub async fn measure(&self, engine: &Engine) -> Result<usize, AdmitError> {
        let mut tokens = 0;
        for prompt in self.full_prompts() {
            tokens += prompt.tokenise(engine).await?.len();
        }
        Ok(tokens)
    }

    /// Whether the prompts are conversations.
    fn is_conversation(&self) -> bool {
        self.prompts.iter().all(|prompt| matches!(prompt, PromptInput::Chat(_)))
    }

    /// The prompts with the tools that belong to them.
    fn full_prompts(&self) -> Vec<PromptInput> {
        let mut prompts = self.prompts.clone();
        for prompt in &mut prompts {
            if let PromptInput::Chat(chat) = prompt {
                chat.tools = self.offered().to_vec();
            }
        }
        prompts
    }

    /// Admits it: when this returns, the engine has begun and the money is held. `wire` is the connection of a stream.
    pub async fn begin(self, api: &Shared, caller: &Caller, wire: Option<Arc<WireState>>) -> ApiResult<Run> {
        let engine = api.engine_of(&caller.identity, &self.model)?;
        let mut sampling = self.sampling.of(engine.card(), &self.stop, engine.tokenizer().vocab_size())?;
        sampling.logprobs = self.logprobs;
        sampling.prompt_logprobs = self.prompt_logprobs;
        sampling.seed = self.sampling.seed.map_or_else(|| u64::from_ne_bytes(random()), i64::cast_unsigned);
        let tier = caller.tier(api, self.tier)?;
        api.serving.in_time(caller.scope.arrived, self.screen(&api.guard, engine)).await??;
        let tags = self.metadata.as_ref().and_then(Value::as_object).into_iter().flatten();
        let tags = tags.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        let details = Details {
            user: self.user.clone(),
            tags: Tags::new(tags),
            request_sha256: caller.scope.body_sha256(),
            weights_sha256: parse_sha256(&engine.card().sha256),
            deadline_ms: self.deadline_ms(api, caller)?,
            ..Details::of(&caller.identity)
        };
        let dialect = engine.template().dialect();
        // What is no conversation is taken as it is.
        let parser = self.is_conversation().then(|| OutputParser::new(dialect, !self.offered().is_empty()));
        let parsers = vec![parser; self.choices()];
        let job = Job {
            request_id: caller.scope.request_id.clone(),
            endpoint: self.endpoint,
            identity: caller.identity.clone(),
            details,
            prompts: self.full_prompts(),
            n: self.n,
            max_tokens: self.max_tokens,
            sampling,
            stop: self.stop.clone(),
            form: self.grammar(dialect),
            wire,
            stream: self.stream,
            tier,
            batch: caller.batch,
            demand: self.demand,
            lease: None,
            signer: caller.signer(api),
            arrived: caller.scope.arrived,
        };
        let flight = caller.admit(api, engine, job).await.map_err(|error| match error {
            AdmitError::Grammar(error) => self.refuse_grammar(error),
            other => ApiError::from(other).of_tier(tier),
        })?;
        Ok(Run::new(flight, parsers, &api.guard))
    }

    /// The instant that the deadline means, Unix milliseconds.
    fn deadline_ms(&self, api: &Shared, caller: &Caller) -> ApiResult<Option<u64>> {
        let Some(deadline) = self.demand.deadline else { return Ok(None) };
        let most = api.serving.options.request_deadline;
        let refused = |reason: String| Err(invalid("deadline", &reason));
        if caller.batch.is_some() {
            return refused("the lines of a batch have its completion window in place of it".to_owned());
        }
        if deadline > most {
            return refused(format!("no request lasts longer than {} s here", most.as_secs()));
        }
        let left = deadline.saturating_sub(caller.scope.arrived.elapsed());
        Ok(Some(unix_ms() + u64::try_from(left.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Refuses what the operator's content rules forbid.
    async fn screen(&self, guard: &Guard, engine: &Engine) -> ApiResult<()> {
        if self.logprobs.is_some() && guard.screens_output() {
            let message =
                "Answers are screened here, so log probabilities are not told. Leave out 'logprobs'.";
            return Err(ApiError::param(Code::UnsupportedValue, "logprobs", message));
        }
        if !guard.screens_input() {
            return Ok(());
        }
        let prompts = self.full_prompts();
        let texts = prompts.iter().map(|prompt| (prompt.text(engine.tokenizer()), prompt.field()));
        let screened = guard.screen_all(texts.collect()).await;
        screened.map_err(|(refusal, param)| ApiError::of_content(refusal, param))
    }

    /// Choices over all prompts.
    pub fn choices(&self) -> usize {
        self.prompts.len() * self.n as usize
    }
}
