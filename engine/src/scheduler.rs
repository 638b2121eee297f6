//! Decides what each step computes. Pure: no clock, no I/O, no tensors; the same calls give the same steps.
//!
//! A step has one token budget, which the tiers take in order. Within a tier, running sequences that need one token come
//! first, so that the time between tokens stays short; what is left goes to prompts in chunks, the tenant that has had
//! least first ([`shares`]), and of a tenant in order of arrival. Lower tiers keep small in a step in which a higher one
//! computes. When slots or blocks run out, stalled sequences, lower tiers and tenants too far ahead lose theirs
//! ([`room`]) and are computed again later, mostly from the prefix cache.

mod room;
mod shares;

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::blocks::{BlockCounts, BlockManager};
use crate::config::EngineConfig;
use crate::request::Tier;
use crate::sequence::{Ending, NewSequence, Rank, SeqId, Sequence};
use shares::{Contender, Place, Shares, contenders};

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
    shares: Shares,
    /// By tier, steps in a row without a token although somebody wanted one.
    starved: [u32; 6],
    /// By tier, the sequence that goes first because its tier has starved.
    overdue: [Option<SeqId>; 6],
    preemptions: u64,
}

impl Scheduler {
    /// Nothing waits or runs; all blocks are free. `config` must be valid.
    pub fn new(config: EngineConfig) -> Self {
        let blocks = BlockManager::new(config.num_blocks, config.prefix_cache);
        let shares = Shares::new(&config.sharing);
        let (waiting, running, ranks) = Default::default();
        let (starved, overdue) = Default::default();
        Self { config, blocks, waiting, running, ranks, shares, starved, overdue, preemptions: 0 }
    }

    /// Puts a sequence into the waiting queue.
    pub fn add(&mut self, new: NewSequence) -> Result<(), QueueFull> {
        let (live, limit) = (self.ranks.len(), self.config.max_live());
        if live >= limit {
            return Err(QueueFull { live, limit });
        }
        let sequence = Sequence::new(new);
        let rank = sequence.rank();
        self.shares.enter(&sequence);
        self.ranks.insert(sequence.id, rank);
        self.waiting.insert(rank, sequence);
        Ok(())
    }

    /// Removes a sequence and its hold on blocks, at once. False when it is not here.
    pub fn cancel(&mut self, id: SeqId) -> bool {
        let Some(rank) = self.ranks.remove(&id) else { return false };
        let running = self.running.remove(&rank);
        if let Some(sequence) = running.or_else(|| self.waiting.remove(&rank)) {
            self.blocks.release(&sequence.blocks);
            self.forget(&sequence);
        }
        true
    }

    fn forget(&mut self, sequence: &Sequence) {
        self.shares.leave(sequence);
        self.overdue[sequence.tier.index()].take_if(|id| *id == sequence.id);
    }

    /// The next step. Empty only when no sequence is ready.
    pub fn schedule(&mut self, ready: Ready) -> Step {
        let mut step = Step::default();
        self.shares.begin();
        self.serve_overdue(ready, &mut step);
        for tier in Tier::ALL {
            self.serve(tier, ready, &mut step);
        }
        self.note_wants(ready, &step);
        step
    }

    /// Serves a tier: decodes, prompts, and last the decodes of tenants that are too far ahead of one that waits.
    fn serve(&mut self, tier: Tier, ready: Ready, step: &mut Step) {
        let of_tier = self.running.range((tier, SeqId(0))..=(tier, SeqId(u64::MAX))).map(|(_, seq)| seq);
        let usable = of_tier.filter(|seq| ready(seq.id) && !self.is_overdue(seq.rank()));
        let (decoding, prefilling): (Vec<_>, Vec<_>) = usable.partition(|seq| seq.pending() == 1);
        let most = self.config.max_num_seqs.min(self.room(tier, step));
        let waiting = self.shares.waiting(tier, most, |id| ready(id) && !self.is_overdue((tier, id)));
        let is_far = |seq: &Sequence| waiting.iter().any(|(tenant, _)| self.shares.is_ahead(seq, tenant));
        let (far, near): (Vec<_>, Vec<_>) = decoding.into_iter().partition(|seq| is_far(seq));
        let (far, near) = (self.in_order(far), self.in_order(near));
        let contenders = contenders(prefilling, waiting);
        self.serve_decodes(near, ready, step);
        if self.serve_prompts(tier, contenders, ready, step) {
            self.serve_decodes(far, ready, step);
        }
    }

