//! A request inside the scheduler: its tokens, how many are computed, the blocks that hold them.

use std::ops::Range;
use std::sync::Arc;

use crate::blocks::{BlockHash, BlockId};
use crate::request::{Tenant, Tier};

/// Number of a sequence, in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(pub u64);

/// Tier and arrival: names a sequence, and orders those of one tenant. Smaller is served first.
pub type Rank = (Tier, SeqId);

/// What the scheduler must know of a request.
#[derive(Clone, Debug)]
pub struct NewSequence {
    /// Arrival number; unique and growing.
    pub id: SeqId,
    /// Service tier.
    pub tier: Tier,
    /// Whose share of the tier it uses.
    pub tenant: Tenant,
    /// Prompt tokens, at least one.
    pub prompt: Vec<u32>,
    /// Prefixes are shared within one salt.
    pub salt: String,
    /// Prompt and generated tokens together at which the sequence ends; the prompt's length where it is only scored.
    pub max_len: usize,
    /// Tokens that end the sequence.
    pub ending: Vec<u32>,
    /// The log probabilities of the prompt are wanted.
    pub scores: bool,
}

/// Why the scheduler ended a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It generated an ending token.
    Stop,
    /// It has all the tokens it may have.
    Length,
    /// Its next token could not be chosen.
    Failed,
}

/// A sequence that waits or runs.
#[derive(Debug)]
pub struct Sequence {
    pub(crate) id: SeqId,
    pub(crate) tier: Tier,
    pub(crate) tenant: Arc<Tenant>,
    /// Prompt, then generated.
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt_len: usize,
    /// Tokens whose keys and values are in the cache.
    pub(crate) computed: usize,
    /// Tokens that its tenant was charged for or found in the prefix cache; computing them again is free.
    pub(crate) charged: usize,
    /// Block `i` holds the tokens from `i * block_size`.
    pub(crate) blocks: Vec<BlockId>,
    /// Of `blocks`, how many others can find.
    pub(crate) published: usize,
    /// Set at the first admission: prompt tokens found in the prefix cache.
    pub(crate) cached_tokens: Option<usize>,
    /// Prompt tokens whose log probability is known or not wanted; the first one has none.
    scored: usize,
    root: BlockHash,
    /// Hashes of the full blocks of `tokens`; they depend on the tokens alone.
    chain: Vec<BlockHash>,
    max_len: usize,
    ending: Vec<u32>,
}

impl Sequence {
    /// A sequence with nothing computed.
    pub fn new(new: NewSequence) -> Self {
        Self {
            id: new.id,
            tier: new.tier,
            tenant: Arc::new(new.tenant),
            prompt_len: new.prompt.len(),
            scored: if new.scores { 1 } else { new.prompt.len() },
            tokens: new.prompt,
            computed: 0,
            charged: 0,
            blocks: Vec::new(),
            published: 0,
            cached_tokens: None,
            root: BlockHash::root(&new.salt),
            chain: Vec::new(),
            max_len: new.max_len,
            ending: new.ending,
        }
    }

    /// Its name in the scheduler.
    pub fn rank(&self) -> Rank {
        (self.tier, self.id)
    }

    /// Prompt and generated tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Length of the prompt.
    pub fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// The blocks that hold the tokens, in order.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Tokens in the cache.
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// Whether log probabilities of the prompt are still missing.
    pub(crate) fn is_scoring(&self) -> bool {
        self.scored < self.prompt_len
    }

    /// Of `len` positions from `start`, those whose logits are wanted because they judge the prompt token that follows.
    pub(crate) fn to_score(&self, start: usize, len: usize) -> Range<usize> {
        let from = start.max(self.scored - 1);
        from..(start + len).min(self.prompt_len - 1).max(from)
    }

    /// Records that what is computed was scored.
    pub(crate) fn note_scored(&mut self) {
        self.scored = self.scored.max((self.computed + 1).min(self.prompt_len));
    }

    /// Tokens that must be computed before the next one can be chosen; at least 1.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Hash and parent hash of full block `i`.
    pub(crate) fn hashes(&mut self, i: usize, block_size: usize) -> (BlockHash, BlockHash) {
        while self.chain.len() <= i {
            let at = self.chain.len() * block_size;
            let parent = self.chain.last().copied().unwrap_or(self.root);
            self.chain.push(parent.child(&self.tokens[at..at + block_size]));
        }
        (self.chain[i], if i == 0 { self.root } else { self.chain[i - 1] })
    }

    /// Appends a generated token; says whether it was the last.
    pub(crate) fn push(&mut self, token: u32) -> Option<Ending> {
        self.tokens.push(token);
        if self.ending.contains(&token) {
            Some(Ending::Stop)
        } else if self.tokens.len() >= self.max_len {
            Some(Ending::Length)
        } else {
            None
        }
    }
}
