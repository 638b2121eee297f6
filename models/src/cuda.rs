//! Llama and its like on a CUDA device: the blocks of the CPU, over buffers that stay on the device.
//!
//! Activations are bf16; the residual stream, sums and logits are f32, keys and values f16. Files' 4-bit weights
//! (`Q4_0`, `Q4_1`) stay as they are, all other types become bf16. A step in which every sequence takes one token is captured as
//! a graph, once for each size of batch, and replayed.

mod state;
mod synthetic;
mod weights;

use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};

use candle_core::{Error, Result, Tensor};
use kernels::cuda::attention::{self, AttentionRule, SPLIT_LEN};
use kernels::cuda::linear::{Product, matmul};
use kernels::cuda::rope::{DeviceRope, rope_cache};
use kernels::cuda::rows::{RowsOut, embed, rms_norm, silu_mul};
use kernels::cuda::{CudaError, Device, DeviceBuffer, PagedCache};
use kernels::{HeadShape, RopeTable};

pub(crate) use state::DeviceState;
use state::{Needs, Room};
use synthetic::Synthetic;
use weights::{DeviceBlock, DeviceTables};

use crate::config::ModelConfig;
use crate::model::{Batch, KvCache, Model};
use crate::place::Place;
use crate::weights::{WeightError, Weights};

pub(crate) struct CudaLlama {
    config: ModelConfig,
    device: Device,
    tables: DeviceTables,
    blocks: Vec<DeviceBlock>,
    rope: DeviceRope,
    shape: HeadShape,
}

impl CudaLlama {
    /// `rope` is the table that the network has on the CPU.
    pub(crate) fn load(
        weights: &Weights,
        config: ModelConfig,
        rope: &RopeTable,
        device: &Device,
    ) -> std::result::Result<Self, WeightError> {
        let blocks = (0..config.layers)
            .map(|index| DeviceBlock::load(weights, index, &config, device))
            .collect::<std::result::Result<_, _>>()?;
        let shape = HeadShape { heads: config.heads, kv_heads: config.kv_heads, head_dim: config.head_dim };
        Ok(Self {
            device: device.clone(),
            tables: DeviceTables::load(weights, &config, device)?,
            blocks,
            rope: DeviceRope::new(device, rope)?,
            shape,
            config,
        })
    }
}

/// A network of these sizes with weights from a seed, to be timed; all blocks hold the same values.
///
/// # Errors
/// `place` is the CPU, sizes without a kernel, or what the driver reports.
#[doc(hidden)]
pub fn synthetic(
    config: ModelConfig,
    place: &Place,
    seed: u64,
) -> std::result::Result<Box<dyn Model>, CudaError> {
    let Place::Cuda(device) = place else {
        return Err(CudaError::Absent("networks to be timed are made on a device".to_owned()));
    };
    let rope = RopeTable::new(config.rotary_dim, config.context_len, config.rope_theta, None, true);
    let source = Synthetic::new(&config, device, seed);
    let blocks = (0..config.layers).map(|_| source.block()).collect::<std::result::Result<_, _>>()?;
    Ok(Box::new(CudaLlama {
        device: device.clone(),
        tables: source.tables()?,
        blocks,
        rope: DeviceRope::new(device, &rope)?,
        shape: HeadShape { heads: config.heads, kv_heads: config.kv_heads, head_dim: config.head_dim },
        config,
    }))
}

impl Model for CudaLlama {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn new_cache(&self, num_blocks: usize, block_size: usize) -> Result<KvCache> {
        let state = DeviceState::new(&self.device, self.config.layers, &self.shape, num_blocks, block_size)
            .map_err(Error::wrap)?;
        Ok(KvCache { layers: Vec::new(), on_device: Some(Mutex::new(state)), num_blocks, block_size })
    }

    fn forward(&self, batch: &Batch, cache: &KvCache) -> Result<Tensor> {
        let Some(state) = &cache.on_device else {
            candle_core::bail!("the cache is in main memory, the model on {}", self.device.describe());
        };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let logits = self.step(batch, &mut state).map_err(Error::wrap)?;
        Tensor::from_vec(logits, (batch.logits_at.len(), self.config.vocab), &candle_core::Device::Cpu)
    }
}

