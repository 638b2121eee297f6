//! What chat and text completions have in common on the way out.

use bytes::Bytes;
use engine::{FinishReason, TokenLogprob};
use models::Tokenizer;
use sha2::{Digest, Sha256};

use super::wire::{CompletionDetails, Head, PromptDetails, Usage};
use crate::api::Shared;
use crate::api::auth::Caller;
use crate::serving::{Receipt, unix_ms};

/// New output of one choice.
#[derive(Debug, Default)]
pub struct Piece {
    /// Text; may be empty in a choice's last piece.
    pub text: String,
    /// Output tokens behind it.
    pub tokens: u32,
    /// One entry a token where asked for.
    pub logprobs: Vec<TokenLogprob>,
}

impl Piece {
    /// Appends what came later.
    pub fn push(&mut self, later: engine::Delta) {
        self.text.push_str(&later.text);
        self.tokens += later.tokens;
        self.logprobs.extend(later.logprobs);
    }
}

/// One choice of a unary answer.
#[derive(Debug)]
pub struct Collected {
    /// Everything it said.
    pub output: Piece,
    /// Wire name of its ending.
    pub finish_reason: &'static str,
}

/// Shapes output for one route.
pub trait Surface: Send + 'static {
    /// The first chunk of a choice, if the route has one.
    fn opening(&self, choice: usize) -> Option<Bytes>;
    /// A chunk with new output.
    fn piece(&mut self, choice: usize, piece: &Piece) -> Bytes;
    /// A choice's last chunk; `rest` has no text.
    fn finish(&mut self, choice: usize, rest: &Piece, reason: &'static str) -> Bytes;
    /// The chunk with the counts.
    fn usage(&self, usage: Usage) -> Bytes;
    /// The whole answer at once, as JSON.
    fn answer(&mut self, choices: Vec<Collected>, usage: Usage) -> Vec<u8>;
}

/// Settings of a stream.
#[derive(Clone, Copy, Debug)]
pub struct ChunkOptions {
    /// Announce and send the usage chunk.
    pub include_usage: bool,
    /// Pad chunks.
    pub obfuscate: bool,
}

impl ChunkOptions {
    /// `usage` of every chunk but the usage chunk.
    pub fn no_usage(self) -> Option<Option<Usage>> {
        self.include_usage.then_some(None)
    }

    /// Padding that brings `text_bytes` up to the next multiple of the block.
    pub fn padding(self, text_bytes: usize) -> Option<&'static str> {
        const BLOCK: &str = "abcdefghijklmnopqrstuvwxyz012345";
        self.obfuscate.then(|| &BLOCK[text_bytes % BLOCK.len()..])
    }
}

/// The fields shared by all chunks of an answer; `prefix` is that of its id.
pub fn head(api: &Shared, caller: &Caller, prefix: &str, object: &'static str) -> Head {
    let card = api.engine.card();
    let digest = Sha256::digest(format!("{} {}", card.sha256, env!("CARGO_PKG_VERSION")));
    let fingerprint: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    Head {
        id: format!("{prefix}-{}", caller.scope.suffix()),
        object,
        created: unix_ms() / 1_000,
        model: card.id.clone(),
        system_fingerprint: format!("fp_{fingerprint}"),
        service_tier: Some("default"),
    }
}

/// The counts as settled.
pub fn usage(receipt: &Receipt) -> Usage {
    let tokens = receipt.tokens;
    let prompt_tokens = tokens.uncached_input + tokens.cached_input;
    Usage {
        prompt_tokens,
        completion_tokens: tokens.output,
        total_tokens: prompt_tokens + tokens.output,
        prompt_tokens_details: PromptDetails { cached_tokens: tokens.cached_input, audio_tokens: 0 },
        completion_tokens_details: CompletionDetails::default(),
        cost_usd: receipt.cost.to_usd(),
    }
}

/// Wire name of an ending.
pub fn finish_reason(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        _ => "stop",
    }
}

/// Token entries that are text: the ending control token has a probability but is no part of the answer.
pub fn text_logprobs<'a>(
    tokenizer: &'a Tokenizer,
    logprobs: &'a [TokenLogprob],
) -> impl Iterator<Item = &'a TokenLogprob> {
    logprobs.iter().filter(|entry| !tokenizer.is_control(entry.token))
}

/// A token as text, with replacement characters where it is not UTF-8 by itself.
pub fn token_text(tokenizer: &Tokenizer, token: u32) -> String {
    String::from_utf8_lossy(tokenizer.token_bytes(token)).into_owned()
}
