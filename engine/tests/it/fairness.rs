//! Shares inside a tier and bounds between tiers, measured from outside in scheduler steps and token costs.

use std::collections::BTreeMap;

use engine::scheduler::{Scheduler, Step};
use engine::sequence::{NewSequence, SeqId};
use engine::{EngineConfig, Sharing, Tenant, Tier, TierRule};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const NEVER: TierRule = TierRule { yield_tokens: 1 << 20, starvation_steps: 0 };

fn tenant(org: usize, project: usize, weights: (u32, u32)) -> Tenant {
    Tenant {
        org: format!("org_{org}"),
        project: format!("proj_{org}_{project}"),
        org_weight: weights.0,
        project_weight: weights.1,
    }
}

/// What the test knows of a sequence.
#[derive(Debug)]
struct Known {
    tier: Tier,
    tenant: usize,
    prompt: usize,
    /// Tokens computed at least once.
    reached: usize,
    /// Steps from its arrival to its first token.
    waited: Option<usize>,
    arrived: usize,
}

/// A scheduler with its own account of what everybody got.
struct Market {
    config: EngineConfig,
    scheduler: Scheduler,
    tenants: Vec<Tenant>,
    known: BTreeMap<SeqId, Known>,
    done: Vec<Known>,
    /// Cost of the tokens of each tenant, computed again ones not counted.
    cost: Vec<u64>,
    steps: usize,
    next_id: u64,
}

impl Market {
    fn new(config: EngineConfig, tenants: Vec<Tenant>) -> Self {
        assert_eq!(config.validate(), Ok(()));
        let (scheduler, cost) = (Scheduler::new(config.clone()), vec![0; tenants.len()]);
        let (known, done) = Default::default();
        Self { config, scheduler, tenants, known, done, cost, steps: 0, next_id: 0 }
    }

    fn add(&mut self, tier: Tier, tenant: usize, prompt: usize, max_tokens: usize) -> SeqId {
        let id = SeqId(self.next_id);
        self.next_id += 1;
        let new = NewSequence {
            id,
            tier,
            tenant: self.tenants[tenant].clone(),
            // No two prompts share a block.
            prompt: (0..prompt as u32).map(|i| i + id.0 as u32 * 1000).collect(),
            salt: String::new(),
            max_len: prompt + max_tokens,
            ending: Vec::new(),
            scores: false,
        };
        self.scheduler.add(new).expect("the queue has room");
        let arrived = self.steps;
        self.known.insert(id, Known { tier, tenant, prompt, reached: 0, waited: None, arrived });
        id
    }

    /// Runs a step; returns it and which tenants wanted more than they got.
    fn step(&mut self) -> (Step, Vec<bool>) {
        let step = self.scheduler.schedule(&|_| true);
        let mut wanting = vec![false; self.tenants.len()];
        for (id, known) in &self.known {
            wanting[known.tenant] |= step.chunks.iter().all(|chunk| chunk.rank.1 != *id);
        }
        self.steps += 1;
        for chunk in &step.chunks {
            let known = self.known.get_mut(&chunk.rank.1).expect("chunks are of live sequences");
            let (from, to) = (chunk.start.max(known.reached), chunk.start + chunk.len);
            let prompt = known.prompt.saturating_sub(from).min(to.saturating_sub(from));
            let decode = to.saturating_sub(from) - prompt;
            let Sharing { prefill_cost, decode_cost, .. } = self.config.sharing;
            self.cost[known.tenant] += prompt as u64 * u64::from(prefill_cost);
            self.cost[known.tenant] += decode as u64 * u64::from(decode_cost);
            known.reached = known.reached.max(to);
            if chunk.samples {
                known.waited.get_or_insert(self.steps - known.arrived);
            }
        }
        let sampled = step.chunks.iter().filter(|chunk| chunk.samples).count();
        for outcome in self.scheduler.commit(&step, &vec![Some(1); sampled]) {
            if outcome.ending.is_some() {
                self.done.extend(self.known.remove(&outcome.id));
            }
        }
        self.scheduler.check_integrity().expect("the books are in order");
        (step, wanting)
    }

    fn waiting_of(&self, tenant: usize) -> usize {
        self.known.values().filter(|known| known.tenant == tenant && known.reached == 0).count()
    }

    fn waited(&self, id: SeqId) -> Option<usize> {
        self.known.get(&id)?.waited
    }

    /// The published bound on the distance of two counters, in cost per unit of the smaller weight.
    fn bound(&self, weight: u32) -> f64 {
        let Sharing { prefill_cost, decode_cost, drift, .. } = self.config.sharing;
        let step = self.config.max_batched_tokens as f64 * f64::from(prefill_cost.max(decode_cost));
        f64::from(drift) + step / f64::from(weight)
    }
}

/// The widest range of `service[a] - service[b]` over any stretch of steps in which both wanted.
struct Distance {
    at_begin: Option<(f64, f64)>,
    widest: f64,
}

