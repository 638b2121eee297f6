//! A WebSocket client of the responses route.

use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::{Message, WebSocket, client};

use super::{Server, merged, model_id};

/// Longest wait for any one read; a server that stays silent longer fails the test.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// One connection.
pub(crate) struct Socket(pub(crate) WebSocket<TcpStream>);

impl Socket {
    pub(crate) fn open(server: &Server, key: &str) -> Self {
        Self::try_open(server, key).unwrap_or_else(|(status, body)| panic!("refused with {status}: {body}"))
    }

    /// Opens a connection, or gives the status and the body of the refusal.
    pub(crate) fn try_open(server: &Server, key: &str) -> Result<Self, (u16, Value)> {
        let stream = TcpStream::connect(server.address).expect("connect");
        stream.set_read_timeout(Some(READ_LIMIT)).expect("set the limit");
        let mut request =
            format!("ws://{}/v1/responses", server.address).into_client_request().expect("a request");
        request.headers_mut().insert("authorization", format!("Bearer {key}").parse().expect("a header"));
        match client(request, stream) {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                let body = response.body().clone().unwrap_or_default();
                Err((response.status().as_u16(), serde_json::from_slice(&body).unwrap_or_default()))
            }
            Err(other) => panic!("the handshake failed: {other}"),
        }
    }

    pub(crate) fn send(&mut self, message: Message) {
        self.0.send(message).expect("send");
    }

    /// Asks for an answer.
    pub(crate) fn ask(&mut self, extra: Value) {
        let body = json!({"type": "response.create", "model": model_id(), "max_output_tokens": 16, "temperature": 0});
        self.send(Message::text(merged(body, extra).to_string()));
    }

    /// The next event; an error is what the close frame says, or how the connection broke.
    pub(crate) fn event(&mut self) -> Result<Value, (u16, String)> {
        loop {
            match self.0.read() {
                Ok(Message::Text(text)) => return Ok(serde_json::from_str(&text).expect("an event is JSON")),
                Ok(Message::Close(Some(frame))) => return Err((frame.code.into(), frame.reason.to_string())),
                Ok(Message::Close(None)) => return Err((1005, String::new())),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(other) => panic!("an unexpected message: {other}"),
                Err(error) => return Err((1006, error.to_string())),
            }
        }
    }

    /// All events of the answer that comes.
    pub(crate) fn answer(&mut self) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let event = self.event().expect("an event");
            events.push(event.clone());
            if let Some("response.completed" | "response.incomplete" | "response.failed" | "error") =
                event["type"].as_str()
            {
                return events;
            }
        }
    }

    /// Asks, and gives the response at the end of its events.
    pub(crate) fn turn(&mut self, extra: Value) -> Value {
        self.ask(extra);
        let events = self.answer();
        let last = events.last().expect("events");
        assert_ne!(last["type"], "error", "{last}");
        last["response"].clone()
    }

    /// Asks, and gives the refusal: its status and the error.
    pub(crate) fn refused(&mut self, extra: Value) -> (u64, Value) {
        self.ask(extra);
        self.refusal()
    }

    /// The refusal that comes.
    pub(crate) fn refusal(&mut self) -> (u64, Value) {
        let event = self.event().expect("an event");
        assert_eq!(event["type"], "error", "{event}");
        (event["status"].as_u64().expect("a status"), event["error"].clone())
    }

    /// Tells the server that nothing more will come, but goes on reading.
    pub(crate) fn half_close(&self) {
        self.0.get_ref().shutdown(Shutdown::Write).expect("half close");
    }
}
