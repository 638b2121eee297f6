//! Places for lines in flight: the organisation that has fewest gets the next one, and of its batches the one whose time
//! is over first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// A bounded number of places.
#[derive(Clone)]
pub(super) struct Slots {
    state: Arc<Mutex<State>>,
}

struct State {
    free: usize,
    taken: HashMap<String, usize>,
    waiting: Vec<Waiter>,
}

struct Waiter {
    org_id: String,
    expires_ms: u64,
    grant: oneshot::Sender<Slot>,
}

/// A place; dropping it gives it to the next.
pub(super) struct Slot {
    slots: Slots,
    org_id: String,
}

impl Slots {
    pub(super) fn new(count: usize) -> Self {
        let state = State { free: count, taken: HashMap::new(), waiting: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counters and a list: every state is valid.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place. Cancel safe: a place that comes too late goes to the next.
    pub(super) async fn take(&self, org_id: &str, expires_ms: u64) -> Slot {
        let (grant, granted) = oneshot::channel();
        self.lock().waiting.push(Waiter { org_id: org_id.to_owned(), expires_ms, grant });
        self.give();
        granted.await.expect("a waiter is only forgotten when this future is gone")
    }

    /// Gives free places to those who wait.
    fn give(&self) {
        loop {
            let mut state = self.lock();
            let State { free, taken, waiting } = &mut *state;
            waiting.retain(|waiter| !waiter.grant.is_closed());
            let order =
                |waiter: &Waiter| (taken.get(&waiter.org_id).copied().unwrap_or(0), waiter.expires_ms);
            let next = (0..waiting.len()).min_by_key(|at| order(&waiting[*at]));
            let Some(next) = next.filter(|_| *free > 0) else { return };
            let Waiter { org_id, grant, .. } = waiting.remove(next);
            *free -= 1;
            *taken.entry(org_id.clone()).or_default() += 1;
            drop(state);
            // Where nobody takes it, dropping it brings it back.
            let _ = grant.send(Slot { slots: self.clone(), org_id });
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        state.free += 1;
        if let Some(count) = state.taken.get_mut(&self.org_id) {
            *count -= 1;
            if *count == 0 {
                state.taken.remove(&self.org_id);
            }
        }
        drop(state);
        self.slots.give();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn who_has_least_comes_first_then_who_is_due() {
        let slots = Slots::new(2);
        let held = [slots.take("a", 9).await, slots.take("a", 9).await];
        let mut late = Box::pin(slots.take("a", 5));
        let mut due = Box::pin(slots.take("a", 3));
        let mut other = Box::pin(slots.take("b", 8));
        assert!(late.as_mut().now_or_never().is_none() && due.as_mut().now_or_never().is_none());
        assert!(other.as_mut().now_or_never().is_none());
        let [first, second] = held;
        drop(first);
        let of_other = other.as_mut().now_or_never().expect("b has none, a has one");
        drop(second);
        let of_due = due.as_mut().now_or_never().expect("it is due before the other of a");
        drop(of_due);
        let gone = Box::pin(slots.take("c", 1));
        drop(gone);
        let _of_late = late.as_mut().now_or_never().expect("a place is free");
        drop(of_other);
        assert_eq!(slots.lock().free, 1, "nothing is lost to who went away");
    }
}
