//! Fair shares inside a tier: who of those that wait has had least, by cost and weight.
//!
//! Each organisation of a tier, and each project of an organisation, has a counter of the cost of its tokens divided by its
//! weight (a virtual token counter). Whoever has the smallest counter is served next. Tokens found in the prefix cache, and
//! tokens computed again after a preemption, are free.
//!
//! **Wanting** is who had, in the last step, a ready sequence that got nothing. Nobody saves up credit by not asking: at
//! the begin of a step those who do not want are lifted to the least counter of those who do, and while nobody wants, all
//! counters are equal.
//!
//! **Bound.** While two organisations of a tier (or two projects of an organisation) both want without a break, their
//! counters stay within `drift + C` of each other, where `C` is the cost of one full step over the smaller weight:
//! `max_batched_tokens * max(prefill_cost, decode_cost) / weight`. For whoever is more than `drift` ahead of one that waits
//! is served after it, and gives up its place in the batch where it has to, so that only a step that began below `drift`
//! can add to the distance. The services they got over any stretch of time differ by at most twice that, whatever others
//! send. The exception is a sequence that does not fit into the cache even when all of those ahead give way: then nobody
//! of its tier is admitted before it, but what runs goes on, so that no memory lies idle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::config::Sharing;
use crate::request::{Tenant, Tier};
use crate::sequence::{Rank, SeqId, Sequence};

/// Counters hold cost / weight in this fixed point.
const SCALE: u128 = 1 << 20;

/// The counters of an organisation and of one of its projects; smaller goes first.
pub(super) type Place = (u128, u128);

#[derive(Debug, Default)]
struct Node {
    served: u128,
    weight: u32,
    live: usize,
    wanting: bool,
}

#[derive(Debug, Default)]
struct Project {
    node: Node,
    tenant: Arc<Tenant>,
    waiting: BTreeSet<SeqId>,
}

#[derive(Debug, Default)]
struct Org {
    node: Node,
    projects: BTreeMap<String, Project>,
}

/// Those of a tier that compete for a step's prompt tokens.
pub(super) struct Contender {
    tenant: Arc<Tenant>,
    /// In order of service.
    sequences: VecDeque<SeqId>,
}

/// Counters and waiting lists of all tiers.
#[derive(Debug)]
pub(super) struct Shares {
    tiers: [BTreeMap<String, Org>; 6],
    costs: [u128; 2],
    drift: u128,
}

impl Shares {
    pub(super) fn new(sharing: &Sharing) -> Self {
        let costs = [sharing.prefill_cost, sharing.decode_cost].map(|cost| u128::from(cost) * SCALE);
        Self { tiers: Default::default(), costs, drift: u128::from(sharing.drift) * SCALE }
    }

    fn project(&mut self, sequence: &Sequence) -> (&mut Node, &mut Project) {
        let org = self.tiers[sequence.tier.index()].get_mut(&sequence.tenant.org);
        let org = org.expect("a live sequence has entered");
        let project = org.projects.get_mut(&sequence.tenant.project);
        (&mut org.node, project.expect("a live sequence has entered"))
    }

    /// A sequence that has arrived, and waits.
    pub(super) fn enter(&mut self, sequence: &Sequence) {
        let org = self.tiers[sequence.tier.index()].entry(sequence.tenant.org.clone()).or_default();
        let project = org.projects.entry(sequence.tenant.project.clone()).or_default();
        let org = &mut org.node;
        org.live += 1;
        project.node.live += 1;
        // Weights may be changed while the tenant is known.
        org.weight = sequence.tenant.org_weight.max(1);
        project.node.weight = sequence.tenant.project_weight.max(1);
        project.tenant = Arc::clone(&sequence.tenant);
        project.waiting.insert(sequence.id);
    }

