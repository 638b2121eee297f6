//! The engine's thread: take orders, schedule, run, sample, deliver.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;

use crate::event::{FinishReason, Stats};
use crate::link::{Interest, Outlet, Update};
use crate::mailbox::{Job, Mailbox};
use crate::request::Tier;
use crate::runner::Runner;
use crate::sampler::{Choice, SampleError, Sampler};
use crate::scheduler::{Scheduler, Step};
use crate::sequence::{Ending, SeqId};

/// What the worker keeps of a sequence beside the scheduler's part.
struct Live {
    sampler: Sampler,
    outlet: Outlet,
    /// Only its prompt is scored: nothing is generated.
    is_silent: bool,
}

/// Owns model, cache and scheduler.
pub(crate) struct Worker {
    mailbox: Arc<Mailbox>,
    scheduler: Scheduler,
    runner: Runner,
    live: HashMap<SeqId, Live>,
    stats: Stats,
    /// Sequences that ended since the last report; their readers hear of it after the report, so that who saw an end
    /// also finds the place free.
    ended: Vec<(Outlet, FinishReason)>,
    broken: bool,
}

/// Says so when the thread ends, however it ends.
struct Farewell(Arc<Mailbox>);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.set_stopped();
    }
}

impl Worker {
    pub(crate) fn new(mailbox: Arc<Mailbox>, scheduler: Scheduler, runner: Runner) -> Self {
        let stats = mailbox.stats();
        Self { mailbox, scheduler, runner, live: HashMap::new(), stats, ended: Vec::new(), broken: false }
    }

    /// Serves until told to end.
    pub(crate) fn run(mut self) {
        let _farewell = Farewell(Arc::clone(&self.mailbox));
        let mut idle = true;
        loop {
            let orders = self.mailbox.take(idle);
            self.accept(orders.jobs);
            self.let_go();
            if orders.aborting {
                self.end_all(&FinishReason::Cancelled);
            }
            if orders.draining && self.live.is_empty() {
                self.report();
                return;
            }
            idle = !self.guarded_step();
            self.report();
        }
    }

    fn accept(&mut self, jobs: Vec<Job>) {
        for Job { sequence, sampler, outlet } in jobs {
            let id = sequence.id;
            let is_silent = sequence.max_len == sequence.prompt.len();
            self.live.insert(id, Live { sampler, outlet, is_silent });
            if self.broken {
                self.end(id, FinishReason::Error("engine is unhealthy".to_owned()));
            } else if let Err(full) = self.scheduler.add(sequence) {
                self.end(id, FinishReason::Error(full.to_string()));
            }
        }
    }

    /// Drops the sequences whose readers want no more.
    fn let_go(&mut self) {
        let interests = self.live.iter().map(|(id, live)| (*id, live.outlet.interest()));
        let gone: Vec<_> = interests.filter(|(_, interest)| *interest != Interest::Wanted).collect();
        for (id, interest) in gone {
            self.scheduler.cancel(id);
            self.end(id, FinishReason::Cancelled);
            self.stats.cancelled += u64::from(interest == Interest::Dropped);
        }
    }

    fn end(&mut self, id: SeqId, reason: FinishReason) {
        if let Some(live) = self.live.remove(&id) {
            self.ended.push((live.outlet, reason));
        }
    }

    fn end_all(&mut self, reason: &FinishReason) {
        let ids: Vec<SeqId> = self.live.keys().copied().collect();
        for id in ids {
            self.scheduler.cancel(id);
            self.end(id, reason.clone());
        }
    }

    /// Runs a step; a panic in it ends every sequence and the engine's usefulness. False when there was nothing to do.
    fn guarded_step(&mut self) -> bool {
        if self.broken {
            return false;
        }
        let Ok(worked) = catch_unwind(AssertUnwindSafe(|| self.step())) else {
            tracing::error!("engine step panicked");
            self.broken = true;
            self.mailbox.set_broken();
            self.end_all(&FinishReason::Error("engine failed".to_owned()));
            return false;
        };
        worked
    }

