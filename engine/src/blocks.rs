//! The cache's blocks: who holds them, which prefix they keep, which is given away next.
//!
//! A block is free (holds nothing), held (by at least one sequence) or cached (held by none, keeps a prefix).
//! Only full blocks whose tokens were computed can be found by others.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

/// Index of a block in the cache.
pub type BlockId = u32;

/// Identity of a block's whole prefix: the first 128 bits of SHA-256 over the parent's hash and the block's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockHash([u8; 16]);

impl BlockHash {
    /// Where all chains of one salt begin.
    pub fn root(salt: &str) -> Self {
        Self::truncated(Sha256::new().chain_update(b"salt\0").chain_update(salt))
    }

    /// The hash of a block of `tokens` that follows the prefix `self`.
    pub fn child(self, tokens: &[u32]) -> Self {
        let mut hash = Sha256::new().chain_update(b"block\0").chain_update(self.0);
        for token in tokens {
            hash.update(token.to_le_bytes());
        }
        Self::truncated(hash)
    }

    fn truncated(hash: Sha256) -> Self {
        let mut short = [0; 16];
        short.copy_from_slice(&hash.finalize()[..16]);
        Self(short)
    }
}

/// What a shareable block holds.
#[derive(Debug)]
struct Content {
    hash: BlockHash,
    parent: BlockHash,
    tokens: Box<[u32]>,
}

#[derive(Debug, Default)]
struct Block {
    refs: u32,
    /// Set while others can find the block.
    content: Option<Content>,
    /// When its last holder let go; its key in `lru` while cached.
    released: u64,
}

/// How many blocks are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCounts {
    /// Hold nothing.
    pub free: usize,
    /// Held by sequences.
    pub held: usize,
    /// Held by none, keep a prefix.
    pub cached: usize,
    /// All.
    pub total: usize,
}

/// Gives out blocks, finds shared prefixes, evicts the least recently used.
#[derive(Debug)]
pub struct BlockManager {
    blocks: Vec<Block>,
    free: Vec<BlockId>,
    by_hash: HashMap<BlockHash, BlockId>,
    /// Cached blocks, the longest unused first.
    lru: BTreeMap<u64, BlockId>,
    releases: u64,
    prefix_cache: bool,
}

impl BlockManager {
    /// All blocks free. Without `prefix_cache` nothing is ever shared.
    pub fn new(num_blocks: usize, prefix_cache: bool) -> Self {
        Self {
            blocks: (0..num_blocks).map(|_| Block::default()).collect(),
            free: (0..num_blocks as BlockId).rev().collect(),
            by_hash: HashMap::new(),
            lru: BTreeMap::new(),
            releases: 0,
            prefix_cache,
        }
    }

    /// Whether prefixes are shared.
    pub fn shares_prefixes(&self) -> bool {
        self.prefix_cache
    }

    /// Blocks that [`Self::allocate`] can give out.
    pub fn available(&self) -> usize {
        self.free.len() + self.lru.len()
    }

    /// The block that holds `tokens` after the prefix `parent`. Compares the tokens: equal hashes are not enough.
    pub fn find(&self, hash: BlockHash, parent: BlockHash, tokens: &[u32]) -> Option<BlockId> {
        let id = *self.by_hash.get(&hash)?;
        let content = self.blocks[id as usize].content.as_ref()?;
        (content.parent == parent && *content.tokens == *tokens).then_some(id)
    }

    /// Whether no sequence holds the block.
    pub fn is_unheld(&self, id: BlockId) -> bool {
        self.blocks[id as usize].refs == 0
    }

    /// Adds a holder to a block that [`Self::find`] returned.
    pub fn share(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        if block.refs == 0 {
            self.lru.remove(&block.released);
        }
        block.refs += 1;
    }

