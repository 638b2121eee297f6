//! Messages and their content blocks, as the engine's conversation.

use models::{ChatMessage, ToolCall};

use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{Fields, array_of, invalid, not_empty, wrong_type};
use crate::api::json::{Json, Object};

/// Blocks of one message; the body limit is what bounds their text.
const MAX_BLOCKS: usize = 4_096;
const MAX_TEXT_BYTES: usize = usize::MAX;
const MAX_ID_BYTES: usize = 256;

/// Takes the conversation, `system` first.
pub(super) fn read(fields: &mut Fields, max_messages: usize) -> ApiResult<Vec<ChatMessage>> {
    let mut messages = Vec::new();
    if let Some(system) = fields.take("system") {
        messages.push(message("system", text_blocks(system, "system")?));
    }
    let items = fields.array("messages", max_messages)?;
    let items = fields.required("messages", items)?;
    not_empty("messages", &items)?;
    let mut reader = Reader { messages, calls: Vec::new() };
    for (i, item) in items.into_iter().enumerate() {
        reader.message(item, &format!("messages[{i}]"))?;
    }
    reader.finish()
}

fn message(role: &str, content: String) -> ChatMessage {
    ChatMessage { role: role.to_owned(), content, ..ChatMessage::default() }
}

struct Reader {
    messages: Vec<ChatMessage>,
    /// Ids of the calls so far.
    calls: Vec<String>,
}

impl Reader {
    fn finish(self) -> ApiResult<Vec<ChatMessage>> {
        let messages = self.messages;
        if messages.iter().all(|m| m.content.is_empty() && m.tool_calls.is_empty()) {
            let text = "Invalid 'messages': there is no text in any of them.";
            return Err(ApiError::param(Code::EmptyPrompt, "messages", text));
        }
        if messages.last().is_some_and(|message| message.role == "assistant") {
            let text = "This server does not continue an answer that the caller began: the last message must be the user's.";
            return Err(ApiError::param(Code::UnsupportedValue, "messages", text));
        }
        Ok(messages)
    }

    fn message(&mut self, item: Json, path: &str) -> ApiResult<()> {
        let mut fields = Fields::nested(item, path)?;
        let role_path = fields.path("role");
        let role = fields.string("role", 64)?;
        let role = fields.required("role", role)?;
        let content_path = fields.path("content");
        let content = fields.take("content").unwrap_or(Json::Null);
        fields.finish(&[])?;
        match (role.as_str(), content) {
            ("user", Json::Array(blocks)) => self.user(blocks, &content_path),
            ("assistant", Json::Array(blocks)) => self.assistant(blocks, &content_path),
            ("user" | "assistant", Json::String(text)) => {
                self.say(message(&role, text.into_string()));
                Ok(())
            }
            ("system", content) => {
                self.say(message("system", text_blocks(content, &content_path)?));
                Ok(())
            }
            ("user" | "assistant", other) => {
                Err(wrong_type(&content_path, "a string or an array of content blocks", &other))
            }
            _ => Err(invalid(&role_path, "expected 'user', 'assistant' or 'system'")),
        }
    }

    /// Consecutive turns of one role are one turn.
    fn say(&mut self, next: ChatMessage) {
        match self.messages.last_mut() {
            Some(last) if last.role == next.role && next.role != "tool" => {
                if !last.content.is_empty() && !next.content.is_empty() {
                    last.content.push('\n');
                }
                last.content.push_str(&next.content);
                last.tool_calls.extend(next.tool_calls);
                if let Some(reasoning) = next.reasoning {
                    last.reasoning.get_or_insert_default().push_str(&reasoning);
                }
            }
            _ => self.messages.push(next),
        }
    }

    fn user(&mut self, blocks: Vec<Json>, path: &str) -> ApiResult<()> {
        let mut text = String::new();
        for (i, block) in blocks_of(blocks, path)?.into_iter().enumerate() {
            let mut block = Block::read(block, format!("{path}[{i}]"))?;
            match block.kind.as_str() {
                "text" => text.push_str(&block.text("text")?),
                "tool_result" => {
                    if !text.is_empty() {
                        self.say(message("user", std::mem::take(&mut text)));
                    }
                    let result = self.tool_result(&mut block)?;
                    self.messages.push(result);
                }
                _ => return Err(block.refused()),
            }
            block.finish()?;
        }
        if !text.is_empty() {
            self.say(message("user", text));
        }
        Ok(())
    }

    fn tool_result(&mut self, block: &mut Block) -> ApiResult<ChatMessage> {
        let id = block.id("tool_use_id")?;
        if !self.calls.contains(&id) {
            let path = block.fields.path("tool_use_id");
            return Err(invalid(&path, "no earlier 'tool_use' block has this id"));
        }
        let path = block.fields.path("content");
        let content = block.fields.take("content").map(|content| text_blocks(content, &path)).transpose()?;
        let mut content = content.unwrap_or_default();
        // No template has a field for it, so the model reads it.
        if block.fields.boolean("is_error")? == Some(true) {
            content = format!("Error: {content}");
        }
        Ok(ChatMessage { tool_call_id: Some(id), ..message("tool", content) })
    }

