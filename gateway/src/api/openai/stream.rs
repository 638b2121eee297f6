//! A request as a stream of events.

use std::collections::VecDeque;

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use futures::stream::unfold;

use super::surface::{Piece, Surface, finish_reason, usage};
use crate::api::error::ApiError;
use crate::api::sse::{self, Delivered, Frame};
use crate::ledger::EndReason;
use crate::serving::{Cause, InFlight, Step};

/// The answer; `choices` is the number of choices, each of which gets an opening chunk.
pub fn respond(
    flight: InFlight,
    surface: impl Surface,
    choices: usize,
    include_usage: bool,
) -> Response<Body> {
    let delivery = flight.delivery().clone();
    let driver = Driver::new(flight, surface, choices, include_usage);
    let frames = unfold(driver, |mut driver| async move {
        let frame = driver.next_frame().await?;
        Some((frame, driver))
    });
    let mut response = Response::new(Body::from_stream(Delivered::new(frames, delivery)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Driver<S> {
    flight: InFlight,
    surface: S,
    include_usage: bool,
    /// Tokens of each choice that have no text yet; they travel with its next chunk.
    rests: Vec<Piece>,
    queue: VecDeque<Frame>,
    is_over: bool,
}

impl<S: Surface> Driver<S> {
    fn new(flight: InFlight, surface: S, choices: usize, include_usage: bool) -> Self {
        let queue = (0..choices).filter_map(|choice| surface.opening(choice)).map(Frame::free).collect();
        let rests = (0..choices).map(|_| Piece::default()).collect();
        Self { flight, surface, include_usage, rests, queue, is_over: false }
    }

    async fn next_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.queue.pop_front() {
                if frame.tokens > 0
                    && let Err(cause) = self.flight.before_delivery(frame.tokens).await
                {
                    self.fail(cause).await;
                    continue;
                }
                return Some(frame);
            }
            if self.is_over {
                return None;
            }
            match self.flight.next().await {
                Step::Delta(choice, delta) => self.delta(choice, delta),
                Step::Finished(choice, finish) => {
                    let rest = std::mem::take(&mut self.rests[choice]);
                    let bytes = self.surface.finish(choice, &rest, finish_reason(&finish.reason));
                    self.queue.push_back(Frame { bytes, choice, tokens: rest.tokens });
                }
                Step::Idle => self.queue.push_back(Frame::free(sse::PING)),
                Step::Done => self.complete().await,
                Step::Cut(cause) => self.fail(cause).await,
            }
        }
    }

    fn delta(&mut self, choice: usize, delta: engine::Delta) {
        let rest = &mut self.rests[choice];
        rest.push(delta);
        if !rest.text.is_empty() {
            let piece = std::mem::take(rest);
            let bytes = self.surface.piece(choice, &piece);
            self.queue.push_back(Frame { bytes, choice, tokens: piece.tokens });
        }
    }

    /// The bill is durable before the client hears of its numbers.
    async fn complete(&mut self) {
        self.flight.all_flushed().await;
        match self.flight.settle(EndReason::Finished).await {
            Ok(receipt) => {
                if self.include_usage {
                    self.queue.push_back(Frame::free(self.surface.usage(usage(&receipt))));
                }
                self.queue.push_back(Frame::free(sse::DONE));
                self.is_over = true;
            }
            Err(error) => self.fail(Cause::Ledger(error.to_string())).await,
        }
    }

    /// Ends with an error object; what was handed over so far is billed.
    async fn fail(&mut self, cause: Cause) {
        self.queue.clear();
        self.flight.cut(&cause).await;
        self.queue.push_back(Frame::free(sse::data(&ApiError::from(cause).body())));
        self.is_over = true;
    }
}