    /// A block for one holder: a free one, else the longest unused cached one. `None` when all are held.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => self.evict()?,
        };
        self.blocks[id as usize].refs = 1;
        Some(id)
    }

    fn evict(&mut self) -> Option<BlockId> {
        let (_, id) = self.lru.pop_first()?;
        if let Some(content) = self.blocks[id as usize].content.take() {
            self.by_hash.remove(&content.hash);
        }
        Some(id)
    }

    /// Makes a held, fully computed block findable. Where another block already holds the same prefix, that one stays.
    pub fn publish(&mut self, id: BlockId, hash: BlockHash, parent: BlockHash, tokens: &[u32]) {
        let block = &mut self.blocks[id as usize];
        if !self.prefix_cache || block.content.is_some() || self.by_hash.contains_key(&hash) {
            return;
        }
        block.content = Some(Content { hash, parent, tokens: tokens.into() });
        self.by_hash.insert(hash, id);
    }

    /// Takes a sequence's hold off its blocks, given in prefix order: of a chain the end is evicted first.
    pub fn release(&mut self, ids: &[BlockId]) {
        for id in ids.iter().rev() {
            let block = &mut self.blocks[*id as usize];
            block.refs = block.refs.checked_sub(1).expect("a released block was held");
            if block.refs > 0 {
                continue;
            }
            if block.content.is_some() {
                self.releases += 1;
                block.released = self.releases;
                self.lru.insert(self.releases, *id);
            } else {
                self.free.push(*id);
            }
        }
    }

    /// How many blocks would become available if these holds, and no others, were released; `keep` does not count.
    pub fn freed_by<'a>(&self, holds: impl Iterator<Item = &'a BlockId>, keep: &[BlockId]) -> usize {
        let mut counts: HashMap<BlockId, u32> = HashMap::new();
        for id in holds {
            *counts.entry(*id).or_default() += 1;
        }
        counts
            .iter()
            .filter(|(id, count)| self.blocks[**id as usize].refs == **count && !keep.contains(id))
            .count()
    }

    /// Numbers of blocks by state.
    pub fn counts(&self) -> BlockCounts {
        let total = self.blocks.len();
        let (free, cached) = (self.free.len(), self.lru.len());
        BlockCounts { free, held: total - free - cached, cached, total }
    }

    /// Proves that each block is in exactly one state and that every index agrees; `holds` are the blocks of all
    /// sequences, with repetition. The error names the first block that is wrong.
    pub fn check_integrity<'a>(&self, holds: impl Iterator<Item = &'a BlockId>) -> Result<(), String> {
        let mut refs = vec![0; self.blocks.len()];
        holds.for_each(|id| refs[*id as usize] += 1);
        let mut state = vec!["held"; self.blocks.len()];
        let unheld =
            self.free.iter().map(|id| (id, "free")).chain(self.lru.values().map(|id| (id, "cached")));
        for (id, name) in unheld {
            let slot = &mut state[*id as usize];
            if *slot != "held" {
                return Err(format!("block {id} is both {slot} and {name}"));
            }
            *slot = name;
        }
        for (id, block) in self.blocks.iter().enumerate() {
            let (name, published) = (state[id], block.content.is_some());
            if block.refs != refs[id] {
                return Err(format!("block {id} has {} references, sequences hold {}", block.refs, refs[id]));
            }
            if (name == "held") != (block.refs > 0) || (name == "free" && published) {
                return Err(format!("block {id} is {name} with {} references", block.refs));
            }
            let indexed = block.content.as_ref().map(|content| self.by_hash.get(&content.hash));
            if indexed.is_some_and(|found| found != Some(&(id as BlockId))) {
                return Err(format!("block {id} cannot be found by its hash"));
            }
        }
        let published = self.blocks.iter().filter(|block| block.content.is_some()).count();
        if published != self.by_hash.len() {
            return Err(format!("{published} blocks are published, {} are indexed", self.by_hash.len()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(tokens: &[u32]) -> (BlockHash, BlockHash) {
        let root = BlockHash::root("a");
        (root.child(tokens), root)
    }

    #[test]
    fn a_published_block_outlives_its_holder() {
        let mut blocks = BlockManager::new(2, true);
        let id = blocks.allocate().expect("two are free");
        let (hash, parent) = chain(&[1, 2]);
        blocks.publish(id, hash, parent, &[1, 2]);
        blocks.release(&[id]);
        assert_eq!(blocks.counts(), BlockCounts { free: 1, held: 0, cached: 1, total: 2 });
        assert_eq!(blocks.find(hash, parent, &[1, 2]), Some(id));
        blocks.share(id);
        assert_eq!(blocks.counts(), BlockCounts { free: 1, held: 1, cached: 0, total: 2 });
        blocks.check_integrity([id].iter()).expect("one hold");
    }

    #[test]
    fn equal_hashes_with_other_tokens_do_not_match() {
        let mut blocks = BlockManager::new(1, true);
        let id = blocks.allocate().expect("one is free");
        let (hash, parent) = chain(&[1, 2]);
        blocks.publish(id, hash, parent, &[1, 2]);
        assert_eq!(blocks.find(hash, parent, &[1, 3]), None);
        assert_eq!(blocks.find(hash, BlockHash::root("b"), &[1, 2]), None);
    }

    #[test]
    fn salts_separate_prefixes() {
        assert_ne!(BlockHash::root("a").child(&[1]), BlockHash::root("b").child(&[1]));
        assert_ne!(BlockHash::root("").child(&[1]), BlockHash::root("").child(&[2]));
    }

    #[test]
    fn the_end_of_the_longest_unused_chain_goes_first() {
        let mut blocks = BlockManager::new(3, true);
        let ids: Vec<_> = (0..3).map(|_| blocks.allocate().expect("three are free")).collect();
        let root = BlockHash::root("");
        let first = root.child(&[1]);
        blocks.publish(ids[0], first, root, &[1]);
        blocks.publish(ids[1], first.child(&[2]), first, &[2]);
        blocks.publish(ids[2], root.child(&[9]), root, &[9]);
        blocks.release(&ids[..2]);
        blocks.release(&ids[2..]);
        assert_eq!(blocks.allocate(), Some(ids[1]));
        assert_eq!(blocks.allocate(), Some(ids[0]));
        assert_eq!(blocks.find(first, root, &[1]), None);
        assert_eq!(blocks.allocate(), Some(ids[2]));
        assert_eq!(blocks.allocate(), None);
        blocks.check_integrity(ids.iter()).expect("all are held");
    }

    #[test]
    fn a_second_copy_of_a_prefix_stays_private() {
        let mut blocks = BlockManager::new(2, true);
        let (a, b) = (blocks.allocate().expect("free"), blocks.allocate().expect("free"));
        let (hash, parent) = chain(&[5]);
        blocks.publish(a, hash, parent, &[5]);
        blocks.publish(b, hash, parent, &[5]);
        blocks.release(&[b]);
        assert_eq!(blocks.counts().free, 1);
        blocks.release(&[a]);
        assert_eq!(blocks.counts().cached, 1);
    }

    #[test]
    fn freed_by_counts_blocks_without_other_holders() {
        let mut blocks = BlockManager::new(3, true);
        let ids: Vec<_> = (0..3).map(|_| blocks.allocate().expect("free")).collect();
        blocks.share(ids[0]);
        assert_eq!(blocks.freed_by(ids.iter(), &[]), 2);
        assert_eq!(blocks.freed_by([ids[0], ids[0], ids[1]].iter(), &[ids[1]]), 1);
    }
}
