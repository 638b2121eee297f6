//! Launches of `attention_decode.cu` and `attention_prefill.cu`.

use half::bf16;

use super::batch::DeviceBatch;
use super::cache::PagedCache;
use super::device::{CudaError, DeviceBuffer, Launch, Params, ensure};

/// Positions of one piece of split-KV decode, unless a caller asks for another length: long enough to hide its start and
/// end, short enough that one long sequence fills a GPU. A multiple of 64.
pub const SPLIT_LEN: usize = 512;

const DECODE_WARPS: usize = 4;
const DECODE_HEADS: usize = 8;
const THREADS: u32 = 128;

/// How scores become weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionRule {
    /// Factor of scores; `1 / sqrt(head_dim)` in most models.
    pub scale: f32,
    /// Positions a query sees, its own included; all if none.
    pub window: Option<u32>,
    /// Scores go through `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct DecodeParams {
    query: u64,
    cache: u64,
    cache_scales: u64,
    block_table: u64,
    context_len: u64,
    sequences: u64,
    query_rows: u64,
    out: u64,
    partial_out: u64,
    partial_state: u64,
    heads: u32,
    kv_heads: u32,
    num_blocks: u32,
    block_size: u32,
    table_stride: u32,
    splits: u32,
    split_len: u32,
    window: u32,
    softmax_scale: f32,
    soft_cap: f32,
    key_scale: f32,
    value_scale: f32,
}
// SAFETY: the mirror of DecodeParams in attention_decode.cu.
unsafe impl Params for DecodeParams {}

#[derive(Clone, Copy)]
#[repr(C)]
struct PrefillParams {
    query: u64,
    cache: u64,
    cache_scales: u64,
    block_table: u64,
    context_len: u64,
    sequences: u64,
    query_start: u64,
    out: u64,
    heads: u32,
    kv_heads: u32,
    num_blocks: u32,
    block_size: u32,
    table_stride: u32,
    window: u32,
    softmax_scale: f32,
    soft_cap: f32,
    key_scale: f32,
    value_scale: f32,
}
// SAFETY: the mirror of PrefillParams in attention_prefill.cu.
unsafe impl Params for PrefillParams {}

/// Room for the pieces of split-KV decode.
pub struct DecodeScratch {
    out: DeviceBuffer<f32>,
    /// Maximum and sum of each piece.
    state: DeviceBuffer<f32>,
    pieces: usize,
    head_dim: usize,
}

impl DecodeScratch {
    /// For at most `sequences` sequences of at most `splits` pieces.
    ///
    /// # Errors
    /// No memory, or what the driver reports.
    pub fn new(cache: &PagedCache, sequences: usize, splits: usize) -> Result<Self, CudaError> {
        let (device, pieces) = (cache.data.device(), sequences * splits * cache.shape.heads);
        let head_dim = cache.shape.head_dim;
        Ok(Self { out: device.zeros(pieces * head_dim)?, state: device.zeros(2 * pieces)?, pieces, head_dim })
    }
}

/// Names of a kernel for each element type, and of the combining kernel, for a head size.
macro_rules! names {
    ($head_dim:expr, $prefix:literal) => {
        match $head_dim {
            64 => Some(names!(@ $prefix, "_d64")),
            80 => Some(names!(@ $prefix, "_d80")),
            96 => Some(names!(@ $prefix, "_d96")),
            128 => Some(names!(@ $prefix, "_d128")),
            256 => Some(names!(@ $prefix, "_d256")),
            _ => None,
        }
    };
    (@ $prefix:literal, $dim:literal) => {
        ([
            concat!($prefix, "_f16", $dim),
            concat!($prefix, "_bf16", $dim),
            concat!($prefix, "_fp8", $dim),
            concat!($prefix, "_int8", $dim),
        ], concat!("attention_combine", $dim))
    };
}

