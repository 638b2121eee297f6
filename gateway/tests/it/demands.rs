//! What a request demands beside its answer: a time until which it is there, and a price that it does not exceed.

use serde_json::{Value, json};

use crate::leases::calibrated;
use crate::support::{Config, KeyOptions, Server, chat, cli, data_folder, model_id, said};

fn start(config: &Config) -> (Server, String) {
    let server = Server::start(config);
    let key = server.key(KeyOptions { project: "demands", ..KeyOptions::default() });
    (server, key)
}

fn usd(picos: i128) -> String {
    gateway::money::Picos(i64::try_from(picos).expect("a small amount")).to_usd()
}

#[test]
fn no_request_costs_more_than_it_offers() {
    let (server, key) = start(&Config::new());
    let ask = |extra: Value| server.chat(&key, &chat("Tell me about prices.", extra));
    let refused = ask(json!({"max_tokens": 50, "max_price": "0.000001"}));
    assert_eq!((refused.status(), refused.code().as_str()), (400, "max_price_too_low"), "{}", refused.text());
    assert_eq!(refused.json()["error"]["param"], "max_price");
    let details = refused.json()["error"]["details"].clone();
    let accepted = details["accepted_max_price_usd"].as_str().expect("a price").to_owned();
    let served = ask(json!({"max_tokens": 50, "max_price": accepted}));
    served.ok();
    // One pico-USD less is too little again.
    let picos = gateway::money::Picos::parse_usd(&accepted).expect("USD");
    let less = usd(i128::from(picos.0) - 1);
    let refused = ask(json!({"max_tokens": 50, "max_price": less}));
    assert_eq!(refused.code(), "max_price_too_low");
    assert_eq!(refused.json()["error"]["details"]["accepted_max_tokens"], 49);
    ask(json!({"max_tokens": 49, "max_price": less})).ok();

    // Without a limit of its own the answer is as long as the price pays for.
    let open = ask(json!({"max_tokens": null, "max_price": accepted, "ignore_eos": true}));
    let id = open.header("x-request-id").expect("x-request-id").to_owned();
    let open = open.ok();
    assert_eq!(open["choices"][0]["finish_reason"], "length");
    assert_eq!(open["usage"]["completion_tokens"], 50);
    assert!(server.row(&id).cost_picos <= i128::from(picos.0));
    for (value, code) in [
        (json!("0"), "invalid_value"),
        (json!("-1"), "invalid_value"),
        (json!("1e-3"), "invalid_value"),
        (json!(0.5), "invalid_type"),
    ] {
        assert_eq!(ask(json!({"max_price": value})).code(), code, "{value}");
    }
    let responses =
        json!({"model": model_id(), "input": "Hi", "max_output_tokens": 50, "max_price": "0.000001"});
    assert_eq!(server.post("/v1/responses", &key, &responses).code(), "max_price_too_low");
    server.verify();
}

