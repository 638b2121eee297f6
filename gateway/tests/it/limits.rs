//! Limits that tell the truth, and budgets that hold.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Config, KeyOptions, Reply, Seen, Server, Totals, Trial, Usage, chat, eventually, shared,
};

fn small() -> Value {
    chat("Hi", json!({"max_tokens": 1}))
}

fn check_limited(reply: &Reply) -> Duration {
    assert_eq!((reply.status(), reply.code().as_str()), (429, "rate_limit_exceeded"), "{}", reply.text());
    let error = &reply.json()["error"];
    assert!(["requests", "tokens"].contains(&error["type"].as_str().unwrap_or_default()), "{error}");
    let seconds: u64 = reply
        .header("retry-after")
        .unwrap_or_else(|| panic!("no retry-after in {:?}", reply.head))
        .parse()
        .expect("retry-after is whole seconds");
    assert!((1..=120).contains(&seconds), "retry-after is {seconds}: client libraries give up beyond 120");
    let details = &error["details"];
    let count = |name: &str| details[name].as_u64().unwrap_or_else(|| panic!("no {name} in {error}"));
    assert!(["key", "project"].contains(&details["scope"].as_str().unwrap_or_default()), "{error}");
    assert!(count("requested") > count("admitted_now"), "{error}");
    assert!(count("used") <= count("limit") && count("reserved") <= count("used"), "{error}");
    assert!(count("reset_ms") >= count("retry_after_ms"), "{error}");
    assert_eq!(Some(count("retry_after_ms").to_string().as_str()), reply.header("retry-after-ms"), "{error}");
    match reply.header("retry-after-ms") {
        Some(text) => {
            let milliseconds: u64 = text.parse().expect("retry-after-ms is whole milliseconds");
            assert!(milliseconds <= seconds * 1_000, "retry-after-ms {milliseconds}, retry-after {seconds}");
            Duration::from_millis(milliseconds)
        }
        None => Duration::from_secs(seconds),
    }
}

fn check_no_money(reply: &Reply) {
    assert_eq!((reply.status(), reply.code().as_str()), (429, "insufficient_quota"), "{}", reply.text());
    assert_eq!(reply.header("x-should-retry"), Some("false"), "{:?}", reply.head);
    assert_eq!(reply.header("retry-after"), None, "waiting does not help: {:?}", reply.head);
    let details = &reply.json()["error"]["details"];
    let usd = |name: &str| {
        let text = details[name].as_str().unwrap_or_else(|| panic!("no {name} in {details}"));
        text.parse::<f64>().expect("a decimal amount")
    };
    assert!(usd("admitted_now_usd") < usd("requested_usd"), "{details}");
}

#[test]
fn requests_per_minute_are_kept_and_retry_after_is_true() {
    let (server, _) = shared();
    let key =
        server.key(KeyOptions { project: "rpm", requests_per_minute: Some(30), ..KeyOptions::default() });
    let mut taken = 0;
    let limited = loop {
        let reply = server.chat(&key, &small());
        if reply.status() != 200 {
            break reply;
        }
        taken += 1;
        assert!(taken < 200, "a limit of 30 a minute let 200 requests pass");
    };
    let wait = check_limited(&limited);
    assert_eq!(limited.json()["error"]["type"], "requests");
    assert_eq!(limited.header("x-ratelimit-remaining-requests"), Some("0"));
    thread::sleep(wait);
    let obeyed = server.chat(&key, &small());
    assert_eq!(obeyed.status(), 200, "obeying retry-after {wait:?}: {}", obeyed.text());
}

#[test]
fn tokens_per_minute_are_kept_and_retry_after_is_true() {
    let (server, _) = shared();
    let key =
        server.key(KeyOptions { project: "tpm", tokens_per_minute: Some(3_000), ..KeyOptions::default() });
    // About 330 tokens each, nearly all of them prompt, and no two prompts alike.
    let body = |i: usize| chat(&format!("{i}{}", " word".repeat(300)), json!({"max_tokens": 2}));
    let mut taken = 0;
    let limited = loop {
        let reply = server.chat(&key, &body(taken));
        if reply.status() != 200 {
            break reply;
        }
        taken += 1;
        assert!(taken < 100, "a limit of 3,000 tokens a minute let {taken} requests of 330 tokens pass");
    };
    assert!(taken >= 8, "only {taken} requests of about 330 tokens fit into 3,000 tokens");
    let wait = check_limited(&limited);
    assert_eq!(limited.json()["error"]["type"], "tokens");
    thread::sleep(wait);
    let obeyed = server.chat(&key, &body(taken));
    assert_eq!(obeyed.status(), 200, "obeying retry-after {wait:?}: {}", obeyed.text());
}

