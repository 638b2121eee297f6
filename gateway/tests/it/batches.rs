//! Batches from end to end: answers and bills line by line, refusals, endings, and what a crash leaves.

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::files::upload;
use crate::sdk::{CLIENTS, printed};
use crate::support::{
    Config, KeyOptions, Rng, Row, Server, chat, data_folder, eventually, merged, model_id, model_path,
    python, said, seed, trials,
};

fn line(id: &str, url: &str, body: Value) -> String {
    json!({"custom_id": id, "method": "POST", "url": url, "body": body}).to_string()
}

pub(crate) fn chat_line(id: &str, extra: Value) -> String {
    line(id, "/v1/chat/completions", chat(&format!("Say {id}."), merged(json!({"max_tokens": 3}), extra)))
}

fn file(server: &Server, key: &str, text: &str) -> String {
    let reply = upload(server, key, &[("purpose", b"batch"), ("file@", text.as_bytes())]);
    reply.ok()["id"].as_str().expect("an id").to_owned()
}

pub(crate) fn begin(server: &Server, key: &str, text: &str, extra: Value) -> Value {
    let base = json!({"input_file_id": file(server, key, text), "endpoint": "/v1/chat/completions",
                      "completion_window": "24h"});
    server.post("/v1/batches", key, &merged(base, extra)).ok()
}

fn path(batch: &Value) -> String {
    format!("/v1/batches/{}", batch["id"].as_str().expect("an id"))
}

pub(crate) fn ended(server: &Server, key: &str, batch: &Value) -> Value {
    let mut now = Value::Null;
    eventually("the batch ends", || {
        now = server.fetch(&path(batch), key).ok();
        matches!(now["status"].as_str(), Some("completed" | "failed" | "expired" | "cancelled"))
    });
    now
}

/// The lines of the file that this field of a batch names, by `custom_id`.
pub(crate) fn lines(server: &Server, key: &str, id: &Value) -> BTreeMap<String, Value> {
    let Some(id) = id.as_str() else { return BTreeMap::new() };
    let text = server.fetch(&format!("/v1/files/{id}/content"), key).text();
    let mut lines = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}"));
        let id = line["custom_id"].as_str().expect("a custom_id").to_owned();
        assert!(lines.insert(id.clone(), line).is_none(), "{id} is there twice");
    }
    lines
}

/// Fails unless each answer has one equal row, and nothing else was billed.
pub(crate) fn check_bill(server: &Server, batch: &Value, answers: &BTreeMap<String, Value>) -> Vec<Row> {
    let rows: Vec<Row> = server.export().into_iter().filter(|row| row.cost_picos > 0).collect();
    let mut cost = 0;
    for answer in answers.values() {
        let id = answer["response"]["request_id"].as_str().expect("a request id");
        let row =
            rows.iter().find(|row| row.request_id == id).unwrap_or_else(|| panic!("{id} is not billed"));
        let usage = &answer["response"]["body"]["usage"];
        let count = |a: &str, b: &str| usage[a].as_u64().or(usage[b].as_u64()).unwrap_or(0);
        assert_eq!(row.usage.prompt, count("prompt_tokens", "input_tokens"), "{answer}");
        assert_eq!(row.usage.completion, count("completion_tokens", "output_tokens"), "{answer}");
        cost += row.cost_picos;
    }
    assert_eq!(rows.len(), answers.len(), "billed are others than those with an answer");
    let tokens: u64 = rows.iter().map(|row| row.usage.prompt + row.usage.completion).sum();
    assert_eq!(batch["usage"]["total_tokens"], tokens);
    let told = batch["usage"]["cost_usd"].as_str().expect("a cost").parse::<f64>().expect("a number");
    assert_eq!((told * 1e12).round() as i128, cost);
    server.verify();
    rows
}

