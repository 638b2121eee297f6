//! The connection's two directions: messages that wait, and events that go out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures::SinkExt;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tungstenite::error::Error;

use super::Gone;
use crate::api::error::{ApiError, Code};
use crate::api::scope::Scope;
use crate::api::sse;
use crate::config::WebSocketSection;

/// What a message that is refused counts for among those that wait.
const REFUSED_BYTES: usize = 1 << 10;
/// Time for the client to read the last words.
const GOODBYE: Duration = Duration::from_secs(1);

/// Something the client said.
pub(super) enum Heard {
    /// A text.
    Message(Utf8Bytes),
    /// Something that is refused.
    Bad(ApiError),
    /// Something after which nothing can be read, and how the connection is closed.
    Broken(ApiError, u16),
}

/// What comes next.
pub(super) enum Next {
    Heard(Heard),
    /// Nothing was said for too long.
    Idle,
    Gone,
}

/// See the module.
pub(super) struct Link {
    socket: WebSocket,
    queue: VecDeque<Heard>,
    queued_bytes: usize,
    max_bytes: usize,
    is_broken: bool,
    /// The last sign of life.
    alive: Instant,
    idle: Duration,
    pong_deadline: Duration,
    heartbeat: Duration,
}

impl Link {
    pub(super) fn new(
        socket: WebSocket,
        max_bytes: usize,
        section: &WebSocketSection,
        heartbeat: Duration,
    ) -> Self {
        Self {
            socket,
            queue: VecDeque::new(),
            queued_bytes: 0,
            max_bytes,
            is_broken: false,
            alive: Instant::now(),
            idle: Duration::from_secs(section.idle_s),
            pong_deadline: Duration::from_secs(section.pong_deadline_s),
            heartbeat,
        }
    }

    /// Whether more is read ahead: a client that sends faster than it is answered waits, and its texts are not piled up.
    pub(super) fn has_room(&self) -> bool {
        !self.is_broken && self.queued_bytes < self.max_bytes
    }

    /// What the client says next, or has said before. Pings it meanwhile. Cancel safe.
    pub(super) async fn next(&mut self) -> Next {
        let quiet_until = Instant::now() + self.idle;
        let mut pings = interval(self.heartbeat);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pings.reset();
        loop {
            if let Some(heard) = self.queue.pop_front() {
                self.queued_bytes -= size(&heard);
                return Next::Heard(heard);
            }
            tokio::select! {
                heard = self.hear() => if heard.is_err() { return Next::Gone },
                () = sleep_until(quiet_until) => return Next::Idle,
                _ = pings.tick() => {
                    if self.alive.elapsed() > self.heartbeat + self.pong_deadline {
                        return Next::Gone;
                    }
                    if self.socket.send(Message::Ping(Bytes::new())).await.is_err() {
                        return Next::Gone;
                    }
                }
            }
        }
    }

    /// Reads one message into the queue. Cancel safe.
    pub(super) async fn hear(&mut self) -> Result<(), Gone> {
        let message = self.socket.recv().await.ok_or(Gone)?;
        self.alive = Instant::now();
        let heard = match message {
            Ok(Message::Text(text)) => Heard::Message(text),
            Ok(Message::Binary(_)) => {
                let message = "Messages must be text, each a JSON object. Send text frames.";
                Heard::Bad(ApiError::new(Code::InvalidBody, message))
            }
            Ok(Message::Ping(_) | Message::Pong(_)) => return Ok(()),
            Ok(Message::Close(_)) => {
                // The answer to the close frame goes out with the next read.
                let _ = timeout(GOODBYE, self.socket.recv()).await;
                return Err(Gone);
            }
            Err(error) => self.broken(&error.into_inner()).ok_or(Gone)?,
        };
        self.queued_bytes += size(&heard);
        self.queue.push_back(heard);
        Ok(())
    }

    /// What is said of an error of the connection; none where nobody listens any more.
    fn broken(&mut self, error: &axum::BoxError) -> Option<Heard> {
        let heard = match error.downcast_ref::<Error>()? {
            Error::Capacity(_) => {
                let message = format!("The message is larger than the maximum {} bytes.", self.max_bytes);
                Heard::Broken(ApiError::new(Code::RequestTooLarge, message), close_code::SIZE)
            }
            Error::Utf8(_) => {
                let error = ApiError::new(Code::InvalidBody, "The message is not UTF-8.");
                Heard::Broken(error, close_code::INVALID)
            }
            Error::Protocol(error) => {
                let message = format!("The frames break the WebSocket protocol: {error}.");
                Heard::Broken(ApiError::new(Code::InvalidBody, message), close_code::PROTOCOL)
            }
            _ => return None,
        };
        self.is_broken = true;
        Some(heard)
    }

    /// Hands whole server-sent events to the socket, each as one text; returns when it has taken them.
    pub(super) async fn tell(&mut self, events: &[u8]) -> Result<(), Gone> {
        let mut is_empty = true;
        for payload in sse::payloads(events) {
            is_empty = false;
            self.socket.feed(Message::text(payload)).await.map_err(|_| Gone)?;
        }
        if is_empty {
            self.socket.feed(Message::Ping(Bytes::new())).await.map_err(|_| Gone)?;
        }
        self.socket.flush().await.map_err(|_| Gone)
    }

    /// Tells a refusal: with the status and the headers that it would have over HTTP.
    pub(super) async fn tell_error(&mut self, error: &ApiError, scope: Option<&Scope>) -> Result<(), Gone> {
        let mut response = error.clone().into_response();
        if let Some(scope) = scope {
            scope.write_headers(response.headers_mut());
        }
        let own = ["content-type", "connection"];
        let headers = response.headers().iter().filter(|(name, _)| !own.contains(&name.as_str()));
        let headers: BTreeMap<&str, &str> =
            headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect();
        let event = json!({
            "type": "error", "status": response.status().as_u16(), "error": error.body()["error"], "headers": headers,
        });
        self.tell(&sse::data(&event)).await
    }

    /// Says goodbye, and waits a moment for the client to hear it.
    pub(super) async fn close(mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code, reason: reason.into() };
        if self.socket.send(Message::Close(Some(frame))).await.is_err() {
            return;
        }
        if self.is_broken {
            // What lies unread would reset the connection, and the last words with it.
            sleep(GOODBYE).await;
        }
        let _ = timeout(GOODBYE, async { while let Some(Ok(_)) = self.socket.recv().await {} }).await;
    }
}

fn size(heard: &Heard) -> usize {
    match heard {
        Heard::Message(text) => text.len(),
        Heard::Bad(_) | Heard::Broken(..) => REFUSED_BYTES,
    }
}
