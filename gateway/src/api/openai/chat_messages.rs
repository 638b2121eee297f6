//! `messages` of a chat, as the engine's conversation.

use models::{ChatMessage, ToolCall};

use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{Fields, array_of, invalid, not_empty, wrong_type};
use crate::api::functions;
use crate::api::json::Json;

const MAX_PARTS: usize = 2_048;
const MAX_NAME_BYTES: usize = 64;
const MAX_ID_BYTES: usize = 256;
/// Text is bounded by the body limit and the context; this only completes the reader's signature.
const MAX_TEXT_BYTES: usize = usize::MAX;
/// Fields of the API inside a message that are refused with `unsupported_parameter`.
const REFUSED: &[&str] = &["audio", "function_call", "refusal"];

/// Takes the conversation.
pub(super) fn read(fields: &mut Fields, max: usize) -> ApiResult<Vec<ChatMessage>> {
    let items = fields.array("messages", max)?;
    let items = fields.required("messages", items)?;
    not_empty("messages", &items)?;
    let mut reader = Reader { calls: Vec::new() };
    let read = |(i, item)| reader.message(item, &format!("messages[{i}]"));
    let messages: Vec<ChatMessage> = items.into_iter().enumerate().map(read).collect::<ApiResult<_>>()?;
    if messages.iter().all(|message| message.content.is_empty() && message.tool_calls.is_empty()) {
        let text = "Invalid 'messages': there is no text in any of them.";
        return Err(ApiError::param(Code::EmptyPrompt, "messages", text));
    }
    Ok(messages)
}

struct Reader {
    /// Ids and tools of the calls so far.
    calls: Vec<(String, String)>,
}

impl Reader {
    fn message(&mut self, item: Json, path: &str) -> ApiResult<ChatMessage> {
        let mut fields = Fields::nested(item, path)?;
        let role_path = fields.path("role");
        let role = match fields.take("role") {
            Some(Json::String(role)) => role_of(&role, &role_path)?,
            Some(other) => return Err(wrong_type(&role_path, "a string", &other)),
            None => return Err(wrong_type(&role_path, "a string", &Json::Null)),
        };
        let mut message = ChatMessage { role: role.to_owned(), ..ChatMessage::default() };
        match role {
            "assistant" => self.assistant(&mut fields, &mut message)?,
            "tool" => self.answered(&mut fields, &mut message)?,
            _ => {}
        }
        // SDKs send earlier answers back with an empty list.
        match fields.take("annotations") {
            None => {}
            Some(Json::Array(items)) if items.is_empty() => {}
            Some(_) => return Err(crate::api::fields::unsupported(&fields.path("annotations"))),
        }
        let path = fields.path("content");
        message.content = match fields.take("content") {
            // A message that only calls has no text.
            None if !message.tool_calls.is_empty() => String::new(),
            other => content(other.unwrap_or(Json::Null), &path)?,
        };
        if let Some(name) = fields.string("name", MAX_NAME_BYTES)? {
            message.name = Some(name);
        }
        fields.finish(REFUSED)?;
        Ok(message)
    }

    fn assistant(&mut self, fields: &mut Fields, message: &mut ChatMessage) -> ApiResult<()> {
        // An SDK's own copy of the content.
        fields.take("parsed");
        message.reasoning = fields.string("reasoning_content", MAX_TEXT_BYTES)?;
        let path = fields.path("tool_calls");
        let calls = fields.take("tool_calls").map(|calls| array_of(&path, calls, MAX_PARTS)).transpose()?;
        for (i, call) in calls.unwrap_or_default().into_iter().enumerate() {
            message.tool_calls.push(self.call(call, &format!("{path}[{i}]"))?);
        }
        Ok(())
    }

    fn call(&mut self, call: Json, path: &str) -> ApiResult<ToolCall> {
        let mut fields = Fields::nested(call, path)?;
        let kind = fields.string("type", 64)?;
        if kind.as_deref().is_some_and(|kind| kind != "function") {
            return Err(invalid(&fields.path("type"), "expected 'function'"));
        }
        let id = fields.string("id", MAX_ID_BYTES)?;
        let id = fields.required("id", id)?;
        if self.calls.iter().any(|(known, _)| *known == id) {
            return Err(invalid(&fields.path("id"), "another call has this id"));
        }
        // Clients that collect a stream keep the call's number.
        fields.take("index");
        let function = fields.take("function");
        let mut function = Fields::nested(fields.required("function", function)?, &fields.path("function"))?;
        fields.finish(&[])?;
        let name = functions::name(&mut function)?;
        let arguments = function.string("arguments", MAX_TEXT_BYTES)?;
        let arguments = function.required("arguments", arguments)?;
        // An SDK's own copy of the arguments, which comes back with the call.
        function.take("parsed_arguments");
        function.finish(&[])?;
        self.calls.push((id.clone(), name.clone()));
        Ok(ToolCall { id, name, arguments })
    }

    fn answered(&mut self, fields: &mut Fields, message: &mut ChatMessage) -> ApiResult<()> {
        let id = fields.string("tool_call_id", MAX_ID_BYTES)?;
        let id = fields.required("tool_call_id", id)?;
        let Some((_, name)) = self.calls.iter().find(|(known, _)| *known == id) else {
            return Err(invalid(&fields.path("tool_call_id"), "no earlier message has a call with this id"));
        };
        // Some templates write the tool's name beside its answer.
        message.name = Some(name.clone());
        message.tool_call_id = Some(id);
        Ok(())
    }
}

fn role_of(role: &str, path: &str) -> ApiResult<&'static str> {
    match role {
        "system" | "developer" => Ok("system"),
        "user" => Ok("user"),
        "assistant" => Ok("assistant"),
        "tool" => Ok("tool"),
        "function" => {
            let message = format!(
                "'{path}' cannot be 'function'. Answer a call with role 'tool' and its 'tool_call_id'."
            );
            Err(ApiError::param(Code::UnsupportedValue, path, message))
        }
        _ => Err(invalid(path, "expected 'system', 'developer', 'user', 'assistant' or 'tool'")),
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
