//! Chat completions: the exact shape of an answer and of a stream, and the headers beside them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Config, Item, KeyOptions, Server, Usage, chat, model_id, shared};

const QUESTION: &str = "What is the capital of France?";

fn names(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap_or_else(|| panic!("not an object: {value}")).keys().map(String::as_str).collect()
}

/// All of `needed` and nothing outside of `needed` and `allowed`.
fn check_names(what: &str, value: &Value, needed: &[&str], allowed: &[&str]) {
    let found = names(value);
    for name in needed {
        assert!(found.contains(name), "{what} lacks {name}: {value}");
    }
    for name in found {
        assert!(needed.contains(&name) || allowed.contains(&name), "{what} has a stray {name}: {value}");
    }
}

fn check_usage(usage: &Value) {
    check_names(
        "usage",
        usage,
        &["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"],
        &["completion_tokens_details", "cost_usd"],
    );
    assert!(
        usage["prompt_tokens_details"]["cached_tokens"].is_u64(),
        "cached_tokens is not a count: {usage}"
    );
    Usage::of(usage);
}

fn check_recent(created: &Value) {
    let created = created.as_u64().expect("created is whole seconds");
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    assert!(created.abs_diff(now) < 300, "created {created} is far from now {now}");
}

#[test]
fn an_answer_has_the_exact_shape() {
    let (server, key) = shared();
    let answer = server.chat(key, &chat(QUESTION, json!({"temperature": 0}))).ok();
    check_names(
        "the answer",
        &answer,
        &["id", "object", "created", "model", "choices", "usage", "system_fingerprint"],
        &["service_tier"],
    );
    assert!(answer["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")), "id: {answer}");
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], model_id());
    check_recent(&answer["created"]);
    let choices = answer["choices"].as_array().expect("choices is an array");
    assert_eq!(choices.len(), 1);
    check_names("the choice", &choices[0], &["index", "message", "logprobs", "finish_reason"], &[]);
    assert_eq!(choices[0]["index"], 0);
    assert!(choices[0]["logprobs"].is_null());
    check_names("the message", &choices[0]["message"], &["role", "content", "refusal"], &["annotations"]);
    assert_eq!(choices[0]["message"]["role"], "assistant");
    assert!(choices[0]["message"]["content"].as_str().is_some_and(|c| !c.is_empty()), "no text: {answer}");
    assert!(choices[0]["message"]["refusal"].is_null());
    check_usage(&answer["usage"]);
    let reason = choices[0]["finish_reason"].as_str().expect("a finish reason");
    assert!(["stop", "length"].contains(&reason), "finish reason {reason}");
}

#[test]
fn a_stream_has_the_exact_shape() {
    let (server, key) = shared();
    let body =
        chat(QUESTION, json!({"temperature": 0, "stream": true, "stream_options": {"include_usage": true}}));
    let mut events = server.events(key, &body);
    assert!(
        events.head.header("content-type").is_some_and(|v| v.starts_with("text/event-stream")),
        "{:?}",
        events.head
    );
    let seen = events.transcript().finished();
    let first = &seen.chunks[0];
    for chunk in &seen.chunks {
        check_names(
            "a chunk",
            chunk,
            &["id", "object", "created", "model", "system_fingerprint", "choices", "usage"],
            &["service_tier", "x_receipt"],
        );
        assert_eq!(chunk["object"], "chat.completion.chunk");
        for name in ["id", "created", "model", "system_fingerprint"] {
            assert_eq!(chunk[name], first[name], "{name} changes within the stream");
        }
    }
    let (usage, others) = seen.chunks.split_last().expect("chunks");
    assert_eq!(usage["choices"], json!([]), "the usage chunk has no choices");
    check_usage(&usage["usage"]);
    for chunk in others {
        assert!(chunk["usage"].is_null(), "usage is null before the last chunk: {chunk}");
        assert_eq!(chunk["choices"].as_array().map(Vec::len), Some(1), "one choice a chunk: {chunk}");
        check_names("a choice", &chunk["choices"][0], &["index", "delta", "logprobs", "finish_reason"], &[]);
    }
    let choice = |at: usize| &others[at]["choices"][0];
    assert_eq!(choice(0)["delta"]["role"], "assistant");
    assert_eq!(choice(0)["delta"]["content"], "");
    let last = others.len() - 1;
    assert_eq!(choice(last)["delta"], json!({}), "the finishing chunk has an empty delta");
    assert!(choice(last)["finish_reason"].is_string());
    for at in 1..last {
        assert_eq!(names(&choice(at)["delta"]), BTreeSet::from(["content"]), "delta {at}");
        assert!(
            choice(at)["delta"]["content"].as_str().is_some_and(|c| !c.is_empty()),
            "delta {at} is empty"
        );
        assert!(choice(at)["finish_reason"].is_null());
    }
}

