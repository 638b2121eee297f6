//! Chooses a sequence's next token from its logits.
//!
//! Order: bias and penalties, impossible endings, temperature, `min_p`, `top_k`, `top_p`, draw. The draw is a pure function
//! of the seed and the number of tokens generated, so it does not depend on the batch or on preemption.
//!
//! A grammar looks at the token that was drawn. Only if it refuses does it say which tokens it would take, and one of those
//! is drawn: so a model that keeps to the form pays next to nothing for it. The likeliest token is the same as if all had
//! been masked at once, and so are the chances of all tokens without filters (`p + (1 - Z) p / Z = p / Z`, where `Z` is the
//! mass of what is allowed); filters look at the model's own distribution first.

mod filter;

use std::collections::HashMap;

use crate::event::TokenLogprob;
use crate::grammar::Constraint;
use crate::request::SamplingParams;

/// Below this the temperature counts as 0.
const GREEDY_BELOW: f32 = 1e-5;

/// Logits without a usable maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// NaN or +infinity among them.
    #[error("model gave a logit that is not a number")]
    NotFinite,
    /// The grammar could not say which token may come next.
    #[error("grammar failed")]
    Grammar,
    /// All are -infinity.
    #[error("no token is possible")]
    Nothing,
}

/// The chosen token and, where asked for, its log probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Token id.
    pub token: u32,
    /// Of the model's own distribution.
    pub logprob: Option<TokenLogprob>,
}

/// Sampling state of one sequence.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    /// Tokens that end the sequence; impossible before `min_tokens`.
    ending: Vec<u32>,
    /// Tokens of prompt and output, and how often each was generated; empty while no penalty is on.
    seen: HashMap<u32, u32>,
    generated: u32,
    constraint: Option<Constraint>,
    /// The grammar refused the token that was drawn last.
    was_refused: bool,
}

impl Sampler {
    /// The state before the first token; `ending` are the ids that end the sequence.
    pub fn new(params: SamplingParams, prompt: &[u32], ending: Vec<u32>) -> Self {
        let mut sampler =
            Self { params, ending, seen: HashMap::new(), generated: 0, constraint: None, was_refused: false };
        if sampler.params.repetition_penalty != 1.0 {
            sampler.seen = prompt.iter().map(|token| (*token, 0)).collect();
        }
        sampler
    }

    /// The same, with a grammar to follow.
    #[must_use]
    pub fn constrained(self, constraint: Option<Constraint>) -> Self {
        Self { constraint, ..self }
    }

    /// Whether [`Self::prepare`] before the next [`Self::sample`] is likely to save it time: where a model has left the
    /// form once, it is about to do so again.
    pub fn should_prepare(&self) -> bool {
        self.was_refused
    }

    /// Works out what the grammar allows next; needs no logits, and changes no choice.
    pub fn prepare(&mut self) {
        if let Some(constraint) = &mut self.constraint {
            constraint.prepare();
        }
    }

    /// Whether the grammar is complete and nothing may follow.
    pub fn is_complete(&self) -> bool {
        self.constraint.as_ref().is_some_and(Constraint::is_complete)
    }

    /// Whether unlikely tokens are never drawn and the likeliest is simply taken.
    fn is_greedy(&self) -> bool {
        self.params.temperature < GREEDY_BELOW
    }

    fn is_penalised(&self) -> bool {
        let p = &self.params;
        p.repetition_penalty != 1.0 || p.presence_penalty != 0.0 || p.frequency_penalty != 0.0
    }

    /// Chooses the next token. `logits` `[vocab]` are changed by bias and penalties.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<Choice, SampleError> {
        // Checked before bias and penalties, which could hide it.
        let raw_max = max_of(logits)?;
        let raw =
            self.params.logprobs.map(|n| (filter::Ranking::new(logits, raw_max, n.into()), logits.to_vec()));
        self.adjust(logits);
        let mut token = self.draw(logits, 0)?;
        self.was_refused = false;
        if let Some(constraint) = &mut self.constraint {
            self.was_refused = !constraint.allows(token).ok_or(SampleError::Grammar)?;
            if self.was_refused {
                constraint.prepare();
                if !constraint.apply(logits) {
                    return Err(SampleError::Grammar);
                }
                token = self.draw(logits, 1)?;
            }
        }
        let logprob = raw.map(|(ranking, raw)| ranking.report(token, raw[token as usize]));
        Ok(Choice { token, logprob })
    }

    /// A token by the logits as they are now; `attempt` is 0 or 1.
    fn draw(&self, logits: &[f32], attempt: u64) -> Result<u32, SampleError> {
        let max = max_of(logits)?;
        if max == f32::NEG_INFINITY {
            return Err(SampleError::Nothing);
        }
        if self.is_greedy() {
            return Ok(first_at(logits, max));
        }
        let number = attempt << 32 | u64::from(self.generated);
        Ok(filter::draw(logits, max, &self.params, uniform(self.params.seed, number)))
    }

    /// The log probability of a prompt token by the logits `[vocab]` at the token before it.
    pub fn score(&self, logits: &[f32], token: u32) -> Result<TokenLogprob, SampleError> {
        let alternatives = self.params.prompt_logprobs.unwrap_or(0);
        let ranking = filter::Ranking::new(logits, max_of(logits)?, alternatives.into());
        Ok(ranking.report(token, logits[token as usize]))
    }

    /// Records a chosen token.
    pub fn observe(&mut self, token: u32) {
        self.generated += 1;
        if let Some(constraint) = &mut self.constraint {
            constraint.advance(token);
        }
        if self.is_penalised() {
            *self.seen.entry(token).or_default() += 1;
        }
    }

    fn adjust(&self, logits: &mut [f32]) {
        let p = &self.params;
        for (token, generated) in &self.seen {
            let Some(logit) = logits.get_mut(*token as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / p.repetition_penalty } else { *logit * p.repetition_penalty };
            if *generated > 0 {
                *logit -= p.presence_penalty + p.frequency_penalty * *generated as f32;
            }
        }
        for (token, bias) in &p.logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        if self.generated < p.min_tokens {
            for token in &self.ending {
                if let Some(logit) = logits.get_mut(*token as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// Largest logit. Two accumulations without branches, so that the compiler can use vector registers.
fn max_of(logits: &[f32]) -> Result<f32, SampleError> {
    let (mut max, mut bad) = ([f32::NEG_INFINITY; 16], [false; 16]);
    let mut chunks = logits.chunks_exact(16);
    for chunk in &mut chunks {
        for i in 0..16 {
            max[i] = if chunk[i] > max[i] { chunk[i] } else { max[i] };
            bad[i] |= chunk[i].is_nan();
        }
    }
    for (i, logit) in chunks.remainder().iter().enumerate() {
        max[i] = max[i].max(*logit);
        bad[i] |= logit.is_nan();
    }
    let max = max.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if bad.contains(&true) || max == f32::INFINITY { Err(SampleError::NotFinite) } else { Ok(max) }
}

/// Lowest token whose logit is `max`.
fn first_at(logits: &[f32], max: f32) -> u32 {
    logits.iter().position(|logit| *logit == max).unwrap_or(0) as u32
}

/// A number in [0, 1) for draw `n` of a seed: two rounds of the SplitMix64 finaliser.
fn uniform(seed: u64, n: u64) -> f64 {
    let mix = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let golden = 0x9e37_79b9_7f4a_7c15_u64;
    let start = mix(seed.wrapping_add(golden));
    let bits = mix(start.wrapping_add(n.wrapping_add(1).wrapping_mul(golden)));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