    fn step(&mut self) -> bool {
        // Asked once, so that the scheduler sees one answer throughout.
        let ready: HashSet<SeqId> =
            self.live.iter().filter(|(_, live)| live.outlet.is_ready()).map(|(id, _)| *id).collect();
        let step = self.scheduler.schedule(&|id| ready.contains(&id));
        if step.chunks.is_empty() {
            return false;
        }
        let began = Instant::now();
        self.announce(&step);
        match self.compute(&step) {
            Ok(mut logits) => {
                let failed = self.score(&step, &mut logits);
                let choices = self.choose(&step, &mut logits);
                for (id, error) in &failed {
                    self.end(*id, FinishReason::Error(error.to_string()));
                }
                self.deliver(&step, choices);
                for (id, _) in failed {
                    self.scheduler.cancel(id);
                }
            }
            Err(error) => self.fail(&step, &error.to_string()),
        }
        for chunk in &step.chunks {
            self.stats.tiers[chunk.rank.0.index()].computed_tokens += chunk.len as u64;
        }
        self.stats.steps += 1;
        self.stats.last_step_us = began.elapsed().as_micros() as u64;
        true
    }

    fn announce(&mut self, step: &Step) {
        for started in &step.started {
            self.stats.prompt_tokens += started.prompt_tokens as u64;
            self.stats.cached_tokens += started.cached_tokens as u64;
            if let Some(live) = self.live.get(&started.id) {
                live.outlet.send(Update::Started { cached_tokens: started.cached_tokens as u32 });
            }
        }
    }

    /// Runs the model; meanwhile grammars that are likely to be asked work out which tokens may come next.
    fn compute(&mut self, step: &Step) -> candle_core::Result<Vec<f32>> {
        let Self { live, runner, scheduler, .. } = self;
        let sampling = step.chunks.iter().filter(|chunk| chunk.samples).map(|chunk| chunk.rank.1);
        let sampling: HashSet<SeqId> = sampling.collect();
        let sampling = live.iter_mut().filter(|(id, _)| sampling.contains(id));
        let preparing =
            sampling.map(|(_, live)| &mut live.sampler).filter(|sampler| sampler.should_prepare());
        rayon::in_place_scope(|scope| {
            preparing.for_each(|sampler| scope.spawn(|_| sampler.prepare()));
            runner.run(scheduler, step)
        })
    }

    /// Takes out of `logits` the rows that score prompts, and tells what they say; returns the sequences where they say
    /// nothing.
    fn score(&self, step: &Step, logits: &mut Vec<f32>) -> Vec<(SeqId, SampleError)> {
        let vocab = self.runner.vocab();
        let sampling = step.chunks.iter().filter(|chunk| chunk.samples).count();
        if logits.len() == sampling * vocab {
            return Vec::new();
        }
        let mut rows = logits.chunks(vocab);
        let (mut rest, mut failed) = (Vec::with_capacity(sampling * vocab), Vec::new());
        for chunk in &step.chunks {
            let id = chunk.rank.1;
            let (Some(seq), Some(live)) = (self.scheduler.running(chunk.rank), self.live.get(&id)) else {
                continue;
            };
            let scored = seq.to_score(chunk.start, chunk.len);
            let tokens = &seq.tokens()[scored.start + 1..scored.end + 1];
            let scored: Vec<_> = rows.by_ref().take(tokens.len()).zip(tokens).collect();
            let scores = scored.par_iter().map(|(row, token)| live.sampler.score(row, **token));
            match scores.collect::<Result<Vec<_>, _>>() {
                Ok(scores) if scores.is_empty() => {}
                Ok(scores) => live.outlet.send(Update::Prompt(scores)),
                Err(error) => failed.push((id, error)),
            }
            if chunk.samples {
                rest.extend(rows.next().into_iter().flatten());
            }
        }
        *logits = rest;
        failed
    }

