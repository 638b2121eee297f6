//! What waits for the embedder's thread, and the thread itself.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use models::{Encoder, EncoderInput, Sequences};
use tokio::sync::oneshot;

use super::{EmbedError, EmbedderConfig, EmbedderStats};
use crate::error::SubmitError;

type Outcome = Result<Vec<Vec<f32>>, EmbedError>;
type Reply = oneshot::Sender<Outcome>;
/// A request that gets its answer.
type Ended = (Reply, Outcome);

/// One request.
pub(super) struct Job {
    /// Inputs that no step has taken yet, in their order.
    waiting: VecDeque<EncoderInput>,
    vectors: Vec<Vec<f32>>,
    reply: Reply,
}

impl Job {
    pub(super) fn new(inputs: Vec<EncoderInput>, reply: Reply) -> Self {
        Self { vectors: Vec::with_capacity(inputs.len()), waiting: inputs.into(), reply }
    }

    fn waiting_tokens(&self) -> usize {
        self.waiting.iter().map(|input| input.tokens.len()).sum()
    }
}

/// What callers and the thread share.
pub(super) struct Queue {
    config: EmbedderConfig,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    inbox: Vec<Job>,
    stats: EmbedderStats,
    draining: bool,
    aborted: bool,
    stopped: bool,
    broken: bool,
}

impl Queue {
    pub(super) fn new(config: EmbedderConfig) -> Self {
        Self { config, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is a few assignments that cannot panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn post(&self, job: Job) -> Result<(), SubmitError> {
        let mut state = self.lock();
        if state.broken {
            return Err(SubmitError::Unhealthy);
        }
        if state.draining || state.aborted {
            return Err(SubmitError::Draining);
        }
        let tokens = job.waiting_tokens();
        // A request larger than the bound still runs when nothing else waits.
        let waiting = state.stats.waiting_tokens;
        if waiting > 0 && waiting + tokens > self.config.max_waiting_tokens {
            return Err(SubmitError::Full {
                waiting: state.stats.waiting,
                limit: self.config.max_waiting_tokens,
            });
        }
        state.stats.running += 1;
        state.stats.waiting += job.waiting.len();
        state.stats.waiting_tokens += tokens;
        state.inbox.push(job);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    pub(super) fn stats(&self) -> EmbedderStats {
        self.lock().stats
    }

    pub(super) fn is_healthy(&self) -> bool {
        !self.lock().broken
    }

    pub(super) fn drain(&self) {
        self.lock().draining = true;
        self.changed.notify_all();
    }

    pub(super) fn abort(&self) {
        self.lock().aborted = true;
        self.changed.notify_all();
    }

    /// Waits up to `patience`; whether the thread has ended.
    pub(super) fn wait_stopped(&self, patience: Duration) -> bool {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, patience, |state| !state.stopped);
        waited.unwrap_or_else(PoisonError::into_inner).0.stopped
    }
}

/// Tells the others that the thread has ended, in whatever way.
struct Goodbye(Arc<Queue>);

impl Drop for Goodbye {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.stopped = true;
        state.broken |= std::thread::panicking();
        state.inbox.clear();
        drop(state);
        self.0.changed.notify_all();
    }
}

/// The thread: one step after the other.
pub(super) struct Worker {
    queue: Arc<Queue>,
    encoder: Box<dyn Encoder>,
    live: VecDeque<Job>,
}

impl Worker {
    pub(super) fn new(queue: Arc<Queue>, encoder: Box<dyn Encoder>) -> Self {
        Self { queue, encoder, live: VecDeque::new() }
    }

    pub(super) fn run(mut self) {
        let _goodbye = Goodbye(Arc::clone(&self.queue));
        while self.receive() {
            self.step();
        }
    }

    /// Takes in what came; waits while there is nothing. False at the end.
    fn receive(&mut self) -> bool {
        let idle = self.live.is_empty();
        let state = self.queue.lock();
        let nothing = |state: &mut State| idle && state.inbox.is_empty() && !state.draining && !state.aborted;
        let mut state = self.queue.changed.wait_while(state, nothing).unwrap_or_else(PoisonError::into_inner);
        self.live.extend(state.inbox.drain(..));
        let finished = state.draining && self.live.is_empty();
        !state.aborted && !finished
    }

