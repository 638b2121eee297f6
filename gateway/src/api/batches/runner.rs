//! Takes batches through their lines. Each batch has a task; all of them share a bounded number of places for lines.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, sleep_until};

use super::input::{self, Checked, LineLimits};
use super::line::{self, LineEnd, Work};
use super::slots::{Slot, Slots};
use super::{on_disk, output};
use crate::api::Shared;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::batches::{Batch, BatchError, Line, Status};
use crate::config::BatchesSection;
use crate::serving::{Phase, unix_ms};

/// Lines read ahead.
const PAGE: usize = 256;
/// Pause after a fault of the disk.
const PAUSE: Duration = Duration::from_secs(10);
/// Around the line's body: `custom_id`, method and URL.
const FRAME_BYTES: usize = 8 << 10;

/// The tasks of all batches.
#[derive(Clone)]
pub struct Runner {
    slots: Slots,
    /// By id: what ends its task's work.
    live: Arc<Mutex<HashMap<String, watch::Sender<bool>>>>,
    count: watch::Sender<usize>,
}

impl Runner {
    /// Nothing runs yet.
    pub fn new(section: &BatchesSection) -> Self {
        let slots = Slots::new(section.concurrency);
        Self { slots, live: Arc::default(), count: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<bool>>> {
        // Single insertions and removals: every state is valid.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on with what an earlier process has left.
    pub fn resume(&self, api: &Shared) -> Result<(), BatchError> {
        for id in api.batches.unfinished()? {
            self.begin(api, id);
        }
        Ok(())
    }

    /// Starts the task of a batch.
    pub fn begin(&self, api: &Shared, id: String) {
        let (stop, stopped) = watch::channel(false);
        let mut live = self.lock();
        live.insert(id.clone(), stop);
        self.count.send_replace(live.len());
        drop(live);
        let (runner, api) = (self.clone(), Arc::clone(api));
        tokio::spawn(async move {
            let driving = AssertUnwindSafe(runner.drive_on(&api, &id, stopped));
            if driving.catch_unwind().await.is_err() {
                tracing::error!(batch = id, "a batch's task panicked; it goes on after a restart");
            }
            let mut live = runner.lock();
            live.remove(&id);
            runner.count.send_replace(live.len());
        });
    }

    /// Ends the lines of a batch whose state says so.
    pub fn stop(&self, id: &str) {
        if let Some(stop) = self.lock().get(id) {
            stop.send_replace(true);
        }
    }

    /// Returns once no task is left, which is soon after the server has begun to go down.
    pub async fn idle(&self) {
        // Cannot fail: `self` keeps the sender alive.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Tries until the batch is finished or the server goes down.
    async fn drive_on(&self, api: &Shared, id: &str, stopped: watch::Receiver<bool>) {
        while let Err(error) = self.drive(api, id, stopped.clone()).await {
            tracing::error!(batch = id, reason = error.message, "a batch cannot go on for now");
            tokio::select! {
                () = api.serving.lifecycle.reached(Phase::Draining) => return,
                () = sleep(PAUSE) => {}
            }
        }
    }

    async fn drive(&self, api: &Shared, id: &str, stopped: watch::Receiver<bool>) -> ApiResult<()> {
        let Some(mut batch) = load(api, id).await? else { return Ok(()) };
        let limits = LineLimits {
            max_bytes: api.body.max_bytes + FRAME_BYTES,
            // The body is one level down.
            max_depth: api.body.max_depth + 1,
        };
        if batch.status == Status::Validating {
            batch = validate(api, batch, limits).await?;
        }
        if batch.status == Status::InProgress {
            let work = Work {
                api: Arc::clone(api),
                input: Arc::new(api.batches.input(id)?),
                until: instant(batch.expires_ms),
                limits,
                batch,
            };
            if self.work(Arc::new(work), stopped).await? == Worked::Draining {
                return Ok(());
            }
            let Some(now) = load(api, id).await? else { return Ok(()) };
            batch = now;
        }
        if batch.status.is_final() || api.serving.lifecycle.phase() != Phase::Serving {
            return Ok(());
        }
        if !api.serving.ledger.healthy() {
            // An answer may not be billed yet, and its line is what the next start bills it by.
            return Err(ApiError::new(Code::LedgerUnavailable, "the ledger cannot be written"));
        }
        let api = Arc::clone(api);
        let finished = spawn_blocking(move || output::finish(&api, &batch)).await;
        finished.unwrap_or_else(|_| Err(ApiError::new(Code::ServerError, "finishing the batch panicked")))
    }

    /// Does the lines of a batch. When it returns, none is in flight, and what is kept is billed.
    async fn work(&self, work: Arc<Work>, mut stopped: watch::Receiver<bool>) -> ApiResult<Worked> {
        let stop_lines = watch::Sender::new(false);
        let mut lines = Lines {
            work: Arc::clone(&work),
            queue: VecDeque::new(),
            paused: Vec::new(),
            next: 0,
            all: false,
        };
        let mut tasks = JoinSet::new();
        let lifecycle = work.api.serving.lifecycle.clone();
        let worked = loop {
            if let Err(error) = lines.fill().await {
                break Err(error);
            }
            if lines.is_done() && tasks.is_empty() {
                break Ok(Worked::Done);
            }
            let is_waiting = !lines.queue.is_empty();
            let resume = lines.resume_at();
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => break Ok(Worked::Stopped),
                () = lifecycle.reached(Phase::Draining) => break Ok(Worked::Draining),
                () = sleep_until(work.until.into()) => break Ok(Worked::Stopped),
                Some(done) = tasks.join_next(), if !tasks.is_empty() => lines.note(done),
                () = sleep_until(resume.unwrap_or(work.until).into()), if resume.is_some() => lines.unpause(),
                slot = self.slots.take(&work.batch.org_id, work.batch.expires_ms), if is_waiting => {
                    if let Some((line, tries)) = lines.queue.pop_front() {
                        tasks.spawn(one(Arc::clone(&work), line, tries, slot, stop_lines.subscribe()));
                    }
                }
            }
        };
        // They end by themselves: one that was broken off after its answer was kept would lose its bill.
        stop_lines.send_replace(true);
        while tasks.join_next().await.is_some() {}
        Ok(worked?)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worked {
    /// All lines have their answer.
    Done,
    /// The batch is to end.
    Stopped,
    /// The server goes down; the lines go on after the next start.
    Draining,
}

type Tried = (Line, u32, LineEnd);

/// Tries a line once, in its place.
async fn one(work: Arc<Work>, line: Line, tries: u32, slot: Slot, stop: watch::Receiver<bool>) -> Tried {
    let is_last = tries + 1 >= work.api.batches.limits().max_attempts;
    let running = AssertUnwindSafe(line::run(&work, &line, is_last, stop));
    let end = running.catch_unwind().await.unwrap_or(LineEnd::Again(PAUSE, true));
    drop(slot);
    (line, tries, end)
}

/// The lines of a batch that are not in flight, with the number of their tries.
struct Lines {
    work: Arc<Work>,
    queue: VecDeque<(Line, u32)>,
    paused: Vec<(Instant, Line, u32)>,
    /// Number of the first line that was not read yet.
    next: u32,
    /// All were read.
    all: bool,
}

impl Lines {
    /// Reads ahead.
    async fn fill(&mut self) -> Result<(), BatchError> {
        if self.all || !self.queue.is_empty() {
            return Ok(());
        }
        let (id, next) = (self.work.batch.id.clone(), self.next);
        let page = on_disk(&self.work.api.batches, move |batches| batches.waiting(&id, next, PAGE)).await?;
        self.all = page.len() < PAGE;
        self.next = page.last().map_or(self.next, |line| line.n + 1);
        self.queue.extend(page.into_iter().map(|line| (line, 0)));
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.all && self.queue.is_empty() && self.paused.is_empty()
    }

    fn resume_at(&self) -> Option<Instant> {
        self.paused.iter().map(|(at, ..)| *at).min()
    }

    fn unpause(&mut self) {
        let now = Instant::now();
        let due = self.paused.extract_if(.., |(at, ..)| *at <= now);
        self.queue.extend(due.map(|(_, line, tries)| (line, tries)));
    }

    fn note(&mut self, done: Result<Tried, tokio::task::JoinError>) {
        // Panics are caught inside, and nobody aborts a task.
        let Ok((line, tries, end)) = done else { return };
        if let LineEnd::Again(pause, counts) = end {
            self.paused.push((Instant::now() + pause, line, tries + u32::from(counts)));
        }
    }
}

async fn load(api: &Shared, id: &str) -> Result<Option<Batch>, BatchError> {
    let id = id.to_owned();
    on_disk(&api.batches, move |batches| batches.load(&id)).await
}

/// Reads the input; the batch in its next state.
async fn validate(api: &Shared, batch: Batch, limits: LineLimits) -> Result<Batch, BatchError> {
    on_disk(&api.batches, move |batches| {
        let from = [Status::Validating];
        let moved = match input::check(batches, &batch, limits)? {
            Checked::Fine(total, model) => {
                batches.advance(&batch.id, &from, Status::InProgress, unix_ms(), |batch| {
                    (batch.counts.total, batch.model) = (total, model);
                })
            }
            Checked::Refused(errors) => {
                batches.advance(&batch.id, &from, Status::Failed, unix_ms(), |batch| batch.errors = errors)
            }
        };
        match moved {
            // Cancelled meanwhile.
            Err(BatchError::Moved(id)) => batches.load(&id)?.ok_or(BatchError::Moved(id)),
            moved => moved,
        }
    })
    .await
}

/// An instant of the wall clock.
fn instant(unix_ms_then: u64) -> Instant {
    Instant::now() + Duration::from_millis(unix_ms_then.saturating_sub(unix_ms()))
}
