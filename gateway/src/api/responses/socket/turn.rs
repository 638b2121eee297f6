//! One message: a request like any other.

use std::pin::Pin;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use futures::stream::once;
use futures::{FutureExt, Stream};

use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::body;
use crate::api::error::{ApiError, ApiResult};
use crate::api::generation::{Ending, Generation, Surface, stream};
use crate::api::json::Json;
use crate::api::responses::create::{Prepared, about_input, prepare_wanted};
use crate::api::responses::memory::Memory;
use crate::api::responses::request;
use crate::api::responses::surface::Answer;
use crate::api::scope::Scope;
use crate::api::sse::Frame;
use crate::money::{Picos, Tokens};
use crate::serving::{Delivery, Receipt};

const ROUTE: &str = "/v1/responses";

/// Begins the answers of one connection.
pub(super) struct Turns {
    api: Shared,
    /// The handshake's: with its key every message is authenticated anew.
    parts: Parts,
    memory: Arc<Memory>,
}

/// An answer on its way.
pub(super) struct Started {
    pub(super) frames: Pin<Box<dyn Stream<Item = Frame> + Send>>,
    /// What is billed by; absent where nothing is.
    pub(super) delivery: Option<Arc<Delivery>>,
}

/// A message that is refused.
pub(super) struct Refused {
    pub(super) error: ApiError,
    pub(super) scope: Arc<Scope>,
}

impl Turns {
    pub(super) fn new(api: &Shared, parts: Parts) -> Self {
        let memory = Arc::new(Memory::new((api.sockets.options.memory_kib) << 10));
        Self { api: Arc::clone(api), parts, memory }
    }

    /// Reads and admits a message. Dropping it undoes what it has begun.
    pub(super) async fn begin(&mut self, text: &str) -> Result<Started, Refused> {
        let scope = Arc::new(Scope::new());
        self.parts.extensions.insert(Arc::clone(&scope));
        let mut previous = None;
        let started = self.admit(&scope, text, &mut previous).await;
        let code = started.as_ref().err().map(|error| error.code);
        let status = code.map_or(200, |code| code.row().status);
        scope.note_answer(&self.api.serving.metrics, "WEBSOCKET", ROUTE, status, code);
        started.map_err(|error| {
            if let Some(previous) = previous {
                self.memory.forget(&previous);
            }
            Refused { error, scope }
        })
    }

    async fn admit(
        &mut self,
        scope: &Arc<Scope>,
        text: &str,
        previous: &mut Option<String>,
    ) -> ApiResult<Started> {
        let api = &self.api;
        let body = body::parse(scope, text.as_bytes(), api.body)?;
        if let Json::Object(fields) = &body
            && let Some(Json::String(id)) = fields.get("previous_response_id")
        {
            *previous = Some(id.to_string());
        }
        let caller = Caller::from_request_parts(&mut self.parts, api).await?;
        let wanted = request::read_event(body, &api.limits)?;
        let generate = wanted.generate;
        let prepared = prepare_wanted(api, &caller, wanted, Some(&self.memory)).await?;
        let Prepared { generation, mut answer, .. } = prepared;
        if !generate {
            return warm_up(api, &caller, generation, answer).await.map_err(about_input);
        }
        let mut run = generation.begin(api, &caller, caller.wire.clone()).await.map_err(about_input)?;
        answer.served(run.flight().tier());
        let (frames, delivery) = stream::frames(run, answer);
        Ok(Started { frames: Box::pin(frames), delivery: Some(delivery) })
    }
}

/// Takes the input in without an answer: it counts as a request and is free.
async fn warm_up(
    api: &Shared,
    caller: &Caller,
    generation: Generation,
    mut answer: Answer,
) -> ApiResult<Started> {
    generation.count(api, caller).await?;
    let receipt = Receipt { tokens: Tokens::default(), cost: Picos::ZERO };
    let opening = answer.open(1, receipt.tokens);
    answer.stop(&Ending::Stop(None));
    let bytes = [opening, answer.close(&receipt)].concat().into();
    Ok(Started { frames: Box::pin(once(async { Frame::free(bytes) }.boxed())), delivery: None })
}
