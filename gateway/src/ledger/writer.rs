//! The writer thread: takes what is queued, commits once, answers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::book::Book;
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

/// An answer to be sent once the commit is known to have succeeded (`None`) or failed (`Some`).
type Answer = Box<dyn FnOnce(Option<&str>, &mut VecDeque<Command>) + Send>;

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
        let mut answers = Vec::with_capacity(batch.len());
        // What is left in it after a failure is dropped last, so that whoever hears of it finds the ledger unhealthy.
        let mut batch = batch.into_iter();
        let result = if self.status.failed.load(Ordering::Acquire) {
            Err(StoreError("an earlier write failed".to_owned()))
        } else {
            self.apply(&mut batch, &mut answers)
        };
        if let Err(error) = &result {
            // Never tried again: after a failed sync the store may have dropped what it says it holds.
            if !self.status.failed.swap(true, Ordering::AcqRel) {
                tracing::error!(%error, "ledger cannot be written; restart to recover");
            }
        }
        self.status.open_holds.store(self.book.open_holds(), Ordering::Relaxed);
        let failure = result.as_ref().err().map(|error| error.0.as_str());
        for answer in answers {
            answer(failure, &mut self.orphans);
        }
    }

    fn apply(
        &mut self,
        batch: &mut impl Iterator<Item = Queued>,
        answers: &mut Vec<Answer>,
    ) -> Result<(), StoreError> {
        self.store.begin()?;
        for queued in batch {
            let (answer, fatal) = self.one(queued.command);
            answers.extend(answer);
            if let Some(fatal) = fatal {
                return Err(fatal);
            }
        }
        self.book.flush(self.store.as_mut())?;
        self.store.commit()
    }

    /// Carries out one command; the second value is a failure of the store itself.
    fn one(&mut self, command: Command) -> (Option<Answer>, Option<StoreError>) {
        let (book, store) = (&mut self.book, self.store.as_mut());
        match command {
            Command::Stop => (None, None),
            Command::Hold(request, ack) => {
                let (request_id, at_ms) = (request.request_id.clone(), request.at_ms);
                let result = book.hold(store, *request);
                let fatal = hold_failure(&result);
                let answer: Answer = Box::new(move |failure, orphans| {
                    if let Err(Ok(())) = ack.send(hold_outcome(result, failure)) {
                        orphans.push_back(Command::Void { request_id, at_ms, ack: None });
                    }
                });
                (Some(answer), fatal)
            }
            Command::Extend { request_id, additional, at_ms, ack } => {
                let result = book.extend(store, &request_id, additional, at_ms);
                let fatal = hold_failure(&result);
                let answer: Answer =
                    Box::new(move |failure, _| drop(ack.send(hold_outcome(result, failure))));
                (Some(answer), fatal)
            }
            Command::Checkpoint { request_id, tokens, at_ms, ack } => {
                reply(book.checkpoint(store, &request_id, tokens, at_ms), ack)
            }
            Command::Settle(settlement, ack) => reply(book.settle(store, &settlement), Some(ack)),
            Command::SettleDetached(settlement) => reply(book.settle_within_hold(store, &settlement), None),
            Command::Void { request_id, at_ms, ack } => reply(book.void(store, &request_id, at_ms), ack),
            Command::Credit(credit, ack) => reply(book.credit(store, &credit), Some(ack)),
            Command::Expire { at_ms } => reply(book.expire_all(store, at_ms), None),
        }
    }
}

fn reply<T: Send + 'static>(
    result: Result<T, LedgerError>,
    ack: Option<Ack<T, LedgerError>>,
) -> (Option<Answer>, Option<StoreError>) {
    let fatal = match &result {
        Err(LedgerError::Unavailable(message)) => Some(StoreError(message.clone())),
        _ => None,
    };
    let Some(ack) = ack else {
        if let Err(error) = &result {
            tracing::debug!(%error, "detached ledger command refused");
        }
        return (None, fatal);
    };
    let answer: Answer = Box::new(move |failure, _| {
        let outcome = match failure {
            Some(message) => Err(LedgerError::Unavailable(message.to_owned())),
            None => result,
        };
        drop(ack.send(outcome));
    });
    (Some(answer), fatal)
}

fn hold_failure(result: &Result<(), HoldError>) -> Option<StoreError> {
    match result {
        Err(HoldError::Unavailable(message)) => Some(StoreError(message.clone())),
        _ => None,
    }
}

fn hold_outcome(result: Result<(), HoldError>, failure: Option<&str>) -> Result<(), HoldError> {
    match failure {
        Some(message) => Err(HoldError::Unavailable(message.to_owned())),
        None => result,
    }
}
