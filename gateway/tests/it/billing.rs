//! What a client saw is what the bill says, whichever way a request ends.

use std::thread;

use serde_json::{Value, json};

use crate::support::{
    Config, Events, Item, KeyOptions, Row, Server, Totals, Transcript, Usage, chat, eventually, model_id,
};

/// Tokens that may be under way between the engine and the socket when a client goes away.
const IN_FLIGHT: u64 = 32;

fn start() -> (Server, String) {
    let server = Server::start(&Config::new());
    let key = server.key(KeyOptions { project: "billing", ..KeyOptions::default() });
    (server, key)
}

fn streamed(content: &str, max_tokens: u32) -> Value {
    chat(
        content,
        json!({"max_tokens": max_tokens, "stream": true, "ignore_eos": true, "logprobs": true,
               "stream_options": {"include_usage": true}}),
    )
}

/// Reads until `tokens` tokens have come.
fn read_tokens(events: &mut Events, tokens: u64) -> Transcript {
    let mut seen = Transcript::new(events.request_id());
    while seen.listed_tokens < tokens {
        let item = events.next().expect("the stream goes on").expect("the stream goes on");
        assert_ne!(item, Item::Done, "the stream ended after {} of {tokens} tokens", seen.listed_tokens);
        seen.push(item);
    }
    seen
}

fn check_cost(row: &Row) {
    // The built-in prices: 0.10, 0.05 and 0.40 USD per million tokens.
    let uncached = i128::from(row.usage.prompt - row.usage.cached);
    let expected = uncached * 100_000
        + i128::from(row.usage.cached) * 50_000
        + i128::from(row.usage.completion) * 400_000;
    assert_eq!(row.cost_picos, expected, "the cost is not tokens times price: {row:?}");
}

#[test]
fn every_finished_request_is_one_equal_row() {
    let (server, key) = start();
    let mut seen: Vec<(String, Usage)> = Vec::new();
    thread::scope(|scope| {
        let handles: Vec<_> = (0..12_u32)
            .map(|i| {
                let (server, key) = (&server, &key);
                scope.spawn(move || one_of_each_kind(server, key, i))
            })
            .collect();
        for handle in handles {
            seen.push(handle.join().expect("a request"));
        }
    });
    let rows = server.export();
    assert_eq!(rows.len(), seen.len(), "one row a request");
    for (id, usage) in &seen {
        let row =
            rows.iter().find(|r| r.request_id == *id).unwrap_or_else(|| panic!("{id} is not in the export"));
        assert_eq!(row.usage, *usage, "{id}");
        check_cost(row);
    }
    let totals = Totals::of(&rows);
    assert_eq!(totals.prompt, seen.iter().map(|(_, u)| u.prompt).sum::<u64>());
    assert_eq!(totals.completion, seen.iter().map(|(_, u)| u.completion).sum::<u64>());
    server.verify();
}

fn one_of_each_kind(server: &Server, key: &str, i: u32) -> (String, Usage) {
    let prompt = format!("Tell me about the number {}.", i / 2);
    let limit = 5 + i * 3;
    if i % 4 == 3 {
        let body = json!({"model": model_id(), "prompt": [prompt, "And"], "max_tokens": limit});
        let reply = server.post("/v1/completions", key, &body);
        let usage = Usage::of(&reply.ok()["usage"]);
        return (reply.header("x-request-id").expect("x-request-id").to_owned(), usage);
    }
    if i % 4 == 2 {
        let reply =
            server.chat(key, &chat(&prompt, json!({"max_tokens": limit, "n": 2, "stop": ["the", "."]})));
        let usage = Usage::of(&reply.ok()["usage"]);
        return (reply.header("x-request-id").expect("x-request-id").to_owned(), usage);
    }
    let seen = server.stream(key, &streamed(&prompt, limit));
    (seen.request_id.clone(), seen.usage.expect("usage was asked for"))
}

#[test]
fn the_row_is_durable_before_the_client_has_its_usage() {
    let (server, key) = start();
    for i in 0..5 {
        let mut events = server.events(&key, &streamed("Hi", 3 + i));
        let mut seen = Transcript::new(events.request_id());
        while seen.usage.is_none() {
            seen.push(events.next().expect("the stream goes on").expect("the stream goes on"));
        }
        let rows = server.export();
        let row = rows.iter().find(|r| r.request_id == seen.request_id);
        assert_eq!(row.map(|r| r.usage), seen.usage, "usage was sent before it was written");
    }
}

#[test]
fn a_stream_without_usage_is_billed_all_the_same() {
    let (server, key) = start();
    let body = chat("Hi", json!({"max_tokens": 9, "stream": true, "ignore_eos": true}));
    let seen = server.stream(&key, &body);
    let row = server.row(&seen.request_id);
    assert_eq!(row.usage.completion, 9);
    check_cost(&row);
}

#[test]
fn a_cached_prompt_is_told_and_billed_as_cached() {
    let (server, key) = start();
    let prompt = "The same long prompt, again and again. ".repeat(30);
    let ask = |key: &str| {
        let reply = server.chat(key, &chat(&prompt, json!({"max_tokens": 2})));
        let usage = Usage::of(&reply.ok()["usage"]);
        let row = server.row(reply.header("x-request-id").expect("x-request-id"));
        assert_eq!(row.usage, usage);
        check_cost(&row);
        usage
    };
    assert_eq!(ask(&key).cached, 0, "nothing can be cached the first time");
    let second = ask(&key);
    assert!(second.cached > second.prompt / 2, "the second time most is cached: {second:?}");
    let stranger =
        server.key(KeyOptions { project: "other", org: Some("stranger"), ..KeyOptions::default() });
    assert_eq!(ask(&stranger).cached, 0, "the cache of one organisation was used for another");
}

