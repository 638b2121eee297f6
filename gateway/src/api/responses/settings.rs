//! The nested settings of a request, each read into what the engine needs and what the answer repeats.

use serde_json::{Value, json};

use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{Fields, array_of, invalid, unsupported, wrong_type};
use crate::api::functions;
use crate::api::generation::{Format, ToolChoice, ToolUse};
use crate::api::json::Json;
use crate::api::strict_schema;

const MAX_NAME_BYTES: usize = 64;
const MAX_DESCRIPTION_BYTES: usize = 4 << 10;
const MAX_INCLUDES: usize = 32;
/// What an answer can be asked to include.
const LOGPROBS: &str = "message.output_text.logprobs";
/// Asked for by clients that keep the conversation themselves. Reasoning is always included, and in the clear.
const REASONING: &str = "reasoning.encrypted_content";

fn unsupported_value(path: &str, message: String) -> ApiError {
    ApiError::param(Code::UnsupportedValue, path, message)
}

/// Takes `text`.
pub(super) fn text(fields: &mut Fields) -> ApiResult<(Format, Value)> {
    let (mut format, mut shown) = (Format::Text, json!({"type": "text"}));
    if let Some(text) = fields.take("text") {
        let mut text = Fields::nested(text, "text")?;
        if let Some(value) = text.take("format") {
            (format, shown) = self::format(value)?;
        }
        match text.string("verbosity", 64)?.as_deref() {
            None | Some("medium") => {}
            Some(_) => {
                let message = "The length of answers cannot be steered here. Leave out 'text.verbosity'.";
                return Err(unsupported_value("text.verbosity", message.to_owned()));
            }
        }
        text.finish(&[])?;
    }
    Ok((format, json!({"format": shown, "verbosity": "medium"})))
}

fn format(value: Json) -> ApiResult<(Format, Value)> {
    let mut fields = Fields::nested(value, "text.format")?;
    let kind = fields.string("type", 64)?;
    let (format, shown) = match fields.required("type", kind)?.as_str() {
        "text" => (Format::Text, json!({"type": "text"})),
        "json_object" => (Format::JsonObject, json!({"type": "json_object"})),
        "json_schema" => json_schema(&mut fields)?,
        _ => return Err(invalid("text.format.type", "expected 'text', 'json_object' or 'json_schema'")),
    };
    fields.finish(&[])?;
    Ok((format, shown))
}

fn json_schema(fields: &mut Fields) -> ApiResult<(Format, Value)> {
    let name = fields.string("name", MAX_NAME_BYTES)?;
    let name = fields.required("name", name)?;
    let description = fields.string("description", MAX_DESCRIPTION_BYTES)?;
    // The answer keeps to the schema either way; who asks for it is told what cannot be enforced.
    let strict = fields.boolean("strict")?;
    let schema = fields.take("schema");
    let schema = match fields.required("schema", schema)? {
        schema @ Json::Object(_) => Value::from(schema),
        other => return Err(wrong_type("text.format.schema", "a JSON schema, an object", &other)),
    };
    if strict == Some(true) {
        strict_schema::check(&schema, "text.format")?;
    }
    let strict = strict.unwrap_or(true);
    let shown = json!({"type": "json_schema", "name": name, "description": description, "schema": schema, "strict": strict});
    // What `strict` asks for was checked above.
    Ok((Format::JsonSchema { schema, strict: false }, shown))
}

/// Tools and their use, and how the answer repeats them.
pub(super) struct Tools {
    pub(super) wanted: ToolUse,
    pub(super) tools: Vec<Value>,
    pub(super) choice: Value,
}

/// Takes `tools`, `tool_choice` and `parallel_tool_calls`.
pub(super) fn tools(fields: &mut Fields, max: usize) -> ApiResult<Tools> {
    let items = fields.array("tools", max)?.unwrap_or_default();
    let mut read = Tools { wanted: ToolUse::default(), tools: Vec::new(), choice: json!("auto") };
    for (i, item) in items.into_iter().enumerate() {
        let (tool, strict) = tool(item, &format!("tools[{i}]"))?;
        read.tools.push(json!({
            "type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters,
            "strict": strict,
        }));
        read.wanted.tools.push(tool);
    }
    if let Some(value) = fields.take("tool_choice") {
        (read.wanted.choice, read.choice) = choice(value)?;
    }
    read.wanted.parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
    functions::check(&read.wanted, "tool_choice")?;
    Ok(read)
}

