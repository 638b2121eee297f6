//! A request as one answer.

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};

use super::surface::{Collected, Piece, Surface, finish_reason, usage};
use crate::api::error::{ApiError, ApiResult};
use crate::ledger::EndReason;
use crate::serving::{Cause, InFlight, Step};

/// Runs to the end and answers. At the end of a budget the answer is what was generated until then.
pub async fn respond(
    mut flight: InFlight,
    mut surface: impl Surface,
    choices: usize,
) -> ApiResult<Response<Body>> {
    let mut collected: Vec<_> =
        (0..choices).map(|_| Collected { output: Piece::default(), finish_reason: "length" }).collect();
    let end = loop {
        match flight.next().await {
            Step::Delta(choice, delta) => collected[choice].output.push(delta),
            Step::Finished(choice, finish) => collected[choice].finish_reason = finish_reason(&finish.reason),
            Step::Idle => {}
            Step::Done => break EndReason::Finished,
            Step::Cut(Cause::Budget(_)) if collected.iter().any(|choice| !choice.output.text.is_empty()) => {
                break EndReason::Budget;
            }
            Step::Cut(cause) => {
                flight.cut(&cause).await;
                return Err(ApiError::from(cause));
            }
        }
    };
    let receipt = flight.settle(end).await?;
    let mut response = Response::new(Body::from(surface.answer(collected, usage(&receipt))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
