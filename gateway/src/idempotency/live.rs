//! A request in flight: one side carries it out, any number look on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::{Fingerprint, Id};

/// Status and headers of an answer, told before its body.
pub type Head = axum::http::response::Parts;

/// All requests with a key that are in flight in this process.
#[derive(Clone, Default)]
pub(super) struct All {
    runs: Arc<Mutex<HashMap<Id, Arc<Shared>>>>,
    count: watch::Sender<usize>,
}

pub(super) struct Shared {
    pub(super) fingerprint: Fingerprint,
    pub(super) request_id: String,
    head: Mutex<Option<Head>>,
    log: Mutex<Vec<Bytes>>,
    progress: watch::Sender<Progress>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    has_head: bool,
    pieces: usize,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Complete,
    Broken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Single insertions and removals: every state is valid.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl All {
    pub(super) fn get(&self, id: &Id) -> Option<Arc<Shared>> {
        lock(&self.runs).get(id).cloned()
    }

    pub(super) fn begin(&self, id: &Id, fingerprint: Fingerprint, request_id: &str) -> Run {
        let shared = Arc::new(Shared {
            fingerprint,
            request_id: request_id.to_owned(),
            head: Mutex::default(),
            log: Mutex::default(),
            progress: watch::Sender::default(),
        });
        let mut runs = lock(&self.runs);
        runs.insert(id.clone(), Arc::clone(&shared));
        self.count.send_replace(runs.len());
        Run { id: id.clone(), shared, all: self.clone() }
    }

    /// Returns once none is in flight.
    pub(super) async fn idle(&self) {
        // Cannot fail: `self` keeps the sender alive.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// The side that carries it out. Dropping it ends it for all who look on: broken off, unless it was completed.
pub struct Run {
    pub(super) id: Id,
    pub(super) shared: Arc<Shared>,
    all: All,
}

impl Run {
    /// Tells status and headers.
    pub fn head(&self, head: Head) {
        *lock(&self.shared.head) = Some(head);
        self.shared.progress.send_modify(|progress| progress.has_head = true);
    }

    /// Tells more of the body.
    pub fn tell(&self, piece: Bytes) {
        let mut log = lock(&self.shared.log);
        log.push(piece);
        let pieces = log.len();
        drop(log);
        self.shared.progress.send_modify(|progress| progress.pieces = pieces);
    }

    /// The whole body so far.
    pub fn body(&self) -> Bytes {
        lock(&self.shared.log).concat().into()
    }

    /// Nobody finds it any more: the next request with its key is a new one.
    pub fn unlist(&self) {
        let mut runs = lock(&self.all.runs);
        if runs.get(&self.id).is_some_and(|listed| Arc::ptr_eq(listed, &self.shared)) {
            runs.remove(&self.id);
        }
        self.all.count.send_replace(runs.len());
    }

    /// Nothing is missing.
    pub fn complete(self) {
        self.shared.progress.send_modify(|progress| progress.end = Some(End::Complete));
    }

    /// Somebody who looks on.
    pub fn watch(&self) -> Watcher {
        Watcher::of(Arc::clone(&self.shared))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.unlist();
        self.shared.progress.send_modify(|progress| {
            progress.end.get_or_insert(End::Broken);
        });
    }
}

/// The side of whoever looks on.
pub struct Watcher {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
}

impl Watcher {
    pub(super) fn of(shared: Arc<Shared>) -> Self {
        let progress = shared.progress.subscribe();
        Self { shared, progress }
    }

    /// The request that is carried out.
    pub fn request_id(&self) -> &str {
        &self.shared.request_id
    }

    /// Status and headers, once they are known; `None` where it broke off before.
    pub async fn head(&mut self) -> Option<Head> {
        // An error means that it has ended, too.
        let _ = self.progress.wait_for(|progress| progress.has_head || progress.end.is_some()).await;
        lock(&self.shared.head).clone()
    }

    /// A piece of the body, once it is there; `None` at the end. False: it was broken off.
    pub async fn piece(&mut self, number: usize) -> Result<Option<Bytes>, Broken> {
        let reached = self.progress.wait_for(|p| p.pieces > number || p.end.is_some()).await;
        let end = reached.map(|progress| progress.end).unwrap_or(Some(End::Broken));
        match (lock(&self.shared.log).get(number).cloned(), end) {
            (Some(piece), _) => Ok(Some(piece)),
            (None, Some(End::Complete)) => Ok(None),
            (None, _) => Err(Broken),
        }
    }
}

/// An answer that ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer was broken off")]
pub struct Broken;
