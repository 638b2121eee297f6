//! The threads that compile. They are few and live as long as the compiler: what a large grammar makes a thread's allocator
//! and stack keep is kept once a thread, not once a grammar.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};

use super::{GrammarError, GrammarLimits, invalid};

/// Stack of a thread. A schema nests and refers as deep as [`GrammarLimits::max_depth`] says; each level takes a few
/// kilobytes. Untouched pages cost nothing.
const STACK_BYTES: usize = 64 << 20;

const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const ABANDONED: u8 = 2;

/// The threads and the way to them.
pub(super) struct Workers {
    jobs: Sender<Job>,
    /// Jobs that wait or run, those included whose caller is gone.
    open: Arc<AtomicUsize>,
    limits: GrammarLimits,
}

struct Job {
    grammar: TopLevelGrammar,
    state: Arc<AtomicU8>,
    /// The grammar's start, and whether it has a first token: `start: start` compiles, too.
    reply: SyncSender<(Matcher, bool)>,
    _place: Place,
}

impl Workers {
    /// Starts the threads; they end with this value, each after what it compiles.
    pub(super) fn start(factory: &Arc<ParserFactory>, limits: GrammarLimits) -> Result<Self, GrammarError> {
        let (jobs, waiting) = mpsc::channel();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..limits.workers {
            let (factory, waiting) = (Arc::clone(factory), Arc::clone(&waiting));
            let thread = Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
            thread.spawn(move || run(&factory, &waiting)).map_err(invalid)?;
        }
        Ok(Self { jobs, open: Arc::default(), limits })
    }

    /// Compiles; waits for [`GrammarLimits::compile_ms`] at most, the wait for a thread included. What takes longer goes on
    /// to its own end, and until then counts against [`GrammarLimits::max_compiling`].
    pub(super) fn compile(&self, grammar: TopLevelGrammar) -> Result<Matcher, GrammarError> {
        let GrammarLimits { compile_ms: limit_ms, max_compiling: limit, .. } = self.limits;
        let place = Place::take(&self.open, limit)?;
        let state = Arc::new(AtomicU8::new(WAITING));
        let (reply, compiled) = mpsc::sync_channel(1);
        let job = Job { grammar, state: Arc::clone(&state), reply, _place: place };
        self.jobs.send(job).map_err(|_| GrammarError::Busy { limit })?;
        match compiled.recv_timeout(Duration::from_millis(limit_ms)) {
            Ok((matcher, is_possible)) => match matcher.get_error() {
                Some(error) => Err(invalid(error)),
                None if !is_possible => Err(invalid("no answer is possible")),
                None => Ok(matcher),
            },
            Err(RecvTimeoutError::Disconnected) => Err(invalid("it cannot be compiled")),
            Err(RecvTimeoutError::Timeout) if is_moved(&state, ABANDONED) => {
                Err(GrammarError::Busy { limit })
            }
            Err(RecvTimeoutError::Timeout) => Err(GrammarError::Slow { limit_ms }),
        }
    }
}

/// Moves a job that waits to `next`; false where somebody was faster.
fn is_moved(state: &AtomicU8, next: u8) -> bool {
    state.compare_exchange(WAITING, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

fn run(factory: &ParserFactory, waiting: &Mutex<Receiver<Job>>) {
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { grammar, state, reply, _place }) = next else { return };
        if !is_moved(&state, BEGUN) {
            continue;
        }
        // A fault of the parser's must not take a thread from all who come later.
        let compiled = catch_unwind(AssertUnwindSafe(|| {
            let matcher = Matcher::new(factory.create_parser(grammar));
            let is_possible = matcher.deep_clone().compute_mask().is_ok();
            (matcher, is_possible)
        }));
        drop(_place);
        // The caller may have lost its patience.
        if let Ok(compiled) = compiled {
            let _ = reply.send(compiled);
        }
    }
}

/// A place among those that wait or run; given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(count: &Arc<AtomicUsize>, limit: usize) -> Result<Self, GrammarError> {
        let place = Self(Arc::clone(count));
        if count.fetch_add(1, Ordering::AcqRel) < limit {
            Ok(place)
        } else {
            Err(GrammarError::Busy { limit })
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::{GrammarCompiler, GrammarSource};
    use crate::testing;

    #[test]
    fn places_are_given_back() {
        let limits = GrammarLimits { max_compiling: 1, ..GrammarLimits::default() };
        let compiler = GrammarCompiler::new(testing::tokenizer(), limits);
        for _ in 0..3 {
            compiler.compile(&GrammarSource::json_object()).expect("the one before has ended");
            assert!(compiler.compile(&GrammarSource::Regex("(".to_owned())).is_err());
        }
        let place = Place::take(&compiler.ready().expect("the threads").workers.open, 1).expect("free");
        let refused = compiler.compile(&GrammarSource::json_object());
        assert_eq!(refused, Err(GrammarError::Busy { limit: 1 }));
        drop(place);
        compiler.compile(&GrammarSource::json_object()).expect("free again");
    }

    #[test]
    fn whoever_finds_no_thread_is_told_that_the_server_is_busy_and_leaves_no_work() {
        // No thread ever takes the job, as if all were at work on something endless.
        let (jobs, waiting) = mpsc::channel();
        let limits = GrammarLimits { compile_ms: 10, ..GrammarLimits::default() };
        let workers = Workers { jobs, open: Arc::default(), limits };
        let grammar = TopLevelGrammar { grammars: Vec::new(), max_tokens: None };
        let refused = workers.compile(grammar).err();
        assert_eq!(refused, Some(GrammarError::Busy { limit: limits.max_compiling }));
        assert_eq!(workers.open.load(Ordering::Acquire), 1, "it counts until it leaves the queue");
        let job: Job = waiting.recv().expect("the job");
        assert!(!is_moved(&job.state, BEGUN), "nobody waits for it any more");
        drop(job);
        assert_eq!(workers.open.load(Ordering::Acquire), 0);
    }
}
