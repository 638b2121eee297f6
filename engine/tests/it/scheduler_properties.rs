//! The scheduler under random arrivals, cancels, stalls and small pools, against a simulated cache.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use engine::scheduler::{Scheduler, Step};
use engine::sequence::{Ending, NewSequence, SeqId};
use engine::{EngineConfig, Sharing, Tenant, Tier, TierRule};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const ENDING: u32 = 7;

#[derive(Clone, Debug)]
enum Act {
    Arrive { tier: usize, tenant: usize, salt: bool, prefix: usize, prompt: Vec<u32>, max_tokens: usize },
    Cancel(usize),
    Stall(usize),
    Resume(usize),
    Step,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let prompt = prop::collection::vec(0..6_u32, 1..10);
    let arrive = (0..6_usize, 0..4_usize, any::<bool>(), 0..12_usize, prompt, 1..14_usize);
    let arrive = arrive.prop_map(|(tier, tenant, salt, prefix, prompt, max_tokens)| Act::Arrive {
        tier,
        tenant,
        salt,
        prefix,
        prompt,
        max_tokens,
    });
    let act = prop_oneof![
        3 => arrive,
        1 => (0..40_usize).prop_map(Act::Cancel),
        1 => (0..40_usize).prop_map(Act::Stall),
        1 => (0..40_usize).prop_map(Act::Resume),
        6 => Just(Act::Step),
    ];
    prop::collection::vec(act, 1..120)
}

fn configs() -> impl Strategy<Value = EngineConfig> {
    let sizes = (1..6_usize, 1..20_usize, 1..8_usize, 1..6_usize, 0..20_usize);
    (sizes, any::<bool>(), sharing()).prop_map(
        |((seqs, spare, chunk, block_size, spare_blocks), prefix_cache, sharing)| EngineConfig {
            max_num_seqs: seqs,
            max_batched_tokens: seqs + spare,
            prefill_chunk: chunk.min(seqs + spare),
            block_size,
            // Always enough for the longest sequence alone: 12 + 9 + 13 tokens.
            num_blocks: 34_usize.div_ceil(block_size) + spare_blocks,
            max_waiting: 12,
            prefix_cache,
            stream_capacity: 4,
            sharing,
            ..EngineConfig::default()
        },
    )
}

fn sharing() -> impl Strategy<Value = Sharing> {
    let rule = (0..8_usize, prop_oneof![Just(0), 1..12_u32]);
    let rule = rule.prop_map(|(yield_tokens, starvation_steps)| TierRule { yield_tokens, starvation_steps });
    (1..4_u32, 1..4_u32, 1..40_u32, prop::array::uniform6(rule)).prop_map(
        |(prefill_cost, decode_cost, drift, tiers)| Sharing { prefill_cost, decode_cost, drift, tiers },
    )
}

