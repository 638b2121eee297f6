//! The cases of Open Responses, the public specification of this API: the same requests, and what its schema wants of the
//! answers. The demo model calls a function only when it must, and it reads text only.

use regex::Regex;
use serde_json::{Value, json};

use super::{id, path};
use crate::support::{Reply, merged, model_id, shared};

/// Fields that must be there, and what they may be.
type Fields = [(&'static str, &'static str)];

const RESPONSE: &Fields = &[
    ("id", "string"),
    ("object", "string"),
    ("created_at", "integer"),
    ("completed_at", "integer null"),
    ("status", "string"),
    ("incomplete_details", "object null"),
    ("model", "string"),
    ("previous_response_id", "string null"),
    ("instructions", "string null"),
    ("output", "array"),
    ("error", "object null"),
    ("tools", "array"),
    ("tool_choice", "string object"),
    ("truncation", "string"),
    ("parallel_tool_calls", "boolean"),
    ("text", "object"),
    ("top_p", "integer number"),
    ("presence_penalty", "integer number"),
    ("frequency_penalty", "integer number"),
    ("top_logprobs", "integer"),
    ("temperature", "integer number"),
    ("reasoning", "object null"),
    ("usage", "object null"),
    ("max_output_tokens", "integer null"),
    ("max_tool_calls", "integer null"),
    ("store", "boolean"),
    ("background", "boolean"),
    ("service_tier", "string"),
    ("metadata", "object"),
    ("safety_identifier", "string null"),
    ("prompt_cache_key", "string null"),
];
const USAGE: &Fields = &[
    ("input_tokens", "integer"),
    ("input_tokens_details", "object"),
    ("output_tokens", "integer"),
    ("output_tokens_details", "object"),
    ("total_tokens", "integer"),
];
const MESSAGE: &Fields = &[("id", "string"), ("status", "string"), ("role", "string"), ("content", "array")];
const CALL: &Fields = &[
    ("id", "string"),
    ("status", "string"),
    ("call_id", "string"),
    ("name", "string"),
    ("arguments", "string"),
];
const TEXT_PART: &Fields = &[("text", "string"), ("annotations", "array"), ("logprobs", "array")];
/// Of an event about an item, and of one about a part of it.
const OF_ITEM: &Fields = &[("item_id", "string"), ("output_index", "integer")];
const OF_PART: &Fields = &[("item_id", "string"), ("output_index", "integer"), ("content_index", "integer")];

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() || number.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check(value: &Value, fields: &Fields) {
    for (name, kinds) in fields {
        let field = value.get(name).unwrap_or_else(|| panic!("no {name} in {value}"));
        assert!(kinds.split(' ').any(|wanted| wanted == kind(field)), "{name} is no {kinds} in {value}");
    }
}

fn check_item(item: &Value) {
    match item["type"].as_str() {
        Some("message") => {
            check(item, MESSAGE);
            for part in item["content"].as_array().expect("parts") {
                assert_eq!(part["type"], "output_text", "{item}");
                check(part, TEXT_PART);
            }
        }
        Some("function_call") => check(item, CALL),
        _ => panic!("an unknown item: {item}"),
    }
    assert!(matches!(item["status"].as_str(), Some("in_progress" | "completed" | "incomplete")), "{item}");
}

/// Checks a response in any state.
fn check_response(response: &Value) {
    check(response, RESPONSE);
    assert_eq!(response["object"], "response");
    check(&response["text"], &[("format", "object")]);
    response["output"].as_array().expect("items").iter().for_each(check_item);
    if !response["usage"].is_null() {
        check(&response["usage"], USAGE);
        check(&response["usage"]["input_tokens_details"], &[("cached_tokens", "integer")]);
        check(&response["usage"]["output_tokens_details"], &[("reasoning_tokens", "integer")]);
    }
}

pub(super) fn message(role: &str, content: impl Into<Value>) -> Value {
    json!({"type": "message", "role": role, "content": content.into()})
}

fn request(extra: Value) -> Value {
    merged(json!({"model": model_id(), "temperature": 0, "max_output_tokens": 60}), extra)
}

fn refused(extra: Value) -> Reply {
    let (server, key) = shared();
    server.post("/v1/responses", key, &request(extra))
}

/// The response, which must be complete or have come to its length, and must have output.
fn answered(extra: Value) -> Value {
    let response = refused(extra).ok();
    check_response(&response);
    assert!(matches!(response["status"].as_str(), Some("completed" | "incomplete")), "{response}");
    assert_eq!(response["completed_at"].is_null(), response["status"] == "incomplete", "{response}");
    assert_ne!(response["output"], json!([]), "{response}");
    response
}

fn weather() -> Value {
    json!([{"type": "function", "name": "get_weather", "description": "Get the current weather for a location",
        "parameters": {"type": "object", "required": ["location"], "properties": {
            "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"}}}}])
}