#[test]
fn a_stream_without_the_option_has_no_usage() {
    let (server, key) = shared();
    for options in
        [json!({"stream": true}), json!({"stream": true, "stream_options": {"include_usage": false}})]
    {
        let seen = server.stream(key, &chat(QUESTION, options));
        assert_eq!(seen.usage, None);
        let last = seen.chunks.last().expect("chunks");
        assert!(last["choices"][0]["finish_reason"].is_string(), "the finishing chunk is the last: {last}");
        assert!(last.get("usage").is_none_or(Value::is_null), "usage was not asked for: {last}");
    }
}

#[test]
fn a_stream_says_what_the_answer_says() {
    let (server, key) = shared();
    for prompt in [QUESTION, "Write a haiku about rivers.", "Count: 1, 2, 3", "Grüße, 世界! 🙂 Repeat that."]
    {
        let extra = json!({"temperature": 0, "max_tokens": 32});
        let answer = server.chat(key, &chat(prompt, extra)).ok();
        let extra = json!({"temperature": 0, "max_tokens": 32, "stream": true,
            "stream_options": {"include_usage": true}});
        let seen = server.stream(key, &chat(prompt, extra));
        assert_eq!(answer["choices"][0]["message"]["content"], seen.first_text(), "prompt {prompt:?}");
        assert_eq!(answer["choices"][0]["finish_reason"], seen.finish[&0].as_str(), "prompt {prompt:?}");
        let usage = seen.usage.expect("usage was asked for");
        assert_eq!(Usage { cached: 0, ..Usage::of(&answer["usage"]) }, Usage { cached: 0, ..usage });
    }
}

#[test]
fn several_choices_are_one_bill() {
    let (server, key) = shared();
    let one = Usage::of(&server.chat(key, &chat(QUESTION, json!({}))).ok()["usage"]);
    let answer = server.chat(key, &chat(QUESTION, json!({"n": 3, "max_tokens": 7, "seed": 1}))).ok();
    let choices = answer["choices"].as_array().expect("choices");
    let indices: Vec<u64> = choices.iter().filter_map(|c| c["index"].as_u64()).collect();
    assert_eq!(indices, [0, 1, 2]);
    let usage = Usage::of(&answer["usage"]);
    assert_eq!(usage.prompt, one.prompt, "the prompt is counted once");
    assert!(
        (3..=21).contains(&usage.completion),
        "completion tokens of three choices of at most 7: {usage:?}"
    );

    let options = json!({"n": 2, "stream": true, "stream_options": {"include_usage": true}});
    let seen = server.stream(key, &chat(QUESTION, options));
    assert_eq!(seen.text.keys().copied().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(seen.finish.keys().copied().collect::<Vec<_>>(), [0, 1]);
    let roles = seen.chunks.iter().flat_map(|c| c["choices"].as_array().cloned().unwrap_or_default());
    assert_eq!(
        roles.filter(|c| c["delta"]["role"] == "assistant").count(),
        2,
        "each choice opens with its role"
    );
}

#[test]
fn message_forms_of_the_specification_are_taken() {
    let (server, key) = shared();
    let forms = [
        json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]),
        json!([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]),
        json!([{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]),
        json!([{"role": "user", "content": "Hi", "name": "ann"}, {"role": "assistant", "content": "Hello"},
               {"role": "user", "content": "And?"}]),
    ];
    for messages in forms {
        let answer = server.chat(key, &chat("", json!({"messages": messages, "max_tokens": 2})));
        assert_eq!(answer.status(), 200, "messages {messages}: {}", answer.text());
    }
}

