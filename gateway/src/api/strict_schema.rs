//! What `"strict": true` asks of a schema: the subset that the public API documents, all of which is enforced here.

use serde_json::{Map, Value};

use super::error::{ApiError, ApiResult, Code};

/// Keywords that may stand in a strict schema. Others could not be enforced or are not part of the subset.
const KEYWORDS: [&str; 30] = [
    "$comment",
    "$defs",
    "$id",
    "$ref",
    "$schema",
    "additionalProperties",
    "anyOf",
    "const",
    "default",
    "definitions",
    "deprecated",
    "description",
    "enum",
    "examples",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "multipleOf",
    "pattern",
    "prefixItems",
    "properties",
    "required",
    "type",
];
/// `title` is the remaining annotation.
const TITLE: &str = "title";
/// Formats that are enforced.
const FORMATS: [&str; 10] =
    ["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"];
/// Deepest nesting that is walked; the compiler's own limit is lower.
const MAX_DEPTH: usize = 128;

/// Refuses a schema outside the subset; `field` is where it stands in the request.
pub fn check(schema: &Value, field: &str) -> ApiResult<()> {
    let root = schema.as_object();
    let is_object = root.is_some_and(|map| map.get("type") == Some(&Value::from("object")));
    if !is_object || root.is_some_and(|map| map.contains_key("anyOf")) {
        return Err(refuse(field, "(root)", "its root must have 'type': 'object' and no 'anyOf'"));
    }
    walk(schema, field, &mut Vec::new())
}

fn walk<'a>(schema: &'a Value, field: &str, path: &mut Vec<&'a str>) -> ApiResult<()> {
    let Value::Object(map) = schema else { return Ok(()) };
    let here = |path: &[&str]| if path.is_empty() { "(root)".to_owned() } else { path.join("/") };
    if path.len() > MAX_DEPTH {
        return Err(refuse(field, &here(&path[..8]), "it is nested too deep"));
    }
    if let Some(key) = map.keys().find(|key| !KEYWORDS.contains(&key.as_str()) && *key != TITLE) {
        let key: String = key.chars().take(64).collect();
        return Err(refuse(field, &here(path), &format!("'{key}' is not permitted")));
    }
    if let Some(Value::String(format)) =
        map.get("format").filter(|format| !FORMATS.iter().any(|f| *format == f))
    {
        let format: String = format.chars().take(64).collect();
        return Err(refuse(field, &here(path), &format!("the format '{format}' is not supported")));
    }
    if map.get("type") == Some(&Value::from("object")) || map.contains_key("properties") {
        object(map).map_err(|reason| refuse(field, &here(path), &reason))?;
    }
    for (key, value) in map {
        path.push(key);
        match (key.as_str(), value) {
            ("properties" | "$defs" | "definitions", Value::Object(children)) => {
                for (name, child) in children {
                    path.push(name);
                    walk(child, field, path)?;
                    path.pop();
                }
            }
            ("anyOf" | "prefixItems", Value::Array(children)) => {
                for child in children {
                    walk(child, field, path)?;
                }
            }
            ("items", child) => walk(child, field, path)?,
            _ => {}
        }
        path.pop();
    }
    Ok(())
}

fn object(map: &Map<String, Value>) -> Result<(), String> {
    if map.get("additionalProperties") != Some(&Value::Bool(false)) {
        return Err("'additionalProperties' is required to be supplied and to be false".to_owned());
    }
    let required = map.get("required").and_then(Value::as_array);
    let is_required =
        |name: &String| required.is_some_and(|list| list.iter().any(|item| item == name.as_str()));
    let mut properties = map.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys);
    match properties.find(|name| !is_required(name)) {
        Some(name) => {
            let name: String = name.chars().take(64).collect();
            Err(format!("'required' must list every property; '{name}' is missing"))
        }
        None => Ok(()),
    }
}

fn refuse(field: &str, at: &str, reason: &str) -> ApiError {
    let message =
        format!("Invalid schema for '{field}': at {at}, {reason}. Leave out 'strict' or change the schema.");
    ApiError::param(Code::InvalidSchema, field, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_subset_is_kept() {
        let object = |properties: Value, required: Value| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
        let good = [
            object(json!({}), json!([])),
            object(
                json!({"a": {"type": ["string", "null"], "title": "A"}, "b": {"$ref": "#/$defs/x"}}),
                json!(["a", "b"]),
            ),
            object(
                json!({"a": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]}}),
                json!(["a"]),
            ),
        ];
        for schema in good {
            assert_eq!(check(&schema, "f"), Ok(()), "{schema}");
        }
        let bad = [
            (json!({"type": "string"}), "root"),
            (json!({"anyOf": [{"type": "object"}], "type": "object", "additionalProperties": false}), "root"),
            (json!({"type": "object", "properties": {}}), "additionalProperties"),
            (object(json!({"a": {"type": "string"}}), json!([])), "'a' is missing"),
            (object(json!({"a": {"type": "object"}}), json!(["a"])), "properties/a"),
            (object(json!({"a": {"allOf": []}}), json!(["a"])), "allOf"),
            (object(json!({"a": {"type": "string", "format": "odd"}}), json!(["a"])), "odd"),
            (object(json!({"a": {"type": "array", "items": {"not": {}}}}), json!(["a"])), "not"),
        ];
        for (schema, word) in bad {
            let error = check(&schema, "f").unwrap_err();
            assert!(error.message.contains(word), "{}", error.message);
            assert_eq!((error.code, error.param.as_deref()), (Code::InvalidSchema, Some("f")));
        }
    }
}
