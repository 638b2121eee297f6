//! The writer thread: takes what is queued, commits once, answers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::book::{Book, Evident};
use super::evidence::Evidence;
use super::recovery::Recovery;
use super::store::{Store, StoreError};
use super::types::{Credit, HoldError, HoldRequest, LedgerError, Settled, Settlement};
use crate::config::LedgerSection;
use crate::money::{Picos, Tokens};

/// Said to callers whose command the writer will not answer any more.
pub(super) const GONE: &str = "the ledger's writer has stopped";

type Ack<T, E> = oneshot::Sender<Result<T, E>>;

pub(super) enum Command {
    Hold(Box<HoldRequest>, Ack<(), HoldError>),
    Extend { request_id: String, additional: Picos, at_ms: u64, ack: Ack<(), HoldError> },
    Checkpoint { request_id: String, tokens: Tokens, at_ms: u64, ack: Option<Ack<(), LedgerError>> },
    Settle(Box<Settlement>, Ack<Settled, LedgerError>),
    SettleEvident(Box<Settlement>, Ack<(Settled, Option<Box<Evidence>>), LedgerError>),
    Roll(Box<Settlement>, Option<Box<HoldRequest>>, Ack<Settled, LedgerError>),
    SettleDetached(Box<Settlement>),
    Void { request_id: String, at_ms: u64, ack: Option<Ack<(), LedgerError>> },
    Credit(Box<Credit>, Ack<i64, LedgerError>),
    Expire { at_ms: u64 },
    Stop,
}

/// A command and its place in the queue.
struct Queued {
    command: Command,
    _place: Option<OwnedSemaphorePermit>,
}

/// What the handles and the thread share.
pub(super) struct Shared {
    recovery: Recovery,
    status: Arc<Status>,
    queue: usize,
    places: Arc<Semaphore>,
    /// Unbounded, because detached commands must never be lost or wait; the others need a place first, and of
    /// detached ones there is at most one per hold.
    sender: Mutex<Option<mpsc::UnboundedSender<Queued>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Status {
    failed: AtomicBool,
    open_holds: AtomicUsize,
}

impl Shared {
    pub(super) fn start(
        store: Box<dyn Store>,
        book: Book,
        recovery: Recovery,
        options: &LedgerSection,
    ) -> Result<Arc<Self>, LedgerError> {
        let status = Arc::new(Status::default());
        let (sender, receiver) = mpsc::unbounded_channel();
        let writer = Writer {
            store,
            book,
            receiver,
            orphans: VecDeque::new(),
            status: status.clone(),
            max_batch: options.max_batch,
        };
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| LedgerError::Unavailable(format!("writer thread: {error}")))?;
        Ok(Arc::new(Self {
            recovery,
            status,
            queue: options.queue,
            places: Arc::new(Semaphore::new(options.queue)),
            sender: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
        }))
    }

    pub(super) fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    pub(super) fn healthy(&self) -> bool {
        !self.status.failed.load(Ordering::Acquire)
    }

    pub(super) fn open_holds(&self) -> usize {
        self.status.open_holds.load(Ordering::Relaxed)
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.saturating_sub(self.places.available_permits())
    }

    /// Waits for a place in the queue, then queues.
    pub(super) async fn send(&self, command: Command) -> Result<(), StoreError> {
        let place = self.places.clone().acquire_owned().await.map_err(|_| StoreError(GONE.to_owned()))?;
        self.push(command, Some(place))
    }

    /// Queues if there is a place now.
    pub(super) fn try_send(&self, command: Command) -> bool {
        self.healthy()
            && self
                .places
                .clone()
                .try_acquire_owned()
                .is_ok_and(|place| self.push(command, Some(place)).is_ok())
    }

    pub(super) fn send_detached(&self, command: Command) {
        if self.push(command, None).is_err() {
            // The hold stays open in the store and ends by recovery at the next start.
            tracing::warn!("a request ended after the ledger was closed");
        }
    }