#[test]
fn harmless_fields_are_taken() {
    let (server, key) = shared();
    let fields = [
        json!({"user": "u1"}),
        json!({"safety_identifier": "u1"}),
        json!({"metadata": {"a": "b"}}),
        json!({"service_tier": "auto"}),
        json!({"service_tier": "default"}),
        json!({"store": false}),
        json!({"prompt_cache_key": "k"}),
        json!({"temperature": null}),
        json!({"stop": null}),
        json!({"stream": null}),
        json!({"stream": false}),
        json!({"parallel_tool_calls": true}),
        json!({"response_format": {"type": "text"}}),
        json!({"modalities": ["text"]}),
        json!({"top_k": 5, "min_p": 0.05, "repetition_penalty": 1.1, "min_tokens": 1}),
        json!({"max_tokens": null, "max_completion_tokens": 2}),
    ];
    for extra in fields {
        let answer = server.chat(key, &chat("Hi", json_with_limit(&extra)));
        // A field that the server does not honour may be refused, but then the answer has to name it.
        if answer.status() == 400 {
            let param = answer.json()["error"]["param"].as_str().unwrap_or_default().to_owned();
            let named = extra.as_object().is_some_and(|o| o.keys().any(|k| param.starts_with(k.as_str())));
            assert!(named, "the refusal of {extra} does not name it: {}", answer.text());
            let may_be_refused = ["store", "parallel_tool_calls", "modalities", "prompt_cache_key"];
            assert!(may_be_refused.contains(&param.as_str()), "{extra} should be taken: {}", answer.text());
        } else {
            assert_eq!(answer.status(), 200, "{extra}: {}", answer.text());
        }
    }
}

fn json_with_limit(extra: &Value) -> Value {
    let mut extra = extra.clone();
    if extra.get("max_completion_tokens").is_none() {
        extra["max_tokens"] = json!(2);
    }
    extra
}

#[test]
fn headers_tell_request_time_and_limits() {
    let (server, _) = shared();
    let key = server.key(KeyOptions {
        project: "headers",
        requests_per_minute: Some(40),
        tokens_per_minute: Some(20_000),
        ..KeyOptions::default()
    });
    let first = server.chat(&key, &chat("Hi", json!({"max_tokens": 2})));
    let second = server.chat(&key, &chat("Hi", json!({"max_tokens": 2})));
    for reply in [&first, &second] {
        assert_eq!(reply.status(), 200, "{}", reply.text());
        let number = |name: &str| -> u64 {
            let text = reply.header(name).unwrap_or_else(|| panic!("no {name} in {:?}", reply.head));
            text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}"))
        };
        assert_eq!(number("x-ratelimit-limit-requests"), 40);
        assert_eq!(number("x-ratelimit-limit-tokens"), 20_000);
        // What was used may have been refilled by the time the header is written.
        assert!(number("x-ratelimit-remaining-requests") <= 40);
        assert!(number("x-ratelimit-remaining-tokens") <= 20_000);
        number("openai-processing-ms");
        for name in ["x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"] {
            let text = reply.header(name).unwrap_or_else(|| panic!("no {name}"));
            assert!(is_duration(text), "{name} is {text:?}");
        }
    }
    let id = |r: &crate::support::Reply| r.header("x-request-id").expect("x-request-id").to_owned();
    assert_ne!(id(&first), id(&second));
    assert_ne!(id(&first), "");
    // A caller cannot choose the request id: it is the idempotency key of the bill.
    let body = chat("Hi", json!({"max_tokens": 1}));
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", bearer.as_str()), ("X-Request-Id", "mine")];
    let chosen = server.post_raw("/v1/chat/completions", &headers, body.to_string().as_bytes());
    assert_ne!(id(&chosen), "mine");
}

