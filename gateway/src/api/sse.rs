//! Server-sent events: framing, and the body that knows which frames reached the socket.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use bytes::Bytes;
use futures::Stream;
use serde::Serialize;

use crate::serving::Delivery;

/// A comment; clients ignore it, proxies see that the connection lives.
pub const PING: Bytes = Bytes::from_static(b": ping\n\n");
/// The end of every complete stream.
pub const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// One event. JSON escapes line breaks, so the payload is always one line.
pub fn data(payload: &impl Serialize) -> Bytes {
    let mut bytes = Vec::with_capacity(256);
    write(&mut bytes, payload);
    Bytes::from(bytes)
}

/// One event with a name.
pub fn event(name: &str, payload: &impl Serialize) -> Bytes {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(b"event: ");
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(b'\n');
    write(&mut bytes, payload);
    Bytes::from(bytes)
}

fn write(bytes: &mut Vec<u8>, payload: &impl Serialize) {
    bytes.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut *bytes, payload)
        .expect("wire structs have string keys and no failing serializers");
    bytes.extend_from_slice(b"\n\n");
}

/// The payloads of whole events, as [`data`] and [`event`] write them; comments have none.
pub fn payloads(events: &[u8]) -> impl Iterator<Item = &str> {
    // All of it was written from strings.
    let text = std::str::from_utf8(events).unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix("data: "))
}

/// A response whose body is a stream of events.
pub fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// A piece of the stream and the output tokens of one choice that it carries.
#[derive(Debug)]
pub struct Frame {
    /// The event.
    pub bytes: Bytes,
    /// Index of the choice whose tokens these are.
    pub choice: usize,
    /// Output tokens that become billable when the frame is handed over.
    pub tokens: u32,
}

impl Frame {
    /// A frame that carries no output tokens.
    pub fn free(bytes: Bytes) -> Self {
        Self { bytes, choice: 0, tokens: 0 }
    }
}

/// Wraps the stream of frames and books each into [`Delivery`] as the connection takes it.
pub struct Delivered<S> {
    frames: Pin<Box<S>>,
    delivery: Arc<Delivery>,
    was_pending: bool,
}

impl<S> Delivered<S> {
    /// Books what `frames` yields into `delivery`.
    pub fn new(frames: S, delivery: Arc<Delivery>) -> Self {
        Self { frames: Box::pin(frames), delivery, was_pending: false }
    }
}

impl<S: Stream<Item = Frame>> Stream for Delivered<S> {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // The connection flushes whenever this stream has nothing, so coming back after that means: flushed.
        if std::mem::take(&mut self.was_pending) {
            self.delivery.flushed();
        }
        // The connection asks once more after its client has left, and throws away what it gets: that must not be billed.
        if self.delivery.is_gone() {
            return Poll::Pending;
        }
        match self.frames.as_mut().poll_next(cx) {
            Poll::Pending => {
                self.was_pending = true;
                Poll::Pending
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(frame)) => {
                self.delivery.yielded(frame.choice, frame.tokens);
                Poll::Ready(Some(Ok(frame.bytes)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt, stream};

    #[test]
    fn an_event_is_one_line_whatever_the_text() {
        let bytes = data(&serde_json::json!({"text": "a\n\nb\r\u{2028}\u{0}\"data: "}));
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(text.starts_with("data: {") && text.ends_with("}\n\n"));
        assert_eq!(text.trim_end().lines().count(), 1);
        assert!(!text.trim_end().contains('\r'));
    }

    #[test]
    fn payloads_are_what_was_written() {
        let payload = serde_json::json!({"text": "a\n\nb\rdata: \u{2028}"});
        let events = [event("x", &payload), PING, data(&payload)].concat();
        let read: Vec<_> = payloads(&events).collect();
        assert_eq!(read, [payload.to_string(), payload.to_string()]);
        assert_eq!(payloads(&PING).count(), 0);
    }

    #[test]
    fn tokens_count_as_yielded_at_once_and_as_flushed_after_a_pause() {
        let delivery = Arc::new(Delivery::new(2, None));
        let frames = [(0, 3), (1, 2)].map(|(choice, tokens)| Frame { bytes: PING, choice, tokens });
        let frames = stream::iter(frames).chain(stream::pending());
        let mut body = Delivered::new(frames, Arc::clone(&delivery));
        let waker = futures::task::noop_waker();
        let mut cx = Context::from_waker(&waker);
        for _ in 0..2 {
            assert!(Pin::new(&mut body).poll_next(&mut cx).is_ready());
        }
        assert_eq!(delivery.counts(), (vec![3, 2], vec![0, 0]));
        assert!(Pin::new(&mut body).poll_next(&mut cx).is_pending());
        assert_eq!(delivery.counts().1, vec![0, 0]);
        assert!(Pin::new(&mut body).poll_next(&mut cx).is_pending());
        assert_eq!(delivery.counts().1, vec![3, 2]);
    }
}