/// What a slot must hold: the whole prefix, salt included.
fn fingerprint(salt: bool, tokens: &[u32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (salt, tokens).hash(&mut hasher);
    hasher.finish()
}

/// The simulated model: the next token is a function of the prefix.
fn next_token(salt: bool, tokens: &[u32]) -> u32 {
    match fingerprint(salt, tokens) % 9 {
        8 => ENDING,
        token => (token % 6) as u32,
    }
}

/// Two organisations with two projects each, of unequal weights.
fn tenant_number(number: usize) -> Tenant {
    Tenant {
        org: format!("org_{}", number / 2),
        project: format!("proj_{number}"),
        org_weight: 1 + number as u32 / 2 * 2,
        project_weight: 1 + number as u32 % 2,
    }
}

struct Known {
    salt: bool,
    rank: (Tier, SeqId),
    tokens: Vec<u32>,
    max_len: usize,
    stalled: bool,
}

struct Simulation {
    config: EngineConfig,
    scheduler: Scheduler,
    known: BTreeMap<SeqId, Known>,
    slots: HashMap<usize, u64>,
    next_id: u64,
    trace: Vec<Step>,
}

impl Simulation {
    fn new(config: EngineConfig) -> Self {
        let scheduler = Scheduler::new(config.clone());
        let (known, slots, trace) = Default::default();
        Self { config, scheduler, known, slots, next_id: 0, trace }
    }

    fn apply(&mut self, act: &Act) -> Result<(), TestCaseError> {
        let nth =
            |known: &BTreeMap<SeqId, Known>, n: &usize| known.keys().nth(n % known.len().max(1)).copied();
        match act {
            Act::Arrive { tier, tenant, salt, prefix, prompt, max_tokens } => {
                let prompt: Vec<u32> =
                    std::iter::repeat_n(1, *prefix).chain(prompt.iter().copied()).collect();
                self.arrive(Tier::ALL[*tier], tenant_number(*tenant), *salt, prompt, *max_tokens)?;
            }
            Act::Cancel(n) => {
                if let Some(id) = nth(&self.known, n) {
                    self.known.remove(&id);
                    prop_assert!(self.scheduler.cancel(id));
                    prop_assert!(!self.scheduler.cancel(id));
                }
            }
            Act::Stall(n) | Act::Resume(n) => {
                let id = nth(&self.known, n);
                if let Some(known) = id.and_then(|id| self.known.get_mut(&id)) {
                    known.stalled = matches!(act, Act::Stall(_));
                }
            }
            Act::Step => drop(self.step()?),
        }
        self.scheduler.check_integrity().map_err(TestCaseError::fail)?;
        let counts = self.scheduler.block_counts();
        prop_assert_eq!(counts.free + counts.held + counts.cached, self.config.num_blocks);
        let (running, waiting) = self.scheduler.queue_lengths();
        prop_assert_eq!(running + waiting, self.known.len());
        prop_assert!(running <= self.config.max_num_seqs);
        Ok(())
    }

    fn arrive(
        &mut self,
        tier: Tier,
        tenant: Tenant,
        salt: bool,
        prompt: Vec<u32>,
        max_tokens: usize,
    ) -> Result<(), TestCaseError> {
        let id = SeqId(self.next_id);
        self.next_id += 1;
        let max_len = prompt.len() + max_tokens;
        let new = NewSequence {
            id,
            tier,
            tenant,
            prompt: prompt.clone(),
            salt: salt.to_string(),
            max_len,
            ending: vec![ENDING],
            scores: id.0.is_multiple_of(5),
        };
        let full = self.known.len() >= self.config.max_live();
        prop_assert_eq!(self.scheduler.add(new).is_err(), full);
        if !full {
            let known = Known { salt, rank: (tier, id), tokens: prompt, max_len, stalled: false };
            self.known.insert(id, known);
        }
        Ok(())
    }

    /// One step; false when it was empty.
    fn step(&mut self) -> Result<bool, TestCaseError> {
        let known = &self.known;
        let step = self.scheduler.schedule(&|id| !known[&id].stalled);
        self.check_step(&step)?;
        self.compute(&step)?;
        let sampling = step.chunks.iter().filter(|chunk| chunk.samples);
        let next = |id: SeqId| next_token(self.known[&id].salt, &self.known[&id].tokens);
        let tokens: Vec<_> = sampling.map(|chunk| Some(next(chunk.rank.1))).collect();
        for (outcome, token) in self.scheduler.commit(&step, &tokens).into_iter().zip(tokens) {
            prop_assert_eq!(outcome.token, token);
            let seq = self.known.get_mut(&outcome.id).expect("outcomes are of live sequences");
            seq.tokens.extend(token);
            let expected = if token == Some(ENDING) {
                Some(Ending::Stop)
            } else {
                (seq.tokens.len() == seq.max_len).then_some(Ending::Length)
            };
            prop_assert_eq!(outcome.ending, expected);
            if expected.is_some() {
                self.known.remove(&outcome.id);
            }
        }
        let worked = !step.chunks.is_empty();
        self.trace.push(step);
        Ok(worked)
    }

    fn check_step(&self, step: &Step) -> Result<(), TestCaseError> {
        let ranks: BTreeSet<_> = step.chunks.iter().map(|chunk| chunk.rank).collect();
        prop_assert_eq!(ranks.len(), step.chunks.len(), "one chunk a sequence");
        prop_assert!(step.tokens() <= self.config.max_batched_tokens);
        let ready: Vec<_> = self.known.values().filter(|seq| !seq.stalled).map(|seq| seq.rank).collect();
        prop_assert!(ranks.iter().all(|rank| ready.contains(rank)), "stalled sequences rest");
        prop_assert_eq!(step.chunks.is_empty(), ready.is_empty(), "work is done while there is any");
        // The highest tier goes on, unless one that starved has its place.
        let may_starve = self.config.sharing.tiers.iter().all(|rule| rule.starvation_steps == 0);
        if let Some(first) = ready.iter().min().filter(|_| may_starve) {
            prop_assert!(ranks.iter().any(|rank| rank.0 == first.0), "{:?} starves in {:?}", first, step);
        }
        Ok(())
    }

    /// Writes the step's tokens, then reads every position that attention would read.
    fn compute(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let size = self.config.block_size;
        let mut prompt_tokens = 0;
        for chunk in &step.chunks {
            let known = &self.known[&chunk.rank.1];
            let seq = self.scheduler.running(chunk.rank).expect("chunks are of running sequences");
            prop_assert_eq!(seq.tokens(), &known.tokens[..], "generated tokens are kept");
            prop_assert_eq!(seq.computed(), chunk.start);
            prop_assert!(chunk.len > 0 && chunk.start + chunk.len <= seq.tokens().len());
            prop_assert_eq!(chunk.samples, chunk.start + chunk.len == seq.tokens().len());
            prompt_tokens += if chunk.len > 1 { chunk.len } else { 0 };
            for position in chunk.start..chunk.start + chunk.len {
                let slot = seq.blocks()[position / size] as usize * size + position % size;
                self.slots.insert(slot, fingerprint(known.salt, &seq.tokens()[..=position]));
            }
        }
        if step.chunks.iter().any(|chunk| chunk.len == 1 && chunk.start > 0) && step.chunks.len() > 1 {
            prop_assert!(prompt_tokens <= self.config.max_batched_tokens);
        }
        for chunk in &step.chunks {
            let known = &self.known[&chunk.rank.1];
            let seq = self.scheduler.running(chunk.rank).expect("chunks are of running sequences");
            for position in 0..chunk.start + chunk.len {
                let slot = seq.blocks()[position / size] as usize * size + position % size;
                let expected = fingerprint(known.salt, &seq.tokens()[..=position]);
                prop_assert_eq!(
                    self.slots.get(&slot),
                    Some(&expected),
                    "position {} of {:?}",
                    position,
                    chunk
                );
            }
        }
        Ok(())
    }

    /// Lets everyone read again and runs until all have finished, within a number of steps that the work bounds.
    fn finish(&mut self) -> Result<(), TestCaseError> {
        self.known.values_mut().for_each(|seq| seq.stalled = false);
        // Each token at most once alone, and the whole sequence again after each preemption; preemptions are paid for by
        // others' tokens.
        let work: usize = self.known.values().map(|seq| seq.max_len).sum();
        let mut steps = 0;
        while self.step()? {
            self.scheduler.check_integrity().map_err(TestCaseError::fail)?;
            steps += 1;
            prop_assert!(steps <= work * 40 + 40, "{} steps for {} tokens", steps, work);
        }
        prop_assert!(self.known.is_empty());
        let counts = self.scheduler.block_counts();
        prop_assert_eq!(counts.free + counts.cached, counts.total);
        Ok(())
    }
}

fn simulate(config: &EngineConfig, acts: &[Act]) -> Result<Simulation, TestCaseError> {
    let mut simulation = Simulation::new(config.clone());
    for act in acts {
        simulation.apply(act)?;
    }
    simulation.finish()?;
    Ok(simulation)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, rng_seed: RngSeed::Fixed(2), ..ProptestConfig::default() })]

    #[test]
    fn everyone_finishes_with_the_right_memory(config in configs(), acts in acts()) {
        prop_assert!(config.validate().is_ok());
        let first = simulate(&config, &acts)?;
        let second = simulate(&config, &acts)?;
        prop_assert_eq!(first.trace, second.trace, "same inputs, same steps");
    }
}

