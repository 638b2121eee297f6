//! From a step to logits. The only user of the model and its cache.

use std::sync::Arc;

use candle_core::Result;
use kernels::AttentionMeta;
use models::{Batch, KvCache, Model};

use crate::scheduler::{Scheduler, Step};

/// A model with its cache.
pub(crate) struct Runner {
    model: Box<dyn Model>,
    cache: KvCache,
}

impl Runner {
    /// A cache of `num_blocks` blocks of `block_size` tokens.
    pub(crate) fn new(model: Box<dyn Model>, num_blocks: usize, block_size: usize) -> Result<Self> {
        let cache = model.new_cache(num_blocks, block_size)?;
        Ok(Self { model, cache })
    }

    /// Size of a row of logits.
    pub(crate) fn vocab(&self) -> usize {
        self.model.config().vocab
    }

    /// Computes the step in one pass; logits row by row, of each chunk those that score its prompt and then those
    /// that its next token is chosen from.
    pub(crate) fn run(&self, scheduler: &Scheduler, step: &Step) -> Result<Vec<f32>> {
        let batch = self.batch(scheduler, step);
        let logits = self.model.forward(&batch, &self.cache)?;
        let expected = [batch.logits_at.len(), self.vocab()];
        if logits.dims() != expected {
            candle_core::bail!("logits have shape {:?}, expected {expected:?}", logits.dims());
        }
        if batch.logits_at.is_empty() { Ok(Vec::new()) } else { logits.flatten_all()?.to_vec1() }
    }

    fn batch(&self, scheduler: &Scheduler, step: &Step) -> Batch {
        let size = self.cache.block_size;
        let sequences = step.chunks.iter().filter_map(|chunk| Some((chunk, scheduler.running(chunk.rank)?)));
        let mut meta = AttentionMeta { query_start: vec![0], ..AttentionMeta::default() };
        let pages = |chunk: &crate::scheduler::Chunk| (chunk.start + chunk.len).div_ceil(size);
        meta.table_stride = step.chunks.iter().map(pages).max().unwrap_or(0);
        let (mut token_ids, mut logits_at) = (Vec::with_capacity(step.tokens()), Vec::new());
        for (chunk, seq) in sequences {
            let end = chunk.start + chunk.len;
            token_ids.extend_from_slice(&seq.tokens()[chunk.start..end]);
            for position in chunk.start..end {
                let block = seq.blocks()[position / size] as usize;
                meta.positions.push(position as u32);
                meta.slot_mapping.push((block * size + position % size) as u32);
            }
            let row_end = meta.block_table.len() + meta.table_stride;
            meta.block_table.extend_from_slice(&seq.blocks()[..pages(chunk)]);
            meta.block_table.resize(row_end, 0);
            meta.context_len.push(end as u32);
            meta.query_start.push(token_ids.len() as u32);
            let row = |position: usize| (token_ids.len() - (end - position)) as u32;
            logits_at.extend(seq.to_score(chunk.start, chunk.len).map(row));
            if chunk.samples {
                logits_at.push(token_ids.len() as u32 - 1);
            }
        }
        Batch { token_ids, attention: Arc::new(meta), logits_at }
    }
}
