//! Answers in the making that no client has to wait for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

/// All background answers of this process.
#[derive(Clone, Default)]
pub struct Background {
    runs: Arc<Mutex<HashMap<String, Arc<Shared>>>>,
    count: watch::Sender<usize>,
}

struct Shared {
    org_id: String,
    log: Mutex<Vec<Bytes>>,
    /// Goes up with every event; set to the end once no more will come.
    progress: watch::Sender<Progress>,
    cancelled: watch::Sender<bool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    events: usize,
    ended: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Single insertions and removals: every state is valid.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Background {
    /// A new answer, for whoever makes it.
    pub fn begin(&self, org_id: &str, id: &str) -> Run {
        let shared = Arc::new(Shared {
            org_id: org_id.to_owned(),
            log: Mutex::default(),
            progress: watch::Sender::default(),
            cancelled: watch::Sender::default(),
        });
        let mut runs = lock(&self.runs);
        runs.insert(id.to_owned(), Arc::clone(&shared));
        self.count.send_replace(runs.len());
        Run { id: id.to_owned(), shared, all: self.clone() }
    }

    /// An organisation's answer in the making.
    pub fn watch(&self, org_id: &str, id: &str) -> Option<Watcher> {
        let shared = lock(&self.runs).get(id).filter(|shared| shared.org_id == org_id).cloned()?;
        let progress = shared.progress.subscribe();
        Some(Watcher { shared, progress })
    }

    /// Returns once none is in the making.
    pub async fn idle(&self) {
        // Cannot fail: `self` keeps the sender alive.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// The side of whoever makes the answer. Dropping it ends the answer for all who watch.
pub struct Run {
    id: String,
    shared: Arc<Shared>,
    all: Background,
}

impl Run {
    /// Tells more events, each a whole server-sent event.
    pub fn tell(&self, events: impl IntoIterator<Item = Bytes>) {
        let mut log = lock(&self.shared.log);
        log.extend(events);
        let events = log.len();
        drop(log);
        self.shared.progress.send_replace(Progress { events, ended: false });
    }

    /// Everything told so far.
    pub fn log(&self) -> Vec<Bytes> {
        lock(&self.shared.log).clone()
    }

    /// Returns once somebody wants it to end.
    pub async fn cancelled(&self) {
        // Cannot fail: `self` keeps the sender alive.
        let _ = self.shared.cancelled.subscribe().wait_for(|cancelled| *cancelled).await;
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.shared.progress.send_modify(|progress| progress.ended = true);
        let mut runs = lock(&self.all.runs);
        runs.remove(&self.id);
        self.all.count.send_replace(runs.len());
    }
}

/// The side of whoever looks on.
pub struct Watcher {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
}

impl Watcher {
    /// Whether its events are told.
    pub fn has_events(&self) -> bool {
        !lock(&self.shared.log).is_empty()
    }

    /// The event of a number, once there is one; `None` where the answer ended before.
    pub async fn event(&mut self, number: usize) -> Option<Bytes> {
        // An error means that it has ended, too.
        let _ = self.progress.wait_for(|progress| progress.ended || progress.events > number).await;
        lock(&self.shared.log).get(number).cloned()
    }

    /// Asks for its end and waits for it.
    pub async fn cancel(mut self) {
        self.shared.cancelled.send_replace(true);
        let _ = self.progress.wait_for(|progress| progress.ended).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_are_seen_from_any_number_on_and_end_with_the_run() {
        let all = Background::default();
        let run = all.begin("org_a", "resp_1");
        run.tell([Bytes::from_static(b"0"), Bytes::from_static(b"1")]);
        assert!(all.watch("org_b", "resp_1").is_none());
        let mut watcher = all.watch("org_a", "resp_1").unwrap();
        assert_eq!(watcher.event(1).await.unwrap(), "1");
        let later = tokio::spawn(async move { (watcher.event(2).await, watcher.event(3).await) });
        tokio::task::yield_now().await;
        run.tell([Bytes::from_static(b"2")]);
        drop(run);
        assert_eq!(later.await.unwrap(), (Some(Bytes::from_static(b"2")), None));
        assert!(all.watch("org_a", "resp_1").is_none());
        all.idle().await;
    }

    #[tokio::test]
    async fn cancelling_waits_for_the_end() {
        let all = Background::default();
        let run = all.begin("org_a", "resp_1");
        let watcher = all.watch("org_a", "resp_1").unwrap();
        let maker = tokio::spawn(async move {
            run.cancelled().await;
            run.tell([Bytes::from_static(b"end")]);
        });
        watcher.cancel().await;
        maker.await.unwrap();
        all.idle().await;
    }
}