fn small() -> EngineConfig {
    EngineConfig {
        max_num_seqs: 3,
        max_batched_tokens: 16,
        prefill_chunk: 4,
        block_size: 4,
        num_blocks: 16,
        ..EngineConfig::default()
    }
}

fn new(id: u64, tier: Tier, prompt: Vec<u32>) -> NewSequence {
    let max_len = prompt.len() + 20;
    NewSequence {
        id: SeqId(id),
        tier,
        tenant: Tenant::default(),
        prompt,
        salt: String::new(),
        max_len,
        ending: vec![],
        scores: false,
    }
}

fn lens(step: &Step) -> Vec<(u64, usize)> {
    step.chunks.iter().map(|chunk| (chunk.rank.1.0, chunk.len)).collect()
}

/// Schedules a step with everyone ready and commits token 5 where one is sampled.
fn advance(scheduler: &mut Scheduler) -> Step {
    let step = scheduler.schedule(&|_| true);
    let sampled = step.chunks.iter().filter(|chunk| chunk.samples).count();
    scheduler.commit(&step, &vec![Some(5); sampled]);
    step
}

#[test]
fn a_prompt_goes_in_small_chunks_while_others_decode() {
    let mut scheduler = Scheduler::new(small());
    scheduler.add(new(0, Tier::Default, vec![1; 20])).expect("room");
    assert_eq!(lens(&advance(&mut scheduler)), [(0, 16)], "alone it takes the whole budget");
    assert_eq!(lens(&advance(&mut scheduler)), [(0, 4)]);
    scheduler.add(new(1, Tier::Default, vec![2; 9])).expect("room");
    assert_eq!(lens(&advance(&mut scheduler)), [(0, 1), (1, 4)]);
    assert_eq!(lens(&advance(&mut scheduler)), [(0, 1), (1, 4)]);
    assert_eq!(lens(&advance(&mut scheduler)), [(0, 1), (1, 1)]);
}

