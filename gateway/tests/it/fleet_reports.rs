//! Reports, receipts, batches and credits of a gateway whose ledger is in PostgreSQL: what it tells is its own copy, which
//! follows.

use serde_json::{Value, json};

use crate::batches::{begin, chat_line, check_bill, ended, lines};
use crate::fleet_ledger::verified;
use crate::support::{
    Config, KeyOptions, Method, Server, Usage, chat, data_folder, database, eventually, number, said,
};

fn place(url: &str) -> gateway::ledger::copy::Place {
    gateway::ledger::copy::Place::Postgres(url.to_owned())
}

/// A gateway over a new database.
fn start() -> (Server, String) {
    let url = database();
    let config = Config::new().with("fleet", "postgres_url", &format!("\"{url}\""));
    (Server::start(&config), url)
}

/// Waits until the gateway's copy has every row.
fn caught_up(server: &Server, url: &str) {
    let rows = number(url, "SELECT coalesce(max(seq), 0) FROM transfers");
    eventually("the copy is complete", || {
        gateway::ledger::verify::verify(server.data().path())
            .is_ok_and(|report| report.is_ok() && i64::try_from(report.rows) == Ok(rows))
    });
}

#[test]
fn answers_receipts_usage_and_costs_agree() {
    let (server, url) = start();
    let key = server.key(KeyOptions { org: Some("acme"), project: "p", ..KeyOptions::default() });
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", bearer.as_str()), ("x-spillway-receipt", "true")];
    let (mut kept, mut prompt, mut completion) = (String::new(), 0, 0);
    for max_tokens in 1..=5 {
        let body = chat("Hi", json!({"max_tokens": max_tokens})).to_string();
        let answer = server.post_raw("/v1/chat/completions", &headers, body.as_bytes()).ok();
        let usage = Usage::of(&answer["usage"]);
        (prompt, completion) = (prompt + usage.prompt, completion + usage.completion);
        assert_eq!(answer["receipt"]["cost_usd"], answer["usage"]["cost_usd"]);
        kept += &format!("{answer}\n");
    }
    let last: Value = serde_json::from_str(kept.lines().last().expect("a line")).expect("JSON");
    let (id, sequence) = (&last["receipt"]["request_id"], &last["receipt"]["ledger_sequence"]);
    // The receipt in the answer comes from the ledger itself; reports follow, and say how far they are.
    let path = format!("/v1/organization/costs?start_time=0&limit=1&min_sequence={sequence}");
    eventually("the report has what was seen", || server.fetch(&path, &key).status() == 200);
    caught_up(&server, &url);
    let receipt = server.fetch(&format!("/v1/receipts/{}", id.as_str().expect("an id")), &key).ok();
    assert_eq!(receipt, last["receipt"]);
    let rows = server.export();
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    let from = seconds.as_secs() - 3_600;
    let query = format!("/v1/organization/usage/completions?start_time={from}&bucket_width=1h&limit=3");
    let page = server.fetch(&query, &key).ok();
    let results = page["data"].as_array().expect("buckets").iter();
    let results: Vec<&Value> =
        results.flat_map(|bucket| bucket["results"].as_array().expect("results")).collect();
    let sum = |field: &str| results.iter().map(|one| one[field].as_u64().expect("a count")).sum::<u64>();
    assert_eq!(
        (sum("num_model_requests"), sum("input_tokens"), sum("output_tokens")),
        (5, prompt, completion)
    );
    assert_eq!(rows.len(), 5);
    let file = server.data().path().join("kept.jsonl");
    std::fs::write(&file, kept).expect("write");
    let checked = server.cli(&["verify", "--receipts", file.to_str().expect("a path")]);
    assert!(
        checked.status.success() && said(&checked).contains("receipts 5: 0 disagree"),
        "{}",
        said(&checked)
    );
    for format in ["jsonl", "focus", "focus-parquet"] {
        let export = || server.cli(&["export", "--format", format]).stdout;
        assert!(!export().is_empty() && export() == export(), "{format}");
    }
    let folder = data_folder();
    assert_eq!(verified(&place(&url), folder.path()).0.settled, 5);
}

#[test]
fn batches_and_credits_are_billed_in_the_shared_ledger() {
    let (server, url) = start();
    let key = server.key(KeyOptions { org: Some("prepaid"), project: "p", ..KeyOptions::default() });
    let text: Vec<String> = (0..6).map(|i| chat_line(&format!("{i}"), json!({}))).collect();
    let batch = begin(&server, &key, &text.join("\n"), json!({}));
    let done = ended(&server, &key, &batch);
    let answers = lines(&server, &key, &done["output_file_id"]);
    assert_eq!((&done["status"], answers.len()), (&json!("completed"), 6));
    eventually("every line is billed", || {
        number(&url, "SELECT count(*) FROM transfers WHERE kind = 'settle'") == 6
    });
    caught_up(&server, &url);
    check_bill(&server, &done, &answers);

    let operator = server.admin_key();
    let org = "/v1/admin/organizations/prepaid";
    let ask = |method, path: &str, body: Option<&Value>| server.operate(method, path, &operator, body).ok();
    let credit = json!({"amount_usd": "0.5", "note": "paid"});
    let posted = ask(Method::Post, &format!("{org}/credits"), Some(&credit));
    assert_eq!((&posted["status"], &posted["kind"]), (&json!("posted"), &json!("grant")));
    let granted = "SELECT count(*) FROM transfers WHERE kind = 'grant' AND credit_picos = 500000000000";
    assert_eq!(number(&url, granted), 1);
    ask(Method::Post, org, Some(&json!({"credit_line_usd": "0"})));
    let small = chat("Hi", json!({"max_tokens": 2}));
    eventually("the balance pays", || server.chat(&key, &small).status() == 200);
    let correction = json!({"amount_usd": "-0.5", "kind": "correction", "note": "bounced"});
    ask(Method::Post, &format!("{org}/credits"), Some(&correction));
    eventually("without credit nothing is served", || {
        server.chat(&key, &small).code() == "credit_balance_exhausted"
    });
    caught_up(&server, &url);
    let balance = ask(Method::Get, &format!("{org}/balance"), None);
    let spent = balance["spent_usd"].as_str().expect("an amount");
    assert_eq!((&balance["credited_usd"], spent == "0"), (&json!("0"), false), "{balance}");
    let folder = data_folder();
    assert_eq!(verified(&place(&url), folder.path()).0.open, 0);
}
