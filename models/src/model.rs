//! The face every architecture shows to the engine.

use std::sync::{Arc, Mutex};

use candle_core::{Device, Result, Tensor};
use kernels::{AttentionMeta, HeadShape, LayerCache};

use crate::config::ModelConfig;
use crate::cuda::DeviceState;

/// One step's tokens of all sequences, back to back.
#[derive(Clone)]
pub struct Batch {
    /// Token ids, `t` of them.
    pub token_ids: Vec<u32>,
    /// Which sequence, position and cache slot each token has.
    pub attention: Arc<AttentionMeta>,
    /// Rows (indices into `token_ids`) whose logits are wanted.
    pub logits_at: Vec<u32>,
}

/// Paged keys and values of all layers.
pub struct KvCache {
    /// One paged store a layer, where the network runs on the CPU.
    pub layers: Vec<LayerCache>,
    /// Where it runs on a device.
    pub(crate) on_device: Option<Mutex<DeviceState>>,
    /// Pages in each layer.
    pub num_blocks: usize,
    /// Tokens a page holds.
    pub block_size: usize,
}

impl KvCache {
    /// Allocates pages for `layers` layers; memory is touched only when a page is first written.
    ///
    /// # Errors
    /// What the allocation of a layer reports.
    pub fn new(layers: usize, num_blocks: usize, block_size: usize, shape: &HeadShape) -> Result<Self> {
        let layers = LayerCache::for_layers(layers, num_blocks, block_size, shape, &Device::Cpu)?;
        Ok(Self { layers, on_device: None, num_blocks, block_size })
    }

    /// Page numbers alone, for networks that keep what belongs to them elsewhere.
    pub fn without_pages(num_blocks: usize, block_size: usize) -> Self {
        Self { layers: Vec::new(), on_device: None, num_blocks, block_size }
    }
}

/// A loaded network. It holds no state between steps: everything a sequence leaves behind is in its cache pages.
pub trait Model: Send {
    /// Sizes and constants of the network.
    fn config(&self) -> &ModelConfig;

    /// A paged cache that fits this network.
    ///
    /// # Errors
    /// What the allocation reports.
    fn new_cache(&self, num_blocks: usize, block_size: usize) -> Result<KvCache>;

    /// Runs one step and returns the logits, `[logits_at.len(), vocab]` f32, row-major.
    ///
    /// # Errors
    /// A token id outside the vocabulary, or shapes in `batch` that contradict each other or the cache.
    fn forward(&self, batch: &Batch, cache: &KvCache) -> Result<Tensor>;
}
