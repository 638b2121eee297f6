//! Responses: shapes, streams, conversations that are kept, and answers in the background.

mod background;
mod compact;
mod compliance;
mod socket;

use serde_json::{Value, json};

use crate::support::{Config, KeyOptions, Reply, Server, merged, model_id, shared};

fn body(extra: Value) -> Value {
    merged(
        json!({"model": model_id(), "max_output_tokens": 16, "temperature": 0, "input": "Name three rivers."}),
        extra,
    )
}

fn ask(server: &Server, key: &str, extra: Value) -> Reply {
    server.post("/v1/responses", key, &body(extra))
}

fn id(response: &Value) -> &str {
    response["id"].as_str().expect("an id")
}

fn path(response: &Value) -> String {
    format!("/v1/responses/{}", id(response))
}

/// All the text of a response.
fn text(response: &Value) -> String {
    let items = response["output"].as_array().expect("items");
    let parts = items.iter().filter_map(|item| item["content"].as_array()).flatten();
    parts.filter_map(|part| part["text"].as_str()).collect()
}

fn input_tokens(response: &Value) -> u64 {
    response["usage"]["input_tokens"].as_u64().expect("a count")
}

#[test]
fn a_response_has_the_exact_shape() {
    let (server, key) = shared();
    let metadata = json!({"a": "b"});
    let reply = ask(server, key, json!({"instructions": "Be brief.", "metadata": metadata, "user": "u"}));
    let response = reply.ok();
    assert!(id(&response).starts_with("resp_"), "{response}");
    assert_eq!((&response["object"], &response["model"]), (&json!("response"), &json!(model_id())));
    assert!(matches!(response["status"].as_str(), Some("completed" | "incomplete")), "{response}");
    assert_eq!((&response["instructions"], &response["metadata"]), (&json!("Be brief."), &metadata));
    assert_eq!((&response["temperature"], &response["max_output_tokens"]), (&json!(0.0), &json!(16)));
    assert_eq!((&response["store"], &response["background"]), (&json!(true), &json!(false)));
    assert_eq!(response["text"]["format"], json!({"type": "text"}));
    for name in ["error", "previous_response_id", "max_tool_calls", "prompt_cache_key", "safety_identifier"] {
        assert_eq!(response.get(name), Some(&Value::Null), "{name} in {response}");
    }
    let message = &response["output"][0];
    assert_eq!((&message["type"], &message["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(
        (&message["content"][0]["type"], &message["content"][0]["annotations"]),
        (&json!("output_text"), &json!([]))
    );
    let row = server.row(reply.header("x-request-id").expect("an id"));
    let usage = &response["usage"];
    assert_eq!(usage["input_tokens"].as_u64(), Some(row.usage.prompt));
    assert_eq!(usage["input_tokens_details"]["cached_tokens"].as_u64(), Some(row.usage.cached));
    assert_eq!(usage["output_tokens"].as_u64(), Some(row.usage.completion));
    let count = server.post(
        "/v1/responses/input_tokens",
        key,
        &json!({"model": model_id(), "input": "Name three rivers.", "instructions": "Be brief."}),
    );
    assert_eq!(count.ok(), json!({"object": "response.input_tokens", "input_tokens": row.usage.prompt}));
}

#[test]
fn a_stream_tells_every_step_and_ends_with_the_same_response() {
    let (server, key) = shared();
    let whole = ask(server, key, json!({})).ok();
    let stream =
        body(json!({"stream": true, "include": ["message.output_text.logprobs"], "top_logprobs": 2}));
    let events = server.try_events("/v1/responses", key, &stream).expect("a stream").named();
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], i, "{event}");
    }
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().expect("a type")).collect();
    let expected_first = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ];
    assert_eq!(kinds[..4], expected_first);
    let last = &kinds[kinds.len() - 4..];
    let done = ["response.output_text.done", "response.content_part.done", "response.output_item.done"];
    assert_eq!(last[..3], done);
    let deltas: Vec<&Value> = events.iter().filter(|e| e["type"] == "response.output_text.delta").collect();
    let told: String = deltas.iter().map(|e| e["delta"].as_str().expect("a delta")).collect();
    let end = &events[events.len() - 1];
    assert_eq!(last[3], format!("response.{}", end["response"]["status"].as_str().expect("a status")));
    assert_eq!((told.as_str(), &text(&end["response"])), (text(&whole).as_str(), &told));
    assert_eq!(deltas[0]["logprobs"][0]["top_logprobs"].as_array().map(Vec::len), Some(2));
    assert_eq!(end["response"]["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
    // What was streamed can be fetched.
    assert_eq!(server.fetch(&path(&end["response"]), key).ok(), end["response"]);
}

#[test]
fn a_conversation_goes_on_from_what_is_kept() {
    let (server, key) = shared();
    let first = ask(
        server,
        key,
        json!({"input": "My name is Ada and I live in Bergen by the sea.", "instructions": "A."}),
    )
    .ok();
    let second = ask(server, key, json!({"input": "Who am I?", "previous_response_id": id(&first)})).ok();
    let third = ask(server, key, json!({"input": "Once more.", "previous_response_id": id(&second)})).ok();
    assert_eq!(third["previous_response_id"].as_str(), Some(id(&second)));
    // The same by hand, without the instructions, which do not carry over.
    let said = |role: &str, text: &str| json!({"role": role, "content": text});
    let by_hand = json!([
        said("user", "My name is Ada and I live in Bergen by the sea."),
        said("assistant", &text(&first)),
        said("user", "Who am I?"),
        said("assistant", &text(&second)),
        said("user", "Once more."),
    ]);
    let same = ask(server, key, json!({"input": by_hand, "store": false})).ok();
    assert_eq!((input_tokens(&third), text(&third)), (input_tokens(&same), text(&same)));
    // What is already in the cache is billed as such.
    assert!(same["usage"]["input_tokens_details"]["cached_tokens"].as_u64() > Some(0), "{same}");
    // An item may be named instead of sent.
    let item = first["output"][0]["id"].as_str().expect("an id");
    let named = json!([said("user", "My name is Ada and I live in Bergen by the sea."),
        {"type": "item_reference", "id": item}, said("user", "Who am I?")]);
    let named = ask(server, key, json!({"input": named, "store": false})).ok();
    assert_eq!((input_tokens(&named), text(&named)), (input_tokens(&second), text(&second)));
    for (extra, code) in [
        (json!({"previous_response_id": "resp_none"}), "previous_response_not_found"),
        (json!({"previous_response_id": id(&same)}), "previous_response_not_found"),
        (json!({"input": [{"type": "item_reference", "id": "msg_none"}]}), "invalid_value"),
    ] {
        let reply = ask(server, key, extra);
        assert_eq!((reply.status(), reply.code().as_str()), (400, code), "{}", reply.text());
    }
}

#[test]
fn what_is_kept_is_seen_by_its_organisation_alone_until_it_is_deleted() {
    let (server, key) = shared();
    let other = server.key(KeyOptions { project: "p", org: Some("stranger"), ..KeyOptions::default() });
    let sibling = server.key(KeyOptions { project: "sibling", ..KeyOptions::default() });
    let items = json!([{"role": "user", "content": "a"}, {"role": "developer", "content": "b"}, {"role": "user", "content": "c"}]);
    let response = ask(server, key, json!({"input": items})).ok();
    let path = path(&response);
    assert_eq!(server.fetch(&path, key).ok(), response);
    assert_eq!(server.fetch(&path, &sibling).ok(), response);
    let missing = server.fetch("/v1/responses/resp_none", &other);
    for reply in [
        server.fetch(&path, &other),
        server.fetch(&format!("{path}/input_items"), &other),
        server.post(&format!("{path}/cancel"), &other, &json!({})),
        server.delete(&path, &other),
    ] {
        assert_eq!((reply.status(), reply.code()), (missing.status(), missing.code()), "{}", reply.text());
    }
    let page = |query: &str| server.fetch(&format!("{path}/input_items{query}"), key);
    let list = page("?order=asc&limit=2").ok();
    let texts = |list: &Value| -> Vec<String> {
        let items = list["data"].as_array().expect("items");
        items.iter().map(|item| item["content"][0]["text"].as_str().expect("text").to_owned()).collect()
    };
    assert_eq!((texts(&list), &list["has_more"]), (vec!["a".to_owned(), "b".to_owned()], &json!(true)));
    let rest = page(&format!("?order=asc&after={}", list["last_id"].as_str().expect("an id"))).ok();
    assert_eq!((texts(&rest), &rest["has_more"]), (vec!["c".to_owned()], &json!(false)));
    assert_eq!(texts(&page("").ok()), ["c", "b", "a"]);
    assert_eq!(page("?limit=101").code(), "integer_above_max_value");
    assert_eq!(page("?page=1").code(), "unknown_parameter");
    assert_eq!(page("?after=x").code(), "invalid_value");
    assert_eq!(server.post(&format!("{path}/cancel"), key, &json!({})).status(), 400);
    let deleted = server.delete(&path, key).ok();
    assert_eq!((&deleted["deleted"], &deleted["id"]), (&json!(true), &response["id"]));
    assert_eq!(server.fetch(&path, key).code(), "response_not_found");
    assert_eq!(server.delete(&path, key).status(), 404);
    let unkept = ask(server, key, json!({"store": false})).ok();
    assert_eq!(server.fetch(&self::path(&unkept), key).status(), 404);
}

#[test]
fn too_long_a_conversation_is_refused_or_cut_as_wanted() {
    let (server, key) = shared();
    let mut items: Vec<Value> = (0..40)
        .map(|i| json!({"role": if i % 2 == 0 { "user" } else { "assistant" }, "content": "word ".repeat(300)}))
        .collect();
    items.push(json!({"role": "user", "content": "Say yes."}));
    let refused = ask(server, key, json!({"input": items}));
    assert_eq!(
        (refused.code().as_str(), &refused.json()["error"]["param"]),
        ("context_length_exceeded", &json!("input"))
    );
    // Most of the context is kept free for an answer that then ends at once.
    let cut = json!({"input": items, "truncation": "auto", "instructions": "Be brief.", "max_output_tokens": 7_300, "stop": [" ", "\n", "e", "."]});
    let cut = ask(server, key, cut).ok();
    let tokens = input_tokens(&cut);
    assert!(tokens + 7_300 <= 8_192 && tokens > 590, "{tokens} tokens are left");
    assert_eq!(cut["truncation"], "auto");
    // One item that cannot be cut is refused all the same.
    let one = ask(server, key, json!({"input": "word ".repeat(10_000), "truncation": "auto"}));
    assert_eq!(one.code(), "context_length_exceeded");
}

#[test]
fn refusals_name_the_place() {
    let (server, key) = shared();
    let image = json!([{"role": "user", "content": [{"type": "input_image", "image_url": "http://169.254.169.254/"}]}]);
    let orphan = json!([{"role": "user", "content": "a"}, {"type": "function_call_output", "call_id": "c", "output": "r"}]);
    let cases = [
        (json!({"input": null}), "missing_required_parameter", "input"),
        (json!({"input": []}), "empty_prompt", "input"),
        (json!({"input": image}), "unsupported_content", "input[0].content[0].type"),
        (json!({"input": orphan}), "invalid_value", "input[1].call_id"),
        (
            json!({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"pattern": "("}}}}),
            "invalid_schema",
            "text.format",
        ),
        (json!({"conversation": "conv_1"}), "unsupported_parameter", "conversation"),
        (json!({"tools": [{"type": "web_search"}]}), "unsupported_value", "tools[0].type"),
        (json!({"background": true, "store": false}), "conflicting_parameters", "store"),
        (json!({"nonsense": 1}), "unknown_parameter", "nonsense"),
        (json!({"model": "none"}), "model_not_found", "model"),
    ];
    for (extra, code, param) in cases {
        let reply = ask(server, key, extra);
        let error = &reply.json()["error"];
        assert_eq!((error["code"].as_str(), error["param"].as_str()), (Some(code), Some(param)), "{error}");
    }
}

