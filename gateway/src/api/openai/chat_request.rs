//! `POST /v1/chat/completions`: the request. Every field of the API is either honoured or refused by name.

use models::{ChatMessage, Conversation};

use super::params::{Common, max_tokens};
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{Fields, array_of, invalid, not_empty, unsupported, wrong_type};
use crate::api::json::Json;
use crate::config::Limits;
use crate::serving::PromptInput;

const MAX_PARTS: usize = 2_048;
const MAX_NAME_BYTES: usize = 64;
/// Text is bounded by the body limit and the context; this only completes the reader's signature.
const MAX_TEXT_BYTES: usize = usize::MAX;

/// Fields of the API that are refused with `unsupported_parameter`.
const REFUSED: &[&str] = &[
    "audio",
    "best_of",
    "function_call",
    "functions",
    "moderation",
    "parallel_tool_calls",
    "prediction",
    "prompt_cache_options",
    "prompt_cache_retention",
    "tool_choice",
    "tools",
    "verbosity",
    "web_search_options",
];
/// The same inside a message.
const REFUSED_IN_MESSAGE: &[&str] = &["audio", "function_call", "refusal", "tool_call_id"];

/// A chat request, checked for itself.
pub fn read(body: Json, limits: &Limits) -> ApiResult<Common> {
    let mut fields = Fields::root(body)?;
    let mut common = Common::read(&mut fields, limits, "/v1/chat/completions")?;
    let messages = messages(&mut fields, limits.max_messages)?;
    common.limit_output(output_limit(&mut fields)?)?;
    common.generation.logprobs = logprobs(&mut fields, limits.max_top_logprobs)?;
    response_format(&mut fields)?;
    modalities(&mut fields)?;
    reasoning_effort(&mut fields)?;
    fields.finish(REFUSED)?;
    common.generation.prompts = vec![PromptInput::Chat(Conversation { messages, ..Conversation::default() })];
    Ok(common)
}

fn output_limit(fields: &mut Fields) -> ApiResult<Option<u32>> {
    let old = max_tokens(fields, "max_tokens")?;
    let new = max_tokens(fields, "max_completion_tokens")?;
    if old.is_some() && new.is_some() {
        return Err(ApiError::param(
            Code::ConflictingParameters,
            "max_tokens",
            "Set either 'max_tokens' or 'max_completion_tokens', not both.",
        ));
    }
    Ok(new.or(old))
}

fn logprobs(fields: &mut Fields, max_top: u8) -> ApiResult<Option<u8>> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    match fields.count("top_logprobs", 0, u32::from(max_top))? {
        Some(_) if !wanted => Err(invalid("top_logprobs", "it is only allowed when 'logprobs' is true")),
        top => Ok(wanted.then(|| u8::try_from(top.unwrap_or(0)).expect("at most `max_top`"))),
    }
}

fn response_format(fields: &mut Fields) -> ApiResult<()> {
    let Some(format) = fields.take("response_format") else { return Ok(()) };
    let mut format = Fields::nested(format, "response_format")?;
    let kind = format.string("type", 64)?;
    match format.required("type", kind)?.as_str() {
        "text" => format.finish(&[]),
        "json_object" | "json_schema" => Err(unsupported("response_format")),
        other => Err(invalid("response_format.type", &format!("'{other}' is not a format"))),
    }
}

fn modalities(fields: &mut Fields) -> ApiResult<()> {
    let Some(items) = fields.array("modalities", 8)? else { return Ok(()) };
    if items.iter().all(|item| *item == Json::String("text".into())) && !items.is_empty() {
        return Ok(());
    }
    let message = "This model answers in text only. Leave out 'modalities' or set it to [\"text\"].";
    Err(ApiError::param(Code::UnsupportedValue, "modalities", message))
}

