//! Launch of `rope_cache.cu`.

use half::bf16;

use super::batch::DeviceBatch;
use super::cache::PagedCache;
use super::device::{CudaError, Device, DeviceBuffer, Launch, Params, ensure};
use crate::RopeTable;

const THREADS: u32 = 256;
const WARPS: usize = THREADS as usize / 32;

/// A rotary table on a device.
pub struct DeviceRope {
    table: DeviceBuffer<f32>,
    rotary_dim: usize,
    max_positions: usize,
    interleaved: bool,
}

impl DeviceRope {
    /// Copies `rope`.
    ///
    /// # Errors
    /// No memory, or what the driver reports.
    pub fn new(device: &Device, rope: &RopeTable) -> Result<Self, CudaError> {
        Ok(Self {
            table: device.upload(rope.values())?,
            rotary_dim: rope.rotary_dim(),
            max_positions: rope.max_positions(),
            interleaved: rope.is_interleaved(),
        })
    }

    /// First position that the table does not have.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }
}

/// What comes before the rotation: a bias of qkv, and normalisation of each q and k head.
#[derive(Default)]
pub struct QkvExtras {
    /// `[(heads + 2 * kv_heads) * head_dim]`.
    pub bias: Option<DeviceBuffer<f32>>,
    /// Weights of q heads and of k heads, `[head_dim]` each, and the epsilon.
    pub norm: Option<(DeviceBuffer<f32>, DeviceBuffer<f32>, f32)>,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct RopeCacheParams {
    qkv: u64,
    bias: u64,
    query_norm: u64,
    key_norm: u64,
    table: u64,
    positions: u64,
    slots: u64,
    query: u64,
    cache: u64,
    cache_scales: u64,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    rotary_dim: u32,
    num_blocks: u32,
    block_size: u32,
    interleaved: u32,
    norm_eps: f32,
    key_scale: f32,
    value_scale: f32,
}
// SAFETY: the mirror of RopeCacheParams in rope_cache.cu.
unsafe impl Params for RopeCacheParams {}

/// Splits `qkv` `[tokens, (heads + 2 * kv_heads) * head_dim]`: rotated queries to `query` `[tokens, heads, head_dim]`,
/// rotated keys and values to their slots of `cache`.
///
/// # Errors
/// Sizes that do not go together, or what the driver reports.
pub fn rope_cache(
    qkv: &DeviceBuffer<bf16>,
    extras: &QkvExtras,
    rope: &DeviceRope,
    batch: &DeviceBatch,
    cache: &PagedCache,
    query: &DeviceBuffer<bf16>,
) -> Result<(), CudaError> {
    let (shape, counts) = (&cache.shape, batch.counts);
    let (tokens, head_dim) = (counts.tokens, shape.head_dim);
    ensure!(
        qkv.len() >= tokens * shape.qkv_width() && query.len() >= tokens * shape.heads * head_dim,
        "rope: {tokens} tokens with qkv of {} and queries of {}",
        qkv.len(),
        query.len()
    );
    ensure!(rope.rotary_dim <= head_dim, "rope: {} rotated values in a head of {head_dim}", rope.rotary_dim);
    ensure!(
        counts.pages == (cache.num_blocks, cache.block_size),
        "rope: the batch was checked against {:?} pages",
        counts.pages
    );
    let has_length = |buffer: &DeviceBuffer<f32>, len| buffer.len() == len;
    ensure!(
        extras.bias.as_ref().is_none_or(|bias| has_length(bias, shape.qkv_width())),
        "rope: the bias does not fit {} values",
        shape.qkv_width()
    );
    ensure!(
        extras.norm.as_ref().is_none_or(|(q, k, _)| has_length(q, head_dim) && has_length(k, head_dim)),
        "rope: the weights of a head's normalisation are not {head_dim} values"
    );
    let (key_scale, value_scale) = cache.element.scales();
    let params = RopeCacheParams {
        qkv: qkv.address(),
        bias: extras.bias.as_ref().map_or(0, DeviceBuffer::address),
        query_norm: extras.norm.as_ref().map_or(0, |norm| norm.0.address()),
        key_norm: extras.norm.as_ref().map_or(0, |norm| norm.1.address()),
        table: rope.table.address(),
        positions: batch.positions.address(),
        slots: batch.slots.address(),
        query: query.address(),
        cache: cache.data.address(),
        cache_scales: cache.scales.as_ref().map_or(0, DeviceBuffer::address),
        heads: shape.heads as u32,
        kv_heads: shape.kv_heads as u32,
        head_dim: head_dim as u32,
        rotary_dim: rope.rotary_dim as u32,
        num_blocks: cache.num_blocks as u32,
        block_size: cache.block_size as u32,
        interleaved: u32::from(rope.interleaved),
        norm_eps: extras.norm.as_ref().map_or(0.0, |norm| norm.2),
        key_scale,
        value_scale,
    };
    let launch = Launch {
        grid: [tokens as u32, 1, 1],
        threads: THREADS,
        shared_bytes: WARPS * head_dim * size_of::<f32>(),
    };
    let kernels = ["rope_cache_f16", "rope_cache_bf16", "rope_cache_fp8", "rope_cache_int8"];
    qkv.device().launch(cache.element.pick(kernels), launch, &params)
}
