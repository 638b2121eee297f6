//! `POST /v1/responses`: the request. Every field of the API is either honoured or refused by name.

use serde_json::{Value, json};

use super::input::{self, Given};
use super::object::number;
use super::settings::{self, Tools};
use crate::accounts::StoreResponses;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{Fields, invalid};
use crate::api::generation::Generation;
use crate::api::json::Json;
use crate::api::openai::params;
use crate::config::Limits;

const MAX_MODEL_BYTES: usize = 256;
const MAX_ID_BYTES: usize = 256;
const MAX_TEXT_BYTES: usize = usize::MAX;

/// Fields of the API that are refused with `unsupported_parameter`.
const REFUSED: &[&str] = &[
    "access_programs",
    "background_options",
    "context_management",
    "conversation",
    "image",
    "moderation",
    "prompt",
    "prompt_cache_options",
    "prompt_cache_retention",
    "stream_id",
];

/// A request, checked for itself.
pub(super) struct Wanted {
    /// Without prompt.
    pub(super) generation: Generation,
    pub(super) input: Vec<Given>,
    pub(super) instructions: Option<String>,
    /// Id of the answer to go on from.
    pub(super) previous: Option<String>,
    /// The oldest items may be left out.
    pub(super) truncate: bool,
    pub(super) store: Option<bool>,
    pub(super) background: bool,
    /// False: only keep the input, to be gone on from.
    pub(super) generate: bool,
    /// Pad deltas.
    pub(super) obfuscate: bool,
    /// Fields that the answer repeats as they were wanted.
    pub(super) repeated: Value,
}

/// Reads a request for an answer.
pub(super) fn read(body: Json, limits: &Limits) -> ApiResult<Wanted> {
    let mut fields = Fields::root(body)?;
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let background = fields.boolean("background")?.unwrap_or(false);
    answer(fields, limits, stream, background)
}

/// Reads the message that asks for an answer on a connection of its own, where it is told in events and none is made in the
/// background.
pub(super) fn read_event(body: Json, limits: &Limits) -> ApiResult<Wanted> {
    let mut fields = Fields::root(body)?;
    let kind = fields.string("type", 64)?;
    if fields.required("type", kind)? != "response.create" {
        return Err(invalid("type", "expected 'response.create'"));
    }
    for (field, only) in [("stream", true), ("background", false)] {
        if fields.boolean(field)?.is_some_and(|value| value != only) {
            let message =
                format!("Answers over WebSocket are told in events as they come. Leave out '{field}'.");
            return Err(ApiError::param(Code::UnsupportedValue, field, message));
        }
    }
    let generate = fields.boolean("generate")?.unwrap_or(true);
    Ok(Wanted { generate, ..answer(fields, limits, true, false)? })
}

fn answer(mut fields: Fields, limits: &Limits, stream: bool, background: bool) -> ApiResult<Wanted> {
    let mut wanted = prompt(&mut fields, limits, "/v1/responses")?;
    let generation = &mut wanted.generation;
    generation.sampling = params::sampling(&mut fields, limits)?;
    generation.stop = params::stop(&mut fields, limits)?;
    generation.max_tokens = params::max_tokens(&mut fields, "max_output_tokens")?;
    generation.logprobs = logprobs(&mut fields, limits.max_top_logprobs)?;
    generation.stream = stream;
    generation.metadata = params::metadata(&mut fields, limits.max_metadata)?;
    generation.tier = params::service_tier(&mut fields)?;
    generation.demand = params::demand(&mut fields)?;
    wanted.obfuscate = stream_options(&mut fields, generation.stream)?;
    // A bound for tools that run on the server; there are none, so every bound is kept.
    let max_tool_calls = fields.count("max_tool_calls", 1, i32::MAX as u32)?;
    let cache_key = fields.string("prompt_cache_key", 1_024)?;
    let user = fields.string("user", limits.user_bytes)?;
    let safety_identifier = fields.string("safety_identifier", limits.user_bytes)?;
    wanted.store = fields.boolean("store")?;
    wanted.background = background;
    fields.finish(REFUSED)?;
    let shown = [
        ("max_output_tokens", json!(generation.max_tokens)),
        ("max_tool_calls", json!(max_tool_calls)),
        ("metadata", generation.metadata.clone().unwrap_or_else(|| json!({}))),
        ("presence_penalty", number(generation.sampling.presence_penalty.unwrap_or(0.0))),
        ("frequency_penalty", number(generation.sampling.frequency_penalty.unwrap_or(0.0))),
        ("top_logprobs", json!(generation.logprobs.unwrap_or(0))),
        ("prompt_cache_key", json!(cache_key)),
        ("user", json!(user)),
        ("safety_identifier", json!(safety_identifier)),
        ("background", json!(wanted.background)),
    ];
    generation.user = safety_identifier.or(user);
    for (key, value) in shown {
        wanted.repeated[key] = value;
    }
    Ok(wanted)
}