    /// The sequence is gone for good; it does not wait.
    pub(super) fn leave(&mut self, sequence: &Sequence) {
        let (org, project) = self.project(sequence);
        org.live -= 1;
        project.node.live -= 1;
        project.waiting.remove(&sequence.id);
    }

    /// The sequence runs.
    pub(super) fn admitted(&mut self, sequence: &Sequence) {
        self.project(sequence).1.waiting.remove(&sequence.id);
    }

    /// The sequence waits again.
    pub(super) fn preempted(&mut self, sequence: &Sequence) {
        self.project(sequence).1.waiting.insert(sequence.id);
    }

    /// Charges the tokens `start..start + len` of a sequence, as far as they were not before.
    pub(super) fn charge(&mut self, sequence: &Sequence, start: usize, len: usize) {
        let cost = self.cost(sequence, start, len);
        let (org, project) = self.project(sequence);
        org.served += cost / u128::from(org.weight);
        project.node.served += cost / u128::from(project.node.weight);
    }

    /// Takes back a charge of this step.
    pub(super) fn refund(&mut self, sequence: &Sequence, start: usize, len: usize) {
        let cost = self.cost(sequence, start, len);
        let (org, project) = self.project(sequence);
        org.served -= cost / u128::from(org.weight);
        project.node.served -= cost / u128::from(project.node.weight);
    }

    fn cost(&self, sequence: &Sequence, start: usize, len: usize) -> u128 {
        let (from, to) = (start.max(sequence.charged), start + len);
        let tokens = to.saturating_sub(from);
        let prompt = sequence.prompt_len.saturating_sub(from).min(tokens);
        self.costs[0] * prompt as u128 + self.costs[1] * (tokens - prompt) as u128
    }

    /// Begins a step: evens out the counters of those that did not want in the last one.
    pub(super) fn begin(&mut self) {
        for orgs in &mut self.tiers {
            for org in orgs.values_mut() {
                lift(org.projects.values_mut().map(|project| &mut project.node).collect());
                org.projects.retain(|_, project| project.node.is_remembered());
            }
            lift(orgs.values_mut().map(|org| &mut org.node).collect());
            orgs.retain(|_, org| org.node.is_remembered());
        }
    }

