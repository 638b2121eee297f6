//! The server's way to its end, seen by connections and streams.

use tokio::sync::watch;

/// What a server still does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Everything.
    Serving,
    /// Takes no new work, finishes what runs.
    Draining,
    /// Ends what still runs.
    Cut,
}

/// Moves forward only; every holder of a clone sees it.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    phase: watch::Sender<Phase>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self { phase: watch::Sender::new(Phase::Serving) }
    }
}

impl Lifecycle {
    /// Where the server is.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Moves on to `phase`; going back is ignored.
    pub fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let forward = phase > *current;
            *current = phase.max(*current);
            forward
        });
    }

    /// Returns once `phase` is reached.
    pub async fn reached(&self, phase: Phase) {
        let mut seen = self.phase.subscribe();
        // Cannot fail: `self` keeps the sender alive.
        let _ = seen.wait_for(|current| *current >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn moves_forward_only() {
        let life = Lifecycle::default();
        life.clone().advance(Phase::Cut);
        life.advance(Phase::Draining);
        life.reached(Phase::Draining).await;
        assert_eq!(life.phase(), Phase::Cut);
    }
}