#[test]
fn a_higher_tier_goes_first_and_takes_a_slot() {
    let mut scheduler = Scheduler::new(EngineConfig { max_num_seqs: 1, ..small() });
    scheduler.add(new(0, Tier::Batch, vec![1; 8])).expect("room");
    scheduler.add(new(1, Tier::Flex, vec![2; 3])).expect("room");
    assert_eq!(lens(&advance(&mut scheduler)), [(1, 3)]);
    scheduler.add(new(2, Tier::Internal, vec![3; 3])).expect("room");
    assert_eq!(lens(&advance(&mut scheduler)), [(2, 3)]);
    assert_eq!(scheduler.preemptions(), 1);
    assert!(scheduler.cancel(SeqId(2)));
    assert_eq!(lens(&advance(&mut scheduler)), [(1, 4)], "it resumes with the token it had generated");
}

#[test]
fn a_full_prefix_hit_still_computes_the_last_token() {
    let mut scheduler = Scheduler::new(small());
    scheduler.add(new(0, Tier::Default, (0..8).collect())).expect("room");
    advance(&mut scheduler);
    assert!(scheduler.cancel(SeqId(0)));
    scheduler.add(new(1, Tier::Default, (0..8).collect())).expect("room");
    let step = advance(&mut scheduler);
    assert_eq!((step.started[0].cached_tokens, step.started[0].prompt_tokens), (4, 8));
    assert_eq!(lens(&step), [(1, 4)]);
    scheduler.add(new(2, Tier::Default, (0..9).collect())).expect("room");
    assert_eq!(advance(&mut scheduler).started[0].cached_tokens, 8);
}

#[test]
fn a_stalled_sequence_yields_its_slot() {
    let mut scheduler = Scheduler::new(EngineConfig { max_num_seqs: 1, ..small() });
    scheduler.add(new(0, Tier::Internal, vec![1; 4])).expect("room");
    advance(&mut scheduler);
    scheduler.add(new(1, Tier::Batch, vec![2; 4])).expect("room");
    let step = scheduler.schedule(&|id| id != SeqId(0));
    assert_eq!(lens(&step), [(1, 4)]);
    assert_eq!(scheduler.queue_lengths(), (1, 1));
}

#[test]
fn the_queue_is_bounded() {
    let mut scheduler = Scheduler::new(EngineConfig { max_num_seqs: 2, max_waiting: 1, ..small() });
    let results: Vec<_> = (0..4).map(|id| scheduler.add(new(id, Tier::Default, vec![1])).is_ok()).collect();
    assert_eq!(results, [true, true, true, false]);
}
