//! Cases about the form of an answer: schemas, patterns, grammars and tools, on every surface that takes them.

use serde_json::{Map, Value, json};

use super::Case;
use crate::support::{merged, model_id};

const INVALID_SCHEMA: &str = "invalid_schema";

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, schema) in hostile_schemas() {
        cases.extend(on_every_surface(name, &schema));
    }
    cases.extend(texts());
    cases.extend(tools());
    cases.extend(strict());
    cases
}

/// A schema as the format of a chat, a response and a message, and as the arguments of a tool.
fn on_every_surface(name: &str, schema: &Value) -> [Case; 4] {
    let named = json!({"name": "s", "schema": schema});
    let format = json!({"response_format": {"type": "json_schema", "json_schema": named}});
    let tool = json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}],
                      "tool_choice": "required"});
    let response = json!({"model": model_id(), "input": "Hi", "max_output_tokens": 8,
                          "text": {"format": {"type": "json_schema", "name": "s", "schema": schema}}});
    let message = json!({"model": model_id(), "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8,
                         "output_config": {"format": {"type": "json_schema", "schema": schema}}});
    let on = |surface: &str| format!("{name} ({surface})");
    [
        Case::field(on("chat"), format).code(INVALID_SCHEMA).param("response_format"),
        Case::field(on("tool"), tool).code(INVALID_SCHEMA).param("tools[0].function.parameters"),
        Case::json(on("response"), response, 400)
            .path("/v1/responses")
            .code(INVALID_SCHEMA)
            .param("text.format"),
        Case::json(on("message"), message, 400)
            .path("/v1/messages")
            .code(INVALID_SCHEMA)
            .param("output_config.format"),
    ]
}

/// Schemas that would take a long time, much memory, or reach outside.
fn hostile_schemas() -> Vec<(&'static str, Value)> {
    let object = |properties: Value| json!({"type": "object", "properties": properties});
    let constants = |n: usize| (0..n).map(|i| json!({"const": format!("v{i}")})).collect::<Vec<_>>();
    let wide: Map<String, Value> = (0..11_000).map(|i| (format!("p{i}"), json!({}))).collect();
    vec![
        ("billion laughs", object(json!({"a": {"allOf": vec![json!({"anyOf": constants(40)}); 8]}}))),
        (
            "doubling definitions",
            json!({"type": "object", "$defs": doubling(30), "properties": {"a": {"$ref": "#/$defs/d0"}}}),
        ),
        ("a wide enum", object(json!({"a": {"enum": (0..20_000).collect::<Vec<_>>()}}))),
        ("many properties", object(Value::Object(wide))),
        ("comparisons of a oneOf", object(json!({"a": {"oneOf": constants(5_000)}}))),
        ("a reference to itself", json!({"$ref": "#", "type": "object"})),
        (
            "a circle of references",
            json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}},
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}}),
        ),
        (
            "a long row of references",
            json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": row(500)}),
        ),
        ("a reference outside", object(json!({"a": {"$ref": "http://169.254.169.254/latest/meta-data"}}))),
        ("a reference to a file", object(json!({"a": {"$ref": "file:///etc/passwd"}}))),
        ("a reference to nowhere", object(json!({"a": {"$ref": "#/$defs/none"}}))),
        ("a pattern that is no pattern", object(json!({"a": {"type": "string", "pattern": "("}}))),
        ("a pattern that looks around", object(json!({"a": {"type": "string", "pattern": "(?=a)b"}}))),
        ("a pattern that refers back", object(json!({"a": {"type": "string", "pattern": "(a)\\1"}}))),
        (
            "400 patterns",
            object(
                json!({"a": {"anyOf": (0..400).map(|i| json!({"type": "string", "pattern": format!("^{i}")})).collect::<Vec<_>>()}}),
            ),
        ),
        ("an unknown type", object(json!({"a": {"type": "strnig"}}))),
        (
            "nothing fits",
            object(json!({"a": {"type": "integer", "minimum": 3, "maximum": 2}}))
                .as_object()
                .map(|map| merged(Value::Object(map.clone()), json!({"required": ["a"]})))
                .unwrap_or_default(),
        ),
        ("300 KB of text", object(json!({"a": {"const": "x".repeat(300_000)}}))),
    ]
}

/// Each definition uses the next one twice beside a union, so that 2^n come out.
fn doubling(n: usize) -> Value {
    let mut definitions = Map::new();
    for i in 0..n {
        let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
        definitions.insert(
            format!("d{i}"),
            json!({"allOf": [{"anyOf": [next, {"type": "null"}]}, {"anyOf": [next, {"type": "boolean"}]}]}),
        );
    }
    definitions.insert(format!("d{n}"), json!({"type": "integer"}));
    Value::Object(definitions)
}

fn row(n: usize) -> Value {
    let mut definitions = Map::new();
    for i in 0..n {
        let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
        definitions.insert(format!("d{i}"), json!({"type": "array", "items": next}));
    }
    definitions.insert(format!("d{n}"), json!({"type": "null"}));
    Value::Object(definitions)
}