/// Attends from the new token of each decoding sequence of `batch` to its pages: `query` and `out` are
/// `[tokens, heads, head_dim]`, of which only those tokens' rows are read and written.
///
/// A sequence's result does not depend on the rest of the batch. With `longest_context` a launch serves every step whose
/// sequences are no longer, as a captured graph needs; none takes the batch's own longest.
///
/// # Errors
/// Sizes that do not go together, or what the driver reports.
#[allow(clippy::too_many_arguments)]
pub fn decode(
    query: &DeviceBuffer<bf16>,
    cache: &PagedCache,
    batch: &DeviceBatch,
    rule: &AttentionRule,
    split_len: usize,
    longest_context: Option<usize>,
    scratch: &DecodeScratch,
    out: &DeviceBuffer<bf16>,
) -> Result<(), CudaError> {
    let counts = batch.counts;
    if counts.decode == 0 {
        return Ok(());
    }
    check(query, cache, batch, out)?;
    ensure!(split_len > 0 && split_len.is_multiple_of(64), "split_len {split_len} is not a multiple of 64");
    let longest = longest_context.unwrap_or(counts.longest_context).max(1);
    ensure!(longest >= counts.longest_context, "context {} beyond {longest}", counts.longest_context);
    let shape = &cache.shape;
    let splits = longest.div_ceil(split_len);
    if splits > 1 {
        let needed = counts.decode * splits * shape.heads;
        ensure!(
            needed <= scratch.pieces && scratch.head_dim == shape.head_dim,
            "{needed} pieces with scratch for {}",
            scratch.pieces
        );
    }
    let (key_scale, value_scale) = cache.element.scales();
    let params = DecodeParams {
        query: query.address(),
        cache: cache.data.address(),
        cache_scales: cache.scales.as_ref().map_or(0, DeviceBuffer::address),
        block_table: batch.block_table.address(),
        context_len: batch.context_len.address(),
        sequences: batch.decode_sequences.address(),
        query_rows: batch.decode_rows.address(),
        out: out.address(),
        partial_out: scratch.out.address(),
        partial_state: scratch.state.address(),
        heads: shape.heads as u32,
        kv_heads: shape.kv_heads as u32,
        num_blocks: cache.num_blocks as u32,
        block_size: cache.block_size as u32,
        table_stride: batch.table_stride() as u32,
        splits: splits as u32,
        split_len: split_len as u32,
        window: rule.window.unwrap_or(0),
        softmax_scale: rule.scale,
        soft_cap: rule.soft_cap.unwrap_or(0.0),
        key_scale,
        value_scale,
    };
    let (kernels, combine) = names!(shape.head_dim, "attention_decode")
        .ok_or_else(|| CudaError::Shape(format!("no decode kernel for heads of {}", shape.head_dim)))?;
    let groups = shape.kv_heads * shape.group().div_ceil(DECODE_HEADS);
    let launch = Launch {
        grid: [splits as u32, groups as u32, counts.decode as u32],
        threads: THREADS,
        shared_bytes: DECODE_WARPS * DECODE_HEADS * (shape.head_dim + 2) * size_of::<f32>(),
    };
    let device = query.device();
    device.launch(cache.element.pick(kernels), launch, &params)?;
    if splits > 1 {
        let grid = [shape.heads as u32, counts.decode as u32, 1];
        device.launch(combine, Launch { grid, threads: THREADS, shared_bytes: 0 }, &params)?;
    }
    Ok(())
}

/// Attends from the new tokens of each prefilling sequence of `batch` to its pages; see [`decode`].
///
/// # Errors
/// Sizes that do not go together, or what the driver reports.
pub fn prefill(
    query: &DeviceBuffer<bf16>,
    cache: &PagedCache,
    batch: &DeviceBatch,
    rule: &AttentionRule,
    out: &DeviceBuffer<bf16>,
) -> Result<(), CudaError> {
    let counts = batch.counts;
    if counts.prefill == 0 {
        return Ok(());
    }
    check(query, cache, batch, out)?;
    let shape = &cache.shape;
    let (key_scale, value_scale) = cache.element.scales();
    let params = PrefillParams {
        query: query.address(),
        cache: cache.data.address(),
        cache_scales: cache.scales.as_ref().map_or(0, DeviceBuffer::address),
        block_table: batch.block_table.address(),
        context_len: batch.context_len.address(),
        sequences: batch.prefill_sequences.address(),
        query_start: batch.query_start.address(),
        out: out.address(),
        heads: shape.heads as u32,
        kv_heads: shape.kv_heads as u32,
        num_blocks: cache.num_blocks as u32,
        block_size: cache.block_size as u32,
        table_stride: batch.table_stride() as u32,
        window: rule.window.unwrap_or(0),
        softmax_scale: rule.scale,
        soft_cap: rule.soft_cap.unwrap_or(0.0),
        key_scale,
        value_scale,
    };
    let (kernels, _) = names!(shape.head_dim, "attention_prefill")
        .ok_or_else(|| CudaError::Shape(format!("no prefill kernel for heads of {}", shape.head_dim)))?;
    // As PrefillTile has them.
    let (rows, positions) = if shape.head_dim <= 128 { (128, 64) } else { (64, 32) };
    let launch = Launch {
        grid: [
            (counts.longest_query * shape.group()).div_ceil(rows) as u32,
            shape.kv_heads as u32,
            counts.prefill as u32,
        ],
        threads: THREADS,
        shared_bytes: (rows + 2 * 2 * positions) * (shape.head_dim + 8) * size_of::<bf16>(),
    };
    query.device().launch(cache.element.pick(kernels), launch, &params)
}

fn check(
    query: &DeviceBuffer<bf16>,
    cache: &PagedCache,
    batch: &DeviceBatch,
    out: &DeviceBuffer<bf16>,
) -> Result<(), CudaError> {
    let needed = batch.counts.tokens * cache.shape.heads * cache.shape.head_dim;
    ensure!(
        query.len() >= needed && out.len() >= needed,
        "attention: {needed} values with a query of {} and an output of {}",
        query.len(),
        out.len()
    );
    ensure!(
        batch.counts.pages == (cache.num_blocks, cache.block_size),
        "attention: the batch was checked against {:?} pages, the cache has {:?}",
        batch.counts.pages,
        (cache.num_blocks, cache.block_size)
    );
    Ok(())
}
