//! Whole inputs to vectors: the engine of embedders and cross-encoders.
//!
//! [`Embedder::submit`] leaves a request of many inputs for the embedder's own thread. The thread packs inputs of all
//! requests into steps of bounded size, one input of each request in turn, so that a short request is not held up by a long
//! one that came before it. A request whose caller is gone is dropped before its next step.

mod queue;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use models::{Card, EncoderInput, EncoderTokenizer, LoadedEncoder};
use tokio::sync::oneshot;

use crate::config::ConfigError;
use crate::error::{StartError, SubmitError};
use queue::{Job, Queue, Worker};

/// Sizes of an embedder. See [`Default`] for the defaults and [`EmbedderConfig::validate`] for the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbedderConfig {
    /// Most tokens in one step; a longer input has a step of its own.
    pub max_batched_tokens: usize,
    /// Most tokens that wait, over all requests.
    pub max_waiting_tokens: usize,
}

impl Default for EmbedderConfig {
    fn default() -> Self {
        Self { max_batched_tokens: 512, max_waiting_tokens: 1 << 20 }
    }
}

impl EmbedderConfig {
    /// Checks all bounds; the error names the field, its value and the bound.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        let bounds = [
            ("max_batched_tokens", self.max_batched_tokens, 1 << 20),
            ("max_waiting_tokens", self.max_waiting_tokens, 1 << 30),
        ];
        match bounds.into_iter().find(|(_, value, max)| !(1..=*max).contains(value)) {
            Some((key, value, max)) => Err(ConfigError { key, value, min: 1, max }),
            None => Ok(()),
        }
    }
}

/// An embedder's state and counters since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EmbedderStats {
    /// Requests that have not got all their vectors.
    pub running: usize,
    /// Inputs that wait for a step.
    pub waiting: usize,
    /// Tokens of those inputs.
    pub waiting_tokens: usize,
    /// Steps run.
    pub steps: u64,
    /// Vectors made.
    pub inputs: u64,
    /// Tokens in them.
    pub tokens: u64,
    /// Requests dropped because their caller was gone.
    pub cancelled: u64,
    /// Duration of the last step, microseconds.
    pub last_step_us: u64,
}

/// Why a request that was accepted got no vectors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    /// A step failed.
    #[error("{0}")]
    Failed(String),
    /// The embedder was shut down first.
    #[error("the embedder was shut down")]
    Cancelled,
}

/// The vectors of a request, one an input and in its order, when they are there. Dropping it cancels the request.
#[derive(Debug)]
pub struct Vectors(oneshot::Receiver<Result<Vec<Vec<f32>>, EmbedError>>);

impl Vectors {
    /// Waits for them.
    ///
    /// # Errors
    /// See [`EmbedError`].
    pub async fn all(self) -> Result<Vec<Vec<f32>>, EmbedError> {
        self.0.await.unwrap_or(Err(EmbedError::Cancelled))
    }
}

/// A handle on a running embedder; clones share it. When the last one goes, it stops.
#[derive(Clone)]
pub struct Embedder {
    inner: Arc<Inner>,
}

struct Inner {
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
    tokenizer: Arc<EncoderTokenizer>,
    card: Card,
    config: EmbedderConfig,
    max_tokens: usize,
    width: usize,
    vocab: usize,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.abort();
    }
}

impl Embedder {
    /// Starts the embedder's thread for a loaded encoder.
    ///
    /// # Errors
    /// A setting out of bounds, or no thread.
    pub fn start(loaded: LoadedEncoder, config: EmbedderConfig) -> Result<Self, StartError> {
        config.validate()?;
        let LoadedEncoder { encoder, tokenizer, card } = loaded;
        let (max_tokens, width, vocab) =
            (encoder.config().max_tokens, encoder.config().hidden, encoder.config().vocab);
        let queue = Arc::new(Queue::new(config));
        let worker = Worker::new(Arc::clone(&queue), encoder);
        let thread = std::thread::Builder::new().name("embedder".to_owned()).spawn(|| worker.run())?;
        let thread = Mutex::new(Some(thread));
        Ok(Self {
            inner: Arc::new(Inner { queue, thread, tokenizer, card, config, max_tokens, width, vocab }),
        })
    }

    /// Accepts a request. Never blocks.
    ///
    /// # Errors
    /// See [`SubmitError`]; nothing is computed for a refused request.
    pub fn submit(&self, inputs: Vec<EncoderInput>) -> Result<Vectors, SubmitError> {
        let Inner { max_tokens, vocab, .. } = *self.inner;
        for input in &inputs {
            if input.tokens.is_empty() {
                return Err(SubmitError::EmptyPrompt);
            }
            if input.tokens.len() > max_tokens {
                return Err(SubmitError::TooLong { prompt: input.tokens.len(), limit: max_tokens + 1 });
            }
            if let Some(&token) = input.tokens.iter().find(|token| **token as usize >= vocab) {
                return Err(SubmitError::UnknownToken { token, vocab });
            }
        }
        let (reply, receiver) = oneshot::channel();
        self.inner.queue.post(Job::new(inputs, reply))?;
        Ok(Vectors(receiver))
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Arc<EncoderTokenizer> {
        &self.inner.tokenizer
    }

    /// Most tokens of one input.
    pub fn max_tokens(&self) -> usize {
        self.inner.max_tokens
    }

    /// Values of a vector (an embedder's).
    pub fn width(&self) -> usize {
        self.inner.width
    }

    /// What is known about the model.
    pub fn card(&self) -> &Card {
        &self.inner.card
    }

    /// The settings it runs with.
    pub fn config(&self) -> &EmbedderConfig {
        &self.inner.config
    }

    /// State and counters as of the last step.
    pub fn stats(&self) -> EmbedderStats {
        self.inner.queue.stats()
    }

    /// Whether it can serve: its thread has not panicked.
    pub fn healthy(&self) -> bool {
        self.inner.queue.is_healthy()
    }

    /// Takes no more requests, waits up to `patience` for those accepted, then ends them as [`EmbedError::Cancelled`].
    /// Blocks until the thread has ended. True when nothing had to be cut off.
    pub fn shutdown(&self, patience: Duration) -> bool {
        self.inner.queue.drain();
        let complete = self.inner.queue.wait_stopped(patience);
        self.inner.queue.abort();
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // Its panics have been reported where they happened.
            let _ = thread.join();
        }
        complete
    }
}

impl std::fmt::Debug for Embedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedder").field("model", &self.inner.card.id).finish_non_exhaustive()
    }
}
