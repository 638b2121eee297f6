//! Decides what each step computes. Pure: no clock, no I/O, no tensors; the same calls give the same steps.
//!
//! A step has one token budget. Running sequences that need one token come first, so that the time between tokens stays
//! short; what is left goes to prompts in chunks, in order of service (tier, then arrival). When blocks run out, stalled
//! and lower-ranked sequences lose theirs and are computed again later, mostly from the prefix cache.

use std::collections::{BTreeMap, HashMap};

use crate::blocks::{BlockCounts, BlockId, BlockManager};
use crate::config::EngineConfig;
use crate::sequence::{Ending, NewSequence, Rank, SeqId, Sequence};

/// Tokens of one sequence to compute in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Whose.
    pub rank: Rank,
    /// Position of the first.
    pub start: usize,
    /// How many; at least 1.
    pub len: usize,
    /// The chunk ends with the last known token, so the next one is chosen from its logits.
    pub samples: bool,
}

/// A sequence that was admitted for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// Which.
    pub id: SeqId,
    /// Its prompt's length.
    pub prompt_tokens: usize,
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: usize,
}

/// One pass through the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// At most one per sequence.
    pub chunks: Vec<Chunk>,
    /// Sequences that begin with this step.
    pub started: Vec<Started>,
}

impl Step {
    /// Tokens to compute.
    pub fn tokens(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len).sum()
    }
}

/// What a step did to a sequence whose next token was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which.
    pub id: SeqId,
    /// The new token; `None` where it could not be chosen.
    pub token: Option<u32>,
    /// Set when the sequence has ended; it is gone from the scheduler.
    pub ending: Option<Ending>,
}

/// The bound on live sequences is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{live} sequences wait or run, limit is {limit}")]
pub struct QueueFull {
    /// Waiting and running.
    pub live: usize,
    /// Most allowed.
    pub limit: usize,
}

/// Says whether a sequence's reader can take another token.
pub type Ready<'a> = &'a dyn Fn(SeqId) -> bool;

/// Two queues, waiting and running, over one pool of blocks.
#[derive(Debug)]
pub struct Scheduler {
    config: EngineConfig,
    blocks: BlockManager,
    waiting: BTreeMap<Rank, Sequence>,
    running: BTreeMap<Rank, Sequence>,
    ranks: HashMap<SeqId, Rank>,
    preemptions: u64,
}

impl Scheduler {
    /// Nothing waits or runs; all blocks are free. `config` must be valid.
    pub fn new(config: EngineConfig) -> Self {
        let blocks = BlockManager::new(config.num_blocks, config.prefix_cache);
        let (waiting, running, ranks) = Default::default();
        Self { config, blocks, waiting, running, ranks, preemptions: 0 }
    }

    /// Puts a sequence into the waiting queue.
    pub fn add(&mut self, new: NewSequence) -> Result<(), QueueFull> {
        let (live, limit) = (self.ranks.len(), self.config.max_live());
        if live >= limit {
            return Err(QueueFull { live, limit });
        }
        let sequence = Sequence::new(new);
        let rank = sequence.rank();
        self.ranks.insert(sequence.id, rank);
        self.waiting.insert(rank, sequence);
        Ok(())
    }

    /// Removes a sequence and its hold on blocks, at once. False when it is not here.
    pub fn cancel(&mut self, id: SeqId) -> bool {
        let Some(rank) = self.ranks.remove(&id) else { return false };
        if let Some(sequence) = self.running.remove(&rank) {
            self.blocks.release(&sequence.blocks);
        }
        self.waiting.remove(&rank);
        true
    }

    /// The next step. Empty only when no sequence is ready.
    pub fn schedule(&mut self, ready: Ready) -> Step {
        let mut step = Step::default();
        self.schedule_decodes(ready, &mut step);
        self.schedule_prefills(ready, &mut step);
        step
    }

    fn schedule_decodes(&mut self, ready: Ready, step: &mut Step) {
        let one_pending = self.running.values().filter(|seq| seq.pending() == 1 && ready(seq.id));
        let ranks: Vec<Rank> = one_pending.map(Sequence::rank).collect();
        for rank in ranks {
            // A better-ranked one may have taken its blocks meanwhile.
            if self.running.contains_key(&rank) && self.grow(rank, ready, step) {
                self.push_chunk(rank, 1, step);
            }
        }
    }

