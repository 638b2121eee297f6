//! `POST /v1/messages`: the request. Every field of the API is either honoured or refused by name.

use engine::{Stop, Tier};
use models::Conversation;

use super::{content, tools};
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{Fields, invalid, string_of, wrong_type};
use crate::api::generation::{Format, Generation, Sampling};
use crate::api::json::Json;
use crate::config::Limits;
use crate::serving::PromptInput;

const MAX_MODEL_BYTES: usize = 256;
/// Fields of the API that are refused with `unsupported_parameter`.
const REFUSED: &[&str] = &[
    "container",
    "context_management",
    "diagnostics",
    "inference_geo",
    "mcp_servers",
    "user_profile_id",
    "workspace_id",
];

/// A message request, checked for itself.
pub(super) fn read(body: Json, limits: &Limits) -> ApiResult<Generation> {
    let mut fields = Fields::root(body)?;
    let mut generation = prompt(&mut fields, limits, "/v1/messages")?;
    let max_tokens = fields.count("max_tokens", 1, i32::MAX as u32)?;
    generation.max_tokens = Some(fields.required("max_tokens", max_tokens)?);
    generation.stream = fields.boolean("stream")?.unwrap_or(false);
    generation.sampling = Sampling {
        temperature: fields.decimal("temperature", 0.0, 1.0)?,
        top_p: fields.decimal("top_p", 0.0, 1.0)?,
        top_k: fields.count("top_k", 0, i32::MAX as u32)?,
        ..Sampling::default()
    };
    generation.stop = Stop { strings: stop_sequences(&mut fields, limits)?, ..Stop::default() };
    generation.user = metadata(&mut fields, limits.user_bytes)?;
    generation.tier = service_tier(&mut fields)?;
    fields.finish(REFUSED)?;
    Ok(generation)
}

/// A request for the number of its tokens.
pub(super) fn read_count(body: Json, limits: &Limits) -> ApiResult<Generation> {
    let mut fields = Fields::root(body)?;
    let generation = prompt(&mut fields, limits, "/v1/messages/count_tokens")?;
    fields.finish(REFUSED)?;
    Ok(generation)
}

/// What both have in common: everything that decides on the prompt.
fn prompt(fields: &mut Fields, limits: &Limits, endpoint: &'static str) -> ApiResult<Generation> {
    let model = fields.string("model", MAX_MODEL_BYTES)?;
    let model = fields.required("model", model)?;
    let messages = content::read(fields, limits.max_messages)?;
    let tools = tools::read(fields, limits.max_tools)?;
    let format = output_config(fields)?;
    thinking(fields)?;
    content::cache_control(fields)?;
    speed(fields)?;
    let prompts = vec![PromptInput::Chat(Conversation { messages, ..Conversation::default() })];
    Ok(Generation { endpoint, model, prompts, n: 1, tools, format, ..Generation::default() })
}

fn stop_sequences(fields: &mut Fields, limits: &Limits) -> ApiResult<Vec<String>> {
    let path = "stop_sequences";
    let items = fields.array(path, limits.max_stop)?.unwrap_or_default();
    let read = |item| string_of(path, item, limits.max_stop_bytes);
    let strings: Vec<String> = items.into_iter().map(read).collect::<ApiResult<_>>()?;
    if strings.iter().any(String::is_empty) {
        let message = "Invalid 'stop_sequences': a stop sequence must not be empty.";
        return Err(ApiError::param(Code::EmptyString, path, message));
    }
    Ok(strings)
}

fn metadata(fields: &mut Fields, max_bytes: usize) -> ApiResult<Option<String>> {
    let Some(metadata) = fields.take("metadata") else { return Ok(None) };
    let mut metadata = Fields::nested(metadata, "metadata")?;
    let user = metadata.string("user_id", max_bytes)?;
    metadata.finish(&[])?;
    Ok(user)
}

fn service_tier(fields: &mut Fields) -> ApiResult<Option<Tier>> {
    match fields.string("service_tier", 64)?.as_deref() {
        None | Some("auto") => Ok(None),
        Some("standard_only") => Ok(Some(Tier::Default)),
        Some(_) => Err(invalid("service_tier", "expected 'auto' or 'standard_only'")),
    }
}

fn speed(fields: &mut Fields) -> ApiResult<()> {
    match fields.string("speed", 64)?.as_deref() {
        None | Some("standard") => Ok(()),
        Some(_) => Err(ApiError::param(
            Code::UnsupportedValue,
            "speed",
            "There is one speed here. Leave out 'speed' or set it to 'standard'.",
        )),
    }
}

/// The model thinks when it was made to, and as long as it likes; that is what `adaptive` asks for.
fn thinking(fields: &mut Fields) -> ApiResult<()> {
    let Some(thinking) = fields.take("thinking") else { return Ok(()) };
    let mut thinking = Fields::nested(thinking, "thinking")?;
    let kind = thinking.string("type", 64)?;
    match thinking.required("type", kind)?.as_str() {
        "adaptive" | "disabled" => {}
        "enabled" => {
            let message = "The length of thinking cannot be set here. Leave out 'thinking' or set its type to 'adaptive'.";
            return Err(ApiError::param(Code::UnsupportedValue, "thinking.type", message));
        }
        _ => return Err(invalid("thinking.type", "expected 'adaptive' or 'disabled'")),
    }
    match thinking.string("display", 64)?.as_deref() {
        None | Some("summarized") => thinking.finish(&[]),
        Some(_) => Err(ApiError::param(
            Code::UnsupportedValue,
            "thinking.display",
            "Thinking is always shown. Leave out 'display'.",
        )),
    }
}

fn output_config(fields: &mut Fields) -> ApiResult<Format> {
    let Some(config) = fields.take("output_config") else { return Ok(Format::Text) };
    let mut config = Fields::nested(config, "output_config")?;
    let format = match config.take("format") {
        None => Format::Text,
        Some(format) => json_schema(format)?,
    };
    config.finish(&["effort", "task_budget"])?;
    Ok(format)
}

fn json_schema(format: Json) -> ApiResult<Format> {
    let mut format = Fields::nested(format, "output_config.format")?;
    let kind = format.string("type", 64)?;
    if format.required("type", kind)? != "json_schema" {
        return Err(invalid("output_config.format.type", "expected 'json_schema'"));
    }
    let schema = format.take("schema");
    let schema = format.required("schema", schema)?;
    if !matches!(schema, Json::Object(_)) {
        return Err(wrong_type("output_config.format.schema", "an object", &schema));
    }
    format.finish(&[])?;
    // This surface has no word for schemas that are only kept as far as possible.
    Ok(Format::JsonSchema { schema: schema.into(), strict: true })
}

#[cfg(test)]
mod tests;
