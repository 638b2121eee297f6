//! Llama and its like: pre-norm blocks, grouped-query attention, rotary positions.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use kernels::{HeadShape, PackedMatrix, RopeTable};
use rayon::prelude::*;

use crate::config::ModelConfig;
use crate::layers::{Block, Linear, RmsNorm, Shared};
use crate::model::{Batch, KvCache, Model};
use crate::weights::{WeightError, Weights};

pub(crate) struct Llama {
    config: ModelConfig,
    embedding: Arc<PackedMatrix>,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Linear,
    shared: Shared,
}

impl Llama {
    pub(crate) fn load(weights: &Weights, config: ModelConfig) -> std::result::Result<Self, WeightError> {
        let (vocab, hidden) = (config.vocab, config.hidden);
        let embedding = weights.matrix("token_embd.weight", vocab, hidden)?;
        // Small models reuse the embedding as the output head.
        let head = if weights.has("output.weight") {
            weights.linear(&[("output.weight", vocab)], hidden)?
        } else {
            Linear::new(vec![Arc::clone(&embedding)])
        };
        let blocks = (0..config.layers)
            .into_par_iter()
            .map(|i| Block::load(weights, i, &config))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let rope = rope_table(weights, &config)?;
        let shape = HeadShape { heads: config.heads, kv_heads: config.kv_heads, head_dim: config.head_dim };
        Ok(Self {
            embedding,
            blocks,
            norm: RmsNorm::load(weights, "output_norm.weight", &config)?,
            head,
            shared: Shared { rope: Arc::new(rope), shape },
            config,
        })
    }
}

/// The rotary table of a file's network.
pub(crate) fn rope_table(
    weights: &Weights,
    config: &ModelConfig,
) -> std::result::Result<RopeTable, WeightError> {
    let factors = frequency_factors(weights, config.rotary_dim / 2)?;
    let ModelConfig { architecture, rotary_dim, context_len, rope_theta, .. } = *config;
    let factors = factors.as_deref();
    Ok(RopeTable::new(rotary_dim, context_len, rope_theta, factors, architecture.interleaved_rope))
}

/// Llama 3 files stretch the longer rotary periods by these.
fn frequency_factors(weights: &Weights, pairs: usize) -> std::result::Result<Option<Vec<f32>>, WeightError> {
    const NAME: &str = "rope_freqs.weight";
    if !weights.has(NAME) {
        return Ok(None);
    }
    let factors = weights.vector(NAME, pairs)?;
    if factors.iter().any(|&f| f <= 0.0) {
        return Err(WeightError::Value(NAME.to_owned()));
    }
    Ok(Some(factors))
}

impl Llama {
    /// What the head reads of the tokens at `logits_at`, `[logits_at.len(), hidden]`.
    pub(crate) fn rows(&self, batch: &Batch, cache: &KvCache) -> Result<Tensor> {
        let x = self.stream(batch, cache)?;
        self.norm.forward(&kernels::select_rows(&x, &batch.logits_at)?)
    }

    /// The residual stream after the last block, `[t, hidden]`.
    fn stream(&self, batch: &Batch, cache: &KvCache) -> Result<Tensor> {
        if cache.layers.len() != self.blocks.len() {
            candle_core::bail!("cache has {} layers, the model {}", cache.layers.len(), self.blocks.len());
        }
        let mut x = kernels::embed(&batch.token_ids, &self.embedding, &Device::Cpu)?;
        for (block, layer) in self.blocks.iter().zip(&cache.layers) {
            x = block.forward(&x, layer, &self.shared, &batch.attention)?;
        }
        Ok(x)
    }
}

impl Model for Llama {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn new_cache(&self, num_blocks: usize, block_size: usize) -> Result<KvCache> {
        KvCache::new(self.config.layers, num_blocks, block_size, &self.shared.shape)
    }

    fn forward(&self, batch: &Batch, cache: &KvCache) -> Result<Tensor> {
        let x = self.stream(batch, cache)?;
        if batch.logits_at.is_empty() {
            return Tensor::zeros((0, self.config.vocab), DType::F32, &Device::Cpu);
        }
        let last = kernels::select_rows(&x, &batch.logits_at)?;
        self.head.forward_normed(&last, &self.norm)
    }
}