#[test]
fn each_line_has_an_answer_or_an_error_and_only_answers_are_billed() {
    let server = Server::start(&Config::new());
    let key = server.key(KeyOptions { project: "batches", ..KeyOptions::default() });
    let text = [
        chat_line("fine", json!({})),
        chat_line("tools \"quoted\"", json!({"n": 2, "logprobs": true})),
        chat_line("wrong", json!({"temperature": 9})),
        chat_line("unknown", json!({"model": "gpt-4"})),
        chat_line("streamed", json!({"stream": true})),
        chat_line("dear", json!({"service_tier": "priority"})),
        String::new(),
    ];
    let batch = begin(&server, &key, &text.join("\r\n"), json!({"completion_window": "1h"}));
    let done = ended(&server, &key, &batch);
    assert_eq!((&done["status"], &done["model"]), (&json!("completed"), &json!(model_id())));
    assert_eq!(done["request_counts"], json!({"total": 6, "completed": 2, "failed": 4}));
    let answers = lines(&server, &key, &done["output_file_id"]);
    let errors = lines(&server, &key, &done["error_file_id"]);
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["fine", "tools \"quoted\""]);
    let refusal = |id: &str| {
        let response = &errors[id]["response"];
        (response["status_code"].as_u64().unwrap_or(0), response["body"]["error"]["param"].clone())
    };
    assert_eq!(refusal("wrong"), (400, json!("temperature")));
    assert_eq!(refusal("unknown"), (404, json!("model")));
    assert_eq!(refusal("streamed"), (400, json!("stream")));
    assert_eq!(refusal("dear"), (400, json!("service_tier")));
    let rows = check_bill(&server, &done, &answers);
    for row in rows {
        assert_eq!(row.raw["service_tier"], "batch_1h");
        let list = (row.usage.prompt - row.usage.cached) * 100_000 + row.usage.cached * 50_000;
        assert_eq!(row.cost_picos as u64 * 100, (list + row.usage.completion * 400_000) * 75);
    }
    // The input can be deleted, its answers stay.
    server.delete(&format!("/v1/files/{}", done["input_file_id"].as_str().expect("an id")), &key).ok();
    assert_eq!(server.fetch(&path(&done), &key).ok(), done);
}

#[test]
fn every_endpoint_takes_batches() {
    let embedder = "all-minilm-l6-v2";
    let config = Config::new()
        .models(&[(model_id(), model_path()), (embedder, &models::fetch::ensure_test_embedder())]);
    let server = Server::start(&config);
    for (project, url, body) in [
        ("texts", "/v1/completions", json!({"model": model_id(), "prompt": ["a", "b"], "max_tokens": 2})),
        ("answers", "/v1/responses", json!({"model": model_id(), "input": "Hi", "max_output_tokens": 16})),
        ("vectors", "/v1/embeddings", json!({"model": embedder, "input": ["a", "b"]})),
    ] {
        let key = server.key(KeyOptions { project, ..KeyOptions::default() });
        let before = server.export().len();
        let text = [line("a", url, body.clone()), line("b", url, body)].join("\n");
        let batch = begin(&server, &key, &text, json!({"endpoint": url}));
        let done = ended(&server, &key, &batch);
        assert_eq!(done["request_counts"]["completed"], 2, "{done}");
        let answers = lines(&server, &key, &done["output_file_id"]);
        assert_eq!(answers.len(), 2);
        let rows = server.export();
        assert_eq!(rows.len(), before + 2, "{url}");
        let own = rows.iter().filter(|row| row.raw["service_tier"] == "batch" && row.project == project);
        assert_eq!(own.count(), 2, "{url}");
    }
    server.verify();
}

