//! Single kernels.

use half::bf16;
use kernels::cuda::attention::{self, AttentionRule, DecodeScratch, SPLIT_LEN};
use kernels::cuda::linear::{DeviceMatrix, Product, matmul};
use kernels::cuda::{CacheElement, CudaError, Device, DeviceBatch, DeviceBuffer, PagedCache};
use kernels::{AttentionMeta, HeadShape, WeightType};

use crate::shapes::Shapes;
use crate::table::{Floor, Table};
use crate::{bf16_values, graph_seconds, median_seconds};

const BLOCK_SIZE: usize = 16;

/// Adds the figures of all kernels.
pub(crate) fn run(device: &Device, shapes: &Shapes, seed: u64, table: &mut Table) -> Result<(), CudaError> {
    copy(device, shapes.copy, table)?;
    for &(batch, context) in shapes.decode {
        decode(device, &shapes.heads, table, batch, context)?;
    }
    for &(tokens, context) in shapes.prefill {
        prefill(device, &shapes.heads, table, tokens, context)?;
    }
    for &(rows, cols) in shapes.linear {
        linear(device, seed, table, (rows, cols), shapes.batches)?;
    }
    Ok(())
}

/// The bandwidth that everything else is held against.
fn copy(device: &Device, bytes: usize, table: &mut Table) -> Result<(), CudaError> {
    let (from, mut to) = (device.zeros::<u8>(bytes)?, device.zeros::<u8>(bytes)?);
    let seconds = median_seconds(device, || to.copy_from(&from))?;
    table.set_copy_rate(2.0 * bytes as f64 / seconds);
    table.push(format!("copy {} MiB", bytes >> 20), seconds, Floor::Bytes(2.0 * bytes as f64), None);
    Ok(())
}

/// `batch` sequences of `context` tokens, of which the last `new` are this step's.
fn sequences(
    device: &Device,
    heads: &HeadShape,
    batch: usize,
    context: usize,
    new: usize,
) -> Result<(PagedCache, DeviceBatch), CudaError> {
    let pages = context.div_ceil(BLOCK_SIZE);
    let cache = PagedCache::new(device, CacheElement::F16, heads, batch * pages, BLOCK_SIZE)?;
    let mut meta = AttentionMeta { table_stride: pages, query_start: vec![0], ..AttentionMeta::default() };
    for sequence in 0..batch {
        // Neighbouring pages of a sequence are apart, as they come to be in a busy cache.
        meta.block_table.extend((0..pages).map(|page| (page * batch + sequence) as u32));
        meta.context_len.push(context as u32);
        for position in context - new..context {
            meta.positions.push(position as u32);
            let page = (position / BLOCK_SIZE) * batch + sequence;
            meta.slot_mapping.push((page * BLOCK_SIZE + position % BLOCK_SIZE) as u32);
        }
        meta.query_start.push(meta.positions.len() as u32);
    }
    let mut indices = DeviceBatch::new(device, batch * new, batch, pages)?;
    indices.fill(&vec![0; batch * new], &meta, &cache, context, batch)?;
    Ok((cache, indices))
}

fn rule(heads: &HeadShape) -> AttentionRule {
    AttentionRule { scale: 1.0 / (heads.head_dim as f32).sqrt(), window: None, soft_cap: None }
}

fn decode(
    device: &Device,
    heads: &HeadShape,
    table: &mut Table,
    batch: usize,
    context: usize,
) -> Result<(), CudaError> {
    let (cache, indices) = sequences(device, heads, batch, context, 1)?;
    let width = heads.heads * heads.head_dim;
    let (query, out) = (device.zeros::<bf16>(batch * width)?, device.zeros(batch * width)?);
    let scratch = DecodeScratch::new(&cache, batch, context.div_ceil(SPLIT_LEN))?;
    let seconds = graph_seconds(device, 8, || {
        attention::decode(&query, &cache, &indices, &rule(heads), SPLIT_LEN, None, &scratch, &out)
    })?;
    let bytes = batch * context * PagedCache::bytes_per_position(CacheElement::F16, heads);
    table.push(format!("decode attention, {batch} x {context}"), seconds, Floor::Bytes(bytes as f64), None);
    Ok(())
}

fn prefill(
    device: &Device,
    heads: &HeadShape,
    table: &mut Table,
    tokens: usize,
    context: usize,
) -> Result<(), CudaError> {
    let (cache, indices) = sequences(device, heads, 1, context, tokens)?;
    let width = heads.heads * heads.head_dim;
    let (query, out) = (device.zeros::<bf16>(tokens * width)?, device.zeros(tokens * width)?);
    let seconds =
        graph_seconds(device, 4, || attention::prefill(&query, &cache, &indices, &rule(heads), &out))?;
    // Scores and values, of which the causal mask leaves out the later positions of the new tokens.
    let pairs = tokens as f64 * (context as f64 - tokens as f64 / 2.0);
    let operations = 4.0 * pairs * width as f64;
    let name = format!("prefill attention, {tokens} of {context}");
    table.push(name, seconds, Floor::Operations(operations), None);
    Ok(())
}

fn linear(
    device: &Device,
    seed: u64,
    table: &mut Table,
    (rows, cols): (usize, usize),
    batches: &[usize],
) -> Result<(), CudaError> {
    let plain = DeviceMatrix::bf16(device, rows, cols, &bf16_values(seed, rows * cols))?;
    let block: Vec<u8> = (0..rows * cols / 32 * 20).map(|i| (i * 37 % 64) as u8).collect();
    let packed = DeviceMatrix::u4(device, WeightType::Q4_1, rows, cols, &block)?;
    for &m in batches {
        let x: DeviceBuffer<bf16> = device.upload(&bf16_values(seed + 1, m * cols))?;
        let y: DeviceBuffer<bf16> = device.zeros(m * rows)?;
        for (name, weight) in [("bf16", &plain), ("4 bits", &packed)] {
            if m > 32 && name != "bf16" {
                continue;
            }
            let seconds = graph_seconds(device, 8, || matmul(&x, m, weight, &Product::Bf16(&y)))?;
            let bytes = weight.bytes() + 2 * m * (rows + cols);
            let floor = if m < 256 {
                Floor::Bytes(bytes as f64)
            } else {
                Floor::Operations(2.0 * m as f64 * rows as f64 * cols as f64)
            };
            table.push(format!("linear {name}, {m} x {rows} x {cols}"), seconds, floor, None);
        }
    }
    Ok(())
}
