//! Clients that are slow to ask, and clients that do not read what they asked for.

use std::time::Duration;

use serde_json::json;

use crate::raw_http::{get, impatient, post};
use crate::support::{KeyOptions, Server, Wire, chat, eventually};

#[test]
fn slow_and_silent_clients_are_cut() {
    let mut server = Server::start(&impatient());
    let key = server.key(KeyOptions { project: "slow", ..KeyOptions::default() });
    let head = String::from_utf8(get(&key, "")).expect("text");
    let silent = Wire::connect(server.address).expect("connect");
    let mut half = Wire::connect(server.address).expect("connect");
    half.write(&head.as_bytes()[..40]).expect("write half a head");
    let mut trickle = Wire::connect(server.address).expect("connect");
    let body_less = post(&key, "Content-Length: 100\r\n", b"{");
    let mut no_body = Wire::connect(server.address).expect("connect");
    no_body.write(&body_less).expect("write");
    let expecting = post(&key, "Content-Length: 100\r\nExpect: 100-continue\r\n", b"");
    let mut expect_then_nothing = Wire::connect(server.address).expect("connect");
    expect_then_nothing.write(&expecting).expect("write");
    // One byte at a time, each well within the deadline, the whole head far beyond it.
    let mut cut = false;
    for byte in head.as_bytes().iter().cycle().take(200) {
        if trickle.write(&[*byte]).is_err() {
            cut = true;
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(cut, "a head that trickles in was let go on for ten times the deadline");

    for (name, mut wire) in [("silent", silent), ("half a head", half)] {
        wire.set_read_limit(Duration::from_secs(20)).expect("set the limit");
        match wire.reply() {
            Ok(None) => {}
            Ok(Some(reply)) => assert_eq!(reply.status(), 408, "{name}: {}", reply.text()),
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{name}: {e}"),
        }
    }
    for (name, mut wire) in [("no body", no_body), ("expect, then nothing", expect_then_nothing)] {
        wire.set_read_limit(Duration::from_secs(20)).expect("set the limit");
        let reply =
            wire.reply().expect("an answer").unwrap_or_else(|| panic!("{name}: closed without an answer"));
        assert_eq!(reply.status(), 408, "{name}: {}", reply.text());
    }
    assert!(server.is_alive());
    assert_eq!(server.chat(&key, &chat("Hi", json!({"max_tokens": 1}))).status(), 200);
}

#[test]
fn a_body_that_trickles_in_is_cut() {
    let server = Server::start(&impatient());
    let key = server.key(KeyOptions { project: "trickle", ..KeyOptions::default() });
    let mut wire = Wire::connect(server.address).expect("connect");
    wire.write(&post(&key, "Content-Length: 1000\r\n", b"")).expect("write");
    let mut answered = false;
    for _ in 0..200 {
        if wire.write(b" ").is_err() {
            answered = true;
            break;
        }
        wire.set_read_limit(Duration::from_millis(50)).expect("set the limit");
        if let Ok(Some(reply)) = wire.reply() {
            assert_eq!(reply.status(), 408, "{}", reply.text());
            answered = true;
            break;
        }
    }
    assert!(answered, "a body that trickles in was let go on for ten times the deadline");
}

#[test]
fn a_client_that_never_reads_is_cut_and_pays_for_what_was_sent() {
    let server = Server::start(&impatient().with("server", "write_deadline_s", "1"));
    let key = server.key(KeyOptions { project: "unread", ..KeyOptions::default() });
    // Logprobs with twenty alternatives fill the socket's buffers within some hundred tokens.
    let body = chat(
        "Tell me a long story.",
        json!({"max_tokens": 4_000, "stream": true, "logprobs": true, "top_logprobs": 20, "ignore_eos": true}),
    );
    let mut wire = Wire::connect(server.address).expect("connect");
    wire.write(&post(
        &key,
        &format!("Content-Length: {}\r\n", body.to_string().len()),
        body.to_string().as_bytes(),
    ))
    .expect("write");
    let head = wire.head().expect("a head").expect("a head");
    let id = head.header("x-request-id").expect("x-request-id").to_owned();
    eventually("the stalled stream starts", || server.running() == 1);
    eventually("the stalled stream is cut and its slot freed", || server.running() == 0);
    let row = server.row(&id);
    assert!(row.usage.completion < 4_000, "the stalled stream ran to its end: {row:?}");
    server.verify();
    drop(wire);
}
