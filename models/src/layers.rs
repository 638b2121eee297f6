//! Building blocks shared by Llama-like architectures.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use kernels::{AttentionMeta, Fusion, HeadShape, LayerCache, PackedMatrix, QkvExtras, RopeTable};

use crate::config::ModelConfig;
use crate::weights::{WeightError, Weights};

/// `y = x W^T`, where W may be stacked from several matrices of different storage types.
pub(crate) struct Linear {
    parts: Vec<Arc<PackedMatrix>>,
}

impl Linear {
    pub(crate) fn new(parts: Vec<Arc<PackedMatrix>>) -> Self {
        Self { parts }
    }

    /// `norm(x) W^T`: `[t, cols]` to `[t, rows of all parts]`.
    pub(crate) fn forward_normed(&self, x: &Tensor, norm: &RmsNorm) -> Result<Tensor> {
        kernels::matmul_fused(x, &self.parts, Fusion { norm: Some(norm.parts()), ..Fusion::default() })
    }

    /// `silu(gate) * up`, where `norm(x) W^T` is both side by side.
    fn forward_gated(&self, x: &Tensor, norm: &RmsNorm) -> Result<Tensor> {
        kernels::matmul_fused(
            x,
            &self.parts,
            Fusion { norm: Some(norm.parts()), gated: true, ..Fusion::default() },
        )
    }

    /// `residual + x W^T`.
    fn forward_onto(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let fusion = Fusion { residual: Some(residual.clone()), ..Fusion::default() };
        kernels::matmul_fused(x, &self.parts, fusion)
    }
}

/// Root-mean-square normalisation with a learned scale.
pub(crate) struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    pub(crate) fn load(
        weights: &Weights,
        name: &str,
        config: &ModelConfig,
    ) -> std::result::Result<Self, WeightError> {
        Ok(Self { weight: weights.vector_tensor(name, config.hidden)?, eps: config.rms_eps })
    }

    /// The rows of `x`, normalised.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        kernels::rms_norm(x, &self.weight, self.eps)
    }

    fn parts(&self) -> (Tensor, f32) {
        (self.weight.clone(), self.eps)
    }
}

/// What all blocks of a network share.
pub(crate) struct Shared {
    pub(crate) rope: Arc<RopeTable>,
    pub(crate) shape: HeadShape,
}

/// Pre-norm block: attention, then a gated feed-forward layer, each added to the residual stream.
pub(crate) struct Block {
    attention_norm: RmsNorm,
    qkv: Linear,
    extras: Arc<QkvExtras>,
    attention_output: Linear,
    feed_forward_norm: RmsNorm,
    gate_up: Linear,
    down: Linear,
}

impl Block {
    pub(crate) fn load(
        weights: &Weights,
        index: usize,
        config: &ModelConfig,
    ) -> std::result::Result<Self, WeightError> {
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let (hidden, inner) = (config.hidden, config.intermediate);
        Ok(Self {
            attention_norm: RmsNorm::load(weights, &name("attn_norm"), config)?,
            qkv: weights
                .linear(&[(&name("attn_q"), q), (&name("attn_k"), kv), (&name("attn_v"), kv)], hidden)?,
            extras: Arc::new(qkv_extras(weights, index, config)?),
            attention_output: weights.linear(&[(&name("attn_output"), hidden)], q)?,
            feed_forward_norm: RmsNorm::load(weights, &name("ffn_norm"), config)?,
            gate_up: weights.linear(&[(&name("ffn_gate"), inner), (&name("ffn_up"), inner)], hidden)?,
            down: weights.linear(&[(&name("ffn_down"), hidden)], inner)?,
        })
    }

    /// `x` is the residual stream, `[t, hidden]`.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        cache: &LayerCache,
        shared: &Shared,
        meta: &Arc<AttentionMeta>,
    ) -> Result<Tensor> {
        let qkv = self.qkv.forward_normed(x, &self.attention_norm)?;
        let attended = kernels::attention(&qkv, cache, &self.extras, &shared.rope, &shared.shape, meta)?;
        let x = self.attention_output.forward_onto(&attended, x)?;
        let inner = self.gate_up.forward_gated(&x, &self.feed_forward_norm)?;
        self.down.forward_onto(&inner, &x)
    }
}

/// What the architecture asks for between qkv and the rotation in block `index`.
pub(crate) fn qkv_extras(
    weights: &Weights,
    index: usize,
    config: &ModelConfig,
) -> std::result::Result<QkvExtras, WeightError> {
    let ModelConfig { architecture, heads, kv_heads, head_dim, rms_eps, .. } = *config;
    let vector = |part: &str, len| weights.vector(&format!("blk.{index}.{part}"), len);
    let mut extras = QkvExtras::default();
    if architecture.qkv_bias {
        let widths = [heads, kv_heads, kv_heads].map(|heads| heads * head_dim);
        let parts = ["attn_q.bias", "attn_k.bias", "attn_v.bias"].into_iter().zip(widths);
        let parts = parts.map(|(part, len)| vector(part, len)).collect::<std::result::Result<Vec<_>, _>>()?;
        extras.bias = Some(parts.concat());
    }
    if architecture.head_norm {
        let norm = |part| vector(part, head_dim);
        extras.norm = Some((norm("attn_q_norm.weight")?, norm("attn_k_norm.weight")?, rms_eps));
    }
    Ok(extras)
}
