//! Signed receipts inside answers: what the official clients keep of them, and recorded streams, against the ledger.

use std::process::Command;

use serde_json::{Value, json};

use crate::sdk::{CLIENTS, EMBEDDER, printed, run_on};
use crate::support::{Config, KeyOptions, Server, chat, model_id, model_path, python, said};

const WANTED: (&str, &str) = ("x-spillway-receipt", "true");

/// What `spillway verify --receipts` says of a file with this text.
fn verify(server: &Server, text: &str) -> std::process::Output {
    let file = server.data().path().join("kept.jsonl");
    std::fs::write(&file, text).expect("write");
    server.cli(&["verify", "--receipts", file.to_str().expect("a path")])
}

#[test]
fn official_clients_keep_receipts_that_are_true() {
    let embedder = models::fetch::ensure_test_embedder();
    let config = Config::new().models(&[(model_id(), model_path()), (EMBEDDER, &embedder)]);
    let script = format!("{CLIENTS}/python/test_receipts.py");
    let (server, output) = run_on(&config, Command::new(python()).arg(script));
    assert!(output.status.success(), "the script failed:\n{}\n{}", said(&output), server.printed());
    let kept = printed(&output, "kept ");
    let text: String = kept.iter().map(|answer| format!("{answer}\n")).collect();
    let good = verify(&server, &text);
    let told = format!("receipts {}: 0 disagree", kept.len());
    assert!(good.status.success() && said(&good).contains(&told) && kept.len() >= 11, "{}", said(&good));
    let bad = verify(&server, &text.replace("\"end_reason\":\"finished\"", "\"end_reason\":\"budget\""));
    assert!(!bad.status.success() && said(&bad).contains("changed after it was signed"), "{}", said(&bad));
}

#[test]
fn recorded_streams_are_checked_and_one_that_broke_off_has_its_receipt() {
    let server = Server::start(&Config::new());
    let key = server.key(KeyOptions { project: "p", budget: Some("0.00003"), ..KeyOptions::default() });
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", bearer.as_str()), WANTED];
    let ask = |path: &str, body: &Value| {
        let reply = server.post_raw(path, &headers, body.to_string().as_bytes());
        assert_eq!(reply.status(), 200, "{}", reply.text());
        reply.text()
    };
    let whole = ask("/v1/chat/completions", &chat("Hi", json!({"max_tokens": 3, "stream": true})));
    let message = json!({"model": model_id(), "max_tokens": 3, "stream": true, "messages": [{"role": "user", "content": "Hi"}]});
    let message = ask("/v1/messages", &message);
    let response = json!({"model": model_id(), "input": "Hi", "max_output_tokens": 3, "stream": true});
    let response = ask("/v1/responses", &response);
    let broken = ask(
        "/v1/chat/completions",
        &chat("Go on.", json!({"stream": true, "ignore_eos": true, "max_tokens": 300})),
    );
    assert!(
        broken.contains("insufficient_quota") && broken.contains("\"end_reason\":\"budget\""),
        "{broken}"
    );
    let good = verify(&server, &[whole.as_str(), &message, &response, &broken].join("\n"));
    assert!(good.status.success() && said(&good).contains("receipts 4: 0 disagree"), "{}", said(&good));
    let bad = verify(&server, &broken.replace("\"cost_usd\":\"0.0000", "\"cost_usd\":\"0.1000"));
    assert!(!bad.status.success() && said(&bad).contains("cost_usd"), "{}", said(&bad));
    server.verify();
}

#[test]
fn a_receipt_comes_only_where_it_is_asked_for() {
    let server = Server::start(&Config::new());
    let key = server.key(KeyOptions { project: "p", ..KeyOptions::default() });
    let bearer = format!("Bearer {key}");
    let body = chat("Hi", json!({"max_tokens": 2})).to_string();
    let ask = |extra: &[(&str, &str)]| {
        let headers = [&[("Authorization", bearer.as_str())], extra].concat();
        server.post_raw("/v1/chat/completions", &headers, body.as_bytes())
    };
    assert_eq!(ask(&[]).ok()["receipt"], Value::Null);
    assert_eq!(ask(&[("x-spillway-receipt", "false")]).ok()["receipt"], Value::Null);
    let refused = ask(&[("x-spillway-receipt", "yes")]);
    let param = refused.json()["error"]["param"].clone();
    assert_eq!((refused.status(), param), (400, json!("x-spillway-receipt")));
    let first = ask(&[("Idempotency-Key", "k"), WANTED]).ok();
    assert_eq!(ask(&[("Idempotency-Key", "k"), WANTED]).ok()["receipt"], first["receipt"]);
    let id = first["receipt"]["request_id"].as_str().expect("an id");
    let fetched = server.get(&format!("/v1/receipts/{id}"), &[("Authorization", &bearer)]).ok();
    assert_eq!(fetched, first["receipt"], "one request has one receipt");
    assert_eq!(ask(&[("Idempotency-Key", "k")]).code(), "idempotency_key_reuse");
}
