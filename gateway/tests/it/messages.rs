//! Messages in Anthropic's form: shapes, streams, errors of every layer, and that they are billed like all others.

use serde_json::{Value, json};

use crate::support::{KeyOptions, Method, Reply, Server, Wire, merged, model_id, shared};

fn body(extra: Value) -> Value {
    let messages = json!([{"role": "user", "content": "Name three rivers."}]);
    merged(json!({"model": model_id(), "max_tokens": 16, "temperature": 0, "messages": messages}), extra)
}

fn ask(server: &Server, key: &str, extra: Value) -> Reply {
    server.post("/v1/messages", key, &body(extra))
}

/// The error object of a refusal in this surface's form.
fn refused(reply: &Reply, status: u16, kind: &str) -> Value {
    assert_eq!(reply.status(), status, "{}", reply.text());
    let body = reply.json();
    assert_eq!((&body["type"], &body["error"]["type"]), (&json!("error"), &json!(kind)), "{body}");
    let id = reply.header("request-id").expect("a request id");
    assert_eq!((body["request_id"].as_str(), reply.header("x-request-id")), (Some(id), Some(id)));
    body["error"].clone()
}

#[test]
fn an_answer_has_the_exact_shape() {
    let (server, key) = shared();
    let reply = ask(server, key, json!({}));
    let answer = reply.ok();
    let id = reply.header("request-id").expect("a request id");
    assert_eq!(answer["id"].as_str().map(|id| &id[..4]), Some("msg_"));
    assert_eq!((&answer["type"], &answer["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(answer["model"], model_id());
    assert_eq!(answer["content"].as_array().map(Vec::len), Some(1), "{answer}");
    assert_eq!(answer["content"][0]["type"], "text");
    assert!(answer["stop_sequence"].is_null(), "{answer}");
    let row = server.row(id);
    let count = |name: &str| answer["usage"][name].as_u64().expect("a count");
    assert_eq!(count("output_tokens"), row.usage.completion);
    assert_eq!(count("cache_read_input_tokens"), row.usage.cached);
    assert_eq!(count("input_tokens") + count("cache_read_input_tokens"), row.usage.prompt);
}

#[test]
fn a_stream_says_the_same_as_one_answer() {
    let (server, key) = shared();
    let answer = ask(server, key, json!({})).ok();
    let mut stream =
        server.try_events("/v1/messages", key, &body(json!({"stream": true}))).expect("a stream");
    let id = stream.head.header("request-id").expect("a request id").to_owned();
    let events = stream.named();
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().expect("a type")).collect();
    let (first, last) = (&kinds[..3], &kinds[kinds.len() - 3..]);
    assert_eq!(first, ["message_start", "ping", "content_block_start"]);
    assert_eq!(last, ["content_block_stop", "message_delta", "message_stop"]);
    let text: String = events.iter().filter_map(|e| e["delta"]["text"].as_str()).collect();
    assert_eq!(text, answer["content"][0]["text"].as_str().expect("text"));
    let end = &events[events.len() - 2];
    assert_eq!(end["delta"]["stop_reason"], answer["stop_reason"]);
    assert_eq!(end["usage"]["output_tokens"].as_u64(), Some(server.row(&id).usage.completion));
    let start = &events[0]["message"];
    assert_eq!((&start["content"], &start["stop_reason"]), (&json!([]), &Value::Null));
}

#[test]
fn refusals_name_the_place_and_cost_nothing() {
    let (server, key) = shared();
    let image = json!({"type": "image", "source": {"type": "url", "url": "http://169.254.169.254/"}});
    let cases = [
        (json!({"max_tokens": null}), "max_tokens"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"messages": [{"role": "user", "content": [image]}]}), "messages[0].content[0].type"),
        (json!({"messages": [{"role": "robot", "content": "x"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user", "content": "word ".repeat(20_000)}]}), "messages"),
        (json!({"system": 5}), "system"),
        (json!({"stop_sequences": "x"}), "stop_sequences"),
        (json!({"n": 2}), "n"),
        (json!({"tool_choice": {"type": "tool", "name": "none"}}), "tool_choice"),
        (json!({"temperature": 1.01}), "temperature"),
    ];
    for (extra, param) in cases {
        let error = refused(&ask(server, key, extra), 400, "invalid_request_error");
        assert_eq!(error["details"]["param"], param, "{error}");
    }
}

#[test]
fn every_layer_speaks_this_form() {
    let (server, key) = shared();
    let bearer = format!("Bearer {key}");
    let path = "/v1/messages";
    refused(&server.post_raw(path, &[], b"{}"), 401, "authentication_error");
    refused(&server.post_raw(path, &[("x-api-key", "sk-sw-wrong")], b"{}"), 401, "authentication_error");
    refused(&server.get(path, &[("x-api-key", key)]), 405, "invalid_request_error");
    refused(&server.post("/v1/messages/batches", key, &json!({})), 404, "not_found_error");
    refused(&ask(server, key, json!({"model": "none"})), 404, "not_found_error");
    refused(&server.post_raw(path, &[("x-api-key", key)], b"{"), 400, "invalid_request_error");
    let text = [("x-api-key", key), ("Content-Type", "text/plain")];
    refused(&server.post_raw(path, &text, b"{}"), 415, "invalid_request_error");
    let large = vec![b' '; (4 << 20) + 1];
    refused(&server.post_raw(path, &[("x-api-key", key)], &large), 413, "request_too_large");
    let schema = json!({"output_config": {"format": {"type": "json_schema", "schema": {"pattern": "("}}}});
    let reply = ask(server, key, schema);
    refused(&reply, 400, "invalid_request_error");
    assert_eq!(reply.json()["error"]["details"]["param"], "output_config.format", "{}", reply.text());
    let unkept = json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}});
    let reply =
        ask(server, key, json!({"output_config": {"format": {"type": "json_schema", "schema": unkept}}}));
    refused(&reply, 400, "invalid_request_error");
    assert!(reply.text().contains("uniqueItems"), "{}", reply.text());
    // Made by the outermost checks, before any route.
    let mut wire = Wire::connect(server.address).expect("connect");
    let headers = [("Authorization", bearer.as_str()), ("Expect", "200-ok")];
    wire.request(Method::Post, path, &headers, Some(b"{}")).expect("write");
    refused(&wire.reply().expect("read").expect("an answer"), 417, "invalid_request_error");
    // The other surface keeps its own form.
    assert_eq!(server.post("/v1/chat/completions", key, &json!({})).code(), "missing_required_parameter");
}

#[test]
fn tokens_are_counted_without_a_bill() {
    let (server, key) = shared();
    let counted = |extra: Value| {
        let body = merged(body(json!({"max_tokens": null, "temperature": null})), extra);
        server.post("/v1/messages/count_tokens", key, &body)
    };
    let reply = counted(json!({"system": "Be brief."}));
    let count = reply.ok()["input_tokens"].as_u64().expect("a count");
    let usage = ask(server, key, json!({"system": "Be brief."})).ok()["usage"].clone();
    let billed = usage["input_tokens"].as_u64().zip(usage["cache_read_input_tokens"].as_u64());
    assert_eq!(Some(count), billed.map(|(new, cached)| new + cached));
    let id = reply.header("request-id").expect("a request id");
    assert!(server.export().iter().all(|row| row.request_id != id), "a count was billed");
    refused(&counted(json!({"stream": true})), 400, "invalid_request_error");
    let limited =
        server.key(KeyOptions { project: "one", requests_per_minute: Some(1), ..KeyOptions::default() });
    let body = body(json!({"max_tokens": null, "temperature": null}));
    server.post("/v1/messages/count_tokens", &limited, &body).ok();
    refused(&server.post("/v1/messages/count_tokens", &limited, &body), 429, "rate_limit_error");
}
