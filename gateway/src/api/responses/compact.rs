//! `POST /v1/responses/compact`: a long conversation made short, to go on from.
//!
//! What users, systems and developers said stays as it is. What the model said, thought and called, and what its calls were
//! answered, gives way to one item at the end: a summary of the whole conversation that the model writes, as long as
//! `responses.compact_max_tokens` allows. It is sealed: only the same organisation can go on from it, and nobody can read or
//! change it on the way. Nothing of it is kept here. Writing it is an answer like any other, and billed as one.

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use bytes::Bytes;
use engine::Tier;
use serde_json::json;

use super::create::{about_input, set_prompt};
use super::items::{Content, Item, Status, item_id};
use super::object::usage;
use super::{conversation, request, sealed};
use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::body::Asked;
use crate::api::error::{ApiError, ApiResult};
use crate::api::generation::{Choice, Ending, Piece, Surface};
use crate::money::Tokens;
use crate::receipts::Receipt as Signed;
use crate::serving::{Receipt, unix_ms};

/// What the model is asked for at the end of the conversation.
const ASK: &str = "Summarize our conversation so far, so that it can be continued from the summary alone. Keep every fact, \
                   name, number, decision and open question. Write the summary only.";

/// A shorter conversation that stands for this one: the messages of users, systems and developers as they are, and one
/// sealed item with a summary that the model writes. Use `output` as the beginning of a new `input`. Billed as any answer.
#[utoipa::path(
    post,
    path = "/v1/responses/compact",
    operation_id = "compactResponse",
    tag = "responses",
    request_body = crate::api::openapi::responses::CompactRequest,
    responses((status = 200, description = "The shorter conversation.", body = crate::api::openapi::responses::Compaction)),
)]
pub async fn compact(
    State(api): State<Shared>,
    caller: Caller,
    Asked(body): Asked,
) -> ApiResult<Response<Body>> {
    let mut wanted = request::read_compact(body, &api.limits)?;
    let suffix = caller.scope.suffix();
    let (before, own) = set_prompt(&api, &caller, &mut wanted, suffix, None).await?;
    let mut items = [before, own].concat();
    let mut generation = wanted.generation;
    generation.max_tokens = Some(api.compact_max_tokens);
    let engine = api.engine_of(&caller.identity, &generation.model)?;
    items.push(said(ASK));
    let instructions = wanted.instructions.as_deref();
    conversation::set_prompt(&mut generation, engine, instructions, &items, false).await?;
    items.pop();
    let is_kept = |item: &Item| matches!(item, Item::Message { role, .. } if role != "assistant");
    items.retain(is_kept);
    for (i, item) in items.iter_mut().enumerate() {
        item.set_id(item_id(item.prefix(), suffix, i));
    }
    let org_key = sealed::key(&api, &caller.identity.org_id);
    let surface = Compacted { suffix: suffix.to_owned(), kept: items, org_key, signed: None };
    generation.respond(&api, &caller, surface).await.map_err(about_input)
}

fn said(text: &str) -> Item {
    let content = vec![Content::Input { text: text.to_owned() }];
    Item::Message {
        id: String::new(),
        status: Status::Completed,
        role: "user".to_owned(),
        content,
        phase: None,
    }
}

/// Makes the object; it is never a stream.
struct Compacted {
    suffix: String,
    kept: Vec<Item>,
    org_key: [u8; 32],
    signed: Option<Box<Signed>>,
}

impl Surface for Compacted {
    fn served(&mut self, _tier: Tier) {}

    fn open(&mut self, _choices: usize, _input: Tokens) -> Bytes {
        Bytes::new()
    }

    fn piece(&mut self, _choice: usize, _piece: &Piece) -> Bytes {
        Bytes::new()
    }

    fn end(&mut self, _choice: usize, _rest: &Piece, _ending: &Ending) -> Bytes {
        Bytes::new()
    }

    fn signed(&mut self, receipt: Box<Signed>) {
        self.signed = Some(receipt);
    }

    fn close(&mut self, _receipt: &Receipt) -> Bytes {
        Bytes::new()
    }

    fn fail(&mut self, _error: &ApiError) -> Bytes {
        Bytes::new()
    }

    fn answer(&mut self, choices: Vec<Choice>, receipt: &Receipt) -> Vec<u8> {
        let summary: String = choices.iter().map(Choice::text).collect();
        let mut output = std::mem::take(&mut self.kept);
        output.push(Item::Compaction {
            id: item_id("cmp", &self.suffix, output.len()),
            encrypted_content: sealed::seal(&self.org_key, summary.trim()),
            summary: String::new(),
        });
        let mut object = json!({
            "id": format!("resp_{}", self.suffix), "object": "response.compaction", "created_at": unix_ms() / 1_000,
            "output": output, "usage": usage(receipt),
        });
        if let Some(signed) = &self.signed {
            object["receipt"] = json!(signed);
        }
        object.to_string().into_bytes()
    }
}
