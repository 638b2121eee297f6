//! Room for a sequence: blocks to grow into, a slot and blocks to begin with, and who gives them up.

use super::{Ready, Scheduler, Started, Step};
use crate::blocks::BlockId;
use crate::sequence::{Rank, Sequence};

impl Scheduler {
    /// Makes room for the next token of a running sequence. False when it had to give up its own blocks.
    pub(super) fn grow(&mut self, rank: Rank, ready: Ready, step: &mut Step) -> bool {
        loop {
            let Some(seq) = self.running.get_mut(&rank) else { return false };
            if seq.computed < seq.blocks.len() * self.config.block_size {
                return true;
            }
            if let Some(block) = self.blocks.allocate() {
                seq.blocks.push(block);
                return true;
            }
            let seq = &self.running[&rank];
            let (order, overdue) = (self.order(seq), self.is_overdue(rank));
            let behind = |other: &Sequence| other.id != rank.1 && (overdue || self.order(other) > order);
            let victim = self.victims(ready, behind).first().copied();
            self.preempt(victim.unwrap_or(rank), step);
        }
    }

    /// Moves a waiting sequence to the running ones, with blocks for all its known tokens, if there is room or room can
    /// be made by preempting lower tiers, tenants too far ahead and stalled sequences.
    pub(super) fn admit(&mut self, rank: Rank, ready: Ready, step: &mut Step) -> bool {
        let Some(mut seq) = self.waiting.remove(&rank) else { return false };
        let Some(hits) = self.make_room(&mut seq, ready, step) else {
            self.waiting.insert(rank, seq);
            return false;
        };
        self.occupy(&mut seq, &hits);
        if seq.cached_tokens.is_none() {
            let (prompt_tokens, cached_tokens) = (seq.prompt_len, seq.computed);
            seq.cached_tokens = Some(cached_tokens);
            step.started.push(Started { id: seq.id, prompt_tokens, cached_tokens });
        }
        self.shares.admitted(&seq);
        self.running.insert(rank, seq);
        true
    }

    /// The cached blocks to start from, once a slot and enough other blocks are available.
    fn make_room(&mut self, seq: &mut Sequence, ready: Ready, step: &mut Step) -> Option<Vec<BlockId>> {
        let mut possible = false;
        let overdue = self.is_overdue(seq.rank());
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
            // What this step has given to a tenant it does not take back for another of the tier.
            let is_served = |other: &Sequence| step.chunks.iter().any(|chunk| chunk.rank.1 == other.id);
            let gives_way = |other: &Sequence| {
                overdue
                    || other.tier > seq.tier
                    || (other.tier == seq.tier
                        && self.shares.is_ahead(other, &seq.tenant)
                        && !is_served(other))
            };
            let victims = self.victims(ready, gives_way);
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
        // A prefix that another has computed has left no logits to score it with.
        if !self.blocks.shares_prefixes() || seq.is_scoring() {
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
        seq.charged = seq.charged.max(seq.computed);
        while seq.blocks.len() < seq.tokens.len().div_ceil(self.config.block_size) {
            seq.blocks.push(self.blocks.allocate().expect("room was made before"));
        }
    }

    /// Running sequences that may be preempted, first to go first: stalled ones, then those that `gives_way` names; each
    /// in reverse order of service. Those that go first because they starved keep their places.
    fn victims(&self, ready: Ready, gives_way: impl Fn(&Sequence) -> bool) -> Vec<Rank> {
        let all = self.running.values().filter(|seq| !(self.is_overdue(seq.rank()) && ready(seq.id)));
        let (active, stalled): (Vec<_>, Vec<_>) = all.partition(|seq| ready(seq.id));
        let active = active.into_iter().filter(|seq| gives_way(seq)).collect();
        let last_first = |sequences| self.in_order(sequences).into_iter().rev();
        last_first(stalled).chain(last_first(active)).collect()
    }

    /// Takes a running sequence's blocks; it waits, with all its tokens, to be computed again.
    fn preempt(&mut self, rank: Rank, step: &mut Step) {
        let Some(mut seq) = self.running.remove(&rank) else { return };
        if let Some(chunk) = step.chunks.iter().find(|chunk| chunk.rank == rank) {
            self.shares.refund(&seq, chunk.start, chunk.len);
            step.chunks.retain(|chunk| chunk.rank != rank);
        }
        self.blocks.release(&seq.blocks);
        seq.blocks.clear();
        (seq.computed, seq.published) = (0, 0);
        self.shares.preempted(&seq);
        self.waiting.insert(rank, seq);
        self.preemptions += 1;
    }

    /// Lets others find the blocks that are full and computed.
    pub(super) fn publish(&mut self, seq: &mut Sequence) {
        let size = self.config.block_size;
        while self.blocks.shares_prefixes() && (seq.published + 1) * size <= seq.computed {
            let i = seq.published;
            let (hash, parent) = seq.hashes(i, size);
            self.blocks.publish(seq.blocks[i], hash, parent, &seq.tokens[i * size..(i + 1) * size]);
            seq.published += 1;
        }
    }
}
