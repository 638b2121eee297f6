//! A request that is sent again with its `Idempotency-Key` is the same request: one answer, one bill.

use std::thread;

use serde_json::{Value, json};

use crate::support::{Config, KeyOptions, Method, Reply, Server, Wire, chat, eventually, shared};

fn send(server: &Server, key: &str, name: &str, body: &Value) -> Reply {
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", name)];
    server.post_raw("/v1/chat/completions", &headers, body.to_string().as_bytes())
}

fn project<'a>(server: &Server, project: &'a str) -> (String, &'a str) {
    (server.key(KeyOptions { project, ..KeyOptions::default() }), project)
}

/// Settled rows of a project.
fn rows(server: &Server, project: &str) -> usize {
    server.export().iter().filter(|row| row.project == project && row.cost_picos > 0).count()
}

fn streamed(tokens: u32) -> Value {
    chat("Tell a story.", json!({"max_tokens": tokens, "stream": true, "ignore_eos": true, "temperature": 1}))
}

#[test]
fn an_answer_is_given_again_and_billed_once() {
    let (server, _) = shared();
    let (key, name) = project(server, "again");
    for (id, body) in [("unary", chat("Hi", json!({"temperature": 1}))), ("stream", streamed(8))] {
        let first = send(server, &key, id, &body);
        assert_eq!((first.status(), first.header("idempotent-replayed")), (200, None), "{}", first.text());
        let second = send(server, &key, id, &body);
        assert_eq!(second.text(), first.text(), "byte for byte");
        assert_eq!(second.header("idempotent-replayed"), Some("true"));
        assert_eq!(second.header("x-original-request-id"), first.header("x-request-id"));
        assert_eq!(second.header("content-type"), first.header("content-type"));
    }
    assert_eq!(rows(server, name), 2);
    assert_eq!(send(server, &key, "another", &chat("Hi", json!({}))).header("idempotent-replayed"), None);
    let (other, _) = project(server, "again-other");
    let reply = send(server, &other, "unary", &chat("Something else", json!({})));
    assert_eq!(
        (reply.status(), reply.header("idempotent-replayed")),
        (200, None),
        "keys of projects never meet"
    );
}

#[test]
fn sixteen_at_once_are_one() {
    let (server, _) = shared();
    let (key, name) = project(server, "sixteen");
    let texts: Vec<String> = thread::scope(|scope| {
        let send = || {
            let reply = send(server, &key, "one", &streamed(24));
            assert_eq!(reply.status(), 200, "{}", reply.text());
            reply.text()
        };
        let handles: Vec<_> = (0..16).map(|_| scope.spawn(send)).collect();
        handles.into_iter().map(|handle| handle.join().expect("a request")).collect()
    });
    assert!(texts[0].ends_with("data: [DONE]\n\n"), "{}", texts[0]);
    assert!(texts.iter().all(|text| *text == texts[0]), "all see the same");
    assert_eq!(rows(server, name), 1);
}

#[test]
fn another_body_is_refused_by_name_and_a_refusal_frees_the_key() {
    let (server, _) = shared();
    let (key, name) = project(server, "changed");
    assert_eq!(send(server, &key, "a", &chat("Hi", json!({"n": 99}))).status(), 400);
    assert_eq!(
        send(server, &key, "a", &chat("Hi", json!({}))).status(),
        200,
        "what was refused cost nothing"
    );
    let changed = send(server, &key, "a", &chat("Ho", json!({})));
    assert_eq!((changed.status(), changed.code().as_str()), (422, "idempotency_key_reuse"));
    assert_eq!(changed.json()["error"]["param"], "Idempotency-Key");
    assert_eq!(
        send(server, "sk-sw-x", "a", &chat("Hi", json!({}))).status(),
        401,
        "keys are asked for first"
    );
    assert_eq!(rows(server, name), 1);
}

#[test]
fn a_client_that_comes_back_sees_the_stream_from_its_start() {
    let (server, _) = shared();
    let (key, name) = project(server, "comes-back");
    let body = streamed(120);
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "b")];
    let mut wire = Wire::connect(server.address).expect("connect");
    let bytes = body.to_string().into_bytes();
    wire.request(Method::Post, "/v1/chat/completions", &headers, Some(&bytes)).expect("write");
    assert_eq!(wire.head().expect("a head").map(|head| head.status), Some(200));
    let first = wire.body_piece().expect("a piece").expect("a piece");
    drop(wire);
    let again = send(server, &key, "b", &body);
    assert_eq!((again.status(), again.header("idempotent-replayed")), (200, Some("true")));
    assert!(again.body.starts_with(&first) && again.text().ends_with("data: [DONE]\n\n"));
    assert_eq!(rows(server, name), 1);
    let id = again.header("x-original-request-id").expect("the request that was billed");
    let row = server.row(id);
    assert_eq!((row.usage.completion, row.end.as_str()), (120, "finished"));
}

#[test]
fn keys_outlive_the_process() {
    let mut server = Server::start(&Config::new());
    let data = server.data();
    let (key, _) = project(&server, "restart");
    let first = send(&server, &key, "kept", &streamed(6));
    server.terminate();
    assert_eq!(server.exit_status().code(), Some(0));
    drop(server);

    let mut server = Server::start_in(data.clone(), &Config::new());
    let second = send(&server, &key, "kept", &streamed(6));
    assert_eq!((second.text(), second.header("idempotent-replayed")), (first.text(), Some("true")));
    assert_eq!(send(&server, &key, "kept", &streamed(7)).status(), 422);
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "cut")];
    let mut wire = Wire::connect(server.address).expect("connect");
    let bytes = streamed(1_500).to_string().into_bytes();
    wire.request(Method::Post, "/v1/chat/completions", &headers, Some(&bytes)).expect("write");
    wire.head().expect("a head").expect("a head");
    let mut seen = 0;
    while seen < 40_000 {
        seen += wire.body_piece().expect("a piece").expect("a piece").len();
    }
    server.kill_hard();
    server.exit_status();
    drop(server);

    let server = Server::start_in(data, &Config::new());
    let refused = send(&server, &key, "cut", &streamed(1_500));
    assert_eq!(
        (refused.status(), refused.code().as_str()),
        (409, "idempotency_answer_gone"),
        "{}",
        refused.text()
    );
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert_eq!(rows(&server, "restart"), 2, "one bill for each key");
    eventually("nothing runs", || server.running() == 0);
    server.verify();
}
