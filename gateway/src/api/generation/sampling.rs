//! How to choose tokens: what the caller wants, completed by the model's card.

use engine::{SamplingParams, Stop};

use crate::api::error::ApiResult;
use crate::api::fields::invalid;

/// Wanted sampling; absent values are the model's own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// Probability mass kept.
    pub top_p: Option<f32>,
    /// Tokens kept; 0 keeps all.
    pub top_k: Option<u32>,
    /// Least probability kept, as a part of the best one's.
    pub min_p: Option<f32>,
    /// Taken off the logits of tokens generated before.
    pub presence_penalty: Option<f32>,
    /// The same for each time.
    pub frequency_penalty: Option<f32>,
    /// Divides the logits of tokens in prompt and answer.
    pub repetition_penalty: Option<f32>,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// One is drawn if absent.
    pub seed: Option<i64>,
    /// No end before so many tokens.
    pub min_tokens: u32,
    /// The model's own ending tokens do not end a choice.
    pub ignore_eos: bool,
}

impl Sampling {
    /// Checks token ids against the vocabulary and fills absent values from the card. Seed and logprobs are left out.
    pub(super) fn of(&self, card: &models::Card, stop: &Stop, vocab: usize) -> ApiResult<SamplingParams> {
        let known = |id: u32| (id as usize) < vocab;
        let unknown = |field: &str, id: u32| {
            invalid(field, &format!("token {id} is not in the vocabulary of {vocab} tokens"))
        };
        if let Some((id, _)) = self.logit_bias.iter().find(|(id, _)| !known(*id)) {
            return Err(unknown("logit_bias", *id));
        }
        if let Some(id) = stop.token_ids.iter().find(|id| !known(**id)) {
            return Err(unknown("stop_token_ids", *id));
        }
        let defaults = &card.sampling;
        let top_p = self.top_p.unwrap_or(defaults.top_p);
        // A nucleus this small holds the best token alone; greedy says the same without dividing by almost nothing.
        let greedy = top_p < 1e-6;
        Ok(SamplingParams {
            temperature: if greedy { 0.0 } else { self.temperature.unwrap_or(defaults.temperature) },
            top_p: if greedy { 1.0 } else { top_p },
            top_k: self.top_k.or(defaults.top_k).filter(|k| *k > 0),
            min_p: self.min_p.unwrap_or(0.0),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            logit_bias: self.logit_bias.clone(),
            min_tokens: self.min_tokens,
            ignore_eos: self.ignore_eos,
            ..SamplingParams::default()
        })
    }
}
