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

/// Sum of the log probabilities from token `from` on; `null` only at the very first.
fn score(logprobs: &Value, from: usize) -> f64 {
    let list = logprobs["token_logprobs"].as_array().expect("a list");
    list[from..].iter().map(|p| p.as_f64().expect("a log probability")).sum()
}

#[test]
fn a_prompt_is_scored_without_generating_as_evaluation_harnesses_ask() {
    let (server, key) = shared();
    // What the model says by itself, with what it thinks of it...
    let said = complete(server, key, json!({"logprobs": 1, "ignore_eos": true})).ok()["choices"][0].clone();
    let prompt = "The capital of France is";
    let whole = format!("{prompt}{}", said["text"].as_str().expect("text"));
    // ... is what the same text scores as a prompt.
    let reply = complete(server, key, json!({"prompt": whole, "max_tokens": 0, "echo": true, "logprobs": 1}));
    let scored = reply.ok();
    let choice = &scored["choices"][0];
    assert_eq!((choice["text"].as_str(), &choice["finish_reason"]), (Some(whole.as_str()), &json!("length")));
    let lists = &choice["logprobs"];
    let tokens: Vec<&str> =
        lists["tokens"].as_array().expect("tokens").iter().filter_map(Value::as_str).collect();
    assert_eq!(tokens.concat(), whole);
    assert_eq!((&lists["token_logprobs"][0], &lists["top_logprobs"][0]), (&Value::Null, &Value::Null));
    let generated = said["logprobs"]["tokens"].as_array().expect("tokens").len();
    let from = tokens.len() - generated;
    assert!((score(lists, from) - score(&said["logprobs"], 0)).abs() < 1e-3, "{lists} against {said}");
    // Greedy text is the likeliest at each place.
    for (token, top) in tokens.iter().zip(lists["top_logprobs"].as_array().expect("rivals")).skip(from) {
        assert_eq!(top.as_object().expect("a map").keys().collect::<Vec<_>>(), [token]);
    }
    let offsets: Vec<u64> =
        lists["text_offset"].as_array().expect("offsets").iter().filter_map(Value::as_u64).collect();
    for (offset, token) in offsets.iter().zip(&tokens) {
        assert!(whole.chars().skip(*offset as usize).collect::<String>().starts_with(token));
    }
    let usage = Usage::of(&scored["usage"]);
    assert_eq!((usage.prompt, usage.cached, usage.completion), (tokens.len() as u64, 0, 0));
    let row = server.row(reply.header("x-request-id").expect("an id"));
    assert_eq!(row.usage, usage);
    assert!(row.cost_picos > 0, "scoring is work");
}

#[test]
fn echo_in_every_form() {
    let (server, key) = shared();
    let prompt = "The capital of France is";
    let plain = complete(server, key, json!({})).ok()["choices"][0]["text"].clone();
    let echoed = complete(server, key, json!({"echo": true})).ok()["choices"][0].clone();
    let whole = format!("{prompt}{}", plain.as_str().expect("text"));
    assert_eq!((echoed["text"].as_str(), &echoed["logprobs"]), (Some(whole.as_str()), &Value::Null));
    assert_eq!(stream(server, key, json!({"echo": true})).first_text(), whole);
    // Token arrays, several prompts and choices; a stream lists the same as one answer.
    let extra = json!({"prompt": [[504, 3575, 282], "Rivers are"], "n": 2, "echo": true, "logprobs": 2, "max_tokens": 3});
    let answer = complete(server, key, extra.clone()).ok();
    let choices = answer["choices"].as_array().expect("choices");
    assert_eq!(choices.len(), 4);
    assert_eq!(choices[0]["text"], choices[1]["text"]);
    assert!(choices[2]["text"].as_str().is_some_and(|text| text.starts_with("Rivers are")), "{answer}");
    let seen = stream(server, key, extra);
    for (i, choice) in choices.iter().enumerate() {
        assert_eq!(seen.text[&(i as u64)], choice["text"].as_str().expect("text"));
        let listed = seen.chunks.iter().flat_map(|chunk| chunk["choices"].as_array().into_iter().flatten());
        let listed =
            listed.filter(|c| c["index"] == i).filter_map(|c| c["logprobs"]["token_logprobs"].as_array());
        let listed: Vec<Value> = listed.flatten().cloned().collect();
        assert_eq!(Some(&listed), choice["logprobs"]["token_logprobs"].as_array());
    }
    let scored = stream(server, key, json!({"max_tokens": 0, "echo": true, "logprobs": 0}));
    assert_eq!((scored.first_text(), scored.finish[&0].as_str()), (prompt, "length"));
    let nothing = complete(server, key, json!({"max_tokens": 0})).ok();
    assert_eq!(
        (&nothing["choices"][0]["text"], &nothing["usage"]["completion_tokens"]),
        (&json!(""), &json!(0))
    );
    for (extra, param) in [(json!({"suffix": "x"}), "suffix"), (json!({"best_of": 2}), "best_of")] {
        let reply = complete(server, key, extra);
        assert_eq!(
            (reply.code().as_str(), reply.json()["error"]["param"].as_str()),
            ("unsupported_parameter", Some(param))
        );
    }
}