    /// Ends a step: `unserved` are the running sequences that were ready and got nothing, `ready` says of the waiting
    /// ones whether they were.
    pub(super) fn end<'a>(
        &mut self,
        unserved: impl Iterator<Item = &'a Sequence>,
        ready: impl Fn(SeqId) -> bool,
    ) {
        for org in self.tiers.iter_mut().flat_map(BTreeMap::values_mut) {
            org.node.wanting = false;
            for project in org.projects.values_mut() {
                project.node.wanting = project.waiting.iter().any(|id| ready(*id));
                org.node.wanting |= project.node.wanting;
            }
        }
        for sequence in unserved {
            let (org, project) = self.project(sequence);
            (org.wanting, project.node.wanting) = (true, true);
        }
    }

    /// Whether someone of the tier wanted in the step that has just ended.
    pub(super) fn is_wanting(&self, tier: Tier) -> bool {
        self.tiers[tier.index()].values().any(|org| org.node.wanting)
    }

    /// Counters of the sequence's tenant.
    pub(super) fn place(&self, sequence: &Sequence) -> Place {
        self.place_of(sequence.tier, &sequence.tenant)
    }

    pub(super) fn place_of(&self, tier: Tier, tenant: &Tenant) -> Place {
        let org = self.tiers[tier.index()].get(&tenant.org);
        let project = org.and_then(|org| org.projects.get(&tenant.project));
        (org.map_or(0, |org| org.node.served), project.map_or(0, |project| project.node.served))
    }

    /// Whether `sequence` is of a tenant that has had so much more than `other` that it must give way.
    pub(super) fn is_ahead(&self, sequence: &Sequence, other: &Tenant) -> bool {
        let (org, project) = self.place(sequence);
        let (other_org, other_project) = self.place_of(sequence.tier, other);
        if sequence.tenant.org == other.org {
            project > other_project + self.drift
        } else {
            org > other_org + self.drift
        }
    }

    /// Tenants of a tier in which somebody waits, each with its ready waiting sequences in order, `most` at most.
    pub(super) fn waiting(
        &self,
        tier: Tier,
        most: usize,
        ready: impl Fn(SeqId) -> bool,
    ) -> Vec<(Arc<Tenant>, Vec<SeqId>)> {
        let projects = self.tiers[tier.index()].values().flat_map(|org| org.projects.values());
        let queued = projects.map(|project| {
            let ids = project.waiting.iter().copied().filter(|id| ready(*id)).take(most).collect();
            (Arc::clone(&project.tenant), ids)
        });
        queued.filter(|(_, ids): &(_, Vec<_>)| !ids.is_empty()).collect()
    }

    /// Takes the next sequence of the contender that has had least.
    pub(super) fn next(&self, tier: Tier, contenders: &mut Vec<Contender>) -> Option<Rank> {
        contenders.retain(|contender| !contender.sequences.is_empty());
        let key = |contender: &Contender| {
            (self.place_of(tier, &contender.tenant), contender.sequences.front().copied())
        };
        let (at, _) = contenders.iter().enumerate().min_by_key(|(_, contender)| key(contender))?;
        contenders[at].sequences.pop_front().map(|id| (tier, id))
    }

    /// Proves that the lists hold exactly the sequences that wait.
    pub(super) fn check(&self, waiting: impl Iterator<Item = Rank>, live: usize) -> Result<(), String> {
        let mut listed: BTreeSet<Rank> = BTreeSet::new();
        let mut counted = 0;
        for (tier, orgs) in Tier::ALL.into_iter().zip(&self.tiers) {
            for org in orgs.values() {
                counted += org.node.live;
                let ids = org.projects.values().flat_map(|project| &project.waiting);
                listed.extend(ids.map(|id| (tier, *id)));
                let of_projects: usize = org.projects.values().map(|project| project.node.live).sum();
                if of_projects != org.node.live {
                    return Err(format!(
                        "{of_projects} sequences of projects, {} of their organisation",
                        org.node.live
                    ));
                }
            }
        }
        let waiting: BTreeSet<Rank> = waiting.collect();
        if listed != waiting || counted != live {
            return Err(format!("{counted} of {live} sequences known, {listed:?} listed, {waiting:?} wait"));
        }
        Ok(())
    }
}

impl Node {
    /// A tenant without sequences is forgotten once its counter says nothing any more.
    fn is_remembered(&self) -> bool {
        self.live > 0 || self.served > 0
    }
}

fn lift(mut nodes: Vec<&mut Node>) {
    let least = nodes.iter().filter(|node| node.wanting).map(|node| node.served).min();
    for node in &mut nodes {
        node.served = match least {
            None => 0,
            // Counters are kept small: the least of those who want is where everybody begins.
            Some(least) => node.served.saturating_sub(least),
        };
    }
}

/// Groups by tenant: what is begun comes before what waits.
pub(super) fn contenders(begun: Vec<&Sequence>, waiting: Vec<(Arc<Tenant>, Vec<SeqId>)>) -> Vec<Contender> {
    let mut contenders: Vec<Contender> =
        waiting.into_iter().map(|(tenant, ids)| Contender { tenant, sequences: ids.into() }).collect();
    for seq in begun.into_iter().rev() {
        let same = |contender: &&mut Contender| {
            (&contender.tenant.org, &contender.tenant.project) == (&seq.tenant.org, &seq.tenant.project)
        };
        match contenders.iter_mut().find(same) {
            Some(contender) => contender.sequences.push_front(seq.id),
            None => {
                contenders.push(Contender { tenant: Arc::clone(&seq.tenant), sequences: [seq.id].into() })
            }
        }
    }
    contenders
}
