//! A generation as a stream of events.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Response;
use futures::Stream;
use futures::stream::unfold;

use super::run::{Progress, Run};
use super::surface::Surface;
use crate::api::error::ApiError;
use crate::api::sse::{self, Delivered, Frame};
use crate::ledger::EndReason;
use crate::serving::{Cause, Delivery};

/// The answer over HTTP.
pub fn respond(run: Run, surface: impl Surface) -> Response<Body> {
    let (frames, delivery) = frames(run, surface);
    sse::response(Body::from_stream(Delivered::new(frames, delivery)))
}

/// The answer frame by frame. Whoever takes a frame notes in the [`Delivery`] that it did, and what the socket took.
pub fn frames(mut run: Run, surface: impl Surface) -> (impl Stream<Item = Frame> + Send, Arc<Delivery>) {
    let delivery = run.flight().delivery().clone();
    let frames = unfold(Driver::new(run, surface), |mut driver| async move {
        let frame = driver.next_frame().await?;
        Some((frame, driver))
    });
    (frames, delivery)
}

struct Driver<S> {
    run: Run,
    surface: S,
    queue: VecDeque<Frame>,
    is_over: bool,
}

impl<S: Surface> Driver<S> {
    fn new(mut run: Run, mut surface: S) -> Self {
        let input = run.flight().input();
        let opening = surface.open(run.choices(), input);
        let mut driver = Self { run, surface, queue: VecDeque::new(), is_over: false };
        driver.push(Frame::free(opening));
        driver
    }

    /// A surface may have nothing to say.
    fn push(&mut self, frame: Frame) {
        if !frame.bytes.is_empty() || frame.tokens > 0 {
            self.queue.push_back(frame);
        }
    }

    async fn next_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.queue.pop_front() {
                if frame.tokens > 0
                    && let Err(cause) = self.run.flight().before_delivery(frame.choice, frame.tokens).await
                {
                    self.fail(cause).await;
                    continue;
                }
                return Some(frame);
            }
            if self.is_over {
                return None;
            }
            match self.run.next().await {
                Progress::Output(choice, piece) => {
                    let bytes = self.surface.piece(choice, &piece);
                    self.push(Frame { bytes, choice, tokens: piece.tokens });
                }
                Progress::Ended(choice, rest, ending) => {
                    let bytes = self.surface.end(choice, &rest, &ending);
                    self.push(Frame { bytes, choice, tokens: rest.tokens });
                }
                Progress::Idle => {
                    let bytes = self.surface.ping();
                    self.push(Frame::free(bytes));
                }
                Progress::Done => self.complete().await,
                Progress::Cut(cause) => self.fail(cause).await,
            }
        }
    }

    /// The bill is durable before the client hears of its numbers.
    async fn complete(&mut self) {
        self.run.flight().all_flushed().await;
        match self.run.settle(EndReason::Finished).await {
            Ok(receipt) => {
                self.sign();
                let bytes = self.surface.close(&receipt);
                self.push(Frame::free(bytes));
                self.is_over = true;
            }
            Err(error) => self.fail(Cause::Ledger(error.to_string())).await,
        }
    }

    fn sign(&mut self) {
        if let Some(signed) = self.run.take_signed() {
            self.surface.signed(signed);
        }
    }

    /// Ends with an error object; what was handed over so far is billed.
    async fn fail(&mut self, cause: Cause) {
        self.queue.clear();
        self.run.cut(&cause).await;
        self.sign();
        let bytes = self.surface.fail(&ApiError::from(cause));
        self.push(Frame::free(bytes));
        self.is_over = true;
    }
}