fn reasoning_effort(fields: &mut Fields) -> ApiResult<()> {
    match fields.string("reasoning_effort", 64)?.as_deref() {
        None | Some("none") => Ok(()),
        Some(_) => {
            let message = "This model does not reason. Leave out 'reasoning_effort' or set it to 'none'.";
            Err(ApiError::param(Code::UnsupportedValue, "reasoning_effort", message))
        }
    }
}

fn messages(fields: &mut Fields, max: usize) -> ApiResult<Vec<ChatMessage>> {
    let items = fields.array("messages", max)?;
    let items = fields.required("messages", items)?;
    not_empty("messages", &items)?;
    let read = |(i, item)| message(item, &format!("messages[{i}]"));
    let messages: Vec<ChatMessage> = items.into_iter().enumerate().map(read).collect::<ApiResult<_>>()?;
    if messages.iter().all(|message| message.content.is_empty()) {
        let text = "Invalid 'messages': there is no text in any of them.";
        return Err(ApiError::param(Code::EmptyPrompt, "messages", text));
    }
    Ok(messages)
}

fn message(item: Json, path: &str) -> ApiResult<ChatMessage> {
    let mut fields = Fields::nested(item, path)?;
    let role_path = fields.path("role");
    let role = match fields.take("role") {
        Some(Json::String(role)) => role_of(&role, &role_path)?,
        Some(other) => return Err(wrong_type(&role_path, "a string", &other)),
        None => return Err(wrong_type(&role_path, "a string", &Json::Null)),
    };
    let content_path = fields.path("content");
    // SDKs send earlier answers back with empty lists.
    for key in ["tool_calls", "annotations"] {
        match fields.take(key) {
            None => {}
            Some(Json::Array(items)) if items.is_empty() => {}
            Some(_) => return Err(unsupported(&fields.path(key))),
        }
    }
    let content = content(fields.take("content").unwrap_or(Json::Null), &content_path)?;
    let name = fields.string("name", MAX_NAME_BYTES)?;
    fields.finish(REFUSED_IN_MESSAGE)?;
    Ok(ChatMessage { role: role.to_owned(), content, name, ..ChatMessage::default() })
}

fn role_of(role: &str, path: &str) -> ApiResult<&'static str> {
    match role {
        "system" | "developer" => Ok("system"),
        "user" => Ok("user"),
        "assistant" => Ok("assistant"),
        "tool" | "function" => {
            let message = format!("Tools are not offered by this server, so '{path}' cannot be '{role}'.");
            Err(ApiError::param(Code::UnsupportedValue, path, message))
        }
        _ => Err(invalid(path, "expected 'system', 'developer', 'user' or 'assistant'")),
    }
}

/// Text parts are joined without anything between them: the model sees what the caller wrote.
fn content(value: Json, path: &str) -> ApiResult<String> {
    match value {
        Json::String(text) => Ok(text.into_string()),
        Json::Array(parts) => {
            let parts = array_of(path, Json::Array(parts), MAX_PARTS)?;
            not_empty(path, &parts)?;
            parts.into_iter().enumerate().map(|(i, part)| text_part(part, &format!("{path}[{i}]"))).collect()
        }
        other => Err(wrong_type(path, "a string or an array of content parts", &other)),
    }
}

fn text_part(part: Json, path: &str) -> ApiResult<String> {
    let mut fields = Fields::nested(part, path)?;
    let kind = fields.string("type", 64)?;
    match fields.required("type", kind)?.as_str() {
        "text" => {}
        kind @ ("image_url" | "input_audio" | "file" | "refusal") => {
            let message = format!("Content of type '{kind}' is not supported: this model reads text only.");
            return Err(ApiError::param(Code::UnsupportedContent, fields.path("type"), message));
        }
        _ => return Err(invalid(&fields.path("type"), "expected 'text'")),
    }
    let text = fields.string("text", MAX_TEXT_BYTES)?;
    let text = fields.required("text", text)?;
    fields.finish(&["prompt_cache_breakpoint"])?;
    Ok(text)
}

#[cfg(test)]
mod tests;