/// Patterns, choices and grammars, for chats and plain completions.
fn texts() -> Vec<Case> {
    let long = "a".repeat(300_000);
    let wanted = [
        ("an open bracket", json!({"regex": "("})),
        ("50,000 brackets", json!({"regex": "(".repeat(50_000)})),
        ("a long pattern", json!({"regex": long})),
        ("look-ahead", json!({"regex": "(?=a)b"})),
        ("look-behind", json!({"regex": "(?<=a)b"})),
        ("back-reference", json!({"regex": "(a)\\1"})),
        ("a pattern for nothing", json!({"regex": "[^\\s\\S]"})),
        ("no choice", json!({"choice": []})),
        ("an empty choice", json!({"choice": [""]})),
        ("a long choice", json!({"choice": [long]})),
        ("an empty grammar", json!({"grammar": ""})),
        ("a grammar without start", json!({"grammar": "begin: \"a\""})),
        ("a grammar that never ends", json!({"grammar": "start: start"})),
        ("a grammar of nothing", json!({"grammar": "start: other"})),
        ("a schema inside a grammar", json!({"grammar": "start: %json {\"type\": \"object\"}"})),
        ("a control token", json!({"grammar": "start: <|im_start|>"})),
        (
            "a deep grammar",
            json!({"grammar": format!("start: {}\"a\"{}", "(".repeat(50_000), ")".repeat(50_000))}),
        ),
    ];
    let mut cases = Vec::new();
    for (name, outputs) in wanted {
        let field = json!({"structured_outputs": outputs});
        let completion = merged(json!({"model": model_id(), "prompt": "x", "max_tokens": 4}), field.clone());
        cases.push(
            Case::field(name, field).code(INVALID_SCHEMA).code("invalid_value").param("structured_outputs"),
        );
        let case = Case::json(format!("{name} (completion)"), completion, 400).path("/v1/completions");
        cases.push(case.code(INVALID_SCHEMA).code("invalid_value").param("structured_outputs"));
    }
    cases
}

fn tools() -> Vec<Case> {
    let tool = |name: Value| json!({"type": "function", "function": {"name": name}});
    let mut cases = Vec::new();
    let names = [
        json!(""),
        json!("a b"),
        json!("größe"),
        json!("f\u{0}"),
        json!("<|im_end|>"),
        json!("a.b"),
        json!("f\"}"),
        json!("../f"),
        json!(5),
        json!(null),
        json!("f".repeat(129)),
    ];
    for name in names {
        let shown: String = name.to_string().chars().take(30).collect();
        let case = Case::field(format!("a tool called {shown}"), json!({"tools": [tool(name)]}));
        cases.push(case.param("tools[0].function.name"));
    }
    let choice = |value: Value| json!({"tools": [tool(json!("f"))], "tool_choice": value});
    cases.extend([
        Case::field("a choice of no tool", choice(json!({"type": "function", "function": {"name": "g"}}))).param("tool_choice"),
        Case::field("an unknown choice", choice(json!("maybe"))).param("tool_choice"),
        Case::field("a choice of another kind", choice(json!({"type": "custom", "custom": {"name": "f"}}))).param("tool_choice"),
        Case::field(
            "allowed tools that are none",
            choice(json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool(json!("g"))]}})),
        )
        .param("tool_choice"),
        Case::field("a custom tool", json!({"tools": [{"type": "custom", "custom": {"name": "f"}}]})).param("tools[0]"),
        Case::field("parameters are a list", json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}))
            .param("tools[0].function.parameters"),
        Case::field("an answer to no call", json!({"messages": [{"role": "tool", "tool_call_id": "x", "content": "y"}]}))
            .param("messages[0].tool_call_id"),
        Case::field("a description of 100 KB", json!({"tools": [{"type": "function", "function": {"name": "f", "description": "d".repeat(100_000)}}]}))
            .param("tools[0].function.description"),
    ]);
    cases
}

/// Who asks for `strict` is told what cannot be enforced.
fn strict() -> Vec<Case> {
    let schema = json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}, "required": ["a"],
                        "additionalProperties": false});
    let format = json!({"type": "json_schema", "name": "s", "schema": schema, "strict": true});
    let tool = json!({"name": "f", "parameters": schema, "strict": true});
    let response =
        |extra: Value| merged(json!({"model": model_id(), "input": "Hi", "max_output_tokens": 8}), extra);
    let flat = merged(json!({"type": "function"}), tool.clone());
    vec![
        Case::field("strict format", json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": true}}}))
            .code(INVALID_SCHEMA)
            .param("response_format"),
        Case::field("strict tool", json!({"tools": [{"type": "function", "function": tool}]}))
            .code(INVALID_SCHEMA)
            .param("tools[0].function.parameters"),
        Case::json("strict format of a response", response(json!({"text": {"format": format}})), 400)
            .path("/v1/responses")
            .code(INVALID_SCHEMA)
            .param("text.format"),
        Case::json("strict tool of a response", response(json!({"tools": [flat]})), 400)
            .path("/v1/responses")
            .code(INVALID_SCHEMA)
            .param("tools[0].parameters"),
    ]
}
