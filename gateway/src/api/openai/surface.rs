//! What chat and text completions have in common on the way out.

use bytes::Bytes;
use engine::{Engine, Tier, TokenLogprob};
use models::Tokenizer;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::wire::{
    ChatAlternative, ChatTokenLogprob, Completion, CompletionDetails, Head, PromptDetails, Usage,
};
use crate::api::auth::Caller;
use crate::api::error::ApiError;
use crate::api::generation::Ending;
use crate::api::sse;
use crate::serving::{Receipt, unix_ms};

/// Settings of a stream.
#[derive(Clone, Copy, Debug, Default)]
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
        self.obfuscate.then(|| padding(text_bytes))
    }
}

/// Padding that brings `text_bytes` up to the next multiple of the block.
pub fn padding(text_bytes: usize) -> &'static str {
    const BLOCK: &str = "abcdefghijklmnopqrstuvwxyz012345";
    &BLOCK[text_bytes % BLOCK.len()..]
}

/// The fields shared by all chunks of an answer; `prefix` is that of its id.
pub fn head(engine: &Engine, caller: &Caller, tier: Tier, prefix: &str, object: &'static str) -> Head {
    let card = engine.card();
    let digest = Sha256::digest(format!("{} {}", card.sha256, env!("CARGO_PKG_VERSION")));
    let fingerprint: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    Head {
        id: format!("{prefix}-{}", caller.scope.suffix()),
        object,
        created: unix_ms() / 1_000,
        model: card.id.clone(),
        system_fingerprint: format!("fp_{fingerprint}"),
        service_tier: Some(tier.name()),
        receipt: None,
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

/// The last events of a complete stream: counts and receipt where asked for, and the end.
pub fn closing<C: Serialize>(head: &Head, options: ChunkOptions, receipt: &Receipt) -> Bytes {
    let mut bytes = Vec::new();
    if options.include_usage || head.receipt.is_some() {
        let mut chunk: Completion<'_, C> = Completion::new(head, Vec::new());
        chunk.usage = options.include_usage.then(|| Some(usage(receipt)));
        bytes.extend_from_slice(&sse::data(&chunk));
    }
    bytes.extend_from_slice(&sse::DONE);
    bytes.into()
}

/// The last event of a stream that broke off, with the receipt of what was told until then.
pub fn failing(head: &Head, error: &ApiError) -> Bytes {
    let mut body = error.body();
    if let Some(receipt) = &head.receipt {
        body["receipt"] = json!(receipt);
    }
    sse::data(&body)
}

/// The whole answer as JSON.
pub fn whole<C: Serialize>(
    head: &Head,
    choices: Vec<C>,
    metadata: Option<&Value>,
    receipt: &Receipt,
) -> Vec<u8> {
    let mut answer = Completion::new(head, choices);
    answer.usage = Some(Some(usage(receipt)));
    answer.metadata = metadata;
    serde_json::to_vec(&answer).expect("wire structs have string keys and no failing serializers")
}

/// Wire name of an ending.
pub fn finish_reason(ending: &Ending) -> &'static str {
    match ending {
        Ending::Stop(_) => "stop",
        Ending::Length => "length",
        Ending::ToolCalls => "tool_calls",
        Ending::ContentFilter => "content_filter",
    }
}

/// A token as text, with replacement characters where it is not UTF-8 by itself.
pub fn token_text(tokenizer: &Tokenizer, token: u32) -> String {
    String::from_utf8_lossy(tokenizer.token_bytes(token)).into_owned()
}

/// A token with its probability and its rivals.
pub fn token_logprob(tokenizer: &Tokenizer, entry: &TokenLogprob) -> ChatTokenLogprob {
    let alternative = |token: u32, logprob: f32| ChatAlternative {
        token: token_text(tokenizer, token),
        logprob,
        bytes: if tokenizer.is_control(token) { Vec::new() } else { tokenizer.token_bytes(token).to_vec() },
    };
    ChatTokenLogprob {
        token: alternative(entry.token, entry.logprob),
        top_logprobs: entry.top.iter().map(|&(token, logprob)| alternative(token, logprob)).collect(),
    }
}
