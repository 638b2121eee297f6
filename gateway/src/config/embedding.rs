//! Bounds of requests for vectors.

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::sections::{Bound, section};

section! {
    /// Embedders and cross-encoders.
    EmbeddingSection, "embedding",
    numbers {
        /// Tokens of one step; small keeps the tokens of chats coming that share the machine.
        max_batched_tokens: usize = 512, 1, 65_536, "tokens";
        /// Tokens waiting for a step, over all requests.
        max_waiting_tokens: usize = 1_048_576, 1, 1_073_741_824, "tokens";
        /// Inputs of one request, as the public API allows.
        max_inputs: usize = 2048, 1, 100_000, "inputs";
        /// Tokens of one request over all its inputs, as the public API allows.
        max_request_tokens: u32 = 300_000, 1, 100_000_000, "tokens";
    }
    others {}
}
