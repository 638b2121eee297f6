//! What a caller asks for: a prompt of tokens, how to sample, when to stop.

use crate::grammar::Grammar;

/// Largest number of alternatives that [`SamplingParams::logprobs`] may ask for.
pub const MAX_LOGPROBS: u8 = 20;
/// Most stop strings of a request.
pub const MAX_STOP_STRINGS: usize = 64;
/// Longest stop string, bytes.
pub const MAX_STOP_BYTES: usize = 1024;

/// Service tier. A smaller one takes the step's budget first and may preempt a larger one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// The operator's own work.
    Internal,
    /// Sold as a reservation.
    Reserved,
    /// Sold at a premium.
    Priority,
    /// The list price.
    #[default]
    Default,
    /// Cheaper, may wait.
    Flex,
    /// Cheapest, runs on what is left.
    Batch,
}

impl Tier {
    /// All tiers, the first served first.
    pub const ALL: [Tier; 6] =
        [Tier::Internal, Tier::Reserved, Tier::Priority, Tier::Default, Tier::Flex, Tier::Batch];

    /// Place in [`Tier::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its name in configuration, reports and requests.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Internal => "internal",
            Tier::Reserved => "reserved",
            Tier::Priority => "priority",
            Tier::Default => "default",
            Tier::Flex => "flex",
            Tier::Batch => "batch",
        }
    }

    /// The tier of this name.
    pub fn named(name: &str) -> Option<Tier> {
        Tier::ALL.into_iter().find(|tier| tier.name() == name)
    }
}

/// On whose behalf a sequence runs: a tier's capacity is shared between organisations, an organisation's share between
/// its projects, by weight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenant {
    /// The organisation's id.
    pub org: String,
    /// The project's id.
    pub project: String,
    /// The organisation's weight among organisations; at least 1.
    pub org_weight: u32,
    /// The project's weight among its organisation's projects; at least 1.
    pub project_weight: u32,
}

impl Default for Tenant {
    fn default() -> Self {
        Self { org: String::new(), project: String::new(), org_weight: 1, project_weight: 1 }
    }
}

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; below 1e-5 the likeliest token is taken.
    pub temperature: f32,
    /// Smallest set of likeliest tokens whose probabilities sum to this; in (0, 1].
    pub top_p: f32,
    /// Only so many of the likeliest tokens; at least 1.
    pub top_k: Option<u32>,
    /// Only tokens at least this fraction as likely as the likeliest; in [0, 1].
    pub min_p: f32,
    /// Taken once from the logit of each token that was generated before.
    pub presence_penalty: f32,
    /// Taken from the logit of a token for each time it was generated before.
    pub frequency_penalty: f32,
    /// Divides (or multiplies, where negative) the logit of each token of prompt and output; 1 is off.
    pub repetition_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Same seed, same prompt, same parameters: same output, whatever else is in the batch.
    pub seed: u64,
    /// Report log probabilities, with so many of the likeliest alternatives (0 = the chosen token only).
    pub logprobs: Option<u8>,
    /// Report the log probability of each prompt token but the first, too. The whole prompt is computed for it: what is
    /// in the prefix cache has no logits any more.
    pub prompt_logprobs: Option<u8>,
    /// Ending tokens are impossible, and stop strings not looked for, before so many tokens.
    pub min_tokens: u32,
    /// The model's own ending tokens do not end the sequence.
    pub ignore_eos: bool,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: 0,
            logprobs: None,
            prompt_logprobs: None,
            min_tokens: 0,
            ignore_eos: false,
        }
    }
}

impl SamplingParams {
    /// The likeliest token each time.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// The first parameter that is out of its bounds: its name, value and bounds.
    pub(crate) fn out_of_bounds(&self) -> Option<(&'static str, f64, &'static str)> {
        let bias = self.logit_bias.iter().map(|bias| bias.1).find(|bias| !bias.is_finite());
        let finite = |x: f32| x.is_finite();
        let checks = [
            (
                "temperature",
                self.temperature,
                finite(self.temperature) && self.temperature >= 0.0,
                "0 or more",
            ),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0, up to 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1"),
            ("presence_penalty", self.presence_penalty, finite(self.presence_penalty), "finite"),
            ("frequency_penalty", self.frequency_penalty, finite(self.frequency_penalty), "finite"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                finite(self.repetition_penalty) && self.repetition_penalty > 0.0,
                "above 0",
            ),
            ("top_k", self.top_k.unwrap_or(1) as f32, self.top_k != Some(0), "1 or more"),
            (
                "logprobs",
                f32::from(self.logprobs.unwrap_or(0)),
                self.logprobs <= Some(MAX_LOGPROBS),
                "up to 20",
            ),
            (
                "prompt_logprobs",
                f32::from(self.prompt_logprobs.unwrap_or(0)),
                self.prompt_logprobs <= Some(MAX_LOGPROBS),
                "up to 20",
            ),
            ("logit_bias", bias.unwrap_or(0.0), bias.is_none(), "finite"),
        ];
        checks
            .into_iter()
            .find(|check| !check.2)
            .map(|(name, value, _, bounds)| (name, f64::from(value), bounds))
    }
}

/// When a sequence ends, besides the model's own ending tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stop {
    /// Most tokens to generate; 0 only with [`SamplingParams::prompt_logprobs`].
    pub max_tokens: u32,
    /// Texts that end the sequence wherever they appear, also across token borders.
    pub strings: Vec<String>,
    /// Tokens that end the sequence.
    pub token_ids: Vec<u32>,
    /// The stop string or stop token is part of the text.
    pub include_stop: bool,
}

/// One sequence to generate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Token ids of the whole prompt.
    pub prompt: Vec<u32>,
    /// How the next token is chosen.
    pub sampling: SamplingParams,
    /// When to end.
    pub stop: Stop,
    /// Cached prefixes are shared only between requests of equal salt (the organisation).
    pub salt: String,
    /// Service tier.
    pub tier: Tier,
    /// Who it is for.
    pub tenant: Tenant,
    /// The form that the answer must have; it ends when that is complete.
    pub grammar: Option<Grammar>,
}
