//! How far the ledger's notes of a stream are from what its client has.

use std::time::Instant;

use futures::FutureExt;

use super::super::checkpoint::MAX_AHEAD;
use super::super::step::Cause;
use super::super::unix_ms;
use super::InFlight;
use crate::config::Journal;
use crate::ledger::LedgerError;

fn broken(error: LedgerError) -> Cause {
    Cause::Ledger(error.to_string())
}

impl InFlight {
    /// Waits until `tokens` more of `choice` may be handed to the connection. Call it inside the body's poll, right before
    /// the frame is handed over.
    pub async fn before_delivery(&mut self, choice: usize, tokens: u32) -> Result<(), Cause> {
        match self.serving.options.journal {
            Journal::Behind => self.stay_close(tokens).await,
            Journal::Ahead => self.note_first(choice, tokens).await,
        }
    }

    /// With a journal behind: what is handed over is at most [`MAX_AHEAD`] tokens ahead of the last durable note, and the
    /// note never ahead of what the socket took.
    async fn stay_close(&mut self, tokens: u32) -> Result<(), Cause> {
        loop {
            self.checkpoints.poll().map_err(broken)?;
            let (yielded, flushed) = self.delivery.totals();
            let allowed = self.checkpoints.allows(yielded, tokens);
            let now = Instant::now();
            if self.checkpoints.is_due(flushed, now)
                || (!allowed && !self.checkpoints.is_pending() && flushed > self.checkpoints.durable())
            {
                self.checkpoint(flushed, now).map_err(broken)?;
                continue;
            }
            if allowed {
                return Ok(());
            }
            if self.checkpoints.is_pending() {
                self.checkpoints.wait().await.map_err(broken)?;
            } else {
                self.delivery.flushed_beyond(self.checkpoints.durable()).await;
            }
        }
    }

    /// With a journal ahead: the frame is in a durable note before the connection gets it. What the socket has not taken yet
    /// stays within [`MAX_AHEAD`] tokens, beside one frame.
    async fn note_first(&mut self, choice: usize, tokens: u32) -> Result<(), Cause> {
        let (yielded, flushed) = self.delivery.totals();
        if yielded > flushed && yielded + tokens > flushed + MAX_AHEAD {
            self.delivery.flushed_beyond((yielded + tokens - MAX_AHEAD).min(yielded) - 1).await;
        }
        let mut outputs = self.delivery.counts().0;
        outputs[choice] += tokens;
        let tokens = self.meter.part(&outputs);
        self.serving.ledger.checkpoint(&self.job.request_id, tokens, unix_ms()).await.map_err(broken)
    }

    /// What the client has, per choice, as far as known: in doubt not too much with a journal behind, and not too little with
    /// one ahead.
    pub(super) fn sent(&self) -> Vec<u32> {
        match self.serving.options.journal {
            Journal::Behind => self.delivery.delivered(),
            Journal::Ahead => self.delivery.counts().0,
        }
    }

    /// Waits until the socket has taken everything that was handed over, so that a bill for all of it is never ahead of
    /// the client. Like [`before_delivery`](Self::before_delivery), for the body's poll only.
    pub async fn all_flushed(&mut self) {
        let (yielded, _) = self.delivery.totals();
        if let Some(before_last) = yielded.checked_sub(1) {
            self.delivery.flushed_beyond(before_last).await;
        }
    }

    fn checkpoint(&mut self, flushed: u32, now: Instant) -> Result<(), LedgerError> {
        let outputs = self.delivery.counts().1;
        let tokens = self.meter.part(&outputs);
        let (ledger, id, at_ms) = (self.serving.ledger.clone(), self.job.request_id.clone(), unix_ms());
        let ack = async move { ledger.checkpoint(&id, tokens, at_ms).await };
        self.checkpoints.begin(flushed, ack.boxed(), now)
    }
}
