//! `response_format` and its extension `structured_outputs`.

use serde_json::Value;

use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{Fields, array_of, invalid, string_of, wrong_type};
use crate::api::generation::Format;
use crate::api::json::Json;
use crate::api::strict_schema;

const MAX_NAME_BYTES: usize = 64;
const MAX_DESCRIPTION_BYTES: usize = 64 << 10;
/// The grammar compiler has the true limit; this bounds the reader.
const MAX_GRAMMAR_BYTES: usize = 1 << 20;
const MAX_CHOICES: usize = 4_096;

/// Takes `response_format`.
pub(super) fn response_format(fields: &mut Fields) -> ApiResult<Option<Format>> {
    let Some(format) = fields.take("response_format") else { return Ok(None) };
    let mut format = Fields::nested(format, "response_format")?;
    let kind = format.string("type", 64)?;
    let read = match format.required("type", kind)?.as_str() {
        "text" => Format::Text,
        "json_object" => Format::JsonObject,
        "json_schema" => {
            let inner = format.take("json_schema");
            json_schema(format.required("json_schema", inner)?, "response_format.json_schema")?
        }
        other => {
            let shown: String = other.chars().take(64).collect();
            return Err(invalid("response_format.type", &format!("'{shown}' is not a format")));
        }
    };
    format.finish(&[])?;
    Ok(Some(read))
}

fn json_schema(value: Json, path: &str) -> ApiResult<Format> {
    let mut fields = Fields::nested(value, path)?;
    // A label for the model elsewhere; here the schema alone decides.
    let name = fields.string("name", MAX_NAME_BYTES)?;
    let name = fields.required("name", name)?;
    if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-')) {
        return Err(invalid(&fields.path("name"), "a name has letters, digits, '_' and '-'"));
    }
    fields.string("description", MAX_DESCRIPTION_BYTES)?;
    let strict = fields.boolean("strict")?.unwrap_or(false);
    let (schema, schema_path) = (fields.take("schema"), fields.path("schema"));
    fields.finish(&[])?;
    match schema {
        None => Ok(Format::JsonObject),
        Some(object @ Json::Object(_)) => {
            let schema = Value::from(object);
            if strict {
                strict_schema::check(&schema, "response_format")?;
            }
            // What `strict` asks for was checked above.
            Ok(Format::JsonSchema { schema, strict: false })
        }
        Some(other) => Err(wrong_type(&schema_path, "a JSON schema, an object", &other)),
    }
}

/// Takes `structured_outputs`: exactly one of `json`, `regex`, `choice`, `grammar` and `json_object`.
pub(super) fn structured_outputs(fields: &mut Fields) -> ApiResult<Option<Format>> {
    let path = "structured_outputs";
    let Some(value) = fields.take(path) else { return Ok(None) };
    let mut fields = Fields::nested(value, path)?;
    let json = fields.take("json").map(|value| match value {
        object @ Json::Object(_) => Ok(Format::JsonSchema { schema: object.into(), strict: false }),
        Json::String(text) => match serde_json::from_str(&text) {
            Ok(schema @ Value::Object(_)) => Ok(Format::JsonSchema { schema, strict: false }),
            _ => Err(invalid("structured_outputs.json", "the text is not a JSON object")),
        },
        other => Err(wrong_type("structured_outputs.json", "a JSON schema", &other)),
    });
    let object = fields.boolean("json_object")?.filter(|wanted| *wanted).map(|_| Ok(Format::JsonObject));
    let regex = fields.string("regex", MAX_GRAMMAR_BYTES)?.map(|pattern| Ok(Format::Regex(pattern)));
    let grammar = fields.string("grammar", MAX_GRAMMAR_BYTES)?.map(|text| Ok(Format::Lark(text)));
    let choice = fields.take("choice").map(|value| {
        let path = "structured_outputs.choice";
        let items = array_of(path, value, MAX_CHOICES)?;
        let texts = items.into_iter().map(|item| string_of(path, item, MAX_GRAMMAR_BYTES));
        Ok(Format::Choice(texts.collect::<ApiResult<_>>()?))
    });
    fields.finish(&[
        "disable_additional_properties",
        "disable_any_whitespace",
        "disable_fallback",
        "structural_tag",
        "whitespace_pattern",
    ])?;
    let mut given = [json, object, regex, grammar, choice].into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(format), None) => format.map(Some),
        _ => {
            let message = "Set exactly one of 'json', 'json_object', 'regex', 'choice' and 'grammar' in 'structured_outputs'.";
            Err(ApiError::param(Code::ConflictingParameters, path, message))
        }
    }
}
