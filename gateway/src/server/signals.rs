//! From signals to phases.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use crate::serving::{Lifecycle, Phase};

/// What a second signal leaves of the drain.
const IMPATIENT: Duration = Duration::from_secs(1);

/// SIGTERM and Ctrl-C, caught from the moment this exists; make it before the server is announced as ready.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Needs the runtime's context.
    ///
    /// # Errors
    /// Signals cannot be received.
    pub fn catch() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn recv(&mut self) {
        tokio::select! { _ = self.terminate.recv() => {}, _ = self.interrupt.recv() => {} }
    }

    /// Waits for a signal, drains for `drain`, then cuts. A second signal shortens the drain to a second.
    pub async fn drive(mut self, lifecycle: Lifecycle, drain: Duration) {
        self.recv().await;
        tracing::info!(drain_s = drain.as_secs(), "draining");
        lifecycle.advance(Phase::Draining);
        let again = async {
            self.recv().await;
            tracing::info!("second signal: draining for one more second");
            sleep(IMPATIENT).await;
        };
        tokio::select! { () = again => {}, () = sleep(drain) => {} }
        lifecycle.advance(Phase::Cut);
    }
}
