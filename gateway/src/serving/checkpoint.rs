//! When to tell the ledger how far a stream got, and when the stream must wait for the ledger.
//!
//! After a crash the last checkpoint is billed. It never runs ahead of what was flushed, and what was handed over never runs
//! more than [`MAX_AHEAD`] tokens ahead of it.

use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::ledger::LedgerError;

/// Most tokens handed over beyond the last durable checkpoint.
pub(super) const MAX_AHEAD: u32 = 32;
/// A checkpoint is started after this many flushed tokens: early enough that its commit seldom has to be awaited.
const EVERY_TOKENS: u32 = 16;
const EVERY: Duration = Duration::from_millis(100);

/// Acknowledgement of one checkpoint.
pub(super) type Ack = BoxFuture<'static, Result<(), LedgerError>>;

/// Progress of one stream's checkpoints.
pub(super) struct Checkpoints {
    durable: u32,
    pending: Option<(u32, Ack)>,
    last: Instant,
}

impl Checkpoints {
    pub(super) fn new(now: Instant) -> Self {
        Self { durable: 0, pending: None, last: now }
    }

    pub(super) fn durable(&self) -> u32 {
        self.durable
    }

    pub(super) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether `tokens` more may go out after `yielded`. With everything yielded durable they always may, however many.
    pub(super) fn allows(&self, yielded: u32, tokens: u32) -> bool {
        yielded <= self.durable || yielded + tokens - self.durable <= MAX_AHEAD
    }

    /// Whether `flushed` is worth a checkpoint now.
    pub(super) fn is_due(&self, flushed: u32, now: Instant) -> bool {
        self.pending.is_none()
            && flushed > self.durable
            && (flushed - self.durable >= EVERY_TOKENS || now.duration_since(self.last) >= EVERY)
    }

    /// Sends off a checkpoint at `flushed` tokens; `ack` does so when it is first polled, which is done here.
    pub(super) fn begin(&mut self, flushed: u32, ack: Ack, now: Instant) -> Result<(), LedgerError> {
        self.pending = Some((flushed, ack));
        self.last = now;
        self.poll()
    }

    /// Takes in the pending acknowledgement if it is there already.
    pub(super) fn poll(&mut self) -> Result<(), LedgerError> {
        match self.pending.as_mut().and_then(|(_, ack)| ack.now_or_never()) {
            None => Ok(()),
            Some(result) => self.complete(result),
        }
    }

    /// Waits for the pending acknowledgement.
    pub(super) async fn wait(&mut self) -> Result<(), LedgerError> {
        match self.pending.as_mut() {
            None => Ok(()),
            Some((_, ack)) => {
                let result = ack.await;
                self.complete(result)
            }
        }
    }

    fn complete(&mut self, result: Result<(), LedgerError>) -> Result<(), LedgerError> {
        if let Some((tokens, _)) = self.pending.take() {
            result?;
            self.durable = tokens;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done() -> Ack {
        async { Ok(()) }.boxed()
    }

    #[tokio::test]
    async fn never_more_than_the_window_ahead() {
        let now = Instant::now();
        let mut checkpoints = Checkpoints::new(now);
        assert!(checkpoints.allows(0, 500));
        assert!(checkpoints.allows(31, 1));
        assert!(!checkpoints.allows(32, 1));
        assert!(!checkpoints.is_due(15, now) && checkpoints.is_due(16, now));
        assert!(checkpoints.is_due(1, now + EVERY));
        checkpoints.begin(16, futures::future::pending().boxed(), now).unwrap();
        assert!(checkpoints.is_pending() && !checkpoints.is_due(32, now));
        checkpoints.begin(16, done(), now).unwrap();
        checkpoints.wait().await.unwrap();
        assert_eq!(checkpoints.durable(), 16);
        assert!(checkpoints.allows(47, 1) && !checkpoints.allows(48, 1));
        assert!(!checkpoints.is_due(16, now + EVERY));
    }
}
