//! Text completions, the older route.

use serde_json::{Value, json};

use crate::support::{Reply, Server, Transcript, Usage, merged, model_id, shared};

fn body(extra: Value) -> Value {
    merged(
        json!({"model": model_id(), "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}),
        extra,
    )
}

fn complete(server: &Server, key: &str, extra: Value) -> Reply {
    server.post("/v1/completions", key, &body(extra))
}

fn stream(server: &Server, key: &str, extra: Value) -> Transcript {
    let body = body(merged(json!({"stream": true}), extra));
    server.try_events("/v1/completions", key, &body).expect("a stream opens").transcript().finished()
}

#[test]
fn an_answer_has_the_exact_shape() {
    let (server, key) = shared();
    let answer = complete(server, key, json!({})).ok();
    assert!(answer["id"].as_str().is_some_and(|id| id.starts_with("cmpl-")), "{answer}");
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["model"], model_id());
    assert!(answer["created"].is_u64());
    let choice = &answer["choices"][0];
    assert_eq!(choice["index"], 0);
    assert!(choice["text"].as_str().is_some_and(|t| t.contains("Paris")), "{answer}");
    assert!(choice["logprobs"].is_null());
    assert!(choice["finish_reason"].is_string());
    assert!(Usage::of(&answer["usage"]).prompt > 0);
}

#[test]
fn a_stream_says_the_same() {
    let (server, key) = shared();
    let answer = complete(server, key, json!({})).ok();
    let seen = stream(server, key, json!({"stream_options": {"include_usage": true}}));
    assert_eq!(seen.first_text(), answer["choices"][0]["text"].as_str().expect("text"));
    assert_eq!(seen.usage.expect("usage").completion, Usage::of(&answer["usage"]).completion);
    for chunk in &seen.chunks {
        assert_eq!(chunk["object"], "text_completion");
    }
    assert_eq!(seen.chunks.last().expect("chunks")["choices"], json!([]));
}

#[test]
fn several_prompts_are_several_choices() {
    let (server, key) = shared();
    let prompts = ["The capital of France is", "One, two, three,"];
    let alone: Vec<Value> = prompts
        .iter()
        .map(|p| complete(server, key, json!({"prompt": p})).ok()["choices"][0]["text"].clone())
        .collect();
    let answer = complete(server, key, json!({"prompt": prompts})).ok();
    let together: Vec<Value> =
        answer["choices"].as_array().expect("choices").iter().map(|c| c["text"].clone()).collect();
    assert_eq!(alone, together);
}

#[test]
fn prompts_of_token_ids_are_taken() {
    let (server, key) = shared();
    let answer = complete(server, key, json!({"prompt": [504, 3575, 282]})).ok();
    assert_eq!(Usage::of(&answer["usage"]).prompt, 3, "three ids are three prompt tokens");
    let beyond = complete(server, key, json!({"prompt": [4_000_000]}));
    assert_eq!(beyond.status(), 400, "an id beyond the vocabulary: {}", beyond.text());
}

#[test]
fn fields_that_are_not_served_are_named() {
    let (server, key) = shared();
    for (name, value) in [("suffix", json!("end")), ("best_of", json!(1_000_000_000)), ("nonsense", json!(1))]
    {
        let reply = complete(server, key, json!({name: value}));
        assert_eq!(reply.status(), 400, "{name}: {}", reply.text());
        assert_eq!(reply.json()["error"]["param"], name, "{}", reply.text());
    }
    let echo = complete(server, key, json!({"echo": true}));
    if echo.status() != 400 {
        let text = echo.ok()["choices"][0]["text"].as_str().expect("text").to_owned();
        assert!(text.starts_with("The capital of France is"), "echo repeats the prompt: {text:?}");
    }
}

#[test]
fn empty_prompts_are_refused() {
    let (server, key) = shared();
    for prompt in [json!(""), json!([]), json!([""]), json!([[]])] {
        let reply = complete(server, key, json!({"prompt": prompt}));
        assert_eq!(reply.status(), 400, "prompt {prompt}: {}", reply.text());
        assert!(
            ["empty_prompt", "empty_array"].contains(&reply.code().as_str()),
            "{prompt}: {}",
            reply.text()
        );
    }
}