    /// Tenants by what they have had, and the sequences of one by arrival.
    fn in_order(&self, mut sequences: Vec<&Sequence>) -> Vec<Rank> {
        sequences.sort_by_cached_key(|seq| self.order(seq));
        sequences.into_iter().map(Sequence::rank).collect()
    }

    /// Place in the order of service.
    fn order(&self, sequence: &Sequence) -> (Tier, Place, SeqId) {
        (sequence.tier, self.shares.place(sequence), sequence.id)
    }

    fn serve_decodes(&mut self, ranks: Vec<Rank>, ready: Ready, step: &mut Step) {
        let Some(first) = ranks.first() else { return };
        let mut room = self.room(first.0, step);
        for rank in ranks {
            if room == 0 {
                break;
            }
            // A better-placed one may have taken its blocks meanwhile.
            if self.running.contains_key(&rank) && self.grow(rank, ready, step) {
                room -= self.push_chunk(rank, 1, step);
            }
        }
    }

    /// Serves prompts, each time of the tenant that has had least. False when tokens ran out before all that wait were
    /// looked at.
    fn serve_prompts(
        &mut self,
        tier: Tier,
        mut contenders: Vec<Contender>,
        ready: Ready,
        step: &mut Step,
    ) -> bool {
        let mut budget = self.prompt_room(tier, step);
        let mut admitting = true;
        while let Some(rank) = self.shares.next(tier, &mut contenders) {
            let waits = self.waiting.contains_key(&rank);
            if budget == 0 {
                if waits && admitting {
                    return false;
                }
                continue;
            }
            if waits {
                // Who does not fit keeps the place: nobody behind it is admitted.
                admitting = admitting && self.admit(rank, ready, step);
                if !admitting {
                    continue;
                }
            }
            budget -= self.push_chunk(rank, budget, step);
        }
        true
    }

    /// Tokens that a tier may still take: what higher tiers leave of the step, and no more than they suffer beside them.
    fn room(&self, tier: Tier, step: &Step) -> usize {
        let mut used = [0; 6];
        for chunk in &step.chunks {
            used[chunk.rank.0.index()] += chunk.len;
        }
        let mut room = self.config.max_batched_tokens - used.iter().sum::<usize>();
        for higher in 0..tier.index() {
            if used[higher] > 0 {
                let below: usize = used[higher + 1..].iter().sum();
                room = room.min(self.config.sharing.tiers[higher].yield_tokens.saturating_sub(below));
            }
        }
        room
    }

    /// The same for prompts: chunks are small while others decode.
    fn prompt_room(&self, tier: Tier, step: &Step) -> usize {
        let is_decode = |chunk: &&Chunk| chunk.len == 1 && chunk.samples;
        let room = self.room(tier, step);
        if !step.chunks.iter().any(|chunk| is_decode(&chunk)) {
            return room;
        }
        let prompts: usize =
            step.chunks.iter().filter(|chunk| !is_decode(chunk)).map(|chunk| chunk.len).sum();
        room.min(self.config.prefill_chunk.saturating_sub(prompts))
    }

    /// Serves, before all others, the first sequence of each tier that has starved, until it has generated a token.
    fn serve_overdue(&mut self, ready: Ready, step: &mut Step) {
        for tier in Tier::ALL {
            let bound = self.config.sharing.tiers[tier.index()].starvation_steps;
            let slot = self.overdue[tier.index()];
            if slot.is_none() && bound > 0 && self.starved[tier.index()] >= bound {
                self.overdue[tier.index()] = self.first_of(tier, ready);
            }
            let Some(id) = self.overdue[tier.index()].filter(|id| ready(*id)) else { continue };
            let rank = (tier, id);
            let budget = self.config.prefill_chunk.min(self.config.max_batched_tokens - step.tokens());
            let runs = if self.waiting.contains_key(&rank) {
                budget > 0 && self.admit(rank, ready, step)
            } else {
                self.running[&rank].pending() > 1 || self.grow(rank, ready, step)
            };
            if runs {
                self.push_chunk(rank, budget, step);
            }
        }
    }

