//! Worker threads that share the tasks of one op.
//!
//! A step is some hundred ops of 5 to 500 us. A general work-stealing pool spends a good part of the short ones on
//! splitting, stealing and sleeping; here a task is claimed with one atomic operation, by whoever is free. A worker that
//! loses its core to another process only delays the task it holds.
//!
//! Between ops the workers watch for the next one for [`WATCH`], offering their core to others, and then sleep.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How long a worker without work stays awake: longer than the time between two steps.
const WATCH: Duration = Duration::from_micros(200);

/// Looks, some 20 ns apart, before a thread that waits offers its core to others.
const LOOKS: usize = 100;

/// Bits of a ticket that count the unclaimed tasks; the others number the job.
const COUNT_BITS: u32 = 24;

const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// One op's tasks. Lives on the stack of the thread that runs the op, until all are done.
struct Job<'a> {
    count: usize,
    task: &'a (dyn Fn(usize) + Sync),
}

struct Pool {
    /// Held while a job runs.
    busy: Mutex<()>,
    /// Job number and unclaimed tasks. Whoever takes one off has claimed it.
    ticket: AtomicU64,
    job: AtomicPtr<Job<'static>>,
    done: AtomicUsize,
    /// The panic of a task.
    failure: Mutex<Option<Box<dyn Any + Send>>>,
    workers: AtomicUsize,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
}

static POOL: Pool = Pool {
    busy: Mutex::new(()),
    ticket: AtomicU64::new(0),
    job: AtomicPtr::new(std::ptr::null_mut()),
    done: AtomicUsize::new(0),
    failure: Mutex::new(None),
    workers: AtomicUsize::new(0),
    sleepers: AtomicUsize::new(0),
    sleep: Mutex::new(()),
    wake: Condvar::new(),
};

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` without the help of other threads. The results are the same, bit for bit.
pub fn on_one_thread<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ALONE.set(self.0);
        }
    }
    let _restore = Restore(ALONE.replace(true));
    f()
}

/// Calls `task` with each of `0..count`, in any order and on any thread; the ops of this crate share their work so.
/// A call from within a task, or while another thread's tasks run, does its work alone.
///
/// # Panics
/// If a task panics.
pub(crate) fn for_each(count: usize, task: impl Fn(usize) + Sync) {
    if count > 1 && count as u64 <= COUNT && !ALONE.get() {
        match POOL.busy.try_lock() {
            Ok(guard) => return POOL.run(&guard, &Job { count, task: &task }),
            Err(TryLockError::Poisoned(guard)) => {
                return POOL.run(&guard.into_inner(), &Job { count, task: &task });
            }
            Err(TryLockError::WouldBlock) => {}
        }
    }
    (0..count).for_each(task);
}

/// Starts a worker for each thread of the global rayon pool, which the operator can size, but the caller's. A machine
/// without threads to give computes on the caller's.
fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        for i in 1..rayon::current_num_threads() {
            let worker = std::thread::Builder::new().name(format!("kernels-{i}")).spawn(|| POOL.work());
            POOL.workers.fetch_add(usize::from(worker.is_ok()), Ordering::Relaxed);
        }
    });
}

impl Pool {
    fn run(&self, _busy: &MutexGuard<'_, ()>, job: &Job<'_>) {
        start();
        if self.workers.load(Ordering::Relaxed) == 0 {
            return (0..job.count).for_each(job.task);
        }
        self.done.store(0, Ordering::Relaxed);
        // The lifetime ends here; `claim` says why nobody looks at the job after this function.
        self.job.store(std::ptr::from_ref(job).cast_mut().cast(), Ordering::Relaxed);
        let number = (self.ticket.load(Ordering::Relaxed) >> COUNT_BITS).wrapping_add(1);
        self.ticket.store(number << COUNT_BITS | job.count as u64, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let _sleep = lock(&self.sleep);
            self.wake.notify_all();
        }
        while self.claim() {}
        let mut looks = 0;
        while self.done.load(Ordering::Acquire) < job.count {
            pause(&mut looks);
        }
        if let Some(panic) = lock(&self.failure).take() {
            resume_unwind(panic);
        }
    }

    /// Does one task; false if none is left.
    fn claim(&self) -> bool {
        let ticket = self.ticket.load(Ordering::SeqCst);
        if ticket & COUNT == 0 {
            return false;
        }
        let job = self.job.load(Ordering::Relaxed);
        if self.ticket.compare_exchange(ticket, ticket - 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return true;
        }
        // SAFETY: the exchange took a task off the ticket whose job was published before it. The next job, and with it
        // the next pointer, comes only after `done` counts this task, so `job` is the pointer of this ticket; and
        // `run`, which borrows the job, waits for the same count.
        let job = unsafe { &*job };
        let index = job.count - (ticket & COUNT) as usize;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (job.task)(index))) {
            *lock(&self.failure) = Some(panic);
        }
        self.done.fetch_add(1, Ordering::Release);
        true
    }

    fn work(&self) {
        loop {
            let (mut idle_since, mut looks) = (Instant::now(), 0usize);
            loop {
                if self.claim() {
                    looks = 0;
                    continue;
                }
                // The clock is asked before the core is offered, and otherwise left alone.
                match looks {
                    0 => idle_since = Instant::now(),
                    _ if looks.is_multiple_of(LOOKS) && idle_since.elapsed() > WATCH => break,
                    _ => {}
                }
                pause(&mut looks);
            }
            let mut sleep = lock(&self.sleep);
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            while self.ticket.load(Ordering::SeqCst) & COUNT == 0 {
                sleep = self.wake.wait(sleep).unwrap_or_else(PoisonError::into_inner);
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Lets a moment pass, and from time to time a thread that needs the core more.
fn pause(looks: &mut usize) {
    *looks += 1;
    if looks.is_multiple_of(LOOKS) {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{for_each, on_one_thread};

    fn calls(count: usize) -> Vec<usize> {
        let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        for_each(count, |i| {
            seen[i].fetch_add(1, Ordering::Relaxed);
        });
        seen.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_task_runs_once() {
        for round in 0..2000 {
            let count = round % 67;
            assert_eq!(calls(count), vec![1; count], "round {round}");
        }
        assert_eq!(on_one_thread(|| calls(9)), [1; 9]);
    }

    #[test]
    fn threads_may_call_at_once_and_tasks_may_call_again() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        assert_eq!(calls(23), [1; 23]);
                    }
                });
            }
        });
        for_each(8, |_| assert_eq!(calls(5), [1; 5]));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let panicked = std::panic::catch_unwind(|| for_each(16, |i| assert_ne!(i, 11, "eleven")));
        assert!(panicked.is_err());
        assert_eq!(calls(16), [1; 16]);
    }
}