#[test]
fn messages_of_every_role_are_answered() {
    let (server, key) = shared();
    answered(json!({"input": [message("user", "Say hello in exactly 3 words.")]}));
    for role in ["system", "developer"] {
        answered(json!({"input": [message(role, "You are a pirate."), message("user", "Say hello.")]}));
    }
    answered(json!({"input": [message("user", "My name is Alice."), message("assistant", "Hello Alice!"),
        message("user", "What is my name?")]}));
    let phase = |phase, text: &str| merged(message("assistant", text), json!({"phase": phase}));
    let input =
        [phase("commentary", "I look it up."), phase("final_answer", "Four."), message("user", "Repeat it.")];
    let response = answered(json!({"input": input}));
    let items = server.fetch(&format!("{}/input_items?order=asc", path(&response)), key).ok();
    let phases: Vec<&Value> =
        items["data"].as_array().expect("items").iter().map(|item| &item["phase"]).collect();
    assert_eq!(phases, [&json!("commentary"), &json!("final_answer"), &Value::Null]);
}

#[test]
fn an_answer_is_gone_on_from() {
    let first = answered(json!({"input": "Remember this code word: papaya. Reply with only OK."}));
    let next = json!({"previous_response_id": id(&first), "input": "What is the code word?"});
    assert_eq!(answered(next)["previous_response_id"], first["id"]);

    let choice = json!({"type": "function", "name": "get_weather"});
    let ask = json!({"input": "What is the weather like in San Francisco?", "tools": weather(), "tool_choice": choice});
    let called = answered(ask);
    let call = &called["output"][0];
    assert_eq!((&call["type"], &call["name"]), (&json!("function_call"), &json!("get_weather")), "{called}");
    let output = json!({"type": "function_call_output", "call_id": call["call_id"], "output": "64 degrees"});
    answered(json!({"previous_response_id": id(&called), "input": [output]}));
}

/// Checks a stream event by event; returns the response at its end.
fn streamed(extra: Value) -> Value {
    let (server, key) = shared();
    let body = merged(request(extra), json!({"stream": true}));
    check_events(&server.try_events("/v1/responses", key, &body).expect("a stream").named())
}

/// Checks the events of an answer; returns the response at its end.
pub(super) fn check_events(events: &[Value]) -> Value {
    let mut names = Vec::new();
    let (mut text, mut items) = (String::new(), Vec::new());
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number, "{event}");
        let name = event["type"].as_str().expect("a type").trim_start_matches("response.");
        names.push(name);
        match name {
            "created" | "in_progress" | "completed" | "incomplete" => check_response(&event["response"]),
            "output_item.added" | "output_item.done" => {
                assert_eq!(event["output_index"], items.len(), "{event}");
                check_item(&event["item"]);
                text.clear();
                if name == "output_item.done" {
                    items.push(event["item"].clone());
                }
            }
            "content_part.added" | "content_part.done" => {
                check(event, OF_PART);
                check(&event["part"], TEXT_PART);
                text.clear();
            }
            "output_text.delta" | "output_text.done" => check(event, OF_PART),
            "function_call_arguments.delta" | "function_call_arguments.done" => check(event, OF_ITEM),
            _ => panic!("an unknown event: {event}"),
        }
        text.push_str(event["delta"].as_str().unwrap_or_default());
        if let Some(whole) = event.get("text").or(event.get("arguments")) {
            assert_eq!(whole, text.as_str(), "what was told piece by piece");
        }
    }
    let message = r"content_part\.added( output_text\.delta)* output_text\.done content_part\.done";
    let call =
        r"function_call_arguments\.delta( function_call_arguments\.delta)* function_call_arguments\.done";
    let item = format!(r"output_item\.added ({message}|{call}) output_item\.done ");
    let order =
        Regex::new(&format!("^created in_progress ({item})+(completed|incomplete)$")).expect("a pattern");
    assert!(order.is_match(&names.join(" ")), "{names:?}");
    let response = events.last().expect("events")["response"].clone();
    assert_eq!(response["output"], json!(items), "what was told item by item");
    response
}

#[test]
fn streams_tell_every_step_in_order() {
    streamed(json!({"input": [message("user", "Count from 1 to 5.")]}));
    let called = streamed(json!({"input": [message("user", "What's the weather like in San Francisco?")],
        "tools": weather(), "tool_choice": "required"}));
    assert_eq!(called["output"][0]["type"], "function_call", "{called}");
}

#[test]
fn what_the_model_cannot_do_is_refused_by_name() {
    let image = json!([{"type": "input_text", "text": "What do you see?"},
        {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}]);
    let file = json!([{"type": "input_text", "text": "Which title?"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0xLjE="}]);
    for (extra, param) in [
        (json!({"input": [message("user", image)]}), "input[0].content[1].type"),
        (json!({"input": [message("user", file)]}), "input[0].content[1].type"),
        (
            json!({"input": "Search.", "tools": [{"type": "file_search", "vector_store_ids": ["v"]}]}),
            "tools[0].type",
        ),
        (json!({"input": "Search.", "tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"input": "Hi", "previous_response_id": "resp_missing"}), "previous_response_id"),
    ] {
        let reply = refused(extra);
        let error = reply.json()["error"].clone();
        assert!((400..500).contains(&reply.status()), "{}", reply.text());
        assert_eq!(error["param"], param, "{error}");
        check(&error, &[("message", "string"), ("type", "string"), ("code", "string")]);
    }
}
