//! Requests as sequences: tokens in, text and [`Usage`] out.
//!
//! [`Engine::submit`] leaves a request for the engine's own thread and returns a [`TokenStream`]. The thread repeats one
//! sentence: *schedule -> run -> sample -> deliver*.
//!
//! | module | does |
//! |---|---|
//! | [`scheduler`] | decides what a step computes; pure |
//! | [`blocks`] | who holds which cache block; finds shared prefixes |
//! | `runner` | a step as one ragged batch through the model |
//! | [`sampler`] | logits to a token |
//! | [`grammar`] | which tokens may come next |
//! | `worker` | the loop |
//! | `embedder` | the same for models that turn whole texts into vectors |
//! | `stream` | tokens to text, stop strings; on the reader's task |
//! | `link`, `mailbox` | the two ways between thread and callers, both bounded |
//!
//! It knows nothing of HTTP, keys or money.
#![forbid(unsafe_code)]

pub mod blocks;
mod config;
mod embedder;
mod error;
mod event;
pub mod grammar;
mod link;
mod mailbox;
mod request;
mod runner;
pub mod sampler;
pub mod scheduler;
pub mod sequence;
mod stream;
#[doc(hidden)]
pub mod testing;
mod worker;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use models::{Card, ChatTemplate, Loaded, Tokenizer};

pub use config::{ConfigError, EngineConfig, Sharing, TierRule};
pub use embedder::{EmbedError, Embedder, EmbedderConfig, EmbedderStats, Vectors};
pub use error::{StartError, SubmitError};
pub use event::{Delta, Event, Finish, FinishReason, Stats, TierStats, TokenLogprob, Usage};
pub use grammar::{Grammar, GrammarError, GrammarLimits, GrammarSource};
pub use request::{
    MAX_LOGPROBS, MAX_STOP_BYTES, MAX_STOP_STRINGS, Request, SamplingParams, Stop, Tenant, Tier,
};
pub use stream::TokenStream;

use mailbox::{Job, Mailbox};
use sequence::{NewSequence, SeqId};
use stream::StreamParams;

/// A handle on a running engine; clones share it. When the last one goes, the engine ends what runs and stops.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    mailbox: Arc<Mailbox>,
    thread: Mutex<Option<JoinHandle<()>>>,
    tokenizer: Arc<Tokenizer>,
    template: Arc<ChatTemplate>,
    grammars: grammar::GrammarCompiler,
    card: Card,
    config: EngineConfig,
    context_len: usize,
    vocab: usize,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.mailbox.abort();
    }
}

impl Engine {
    /// Starts the engine's thread for a loaded model.
    ///
    /// # Errors
    /// A setting out of bounds, or no memory for the cache.
    pub fn start(loaded: Loaded, config: EngineConfig) -> Result<Self, StartError> {
        config.validate()?;
        let Loaded { model, tokenizer, template, card } = loaded;
        let (vocab, own_context) = (model.config().vocab, model.config().context_len);
        let context_len = card.context_len.map_or(own_context, |limit| limit.min(own_context));
        let num_blocks = config.num_blocks;
        let runner = runner::Runner::new(model, num_blocks, config.block_size)
            .map_err(|error| StartError::Cache { num_blocks, reason: error.to_string() })?;
        let stats = Stats { free_blocks: num_blocks, total_blocks: num_blocks, ..Stats::default() };
        let mailbox = Arc::new(Mailbox::new(config.live_limits(), stats));
        let scheduler = scheduler::Scheduler::new(config.clone());
        let worker = worker::Worker::new(Arc::clone(&mailbox), scheduler, runner);
        let thread = std::thread::Builder::new().name("engine".to_owned()).spawn(|| worker.run())?;
        let thread = Mutex::new(Some(thread));
        let grammars = grammar::GrammarCompiler::new(Arc::clone(&tokenizer), config.grammar);
        Ok(Self {
            inner: Arc::new(Inner {
                mailbox,
                thread,
                tokenizer,
                template,
                grammars,
                card,
                config,
                context_len,
                vocab,
            }),
        })
    }