fn tool(item: Json, path: &str) -> ApiResult<(models::Tool, bool)> {
    let mut fields = Fields::nested(item, path)?;
    let kind = fields.string("type", 64)?;
    let kind = fields.required("type", kind)?;
    if kind != "function" {
        let path = fields.path("type");
        let message = format!("Tools of type '{kind}' run on the server and are not offered. Use functions.");
        return Err(unsupported_value(&path, message));
    }
    let tool = functions::function(&mut fields, "parameters")?;
    // Arguments keep to the schema either way.
    let strict = fields.boolean("strict")?;
    if strict == Some(true) {
        strict_schema::check(&tool.parameters, &fields.path("parameters"))?;
    }
    fields.finish(&["allowed_callers", "async", "defer_loading", "output_schema"])?;
    Ok((tool, strict.unwrap_or(true)))
}

fn choice(value: Json) -> ApiResult<(ToolChoice, Value)> {
    let path = "tool_choice";
    let mut fields = match value {
        Json::String(text) => {
            let choice = match &*text {
                "none" => ToolChoice::None,
                "auto" => ToolChoice::Auto,
                "required" => ToolChoice::Required,
                _ => return Err(invalid(path, "expected 'none', 'auto', 'required' or an object")),
            };
            return Ok((choice, json!(text)));
        }
        object @ Json::Object(_) => Fields::nested(object, path)?,
        other => return Err(wrong_type(path, "a string or an object", &other)),
    };
    let kind = fields.string("type", 64)?;
    let kind = fields.required("type", kind)?;
    if kind != "function" {
        return Err(unsupported_value(
            &fields.path("type"),
            format!(
                "A choice of type '{kind}' is not offered. Name a function, or use 'none', 'auto' or 'required'."
            ),
        ));
    }
    let name = functions::name(&mut fields)?;
    fields.finish(&[])?;
    let shown = json!({"type": "function", "name": name});
    Ok((ToolChoice::Named(name), shown))
}

/// Takes `reasoning`: whether and how long a model thinks lies with the model.
pub(super) fn reasoning(fields: &mut Fields) -> ApiResult<()> {
    let Some(reasoning) = fields.take("reasoning") else { return Ok(()) };
    let mut reasoning = Fields::nested(reasoning, "reasoning")?;
    match reasoning.string("effort", 64)?.as_deref() {
        None | Some("none") => {}
        Some(_) => {
            let message = "The length of thinking cannot be set here. Leave out 'reasoning.effort' or set it to 'none'.";
            return Err(unsupported_value("reasoning.effort", message.to_owned()));
        }
    }
    for key in ["summary", "generate_summary"] {
        match reasoning.string(key, 64)?.as_deref() {
            // As detailed as there is: the thoughts themselves.
            None | Some("auto") => {}
            Some(_) => {
                let path = reasoning.path(key);
                return Err(unsupported_value(
                    &path,
                    format!("Thoughts are shown in full. Leave out '{path}'."),
                ));
            }
        }
    }
    reasoning.finish(&["context", "mode"])
}

/// Whether log probabilities are to be included.
pub(super) fn include(fields: &mut Fields) -> ApiResult<bool> {
    let items = fields.array("include", MAX_INCLUDES)?.unwrap_or_default();
    let items = array_of("include", Json::Array(items), MAX_INCLUDES)?;
    let mut logprobs = false;
    for item in items {
        match item {
            Json::String(name) => logprobs |= includes_logprobs(&name)?,
            other => return Err(wrong_type("include", "an array of strings", &other)),
        }
    }
    Ok(logprobs)
}

/// Whether this entry of `include` means log probabilities; refuses entries that nothing here can include.
pub(super) fn includes_logprobs(name: &str) -> ApiResult<bool> {
    match name {
        LOGPROBS => Ok(true),
        REASONING => Ok(false),
        _ => {
            let shown: String = name.chars().take(64).collect();
            Err(ApiError {
                message: format!("Nothing here has a '{shown}' to include."),
                ..unsupported("include")
            })
        }
    }
}

/// Takes `truncation`: whether the oldest items may be left out.
pub(super) fn truncation(fields: &mut Fields) -> ApiResult<bool> {
    match fields.string("truncation", 64)?.as_deref() {
        None | Some("disabled") => Ok(false),
        Some("auto") => Ok(true),
        Some(_) => Err(invalid("truncation", "expected 'auto' or 'disabled'")),
    }
}