    fn first_of(&self, tier: Tier, ready: Ready) -> Option<SeqId> {
        let all = (tier, SeqId(0))..=(tier, SeqId(u64::MAX));
        let queues = self.running.range(all.clone()).chain(self.waiting.range(all));
        let usable = queues.map(|(_, seq)| seq).filter(|seq| ready(seq.id));
        usable.min_by_key(|seq| self.order(seq)).map(|seq| seq.id)
    }

    fn is_overdue(&self, rank: Rank) -> bool {
        self.overdue[rank.0.index()] == Some(rank.1)
    }

    /// Adds up to `budget` pending tokens of a running sequence to the step; returns how many.
    fn push_chunk(&mut self, rank: Rank, budget: usize, step: &mut Step) -> usize {
        let Some(seq) = self.running.get(&rank) else { return 0 };
        let mut len = seq.pending().min(budget);
        if seq.is_scoring() {
            len = len.min(self.scoring_room(step));
        }
        if len > 0 {
            self.shares.charge(seq, seq.computed, len);
            step.chunks.push(Chunk { rank, start: seq.computed, len, samples: len == seq.pending() });
        }
        len
    }

    /// Tokens that may still be scored in a step: each takes a whole row of logits, so there are few at a time.
    fn scoring_room(&self, step: &Step) -> usize {
        let is_scoring = |chunk: &&Chunk| self.running.get(&chunk.rank).is_some_and(Sequence::is_scoring);
        let taken: usize = step.chunks.iter().filter(is_scoring).map(|chunk| chunk.len).sum();
        self.config.prefill_chunk.saturating_sub(taken)
    }

    /// Remembers who was ready and got nothing.
    fn note_wants(&mut self, ready: Ready, step: &Step) {
        let served: HashSet<Rank> = step.chunks.iter().map(|chunk| chunk.rank).collect();
        let unserved = self.running.values().filter(|seq| ready(seq.id) && !served.contains(&seq.rank()));
        self.shares.end(unserved, ready);
        for tier in Tier::ALL {
            let has_work = step.chunks.iter().any(|chunk| chunk.rank.0 == tier);
            let starved = &mut self.starved[tier.index()];
            *starved = if has_work || !self.shares.is_wanting(tier) { 0 } else { starved.saturating_add(1) };
        }
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
            seq.charged = seq.charged.max(seq.computed);
            seq.note_scored();
            self.publish(&mut seq);
            let ending = match token {
                _ if !chunk.samples => None,
                Some(token) => seq.push(token),
                None => Some(Ending::Failed),
            };
            if chunk.samples {
                self.overdue[seq.tier.index()].take_if(|id| *id == seq.id);
                outcomes.push(Outcome { id: seq.id, token, ending });
            }
            if ending.is_some() {
                self.ranks.remove(&seq.id);
                self.blocks.release(&seq.blocks);
                self.forget(&seq);
            } else {
                self.running.insert(chunk.rank, seq);
            }
        }
        outcomes
    }

    /// A running sequence.
    pub fn running(&self, rank: Rank) -> Option<&Sequence> {
        self.running.get(&rank)
    }

    /// Numbers of running and of waiting sequences.
    pub fn queue_lengths(&self) -> (usize, usize) {
        (self.running.len(), self.waiting.len())
    }

    /// Numbers of running and of waiting sequences of one tier.
    pub fn tier_lengths(&self, tier: Tier) -> (usize, usize) {
        let all = (tier, SeqId(0))..=(tier, SeqId(u64::MAX));
        (self.running.range(all.clone()).count(), self.waiting.range(all).count())
    }

    /// Numbers of blocks by state.
    pub fn block_counts(&self) -> BlockCounts {
        self.blocks.counts()
    }

    /// Preemptions so far.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Proves that free + held + cached blocks = all, that the holders are the running sequences, and that the lists of
    /// those who wait are complete.
    pub fn check_integrity(&self) -> Result<(), String> {
        self.blocks.check_integrity(self.running.values().flat_map(|seq| &seq.blocks))?;
        self.shares.check(self.waiting.keys().copied(), self.ranks.len())
    }
}
