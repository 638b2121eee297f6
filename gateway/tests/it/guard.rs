//! Content rules: what is refused, what is stopped or masked, and what it costs.

mod hook;

use serde_json::json;

use crate::support::{Config, KeyOptions, Server, chat, merged};

const SIX: &str = "38";
const SEVEN: &str = "39";
const EIGHT: &str = "40";

const RULES: &str = r#"
[[guard.rule]]
name = "codename"
words = ["bluebird"]
output = "off"

[[guard.rule]]
name = "digit"
pattern = '[0-7]'
input = "off"
output = "mask"

[[guard.rule]]
name = "eight"
pattern = '8{3}'
input = "off"
"#;

fn server() -> (Server, String) {
    let server = Server::start(&Config::new().table(RULES));
    let key = server.key(KeyOptions::default());
    (server, key)
}

#[test]
fn a_forbidden_prompt_is_refused_and_free() {
    let (server, key) = server();
    let reply = server.chat(&key, &chat("Tell me about Bluebird.", json!({})));
    assert_eq!(reply.status(), 400, "{}", reply.text());
    let error = &reply.json()["error"];
    assert_eq!(
        (error["code"].as_str(), error["param"].as_str()),
        (Some("content_policy_violation"), Some("messages"))
    );
    let text = json!({"model": crate::support::model_id(), "prompt": "bluebird", "max_tokens": 1});
    assert_eq!(server.post("/v1/completions", &key, &text).json()["error"]["param"], "prompt");
    let logprobs = server.chat(&key, &chat("Hi", json!({"logprobs": true})));
    assert_eq!(logprobs.json()["error"]["param"], "logprobs");
    let long = server.chat(&key, &chat(&format!("{} bluebird", "word ".repeat(2_000)), json!({})));
    assert_eq!(long.code(), "content_policy_violation", "{}", long.text());
    let answer = json!({"model": crate::support::model_id(), "input": "Hi", "include": ["message.output_text.logprobs"]});
    assert_eq!(server.post("/v1/responses", &key, &answer).json()["error"]["param"], "include");
    assert_eq!(server.chat(&key, &chat("Hi", json!({}))).status(), 200);
    assert_eq!(server.export().len(), 1);
}

#[test]
fn answers_are_masked_and_stopped() {
    let (server, key) = server();
    // The ids of digits in the demo model's vocabulary; a bias this high leaves nothing else to say.
    let only = |token: &str| json!({"logit_bias": {token: 100}, "temperature": 0.0, "max_tokens": 8});
    let masked = server.chat(&key, &chat("Count.", only(SEVEN))).ok();
    assert_eq!(masked["choices"][0]["message"]["content"], "[digit]".repeat(8));
    assert_eq!(masked["choices"][0]["finish_reason"], "length");
    let streamed = |token| merged(chat("Count.", only(token)), json!({"stream": true}));
    assert_eq!(server.stream(&key, &streamed(SEVEN)).finished().first_text(), "[digit]".repeat(8));

    let stopped = server.chat(&key, &chat("Count.", only(EIGHT))).ok();
    assert_eq!(stopped["choices"][0]["message"]["content"], "");
    assert_eq!(stopped["choices"][0]["finish_reason"], "content_filter");
    // The fourth token shows that the match is complete.
    assert_eq!(stopped["usage"]["completion_tokens"], 4);
    assert_eq!(server.stream(&key, &streamed(EIGHT)).first_text(), "");
    server.verify();
}

#[test]
fn moderations_name_every_rule() {
    let (server, key) = server();
    let reply = server.post(
        "/v1/moderations",
        &key,
        &json!({"input": ["a bluebird", {"type": "text", "text": "3"}, "x"]}),
    );
    let results = &reply.json()["results"];
    assert_eq!(results[0]["categories"], json!({"codename": true, "digit": false, "eight": false}));
    assert_eq!(results[1]["category_scores"], json!({"codename": 0, "digit": 1, "eight": 0}));
    assert_eq!((&results[2]["flagged"], &results[0]["flagged"]), (&json!(false), &json!(true)));
    for (body, param) in [
        (json!({}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": [3]}), "input[0]"),
        (json!({"input": [{"type": "image_url", "image_url": {"url": "x"}}]}), "input[0].type"),
        (json!({"input": "x", "more": 1}), "more"),
    ] {
        let reply = server.post("/v1/moderations", &key, &body);
        assert_eq!((reply.status(), reply.json()["error"]["param"].as_str()), (400, Some(param)), "{body}");
    }
    assert!(server.export().is_empty());
}