    fn schedule_prefills(&mut self, ready: Ready, step: &mut Step) {
        let mut budget = self.config.max_batched_tokens - step.tokens();
        if !step.chunks.is_empty() {
            budget = budget.min(self.config.prefill_chunk);
        }
        let prefilling = self.running.values().filter(|seq| seq.pending() > 1);
        let candidates = prefilling.chain(self.waiting.values()).filter(|seq| ready(seq.id));
        let mut ranks: Vec<Rank> = candidates.map(Sequence::rank).collect();
        ranks.sort_unstable();
        let mut admitting = true;
        for rank in ranks {
            if budget == 0 {
                break;
            }
            if self.waiting.contains_key(&rank) {
                // Who does not fit keeps the place: nobody behind it is admitted.
                admitting = admitting && self.admit(rank, ready, step);
                if !admitting {
                    continue;
                }
            }
            budget -= self.push_chunk(rank, budget, step);
        }
    }

    /// Adds up to `budget` pending tokens of a running sequence to the step; returns how many.
    fn push_chunk(&self, rank: Rank, budget: usize, step: &mut Step) -> usize {
        let Some(seq) = self.running.get(&rank) else { return 0 };
        let len = seq.pending().min(budget);
        step.chunks.push(Chunk { rank, start: seq.computed, len, samples: len == seq.pending() });
        len
    }

    /// Makes room for the next token of a running sequence. False when it had to give up its own blocks.
    fn grow(&mut self, rank: Rank, ready: Ready, step: &mut Step) -> bool {
        loop {
            let Some(seq) = self.running.get_mut(&rank) else { return false };
            if seq.computed < seq.blocks.len() * self.config.block_size {
                return true;
            }
            if let Some(block) = self.blocks.allocate() {
                seq.blocks.push(block);
                return true;
            }
            let victim = self.victims(ready, |other| other > rank).next();
            self.preempt(victim.unwrap_or(rank), step);
        }
    }

    /// Moves a waiting sequence to the running ones, with blocks for all its known tokens, if there is room or room can
    /// be made by preempting lower tiers and stalled sequences.
    fn admit(&mut self, rank: Rank, ready: Ready, step: &mut Step) -> bool {
        let Some(mut seq) = self.waiting.remove(&rank) else { return false };
        let admitted = self.make_room(&mut seq, ready, step);
        match admitted {
            Some(hits) => {
                self.occupy(&mut seq, &hits);
                if seq.cached_tokens.is_none() {
                    let (prompt_tokens, cached_tokens) = (seq.prompt_len, seq.computed);
                    seq.cached_tokens = Some(cached_tokens);
                    step.started.push(Started { id: seq.id, prompt_tokens, cached_tokens });
                }
                self.running.insert(rank, seq);
                true
            }
            None => {
                self.waiting.insert(rank, seq);
                false
            }
        }
    }

    /// The cached blocks to start from, once a slot and enough other blocks are available.
    fn make_room(&mut self, seq: &mut Sequence, ready: Ready, step: &mut Step) -> Option<Vec<BlockId>> {
        let mut possible = false;
        loop {
            let hits = self.find_prefix(seq);
            let needed = seq.tokens.len().div_ceil(self.config.block_size) - hits.len();
            let taken = hits.iter().filter(|id| self.blocks.is_unheld(**id)).count();
            let available = self.blocks.available() - taken;
            // Each running sequence keeps a block to grow into, else admission and preemption would take turns.
            let fits = |running: usize, blocks: usize| {
                running < self.config.max_num_seqs && needed + running <= blocks
            };
            if fits(self.running.len(), available) {
                return Some(hits);
            }
            let victims: Vec<Rank> = self.victims(ready, |other| other.0 > seq.tier).collect();
            if !possible {
                let holds =
                    victims.iter().filter_map(|rank| self.running.get(rank)).flat_map(|seq| &seq.blocks);
                let freed = self.blocks.freed_by(holds, &hits);
                possible = fits(self.running.len() - victims.len(), available + freed);
            }
            let victim = *victims.first().filter(|_| possible)?;
            self.preempt(victim, step);
        }
    }

