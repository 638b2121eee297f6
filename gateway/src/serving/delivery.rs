//! How far a stream got: which output tokens were handed to the connection, and which of them the socket took.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

/// State of a connection's sending side, kept by the server.
#[derive(Debug, Default)]
pub struct WireState {
    blocked: AtomicBool,
    gone: AtomicBool,
}

impl WireState {
    /// The socket takes nothing at the moment, or is gone. Returns what was noted before.
    pub fn set_blocked(&self, blocked: bool) -> bool {
        self.blocked.swap(blocked, Ordering::AcqRel)
    }

    /// The client has closed its side, which is taken for leaving.
    pub fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Bytes that were handed over may still wait in this process.
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Acquire)
    }
}

#[derive(Debug)]
struct Counts {
    yielded: Vec<u32>,
    flushed: Vec<u32>,
}

/// Output tokens of each choice on their way out. Shared by the body (which counts) and the guard (which bills).
#[derive(Debug)]
pub struct Delivery {
    counts: Mutex<Counts>,
    wire: Option<Arc<WireState>>,
}

impl Delivery {
    /// Nothing delivered yet of `choices` choices.
    pub fn new(choices: usize, wire: Option<Arc<WireState>>) -> Self {
        let counts = Counts { yielded: vec![0; choices], flushed: vec![0; choices] };
        Self { counts: Mutex::new(counts), wire }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Plain numbers: every state is valid.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_blocked(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| wire.is_blocked())
    }

    /// The client has left: what is handed over now is thrown away.
    pub fn is_gone(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| wire.gone.load(Ordering::Acquire))
    }

    /// The connection took a frame with `tokens` tokens of `choice`.
    pub fn yielded(&self, choice: usize, tokens: u32) {
        self.lock().yielded[choice] += tokens;
    }

    /// The connection had the chance to flush; if the socket took all, everything yielded is out.
    pub fn flushed(&self) {
        if !self.is_blocked() {
            let mut counts = self.lock();
            let Counts { yielded, flushed } = &mut *counts;
            flushed.copy_from_slice(yielded);
        }
    }

    /// Yielded and flushed tokens per choice.
    pub fn counts(&self) -> (Vec<u32>, Vec<u32>) {
        let counts = self.lock();
        (counts.yielded.clone(), counts.flushed.clone())
    }

    /// Sums of yielded and flushed tokens.
    pub fn totals(&self) -> (u32, u32) {
        let counts = self.lock();
        (counts.yielded.iter().sum(), counts.flushed.iter().sum())
    }

    /// What the socket took, as far as known when the client is gone: all that was yielded, unless it got stuck on the way.
    pub fn delivered(&self) -> Vec<u32> {
        let (yielded, flushed) = self.counts();
        if self.is_blocked() { flushed } else { yielded }
    }

    /// Returns once more than `tokens` tokens are flushed. Must be awaited inside the body's own poll: returning from it
    /// is what lets the connection flush.
    pub async fn flushed_beyond(&self, tokens: u32) {
        poll_fn(|cx| {
            if self.totals().1 > tokens {
                return Poll::Ready(());
            }
            // An open socket flushes right after this poll; a blocked one wakes the connection when it opens.
            if !self.is_blocked() {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_socket_keeps_tokens_unflushed() {
        let wire = Arc::new(WireState::default());
        let delivery = Delivery::new(1, Some(Arc::clone(&wire)));
        delivery.yielded(0, 3);
        delivery.flushed();
        assert_eq!((delivery.totals(), delivery.delivered()), ((3, 3), vec![3]));
        wire.set_blocked(true);
        delivery.yielded(0, 2);
        delivery.flushed();
        assert_eq!((delivery.totals(), delivery.delivered()), ((5, 3), vec![3]));
        wire.set_blocked(false);
        assert_eq!(delivery.delivered(), vec![5]);
    }
}
