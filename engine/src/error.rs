//! Why a start or a request is refused.

use crate::config::ConfigError;

/// Why an engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is out of bounds.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cache could not be made.
    #[error("cache of {num_blocks} blocks: {reason}")]
    Cache {
        /// Blocks asked for.
        num_blocks: usize,
        /// What the device said.
        reason: String,
    },
    /// The engine's thread could not be started.
    #[error("engine thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Why a request is refused; nothing was computed for it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SubmitError {
    /// There is no token to start from.
    #[error("prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room for an answer.
    #[error("prompt has {prompt} tokens, model takes less than {limit}")]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// The model's context, tokens.
        limit: usize,
    },
    /// Prompt and answer would not fit the cache even alone.
    #[error("prompt and answer need {needed} cache blocks, engine has {limit}")]
    TooManyBlocks {
        /// Blocks for prompt and `max_tokens`.
        needed: usize,
        /// All blocks.
        limit: usize,
    },
    /// The queue is at its bound.
    #[error("{waiting} sequences wait, limit is {limit}")]
    Full {
        /// Sequences waiting or running.
        waiting: usize,
        /// The bound on them.
        limit: usize,
    },
    /// The engine takes no more work before it ends.
    #[error("engine is draining")]
    Draining,
    /// A step failed; the engine must be restarted.
    #[error("engine is unhealthy")]
    Unhealthy,
    /// A token id that the model does not have.
    #[error("token {token} is unknown, model has {vocab} tokens")]
    UnknownToken {
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// `max_tokens` is 0.
    #[error("max_tokens is 0, must be at least 1")]
    NoTokens,
    /// A sampling parameter is out of its bounds.
    #[error("{name} is {value}, must be {bounds}")]
    Sampling {
        /// Name of the parameter.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        bounds: &'static str,
    },
    /// A stop string is empty or longer than the limit.
    #[error("stop string has {bytes} bytes, must be 1 to {limit}")]
    StopString {
        /// Its length.
        bytes: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// More stop strings than allowed.
    #[error("{count} stop strings, limit is {limit}")]
    StopStrings {
        /// Strings given.
        count: usize,
        /// Most allowed.
        limit: usize,
    },
}
