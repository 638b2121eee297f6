//! Waiting for the engine, within the request's time.

use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};

use super::super::admission::Job;
use super::super::{Cause, Phase, Serving, Step};

/// What `work` comes to, until there is a heartbeat to tell, or the request must end. Its reader was `idle` so long.
///
/// # Errors
/// The step to tell meanwhile; `work` is dropped.
pub(super) async fn during<T>(
    serving: &Serving,
    job: &Job,
    idle: Duration,
    work: impl Future<Output = T>,
) -> Result<T, Step> {
    let options = serving.options;
    let (deadline, cause) = job.deadline(options.request_deadline, idle);
    // A stream that always has something ready must not outrun these two.
    if serving.lifecycle.phase() == Phase::Cut {
        return Err(Step::Cut(Cause::Shutdown));
    }
    if Instant::now() >= deadline {
        return Err(Step::Cut(cause));
    }
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = serving.lifecycle.reached(Phase::Cut) => Err(Step::Cut(Cause::Shutdown)),
        () = sleep_until(deadline.into()) => Err(Step::Cut(cause)),
        () = sleep(options.heartbeat) => Err(Step::Idle),
    }
}