#[test]
fn tokens_that_were_reserved_and_not_used_come_back() {
    let (server, _) = shared();
    let key =
        server.key(KeyOptions { project: "refund", tokens_per_minute: Some(400), ..KeyOptions::default() });
    // Each reserves about 150 tokens and uses about 35: only with the rest given back do six fit into 400.
    let body = chat("Hi", json!({"max_tokens": 120, "temperature": 0, "stop": [" ", ",", "!"]}));
    for i in 0..6 {
        let reply = server.chat(&key, &body);
        assert_eq!(reply.status(), 200, "request {i}: {}", reply.text());
    }
}

#[test]
fn concurrency_is_kept_and_given_back() {
    let (server, _) = shared();
    let key =
        server.key(KeyOptions { project: "concurrency", concurrency: Some(2), ..KeyOptions::default() });
    let long = chat("Tell a story.", json!({"max_tokens": 2_000, "stream": true, "ignore_eos": true}));
    let mut streams: Vec<_> = (0..2).map(|_| server.events(&key, &long)).collect();
    for stream in &mut streams {
        stream.next().expect("an event").expect("an event");
    }
    for _ in 0..3 {
        check_limited(&server.chat(&key, &small()));
    }
    streams.pop();
    eventually("a place is free after a stream was closed", || server.chat(&key, &small()).status() == 200);
    // A refused request must not take a place with it.
    for _ in 0..5 {
        assert_eq!(server.chat(&key, &json!({})).status(), 400);
    }
    assert_eq!(server.chat(&key, &small()).status(), 200);
}

#[test]
fn one_key_does_not_use_up_the_limit_of_another() {
    let (server, _) = shared();
    let options =
        |project: &'static str| KeyOptions { project, requests_per_minute: Some(2), ..KeyOptions::default() };
    let (first, second) = (server.key(options("one")), server.key(options("two")));
    let statuses: Vec<u16> = (0..4).map(|_| server.chat(&first, &small()).status()).collect();
    assert_eq!(statuses, [200, 200, 429, 429]);
    assert_eq!(server.chat(&second, &small()).status(), 200);
}

#[test]
fn a_spent_budget_refuses_and_says_not_to_retry() {
    let config =
        Config::new().budget("project", "acme/b", "0.00005").budget("organisation", "globex", "0.00005");
    let server = Server::start(&config);
    for (options, name) in [
        (KeyOptions { project: "a", budget: Some("0.00005"), ..KeyOptions::default() }, "key"),
        (KeyOptions { project: "b", org: Some("acme"), ..KeyOptions::default() }, "project"),
        (KeyOptions { project: "c", org: Some("globex"), ..KeyOptions::default() }, "organisation"),
    ] {
        let key = server.key(options);
        let body = chat("Hi", json!({"max_tokens": 20, "ignore_eos": true}));
        let mut served = 0;
        let refused = loop {
            let reply = server.chat(&key, &body);
            if reply.status() != 200 {
                break reply;
            }
            served += 1;
            assert!(served < 200, "the budget of the {name} has no end");
        };
        check_no_money(&refused);
        assert!(served >= 1, "the budget of the {name} served nothing: {}", refused.text());
        check_spent(&server, options.project, 50_000_000);
    }
    server.verify();
}

#[test]
fn little_money_is_served_as_far_as_it_goes() {
    let server = Server::start(&Config::new());
    // Whole words from the first token to the last: half a character at the end would not be delivered, nor billed.
    let greedy = json!({"max_tokens": 30, "ignore_eos": true, "temperature": 0});
    let body = chat("Write one sentence about rivers.", greedy);
    let rich = server.key(KeyOptions { project: "rich", ..KeyOptions::default() });
    let prompt = i64::try_from(Usage::of(&server.chat(&rich, &body).ok()["usage"]).prompt).expect("few");
    // The built-in prices: 0.10 USD per million tokens of prompts, 0.40 per million of output.
    let key_for = |project, output: i64| {
        let picos = prompt * 100_000 + output * 400_000 + 399_999;
        let budget = format!("0.{picos:012}");
        server.key(KeyOptions { project, budget: Some(&budget), ..KeyOptions::default() })
    };
    let answer = server.chat(&key_for("some", 20), &body).ok();
    let told = (Usage::of(&answer["usage"]).completion, &answer["choices"][0]["finish_reason"]);
    assert_eq!(told, (20, &json!("length")), "{answer}");
    check_no_money(&server.chat(&key_for("few", 15), &body));
    server.verify();
}

