//! One line: a request like any other, whose answer is kept before it is billed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::input::{self, LineLimits, Parsed};
use super::on_disk;
use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::generation::{Generation, Surface, unary};
use crate::api::openai::{chat, completions, embeddings};
use crate::api::scope::Scope;
use crate::api::{json::Json, responses};
use crate::batches::{Answer, Batch, Endpoint, Line};
use crate::ledger::Sha256Digest;
use crate::money::{Picos, Tokens};
use crate::serving::{self, BatchJob, Receipt, unix_ms};

/// Pause before a line is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// What the lines of a batch share.
pub(super) struct Work {
    pub(super) api: Shared,
    pub(super) batch: Batch,
    pub(super) input: Arc<File>,
    pub(super) limits: LineLimits,
    /// When the batch's time is over.
    pub(super) until: Instant,
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineEnd {
    /// Its answer is kept, and billed.
    Kept,
    /// It was to stop before that.
    Stopped,
    /// It is to be tried again after a pause; the flag says whether it counts as a try.
    Again(Duration, bool),
}

/// An answer that is still to be billed.
enum Held {
    Generated(Box<unary::Held>),
    Embedded(Vec<u8>, Box<serving::Held>),
}

impl Held {
    fn answer(&self) -> (&[u8], Receipt) {
        match self {
            Held::Generated(held) => (&held.answer, held.receipt),
            Held::Embedded(answer, held) => (answer, held.receipt),
        }
    }

    fn note_kept(&mut self) {
        match self {
            Held::Generated(held) => held.note_kept(),
            Held::Embedded(_, held) => held.note_kept(),
        }
    }

    async fn settle(&mut self) -> ApiResult<Receipt> {
        match self {
            Held::Generated(held) => Ok(held.settle().await?),
            Held::Embedded(_, held) => Ok(held.settle().await?),
        }
    }
}

/// Does a line once. `is_last` where its next fault is its answer.
pub(super) async fn run(work: &Work, line: &Line, is_last: bool, mut stop: watch::Receiver<bool>) -> LineEnd {
    let scope = Arc::new(Scope::new());
    // Only what comes before the answer is kept may be broken off: then the hold is voided and nothing is billed.
    let answered = tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => return LineEnd::Stopped,
        answered = answer(work, line, &scope) => answered,
    };
    match answered {
        Ok(mut held) => {
            let (body, receipt) = held.answer();
            let text = told(line, &scope, 200, &String::from_utf8_lossy(body));
            if let Err(end) = keep(work, line, &scope, true, receipt, text).await {
                return end;
            }
            held.note_kept();
            if let Err(error) = held.settle().await {
                // The hold stays open; the next start bills what is kept.
                tracing::error!(
                    request_id = scope.request_id,
                    reason = error.message,
                    "a line is not billed yet"
                );
            }
            LineEnd::Kept
        }
        Err(error) => match retry(&error, is_last) {
            Some(end) => end,
            None => {
                let status = error.code.row().status;
                let text = told(line, &scope, status, &error.body().to_string());
                let nothing = Receipt { tokens: Tokens::default(), cost: Picos::ZERO };
                keep(work, line, &scope, false, nothing, text).await.err().unwrap_or(LineEnd::Kept)
            }
        },
    }
}

/// Whether an error passes by itself.
fn retry(error: &ApiError, is_last: bool) -> Option<LineEnd> {
    match error.code {
        Code::Overloaded
        | Code::NoSurplus
        | Code::LedgerUnavailable
        | Code::GuardUnavailable
        | Code::RateRequests
        | Code::RateTokens => {
            let pause = error.retry_after_ms.map_or(PAUSE, Duration::from_millis);
            Some(LineEnd::Again(pause.max(PAUSE), false))
        }
        // The server goes down, or the batch's time is over: whoever runs the lines knows.
        Code::ShuttingDown | Code::RequestTimeout => Some(LineEnd::Again(PAUSE, false)),
        Code::ServerError if !is_last => Some(LineEnd::Again(PAUSE, true)),
        _ => None,
    }
}