    fn step(&mut self) {
        let cancelled = self.forget_cancelled();
        let began = Instant::now();
        let (owners, sequences) = self.plan();
        let result = if sequences.is_empty() { Ok(Vec::new()) } else { self.encoder.encode(&sequences) };
        let mut ended = match result {
            // The jobs stand in `live` as `plan` left them: nothing else moves them.
            Ok(vectors) => {
                owners.iter().zip(vectors).for_each(|(&at, vector)| self.live[at].vectors.push(vector));
                Vec::new()
            }
            Err(error) => self.failed(&owners, &error.to_string()),
        };
        ended.extend(self.complete());
        self.report(&sequences, began.elapsed(), cancelled);
        // After the report, so that who has got an answer is counted as answered.
        for (reply, result) in ended {
            // Nobody listening any more is no reason to stop.
            let _ = reply.send(result);
        }
    }

    fn report(&self, done: &Sequences, took: Duration, cancelled: u64) {
        let mut state = self.queue.lock();
        let jobs = || self.live.iter().chain(&state.inbox);
        let stats = EmbedderStats {
            running: jobs().count(),
            waiting: jobs().map(|job| job.waiting.len()).sum(),
            waiting_tokens: jobs().map(Job::waiting_tokens).sum(),
            steps: state.stats.steps + 1,
            inputs: state.stats.inputs + done.len() as u64,
            tokens: state.stats.tokens + done.token_ids.len() as u64,
            cancelled: state.stats.cancelled + cancelled,
            last_step_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        };
        state.stats = stats;
    }

    fn forget_cancelled(&mut self) -> u64 {
        let before = self.live.len();
        self.live.retain(|job| !job.reply.is_closed());
        (before - self.live.len()) as u64
    }

    /// One input of each request in turn until the step is full: for each input the place of its request in `live`.
    /// The next step begins with the request after the last one served.
    fn plan(&mut self) -> (Vec<usize>, Sequences) {
        let (mut owners, mut sequences) = (Vec::new(), Sequences::new());
        let budget = self.queue.config.max_batched_tokens;
        let count = self.live.len();
        let (mut at, mut passed) = (0, 0);
        while passed < count {
            let Some(input) = self.live[at].waiting.front() else {
                (at, passed) = ((at + 1) % count, passed + 1);
                continue;
            };
            if !sequences.is_empty() && sequences.token_ids.len() + input.tokens.len() > budget {
                break;
            }
            sequences.push(input);
            owners.push(at);
            self.live[at].waiting.pop_front();
            (at, passed) = ((at + 1) % count, 0);
        }
        // Who is next in turn comes first.
        self.live.rotate_left(at);
        let place = |owner: &usize| (owner + count - at) % count;
        (owners.iter().map(place).collect(), sequences)
    }

    /// Takes out the requests of a step that the model could not compute; the others go on.
    fn failed(&mut self, owners: &[usize], reason: &str) -> Vec<Ended> {
        tracing::error!(reason, inputs = owners.len(), "embedding step failed");
        let (mut kept, mut ended) = (VecDeque::new(), Vec::new());
        for (at, job) in std::mem::take(&mut self.live).into_iter().enumerate() {
            if owners.contains(&at) {
                ended.push((job.reply, Err(EmbedError::Failed(reason.to_owned()))));
            } else {
                kept.push_back(job);
            }
        }
        self.live = kept;
        ended
    }

    /// Takes out the requests that have all their vectors.
    fn complete(&mut self) -> Vec<Ended> {
        let (mut kept, mut ended) = (VecDeque::new(), Vec::new());
        for job in std::mem::take(&mut self.live) {
            if job.waiting.is_empty() {
                ended.push((job.reply, Ok(job.vectors)));
            } else {
                kept.push_back(job);
            }
        }
        self.live = kept;
        ended
    }
}
