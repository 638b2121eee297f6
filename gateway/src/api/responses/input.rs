//! `input`: a text, or items in all the ways that clients spell them.

use super::items::{Content, Item, Output, Phase, Status};
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{Fields, array_of, invalid, not_empty, wrong_type};
use crate::api::functions;
use crate::api::json::Json;

/// Parts of one item; the body limit is what bounds their text.
const MAX_PARTS: usize = 2_048;
const MAX_TEXT_BYTES: usize = usize::MAX;
const MAX_ID_BYTES: usize = 256;

/// An item of the request.
#[derive(Debug, PartialEq)]
pub(super) enum Given {
    /// In full.
    Item(Item),
    /// One of an earlier answer, by its id.
    Reference(String),
}

/// Reads `input`.
pub(super) fn read(value: Json, max_items: usize) -> ApiResult<Vec<Given>> {
    match value {
        Json::String(text) => {
            let content = vec![Content::Input { text: text.into_string() }];
            Ok(vec![Given::Item(message("user".to_owned(), content, None))])
        }
        Json::Array(items) => {
            let items = array_of("input", Json::Array(items), max_items)?;
            items.into_iter().enumerate().map(|(i, value)| item(value, &format!("input[{i}]"))).collect()
        }
        other => Err(wrong_type("input", "a string or an array of items", &other)),
    }
}

fn message(role: String, content: Vec<Content>, phase: Option<Phase>) -> Item {
    Item::Message { id: String::new(), status: Status::Completed, role, content, phase }
}

fn item(value: Json, path: &str) -> ApiResult<Given> {
    let mut fields = Fields::nested(value, path)?;
    let kind = fields.string("type", 64)?;
    // Ids are given anew; an item keeps its place in the conversation, not its name.
    let id = fields.string("id", MAX_ID_BYTES)?;
    fields.string("status", 64)?;
    let item = match kind.as_deref() {
        None | Some("message") => said(&mut fields)?,
        Some("function_call") => call(&mut fields)?,
        Some("function_call_output") => answer(&mut fields)?,
        Some("reasoning") => reasoning(&mut fields)?,
        Some("compaction" | "compaction_summary") => {
            let encrypted_content = required(&mut fields, "encrypted_content", MAX_TEXT_BYTES)?;
            Item::Compaction { id: String::new(), encrypted_content, summary: String::new() }
        }
        Some("item_reference") => {
            let id = fields.required("id", id)?;
            fields.finish(&[])?;
            return Ok(Given::Reference(id));
        }
        Some(kind) => {
            let shown: String = kind.chars().take(64).collect();
            let message = format!(
                "Items of type '{shown}' are not supported: this model reads text and function calls."
            );
            return Err(ApiError::param(Code::UnsupportedContent, fields.path("type"), message));
        }
    };
    fields.finish(&["caller", "created_by", "namespace"])?;
    Ok(Given::Item(item))
}

fn said(fields: &mut Fields) -> ApiResult<Item> {
    let role_path = fields.path("role");
    let role = fields.string("role", 64)?;
    let role = fields.required("role", role)?;
    if !matches!(role.as_str(), "user" | "assistant" | "system" | "developer") {
        return Err(invalid(&role_path, "expected 'user', 'assistant', 'system' or 'developer'"));
    }
    let path = fields.path("content");
    let content = match fields.take("content").unwrap_or(Json::Null) {
        Json::String(text) if role == "assistant" => vec![Content::output(text.into_string())],
        Json::String(text) => vec![Content::Input { text: text.into_string() }],
        Json::Array(items) => {
            not_empty(&path, &items)?;
            parts(items, &path, &["input_text", "output_text"])?
        }
        other => return Err(wrong_type(&path, "a string or an array of content parts", &other)),
    };
    let phase = phase(fields, &role)?;
    Ok(message(role, content, phase))
}

fn phase(fields: &mut Fields, role: &str) -> ApiResult<Option<Phase>> {
    let path = fields.path("phase");
    match fields.string("phase", 64)? {
        None => Ok(None),
        Some(_) if role != "assistant" => Err(invalid(&path, "only an assistant's messages have a phase")),
        Some(name) => match Phase::named(&name) {
            None => Err(invalid(&path, "expected 'commentary' or 'final_answer'")),
            phase => Ok(phase),
        },
    }
}

fn call(fields: &mut Fields) -> ApiResult<Item> {
    let call_id = required(fields, "call_id", MAX_ID_BYTES)?;
    let name = functions::name(fields)?;
    let arguments = required(fields, "arguments", MAX_TEXT_BYTES)?;
    if fields.boolean("async")? == Some(true) {
        return Err(crate::api::fields::unsupported(&fields.path("async")));
    }
    Ok(Item::FunctionCall { id: String::new(), status: Status::Completed, call_id, name, arguments })
}

fn answer(fields: &mut Fields) -> ApiResult<Item> {
    let call_id = required(fields, "call_id", MAX_ID_BYTES)?;
    fields.string("name", MAX_ID_BYTES)?;
    let path = fields.path("output");
    let output = match fields.take("output").unwrap_or(Json::Null) {
        Json::String(text) => Output::Text(text.into_string()),
        Json::Array(items) => Output::Parts(parts(items, &path, &["input_text"])?),
        other => return Err(wrong_type(&path, "a string or an array of text parts", &other)),
    };
    Ok(Item::FunctionCallOutput { id: String::new(), status: Status::Completed, call_id, output })
}