#[test]
fn what_cannot_be_a_batch_is_refused_by_name() {
    let config = Config::new()
        .with("batches", "max_lines", "3")
        .with("batches", "org_queue_tokens", "200")
        .with("batches", "org_unfinished", "1")
        .with("server", "max_body_bytes", "4096");
    let server = Server::start(&config);
    let key = server.key(KeyOptions { project: "bad", ..KeyOptions::default() });
    let stranger = server.key(KeyOptions { project: "stranger", ..KeyOptions::default() });
    let fine = chat_line("a", json!({}));
    let text = file(&server, &key, &fine);
    let base = json!({"input_file_id": text, "endpoint": "/v1/chat/completions", "completion_window": "24h"});
    for (extra, code, param) in [
        (json!({"endpoint": "/v1/images"}), "unsupported_value", "endpoint"),
        (json!({"completion_window": "2h"}), "unsupported_value", "completion_window"),
        (json!({"input_file_id": "file-no"}), "file_not_found", "input_file_id"),
        (json!({"input_file_id": null}), "missing_required_parameter", "input_file_id"),
        (json!({"metadata": {"a": 1}}), "invalid_type", "metadata.a"),
        (json!({"priority": 1}), "unknown_parameter", "priority"),
        (
            json!({"output_expires_after": {"anchor": "created_at", "seconds": 5}}),
            "integer_below_min_value",
            "output_expires_after.seconds",
        ),
    ] {
        let reply = server.post("/v1/batches", &key, &merged(base.clone(), extra));
        assert_eq!((reply.code().as_str(), &reply.json()["error"]["param"]), (code, &json!(param)));
    }
    assert_eq!(server.post("/v1/batches", &stranger, &base).code(), "file_not_found");
    let long = chat_line("long", json!({"stop": ["x".repeat(16_000)]}));
    for (text, code, number) in [
        (String::new(), "empty_file", json!(null)),
        ("{".to_owned(), "invalid_json_line", json!(1)),
        (format!("{fine}\n{fine}"), "duplicate_custom_id", json!(2)),
        (fine.replace("POST", "GET"), "invalid_method", json!(1)),
        (fine.replace("/v1/chat/completions", "/v1/completions"), "mismatched_endpoint", json!(1)),
        (fine.replace("custom_id", "id"), "missing_required_parameter", json!(1)),
        (["a", "b", "c", "d"].map(|id| chat_line(id, json!({}))).join("\n"), "too_many_tasks", json!(null)),
        (format!("{fine}\n{long}"), "line_too_long", json!(2)),
        (chat_line("b", json!({"stop": ["y".repeat(2_000)]})), "token_limit_exceeded", json!(null)),
    ] {
        let failed = ended(&server, &key, &begin(&server, &key, &text, json!({})));
        let error = &failed["errors"]["data"][0];
        assert_eq!(
            (&failed["status"], &error["code"], &error["line"]),
            (&json!("failed"), &json!(code), &number)
        );
        assert_eq!(
            server.post(&format!("{}/cancel", path(&failed)), &key, &json!({})).code(),
            "batch_not_cancellable"
        );
    }
    let slow = chat_line("slow", json!({"max_tokens": 1500, "ignore_eos": true}));
    let running = begin(&server, &key, &slow, json!({}));
    let reply = server.post("/v1/batches", &key, &base);
    assert_eq!((reply.status(), reply.code().as_str()), (429, "batch_limit_exceeded"));
    assert_eq!(server.fetch(&path(&running), &stranger).code(), "batch_not_found");
    server.post(&format!("{}/cancel", path(&running)), &key, &json!({})).ok();
    assert_eq!(ended(&server, &key, &running)["status"], "cancelled");
    eventually("all slots are free", || server.running() == 0);
    assert!(server.export().iter().all(|row| row.cost_picos == 0), "what was broken off is billed");
    server.verify();
}

/// Stops the server, lets the batch's time be over, and starts it again.
fn expire(mut server: Server, config: &Config, batch: &Value) -> Server {
    server.kill_hard();
    server.exit_status();
    let db = rusqlite::Connection::open(server.data().path().join("batches.db")).expect("open the database");
    let changed = db.execute(
        "UPDATE batches SET object = json_set(object, '$.expires_ms', 1) WHERE id = ?1",
        [batch["id"].as_str()],
    );
    assert_eq!(changed.expect("change the batch"), 1);
    drop(db);
    Server::start_in(server.data(), config)
}

#[test]
fn at_the_end_of_its_time_what_is_done_is_kept_and_billed() {
    let config = Config::new().with("batches", "concurrency", "1");
    let server = Server::start(&config);
    let key = server.key(KeyOptions { project: "late", ..KeyOptions::default() });
    let slow = json!({"max_tokens": 400, "ignore_eos": true});
    let text: Vec<String> =
        (0..40).map(|i| chat_line(&format!("{i}"), if i < 2 { json!({}) } else { slow.clone() })).collect();
    let batch = begin(&server, &key, &text.join("\n"), json!({}));
    eventually("two lines are done", || {
        server.fetch(&path(&batch), &key).ok()["request_counts"]["completed"].as_u64() >= Some(2)
    });
    let server = expire(server, &config, &batch);
    let done = ended(&server, &key, &batch);
    let answers = lines(&server, &key, &done["output_file_id"]);
    let errors = lines(&server, &key, &done["error_file_id"]);
    assert_eq!((&done["status"], answers.len() + errors.len()), (&json!("expired"), 40), "{done}");
    assert!(answers.contains_key("0") && answers.contains_key("1"));
    assert_eq!(
        (&errors["39"]["response"], &errors["39"]["error"]["code"]),
        (&Value::Null, &json!("batch_expired"))
    );
    assert_eq!(done["request_counts"]["failed"], errors.len());
    check_bill(&server, &done, &answers);
}

