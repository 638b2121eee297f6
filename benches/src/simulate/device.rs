//! A device: the real scheduler, and how long its steps take.

use std::collections::HashMap;
use std::error::Error;

use engine::scheduler::{Scheduler, Step};
use engine::sequence::{NewSequence, SeqId};
use engine::{EngineConfig, Tenant};
use serde_json::Value;

use crate::report::Report;
use crate::trace::Arrival;

/// A step takes `step_us`, and for each token in it what a prompt's or a generated one costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) step_us: f64,
    pub(crate) prompt_us: f64,
    pub(crate) output_us: f64,
}

impl Cost {
    /// From the `capacity.json` of `spillway calibrate`: the times between tokens lie on a line over the number of
    /// sequences (least squares), and a prompt's token costs what it does at the best speed.
    pub(crate) fn measured(text: &str) -> Result<Self, Box<dyn Error>> {
        let capacity: Value = serde_json::from_str(text)?;
        let points = capacity["models"][0]["points"].as_array().ok_or("no points were measured")?;
        let number = |point: &Value, name: &str| point[name].as_f64().ok_or(format!("a point has no {name}"));
        let (mut xs, mut ys, mut fastest) = (Vec::new(), Vec::new(), 1.0_f64);
        for point in points {
            xs.push(number(point, "sequences")?);
            ys.push(number(point, "inter_token_p50_ms")? * 1e3);
            fastest = fastest.max(number(point, "input_tokens_per_second")?);
        }
        let count = xs.len() as f64;
        let (mean_x, mean_y) = (xs.iter().sum::<f64>() / count, ys.iter().sum::<f64>() / count);
        let spread: f64 = xs.iter().map(|x| (x - mean_x).powi(2)).sum();
        let joint: f64 = xs.iter().zip(&ys).map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
        let output_us = if spread > 0.0 { (joint / spread).max(0.0) } else { 0.0 };
        Ok(Self { step_us: (mean_y - output_us * mean_x).max(0.0), prompt_us: 1e6 / fastest, output_us })
    }
}

/// What is known of a sequence on its way.
struct Known {
    arrival: Arrival,
    /// When its last token came.
    last_us: Option<u64>,
    /// Tokens still to compute.
    left: u64,
}

/// One device.
pub(crate) struct Device {
    scheduler: Scheduler,
    cost: Cost,
    known: HashMap<SeqId, Known>,
    running: Option<Step>,
    to_come: u64,
    preemptions: u64,
}

impl Device {
    pub(crate) fn new(config: EngineConfig, cost: Cost) -> Self {
        let (scheduler, known) = (Scheduler::new(config), HashMap::new());
        Self { scheduler, cost, known, running: None, to_come: 0, preemptions: 0 }
    }

    /// Tokens of its requests that are still to be computed.
    pub(crate) fn to_come(&self) -> u64 {
        self.to_come
    }

    /// Takes a request; false where its queue is full.
    pub(crate) fn add(&mut self, number: u64, arrival: &Arrival) -> bool {
        let id = SeqId(number);
        let new = NewSequence {
            id,
            tier: arrival.tier,
            tenant: Tenant { org: arrival.org.clone(), project: arrival.org.clone(), ..Tenant::default() },
            // No two prompts have a beginning in common.
            prompt: (0..arrival.prompt_tokens)
                .map(|i| (number as u32).wrapping_mul(2_654_435_761) ^ i)
                .collect(),
            salt: String::new(),
            max_len: (arrival.prompt_tokens + arrival.output_tokens) as usize,
            ending: Vec::new(),
            scores: false,
        };
        if self.scheduler.add(new).is_err() {
            return false;
        }
        let left = u64::from(arrival.prompt_tokens + arrival.output_tokens);
        self.to_come += left;
        self.known.insert(id, Known { arrival: arrival.clone(), last_us: None, left });
        true
    }

    /// Starts a step where none runs and there is work; returns when it ends.
    pub(crate) fn begin(&mut self, now_us: u64, report: &mut Report) -> Option<u64> {
        if self.running.is_some() {
            return None;
        }
        let step = self.scheduler.schedule(&|_| true);
        let preempted = std::mem::replace(&mut self.preemptions, self.scheduler.preemptions());
        report.preempted(self.preemptions - preempted);
        if step.chunks.is_empty() {
            return None;
        }
        let decodes = step.chunks.iter().filter(|chunk| chunk.len == 1 && chunk.samples).count();
        let prompts = step.tokens() - decodes;
        let Cost { step_us, prompt_us, output_us } = self.cost;
        let took_us = (step_us + prompts as f64 * prompt_us + decodes as f64 * output_us).max(1.0) as u64;
        report.step(now_us, took_us, step.chunks.iter().map(|chunk| (chunk.rank.0, chunk.len as u64)));
        self.running = Some(step);
        Some(now_us + took_us)
    }

    /// Ends the running step: its tokens are there.
    pub(crate) fn end(&mut self, now_us: u64, report: &mut Report) {
        let Some(step) = self.running.take() else { return };
        let sampled = step.chunks.iter().filter(|chunk| chunk.samples).count();
        for chunk in &step.chunks {
            if let Some(known) = self.known.get_mut(&chunk.rank.1) {
                // What is computed again after a preemption was counted before.
                let done = known.left.min(chunk.len as u64);
                known.left -= done;
                self.to_come -= done;
            }
        }
        for outcome in self.scheduler.commit(&step, &vec![Some(0); sampled]) {
            let Some(known) = self.known.get_mut(&outcome.id) else { continue };
            report.token(&known.arrival, known.last_us, now_us);
            known.last_us = Some(now_us);
            if outcome.ending.is_some()
                && let Some(known) = self.known.remove(&outcome.id)
            {
                self.to_come -= known.left;
                report.finished(&known.arrival);
            }
        }
    }
}
