//! Weights without a file.

use half::bf16;
use kernels::cuda::linear::DeviceMatrix;
use kernels::cuda::rope::QkvExtras;
use kernels::cuda::{CudaError, Device};
use rayon::prelude::*;

use super::weights::{DeviceBlock, DeviceTables};
use crate::config::ModelConfig;

/// Values that every matrix takes its own from.
pub(super) struct Synthetic<'a> {
    config: &'a ModelConfig,
    device: &'a Device,
    values: Vec<bf16>,
}

impl<'a> Synthetic<'a> {
    pub(super) fn new(config: &'a ModelConfig, device: &'a Device, seed: u64) -> Self {
        let largest = config.hidden * config.vocab.max(2 * config.intermediate);
        // About the size at which a product keeps the size of its input.
        let scale = (3.0 / config.hidden as f32).sqrt();
        let value = |i: usize| {
            let mixed = (i as u64 ^ seed << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            bf16::from_f32((mixed as f32 / (1 << 23) as f32 - 1.0) * scale)
        };
        Self { config, device, values: (0..largest).into_par_iter().map(value).collect() }
    }

    fn matrix(&self, rows: usize, cols: usize) -> Result<DeviceMatrix, CudaError> {
        DeviceMatrix::bf16(self.device, rows, cols, &self.values[..rows * cols])
    }

    pub(super) fn block(&self) -> Result<DeviceBlock, CudaError> {
        let ModelConfig { hidden, heads, kv_heads, head_dim, intermediate, .. } = *self.config;
        let norm = || self.device.upload(&vec![1.0f32; hidden]);
        Ok(DeviceBlock {
            attention_norm: norm()?,
            qkv: self.matrix((heads + 2 * kv_heads) * head_dim, hidden)?,
            extras: QkvExtras::default(),
            attention_output: self.matrix(hidden, heads * head_dim)?,
            feed_forward_norm: norm()?,
            gate_up: self.matrix(2 * intermediate, hidden)?,
            down: self.matrix(hidden, intermediate)?,
        })
    }

    pub(super) fn tables(&self) -> Result<DeviceTables, CudaError> {
        let ModelConfig { hidden, vocab, .. } = *self.config;
        Ok(DeviceTables {
            embedding: self.matrix(vocab, hidden)?,
            norm: self.device.upload(&vec![1.0f32; hidden])?,
            head: Some(self.matrix(vocab, hidden)?),
        })
    }
}