    /// The next token of each sampling chunk, in order.
    fn choose(&mut self, step: &Step, logits: &mut [f32]) -> Vec<Result<Choice, SampleError>> {
        let sampling = step.chunks.iter().filter(|chunk| chunk.samples).map(|chunk| chunk.rank.1);
        let place: HashMap<SeqId, usize> = sampling.zip(0..).collect();
        let mut samplers: Vec<_> = self
            .live
            .iter_mut()
            .filter_map(|(id, live)| Some((*place.get(id)?, &mut live.sampler)))
            .collect();
        assert_eq!(samplers.len(), place.len(), "every sequence of a step is live");
        samplers.sort_unstable_by_key(|(place, _)| *place);
        let rows = samplers.into_iter().zip(logits.chunks_mut(self.runner.vocab()));
        let mut rows: Vec<_> =
            rows.map(|((_, sampler), row)| (sampler, row, Err(SampleError::Nothing))).collect();
        kernels::for_each_mut(&mut rows, |(sampler, row, choice)| *choice = sampler.sample(row));
        rows.into_iter().map(|(_, _, choice)| choice).collect()
    }

    fn deliver(&mut self, step: &Step, choices: Vec<Result<Choice, SampleError>>) {
        let tokens: Vec<_> =
            choices.iter().map(|choice| choice.as_ref().ok().map(|choice| choice.token)).collect();
        let outcomes = self.scheduler.commit(step, &tokens);
        for chunk in step.chunks.iter().filter(|chunk| chunk.samples) {
            self.stats.tiers[chunk.rank.0.index()].generated_tokens += 1;
        }
        for (outcome, choice) in outcomes.into_iter().zip(choices) {
            if self.live.get(&outcome.id).is_some_and(|live| live.is_silent) {
                let reason = choice
                    .map_or_else(|error| FinishReason::Error(error.to_string()), |_| FinishReason::Length);
                self.end(outcome.id, reason);
                continue;
            }
            let (mut failure, mut complete) = (String::new(), false);
            match (choice, self.live.get_mut(&outcome.id)) {
                (Ok(Choice { token, logprob }), Some(live)) => {
                    live.sampler.observe(token);
                    complete = live.sampler.is_complete();
                    live.outlet.send(Update::Token {
                        token,
                        logprob,
                        ends: outcome.ending == Some(Ending::Stop),
                    });
                    self.stats.generated_tokens += 1;
                }
                (Err(error), _) => failure = error.to_string(),
                (Ok(_), None) => {}
            }
            match outcome.ending {
                None if complete => {
                    self.scheduler.cancel(outcome.id);
                    self.end(outcome.id, FinishReason::Stop);
                }
                None => {}
                Some(Ending::Length) if complete => self.end(outcome.id, FinishReason::Stop),
                Some(Ending::Stop) => self.end(outcome.id, FinishReason::Stop),
                Some(Ending::Length) => self.end(outcome.id, FinishReason::Length),
                Some(Ending::Failed) => self.end(outcome.id, FinishReason::Error(failure)),
            }
        }
    }

    /// Ends the sequences of a step that the model could not compute; the others go on.
    fn fail(&mut self, step: &Step, error: &str) {
        tracing::error!(error, sequences = step.chunks.len(), "engine step failed");
        for chunk in &step.chunks {
            self.scheduler.cancel(chunk.rank.1);
            self.end(chunk.rank.1, FinishReason::Error(error.to_owned()));
        }
    }

    fn report(&mut self) {
        let (running, waiting) = self.scheduler.queue_lengths();
        let blocks = self.scheduler.block_counts();
        for tier in Tier::ALL {
            let stats = &mut self.stats.tiers[tier.index()];
            (stats.running, stats.waiting) = self.scheduler.tier_lengths(tier);
        }
        self.stats.running = running;
        self.stats.waiting = waiting;
        self.stats.free_blocks = blocks.free;
        self.stats.total_blocks = blocks.total;
        self.stats.cached_blocks = blocks.cached;
        self.stats.preemptions = self.scheduler.preemptions();
        self.mailbox.report(self.stats, self.ended.len());
        for (outlet, reason) in self.ended.drain(..) {
            outlet.end(reason);
        }
    }
}
