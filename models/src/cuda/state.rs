//! What a network on a device keeps between steps: pages, buffers, graphs.

use std::collections::HashMap;

use half::bf16;
use kernels::HeadShape;
use kernels::cuda::attention::DecodeScratch;
use kernels::cuda::rows::PickedRows;
use kernels::cuda::{CacheElement, CudaError, Device, DeviceBatch, DeviceBuffer, Graph, PagedCache};

use crate::config::ModelConfig;

/// Graphs by sequences, padding included, and pieces of the longest context.
type Graphs = HashMap<(usize, usize), Graph>;

/// Pages of all layers, the buffers of a step, and the graphs over both.
pub(crate) struct DeviceState {
    graphs: Graphs,
    room: Option<Room>,
    layers: Vec<PagedCache>,
    device: Device,
}

/// What a step needs room for.
#[derive(Clone, Copy, Default)]
pub(super) struct Needs {
    pub(super) tokens: usize,
    pub(super) sequences: usize,
    /// Rows of logits.
    pub(super) rows: usize,
    /// Pieces of the longest context in split-KV decode.
    pub(super) splits: usize,
    /// Pages of the longest context.
    pub(super) pages: usize,
}

impl Needs {
    fn pairs(self, other: &Self) -> [(usize, usize); 5] {
        [
            (self.tokens, other.tokens),
            (self.sequences, other.sequences),
            (self.rows, other.rows),
            (self.splits, other.splits),
            (self.pages, other.pages),
        ]
    }
}

/// The buffers of a step, each a row per token unless it says otherwise.
pub(super) struct Room {
    capacity: Needs,
    pub(super) batch: DeviceBatch,
    pub(super) picked: PickedRows,
    pub(super) residual: DeviceBuffer<f32>,
    pub(super) normed: DeviceBuffer<bf16>,
    pub(super) qkv: DeviceBuffer<bf16>,
    pub(super) query: DeviceBuffer<bf16>,
    pub(super) attended: DeviceBuffer<bf16>,
    pub(super) delta: DeviceBuffer<bf16>,
    pub(super) gate_up: DeviceBuffer<bf16>,
    pub(super) inner: DeviceBuffer<bf16>,
    /// A row per row of logits, normalised.
    pub(super) last: DeviceBuffer<bf16>,
    pub(super) logits: DeviceBuffer<f32>,
    pub(super) scratch: DecodeScratch,
}

impl DeviceState {
    pub(super) fn new(
        device: &Device,
        layers: usize,
        shape: &HeadShape,
        num_blocks: usize,
        block_size: usize,
    ) -> Result<Self, CudaError> {
        let layers = (0..layers)
            .map(|_| PagedCache::new(device, CacheElement::F16, shape, num_blocks, block_size))
            .collect::<Result<_, _>>()?;
        Ok(Self { graphs: HashMap::new(), room: None, layers, device: device.clone() })
    }

    /// Buffers that are large enough, the pages, and the graphs over them. Larger buffers have other addresses, so the
    /// graphs go with the old ones; sizes grow to powers of two, so that this happens a few times only.
    pub(super) fn prepare(
        &mut self,
        config: &ModelConfig,
        needs: &Needs,
    ) -> Result<(&mut Room, &[PagedCache], &mut Graphs), CudaError> {
        let capacity = self.room.as_ref().map(|room| room.capacity).unwrap_or_default();
        let room = match self.room.take() {
            Some(room) if capacity.pairs(needs).iter().all(|(has, needed)| has >= needed) => room,
            old => {
                self.graphs.clear();
                drop(old);
                let [tokens, sequences, rows, splits, pages] =
                    capacity.pairs(needs).map(|(has, needed)| has.max(needed.next_power_of_two()));
                let capacity = Needs { tokens, sequences, rows, splits, pages };
                Room::new(&self.device, config, capacity, &self.layers[0])?
            }
        };
        Ok((self.room.insert(room), &self.layers, &mut self.graphs))
    }
}

impl Room {
    fn new(
        device: &Device,
        config: &ModelConfig,
        capacity: Needs,
        cache: &PagedCache,
    ) -> Result<Self, CudaError> {
        let Needs { tokens, sequences, rows, splits, pages } = capacity;
        let ModelConfig { hidden, heads, kv_heads, head_dim, intermediate, vocab, .. } = *config;
        let each = |width: usize| device.zeros::<bf16>(tokens * width);
        Ok(Self {
            capacity,
            batch: DeviceBatch::new(device, tokens, sequences, pages)?,
            picked: PickedRows::new(device, rows)?,
            residual: device.zeros(tokens * hidden)?,
            normed: each(hidden)?,
            qkv: each((heads + 2 * kv_heads) * head_dim)?,
            query: each(heads * head_dim)?,
            attended: each(heads * head_dim)?,
            delta: each(hidden)?,
            gate_up: each(2 * intermediate)?,
            inner: each(intermediate)?,
            last: device.zeros(rows * hidden)?,
            logits: device.zeros(rows * vocab)?,
            scratch: DecodeScratch::new(cache, sequences, splits)?,
        })
    }
}
