//! From tensors in a file to matrices on a device.

use half::bf16;
use kernels::WeightType;
use kernels::cuda::linear::DeviceMatrix;
use kernels::cuda::rope::QkvExtras;
use kernels::cuda::{CudaError, Device, DeviceBuffer};
use rayon::prelude::*;

use crate::config::ModelConfig;
use crate::layers::qkv_extras;
use crate::weights::{WeightError, Weights};

const EMBEDDING: &str = "token_embd.weight";
/// Blocks of a file that are converted as one piece of work.
const BLOCKS: usize = 1024;

/// A network's block.
pub(super) struct DeviceBlock {
    pub(super) attention_norm: DeviceBuffer<f32>,
    pub(super) qkv: DeviceMatrix,
    pub(super) extras: QkvExtras,
    pub(super) attention_output: DeviceMatrix,
    pub(super) feed_forward_norm: DeviceBuffer<f32>,
    pub(super) gate_up: DeviceMatrix,
    pub(super) down: DeviceMatrix,
}

impl DeviceBlock {
    pub(super) fn load(
        weights: &Weights,
        index: usize,
        config: &ModelConfig,
        device: &Device,
    ) -> Result<Self, WeightError> {
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let (hidden, inner) = (config.hidden, config.intermediate);
        let norm = |part: &str| vector(weights, &name(part), hidden, device);
        let linear = |parts: &[(&str, usize)], cols| matrix(weights, parts, cols, device);
        Ok(Self {
            attention_norm: norm("attn_norm")?,
            qkv: linear(&[(&name("attn_q"), q), (&name("attn_k"), kv), (&name("attn_v"), kv)], hidden)?,
            extras: extras(weights, index, config, device)?,
            attention_output: linear(&[(&name("attn_output"), hidden)], q)?,
            feed_forward_norm: norm("ffn_norm")?,
            gate_up: linear(&[(&name("ffn_gate"), inner), (&name("ffn_up"), inner)], hidden)?,
            down: linear(&[(&name("ffn_down"), hidden)], inner)?,
        })
    }
}

fn extras(
    weights: &Weights,
    index: usize,
    config: &ModelConfig,
    device: &Device,
) -> Result<QkvExtras, WeightError> {
    let kernels::QkvExtras { bias, norm } = qkv_extras(weights, index, config)?;
    let bias = bias.map(|bias| device.upload(&bias)).transpose()?;
    let norm = match norm {
        Some((query, key, eps)) => Some((device.upload(&query)?, device.upload(&key)?, eps)),
        None => None,
    };
    Ok(QkvExtras { bias, norm })
}

/// What stands before and after the blocks.
pub(super) struct DeviceTables {
    pub(super) embedding: DeviceMatrix,
    pub(super) norm: DeviceBuffer<f32>,
    /// None: the embedding's values serve.
    pub(super) head: Option<DeviceMatrix>,
}

impl DeviceTables {
    pub(super) fn load(
        weights: &Weights,
        config: &ModelConfig,
        device: &Device,
    ) -> Result<Self, WeightError> {
        let (vocab, hidden) = (config.vocab, config.hidden);
        let mut bytes = Vec::new();
        let ty = weights.append_matrix(EMBEDDING, vocab, hidden, &mut bytes)?;
        let head = if weights.has("output.weight") {
            Some(matrix(weights, &[("output.weight", vocab)], hidden, device)?)
        } else if stays_packed(ty, hidden) {
            // The same weights in the form that is read fastest.
            Some(DeviceMatrix::u4(device, ty, vocab, hidden, &bytes)?)
        } else {
            None
        };
        let mut values = Vec::new();
        append_bf16(ty, &bytes, &mut values);
        let embedding = DeviceMatrix::bf16(device, vocab, hidden, &values)?;
        Ok(Self { embedding, norm: vector(weights, "output_norm.weight", hidden, device)?, head })
    }

    pub(super) fn embedding_values(&self) -> Result<&DeviceBuffer<bf16>, CudaError> {
        let values = self.embedding.as_bf16();
        values.ok_or_else(|| CudaError::Shape("the embedding has no plain values".to_owned()))
    }

    pub(super) fn head(&self) -> &DeviceMatrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

fn stays_packed(ty: WeightType, cols: usize) -> bool {
    matches!(ty, WeightType::Q4_0 | WeightType::Q4_1) && cols.is_multiple_of(128)
}

fn vector(
    weights: &Weights,
    name: &str,
    len: usize,
    device: &Device,
) -> Result<DeviceBuffer<f32>, WeightError> {
    Ok(device.upload(&weights.vector(name, len)?)?)
}

/// One matrix from several over the same input, stacked by rows: packed where all are, else bf16.
fn matrix(
    weights: &Weights,
    parts: &[(&str, usize)],
    cols: usize,
    device: &Device,
) -> Result<DeviceMatrix, WeightError> {
    let rows = parts.iter().map(|(_, rows)| rows).sum();
    let mut bytes = Vec::new();
    let mut ends = Vec::new();
    for (name, rows) in parts {
        let ty = weights.append_matrix(name, *rows, cols, &mut bytes)?;
        ends.push((ty, bytes.len()));
    }
    let first = ends[0].0;
    if stays_packed(first, cols) && ends.iter().all(|(ty, _)| *ty == first) {
        return Ok(DeviceMatrix::u4(device, first, rows, cols, &bytes)?);
    }
    let (mut values, mut begin) = (Vec::with_capacity(rows * cols), 0);
    for (ty, end) in ends {
        append_bf16(ty, &bytes[begin..end], &mut values);
        begin = end;
    }
    Ok(DeviceMatrix::bf16(device, rows, cols, &values)?)
}

/// Appends a file's weights, rounded to bf16.
fn append_bf16(ty: WeightType, bytes: &[u8], out: &mut Vec<bf16>) {
    let begin = out.len();
    out.resize(begin + bytes.len() / ty.block_bytes() * ty.block_len(), bf16::ZERO);
    let pieces = out[begin..].par_chunks_mut(BLOCKS * ty.block_len());
    pieces.zip(bytes.par_chunks(BLOCKS * ty.block_bytes())).for_each_init(Vec::new, |values, (to, from)| {
        values.resize(to.len(), 0.0);
        kernels::dequantize(ty, from, values);
        to.iter_mut().zip(values.iter()).for_each(|(to, value)| *to = bf16::from_f32(*value));
    });
}