impl CudaLlama {
    fn step(&self, batch: &Batch, state: &mut DeviceState) -> std::result::Result<Vec<f32>, CudaError> {
        let meta = &*batch.attention;
        let (sequences, rows) = (meta.sequences(), batch.logits_at.len());
        let only_decodes = meta.query_start.windows(2).all(|pair| pair[1] - pair[0] == 1)
            && batch.logits_at.iter().copied().eq(0..sequences as u32);
        let padded = if only_decodes { sequences.next_power_of_two() } else { sequences };
        let longest = meta.context_len.iter().max().copied().unwrap_or(0) as usize;
        let splits = longest.div_ceil(SPLIT_LEN).next_power_of_two();
        let (room, layers, graphs) = state.prepare(
            &self.config,
            &Needs {
                tokens: batch.token_ids.len().max(padded),
                sequences: padded,
                rows: if only_decodes { padded } else { rows },
                splits,
                pages: meta.table_stride,
            },
        )?;
        room.batch.fill(&batch.token_ids, meta, &layers[0], self.rope.max_positions(), padded)?;
        if only_decodes {
            room.picked.fill(&(0..padded as u32).collect::<Vec<_>>())?;
            match graphs.entry((padded, splits)) {
                Entry::Occupied(graph) => graph.get().launch()?,
                Entry::Vacant(place) => {
                    let launches = || self.launch(room, layers, Some(splits * SPLIT_LEN));
                    place.insert(self.device.capture(launches)?).launch()?;
                }
            }
        } else {
            room.picked.fill(&batch.logits_at)?;
            self.launch(room, layers, None)?;
        }
        room.logits.read(rows * self.config.vocab)
    }

    /// All launches of a step; `longest_context` as in [`attention::decode`].
    fn launch(
        &self,
        room: &Room,
        layers: &[PagedCache],
        longest_context: Option<usize>,
    ) -> std::result::Result<(), CudaError> {
        let (tokens, eps) = (room.batch.tokens(), self.config.rms_eps);
        let normed = RowsOut::Bf16(&room.normed);
        let table = self.tables.embedding_values()?;
        embed(room.batch.token_ids(), tokens, table, self.config.hidden, &room.residual)?;
        let mut delta: Option<&DeviceBuffer<_>> = None;
        for (block, cache) in self.blocks.iter().zip(layers) {
            rms_norm(&room.residual, delta, &block.attention_norm, eps, tokens, None, &normed)?;
            matmul(&room.normed, tokens, &block.qkv, &Product::Bf16(&room.qkv))?;
            self.attend(room, block, cache, longest_context)?;
            matmul(&room.attended, tokens, &block.attention_output, &Product::Bf16(&room.delta))?;
            rms_norm(
                &room.residual,
                Some(&room.delta),
                &block.feed_forward_norm,
                eps,
                tokens,
                None,
                &normed,
            )?;
            matmul(&room.normed, tokens, &block.gate_up, &Product::Bf16(&room.gate_up))?;
            silu_mul(&room.gate_up, tokens, self.config.intermediate, &RowsOut::Bf16(&room.inner))?;
            matmul(&room.inner, tokens, &block.down, &Product::Bf16(&room.delta))?;
            delta = Some(&room.delta);
        }
        let (picked, last) = (Some(&room.picked), RowsOut::Bf16(&room.last));
        rms_norm(&room.residual, delta, &self.tables.norm, eps, tokens, picked, &last)?;
        matmul(&room.last, room.picked.count(), self.tables.head(), &Product::F32(&room.logits))
    }

    fn attend(
        &self,
        room: &Room,
        block: &DeviceBlock,
        cache: &PagedCache,
        longest_context: Option<usize>,
    ) -> std::result::Result<(), CudaError> {
        let scale = 1.0 / (self.shape.head_dim as f32).sqrt();
        let rule = AttentionRule { scale, window: None, soft_cap: None };
        let (query, batch, out) = (&room.query, &room.batch, &room.attended);
        rope_cache(&room.qkv, &block.extras, &self.rope, batch, cache, query)?;
        attention::prefill(query, cache, batch, &rule, out)?;
        attention::decode(query, cache, batch, &rule, SPLIT_LEN, longest_context, &room.scratch, out)
    }
}