#[test]
fn room_and_chains_have_bounds() {
    let server =
        Server::start(&Config::new().with("responses", "org_mib", "1").with("responses", "max_chain", "2"));
    let key = server.key(KeyOptions { project: "bounds", ..KeyOptions::default() });
    let first = ask(&server, &key, json!({})).ok();
    let mut last = first.clone();
    for _ in 0..2 {
        last = ask(&server, &key, json!({"previous_response_id": id(&last)})).ok();
    }
    let too_long = ask(&server, &key, json!({"previous_response_id": id(&last)}));
    assert_eq!(too_long.code(), "previous_response_not_found", "{}", too_long.text());
    // Instructions are repeated in the object and so take room; the oldest answers give way.
    let large = "a ".repeat(400_000);
    let refused = ask(&server, &key, json!({"instructions": large}));
    assert_eq!(refused.code(), "context_length_exceeded");
    let tag = |i: usize| json!({"metadata": {"n": i.to_string()}, "input": "x".repeat(3_000), "max_output_tokens": 1});
    let mut i = 0;
    while server.fetch(&path(&first), &key).status() == 200 {
        ask(&server, &key, tag(i)).ok();
        i += 1;
        assert!(i < 400, "nothing gave way");
    }
    assert!(i > 50, "{i} answers filled a mebibyte");
}
