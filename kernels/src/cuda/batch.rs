//! A step's indices on a device.

use super::cache::PagedCache;
use super::device::{CudaError, Device, DeviceBuffer, ensure};
use crate::AttentionMeta;

/// The slot of a token that is padding: nothing is written for it.
const NO_SLOT: u32 = u32::MAX;

/// A ragged batch on a device, in buffers of fixed size that a [`Graph`](super::Graph) may keep reading.
pub struct DeviceBatch {
    max_tokens: usize,
    max_sequences: usize,
    table_stride: usize,
    pub(crate) token_ids: DeviceBuffer<u32>,
    pub(crate) positions: DeviceBuffer<u32>,
    pub(crate) slots: DeviceBuffer<u32>,
    pub(crate) query_start: DeviceBuffer<u32>,
    pub(crate) context_len: DeviceBuffer<u32>,
    pub(crate) block_table: DeviceBuffer<u32>,
    /// Sequences with one new token, and the token of each.
    pub(crate) decode_sequences: DeviceBuffer<u32>,
    pub(crate) decode_rows: DeviceBuffer<u32>,
    /// The others.
    pub(crate) prefill_sequences: DeviceBuffer<u32>,
    pub(crate) counts: Counts,
}

/// What launches need to know of a batch on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) tokens: usize,
    pub(crate) decode: usize,
    pub(crate) prefill: usize,
    /// Most new tokens of a prefilling sequence.
    pub(crate) longest_query: usize,
    /// Most tokens in the cache of a decoding sequence.
    pub(crate) longest_context: usize,
    /// Pages and page size that the indices were checked against.
    pub(crate) pages: (usize, usize),
}

impl DeviceBatch {
    /// Room for `max_tokens` tokens of `max_sequences` sequences of at most `max_pages` pages.
    ///
    /// # Errors
    /// No memory, or what the driver reports.
    pub fn new(
        device: &Device,
        max_tokens: usize,
        max_sequences: usize,
        max_pages: usize,
    ) -> Result<Self, CudaError> {
        let numbers = |len| device.zeros::<u32>(len);
        Ok(Self {
            max_tokens,
            max_sequences,
            table_stride: max_pages,
            token_ids: numbers(max_tokens)?,
            positions: numbers(max_tokens)?,
            slots: numbers(max_tokens)?,
            query_start: numbers(max_sequences + 1)?,
            context_len: numbers(max_sequences)?,
            block_table: numbers(max_sequences * max_pages)?,
            decode_sequences: numbers(max_sequences)?,
            decode_rows: numbers(max_sequences)?,
            prefill_sequences: numbers(max_sequences)?,
            counts: Counts::default(),
        })
    }

    /// The tokens, those of sequences side by side, then padding.
    pub fn token_ids(&self) -> &DeviceBuffer<u32> {
        &self.token_ids
    }

    /// Page numbers of a sequence in the block table.
    pub(crate) fn table_stride(&self) -> usize {
        self.table_stride
    }

    /// Tokens of the step, padding included.
    pub fn tokens(&self) -> usize {
        self.counts.tokens
    }

    /// Fills the buffers for a step. Sequences with one new token decode, the others prefill. A step that only decodes is
    /// padded to `pad_to` sequences that compute nothing and write nothing.
    ///
    /// # Errors
    /// Indices outside the cache or positions from `max_positions` on; more than there is room for; what the driver
    /// reports.
    pub fn fill(
        &mut self,
        token_ids: &[u32],
        meta: &AttentionMeta,
        cache: &PagedCache,
        max_positions: usize,
        pad_to: usize,
    ) -> Result<(), CudaError> {
        meta.check(cache.num_blocks, cache.block_size, max_positions)
            .map_err(|error| CudaError::Shape(error.to_string()))?;
        let (tokens, sequences) = (meta.positions.len(), meta.sequences());
        ensure!(token_ids.len() == tokens, "{} ids for {tokens} tokens", token_ids.len());
        let queries: Vec<usize> =
            meta.query_start.windows(2).map(|pair| (pair[1] - pair[0]) as usize).collect();
        for (i, query) in queries.iter().enumerate() {
            let (end, first) = (meta.context_len[i] as usize, meta.query_start[i] as usize);
            let expected = (end.saturating_sub(*query)..end).map(|p| p as u32);
            ensure!(
                meta.positions[first..first + query].iter().copied().eq(expected),
                "sequence {i}: positions are not the last {query} of {end}"
            );
        }
        let only_decodes = queries.iter().all(|query| *query == 1);
        let padding = if only_decodes { pad_to.saturating_sub(sequences) } else { 0 };
        ensure!(
            tokens + padding <= self.max_tokens
                && sequences + padding <= self.max_sequences
                && meta.table_stride <= self.table_stride,
            "{tokens} tokens of {sequences} sequences of {} pages are beyond {} of {} of {}",
            meta.table_stride,
            self.max_tokens,
            self.max_sequences,
            self.table_stride
        );
        self.write(token_ids, meta, padding)?;
        let with = |wanted: bool| {
            (0..sequences).filter(move |i| (meta.query_start[i + 1] - meta.query_start[*i] == 1) == wanted)
        };
        let decode: Vec<u32> = with(true).chain(sequences..sequences + padding).map(|i| i as u32).collect();
        let rows: Vec<u32> = with(true)
            .map(|i| meta.query_start[i])
            .chain((tokens..tokens + padding).map(|row| row as u32))
            .collect();
        let prefill: Vec<u32> = with(false).filter(|i| queries[*i] > 0).map(|i| i as u32).collect();
        self.decode_sequences.write(&decode)?;
        self.decode_rows.write(&rows)?;
        self.prefill_sequences.write(&prefill)?;
        self.counts = Counts {
            tokens: tokens + padding,
            decode: decode.len(),
            prefill: prefill.len(),
            longest_query: prefill.iter().map(|i| queries[*i as usize]).max().unwrap_or(0),
            longest_context: with(true).map(|i| meta.context_len[i] as usize).max().unwrap_or(0),
            pages: (cache.num_blocks, cache.block_size),
        };
        Ok(())
    }

    fn write(&mut self, token_ids: &[u32], meta: &AttentionMeta, padding: usize) -> Result<(), CudaError> {
        let padded = |values: &[u32], value: u32| {
            values.iter().copied().chain(std::iter::repeat_n(value, padding)).collect::<Vec<_>>()
        };
        self.token_ids.write(&padded(token_ids, 0))?;
        self.positions.write(&padded(&meta.positions, 0))?;
        self.slots.write(&padded(&meta.slot_mapping, NO_SLOT))?;
        let tokens = meta.positions.len() as u32;
        let starts = meta.query_start.iter().copied().chain((1..=padding as u32).map(|i| tokens + i));
        self.query_start.write(&starts.collect::<Vec<_>>())?;
        self.context_len.write(&padded(&meta.context_len, 0))?;
        let mut table = vec![0u32; meta.sequences() * self.table_stride];
        if meta.table_stride > 0 {
            for (to, from) in
                table.chunks_mut(self.table_stride).zip(meta.block_table.chunks(meta.table_stride))
            {
                to[..from.len()].copy_from_slice(from);
            }
        }
        // Page numbers beyond a sequence's own are never followed, but what a caller pads with may be anything.
        self.block_table.write(&table)
    }
}