impl Distance {
    fn note(&mut self, both_want: bool, difference: f64) {
        if !both_want {
            self.at_begin = None;
            return;
        }
        let (least, most) = self.at_begin.unwrap_or((difference, difference));
        let range = (least.min(difference), most.max(difference));
        self.at_begin = Some(range);
        self.widest = self.widest.max(range.1 - range.0);
    }
}

#[derive(Clone, Debug)]
struct Shape {
    weights: (u32, u32),
    /// Sequences it keeps waiting; 0: it only sends now and then.
    backlog: usize,
    prompt: usize,
    max_tokens: usize,
}

fn shapes() -> impl Strategy<Value = Vec<Shape>> {
    let backlog = prop_oneof![Just(0), 1..12_usize];
    let shape = ((1..5_u32, 1..5_u32), backlog, 1..60_usize, 1..60_usize);
    let shape = shape.prop_map(|(weights, backlog, prompt, max_tokens)| Shape {
        weights,
        backlog,
        prompt,
        max_tokens,
    });
    prop::collection::vec(shape, 2..7)
}

fn configs() -> impl Strategy<Value = EngineConfig> {
    (1..9_usize, 1..64_usize, 1..33_usize, 1..4_u32, 1..6_u32, 1..200_u32).prop_map(
        |(seqs, spare, chunk, prefill_cost, decode_cost, drift)| EngineConfig {
            max_num_seqs: seqs,
            max_batched_tokens: seqs + spare,
            prefill_chunk: chunk.min(seqs + spare),
            block_size: 8,
            // Room for the longest sequences in all slots, and for one more.
            num_blocks: (seqs + 1) * 17,
            max_waiting: 1000,
            prefix_cache: false,
            sharing: Sharing { prefill_cost, decode_cost, drift, tiers: [NEVER; 6] },
            ..EngineConfig::default()
        },
    )
}

/// Runs tenants of these shapes, each an organisation (or all of them projects of one), and checks the bound.
fn share(config: &EngineConfig, shapes: &[Shape], one_org: bool) -> Result<Vec<Step>, TestCaseError> {
    let number = |i: usize, shape: &Shape| {
        let weights = if one_org { (1, shape.weights.1) } else { shape.weights };
        if one_org { tenant(0, i, weights) } else { tenant(i, 0, weights) }
    };
    let tenants: Vec<Tenant> = shapes.iter().enumerate().map(|(i, shape)| number(i, shape)).collect();
    let weight = |tenant: &Tenant| if one_org { tenant.project_weight } else { tenant.org_weight };
    let weights: Vec<u32> = tenants.iter().map(weight).collect();
    let mut market = Market::new(config.clone(), tenants);
    let mut distances = BTreeMap::new();
    let mut trace = Vec::new();
    for round in 0..300 {
        for (i, shape) in shapes.iter().enumerate() {
            let arrivals = if shape.backlog == 0 { usize::from(round % (7 + i) == 0) } else { shape.backlog };
            let missing =
                if shape.backlog == 0 { arrivals } else { arrivals.saturating_sub(market.waiting_of(i)) };
            for _ in 0..missing {
                market.add(Tier::Default, i, shape.prompt, shape.max_tokens);
            }
        }
        let before: u64 = market.cost.iter().sum();
        let (step, wanting) = market.step();
        prop_assert!(!step.chunks.is_empty() && step.tokens() <= config.max_batched_tokens);
        let most = u64::from(config.sharing.prefill_cost.max(config.sharing.decode_cost));
        prop_assert!(market.cost.iter().sum::<u64>() - before <= step.tokens() as u64 * most);
        for a in 0..shapes.len() {
            for b in a + 1..shapes.len() {
                let service = |i: usize| market.cost[i] as f64 / f64::from(weights[i]);
                let distance = distances.entry((a, b)).or_insert(Distance { at_begin: None, widest: 0.0 });
                distance.note(wanting[a] && wanting[b], service(a) - service(b));
                let bound = 2.0 * market.bound(weights[a].min(weights[b]));
                prop_assert!(distance.widest <= bound, "{a} and {b}: {} over {bound}", distance.widest);
            }
        }
        trace.push(step);
    }
    Ok(trace)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, rng_seed: RngSeed::Fixed(3), ..ProptestConfig::default() })]

    #[test]
    fn organisations_stay_within_the_bound(config in configs(), shapes in shapes()) {
        let first = share(&config, &shapes, false)?;
        prop_assert_eq!(first, share(&config, &shapes, false)?, "same inputs, same steps");
    }

    #[test]
    fn projects_of_one_organisation_stay_within_the_bound(config in configs(), shapes in shapes()) {
        share(&config, &shapes, true)?;
    }
}

fn market(slots: usize, drift: u32, tenants: Vec<Tenant>) -> Market {
    let config = EngineConfig {
        max_num_seqs: slots,
        max_batched_tokens: 128,
        prefill_chunk: 32,
        block_size: 8,
        num_blocks: 4096,
        max_waiting: 4000,
        sharing: Sharing { prefill_cost: 1, decode_cost: 2, drift, tiers: [NEVER; 6] },
        ..EngineConfig::default()
    };
    Market::new(config, tenants)
}

