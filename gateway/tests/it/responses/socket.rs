//! Responses over WebSocket.

use serde_json::{Value, json};
use tungstenite::{Bytes, Message};

use super::compliance::{check_events, message};
use super::{ask as post, id, text};
use crate::support::{Config, KeyOptions, Row, Server, Socket, eventually, shared};

/// The row of a response.
fn row(server: &Server, response: &Value) -> Row {
    server.row(&id(response).replace("resp_", "req_"))
}

fn check_bill(server: &Server, response: &Value) {
    let (row, usage) = (row(server, response), &response["usage"]);
    assert_eq!(usage["input_tokens"].as_u64(), Some(row.usage.prompt), "{response}");
    assert_eq!(usage["output_tokens"].as_u64(), Some(row.usage.completion), "{response}");
}

#[test]
fn answers_come_one_after_the_other_and_are_billed_as_posted_ones() {
    let (server, key) = shared();
    let mut socket = Socket::open(server, key);
    for _ in 0..2 {
        socket.ask(json!({"input": [message("user", "Count from 1 to 3.")]}));
        let response = check_events(&socket.answer());
        check_bill(server, &response);
        let posted = post(server, key, json!({"input": [message("user", "Count from 1 to 3.")]})).ok();
        assert_eq!(text(&response), text(&posted));
    }
    // Asked for at once, they are answered in order.
    socket.ask(json!({"input": "Name three rivers.", "metadata": {"n": "1"}}));
    socket.ask(json!({"input": "Name three hills.", "metadata": {"n": "2"}, "stream": true}));
    for n in ["1", "2"] {
        let response = check_events(&socket.answer());
        assert_eq!(response["metadata"]["n"], n);
        check_bill(server, &response);
    }
}

#[test]
fn a_connection_remembers_its_last_answer_and_no_other_does() {
    let (server, key) = shared();
    let mut socket = Socket::open(server, key);
    let private = |extra: Value| crate::support::merged(json!({"store": false}), extra);
    let first = socket.turn(private(json!({"input": "Remember the code word: cobalt. Reply with OK."})));
    assert_eq!(server.fetch(&super::path(&first), key).status(), 404, "it is not kept");
    let second =
        socket.turn(private(json!({"previous_response_id": id(&first), "input": "What is the code word?"})));
    assert!(super::input_tokens(&second) > super::input_tokens(&first), "{second}");
    let missing = |refused: (u64, Value)| {
        assert_eq!(
            (refused.0, &refused.1["code"], &refused.1["param"]),
            (400, &json!("previous_response_not_found"), &json!("previous_response_id")),
            "{}",
            refused.1
        );
    };
    // Only the last one, and only here.
    missing(socket.refused(private(json!({"previous_response_id": id(&first), "input": "x"}))));
    let mut other = Socket::open(server, key);
    missing(other.refused(private(json!({"previous_response_id": id(&second), "input": "x"}))));
    other.turn(private(json!({"input": "Start anew."})));
    // Whoever fails to go on from it goes on from nothing.
    let answer = json!({"type": "function_call_output", "call_id": "call_none", "output": "x"});
    let (status, error) =
        socket.refused(private(json!({"previous_response_id": id(&second), "input": [answer]})));
    assert_eq!((status, &error["param"]), (400, &json!("input[0].call_id")), "{error}");
    missing(socket.refused(private(json!({"previous_response_id": id(&second), "input": "x"}))));
    // What is kept can be gone on from anywhere.
    let kept = socket.turn(json!({"store": true, "input": "Remember the code word: ember."}));
    let next = other.turn(private(json!({"previous_response_id": id(&kept), "input": "What is it?"})));
    assert_eq!(next["previous_response_id"], kept["id"]);
}

#[test]
fn input_is_taken_in_without_an_answer() {
    let (server, key) = shared();
    let mut socket = Socket::open(server, key);
    let warm = socket.turn(json!({"store": false, "generate": false, "input": "Remember: cobalt."}));
    assert_eq!((&warm["status"], &warm["output"]), (&json!("completed"), &json!([])), "{warm}");
    assert_eq!(warm["usage"]["total_tokens"], 0, "{warm}");
    let next = socket.turn(json!({"previous_response_id": id(&warm), "input": "What is it?"}));
    let alone = post(server, key, json!({"input": "What is it?"})).ok();
    assert!(super::input_tokens(&next) > super::input_tokens(&alone), "{next}");
}

#[test]
fn a_bad_message_is_refused_by_name_and_the_connection_goes_on() {
    let (server, key) = shared();
    let mut socket = Socket::open(server, key);
    let cases: [(Message, &str, Value); 5] = [
        (Message::Binary(Bytes::from_static(b"{}")), "invalid_body", Value::Null),
        (Message::text("{\"type\":"), "invalid_json", Value::Null),
        (Message::text("[]"), "invalid_type", Value::Null),
        (Message::text("{}"), "missing_required_parameter", json!("type")),
        (Message::text("{\"type\":\"response.sing\"}"), "invalid_value", json!("type")),
    ];
    for (message, code, param) in cases {
        socket.send(message.clone());
        let (status, error) = socket.refusal();
        assert_eq!((status, &error["code"], &error["param"]), (400, &json!(code), &param), "{message}");
    }
    for (extra, code, param) in [
        (json!({"input": "x", "stream": false}), "unsupported_value", "stream"),
        (json!({"input": "x", "background": true}), "unsupported_value", "background"),
        (json!({"input": "x", "stream_id": "a"}), "unsupported_parameter", "stream_id"),
        (json!({"input": "x", "colour": 1}), "unknown_parameter", "colour"),
        (json!({"input": "x", "temperature": 9}), "decimal_above_max_value", "temperature"),
    ] {
        let (status, error) = socket.refused(extra);
        assert_eq!((status, &error["code"], &error["param"]), (400, &json!(code), &json!(param)), "{error}");
    }
    let (status, error) = socket.refused(json!({"input": "x", "model": "nobody"}));
    assert_eq!((status, &error["code"]), (404, &json!("model_not_found")), "{error}");
    check_bill(server, &socket.turn(json!({"input": "Hi"})));
    socket.send(Message::Ping(Bytes::from_static(b"?")));
    assert_eq!(socket.0.read().expect("a pong"), Message::Pong(Bytes::from_static(b"?")));
}

