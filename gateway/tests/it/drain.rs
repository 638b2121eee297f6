//! The end of a server: what runs is finished, what comes is refused.

use std::thread;

use serde_json::json;

use crate::support::{Config, KeyOptions, Server, chat, data_folder, eventually};

#[test]
fn a_terminated_server_finishes_its_streams() {
    let data = data_folder();
    let mut server = Server::start_in(data.clone(), &Config::new());
    let key = server.key(KeyOptions { project: "drain", ..KeyOptions::default() });
    let body = chat(
        "Tell a story.",
        json!({"max_tokens": 60, "ignore_eos": true, "stream": true, "stream_options": {"include_usage": true}}),
    );
    assert_eq!(server.admin_get("/readyz").status(), 200);
    assert_eq!(server.admin_get("/healthz").status(), 200);
    let streams: Vec<_> = (0..8)
        .map(|_| {
            let mut events = server.events(&key, &body);
            events.next().expect("an event").expect("an event");
            events
        })
        .collect();
    let readers: Vec<_> =
        streams.into_iter().map(|mut events| thread::spawn(move || events.transcript())).collect();
    server.terminate();
    eventually("a draining server says that it is not ready, or has already ended", || {
        match crate::support::Wire::connect(server.admin) {
            Ok(_) if server.is_alive() => not_ready(&server),
            _ => true,
        }
    });
    let seen: Vec<_> = readers.into_iter().map(|r| r.join().expect("a reader")).collect();
    let status = server.exit_status();
    assert_eq!(status.code(), Some(0), "a drained server ends with 0: {status}\n{}", server.printed());
    for stream in seen {
        // The first event was read before the transcript began.
        let stream = stream.finished();
        let usage = stream.usage.expect("usage was asked for");
        assert_eq!(usage.completion, 60);
        assert_eq!(server.row(&stream.request_id).usage, usage);
    }
    server.verify();

    let again = Server::start_in(data, &Config::new());
    assert_eq!(again.export().len(), 8);
    assert_eq!(again.chat(&key, &chat("Hi", json!({"max_tokens": 1}))).status(), 200);
    again.verify();
}

/// Asks without failing the test when the server ends in between.
fn not_ready(server: &Server) -> bool {
    let asked = crate::support::Wire::connect(server.admin).and_then(|mut wire| {
        wire.request(crate::support::Method::Get, "/readyz", &[], None)?;
        wire.reply()
    });
    match asked {
        Ok(Some(reply)) => reply.status() == 503,
        Ok(None) | Err(_) => true,
    }
}

#[test]
fn an_idle_server_ends_at_once_on_either_signal() {
    for signal in ["-TERM", "-INT"] {
        let mut server = Server::start(&Config::new());
        let pid = server.pid().to_string();
        let sent = std::process::Command::new("kill").args([signal, &pid]).status();
        assert!(sent.expect("run kill").success());
        assert_eq!(server.exit_status().code(), Some(0), "{signal}: {}", server.printed());
    }
}
