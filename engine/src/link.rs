//! The way of one sequence's tokens from the engine's thread to its reader.
//!
//! The channel is bounded. When it is full the engine does not schedule the sequence; the reader rings once half of it
//! is free again. Both sides write their own word first and read the other's second, so no ring is lost.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;

use crate::event::{FinishReason, TokenLogprob};

/// What the engine reports of a sequence before its end.
#[derive(Debug)]
pub(crate) enum Update {
    Started {
        cached_tokens: u32,
    },
    Prompt(Vec<TokenLogprob>),
    Token {
        token: u32,
        logprob: Option<TokenLogprob>,
        /// It is an ending token.
        ends: bool,
    },
}

/// Whether the reader still wants tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Interest {
    Wanted = 0,
    /// A stop string matched: there is nothing more to say.
    Satisfied = 1,
    /// The reader is gone.
    Dropped = 2,
}

#[derive(Debug, Default)]
struct LinkState {
    interest: AtomicU8,
    /// Set by the engine when the channel is full, taken back by the reader.
    stalled: AtomicBool,
    /// Set before the sender is dropped.
    end: OnceLock<FinishReason>,
}

/// The engine's side.
#[derive(Debug)]
pub(crate) struct Outlet {
    sender: mpsc::Sender<Update>,
    state: Arc<LinkState>,
}

/// The reader's side.
#[derive(Debug)]
pub(crate) struct Inlet {
    receiver: mpsc::Receiver<Update>,
    state: Arc<LinkState>,
}

/// A link that holds `capacity` updates; at least 4.
pub(crate) fn link(capacity: usize) -> (Outlet, Inlet) {
    let (sender, receiver) = mpsc::channel(capacity);
    let state = Arc::new(LinkState::default());
    (Outlet { sender, state: Arc::clone(&state) }, Inlet { receiver, state })
}

impl Outlet {
    /// Whether a step may send a start and a token, or log probabilities of the prompt and a token; all three at once
    /// only into an empty channel. Once it may not, half of the channel must be free first.
    pub(crate) fn is_ready(&self) -> bool {
        let (free, all) = (self.sender.capacity(), self.sender.max_capacity());
        if self.state.stalled.load(Ordering::SeqCst) {
            return false;
        }
        if free >= 2 {
            return true;
        }
        self.state.stalled.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let drained_meanwhile = all - self.sender.capacity() <= all / 2;
        if drained_meanwhile {
            self.state.stalled.store(false, Ordering::SeqCst);
        }
        drained_meanwhile
    }

    pub(crate) fn interest(&self) -> Interest {
        match self.state.interest.load(Ordering::Acquire) {
            0 => Interest::Wanted,
            1 => Interest::Satisfied,
            _ => Interest::Dropped,
        }
    }

    /// Sends an update; there is room for it, as [`Self::is_ready`] was asked before. A reader that is gone is
    /// noticed through [`Self::interest`].
    pub(crate) fn send(&self, update: Update) {
        let sent = self.sender.try_send(update);
        debug_assert!(
            !matches!(sent, Err(mpsc::error::TrySendError::Full(_))),
            "sent without asking for room"
        );
    }

    /// Ends the sequence; what was sent before is still delivered.
    pub(crate) fn end(self, reason: FinishReason) {
        // A link ends once, because this takes it by value.
        let _ = self.state.end.set(reason);
    }
}

impl Inlet {
    /// The next update and whether the engine must be woken; `None` after the end. Cancel safe.
    pub(crate) async fn recv(&mut self) -> Option<(Update, bool)> {
        let update = self.receiver.recv().await?;
        fence(Ordering::SeqCst);
        let stalled = self.state.stalled.load(Ordering::SeqCst);
        let wake = stalled
            && self.receiver.len() <= self.receiver.max_capacity() / 2
            && self.state.stalled.swap(false, Ordering::SeqCst);
        Some((update, wake))
    }

    /// Why the sequence ended, once [`Self::recv`] gave `None`.
    pub(crate) fn end(&self) -> FinishReason {
        self.state.end.get().cloned().unwrap_or_else(|| FinishReason::Error("engine stopped".to_owned()))
    }

    /// Tells the engine that nothing more is wanted. False where it ended the sequence itself before.
    pub(crate) fn leave(&self, interest: Interest) -> bool {
        self.state.interest.store(interest as u8, Ordering::Release);
        self.state.end.get().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(token: u32) -> Update {
        Update::Token { token, logprob: None, ends: false }
    }

    #[tokio::test]
    async fn a_full_link_is_ready_again_once_half_is_free() {
        let (outlet, mut inlet) = link(8);
        let mut sent = 0;
        while outlet.is_ready() {
            outlet.send(token(sent));
            sent += 1;
        }
        assert_eq!(sent, 7, "a place stays for a start");
        let mut wakes = Vec::new();
        for _ in 0..3 {
            assert!(!outlet.is_ready());
            wakes.push(inlet.recv().await.expect("was sent").1);
        }
        assert_eq!(wakes, [false, false, true]);
        assert!(outlet.is_ready());
    }

    #[tokio::test]
    async fn what_was_sent_arrives_before_the_end() {
        let (outlet, mut inlet) = link(4);
        outlet.send(token(1));
        outlet.end(FinishReason::Length);
        assert!(inlet.recv().await.is_some());
        assert!(inlet.recv().await.is_none());
        assert_eq!(inlet.end(), FinishReason::Length);
        assert!(!inlet.leave(Interest::Dropped));
    }
}