#[test]
fn a_deadline_that_cannot_be_kept_is_refused_at_once() {
    let data = data_folder();
    calibrated(data.path());
    let server = Server::start_in(data, &Config::new());
    let key = server.key(KeyOptions { project: "demands", ..KeyOptions::default() });
    let ask = |extra: Value| server.chat(&key, &chat("Hi", extra));
    // 30 ms a token were measured.
    let refused = ask(json!({"max_tokens": 100, "deadline": 1.5}));
    assert_eq!(
        (refused.status(), refused.code().as_str()),
        (429, "deadline_not_feasible"),
        "{}",
        refused.text()
    );
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    let details = refused.json()["error"]["details"].clone();
    assert!(details["expected_run_ms"].as_u64() >= Some(3_000), "{details}");
    let accepted = details["accepted_deadline"].as_f64().expect("seconds");
    assert!((3.0..4.0).contains(&accepted), "{details}");
    assert_eq!(ask(json!({"max_tokens": 4, "deadline": 500})).ok()["object"], "chat.completion");
    for (value, code) in
        [(json!(0), "decimal_below_min_value"), (json!(601), "invalid_value"), (json!("5s"), "invalid_type")]
    {
        assert_eq!(ask(json!({"deadline": value})).code(), code, "{value}");
    }
    assert_eq!(server.export().len(), 1, "what is refused costs nothing");

    let quote = |extra: Value| {
        let mut body = json!({"model": model_id(), "input_tokens": 100, "max_tokens": 100});
        body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        server.post("/v1/capacity/quote", &key, &body)
    };
    let quoted = quote(json!({})).ok();
    // 100 tokens at 0.10 USD a million, and 100 at 0.40.
    assert_eq!(quoted["max_price_usd"], "0.00005", "{quoted}");
    assert_eq!((&quoted["service_tier"], &quoted["admitted"]), (&json!("default"), &json!(true)));
    assert!(quoted["expected_run_ms"].as_u64() >= Some(3_000), "{quoted}");
    let late = quote(json!({"deadline": 1})).ok();
    assert_eq!(
        (&late["admitted"], &late["refusal"]["code"]),
        (&json!(false), &json!("deadline_not_feasible"))
    );
    let cheap = quote(json!({"max_price": "0.00004", "service_tier": "priority"})).ok();
    assert_eq!((&cheap["admitted"], &cheap["refusal"]["code"]), (&json!(false), &json!("max_price_too_low")));
    assert_eq!(quote(json!({"service_tier": "gold"})).status(), 400);
    assert_eq!(quote(json!({"input_tokens": 0})).status(), 400);
}

#[test]
fn a_deadline_that_is_missed_is_given_back() {
    let (server, key) = start(&Config::new());
    let long = |stream: bool, deadline: f64| {
        let body = json!({"max_tokens": 1_900, "ignore_eos": true, "stream": stream, "deadline": deadline});
        chat("Count.", body)
    };
    // How long the machine takes to begin is not known.
    let deadlines = (0..6).map(|n| 0.2 * f64::from(1 << n));
    let missed = deadlines.into_iter().find_map(|deadline| {
        let cut = server.try_events("/v1/chat/completions", &key, &long(true, deadline)).ok()?.transcript();
        cut.error.filter(|_| !server.export().is_empty())
    });
    let error = missed.expect("a stream that has begun misses one of the deadlines");
    assert_eq!((&error["code"], &error["param"]), (&json!("deadline_missed"), &json!("deadline")), "{error}");
    let unary = server.chat(&key, &long(false, 0.1));
    assert_eq!((unary.status(), unary.code().as_str()), (408, "deadline_missed"), "{}", unary.text());
    assert_eq!(unary.header("x-should-retry"), Some("false"));
    let rows = server.export();
    assert_eq!(rows.len(), 1, "what was never seen was never billed: {rows:?}");
    assert_eq!(rows[0].raw["end_reason"], "late");
    assert!(rows[0].cost_picos > 0);
    let receipt = server.fetch(&format!("/v1/receipts/{}", rows[0].request_id), &key).ok();
    assert_eq!(
        (&receipt["refunded_usd"], &receipt["cost_usd"]),
        (&json!(usd(rows[0].cost_picos)), &json!(usd(rows[0].cost_picos)))
    );

    let file = server.data().path().join("focus.csv");
    let path = file.to_str().expect("a path");
    let output = cli(server.data().path(), &["export", "--format", "focus", "--out", path]);
    assert!(output.status.success(), "{}", said(&output));
    let mut reader = csv::Reader::from_path(&file).expect("the file");
    let lines: Vec<std::collections::HashMap<String, String>> =
        reader.deserialize().map(|line| line.expect("a line as long as the header")).collect();
    let of = |category: &str| {
        let costs = lines.iter().filter(|line| line["ChargeCategory"] == category);
        costs.map(|line| gateway::money::Picos::parse_usd(&line["BilledCost"]).expect("USD").0).sum::<i64>()
    };
    assert_eq!((of("Usage"), of("Credit")), (rows[0].cost_picos as i64, -rows[0].cost_picos as i64));
    server.verify();
}