/// `1s`, `6m0s`, `12ms`, `1.5s`, `1h2m3s`.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(0);
        let unit = ["ms", "h", "m", "s"].iter().find(|u| rest[digits..].starts_with(**u));
        match unit {
            Some(unit) if digits > 0 => rest = &rest[digits + unit.len()..],
            _ => return false,
        }
    }
    !text.is_empty()
}

#[test]
fn errors_carry_request_ids_too() {
    let (server, key) = shared();
    let reply = server.chat(key, &json!({}));
    assert_eq!(reply.status(), 400);
    assert!(reply.header("x-request-id").is_some_and(|id| !id.is_empty()), "{:?}", reply.head);
    let body = reply.json();
    check_names("the body", &body, &["error"], &[]);
    check_names("the error", &body["error"], &["message", "type", "param", "code"], &[]);
}

#[test]
fn text_in_flight_is_sent_at_once() {
    let (server, key) = shared();
    let mut events = server.events(key, &chat("Tell me a story.", json!({"max_tokens": 64, "stream": true})));
    let mut pieces = 0;
    while let Some(item) = events.next().expect("the stream goes on") {
        if let Item::Chunk(chunk) = item {
            pieces +=
                u64::from(chunk["choices"][0]["delta"]["content"].as_str().is_some_and(|c| !c.is_empty()));
        }
    }
    // One piece a token save where a character or a stop string is held back: far more than a few big ones.
    assert!(pieces >= 8, "64 tokens came in {pieces} pieces");
}

#[test]
fn a_stream_that_waits_is_kept_alive_by_comments() {
    let server = Server::start(&Config::new().with("server", "heartbeat_seconds", "1"));
    let key = server.key(KeyOptions { project: "heartbeat", ..KeyOptions::default() });
    // No processor is through this prompt within a second, so a comment comes before the text.
    let body = chat(&"Number 7. ".repeat(1_700), json!({"stream": true}));
    let mut events = server.events(&key, &body);
    loop {
        match events.next().expect("the stream goes on").expect("the stream goes on") {
            Item::Comment(_) => break,
            Item::Chunk(chunk) => {
                let text = &chunk["choices"][0]["delta"]["content"];
                assert!(text.as_str().is_none_or(str::is_empty), "text came before any comment: {chunk}");
            }
            other => panic!("the stream ended without a comment: {other:?}"),
        }
    }
}

#[test]
fn models_are_listed() {
    let (server, key) = shared();
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", bearer.as_str())];
    let list = server.get("/v1/models", &headers).ok();
    assert_eq!(list["object"], "list");
    let models = list["data"].as_array().expect("data is an array");
    let model = models.iter().find(|m| m["id"] == model_id()).expect("the model is listed");
    assert_eq!(model["object"], "model");
    assert!(model["created"].is_u64() && model["owned_by"].is_string(), "{model}");
    // What runs at the moment is another number each time.
    let still = |model: &Value| {
        let mut model = model.clone();
        assert!(model["capacity"]["running"].take().is_u64(), "{model}");
        model
    };
    let alone = server.get(&format!("/v1/models/{}", model_id()), &headers).ok();
    assert_eq!(still(&alone), still(model));
    let absent = server.get("/v1/models/none", &headers);
    assert_eq!((absent.status(), absent.code().as_str()), (404, "model_not_found"), "{}", absent.text());
    let without_key = server.get("/v1/models", &[]);
    assert_eq!((without_key.status(), without_key.code().as_str()), (401, "invalid_api_key"));
}
