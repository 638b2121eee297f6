//! A generation as one answer.

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};

use super::output::Choice;
use super::run::{Progress, Run};
use super::surface::Surface;
use crate::api::error::{ApiError, ApiResult};
use crate::ledger::EndReason;
use crate::serving::Cause;

/// The answer over HTTP.
pub async fn respond(run: Run, surface: impl Surface) -> ApiResult<Response<Body>> {
    let mut response = Response::new(Body::from(answer(run, surface).await?));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Runs to the end and gives the answer's JSON. At the end of a budget the answer is what was generated until then.
pub async fn answer(mut run: Run, mut surface: impl Surface) -> ApiResult<Vec<u8>> {
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
    let receipt = run.settle(end).await?;
    Ok(surface.answer(choices, &receipt))
}