#[test]
fn failed_requests_cost_nothing() {
    let (server, key) = start();
    for body in [json!({}), chat("Hi", json!({"n": 9})), chat(&"word ".repeat(9_000), json!({}))] {
        assert_eq!(server.chat(&key, &body).status(), 400);
    }
    assert_eq!(server.chat("sk-sw-x", &chat("Hi", json!({}))).status(), 401);
    assert_eq!(server.chat(&key, &chat("Hi", json!({"model": "none"}))).status(), 404);
    for row in server.export() {
        assert_eq!(
            (row.cost_picos, row.usage),
            (0, Usage::default()),
            "a failed request was billed: {row:?}"
        );
    }
    server.verify();
}

#[test]
fn a_client_that_leaves_pays_for_what_it_was_sent() {
    let (server, key) = start();
    for tokens in [1, 2, 5, 17, 40, 90] {
        let mut events = server.events(&key, &streamed("Tell a long story.", 1_500));
        let seen = read_tokens(&mut events, tokens);
        let generated = || server.metric("spillway_engine_generated_tokens_total").expect("a metric") as u64;
        drop(events);
        eventually("the slot of a client that left is free", || server.running() == 0);
        let row = server.row(&seen.request_id);
        let billed = row.usage.completion;
        assert!(billed + IN_FLIGHT >= seen.listed_tokens, "saw {}, billed {billed}", seen.listed_tokens);
        assert!(billed < 1_500, "the stream ran on after its client had left: {row:?}");
        assert!(billed <= generated(), "billed {billed} of {} generated tokens", generated());
        assert_eq!(row.end, "disconnected", "{row:?}");
        check_cost(&row);
    }
    server.verify();
}

/// A client that says it will send no more, but reads on to the end, sees exactly what the kernel was handed.
#[test]
fn billed_is_delivered_to_the_token() {
    let (server, key) = start();
    for tokens in [1, 3, 8, 21, 55] {
        let mut events = server.events(&key, &streamed("Tell a long story.", 1_500));
        let mut seen = read_tokens(&mut events, tokens);
        events.half_close().expect("half close");
        events.read_into(&mut seen);
        assert!(!seen.done, "a half-closed connection is a client that left");
        let row = server.row(&seen.request_id);
        let (billed, delivered) = (row.usage.completion, seen.listed_tokens);
        assert!(
            delivered <= billed && billed <= delivered + 2,
            "delivered {delivered}, billed {billed}: {row:?}"
        );
        check_cost(&row);
    }
    server.verify();
}

#[test]
fn a_client_that_leaves_before_the_first_token_pays_nothing() {
    let (server, key) = start();
    // Fill the engine with other work, so that the prompt is still waiting or in prefill when its client leaves.
    for i in 0..4 {
        // Another prompt each time: a cached one would be through its prefill at once.
        let prompt = format!("Number {i}. ").repeat(1_000);
        let body = chat(&prompt, json!({"max_tokens": 5, "stream": true, "seed": 1}));
        let mut wire = crate::support::Wire::connect(server.address).expect("connect");
        let bearer = format!("Bearer {key}");
        let headers = [("Authorization", bearer.as_str())];
        wire.request(
            crate::support::Method::Post,
            "/v1/chat/completions",
            &headers,
            Some(body.to_string().as_bytes()),
        )
        .expect("write");
        eventually("the request reaches the engine", || server.running() > 0);
        drop(wire);
        eventually("the slot is free", || server.running() == 0);
    }
    for row in server.export() {
        assert_eq!(row.cost_picos, 0, "no token was sent, but it was billed: {row:?}");
    }
    server.verify();
}

#[test]
fn a_client_that_leaves_a_unary_request_frees_its_slot() {
    let (server, key) = start();
    let body = chat("Tell a long story.", json!({"max_tokens": 3_000, "ignore_eos": true, "n": 2}));
    let mut wire = crate::support::Wire::connect(server.address).expect("connect");
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", bearer.as_str())];
    wire.request(
        crate::support::Method::Post,
        "/v1/chat/completions",
        &headers,
        Some(body.to_string().as_bytes()),
    )
    .expect("write");
    eventually("the request is running", || server.running() == 2);
    drop(wire);
    eventually("both slots are free", || server.running() == 0);
    for row in server.export() {
        assert_eq!(row.usage.completion, 0, "a unary answer that was never sent was billed: {row:?}");
    }
    server.verify();
}

#[test]
fn the_export_is_a_pure_function_of_the_ledger() {
    let (server, key) = start();
    for i in 0..3 {
        server.stream(&key, &streamed(&format!("Number {i}"), 4));
    }
    for format in ["jsonl", "csv"] {
        let export = || server.cli(&["export", "--format", format]).stdout;
        let first = export();
        assert!(!first.is_empty());
        assert_eq!(first, export(), "two exports differ");
        let file = server.data().path().join(format!("out.{format}"));
        let out = server.cli(&["export", "--format", format, "--out", file.to_str().expect("a path")]);
        assert!(out.status.success());
        assert_eq!(
            first,
            std::fs::read(&file).expect("the exported file"),
            "the file differs from the output"
        );
    }
    let none = server.cli(&["export", "--format", "jsonl", "--from", "2020-01-01", "--to", "2020-02-01"]);
    assert!(none.status.success() && none.stdout.is_empty(), "a month without requests is empty: {none:?}");
}
