//! Rotary embedding, cache write and paged causal attention, as candle ops.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, InplaceOp2, Layout, Result, Shape, Tensor, bail};
use half::f16;

use crate::{AttentionMeta, HeadShape, LayerCache, RopeTable, cpu};

/// What comes before the rotation: a bias of qkv (Qwen2), and normalisation of each q and k head (Qwen3).
#[derive(Debug, Default)]
pub struct QkvExtras {
    /// `[(heads + 2 * kv_heads) * head_dim]`.
    pub bias: Option<Vec<f32>>,
    /// The weights of q heads and of k heads, `[head_dim]` each, and the epsilon of their RMS norms.
    pub norm: Option<(Vec<f32>, Vec<f32>, f32)>,
}

impl QkvExtras {
    fn check(&self, shape: &HeadShape) -> Result<()> {
        let lengths = |values: &Vec<f32>, expected| values.len() == expected;
        if !self.bias.as_ref().is_none_or(|bias| lengths(bias, shape.qkv_width())) {
            bail!("attention: the bias does not fit {} values", shape.qkv_width());
        }
        let fits = |(q, k, _): &(Vec<f32>, Vec<f32>, f32)| [q, k].iter().all(|w| lengths(w, shape.head_dim));
        if !self.norm.as_ref().is_none_or(fits) {
            bail!("attention: the weights of a head's normalisation are not {} values", shape.head_dim);
        }
        Ok(())
    }
}

/// Attention of one layer over a step's ragged batch.
///
/// `qkv` is `[t, (heads + 2 * kv_heads) * head_dim]` f32: q, then k, then v of each token. Applies `extras`, rotates q
/// and k, writes k and v to `cache` at the slots of `meta`, then attends from each query to the positions up to its own
/// in its sequence's pages, with scores scaled by `1 / sqrt(head_dim)`. Returns `[t, heads * head_dim]`.
///
/// A query's result depends only on the cache and its position, bit for bit.
///
/// # Errors
/// If shapes do not match or an index of `meta` is out of bounds.
pub fn attention(
    qkv: &Tensor,
    cache: &LayerCache,
    extras: &Arc<QkvExtras>,
    rope: &Arc<RopeTable>,
    shape: &HeadShape,
    meta: &Arc<AttentionMeta>,
) -> Result<Tensor> {
    shape.check()?;
    cache.check(shape)?;
    extras.check(shape)?;
    meta.check(cache.num_blocks(), cache.block_size(), rope.max_positions())?;
    let (t, width) = qkv.dims2()?;
    if width != shape.qkv_width() || t != meta.positions.len() {
        bail!(
            "attention: qkv of {t} x {width} for {} tokens of {} values",
            meta.positions.len(),
            shape.qkv_width()
        );
    }
    if rope.rotary_dim() > shape.head_dim {
        bail!("attention: {} rotated values in a head of {}", rope.rotary_dim(), shape.head_dim);
    }
    let qkv = qkv.contiguous()?;
    let op = Attention {
        extras: Arc::clone(extras),
        rope: Arc::clone(rope),
        shape: shape.clone(),
        meta: Arc::clone(meta),
        num_blocks: cache.num_blocks(),
        block_size: cache.block_size(),
    };
    cache.tensor().inplace_op2(&qkv, &WriteCache(&op))?;
    qkv.apply_op2_no_bwd(cache.tensor(), &op)
}

struct Attention {
    extras: Arc<QkvExtras>,
    rope: Arc<RopeTable>,
    shape: HeadShape,
    meta: Arc<AttentionMeta>,
    num_blocks: usize,
    block_size: usize,
}

impl Attention {
    fn job(&self) -> cpu::AttentionJob<'_> {
        cpu::AttentionJob {
            extras: &self.extras,
            rope: &self.rope,
            shape: &self.shape,
            meta: &self.meta,
            num_blocks: self.num_blocks,
            block_size: self.block_size,
        }
    }
}

struct WriteCache<'a>(&'a Attention);

impl InplaceOp2 for WriteCache<'_> {
    fn name(&self) -> &'static str {
        "write-kv"
    }

    fn cpu_fwd(&self, cache: &mut CpuStorage, cl: &Layout, qkv: &CpuStorage, ql: &Layout) -> Result<()> {
        let qkv = cpu::slice_of::<f32>(qkv, ql)?;
        let Some((from, to)) = cl.contiguous_offsets() else {
            bail!("write-kv: the cache is not contiguous")
        };
        match cache {
            CpuStorage::F16(cache) => cpu::path().write_cache(&self.0.job(), qkv, &mut cache[from..to]),
            other => bail!(
                "write-kv: the cache is {:?}, not f16",
                candle_core::backend::BackendStorage::dtype(other)
            ),
        }
        Ok(())
    }
}

impl CustomOp2 for Attention {
    fn name(&self) -> &'static str {
        "paged-attention"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        ql: &Layout,
        cache: &CpuStorage,
        cl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (qkv, cache) = (cpu::slice_of::<f32>(qkv, ql)?, cpu::slice_of::<f16>(cache, cl)?);
        let (t, width) = (self.meta.positions.len(), self.shape.heads * self.shape.head_dim);
        let mut out = vec![0f32; t * width];
        cpu::path().attend(&self.job(), qkv, cache, &mut out);
        Ok((CpuStorage::F32(out), Shape::from((t, width))))
    }
}