#[test]
fn handshakes_are_refused_as_posts_are() {
    let (server, key) = shared();
    let refused = Socket::try_open(server, "sk-wrong").err().expect("a refusal");
    assert_eq!((refused.0, &refused.1["error"]["code"]), (401, &json!("invalid_api_key")));
    let plain = server.fetch("/v1/responses", key);
    assert_eq!((plain.status(), plain.header("upgrade")), (426, Some("websocket")), "{}", plain.text());
}

#[test]
fn a_message_that_is_too_large_ends_the_connection_in_words() {
    let server = Server::start(&Config::new().with("server", "max_body_bytes", "4096"));
    let key = server.key(KeyOptions { project: "socket", ..KeyOptions::default() });
    let mut socket = Socket::open(&server, &key);
    let (status, error) = socket.refused(json!({"input": "x".repeat(5_000)}));
    assert_eq!((status, &error["code"]), (413, &json!("request_too_large")), "{error}");
    assert_eq!(socket.event().expect_err("a close").0, 1009);
}

#[test]
fn connections_end_when_they_are_old_and_when_nothing_is_asked() {
    let server = Server::start(&Config::new().with("websocket", "max_age_s", "1"));
    let key = server.key(KeyOptions { project: "socket", ..KeyOptions::default() });
    let mut socket = Socket::open(&server, &key);
    let (status, error) = socket.refusal();
    assert_eq!((status, &error["code"]), (400, &json!("websocket_connection_limit_reached")), "{error}");
    assert_eq!(socket.event().expect_err("a close").0, 1000);

    let config = Config::new().with("websocket", "idle_s", "1").with("websocket", "max_per_key", "1");
    let server = Server::start(&config);
    let key = server.key(KeyOptions { project: "socket", ..KeyOptions::default() });
    let mut socket = Socket::open(&server, &key);
    let (status, body) = Socket::try_open(&server, &key).err().expect("one at a time");
    assert_eq!((status, &body["error"]["code"]), (429, &json!("rate_limit_exceeded")), "{body}");
    assert_eq!(socket.event().expect_err("a close").0, 1000);
    drop(socket);
    eventually("the place is free again", || Socket::try_open(&server, &key).is_ok());
}

/// Counts the tokens of an event.
fn tokens(event: &Value) -> u64 {
    event["logprobs"].as_array().filter(|_| event.get("delta").is_some()).map_or(0, Vec::len) as u64
}

#[test]
fn a_client_that_leaves_pays_for_what_it_was_sent() {
    let server = Server::start(&Config::new());
    let key = server.key(KeyOptions { project: "socket", ..KeyOptions::default() });
    for wanted in [1, 5, 40] {
        let mut socket = Socket::open(&server, &key);
        socket.ask(json!({"input": "Tell a very long story.", "max_output_tokens": 1_500,
            "include": ["message.output_text.logprobs"]}));
        let (mut seen, mut response) = (0, Value::Null);
        while seen < wanted {
            let event = socket.event().expect("the answer goes on");
            seen += tokens(&event);
            if event["type"] == "response.created" {
                response = event["response"].clone();
            }
        }
        // It says that it sends no more, and reads on: it sees exactly what the kernel was handed.
        socket.half_close();
        while let Ok(event) = socket.event() {
            assert_ne!(event["type"], "response.completed", "a half-closed connection is a client that left");
            seen += tokens(&event);
        }
        eventually("the slot of a client that left is free", || server.running() == 0);
        let row = row(&server, &response);
        assert_eq!(row.end, "disconnected", "{row:?}");
        let billed = row.usage.completion;
        assert!(seen <= billed && billed <= seen + 2, "delivered {seen}, billed {billed}: {row:?}");
    }
    server.verify();
}

#[test]
fn a_draining_server_finishes_its_answer_and_asks_to_connect_again() {
    let mut server = Server::start(&Config::new());
    let key = server.key(KeyOptions { project: "socket", ..KeyOptions::default() });
    let mut idle = Socket::open(&server, &key);
    idle.turn(json!({"input": "Hi"}));
    let mut busy = Socket::open(&server, &key);
    busy.ask(json!({"input": "Tell a story.", "max_output_tokens": 200}));
    busy.event().expect("it has begun");
    server.terminate();
    assert_eq!(idle.event().expect_err("a close").0, 1012);
    let events = busy.answer();
    let response = &events.last().expect("events")["response"];
    assert!(matches!(response["status"].as_str(), Some("completed" | "incomplete")), "{response}");
    assert_eq!(busy.event().expect_err("a close").0, 1012);
    drop((idle, busy));
    let status = server.exit_status();
    assert_eq!(status.code(), Some(0), "a drained server ends with 0: {status}\n{}", server.printed());
    check_bill(&server, response);
    server.verify();
}
