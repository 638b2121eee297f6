//! A conversation as a template sees it.

use minijinja::value::Value;
use serde_json::{Map, Value as Json, json};

use super::{ChatMessage, Conversation, Tool};

/// Gives a text that a caller wrote its marks, or only notes it.
pub(super) type Mark<'a> = &'a mut dyn FnMut(&str) -> String;

/// The values of `messages` and `tools`; `tools` is `None` where there are none. Calls `mark` with every text that could
/// hold a control string, always in the same order.
pub(super) fn values(conversation: &Conversation, mark: Mark) -> (Value, Option<Value>) {
    let messages: Vec<Json> = conversation.messages.iter().map(|one| message(one, mark)).collect();
    let tools: Vec<Json> = conversation.tools.iter().map(|one| tool(one, mark)).collect();
    (Value::from_serialize(&messages), (!tools.is_empty()).then(|| Value::from_serialize(&tools)))
}

fn message(message: &ChatMessage, mark: Mark) -> Json {
    let mut object = Map::new();
    object.insert("role".to_owned(), message.role.as_str().into());
    object.insert("content".to_owned(), mark(&message.content).into());
    let mut optional = |key: &str, text: &Option<String>, mark: Mark| {
        if let Some(text) = text {
            object.insert(key.to_owned(), mark(text).into());
        }
    };
    optional("name", &message.name, mark);
    optional("reasoning_content", &message.reasoning, mark);
    optional("tool_call_id", &message.tool_call_id, mark);
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            // Templates expect the object; text that is none stays text.
            let arguments = match serde_json::from_str::<Json>(&call.arguments) {
                Ok(object @ Json::Object(_)) => marked(&object, mark),
                _ => mark(&call.arguments).into(),
            };
            let function = json!({"name": word(&call.name, mark), "arguments": arguments});
            json!({"id": word(&call.id, mark), "type": "function", "function": function})
        });
        object.insert("tool_calls".to_owned(), calls.collect());
    }
    Json::Object(object)
}

fn tool(tool: &Tool, mark: Mark) -> Json {
    let mut function = Map::new();
    function.insert("name".to_owned(), word(&tool.name, mark).into());
    let description = tool.description.as_deref().unwrap_or_default();
    function.insert("description".to_owned(), mark(description).into());
    function.insert("parameters".to_owned(), marked(&tool.parameters, mark));
    json!({"type": "function", "function": function})
}

/// A JSON value whose texts are marked, keys included.
fn marked(value: &Json, mark: Mark) -> Json {
    match value {
        Json::String(text) => word(text, mark).into(),
        Json::Array(items) => items.iter().map(|item| marked(item, mark)).collect(),
        Json::Object(map) => {
            Json::Object(map.iter().map(|(key, value)| (word(key, mark), marked(value, mark))).collect())
        }
        other => other.clone(),
    }
}

/// A plain word stays as it is: templates compare them (`"type": "string"`), and no control string is one.
fn word(text: &str, mark: Mark) -> String {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.' | b'$' | b' ');
    if text.bytes().all(plain) { text.to_owned() } else { mark(text) }
}

/// The same conversation for a template that knows no tools: they are described in the system message, and calls and
/// answers are written out as text.
pub(super) fn without_tools(conversation: &Conversation) -> Conversation {
    let mut messages: Vec<ChatMessage> = Vec::with_capacity(conversation.messages.len() + 1);
    for message in &conversation.messages {
        let mut plain = ChatMessage { content: message.content.clone(), ..ChatMessage::default() };
        plain.role.clone_from(&message.role);
        plain.name.clone_from(&message.name);
        for call in &message.tool_calls {
            let arguments: Json =
                serde_json::from_str(&call.arguments).unwrap_or_else(|_| call.arguments.as_str().into());
            let call = to_json(&json!({"name": call.name, "arguments": arguments}), None);
            let gap = if plain.content.is_empty() { "" } else { "\n" };
            plain.content.push_str(&format!("{gap}<tool_call>\n{call}\n</tool_call>"));
        }
        if message.role == "tool" {
            let result = format!("<tool_response>\n{}\n</tool_response>", message.content);
            match messages.last_mut() {
                // Answers that follow each other are one turn.
                Some(last) if last.role == "user" && last.content.ends_with("</tool_response>") => {
                    last.content.push('\n');
                    last.content.push_str(&result);
                    continue;
                }
                _ => (plain.role, plain.content) = ("user".to_owned(), result),
            }
        }
        messages.push(plain);
    }
    if !conversation.tools.is_empty() {
        describe(&conversation.tools, &mut messages);
    }
    Conversation { messages, tools: Vec::new() }
}

fn describe(tools: &[Tool], messages: &mut Vec<ChatMessage>) {
    let mut text = String::from(
        "You can call tools. Each line between <tools> and </tools> describes one, with a JSON schema of its parameters:\n\
         <tools>\n",
    );
    for one in tools {
        text.push_str(&to_json(&tool(one, &mut str::to_owned), None));
        text.push('\n');
    }
    text.push_str(
        "</tools>\nTo call a tool, answer with its name and arguments as JSON, in this form:\n\
         <tool_call>\n{\"name\": \"tool name\", \"arguments\": {\"parameter\": \"value\"}}\n</tool_call>",
    );
    match messages.first_mut() {
        Some(first) if first.role == "system" => {
            first.content = format!("{}\n\n{text}", first.content);
        }
        _ => messages
            .insert(0, ChatMessage { role: "system".to_owned(), content: text, ..ChatMessage::default() }),
    }
}

/// JSON as Python writes it, which is what models were trained on: a space after colons and commas, no escapes beyond
/// ASCII. `indent` breaks lines.
pub(super) fn to_json(value: &impl serde::Serialize, indent: Option<usize>) -> String {
    let mut out = Vec::new();
    let done = match indent {
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)),
        Some(width) => {
            let indent = " ".repeat(width);
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))
        }
    };
    // Values that have no JSON form (a function, say) give nothing.
    done.map_or_else(|_| String::new(), |()| String::from_utf8_lossy(&out).into_owned())
}

struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: std::io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: std::io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: std::io::Write + ?Sized>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}
