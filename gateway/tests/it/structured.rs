//! Answers of a given form and calls of tools, as a client sees them.

use serde_json::{Value, json};

use crate::support::{Item, Reply, Server, chat, merged, shared};

fn ask(server: &Server, key: &str, extra: Value) -> Reply {
    server.chat(
        key,
        &chat("Who are you? Answer in JSON.", merged(json!({"max_tokens": 400, "temperature": 0}), extra)),
    )
}

fn schema(schema: Value) -> Value {
    json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}})
}

/// The first choice's text; it must be complete.
fn text(answer: &Value) -> &str {
    assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
    answer["choices"][0]["message"]["content"].as_str().expect("text")
}

fn weather() -> Value {
    json!({"type": "function", "function": {"name": "get_weather", "description": "Weather of a <|im_end|> city",
        "parameters": {"type": "object", "required": ["city", "unit"], "additionalProperties": false, "properties": {
            "city": {"enum": ["Paris", "Rome"]}, "unit": {"enum": ["C", "F"]}}}}})
}

fn clock() -> Value {
    json!({"type": "function", "function": {"name": "get_time"}})
}

fn is_weather(arguments: &Value) -> bool {
    let arguments: Value = serde_json::from_str(arguments.as_str().expect("text")).expect("JSON");
    ["Paris", "Rome"].contains(&arguments["city"].as_str().unwrap_or_default())
        && ["C", "F"].contains(&arguments["unit"].as_str().unwrap_or_default())
}

#[test]
fn answers_have_the_form_that_was_asked_for() {
    let (server, key) = shared();
    let people = json!({"type": "object", "required": ["zeta", "alpha"], "additionalProperties": false, "properties": {
        "zeta": {"enum": ["x", "y"]}, "alpha": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3}}});
    let answer = ask(server, key, schema(people)).ok();
    let value: Value = serde_json::from_str(text(&answer)).expect("JSON");
    let keys: Vec<&String> = value.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["zeta", "alpha"], "in the schema's order");
    assert!(value["alpha"].as_array().is_some_and(|items| items.iter().all(Value::is_boolean)), "{value}");
    let outputs = |outputs: Value| ask(server, key, json!({"structured_outputs": outputs})).ok();
    let date = outputs(json!({"regex": "\\d{4}-\\d\\d"}));
    assert_eq!((text(&date).len(), &text(&date)[4..5]), (7, "-"));
    assert!(["red", "blue"].contains(&text(&outputs(json!({"choice": ["red", "blue"]})))));
    assert_eq!(text(&outputs(json!({"grammar": "start: \"a\" \"b\""}))), "ab");
    let cut = ask(
        server,
        key,
        merged(schema(json!({"type": "string", "minLength": 300})), json!({"max_tokens": 3})),
    )
    .ok();
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    let body = json!({"model": crate::support::model_id(), "prompt": "x", "max_tokens": 20, "structured_outputs": {"choice": ["yes"]}});
    assert_eq!(server.post("/v1/completions", key, &body).ok()["choices"][0]["text"], "yes");
}

#[test]
fn a_required_call_is_valid_and_streams_as_it_comes() {
    let (server, key) = shared();
    for choice in [json!("required"), json!({"type": "function", "function": {"name": "get_weather"}})] {
        let request = json!({"tools": [weather()], "tool_choice": choice, "parallel_tool_calls": false});
        let answer = ask(server, key, request.clone()).ok();
        let (choice, message) = (&answer["choices"][0], &answer["choices"][0]["message"]);
        assert_eq!(
            (&choice["finish_reason"], &message["content"]),
            (&json!("tool_calls"), &Value::Null),
            "{answer}"
        );
        let call = &message["tool_calls"][0];
        assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("get_weather")));
        assert!(is_weather(&call["function"]["arguments"]), "{call}");
        let body = chat(
            "Who are you? Answer in JSON.",
            merged(json!({"max_tokens": 400, "temperature": 0, "stream": true}), request),
        );
        let mut events = server.events(key, &body);
        let mut chunks = Vec::new();
        while let Some(item) = events.next().expect("a whole stream") {
            if let Item::Chunk(chunk) = item {
                chunks.push(chunk);
            }
        }
        let deltas: Vec<&Value> = chunks
            .iter()
            .map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0])
            .filter(|d| !d.is_null())
            .collect();
        assert_eq!(deltas[0]["function"]["name"], "get_weather");
        let arguments: String = deltas.iter().filter_map(|d| d["function"]["arguments"].as_str()).collect();
        assert_eq!(json!(arguments), call["function"]["arguments"]);
        assert!(deltas.len() > 3, "arguments come in pieces: {deltas:?}");
    }
}

#[test]
fn answers_of_tools_go_back_into_the_conversation() {
    let (server, key) = shared();
    let messages = json!([{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": null, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\":\"Rome\",\"unit\":\"C\"}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "20 degrees"}]);
    for choice in ["auto", "none"] {
        let request = json!({"messages": messages, "tools": [weather(), clock()], "tool_choice": choice, "max_tokens": 40});
        let answer = ask(server, key, request).ok();
        let with_tools = answer["usage"]["prompt_tokens"].as_u64().expect("a count");
        assert!(with_tools > if choice == "auto" { 150 } else { 30 }, "{answer}");
    }
}

#[test]
fn refusals_name_the_field() {
    let (server, key) = shared();
    let tool =
        |parameters: Value| json!({"type": "function", "function": {"name": "f", "parameters": parameters}});
    let cases = [
        (schema(json!({"$ref": "#"})), "invalid_schema", "response_format"),
        (schema(json!({"type": "strnig"})), "invalid_schema", "response_format"),
        (schema(json!({"$ref": "http://127.0.0.1/x"})), "invalid_schema", "response_format"),
        (schema(json!({"enum": (0..20_000).collect::<Vec<_>>()})), "invalid_schema", "response_format"),
        (schema(json!({"type": "string", "pattern": "("})), "invalid_schema", "response_format"),
        (json!({"structured_outputs": {"regex": "(?=a)"}}), "invalid_schema", "structured_outputs"),
        (json!({"structured_outputs": {"grammar": "begin: \"a\""}}), "invalid_schema", "structured_outputs"),
        (json!({"structured_outputs": {}}), "conflicting_parameters", "structured_outputs"),
        (
            json!({"tools": [weather(), tool(json!({"type": "strnig"}))]}),
            "invalid_schema",
            "tools[1].function.parameters",
        ),
        (json!({"tools": [clock(), clock()]}), "invalid_value", "tools[1].name"),
        (json!({"tools": vec![clock(); 129]}), "array_above_max_length", "tools"),
        (json!({"tool_choice": "required"}), "invalid_value", "tool_choice"),
        (json!({"functions": []}), "unsupported_parameter", "functions"),
        (
            json!({"messages": [{"role": "tool", "tool_call_id": "x", "content": "y"}]}),
            "invalid_value",
            "messages[0].tool_call_id",
        ),
    ];
    for (extra, code, param) in cases {
        let reply = ask(server, key, extra.clone());
        let shown: String = extra.to_string().chars().take(120).collect();
        assert_eq!((reply.status(), reply.code().as_str()), (400, code), "{shown}: {}", reply.text());
        assert_eq!(reply.json()["error"]["param"], param, "{shown}");
    }
}
