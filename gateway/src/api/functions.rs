//! What every surface checks of the functions that a model may call.

use models::Tool;

use super::error::{ApiError, ApiResult, Code};
use super::fields::{Fields, invalid, wrong_type};
use super::generation::{ToolChoice, ToolUse};
use super::json::{Json, Object};

/// Longest name, as the public APIs allow.
const MAX_NAME_BYTES: usize = 128;
/// Longest description; the prompt bounds them all together.
const MAX_DESCRIPTION_BYTES: usize = 64 << 10;

/// Takes name, description and schema of a function; `schema` is the field of the schema.
pub fn function(fields: &mut Fields, schema: &str) -> ApiResult<Tool> {
    let name = name(fields)?;
    let description = fields.string("description", MAX_DESCRIPTION_BYTES)?;
    let path = fields.path(schema);
    let parameters = match fields.take(schema) {
        // A function without arguments.
        None => Json::Object(Box::<Object>::default()),
        Some(object @ Json::Object(_)) => object,
        Some(other) => return Err(wrong_type(&path, "a JSON schema, an object", &other)),
    };
    Ok(Tool { name, description, parameters: parameters.into() })
}

/// Takes the name of a function.
pub fn name(fields: &mut Fields) -> ApiResult<String> {
    let path = fields.path("name");
    let name = fields.string("name", MAX_NAME_BYTES)?;
    let name = fields.required("name", name)?;
    let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
    if name.is_empty() || !name.bytes().all(fits) {
        return Err(invalid(&path, "a name has letters, digits, '_' and '-'"));
    }
    Ok(name)
}

/// Refuses what tools and choice say against each other; `field` is the choice's.
pub fn check(wanted: &ToolUse, field: &str) -> ApiResult<()> {
    for (i, tool) in wanted.tools.iter().enumerate() {
        if wanted.tools[..i].iter().any(|other| other.name == tool.name) {
            return Err(invalid(&format!("tools[{i}].name"), "another tool has this name"));
        }
    }
    match &wanted.choice {
        ToolChoice::Required if wanted.tools.is_empty() => Err(invalid(field, "there are no tools to call")),
        ToolChoice::Named(name) if !wanted.tools.iter().any(|tool| tool.name == *name) => {
            let message = format!("Invalid value for '{field}': there is no tool '{name}' in 'tools'.");
            Err(ApiError::param(Code::InvalidValue, field, message))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::json;

    fn read(text: &str) -> ApiResult<Tool> {
        let mut fields = Fields::root(json::parse(text.as_bytes(), 16).unwrap()).unwrap();
        let tool = function(&mut fields, "parameters")?;
        fields.finish(&[]).map(|()| tool)
    }

    #[test]
    fn names_and_schemas() {
        let tool = read(r#"{"name":"f_1-x","parameters":{"type":"object"}}"#).unwrap();
        assert_eq!(
            (tool.name.as_str(), tool.parameters.to_string()),
            ("f_1-x", r#"{"type":"object"}"#.into())
        );
        assert_eq!(read(r#"{"name":"f","parameters":null}"#).unwrap().parameters, serde_json::json!({}));
        let long = format!(r#"{{"name":"{}"}}"#, "f".repeat(129));
        let cases = [
            (r#"{"description":"x"}"#, Code::MissingParameter),
            (r#"{"name":""}"#, Code::InvalidValue),
            (r#"{"name":"a b"}"#, Code::InvalidValue),
            (r#"{"name":"ä"}"#, Code::InvalidValue),
            (long.as_str(), Code::StringTooLong),
            (r#"{"name":"f","parameters":[]}"#, Code::InvalidType),
        ];
        for (text, code) in cases {
            assert_eq!(read(text).unwrap_err().code, code, "{text}");
        }
    }

    #[test]
    fn a_choice_must_be_possible() {
        let tool =
            |name: &str| Tool { name: name.into(), description: None, parameters: serde_json::json!({}) };
        let wanted = |names: &[&str], choice| ToolUse {
            tools: names.iter().map(|name| tool(name)).collect(),
            choice,
            parallel: true,
        };
        let named = |name: &str| ToolChoice::Named(name.to_owned());
        assert!(check(&wanted(&[], ToolChoice::Auto), "tool_choice").is_ok());
        assert!(check(&wanted(&["a", "b"], named("b")), "tool_choice").is_ok());
        let refused = |wanted| check(&wanted, "tool_choice").unwrap_err().param.unwrap();
        assert_eq!(refused(wanted(&["a", "a"], ToolChoice::Auto)), "tools[1].name");
        assert_eq!(refused(wanted(&["a"], named("c"))), "tool_choice");
        assert_eq!(refused(wanted(&[], ToolChoice::Required)), "tool_choice");
    }
}
