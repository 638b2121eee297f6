//! The copy of a shared ledger in a gateway's own data directory, which its reports are read from.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Ledger;
use super::copy::{Copier, Place};
use super::types::LedgerError;

/// How far reports are behind, at least.
const BEHIND: Duration = Duration::from_millis(500);
/// Looks between two for the requests of dead gateways.
const LOOKS: u32 = 8;

/// Goes on with the copy until it is dropped, and has requests of dead gateways ended.
pub struct Mirror {
    /// Closed to stop the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Mirror {
    /// Copies what is there now, then goes on in a thread.
    pub fn start(from: &Place, dir: &Path, ledger: Ledger) -> Result<Self, LedgerError> {
        let to = Place::Directory(dir.to_owned());
        let mut copier = Copier::open(from, &to)?;
        copier.go_on()?;
        let (stop, stopped) = mpsc::channel();
        let from = from.clone();
        let run = move || {
            let mut copier = Some(copier);
            let mut look = 0_u32;
            while stopped.recv_timeout(BEHIND) == Err(RecvTimeoutError::Timeout) {
                look = look.wrapping_add(1);
                if look.is_multiple_of(LOOKS) {
                    ledger.expire_credit(now_ms());
                }
                // A connection that broke is made anew at the next look.
                copier = copier.take().or_else(|| Copier::open(&from, &to).ok());
                if let Some(Err(error)) = copier.as_mut().map(Copier::go_on) {
                    tracing::warn!(%error, "the copy of the ledger does not go on");
                    copier = None;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("mirror".to_owned())
            .spawn(run)
            .map_err(|error| LedgerError::Unavailable(format!("mirror thread: {error}")))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Drop for Mirror {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