    /// Blocks of computed prefixes that `seq` can share. The last token is always computed: its logits are needed.
    fn find_prefix(&self, seq: &mut Sequence) -> Vec<BlockId> {
        if !self.blocks.shares_prefixes() {
            return Vec::new();
        }
        let size = self.config.block_size;
        let full = (seq.tokens.len() - 1) / size;
        let mut hits = Vec::new();
        for i in 0..full {
            let (hash, parent) = seq.hashes(i, size);
            let Some(id) = self.blocks.find(hash, parent, &seq.tokens[i * size..(i + 1) * size]) else {
                break;
            };
            hits.push(id);
        }
        hits
    }

    /// Takes the hits and allocates the other blocks of all known tokens.
    fn occupy(&mut self, seq: &mut Sequence, hits: &[BlockId]) {
        hits.iter().for_each(|id| self.blocks.share(*id));
        seq.blocks = hits.to_vec();
        seq.published = hits.len();
        seq.computed = hits.len() * self.config.block_size;
        while seq.blocks.len() < seq.tokens.len().div_ceil(self.config.block_size) {
            seq.blocks.push(self.blocks.allocate().expect("room was made before"));
        }
    }

    /// Running sequences that may be preempted, first to go first: stalled ones, then those that `outranked` names;
    /// the lowest tier and youngest first.
    fn victims(&self, ready: Ready, outranked: impl Fn(Rank) -> bool) -> impl Iterator<Item = Rank> {
        let all = self.running.values().rev().map(|seq| (seq.rank(), ready(seq.id)));
        let (active, stalled): (Vec<_>, Vec<_>) = all.partition(|(_, ready)| *ready);
        let active = active.into_iter().filter(|(rank, _)| outranked(*rank)).collect::<Vec<_>>();
        stalled.into_iter().chain(active).map(|(rank, _)| rank)
    }

    /// Takes a running sequence's blocks; it waits, with all its tokens, to be computed again.
    fn preempt(&mut self, rank: Rank, step: &mut Step) {
        let Some(mut seq) = self.running.remove(&rank) else { return };
        self.blocks.release(&seq.blocks);
        seq.blocks.clear();
        (seq.computed, seq.published) = (0, 0);
        self.waiting.insert(rank, seq);
        step.chunks.retain(|chunk| chunk.rank != rank);
        self.preemptions += 1;
    }

    /// Records that `step` was computed. `tokens` are those chosen for its sampling chunks, in order; `None` ends the
    /// sequence as failed. Sequences cancelled since are passed over.
    pub fn commit(&mut self, step: &Step, tokens: &[Option<u32>]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let mut tokens = tokens.iter().copied();
        for chunk in &step.chunks {
            let token = if chunk.samples { tokens.next().flatten() } else { None };
            let Some(mut seq) = self.running.remove(&chunk.rank) else { continue };
            seq.computed = chunk.start + chunk.len;
            self.publish(&mut seq);
            let ending = match token {
                _ if !chunk.samples => None,
                Some(token) => seq.push(token),
                None => Some(Ending::Failed),
            };
            if chunk.samples {
                outcomes.push(Outcome { id: seq.id, token, ending });
            }
            if ending.is_some() {
                self.ranks.remove(&seq.id);
                self.blocks.release(&seq.blocks);
            } else {
                self.running.insert(chunk.rank, seq);
            }
        }
        outcomes
    }

    /// Lets others find the blocks that are full and computed.
    fn publish(&mut self, seq: &mut Sequence) {
        let size = self.config.block_size;
        while self.blocks.shares_prefixes() && (seq.published + 1) * size <= seq.computed {
            let i = seq.published;
            let (hash, parent) = seq.hashes(i, size);
            self.blocks.publish(seq.blocks[i], hash, parent, &seq.tokens[i * size..(i + 1) * size]);
            seq.published += 1;
        }
    }

    /// A running sequence.
    pub fn running(&self, rank: Rank) -> Option<&Sequence> {
        self.running.get(&rank)
    }

    /// Numbers of running and of waiting sequences.
    pub fn queue_lengths(&self) -> (usize, usize) {
        (self.running.len(), self.waiting.len())
    }

    /// Numbers of blocks by state.
    pub fn block_counts(&self) -> BlockCounts {
        self.blocks.counts()
    }

    /// Preemptions so far.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Proves that free + held + cached blocks = all, and that the holders are the running sequences.
    pub fn check_integrity(&self) -> Result<(), String> {
        self.blocks.check_integrity(self.running.values().flat_map(|seq| &seq.blocks))
    }
}