/// What the official client says of the batch job.
fn by_client(server: &Server, key: &str, label: &str, arguments: &[&str]) -> Value {
    let mut client = Command::new(python());
    client.arg(format!("{CLIENTS}/python/batch_job.py")).args(arguments);
    client.env("SPILLWAY_URL", format!("http://{}/v1", server.address)).env("SPILLWAY_MODEL", model_id());
    for name in ["SPILLWAY_KEY", "SPILLWAY_KEY_LIMITED", "SPILLWAY_KEY_POOR"] {
        client.env(name, key);
    }
    client.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    let output = client.output().unwrap_or_else(|e| panic!("cannot start {client:?}: {e}"));
    assert!(output.status.success(), "{}", said(&output));
    printed(&output, label).pop().unwrap_or_else(|| panic!("it says nothing: {}", said(&output)))
}

/// The official client gives many lines and reads the files in the end; in between the server is killed again and again.
/// The whole proof, of 5,000 lines and 20 kills: `FAULT_TRIALS=34 cargo test --release --workspace --test it -- killed_servers_lose`.
#[test]
fn killed_servers_lose_and_double_no_line() {
    let seed = seed(0x5EED_0007);
    let mut rng = Rng::new(seed);
    let (count, kills) = (trials(150).min(5_000), trials(8).min(20));
    let config = Config::new().with("batches", "concurrency", "8");
    let data = data_folder();
    let mut server = Server::start_in(data.clone(), &config);
    let key = server.key(KeyOptions { project: "crash", ..KeyOptions::default() });
    let number = (seed & 0xFFFF).to_string();
    let id = by_client(&server, &key, "batch ", &["begin", &count.to_string(), &number]);
    let id = id.as_str().expect("an id");
    for _ in 0..kills {
        // The moment is the point of the trial, so this is a wait for time and not for an event.
        thread::sleep(Duration::from_millis(rng.between(0, 400)));
        server.kill_hard();
        server.exit_status();
        drop(server);
        server = Server::start_in(data.clone(), &config);
        server.verify();
    }
    let told = by_client(&server, &key, "end ", &["end", id]);
    let wrong = count / 50;
    let counts = json!({"total": count, "completed": count - wrong, "failed": wrong});
    assert_eq!((&told["status"], &told["counts"]), (&json!("completed"), &counts), "seed {seed:#x}");
    let mut seen: Vec<u64> = ["output", "error"]
        .iter()
        .flat_map(|file| told[file].as_array().expect("ids"))
        .map(|id| id.as_str().and_then(|id| id.parse().ok()).expect("a number"))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..count).collect::<Vec<_>>(), "seed {seed:#x}: each line once in one of the files");
    let done = server.fetch(&format!("/v1/batches/{id}"), &key).ok();
    check_bill(&server, &done, &lines(&server, &key, &done["output_file_id"]));
}

#[test]
fn a_server_that_goes_down_leaves_its_batches_for_the_next() {
    let config = Config::new();
    let mut server = Server::start(&config);
    let key = server.key(KeyOptions { project: "drain", ..KeyOptions::default() });
    let text: Vec<String> = (0..30).map(|i| chat_line(&format!("{i}"), json!({"max_tokens": 20}))).collect();
    let batch = begin(&server, &key, &text.join("\n"), json!({}));
    server.terminate();
    assert!(server.exit_status().success());
    let server = Server::start_in(server.data(), &config);
    let done = ended(&server, &key, &batch);
    let answers = lines(&server, &key, &done["output_file_id"]);
    assert_eq!((&done["status"], answers.len()), (&json!("completed"), 30));
    check_bill(&server, &done, &answers);
}

#[test]
fn a_budget_ends_the_lines_that_it_cannot_pay() {
    let server = Server::start(&Config::new().with("batches", "concurrency", "1"));
    let key = server.key(KeyOptions { project: "poor", budget: Some("0.00002"), ..KeyOptions::default() });
    let text: Vec<String> =
        (0..12).map(|i| chat_line(&format!("{i}"), json!({"max_tokens": 16, "ignore_eos": true}))).collect();
    let done = ended(&server, &key, &begin(&server, &key, &text.join("\n"), json!({})));
    let (answers, errors) =
        (lines(&server, &key, &done["output_file_id"]), lines(&server, &key, &done["error_file_id"]));
    assert!(!answers.is_empty() && answers.len() + errors.len() == 12, "{done}");
    let codes = errors.values().map(|line| &line["response"]["body"]["error"]["code"]);
    assert!(codes.clone().count() > 0 && codes.into_iter().all(|code| code == "insufficient_quota"));
    let rows = check_bill(&server, &done, &answers);
    assert!(rows.iter().map(|row| row.cost_picos).sum::<i128>() <= 20_000_000);
}
