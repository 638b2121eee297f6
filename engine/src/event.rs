//! What a stream reports.

/// One item of a [`crate::TokenStream`].
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The sequence was admitted and its prefill begins; once, before the first delta.
    Started {
        /// Prompt tokens that were found in the prefix cache.
        cached_tokens: u32,
    },
    /// Log probabilities of the next prompt tokens, where asked for; all of them come before the first delta.
    Prompt(Vec<TokenLogprob>),
    /// More text.
    Delta(Delta),
    /// The end; exactly once, last.
    Finished(Finish),
}

/// Text that became certain, and the tokens it took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// Whole characters; never part of a stop string.
    pub text: String,
    /// Tokens behind this delta, with those whose text was held back until now. Over a finished stream these sum
    /// to [`Usage::completion_tokens`]; the last delta may have no text and carry the rest.
    pub tokens: u32,
    /// The ids of those tokens.
    pub token_ids: Vec<u32>,
    /// One entry per token, where asked for; none for the ending token unless it was to be included.
    pub logprobs: Vec<TokenLogprob>,
}

/// Natural log of a token's probability in the model's own distribution: before bias, penalties and temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The chosen token.
    pub token: u32,
    /// Its log probability.
    pub logprob: f32,
    /// The likeliest tokens, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// How and with what a sequence ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// What it took.
    pub usage: Usage,
    /// The stop string that matched.
    pub stop_match: Option<String>,
}

/// Why a sequence ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An ending token or a stop string.
    Stop,
    /// `max_tokens` generated, or the context is full.
    Length,
    /// The engine failed; the text says how.
    Error(String),
    /// The engine was shut down before the end.
    Cancelled,
}

/// Token counts of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: u32,
    /// Prompt tokens that were found in the prefix cache.
    pub cached_tokens: u32,
    /// Generated tokens, the ending one included: the end-of-text token or the one that completed a stop string.
    pub completion_tokens: u32,
}

/// The engine's state and counters since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that hold cache blocks.
    pub running: usize,
    /// Sequences that wait for admission, preempted ones included.
    pub waiting: usize,
    /// Blocks that hold nothing.
    pub free_blocks: usize,
    /// All blocks.
    pub total_blocks: usize,
    /// Blocks that no sequence holds but that keep a prefix; they are given away when needed.
    pub cached_blocks: usize,
    /// Steps run.
    pub steps: u64,
    /// Prompt tokens of all admitted requests.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: u64,
    /// Times that a sequence lost its blocks.
    pub preemptions: u64,
    /// Sequences whose stream was dropped before the end.
    pub cancelled: u64,
    /// Duration of the last step, microseconds.
    pub last_step_us: u64,
    /// Some of it by service tier, in the order of [`crate::Tier::ALL`].
    pub tiers: [TierStats; 6],
}

/// State and counters of one service tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierStats {
    /// Sequences that hold cache blocks.
    pub running: usize,
    /// Sequences that wait for admission, preempted ones included.
    pub waiting: usize,
    /// Tokens computed, those computed again included.
    pub computed_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
}