/// Reads a request for the number of its tokens.
pub(super) fn read_count(body: Json, limits: &Limits) -> ApiResult<Wanted> {
    let mut fields = Fields::root(body)?;
    let wanted = prompt(&mut fields, limits, "/v1/responses/input_tokens")?;
    fields.finish(&["conversation", "personality"])?;
    Ok(wanted)
}

/// Reads a request for a summary.
pub(super) fn read_compact(body: Json, limits: &Limits) -> ApiResult<Wanted> {
    let mut fields = Fields::root(body)?;
    let mut wanted = conversation(&mut fields, limits, "/v1/responses/compact")?;
    wanted.generation.tier = params::service_tier(&mut fields)?;
    // The beginnings of prompts are kept for the organisation, whatever the key.
    fields.string("prompt_cache_key", 1_024)?;
    fields.finish(REFUSED)?;
    Ok(wanted)
}

/// What both have in common: everything that decides on the prompt.
fn prompt(fields: &mut Fields, limits: &Limits, endpoint: &'static str) -> ApiResult<Wanted> {
    let mut wanted = conversation(fields, limits, endpoint)?;
    let (format, text) = settings::text(fields)?;
    let Tools { wanted: tool_use, tools, choice } = settings::tools(fields, limits.max_tools)?;
    settings::reasoning(fields)?;
    wanted.truncate = settings::truncation(fields)?;
    wanted.repeated = json!({
        "instructions": wanted.instructions, "previous_response_id": wanted.previous, "text": text, "tools": tools,
        "tool_choice": choice, "parallel_tool_calls": tool_use.parallel,
        "reasoning": {"effort": null, "summary": null},
        "truncation": if wanted.truncate { "auto" } else { "disabled" },
    });
    (wanted.generation.format, wanted.generation.tools) = (format, tool_use);
    Ok(wanted)
}

/// What is said to whom.
fn conversation(fields: &mut Fields, limits: &Limits, endpoint: &'static str) -> ApiResult<Wanted> {
    let model = fields.string("model", MAX_MODEL_BYTES)?;
    let model = fields.required("model", model)?;
    let previous = fields.string("previous_response_id", MAX_ID_BYTES)?;
    let input = match fields.take("input") {
        Some(value) => input::read(value, limits.max_messages)?,
        None if previous.is_some() => Vec::new(),
        None => fields.required("input", None)?,
    };
    let instructions = fields.string("instructions", MAX_TEXT_BYTES)?;
    let generation = Generation { endpoint, model, n: 1, ..Generation::default() };
    Ok(Wanted {
        generation,
        input,
        instructions,
        previous,
        truncate: false,
        store: None,
        background: false,
        generate: true,
        obfuscate: false,
        repeated: json!({}),
    })
}

fn logprobs(fields: &mut Fields, max_top: u8) -> ApiResult<Option<u8>> {
    let wanted = settings::include(fields)?;
    let top = fields.count("top_logprobs", 0, u32::from(max_top))?.unwrap_or(0);
    if top > 0 && !wanted {
        let reason = "it is only allowed when 'include' has 'message.output_text.logprobs'";
        return Err(invalid("top_logprobs", reason));
    }
    Ok(wanted.then(|| u8::try_from(top).expect("at most `max_top`")))
}

fn stream_options(fields: &mut Fields, stream: bool) -> ApiResult<bool> {
    let Some(options) = fields.take("stream_options") else { return Ok(false) };
    if !stream {
        return Err(invalid("stream_options", "it is only allowed when 'stream' is true"));
    }
    let mut options = Fields::nested(options, "stream_options")?;
    let obfuscate = options.boolean("include_obfuscation")?.unwrap_or(false);
    options.finish(&[])?;
    Ok(obfuscate)
}

/// Whether the answer is kept: as the request says, else as the project does.
pub(super) fn is_stored(wanted: &Wanted, policy: StoreResponses) -> ApiResult<bool> {
    let store = wanted.store.unwrap_or(policy == StoreResponses::True || wanted.background);
    let never = policy == StoreResponses::Never;
    if never && (store || wanted.background) {
        let field = if wanted.background { "background" } else { "store" };
        let message = format!("This project keeps no answers. Leave out '{field}'.");
        return Err(ApiError::param(Code::UnsupportedValue, field, message));
    }
    if wanted.background && !store {
        let message =
            "A response in the background is kept until it is fetched. Leave out 'store', or 'background'.";
        return Err(ApiError::param(Code::ConflictingParameters, "store", message));
    }
    Ok(store)
}

#[cfg(test)]
mod tests;