    fn push(&self, command: Command, place: Option<OwnedSemaphorePermit>) -> Result<(), StoreError> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = sender.as_ref().map(|sender| sender.send(Queued { command, _place: place }));
        sent.and_then(Result::ok).ok_or_else(|| StoreError(GONE.to_owned()))
    }

    pub(super) fn close(&self) {
        // What is queued before `Stop` is still committed; what comes later finds the sender gone.
        let _ = self.push(Command::Stop, None);
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            self.status.failed.store(true, Ordering::Release);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

/// What a command came to, if the commit succeeds.
enum Outcome {
    Nothing,
    Hold(Result<(), HoldError>),
    Done(Result<(), LedgerError>),
    Settled(Result<Settled, LedgerError>),
    Evident(Result<(Settled, Option<Box<Evidence>>), LedgerError>),
    Row(Result<i64, LedgerError>),
}

/// How long a batch is done anew that lost connections break: as long as a lost connection is tried again.
const RETRY_FOR: Duration = Duration::from_secs(20);

struct Writer {
    store: Box<dyn Store>,
    book: Book,
    receiver: mpsc::UnboundedReceiver<Queued>,
    /// Voids for holds that were durable only after their caller had gone.
    orphans: VecDeque<Command>,
    status: Arc<Status>,
    max_batch: usize,
}

impl Writer {
    fn run(mut self) {
        while let Some(batch) = self.next_batch() {
            let stop = batch.iter().any(|queued| matches!(queued.command, Command::Stop));
            self.commit(batch);
            if stop {
                // Callers that went away while the last batch was committed.
                while !self.orphans.is_empty() {
                    let batch = self.take_orphans();
                    self.commit(batch);
                }
                return;
            }
        }
    }

    /// Whatever is queued, up to the batch size; waits for the first. `None` once every sender is gone.
    fn next_batch(&mut self) -> Option<Vec<Queued>> {
        let mut batch = self.take_orphans();
        if batch.is_empty() {
            batch.push(self.receiver.blocking_recv()?);
        }
        while batch.len() < self.max_batch {
            match self.receiver.try_recv() {
                Ok(queued) => batch.push(queued),
                Err(_) => break,
            }
        }
        Some(batch)
    }

    fn take_orphans(&mut self) -> Vec<Queued> {
        self.orphans.drain(..).map(|command| Queued { command, _place: None }).collect()
    }

    fn commit(&mut self, batch: Vec<Queued>) {
        let (mut outcomes, mut result) = self.try_apply(&batch);
        let deadline = Instant::now() + RETRY_FOR;
        // Where nothing was committed and nothing is broken, all of it is done anew.
        while result.is_err() && Instant::now() < deadline && self.start_anew() {
            (outcomes, result) = self.try_apply(&batch);
        }
        if let Err(error) = &result {
            // Never tried again: after a failed sync the store may have dropped what it says it holds.
            if !self.status.failed.swap(true, Ordering::AcqRel) {
                tracing::error!(%error, "ledger cannot be written; restart to recover");
            }
        }
        self.status.open_holds.store(self.book.open_holds(), Ordering::Relaxed);
        let failure = result.as_ref().err().map(|error| error.0.as_str());
        let mut batch = batch.into_iter();
        for (outcome, queued) in outcomes.into_iter().zip(batch.by_ref()) {
            answer(queued.command, outcome, failure, &mut self.orphans);
        }
        // What is left in it after a failure is dropped last, so that whoever hears of it finds the ledger unhealthy.
        drop(batch);
    }

    fn try_apply(&mut self, batch: &[Queued]) -> (Vec<Outcome>, Result<(), StoreError>) {
        if self.status.failed.load(Ordering::Acquire) {
            return (Vec::new(), Err(StoreError("an earlier write failed".to_owned())));
        }
        let mut outcomes = Vec::with_capacity(batch.len());
        let result = self.apply(batch, &mut outcomes);
        (outcomes, result)
    }

    fn apply(&mut self, batch: &[Queued], outcomes: &mut Vec<Outcome>) -> Result<(), StoreError> {
        self.book.begin(self.store.as_mut())?;
        for queued in batch {
            let (outcome, fatal) = self.one(&queued.command);
            outcomes.push(outcome);
            if let Some(fatal) = fatal {
                return Err(fatal);
            }
        }
        self.book.flush(self.store.as_mut())?;
        self.store.commit()
    }

    /// After a failure: true where store and book are as they were before the batch.
    fn start_anew(&mut self) -> bool {
        if self.status.failed.load(Ordering::Acquire) || !self.store.recover() {
            return false;
        }
        let reloaded = self.book.reload(self.store.as_mut());
        if let Err(error) = &reloaded {
            tracing::error!(%error, "ledger cannot be read anew");
        }
        reloaded.is_ok()
    }

    /// Carries out one command; the second value is a failure of the store itself.
    fn one(&mut self, command: &Command) -> (Outcome, Option<StoreError>) {
        let (book, store) = (&mut self.book, self.store.as_mut());
        match command {
            Command::Stop => (Outcome::Nothing, None),
            Command::Hold(request, _) => held(book.hold(store, (**request).clone())),
            Command::Extend { request_id, additional, at_ms, .. } => {
                held(book.extend(store, request_id, *additional, *at_ms))
            }
            Command::Checkpoint { request_id, tokens, at_ms, .. } => {
                done(book.checkpoint(store, request_id, *tokens, *at_ms), Outcome::Done)
            }
            Command::Settle(settlement, _) => done(book.settle(store, settlement), Outcome::Settled),
            Command::SettleEvident(settlement, _) => {
                let settled = book.settle_evident(store, settlement);
                let told = |(row, previous): Evident| Box::new(Evidence::of(row, &previous));
                done(settled.map(|(settled, row)| (settled, row.map(told))), Outcome::Evident)
            }
            Command::Roll(settlement, next, _) => {
                done(book.roll(store, settlement, next.as_deref()), Outcome::Settled)
            }
            Command::SettleDetached(settlement) => {
                done(book.settle_within_hold(store, settlement), Outcome::Done)
            }
            Command::Void { request_id, at_ms, .. } => {
                done(book.void(store, request_id, *at_ms), Outcome::Done)
            }
            Command::Credit(credit, _) => done(book.credit(store, credit), Outcome::Row),
            Command::Expire { at_ms } => {
                let ended = book.end_orphans(store, *at_ms);
                done(ended.and_then(|_| book.expire_all(store, *at_ms)), Outcome::Done)
            }
        }
    }
}

fn held(result: Result<(), HoldError>) -> (Outcome, Option<StoreError>) {
    let fatal = match &result {
        Err(HoldError::Unavailable(message)) => Some(StoreError(message.clone())),
        _ => None,
    };
    (Outcome::Hold(result), fatal)
}

fn done<T>(
    result: Result<T, LedgerError>,
    outcome: impl FnOnce(Result<T, LedgerError>) -> Outcome,
) -> (Outcome, Option<StoreError>) {
    let fatal = match &result {
        Err(LedgerError::Unavailable(message)) => Some(StoreError(message.clone())),
        _ => None,
    };
    (outcome(result), fatal)
}

/// Answers a command once the commit is known to have succeeded (`None`) or failed (`Some`).
fn answer(command: Command, outcome: Outcome, failure: Option<&str>, orphans: &mut VecDeque<Command>) {
    match (command, outcome) {
        (Command::Hold(request, ack), Outcome::Hold(result)) => {
            if let Err(Ok(())) = ack.send(hold_outcome(result, failure)) {
                let (request_id, at_ms) = (request.request_id, request.at_ms);
                orphans.push_back(Command::Void { request_id, at_ms, ack: None });
            }
        }
        (Command::Extend { ack, .. }, Outcome::Hold(result)) => drop(ack.send(hold_outcome(result, failure))),
        (Command::Settle(_, ack) | Command::Roll(_, _, ack), Outcome::Settled(result)) => {
            reply(result, Some(ack), failure)
        }
        (Command::SettleEvident(_, ack), Outcome::Evident(result)) => reply(result, Some(ack), failure),
        (Command::Credit(_, ack), Outcome::Row(result)) => reply(result, Some(ack), failure),
        (Command::Checkpoint { ack, .. } | Command::Void { ack, .. }, Outcome::Done(result)) => {
            reply(result, ack, failure);
        }
        (_, Outcome::Done(result)) => reply(result, None, failure),
        _ => {}
    }
}

fn reply<T>(result: Result<T, LedgerError>, ack: Option<Ack<T, LedgerError>>, failure: Option<&str>) {
    let outcome = match failure {
        Some(message) => Err(LedgerError::Unavailable(message.to_owned())),
        None => result,
    };
    match (ack, outcome) {
        (Some(ack), outcome) => drop(ack.send(outcome)),
        (None, Err(error)) => tracing::debug!(%error, "detached ledger command refused"),
        (None, Ok(_)) => {}
    }
}

fn hold_outcome(result: Result<(), HoldError>, failure: Option<&str>) -> Result<(), HoldError> {
    match failure {
        Some(message) => Err(HoldError::Unavailable(message.to_owned())),
        None => result,
    }
}