fn reasoning(fields: &mut Fields) -> ApiResult<Item> {
    let mut list = |key: &str, kind: &str| {
        let path = fields.path(key);
        let items = fields.array(key, MAX_PARTS)?.unwrap_or_default();
        parts(items, &path, &[kind])
    };
    let (summary, content) = (list("summary", "summary_text")?, list("content", "reasoning_text")?);
    if fields.take("encrypted_content").is_some() {
        let path = fields.path("encrypted_content");
        let message =
            "Reasoning is shown in the clear here; encrypted reasoning of another server cannot be read.";
        return Err(ApiError::param(Code::UnsupportedContent, path, message));
    }
    Ok(Item::Reasoning { id: String::new(), status: Status::Completed, summary, content })
}

fn required(fields: &mut Fields, key: &str, max_bytes: usize) -> ApiResult<String> {
    let value = fields.string(key, max_bytes)?;
    fields.required(key, value)
}

fn parts(items: Vec<Json>, path: &str, kinds: &[&str]) -> ApiResult<Vec<Content>> {
    let items = array_of(path, Json::Array(items), MAX_PARTS)?;
    items.into_iter().enumerate().map(|(i, value)| part(value, &format!("{path}[{i}]"), kinds)).collect()
}

fn part(value: Json, path: &str, kinds: &[&str]) -> ApiResult<Content> {
    let mut fields = Fields::nested(value, path)?;
    let kind = required(&mut fields, "type", 64)?;
    if !kinds.contains(&kind.as_str()) {
        let shown: String = kind.chars().take(64).collect();
        let message = format!("Content of type '{shown}' is not supported here: this model reads text only.");
        return Err(ApiError::param(Code::UnsupportedContent, fields.path("type"), message));
    }
    let text = required(&mut fields, "text", MAX_TEXT_BYTES)?;
    // A client sends our own answers back; what they say beside the text is of no use to the model.
    for key in ["annotations", "logprobs"] {
        fields.array(key, usize::MAX)?;
    }
    fields.finish(&["prompt_cache_breakpoint"])?;
    Ok(match kind.as_str() {
        "output_text" => Content::output(text),
        "reasoning_text" => Content::Reasoning { text },
        "summary_text" => Content::Summary { text },
        _ => Content::Input { text },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::json;

    fn given(text: &str) -> ApiResult<Vec<Given>> {
        read(json::parse(text.as_bytes(), 32).unwrap(), 16)
    }

    #[test]
    fn every_kind_of_item() {
        let items = given(
            r#"[{"role":"user","content":"a"},{"type":"message","role":"assistant","id":"msg_1","status":"completed",
            "content":[{"type":"output_text","text":"b","annotations":[],"logprobs":[]}]},
            {"type":"reasoning","id":"rs_1","summary":[],"content":[{"type":"reasoning_text","text":"t"}],"encrypted_content":null},
            {"type":"function_call","call_id":"c","name":"f","arguments":"{}","id":"fc_1","status":"completed","caller":null},
            {"type":"function_call_output","call_id":"c","output":"r"},{"type":"item_reference","id":"msg_2"}]"#,
        )
        .unwrap();
        let kinds: Vec<&str> = items
            .iter()
            .map(|given| match given {
                Given::Item(item) => item.prefix(),
                Given::Reference(id) => id,
            })
            .collect();
        assert_eq!(kinds, ["msg", "msg", "rs", "fc", "fco", "msg_2"]);
        assert_eq!(given("\"hi\"").unwrap().len(), 1);
    }

    #[test]
    fn refusals_name_the_place() {
        let cases = [
            ("5", Code::InvalidType, "input"),
            (r#"[{"role":"robot","content":"x"}]"#, Code::InvalidValue, "input[0].role"),
            (r#"[{"role":"user"}]"#, Code::InvalidType, "input[0].content"),
            (r#"[{"role":"user","content":"x","phase":"commentary"}]"#, Code::InvalidValue, "input[0].phase"),
            (
                r#"[{"role":"assistant","content":"x","phase":"prelude"}]"#,
                Code::InvalidValue,
                "input[0].phase",
            ),
            (r#"[{"role":"user","content":[]}]"#, Code::EmptyArray, "input[0].content"),
            (
                r#"[{"role":"user","content":[{"type":"input_image","image_url":"http://x"}]}]"#,
                Code::UnsupportedContent,
                "input[0].content[0].type",
            ),
            (r#"[{"role":"user","content":"x","colour":1}]"#, Code::UnknownParameter, "input[0].colour"),
            (r#"[{"type":"computer_call"}]"#, Code::UnsupportedContent, "input[0].type"),
            (
                r#"[{"type":"function_call","call_id":"c","name":"f"}]"#,
                Code::MissingParameter,
                "input[0].arguments",
            ),
            (r#"[{"type":"function_call_output","output":"r"}]"#, Code::MissingParameter, "input[0].call_id"),
            (r#"[{"type":"item_reference"}]"#, Code::MissingParameter, "input[0].id"),
            (
                r#"[{"type":"reasoning","summary":[],"encrypted_content":"x"}]"#,
                Code::UnsupportedContent,
                "input[0].encrypted_content",
            ),
        ];
        for (text, code, param) in cases {
            let error = given(text).expect_err(text);
            assert_eq!((error.code, error.param.as_deref()), (code, Some(param)), "{text}");
        }
        let many = format!("[{}{{}}]", "{},".repeat(16));
        assert_eq!(given(&many).unwrap_err().code, Code::ArrayTooLong);
    }
}
