//! From signals to phases.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::serving::{Lifecycle, Phase};

/// What a second signal leaves of the drain.
const IMPATIENT: Duration = Duration::from_secs(1);

/// Waits for SIGTERM or Ctrl-C, drains for `drain`, then cuts. A second signal shortens the drain to a second.
///
/// # Errors
/// Signals cannot be received.
pub async fn drive(lifecycle: Lifecycle, drain: Duration) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    tracing::info!(drain_s = drain.as_secs(), "draining");
    lifecycle.advance(Phase::Draining);
    let again = async {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("second signal: draining for one more second");
        sleep(IMPATIENT).await;
    };
    tokio::select! { () = again => {}, () = sleep(drain) => {} }
    lifecycle.advance(Phase::Cut);
    Ok(())
}