#[test]
fn weights_divide_the_work() {
    let mut market = market(8, 100, vec![tenant(0, 0, (3, 1)), tenant(1, 0, (1, 1))]);
    for _ in 0..800 {
        for i in 0..2 {
            market.add(Tier::Default, i, 16, 40);
        }
        market.step();
    }
    let (a, b) = (market.cost[0] as f64, market.cost[1] as f64);
    assert!((a / b - 3.0).abs() < 0.2, "three to one, not {a} to {b}");
}

#[test]
fn a_flood_of_one_delays_another_by_no_more_than_the_drift() {
    for (slots, drift) in [(1, 64), (4, 64), (16, 256), (32, 4096)] {
        let mut market = market(slots, drift, vec![tenant(0, 0, (1, 1)), tenant(1, 0, (1, 1))]);
        for _ in 0..500 {
            market.add(Tier::Default, 0, 20, 100_000);
        }
        (0..50).for_each(|_| drop(market.step()));
        let asked = market.add(Tier::Default, 1, 20, 10);
        // Each slot of the flood gets a token a step, at cost 2, until it is ahead by the drift.
        let bound = drift as usize / (2 * slots) + 3;
        let waited = (0..=bound).find_map(|_| {
            market.step();
            market.waited(asked)
        });
        assert!(waited.is_some(), "{slots} slots, drift {drift}: no token after {bound} steps");
    }
}

#[test]
fn a_higher_tier_does_not_feel_a_flood_below() {
    let rule = |yield_tokens| TierRule { yield_tokens, starvation_steps: 0 };
    let run = |flood: usize| {
        let mut market = market(8, 100, vec![tenant(0, 0, (1, 1)), tenant(1, 0, (1, 1))]);
        market.config.sharing.tiers = [rule(4); 6];
        market.scheduler = Scheduler::new(market.config.clone());
        for i in 0..flood {
            market.add([Tier::Flex, Tier::Batch][i % 2], 0, 50, 200);
        }
        (0..30).for_each(|_| drop(market.step()));
        let asked = market.add(Tier::Internal, 1, 300, 20);
        let mut largest = 0;
        while market.known.contains_key(&asked) {
            let step = market.step().0;
            let others = step.chunks.iter().filter(|chunk| chunk.rank.1 != asked);
            largest = largest.max(others.map(|chunk| chunk.len).sum());
            assert!(step.chunks.iter().any(|chunk| chunk.rank.1 == asked), "it is in every step");
        }
        let asked = market.done.pop().expect("it has just ended");
        (asked.waited, market.steps - asked.arrived, largest)
    };
    let (waited, took, _) = run(0);
    let (waited_in_flood, took_in_flood, beside) = run(80);
    assert_eq!((waited, took), (waited_in_flood, took_in_flood));
    assert_eq!(beside, 4, "the flood uses what it may, and no more");
}

#[test]
fn a_starving_tier_gets_a_token_within_its_bound() {
    let mut market = market(2, 100, vec![tenant(0, 0, (1, 1))]);
    market.config.sharing.tiers[Tier::Batch.index()].starvation_steps = 10;
    market.config.prefix_cache = false;
    market.scheduler = Scheduler::new(market.config.clone());
    let starving = market.add(Tier::Batch, 0, 100, 5);
    let mut tokens = Vec::new();
    while market.known.contains_key(&starving) {
        while market.known.values().filter(|known| known.tier == Tier::Internal).count() < 6 {
            market.add(Tier::Internal, 0, 10, 30);
        }
        let (step, _) = market.step();
        if step.chunks.iter().any(|chunk| chunk.rank.1 == starving && chunk.samples) {
            tokens.push(market.steps);
        }
        assert!(market.steps < 200, "{tokens:?}");
    }
    assert_eq!(tokens.len(), 5);
    // Ten steps without, then its prompt in chunks of 32, each time again as nothing is cached.
    let gaps: Vec<usize> = tokens.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(tokens[0] <= 10 + 4 + 1 && gaps.iter().all(|gap| *gap <= 10 + 4 + 1), "{tokens:?}");
}

#[test]
fn a_preempted_sequence_goes_on_where_it_was_and_is_charged_once() {
    let mut market = market(1, 100, vec![tenant(0, 0, (1, 1)), tenant(1, 0, (1, 1))]);
    let low = market.add(Tier::Batch, 0, 24, 10);
    (0..3).for_each(|_| drop(market.step()));
    market.add(Tier::Internal, 1, 8, 4);
    let mut resumed = None;
    while market.known.contains_key(&low) {
        let step = market.step().0;
        let chunk = step.chunks.iter().find(|chunk| chunk.rank.1 == low).copied();
        if chunk.is_some_and(|chunk| chunk.len > 1) {
            resumed = chunk;
        }
    }
    assert_eq!(market.scheduler.preemptions(), 1);
    assert_eq!(resumed.map(|chunk| chunk.start), Some(24), "its whole blocks were still cached");
    // 24 prompt tokens at 1, nine generated tokens computed at 2: the last one is never computed.
    assert_eq!(market.cost[0], 24 + 9 * 2);
}
