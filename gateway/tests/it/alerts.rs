//! Budgets that pass a threshold are told by webhook, signed, until the receiver takes it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gateway::alerts::signature;
use serde_json::{Value, json};

use crate::support::{Config, KeyOptions, Server, chat};

const KEY: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// One webhook request as the receiver saw it.
struct Hook {
    headers: Vec<(String, String)>,
    body: String,
}

impl Hook {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str()).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers))
    }

    fn threshold(&self) -> u64 {
        let body: Value = serde_json::from_str(&self.body).expect("JSON");
        body["data"]["threshold_percent"].as_u64().unwrap_or_else(|| panic!("no threshold in {body}"))
    }
}

/// A receiver that refuses the first request and takes all others.
fn receiver() -> (String, Receiver<Hook>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let (sender, hooks) = mpsc::channel();
    std::thread::spawn(move || {
        for (turn, stream) in listener.incoming().enumerate() {
            let mut stream = stream.expect("a connection");
            let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
            let mut headers = Vec::new();
            for line in reader.by_ref().lines().map(|line| line.expect("a line")) {
                if line.is_empty() {
                    break;
                }
                headers
                    .extend(line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())));
            }
            let mut hook = Hook { headers, body: String::new() };
            let length = hook.header("content-length").parse().expect("a length");
            reader.take(length).read_to_string(&mut hook.body).expect("a body");
            let status = if turn == 0 { "503 Service Unavailable" } else { "204 No Content" };
            let answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).expect("an answer");
            if sender.send(hook).is_err() {
                return;
            }
        }
    });
    (url, hooks)
}

fn next(hooks: &Receiver<Hook>) -> Hook {
    hooks.recv_timeout(Duration::from_secs(30)).expect("a webhook")
}

#[test]
fn a_passed_threshold_is_told_once_and_signed() {
    let (url, hooks) = receiver();
    let config = Config::new()
        .with("alerts", "url", &format!("\"{url}\""))
        .with("alerts", "secret", &format!("\"whsec_{KEY}\""))
        .with("alerts", "interval_s", "1")
        .with("alerts", "retry_first_s", "1")
        .with("alerts", "thresholds", "[50]");
    let server = Server::start(&config);
    let key = server.key(KeyOptions { project: "alerts", budget: Some("0.00002"), ..KeyOptions::default() });
    let body = chat("Hi", json!({"max_tokens": 8, "ignore_eos": true}));
    while server.chat(&key, &body).status() == 200 {}

    let first = next(&hooks);
    let id = first.header("webhook-id").to_owned();
    let key = STANDARD.decode(KEY).expect("base64");
    let expected = signature(&key, &id, first.header("webhook-timestamp"), &first.body);
    assert_eq!(first.header("webhook-signature"), expected);
    let event: Value = serde_json::from_str(&first.body).expect("JSON");
    assert_eq!(
        (&event["type"], &event["data"]["limit_usd"]),
        (&json!("spend_alert.triggered"), &json!("0.00002"))
    );
    assert_eq!((&event["data"]["scope"], &event["data"]["period"]), (&json!("key"), &json!("total")));
    assert_eq!(first.threshold(), 50);
    let again = next(&hooks);
    assert_eq!(
        (again.header("webhook-id"), &again.body),
        (id.as_str(), &first.body),
        "told until it is taken"
    );
    // Taken: neither the next rounds nor a restart tell it again.
    let (data, mut server) = (server.data(), server);
    server.terminate();
    server.exit_status();
    drop(server);
    let server = Server::start_in(data, &config);
    let rest: Vec<Hook> = std::iter::from_fn(|| hooks.recv_timeout(Duration::from_secs(3)).ok()).collect();
    assert!(rest.is_empty(), "told once");
    server.verify();
}
