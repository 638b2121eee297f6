//! A judge of the operator's own, played on loopback.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use serde_json::{Value, json};

use super::{EIGHT, SEVEN, SIX};
use crate::support::{Config, Item, KeyOptions, Server, chat, merged};

/// A judge that forbids swans and eights, fails on geese, talks nonsense about ducks, says nothing of sixes until told to
/// go on, and takes no one without its token.
struct Judge {
    url: String,
    asked: Receiver<String>,
    go_on: Sender<()>,
}

impl Judge {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let url = format!("http://{}/judge", listener.local_addr().expect("an address"));
        let ((tell, asked), (go_on, wait)) = (mpsc::channel(), mpsc::channel());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let (head, body) = question(&stream);
                let text = body["input"].as_str().expect("a text").to_owned();
                let is_known = head.contains("authorization: bearer sesame") && body["model"] == "strict";
                let _ = tell.send(text.clone());
                if text.contains('6') && wait.recv().is_err() {
                    continue;
                }
                let (swan, eight) = (text.contains("swan"), text.contains('8'));
                let categories = json!({"birds/swan": swan, "eight": eight, "unsure": null});
                let (status, answer) = match () {
                    () if !is_known || text.contains("goose") => ("500 Broken", String::new()),
                    () if text.contains("duck") => ("200 OK", r#"{"results": [{"quack": 1}]}"#.repeat(9_000)),
                    () => {
                        let result = json!({"flagged": swan || eight, "categories": categories});
                        ("200 OK", json!({"results": [result]}).to_string())
                    }
                };
                let length = answer.len();
                let head =
                    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
                // The gateway reads only so much of an answer.
                let _ = stream.write_all((head + &answer).as_bytes());
            }
        });
        Self { url, asked, go_on }
    }
}

fn question(stream: &TcpStream) -> (String, Value) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head).expect("a line") > 2 {}
    let head = head.to_ascii_lowercase();
    let length = head.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next());
    let length = length.expect("a length").parse().expect("a number");
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body).expect("a body");
    (head, serde_json::from_slice(&body).expect("JSON"))
}

fn server(more: &str) -> (Server, String, Judge) {
    let judge = Judge::start();
    let hook = format!(
        "[guard.hook]\nurl = \"{}\"\ntoken = \"sesame\"\nmodel = \"strict\"\nwindow_bytes = 4\n{more}\n",
        judge.url
    );
    let server = Server::start(&Config::new().with("server", "heartbeat_seconds", "1").table(&hook));
    let key = server.key(KeyOptions::default());
    (server, key, judge)
}

fn only(token: &str) -> Value {
    json!({"logit_bias": {token: 100}, "temperature": 0.0, "max_tokens": 10})
}

#[test]
fn prompts_are_judged_before_they_cost_anything() {
    let (server, key, _judge) = server("");
    let refused = server.chat(&key, &chat("Tell me about the swan.", json!({})));
    assert_eq!((refused.status(), refused.code().as_str()), (400, "content_policy_violation"));
    assert!(refused.text().contains("birds/swan"), "{}", refused.text());
    for bird in ["goose", "duck"] {
        let unjudged = server.chat(&key, &chat(&format!("Tell me about the {bird}."), json!({})));
        assert_eq!(
            (unjudged.status(), unjudged.code().as_str()),
            (503, "content_hook_unavailable"),
            "{bird}"
        );
        assert_eq!(server.post("/v1/moderations", &key, &json!({"input": bird})).status(), 503, "{bird}");
    }
    let reply = server.post("/v1/moderations", &key, &json!({"input": ["a swan", "a crow"]}));
    let results = &reply.json()["results"];
    assert_eq!(results[0]["categories"], json!({"birds/swan": true, "eight": false, "unsure": false}));
    assert_eq!((&results[0]["flagged"], &results[1]["flagged"]), (&json!(true), &json!(false)));
    assert!(server.export().is_empty());
}

#[test]
fn answers_are_judged_window_by_window() {
    let (server, key, judge) = server("");
    let streamed = |token| merged(chat("Count.", only(token)), json!({"stream": true}));
    let allowed = server.stream(&key, &streamed(SEVEN)).finished();
    assert_eq!(allowed.first_text(), "7".repeat(10));
    let asked: Vec<String> = judge.asked.try_iter().skip(1).collect();
    assert_eq!(asked, ["7777", "77777777", "777777"], "each window with the one before it");
    assert_eq!(server.chat(&key, &chat("Count.", only(SEVEN))).ok()["choices"][0]["finish_reason"], "length");
    assert_eq!(server.stream(&key, &streamed(EIGHT)).first_text(), "");
    let stopped = server.chat(&key, &chat("Count.", only(EIGHT))).ok();
    assert_eq!(stopped["choices"][0]["message"]["content"], "");
    assert_eq!(stopped["choices"][0]["finish_reason"], "content_filter");
    assert_eq!(stopped["usage"]["completion_tokens"], 4, "the rest is not billed");
    server.verify();
}

#[test]
fn a_stream_lives_while_the_judge_thinks_and_costs_nothing_when_he_never_speaks() {
    let (server, key, judge) = server("timeout_ms = 3000");
    let request = merged(chat("Count.", only(SIX)), json!({"stream": true}));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let mut events = server.events(&key, &request);
            std::iter::from_fn(|| events.next().expect("a whole stream")).collect::<Vec<_>>()
        });
        while !judge.asked.recv_timeout(Duration::from_secs(20)).expect("a question").contains('6') {}
        std::thread::sleep(Duration::from_millis(1_500));
        (0..3).for_each(|_| judge.go_on.send(()).expect("the judge waits"));
        let slow = slow.join().expect("a stream");
        let ping = slow.iter().position(|item| matches!(item, Item::Comment(_))).expect("a heartbeat");
        let told = |item: &Item| matches!(item, Item::Chunk(chunk) if chunk.to_string().contains("6666"));
        assert!(ping < slow.iter().position(told).expect("text"), "{slow:?}");
        assert_eq!(slow.last(), Some(&Item::Done));
    });
    assert_eq!(server.export().len(), 1);
    let silent = server.events(&key, &request).transcript();
    let error = silent.error.as_ref().expect("an error");
    assert_eq!((&error["code"], silent.first_text()), (&json!("content_hook_unavailable"), ""));
    drop(judge.go_on);
    let whole = server.chat(&key, &chat("Count.", only(SIX)));
    assert_eq!((whole.status(), whole.code().as_str()), (503, "content_hook_unavailable"));
    assert_eq!(server.export().len(), 1, "only the first was told");
    server.verify();
}

#[test]
fn a_judge_that_fails_may_be_overlooked() {
    let (server, key, _judge) = server("on_failure = \"allow\"\noutput = false");
    assert_eq!(server.chat(&key, &chat("A goose?", json!({"max_tokens": 1}))).status(), 200);
    assert_eq!(server.chat(&key, &chat("A swan?", json!({"max_tokens": 1}))).status(), 400);
}
