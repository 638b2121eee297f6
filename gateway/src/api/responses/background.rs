//! Answers that are made while no client waits.
//!
//! The run belongs to a task of its own: who asked may go away, look on from any event on, or end it. Its tokens count as
//! handed over when they are kept, so it is billed at its end for all that was generated, and a failed one costs nothing.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::body::Body;
use axum::http::Response;
use bytes::Bytes;
use futures::FutureExt;
use futures::stream::unfold;
use tokio::time::timeout;

use super::object::End;
use super::surface::{Answer, json_body};
use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::generation::{Ending, Generation, Progress, Run, Surface};
use crate::api::sse;
use crate::ledger::EndReason;
use crate::money::{Picos, Tokens};
use crate::responses::{self, Watcher};
use crate::serving::{Cause, Receipt};

/// Begins an answer; what it returns is the object in its first state, or a stream of events that may be left.
pub(super) async fn start(
    api: &Shared,
    caller: &Caller,
    mut generation: Generation,
    mut answer: Answer,
) -> ApiResult<Response<Body>> {
    let is_stream = std::mem::take(&mut generation.stream);
    let mut run = generation.begin(api, caller, None).await?;
    answer.served(run.flight().tier());
    let begun = answer.begun().clone();
    answer.keep(begun.clone(), Vec::new())?;
    let (org, id) = (&caller.identity.org_id, begun["id"].as_str().unwrap_or_default());
    let live = api.background.begin(org, id);
    if is_stream {
        answer.begin();
        live.tell(answer.take_events());
    }
    let watcher = api.background.watch(org, id).filter(|_| is_stream);
    tokio::spawn(task(run, answer, live, is_stream));
    match watcher {
        Some(watcher) => Ok(events(watcher, 0, api.serving.options.heartbeat)),
        None => Ok(json_body(&begun)),
    }
}

async fn task(run: Run, mut answer: Answer, live: responses::Run, is_stream: bool) {
    let making = AssertUnwindSafe(make(run, &mut answer, &live, is_stream));
    let object = match making.catch_unwind().await {
        Ok(object) => object,
        Err(_) => {
            let message = "The server had an error while processing the request. Nothing was charged.";
            answer.end(&End::Failed(&ApiError::new(Code::ServerError, message)))
        }
    };
    let rest = answer.take_events();
    let events = if is_stream { [live.log(), rest.clone()].concat() } else { Vec::new() };
    let events = events.iter().map(|event| String::from_utf8_lossy(event).into_owned()).collect();
    // Kept before anybody hears of the end: who hears of it finds it.
    answer.keep_end(object, events);
    if is_stream {
        live.tell(rest);
    }
}

/// Runs to the end, whichever it is; returns the object at its end.
async fn make(
    mut run: Run,
    answer: &mut Answer,
    live: &responses::Run,
    is_stream: bool,
) -> serde_json::Value {
    loop {
        let progress = tokio::select! {
            biased;
            () = live.cancelled() => return cancel(run, answer).await,
            progress = run.next() => progress,
        };
        match progress {
            Progress::Output(_, piece) => answer.say(&piece.parts, &piece.logprobs),
            Progress::Ended(_, rest, ending) => {
                answer.say(&rest.parts, &rest.logprobs);
                answer.stop(&ending);
            }
            Progress::Idle => {}
            Progress::Done => return settle(&mut run, EndReason::Finished, answer).await,
            Progress::Cut(Cause::Budget(_)) if answer.has_output() => {
                answer.stop(&Ending::Length);
                return settle(&mut run, EndReason::Budget, answer).await;
            }
            Progress::Cut(cause) => {
                run.cut(&cause).await;
                sign(&mut run, answer);
                return answer.end(&End::Failed(&ApiError::from(cause)));
            }
        }
        let events = answer.take_events();
        if is_stream {
            live.tell(events);
        }
    }
}

async fn settle(run: &mut Run, end: EndReason, answer: &mut Answer) -> serde_json::Value {
    let receipt = run.settle(end).await;
    sign(run, answer);
    match receipt {
        Ok(receipt) => answer.complete(&receipt),
        Err(error) => answer.end(&End::Failed(&error.into())),
    }
}

fn sign(run: &mut Run, answer: &mut Answer) {
    if let Some(signed) = run.take_signed() {
        answer.signed(signed);
    }
}

/// Bills what was generated; without any output that is nothing.
async fn cancel(mut run: Run, answer: &mut Answer) -> serde_json::Value {
    if !answer.has_output() {
        drop(run);
        return answer.end(&End::Cancelled(&Receipt { tokens: Tokens::default(), cost: Picos::ZERO }));
    }
    let receipt = run.settle(EndReason::Disconnected).await;
    sign(&mut run, answer);
    match receipt {
        Ok(receipt) => answer.end(&End::Cancelled(&receipt)),
        Err(error) => answer.end(&End::Failed(&error.into())),
    }
}

/// The events of an answer in the making, from number `first` on.
pub(super) fn events(watcher: Watcher, first: usize, heartbeat: Duration) -> Response<Body> {
    let frames = unfold((watcher, first), move |(mut watcher, number)| async move {
        match timeout(heartbeat, watcher.event(number)).await {
            Err(_) => Some((Ok(sse::PING), (watcher, number))),
            Ok(event) => Some((Ok::<_, Infallible>(event?), (watcher, number + 1))),
        }
    });
    sse::response(Body::from_stream(frames))
}

/// Events that are all there already.
pub(super) fn past_events(events: &[String]) -> Response<Body> {
    sse::response(Body::from(Bytes::from(events.concat())))
}