async fn keep(
    work: &Work,
    line: &Line,
    scope: &Scope,
    is_ok: bool,
    receipt: Receipt,
    text: String,
) -> Result<(), LineEnd> {
    let (id, n) = (work.batch.id.clone(), line.n);
    let answer = Answer { request_id: scope.request_id.clone(), is_ok, receipt, text };
    let kept = on_disk(&work.api.batches, move |batches| batches.keep_answer(&id, n, &answer)).await;
    kept.map_err(|error| {
        tracing::error!(%error, batch = work.batch.id, "an answer cannot be kept");
        LineEnd::Again(PAUSE, false)
    })
}

/// The line of the output or error file. `body` is JSON and stays as it was written.
fn told(line: &Line, scope: &Scope, status: u16, body: &str) -> String {
    let (custom_id, request_id) =
        (Value::from(line.custom_id.as_str()), Value::from(scope.request_id.as_str()));
    format!(
        "{{\"id\":\"batch_req_{}\",\"custom_id\":{custom_id},\"response\":{{\"status_code\":{status},\
         \"request_id\":{request_id},\"body\":{body}}},\"error\":null}}",
        scope.suffix()
    )
}

async fn answer(work: &Work, line: &Line, scope: &Arc<Scope>) -> ApiResult<Held> {
    let Work { api, batch, .. } = work;
    let (body, sha256) = read(work, line).await?;
    scope.note_body(sha256);
    let identity = api.accounts.identity(&batch.key_id, unix_ms())?;
    let job = BatchJob { billed: batch.window.tier(), until: work.until };
    let caller =
        Caller { identity, scope: Arc::clone(scope), batch: Some(job), wants_receipt: false, wire: None };
    match batch.endpoint {
        Endpoint::Chat => {
            let (generation, surface) = chat::prepare(api, &caller, body)?;
            generate(api, &caller, generation, surface).await
        }
        Endpoint::Completions => {
            let (generation, surface) = completions::prepare(api, &caller, body).await?;
            generate(api, &caller, generation, surface).await
        }
        Endpoint::Responses => {
            let prepared = responses::prepare(api, &caller, body).await?;
            if prepared.background {
                return Err(not_here("background"));
            }
            generate(api, &caller, prepared.generation, prepared.answer).await
        }
        Endpoint::Embeddings => {
            let (answer, held) = embeddings::hold(api, &caller, body).await?;
            Ok(Held::Embedded(embeddings::to_json(&answer), Box::new(held)))
        }
    }
}

async fn generate(
    api: &Shared,
    caller: &Caller,
    generation: Generation,
    surface: impl Surface,
) -> ApiResult<Held> {
    if generation.stream {
        return Err(not_here("stream"));
    }
    let run = generation.begin(api, caller, None).await?;
    Ok(Held::Generated(Box::new(unary::hold(run, surface).await?)))
}

fn not_here(param: &str) -> ApiError {
    let message =
        format!("A line of a batch cannot have '{param}': its answer comes as a whole. Leave it out.");
    ApiError::param(Code::UnsupportedValue, param, message)
}

/// A line's body, and the hash of the whole line.
async fn read(work: &Work, line: &Line) -> ApiResult<(Json, Sha256Digest)> {
    use sha2::{Digest, Sha256};
    let (input, (start, length)) = (Arc::clone(&work.input), line.place);
    let text = spawn_blocking(move || {
        let mut text = vec![0; length as usize];
        input.read_exact_at(&mut text, start).map(|()| text)
    });
    let text = text.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    let text = text.map_err(|error| unreadable(work, &error.to_string()))?;
    let sha256 = Sha256::digest(text.trim_ascii()).into();
    let parsed = input::parse(text.trim_ascii(), line.n, &work.batch, work.limits, usize::MAX);
    let Parsed { body, .. } = parsed.map_err(|error| unreadable(work, &error.message))?;
    Ok((body, sha256))
}

/// It was read before, when the batch began.
fn unreadable(work: &Work, reason: &str) -> ApiError {
    tracing::error!(batch = work.batch.id, reason, "a line cannot be read any more");
    ApiError::new(Code::ServerError, "The line could not be read.")
}
