//! Conversations made short.

use serde_json::{Value, json};

use super::compliance::message;
use super::{ask, body, id};
use crate::support::{KeyOptions, Reply, Socket, merged, model_id, shared};

fn compact(extra: Value) -> Reply {
    let (server, key) = shared();
    server.post("/v1/responses/compact", key, &merged(json!({"model": model_id()}), extra))
}

fn conversation() -> Value {
    json!([
        message("user", "We agreed to launch on Tuesday and notify support first."),
        message("assistant", "Understood. The launch is Tuesday, with support notified beforehand."),
    ])
}

#[test]
fn a_conversation_is_made_short_billed_and_gone_on_from() {
    let (server, key) = shared();
    let reply = compact(json!({"input": conversation(), "prompt_cache_key": "k"}));
    let made = reply.ok();
    assert_eq!(made["object"], "response.compaction");
    let output = made["output"].as_array().expect("items");
    assert_eq!(output.len(), 2, "{made}");
    assert_eq!((&output[0]["type"], &output[0]["role"]), (&json!("message"), &json!("user")));
    assert_eq!(output[1]["type"], "compaction");
    assert!(!output[1].to_string().contains("launch"), "it is sealed: {made}");
    let row = server.row(reply.header("x-request-id").expect("an id"));
    let usage = &made["usage"];
    assert_eq!(usage["input_tokens"].as_u64(), Some(row.usage.prompt));
    assert_eq!(usage["output_tokens"].as_u64(), Some(row.usage.completion));
    assert!(row.usage.completion > 0 && row.cost_picos > 0, "{row:?}");

    // The summary is read by what goes on, posted or on a connection, and kept with it.
    let mut input = output.clone();
    input.push(message("user", "When do we launch?"));
    let next = ask(server, key, json!({"input": input})).ok();
    let without = [input[0].clone(), input[2].clone()];
    let short = ask(server, key, json!({"input": without})).ok();
    // A text that is read again may take fewer tokens than it was written in; not half of them.
    let summary = row.usage.completion / 2;
    assert!(super::input_tokens(&next) > super::input_tokens(&short) + summary, "{made} {next}");
    let again = ask(server, key, json!({"previous_response_id": id(&next), "input": "And then?"})).ok();
    assert!(super::input_tokens(&again) > super::input_tokens(&next), "{again}");
    let told = Socket::open(server, key).turn(json!({"input": input}));
    assert_eq!(super::input_tokens(&told), super::input_tokens(&next));

    // What was compacted can be compacted again, up to an answer that is kept.
    let shorter = compact(json!({"previous_response_id": id(&next)})).ok();
    let kinds: Vec<&Value> =
        shorter["output"].as_array().expect("items").iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, [&json!("message"), &json!("message"), &json!("compaction")]);
}

#[test]
fn a_compaction_belongs_to_its_organisation_and_cannot_be_changed() {
    let (server, key) = shared();
    let made = compact(json!({"input": conversation()})).ok();
    let item = made["output"][1].clone();
    let mut text = item["encrypted_content"].as_str().expect("a text").to_owned();
    let last = text.pop().expect("it is not empty");
    text.push(if last == 'A' { 'Q' } else { 'A' });
    let stranger =
        server.key(KeyOptions { org: Some("strangers"), project: "compact", ..KeyOptions::default() });
    let changed = merged(item.clone(), json!({"encrypted_content": text}));
    for (key, item) in [(key, changed), (stranger.as_str(), item)] {
        let refused =
            server.post("/v1/responses", key, &body(json!({"input": [message("user", "Hi"), item]})));
        assert_eq!(refused.status(), 400, "{}", refused.text());
        assert_eq!(refused.json()["error"]["param"], "input[1].encrypted_content");
    }
}

#[test]
fn what_cannot_be_compacted_is_refused_by_name() {
    for (extra, param) in [
        (json!({"model": null, "input": "x"}), "model"),
        (json!({}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": "x", "stream": true}), "stream"),
        (json!({"previous_response_id": "resp_none"}), "previous_response_id"),
        (json!({"input": [{"type": "compaction", "encrypted_content": "x"}]}), "input[0].encrypted_content"),
    ] {
        let refused = compact(extra);
        assert_eq!(refused.status(), 400, "{}", refused.text());
        assert_eq!(refused.json()["error"]["param"], param, "{}", refused.text());
    }
}