/// Spent in a project never exceeds `budget` picos, and at least half of it was usable.
fn check_spent(server: &Server, project: &str, budget: i128) {
    let rows: Vec<_> = server.export().into_iter().filter(|r| r.project == project).collect();
    let spent = Totals::of(&rows).cost_picos;
    assert!(spent <= budget, "project {project} spent {spent} of {budget} picos");
    assert!(spent * 2 >= budget, "project {project} was refused at {spent} of {budget} picos");
}

#[test]
fn a_budget_race_is_not_overrun() {
    let server = Server::start(&Config::new());
    let key = server.key(KeyOptions { project: "race", budget: Some("0.0001"), ..KeyOptions::default() });
    let replies: Vec<Reply> = thread::scope(|scope| {
        let handles: Vec<_> = (0..32)
            .map(|i| {
                let (server, key) = (&server, &key);
                let prompt = format!("Request {i}");
                let body = chat(&prompt, json!({"max_tokens": 30, "ignore_eos": true}));
                scope.spawn(move || server.chat(key, &body))
            })
            .collect();
        handles.into_iter().map(|h| h.join().expect("a request")).collect()
    });
    let (served, refused): (Vec<&Reply>, Vec<&Reply>) = replies.iter().partition(|r| r.status() == 200);
    for reply in &refused {
        check_no_money(reply);
    }
    assert!(!served.is_empty(), "nothing was served");
    assert!(!refused.is_empty(), "a budget for some requests served all 32");
    let id = |reply: &Reply| reply.header("x-request-id").expect("x-request-id").to_owned();
    let free = refused.iter().map(|reply| Seen::Refused { request_id: id(reply) });
    let told = served.iter().map(|reply| {
        let usage = Usage::of(&reply.json()["usage"]);
        Seen::Usage { request_id: id(reply), usage, counted: None }
    });
    let seen: Vec<Seen> = free.chain(told).collect();
    Trial::after(server.data().path(), &seen).within(100_000_000).check("a race for one budget");
    let rows = server.export();
    let spent = Totals::of(&rows).cost_picos;
    assert!(spent <= 100_000_000, "spent {spent} of 100000000 picos");
    assert_eq!(rows.iter().filter(|r| r.cost_picos > 0).count(), served.len());
    server.verify();
}

#[test]
fn a_stream_that_outruns_its_budget_is_ended_within_it() {
    let server = Server::start(&Config::new());
    let key = server.key(KeyOptions { project: "outrun", budget: Some("0.0002"), ..KeyOptions::default() });
    let body = chat(
        "Tell a story.",
        json!({"max_tokens": 4_000, "stream": true, "ignore_eos": true, "stream_options": {"include_usage": true}}),
    );
    match server.try_events("/v1/chat/completions", &key, &body) {
        // The output allowance is extended while decoding, so the stream starts and then runs into the budget.
        Ok(mut events) => {
            let seen = events.transcript();
            let error = seen
                .error
                .clone()
                .unwrap_or_else(|| panic!("a stream beyond the budget ended well: {seen:?}"));
            assert_eq!(error["code"], "insufficient_quota", "{error}");
            assert!(seen.content_chunks > 0, "nothing was sent before the budget ended");
            let row = server.row(&seen.request_id);
            assert!(row.cost_picos > 0 && row.cost_picos <= 200_000_000, "{row:?}");
        }
        Err(e) => panic!("an unset or large max_tokens must not hold the maximum at once: {e}"),
    }
    eventually("the slot is free", || server.running() == 0);
    server.verify();
}

/// An unset `max_tokens` reserves what the answers of the key needed before, not a fixed guess.
#[test]
fn the_output_allowance_is_learned() {
    let (server, _) = shared();
    let key = server.key(KeyOptions {
        project: "learned",
        tokens_per_minute: Some(1_500),
        ..KeyOptions::default()
    });
    let body = chat("Hi", json!({"max_tokens": null, "temperature": 0, "stop": [" ", ",", "!"]}));
    let (mut served, mut prompt) = (0, 0);
    let limited = loop {
        let reply = server.chat(&key, &body);
        if reply.status() != 200 {
            break reply;
        }
        prompt = reply.ok()["usage"]["prompt_tokens"].as_u64().expect("a count");
        served += 1;
        assert!(served < 100, "a limit of 1,500 tokens a minute let {served} requests pass");
    };
    assert!(served >= 20, "only {served} short answers fit into 1,500 tokens");
    let details = limited.json()["error"]["details"].clone();
    let requested = details["requested"].as_u64().unwrap_or_else(|| panic!("no figures in {details}"));
    assert!(requested <= prompt + 32, "short answers reserve little: {details}, prompt {prompt}");
}
