//! `GET /v1/responses` as WebSocket: one answer after the other over one connection.
//!
//! Every message asks for an answer as a `POST` does and is admitted, limited, billed and logged as one; its events come as
//! text messages. The connection remembers its last answer, so that the next one can go on from it even where nothing is
//! kept. Whatever goes wrong with a message is told as an event of type `error`, and the connection goes on.

mod link;
mod turn;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocketUpgrade, close_code};
use axum::extract::{Request, State};
use axum::http::{Method, Response};
use futures::StreamExt;
use tokio::select;
use tokio::time::Instant;

use self::link::{Heard, Link, Next};
use self::turn::{Started, Turns};
use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::config::WebSocketSection;
use crate::server::Upgraded;
use crate::serving::Phase;

/// Read at once; most messages are small.
const READ_BUFFER_BYTES: usize = 16 << 10;

/// The open connections, by key.
pub struct Sockets {
    open: Arc<Mutex<HashMap<String, u32>>>,
    options: WebSocketSection,
}

impl Sockets {
    /// None is open.
    pub fn new(section: &WebSocketSection) -> Self {
        Self { open: Arc::default(), options: section.clone() }
    }

    fn enter(&self, key_id: &str) -> ApiResult<Place> {
        let limit = self.options.max_per_key;
        let mut open = lock(&self.open);
        let count = open.entry(key_id.to_owned()).or_default();
        if *count >= limit {
            let message = format!(
                "This key has {count} WebSocket connections open, the limit is {limit}. Close one, or use one for \
                 several answers."
            );
            return Err(ApiError::new(Code::RateRequests, message));
        }
        *count += 1;
        Ok(Place { open: Arc::clone(&self.open), key_id: key_id.to_owned() })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain numbers: every state is valid.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection's place among those of its key.
struct Place {
    open: Arc<Mutex<HashMap<String, u32>>>,
    key_id: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        if let Some(count) = open.get_mut(&self.key_id) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.key_id);
            }
        }
    }
}

/// Opens a WebSocket for one answer after the other. Each message is a request as for `POST /v1/responses` with `type` of
/// `response.create`; the events of its stream come as text messages. `previous_response_id` may also name the connection's
/// last answer with `store` of false. `generate` of false keeps the input without an answer.
#[utoipa::path(
    get,
    path = "/v1/responses",
    operation_id = "connectResponses",
    tag = "responses",
    responses((status = 101, description = "The connection speaks WebSocket now.")),
)]
pub async fn connect(
    State(api): State<Shared>,
    caller: Caller,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    request: Request,
) -> ApiResult<Response<Body>> {
    let upgrade = upgrade.map_err(|error| {
        let message =
            format!("Send a WebSocket handshake, or POST: {}.", error.body_text().trim_end_matches('.'));
        ApiError::new(Code::UpgradeRequired, message)
    })?;
    if request.headers().contains_key("idempotency-key") {
        let message =
            "A connection carries many requests, so it takes no Idempotency-Key. Leave the header out.";
        return Err(ApiError::param(Code::UnsupportedValue, "Idempotency-Key", message));
    }
    let place = api.sockets.enter(&caller.identity.key_id)?;
    let (mut parts, _) = request.into_parts();
    let open: Option<Upgraded> = parts.extensions.remove();
    // What follows are posts.
    parts.method = Method::POST;
    let max_bytes = api.body.max_bytes;
    let upgrade = upgrade.max_message_size(max_bytes).max_frame_size(max_bytes);
    Ok(upgrade.read_buffer_size(READ_BUFFER_BYTES).on_upgrade(move |socket| async move {
        let link = Link::new(socket, max_bytes, &api.sockets.options, api.serving.options.heartbeat);
        Connection { turns: Turns::new(&api, parts), api, link, opened: Instant::now() }.run().await;
        drop((place, open));
    }))
}

/// One connection.
struct Connection {
    api: Shared,
    link: Link,
    turns: Turns,
    opened: Instant,
}

/// The client has left, or the connection broke.
struct Gone;

impl Connection {
    async fn run(mut self) {
        let closed = self.serve().await;
        if let Ok((code, reason)) = closed {
            self.link.close(code, reason).await;
        }
    }

    /// Answers one message after the other; returns how to say goodbye.
    async fn serve(&mut self) -> Result<(u16, &'static str), Gone> {
        loop {
            let lifecycle = self.api.serving.lifecycle.clone();
            let age = Duration::from_secs(self.api.sockets.options.max_age_s);
            let next = select! {
                biased;
                () = lifecycle.reached(Phase::Draining) => {
                    return Ok((close_code::RESTART, "the server is going down, connect again"));
                }
                () = tokio::time::sleep_until(self.opened + age) => {
                    self.link.tell_error(&too_old(age), None).await?;
                    return Ok((close_code::NORMAL, "the connection is as old as connections get, connect again"));
                }
                next = self.link.next() => next,
            };
            match next {
                Next::Heard(Heard::Message(text)) => self.answer(&text).await?,
                Next::Heard(Heard::Bad(error)) => self.link.tell_error(&error, None).await?,
                Next::Heard(Heard::Broken(error, code)) => {
                    self.link.tell_error(&error, None).await?;
                    return Ok((code, "the rest cannot be read"));
                }
                Next::Idle => return Ok((close_code::NORMAL, "nothing was asked for a long time")),
                Next::Gone => return Err(Gone),
            }
        }
    }

    /// Answers a message; a client that leaves meanwhile ends what is done for it.
    async fn answer(&mut self, text: &str) -> Result<(), Gone> {
        let Self { link, turns, .. } = self;
        let started = {
            let mut begin = std::pin::pin!(turns.begin(text));
            loop {
                select! {
                    started = &mut begin => break started,
                    heard = link.hear(), if link.has_room() => heard?,
                }
            }
        };
        match started {
            Ok(started) => self.stream(started).await,
            Err(refused) => self.link.tell_error(&refused.error, Some(&refused.scope)).await,
        }
    }

    async fn stream(&mut self, started: Started) -> Result<(), Gone> {
        let Started { mut frames, delivery } = started;
        loop {
            select! {
                frame = frames.next() => {
                    let Some(frame) = frame else { return Ok(()) };
                    if let Some(delivery) = &delivery {
                        delivery.yielded(frame.choice, frame.tokens);
                    }
                    self.link.tell(&frame.bytes).await?;
                    // The socket has taken all of it.
                    if let Some(delivery) = &delivery {
                        delivery.flushed();
                    }
                }
                heard = self.link.hear(), if self.link.has_room() => heard?,
            }
        }
    }
}

fn too_old(age: Duration) -> ApiError {
    let message = format!(
        "Responses websocket connection limit reached ({} minutes). Create a new websocket connection to continue.",
        age.as_secs().div_ceil(60)
    );
    ApiError::new(Code::SocketTooOld, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_a_key_come_back() {
        let sockets = Sockets::new(&WebSocketSection { max_per_key: 2, ..WebSocketSection::default() });
        let first = sockets.enter("a").unwrap();
        let _second = sockets.enter("a").unwrap();
        assert_eq!(sockets.enter("a").err().map(|error| error.code), Some(Code::RateRequests));
        let other = sockets.enter("b").unwrap();
        drop((first, other));
        assert!(sockets.enter("a").is_ok());
        assert_eq!(lock(&sockets.open).len(), 1);
    }
}
