//! What callers leave for the engine's thread, and what it tells them of its state.
//!
//! One lock, held for moments. The thread sleeps on it when there is nothing to do, so an idle engine uses no CPU.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::SubmitError;
use crate::event::Stats;
use crate::link::Outlet;
use crate::sampler::Sampler;
use crate::sequence::{NewSequence, SeqId};

/// A new sequence with its way back to the caller.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) sequence: NewSequence,
    pub(crate) sampler: Sampler,
    pub(crate) outlet: Outlet,
}

/// What the engine's thread finds in the mailbox.
#[derive(Debug)]
pub(crate) struct Orders {
    pub(crate) jobs: Vec<Job>,
    /// No job comes after these.
    pub(crate) draining: bool,
    /// End everything now.
    pub(crate) aborting: bool,
}

#[derive(Debug, Default)]
struct State {
    jobs: Vec<Job>,
    next_id: u64,
    /// Sequences accepted and not ended.
    live: usize,
    woken: bool,
    draining: bool,
    aborting: bool,
    broken: bool,
    stopped: bool,
    stats: Stats,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    /// For the engine's thread: there is something to do.
    work: Condvar,
    /// For callers: the thread has ended.
    stopped: Condvar,
    /// Most live sequences when one of a tier arrives.
    limits: [usize; 6],
}

impl Mailbox {
    pub(crate) fn new(limits: [usize; 6], stats: Stats) -> Self {
        let state = Mutex::new(State { stats, ..State::default() });
        Self { state, work: Condvar::new(), stopped: Condvar::new(), limits }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a job; numbers it in order of arrival.
    pub(crate) fn post(&self, mut job: Job) -> Result<(), SubmitError> {
        let mut state = self.lock();
        if state.broken || state.stopped {
            return Err(SubmitError::Unhealthy);
        }
        if state.draining {
            return Err(SubmitError::Draining);
        }
        let limit = self.limits[job.sequence.tier.index()];
        if state.live >= limit {
            return Err(SubmitError::Full { waiting: state.live, limit });
        }
        job.sequence.id = SeqId(state.next_id);
        state.next_id += 1;
        state.live += 1;
        state.jobs.push(job);
        self.ring(&mut state);
        Ok(())
    }

    fn ring(&self, state: &mut State) {
        state.woken = true;
        self.work.notify_one();
    }

    /// Makes the thread look at its sequences again.
    pub(crate) fn wake(&self) {
        self.ring(&mut self.lock());
    }

    /// Takes no more jobs.
    pub(crate) fn drain(&self) {
        let mut state = self.lock();
        state.draining = true;
        self.ring(&mut state);
    }

    /// Takes no more jobs and ends those that run.
    pub(crate) fn abort(&self) {
        let mut state = self.lock();
        (state.draining, state.aborting) = (true, true);
        self.ring(&mut state);
    }

    /// For the thread: everything that was left. With `wait`, sleeps until something happens.
    pub(crate) fn take(&self, wait: bool) -> Orders {
        let mut state = self.lock();
        while wait && !state.woken {
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.woken = false;
        let jobs = std::mem::take(&mut state.jobs);
        Orders { jobs, draining: state.draining, aborting: state.aborting }
    }

    /// For the thread: publishes counters, and how many sequences ended since the last call.
    pub(crate) fn report(&self, stats: Stats, ended: usize) {
        let mut state = self.lock();
        state.stats = stats;
        state.live -= ended;
    }

    /// For the thread: a step has failed in a way that leaves the engine unusable.
    pub(crate) fn set_broken(&self) {
        self.lock().broken = true;
    }

    /// For the thread: it ends.
    pub(crate) fn set_stopped(&self) {
        let mut state = self.lock();
        (state.stopped, state.live) = (true, 0);
        // Their readers see the end of the stream.
        state.jobs.clear();
        self.stopped.notify_all();
    }

    /// Waits for the thread's end; false when `patience` is over before.
    pub(crate) fn wait_stopped(&self, patience: Duration) -> bool {
        let waited = self.stopped.wait_timeout_while(self.lock(), patience, |state| !state.stopped);
        waited.unwrap_or_else(PoisonError::into_inner).0.stopped
    }

    pub(crate) fn is_healthy(&self) -> bool {
        let state = self.lock();
        !state.broken && !state.stopped
    }

    pub(crate) fn stats(&self) -> Stats {
        let state = self.lock();
        // Jobs that the thread has not seen yet wait, too.
        Stats { waiting: state.live.saturating_sub(state.stats.running), ..state.stats }
    }
}