    /// Accepts a request. Never blocks.
    ///
    /// # Errors
    /// See [`SubmitError`]; nothing is computed for a refused request.
    pub fn submit(&self, request: Request) -> Result<TokenStream, SubmitError> {
        let max_len = self.check(&request)?;
        let Request { prompt, sampling, stop, salt, tier, tenant, grammar } = request;
        let own = self.inner.tokenizer.eos_ids().iter().filter(|_| !sampling.ignore_eos);
        let ending: Vec<u32> = own.chain(&stop.token_ids).copied().collect();
        let params =
            StreamParams { prompt_tokens: prompt.len() as u32, min_tokens: sampling.min_tokens, stop };
        let scores = sampling.prompt_logprobs.is_some();
        let constraint = grammar.map(|grammar| grammar.begin(ending.clone()));
        let sampler = sampler::Sampler::new(sampling, &prompt, ending.clone()).constrained(constraint);
        // The mailbox gives the number.
        let sequence = NewSequence { id: SeqId(0), tier, tenant, prompt, salt, max_len, ending, scores };
        let (outlet, inlet) = link::link(self.inner.config.stream_capacity);
        self.inner.mailbox.post(Job { sequence, sampler, outlet })?;
        Ok(TokenStream::new(inlet, Arc::clone(&self.inner.mailbox), &self.inner.tokenizer, params))
    }

    /// Refuses what cannot be served; otherwise the most tokens the sequence can have.
    fn check(&self, request: &Request) -> Result<usize, SubmitError> {
        let Inner { context_len, vocab, ref config, .. } = *self.inner;
        let (prompt, stop) = (&request.prompt, &request.stop);
        if prompt.is_empty() {
            return Err(SubmitError::EmptyPrompt);
        }
        if prompt.len() >= context_len {
            return Err(SubmitError::TooLong { prompt: prompt.len(), limit: context_len });
        }
        let bias = request.sampling.logit_bias.iter().map(|bias| &bias.0);
        if let Some(token) = prompt.iter().chain(&stop.token_ids).chain(bias).find(|t| **t as usize >= vocab)
        {
            return Err(SubmitError::UnknownToken { token: *token, vocab });
        }
        if stop.max_tokens == 0 && request.sampling.prompt_logprobs.is_none() {
            return Err(SubmitError::NoTokens);
        }
        if let Some((name, value, bounds)) = request.sampling.out_of_bounds() {
            return Err(SubmitError::Sampling { name, value, bounds });
        }
        if stop.strings.len() > MAX_STOP_STRINGS {
            return Err(SubmitError::StopStrings { count: stop.strings.len(), limit: MAX_STOP_STRINGS });
        }
        if let Some(text) = stop.strings.iter().find(|text| text.is_empty() || text.len() > MAX_STOP_BYTES) {
            return Err(SubmitError::StopString { bytes: text.len(), limit: MAX_STOP_BYTES });
        }
        let max_len = prompt.len().saturating_add(stop.max_tokens as usize).min(context_len);
        // The last token is never computed, unless it is the prompt's.
        let needed = (max_len - 1).max(prompt.len()).div_ceil(config.block_size);
        if needed > config.num_blocks {
            return Err(SubmitError::TooManyBlocks { needed, limit: config.num_blocks });
        }
        Ok(max_len)
    }

    /// Compiles the form that an answer must have, for [`Request::grammar`]. Blocks: not for a thread that serves
    /// connections.
    ///
    /// # Errors
    /// See [`GrammarError`].
    pub fn compile(&self, source: &GrammarSource) -> Result<Grammar, GrammarError> {
        self.inner.grammars.compile(source)
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.inner.tokenizer
    }

    /// The model's chat template.
    pub fn template(&self) -> &Arc<ChatTemplate> {
        &self.inner.template
    }

    /// Most tokens of prompt and answer together.
    pub fn context_len(&self) -> usize {
        self.inner.context_len
    }

    /// What is known about the model.
    pub fn card(&self) -> &Card {
        &self.inner.card
    }

    /// The settings it runs with.
    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    /// State and counters as of the last step.
    pub fn stats(&self) -> Stats {
        self.inner.mailbox.stats()
    }

    /// Whether it can serve: its thread lives and no step has panicked.
    pub fn healthy(&self) -> bool {
        self.inner.mailbox.is_healthy()
    }

    /// Takes no more requests; those accepted go on.
    pub fn drain(&self) {
        self.inner.mailbox.drain();
    }

    /// Drains, waits up to `patience` for what runs, then ends it as [`FinishReason::Cancelled`]. Blocks until the
    /// thread has ended. True when nothing had to be cut off.
    pub fn shutdown(&self, patience: Duration) -> bool {
        self.drain();
        let complete = self.inner.mailbox.wait_stopped(patience);
        self.inner.mailbox.abort();
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // Its panics have been reported where they happened.
            let _ = thread.join();
        }
        complete
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("model", &self.inner.card.id).finish_non_exhaustive()
    }
}