    fn assistant(&mut self, blocks: Vec<Json>, path: &str) -> ApiResult<()> {
        let mut said = message("assistant", String::new());
        for (i, block) in blocks_of(blocks, path)?.into_iter().enumerate() {
            let mut block = Block::read(block, format!("{path}[{i}]"))?;
            match block.kind.as_str() {
                "text" => said.content.push_str(&block.text("text")?),
                "thinking" => {
                    let text = block.text("thinking")?;
                    said.reasoning.get_or_insert_default().push_str(&text);
                    // It lets a client see that a block is unchanged; nothing here depends on that.
                    block.fields.string("signature", MAX_TEXT_BYTES)?;
                }
                "tool_use" => said.tool_calls.push(self.tool_use(&mut block)?),
                _ => return Err(block.refused()),
            }
            block.finish()?;
        }
        self.say(said);
        Ok(())
    }

    fn tool_use(&mut self, block: &mut Block) -> ApiResult<ToolCall> {
        let id = block.id("id")?;
        if self.calls.contains(&id) {
            return Err(invalid(&block.fields.path("id"), "another 'tool_use' block has this id"));
        }
        let name = crate::api::functions::name(&mut block.fields)?;
        let path = block.fields.path("input");
        let input = match block.fields.take("input") {
            None => Json::Object(Box::<Object>::default()),
            Some(object @ Json::Object(_)) => object,
            Some(other) => return Err(wrong_type(&path, "an object", &other)),
        };
        self.calls.push(id.clone());
        Ok(ToolCall { id, name, arguments: serde_json::Value::from(input).to_string() })
    }
}

fn blocks_of(blocks: Vec<Json>, path: &str) -> ApiResult<Vec<Json>> {
    not_empty(path, &blocks)?;
    array_of(path, Json::Array(blocks), MAX_BLOCKS)
}

/// A string, or text blocks joined without anything between them.
fn text_blocks(value: Json, path: &str) -> ApiResult<String> {
    let blocks = match value {
        Json::String(text) => return Ok(text.into_string()),
        Json::Array(blocks) => array_of(path, Json::Array(blocks), MAX_BLOCKS)?,
        other => return Err(wrong_type(path, "a string or an array of text blocks", &other)),
    };
    let read = |(i, block)| {
        let mut block = Block::read(block, format!("{path}[{i}]"))?;
        if block.kind != "text" {
            return Err(block.refused());
        }
        let text = block.text("text")?;
        block.finish()?;
        Ok(text)
    };
    blocks.into_iter().enumerate().map(read).collect()
}

struct Block {
    kind: String,
    fields: Fields,
}

impl Block {
    fn read(value: Json, path: String) -> ApiResult<Self> {
        let mut fields = Fields::nested(value, &path)?;
        let kind = fields.string("type", 64)?;
        Ok(Self { kind: fields.required("type", kind)?, fields })
    }

    fn text(&mut self, key: &str) -> ApiResult<String> {
        let text = self.fields.string(key, MAX_TEXT_BYTES)?;
        self.fields.required(key, text)
    }

    fn id(&mut self, key: &str) -> ApiResult<String> {
        let id = self.fields.string(key, MAX_ID_BYTES)?;
        self.fields.required(key, id)
    }

    fn refused(&self) -> ApiError {
        let kind = &self.kind;
        let message = format!("Content of type '{kind}' is not supported here: this model reads text only.");
        ApiError::param(Code::UnsupportedContent, self.fields.path("type"), message)
    }

    fn finish(mut self) -> ApiResult<()> {
        cache_control(&mut self.fields)?;
        // A client sends our own answers back, in which these are null or say nothing.
        if let Some(caller) = self.fields.take("caller") {
            let mut caller = Fields::nested(caller, &self.fields.path("caller"))?;
            if caller.string("type", 64)?.as_deref() != Some("direct") {
                return Err(invalid(&caller.path("type"), "expected 'direct'"));
            }
            caller.finish(&[])?;
        }
        match self.fields.take("citations") {
            None => {}
            Some(Json::Array(items)) if items.is_empty() => {}
            Some(_) => return Err(crate::api::fields::unsupported(&self.fields.path("citations"))),
        }
        self.fields.finish(&["toolset_name"])
    }
}

/// Takes a mark where the caller would like the prompt cache to begin. Every prefix is cached here by itself, so it is only
/// checked.
pub(super) fn cache_control(fields: &mut Fields) -> ApiResult<()> {
    let path = fields.path("cache_control");
    let Some(control) = fields.take("cache_control") else { return Ok(()) };
    let mut control = Fields::nested(control, &path)?;
    if control.string("type", 64)?.as_deref() != Some("ephemeral") {
        return Err(invalid(&control.path("type"), "expected 'ephemeral'"));
    }
    if !matches!(control.string("ttl", 16)?.as_deref(), None | Some("5m" | "1h")) {
        return Err(invalid(&control.path("ttl"), "expected '5m' or '1h'"));
    }
    // Clients of later versions say whom the cache is shared with; it never crosses organisations here.
    control.string("scope", 64)?;
    control.finish(&[])
}
