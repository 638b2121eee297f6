//! Shapes and indices of one attention call, and their checks.

use candle_core::{Result, bail};

/// Numbers of query heads and key/value heads, and the size of a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Values per head; a multiple of 8.
    pub head_dim: usize,
}

impl HeadShape {
    /// Query heads that share one key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Values of one token's q, k and v together.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    pub(crate) fn check(&self) -> Result<()> {
        let Self { heads, kv_heads, head_dim } = *self;
        if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 {
            bail!("attention: {heads} heads cannot share {kv_heads} key/value heads");
        }
        if head_dim == 0 || head_dim % 8 != 0 {
            bail!("attention: head_dim {head_dim} is not a multiple of 8");
        }
        Ok(())
    }
}

/// One step's ragged batch: `s` sequences, `t` tokens, the tokens of a sequence side by side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttentionMeta {
    /// `s + 1` offsets into the tokens; sequence `i` owns `query_start[i]..query_start[i + 1]`.
    pub query_start: Vec<u32>,
    /// Per sequence: tokens in the cache, this step's included.
    pub context_len: Vec<u32>,
    /// `s * table_stride` page numbers; page `p` of a sequence holds its positions from `p * block_size`.
    pub block_table: Vec<u32>,
    /// Page numbers per sequence in `block_table`.
    pub table_stride: usize,
    /// Per token: its position in its sequence.
    pub positions: Vec<u32>,
    /// Per token: where its k and v go, `page * block_size + offset`.
    pub slot_mapping: Vec<u32>,
}

impl AttentionMeta {
    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.context_len.len()
    }

    /// Checks every index against a cache of `num_blocks` pages and a rotary table of `max_positions`.
    pub(crate) fn check(&self, num_blocks: usize, block_size: usize, max_positions: usize) -> Result<()> {
        let (s, t) = (self.sequences(), self.positions.len());
        if self.query_start.len() != s + 1 || self.slot_mapping.len() != t {
            bail!(
                "attention: {s} sequences and {t} tokens do not fit {} offsets and {} slots",
                self.query_start.len(),
                self.slot_mapping.len()
            );
        }
        if self.query_start[0] != 0 || self.query_start[s] as usize != t || !self.query_start.is_sorted() {
            bail!("attention: query offsets {:?} do not partition {t} tokens", self.query_start);
        }
        if self.block_table.len() != s * self.table_stride {
            bail!("attention: block table of {} for {s} x {}", self.block_table.len(), self.table_stride);
        }
        let slots = num_blocks * block_size;
        if let Some(slot) = self.slot_mapping.iter().find(|slot| **slot as usize >= slots) {
            bail!("attention: slot {slot} is beyond the cache's {slots} slots");
        }
        for i in 0..s {
            self.check_sequence(i, num_blocks, block_size, max_positions)?;
        }
        Ok(())
    }

    fn check_sequence(
        &self,
        i: usize,
        num_blocks: usize,
        block_size: usize,
        max_positions: usize,
    ) -> Result<()> {
        let context = self.context_len[i] as usize;
        let pages = context.div_ceil(block_size);
        if pages > self.table_stride {
            bail!("attention: {context} tokens need {pages} pages, the table has {}", self.table_stride);
        }
        let table = &self.block_table[i * self.table_stride..][..pages];
        if let Some(page) = table.iter().find(|page| **page as usize >= num_blocks) {
            bail!("attention: page {page} is beyond the cache's {num_blocks} pages");
        }
        let tokens = self.query_start[i] as usize..self.query_start[i + 1] as usize;
        let limit = context.min(max_positions);
        if let Some(position) = self.positions[tokens].iter().find(|p| **p as usize >= limit) {
            bail!("attention: position {position} is beyond {limit} (context or rotary table)");
        }
        Ok(())
    }
}
