//! A generation as one answer.

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};

use super::output::Choice;
use super::run::{Progress, Run};
use super::surface::Surface;
use crate::api::error::{ApiError, ApiResult};
use crate::ledger::{EndReason, LedgerError};
use crate::serving::{AdmitError, Cause, Receipt};

/// The answer over HTTP.
pub async fn respond(run: Run, surface: impl Surface) -> ApiResult<Response<Body>> {
    let mut response = Response::new(Body::from(answer(run, surface).await?));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Runs to the end and gives the answer's JSON. At the end of a budget the answer is what was generated until then.
pub async fn answer(mut run: Run, mut surface: impl Surface) -> ApiResult<Vec<u8>> {
    let (choices, end) = finish(&mut run).await?;
    let receipt = run.settle(end).await?;
    if let Some(signed) = run.take_signed() {
        surface.signed(signed);
    }
    Ok(surface.answer(choices, &receipt))
}

/// A whole answer that is not billed yet. Dropping it bills nothing, unless it was noted as kept.
pub struct Held {
    /// The answer's JSON.
    pub answer: Vec<u8>,
    /// What is going to be billed.
    pub receipt: Receipt,
    run: Run,
    end: EndReason,
}

impl Held {
    /// Notes that the answer is where the client finds it: from here on it is billed, whatever comes.
    pub fn note_kept(&mut self) {
        self.run.flight().note_kept();
    }

    /// Bills it; when this returns, the bill is durable.
    pub async fn settle(&mut self) -> Result<Receipt, LedgerError> {
        self.run.settle(self.end).await
    }
}

/// As [`answer`], but the bill waits until the answer is kept.
pub async fn hold(mut run: Run, mut surface: impl Surface) -> ApiResult<Held> {
    let (choices, end) = finish(&mut run).await?;
    let receipt = run.flight().preview().map_err(AdmitError::from)?;
    Ok(Held { answer: surface.answer(choices, &receipt), receipt, run, end })
}

async fn finish(run: &mut Run) -> ApiResult<(Vec<Choice>, EndReason)> {
    let mut choices: Vec<_> = (0..run.choices()).map(|_| Choice::new()).collect();
    let end = loop {
        match run.next().await {
            Progress::Output(choice, piece) => choices[choice].push(piece),
            Progress::Ended(choice, rest, ending) => {
                choices[choice].push(rest);
                choices[choice].ending = ending;
            }
            Progress::Idle => {}
            Progress::Done => break EndReason::Finished,
            Progress::Cut(Cause::Budget(_)) if choices.iter().any(|choice| !choice.parts.is_empty()) => {
                break EndReason::Budget;
            }
            Progress::Cut(cause) => {
                run.cut(&cause).await;
                return Err(ApiError::from(cause));
            }
        }
    };
    Ok((choices, end))
}
