//! Every default, unit and bound of the engine.

use crate::grammar::GrammarLimits;

/// Sizes of the engine. See [`Default`] for the defaults and [`EngineConfig::validate`] for the bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Most sequences in one step.
    pub max_num_seqs: usize,
    /// Most tokens in one step, prompts and decodes together.
    pub max_batched_tokens: usize,
    /// Most prompt tokens in a step in which other sequences decode, so that their next token stays near.
    pub prefill_chunk: usize,
    /// Tokens per cache block.
    pub block_size: usize,
    /// Cache blocks; with `block_size` the tokens that all sequences together may hold.
    pub num_blocks: usize,
    /// Most sequences beyond `max_num_seqs` that wait for admission.
    pub max_waiting: usize,
    /// Keep computed blocks for later requests with the same beginning.
    pub prefix_cache: bool,
    /// Tokens generated ahead of a slow reader, per stream.
    pub stream_capacity: usize,
    /// Bounds on the grammars of callers.
    pub grammar: GrammarLimits,
    /// How tiers and tenants share a step.
    pub sharing: Sharing,
}

/// How tiers and tenants share a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// What a tenant's counter is charged for a prompt token.
    pub prefill_cost: u32,
    /// The same for a generated token; the ratio of the two is that of their times on the device.
    pub decode_cost: u32,
    /// How far (cost / weight) a tenant may be ahead of one that waits before it loses its place in the batch. Smaller
    /// is fairer, larger preempts less.
    pub drift: u32,
    /// Rules by tier, in the order of [`crate::Tier::ALL`].
    pub tiers: [TierRule; 6],
}

/// How a tier stands to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierRule {
    /// Most tokens, of prompts and decodes, that all lower tiers together take in a step in which this tier computes:
    /// its sequences' time between tokens depends on it.
    pub yield_tokens: usize,
    /// After so many steps without a token although a sequence was ready, the tier's first sequence is served before
    /// all others until it has generated one. 0: it may starve.
    pub starvation_steps: u32,
}

impl Default for Sharing {
    fn default() -> Self {
        let rule = |yield_tokens, starvation_steps| TierRule { yield_tokens, starvation_steps };
        Self {
            prefill_cost: 1,
            decode_cost: 2,
            drift: 4096,
            tiers: [rule(0, 0), rule(0, 0), rule(32, 64), rule(64, 256), rule(64, 2048), rule(64, 0)],
        }
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_num_seqs: 32,
            max_batched_tokens: 512,
            prefill_chunk: 128,
            block_size: 32,
            num_blocks: 768,
            max_waiting: 256,
            prefix_cache: true,
            stream_capacity: 64,
            grammar: GrammarLimits::default(),
            sharing: Sharing::default(),
        }
    }
}

/// A value that the engine cannot work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {value}, must be {min} to {max}")]
pub struct ConfigError {
    /// Name of the field.
    pub key: &'static str,
    /// Its value.
    pub value: usize,
    /// Smallest allowed value.
    pub min: usize,
    /// Largest allowed value.
    pub max: usize,
}

impl EngineConfig {
    /// Checks all bounds; the error names the field, its value and the bound.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let bounds = [
            ("max_num_seqs", self.max_num_seqs, 1, 4096),
            // In each step every running sequence can take one token, and one is left for a prompt.
            ("max_batched_tokens", self.max_batched_tokens, self.max_num_seqs.saturating_add(1), 1 << 16),
            ("prefill_chunk", self.prefill_chunk, 1, self.max_batched_tokens),
            ("block_size", self.block_size, 1, 1024),
            ("num_blocks", self.num_blocks, 1, 1 << 24),
            // Slots are numbered with 32 bits.
            ("num_blocks", self.num_blocks, 1, (u32::MAX as usize) / self.block_size.max(1)),
            ("max_waiting", self.max_waiting, 0, 1 << 20),
            ("prefill_cost", self.sharing.prefill_cost as usize, 1, 1000),
            ("decode_cost", self.sharing.decode_cost as usize, 1, 1000),
            ("drift", self.sharing.drift as usize, 1, 1 << 30),
            // Room for the start and a token, with a half to refill.
            ("stream_capacity", self.stream_capacity, 4, 1 << 16),
        ];
        match bounds.into_iter().find(|(_, value, min, max)| value < min || value > max) {
            Some((key, value, min, max)) => Err(ConfigError { key, value, min, max }),
            None => Ok(()),
        }
    }

    /// The same by the tier of who arrives: each tier keeps an eighth of the waiting places from those below it, so that
    /// a flood of lower tiers does not turn higher ones away.
    pub fn live_limits(&self) -> [usize; 6] {
        crate::Tier::ALL.map(|tier| self.max_live() - self.max_waiting / 8 * tier.index())
    }

    /// Most sequences that wait and run together.
    pub fn max_live(&self) -> usize {
        self.max_num_seqs + self.max_waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_valid() {
        assert_eq!(EngineConfig::default().validate(), Ok(()));
    }

    #[test]
    fn names_the_field_and_the_bound() {
        let config = EngineConfig { max_batched_tokens: 8, ..EngineConfig::default() };
        let message = config.validate().expect_err("8 tokens cannot serve 32 sequences").to_string();
        assert_eq!(message, "max_batched_tokens is 8, must be 33 to 65536");
    }
}
