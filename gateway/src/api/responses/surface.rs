//! One answer: output as events or as one object, and how it is kept.

use std::sync::Arc;

use axum::response::IntoResponse;
use bytes::Bytes;
use engine::{Engine, Tier};
use serde_json::{Value, json};

use super::events::Output;
use super::items::Status;
use super::memory::Remember;
use super::object::{self, End};
use crate::api::error::ApiError;
use crate::api::generation::{Choice, Ending, Part, Piece, Surface};
use crate::api::openai::surface::token_logprob;
use crate::money::Tokens;
use crate::receipts::Receipt as Signed;
use crate::responses::{Store, StoreError, Stored};
use crate::serving::{Receipt, unix_ms};

/// Makes the object of one answer, its events, and its row in the store.
pub struct Answer {
    /// The object while nothing is said yet.
    begun: Value,
    output: Output,
    ending: Ending,
    logprobs: bool,
    engine: Engine,
    keep: Option<Keep>,
    /// Where its connection remembers it.
    pub(super) remember: Option<Remember>,
}

/// Where an answer is kept, and what with.
pub(super) struct Keep {
    pub(super) store: Arc<Store>,
    /// Without response and events.
    pub(super) stored: Stored,
}

impl Answer {
    pub(super) fn new(
        begun: Value,
        output: Output,
        logprobs: bool,
        engine: Engine,
        keep: Option<Keep>,
    ) -> Self {
        Self { begun, output, ending: Ending::Length, logprobs, engine, keep, remember: None }
    }

    /// The object while nothing is said yet.
    pub(super) fn begun(&self) -> &Value {
        &self.begun
    }

    /// Whether something was said.
    pub(super) fn has_output(&self) -> bool {
        !self.output.items().is_empty()
    }

    /// The events since the last call, each by itself.
    pub(super) fn take_events(&mut self) -> Vec<Bytes> {
        self.output.take_events()
    }

    /// Tells that it begins.
    pub(super) fn begin(&mut self) {
        for name in ["response.created", "response.in_progress"] {
            self.output.tell(name, json!({"response": self.begun}));
        }
    }

    /// Takes in new output.
    pub(super) fn say(&mut self, parts: &[Part], logprobs: &[engine::TokenLogprob]) {
        let tokenizer = self.engine.tokenizer();
        let entries = logprobs.iter().filter(|_| self.logprobs);
        let mut entries: Vec<Value> = entries.map(|entry| json!(token_logprob(tokenizer, entry))).collect();
        parts.iter().for_each(|part| self.output.part(part, &mut entries));
    }

    /// Takes in the end of the output.
    pub(super) fn stop(&mut self, ending: &Ending) {
        self.ending = ending.clone();
        let status = match ending {
            Ending::Length | Ending::ContentFilter => Status::Incomplete,
            Ending::Stop(_) | Ending::ToolCalls => Status::Completed,
        };
        self.output.close(status);
    }

    /// Tells that it is complete.
    pub(super) fn complete(&mut self, receipt: &Receipt) -> Value {
        let ending = self.ending.clone();
        self.end(&End::Of(&ending, receipt))
    }

    /// Tells the end, whatever it is.
    pub(super) fn end(&mut self, end: &End<'_>) -> Value {
        self.output.close(Status::Incomplete);
        let object = object::end(&self.begun, self.output.items(), end);
        let name = match end {
            End::Of(Ending::Length | Ending::ContentFilter, _) | End::Cancelled(_) => "response.incomplete",
            End::Of(..) => "response.completed",
            End::Failed(_) => "response.failed",
        };
        self.output.tell(name, json!({"response": object}));
        if let Some(remember) = self.remember.take() {
            let is_whole = matches!(end, End::Of(..));
            remember.end(self.begun["id"].as_str().unwrap_or_default(), self.output.items(), is_whole);
        }
        object
    }

    /// Keeps `response` as the answer's state, where it is to be kept.
    pub(super) fn keep(&self, response: Value, events: Vec<String>) -> Result<(), StoreError> {
        let Some(Keep { store, stored }) = &self.keep else { return Ok(()) };
        store.put(&Stored { response, events, ..stored.clone() }, unix_ms())
    }

    /// The same for an answer that is out already: the client has it, even if nobody can fetch it again.
    pub(super) fn keep_end(&self, response: Value, events: Vec<String>) {
        if let Err(error) = self.keep(response, events) {
            tracing::error!(%error, id = self.begun["id"].as_str(), "a response could not be stored");
        }
    }

    fn events(&mut self) -> Bytes {
        self.take_events().concat().into()
    }
}

impl Surface for Answer {
    fn served(&mut self, tier: Tier) {
        self.begun["service_tier"] = tier.name().into();
    }

    fn open(&mut self, _choices: usize, _input: Tokens) -> Bytes {
        self.begin();
        self.events()
    }

    fn piece(&mut self, _choice: usize, piece: &Piece) -> Bytes {
        self.say(&piece.parts, &piece.logprobs);
        self.events()
    }

    fn end(&mut self, _choice: usize, rest: &Piece, ending: &Ending) -> Bytes {
        self.say(&rest.parts, &rest.logprobs);
        self.stop(ending);
        self.events()
    }

    fn signed(&mut self, receipt: Box<Signed>) {
        self.begun["receipt"] = json!(receipt);
    }

    fn close(&mut self, receipt: &Receipt) -> Bytes {
        let object = self.complete(receipt);
        self.keep_end(object, Vec::new());
        self.events()
    }

    fn fail(&mut self, error: &ApiError) -> Bytes {
        let object = Answer::end(self, &End::Failed(error));
        self.keep_end(object, Vec::new());
        self.events()
    }

    fn answer(&mut self, choices: Vec<Choice>, receipt: &Receipt) -> Vec<u8> {
        for choice in choices {
            self.say(&choice.parts, &choice.logprobs);
            self.stop(&choice.ending);
        }
        let object = self.complete(receipt);
        let bytes = object.to_string().into_bytes();
        self.keep_end(object, Vec::new());
        bytes
    }
}

/// An object as the body of a response.
pub(super) fn json_body(value: &Value) -> axum::response::Response {
    axum::Json(value).into_response()
}
