//! Requests written byte by byte: framing tricks, limits of heads and bodies, slow and silent clients.
//!
//! Where the HTTP library answers before any of our code runs, the expectation is what it does, and the reason why
//! that is safe stands beside it.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use crate::support::{Config, KeyOptions, Reply, Server, Wire, chat};

/// What may come back.
#[derive(Debug)]
enum Expect {
    /// One of these statuses.
    Status(&'static [u16]),
    /// One of these statuses, or the connection is closed without an answer.
    StatusOrClosed(&'static [u16]),
}

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    expect: Expect,
}

fn case(name: &'static str, bytes: impl Into<Vec<u8>>, expect: Expect) -> Case {
    Case { name, bytes: bytes.into(), expect }
}

/// A server whose deadlines are a second, so that the slow cases are quick.
pub(crate) fn impatient() -> Config {
    Config::new().with("server", "header_deadline_s", "1").with("server", "body_deadline_s", "1").with(
        "server",
        "idle_deadline_s",
        "1",
    )
}

fn exchange(address: SocketAddr, bytes: &[u8]) -> std::io::Result<Option<Reply>> {
    let mut wire = Wire::connect(address)?;
    wire.set_read_limit(Duration::from_secs(20))?;
    // The server may hang up while a long head is still being written; what counts is what it answered.
    let written = wire.write(bytes);
    match wire.reply() {
        Ok(reply) => Ok(reply),
        // Closing on unread input resets the connection, which can eat the answer.
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
        Err(e) => Err(written.err().unwrap_or(e)),
    }
}

fn check_all(server: &mut Server, cases: Vec<Case>) {
    let mut complaints = Vec::new();
    for Case { name, bytes, expect } in cases {
        let shown = match exchange(server.address, &bytes) {
            Ok(None) if matches!(expect, Expect::StatusOrClosed(_)) => continue,
            Ok(Some(reply)) => match &expect {
                Expect::Status(allowed) | Expect::StatusOrClosed(allowed)
                    if allowed.contains(&reply.status()) =>
                {
                    continue;
                }
                _ => format!("status {} with {}", reply.status(), reply.text()),
            },
            Ok(None) => "a closed connection".to_owned(),
            Err(e) => format!("no answer: {e}"),
        };
        complaints.push(format!("{name}: expected {expect:?}, got {shown}"));
        assert!(server.is_alive(), "{name}: the server died");
    }
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

/// A request for the list of models with `lines` in its head.
pub(crate) fn get(key: &str, lines: &str) -> Vec<u8> {
    format!("GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{lines}\r\n").into_bytes()
}

/// A chat request with `lines` in place of its framing headers, and `body` as it is.
pub(crate) fn post(key: &str, lines: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\n{lines}\r\n"
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{:x}\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(b"\r\n0\r\n\r\n");
    bytes
}

#[test]
fn framing_tricks_are_refused() {
    let mut server = Server::start(&impatient());
    let key = server.key(KeyOptions { project: "framing", ..KeyOptions::default() });
    let body = chat("Hi", json!({"max_tokens": 1})).to_string();
    let body = body.as_bytes();
    let length = body.len();
    let post = |lines: &str, body: &[u8]| post(&key, lines, body);
    let refused = || Expect::StatusOrClosed(&[400]);
    check_all(
        &mut server,
        vec![
            case(
                "62 two lengths",
                post(&format!("Content-Length: {length}\r\nContent-Length: 1\r\n"), body),
                refused(),
            ),
            case("62 +5", post("Content-Length: +5\r\n", body), refused()),
            case("62 5,5", post("Content-Length: 5,5\r\n", body), refused()),
            case("62 5,6", post("Content-Length: 5,6\r\n", body), refused()),
            case("62 -1", post("Content-Length: -1\r\n", body), refused()),
            case("62 hex", post("Content-Length: 0x10\r\n", body), refused()),
            case("62 2^64", post("Content-Length: 18446744073709551616\r\n", body), refused()),
            // A length that is a number but above the body limit is told apart from a malformed one.
            case(
                "62 2^63",
                post("Content-Length: 9223372036854775807\r\n", body),
                Expect::StatusOrClosed(&[400, 413]),
            ),
            case("63 xchunked", post("Transfer-Encoding: xchunked\r\n", &chunked(body)), refused()),
            case(
                "63 chunked, identity",
                post("Transfer-Encoding: chunked, identity\r\n", &chunked(body)),
                refused(),
            ),
            case("63 obs-fold", post("Transfer-Encoding:\r\n chunked\r\n", &chunked(body)), refused()),
            case(
                "63 gzip, chunked",
                post("Transfer-Encoding: gzip, chunked\r\n", &chunked(body)),
                Expect::StatusOrClosed(&[400, 415, 501]),
            ),
        ],
    );
    check_free(&server);
}

/// Nothing that the server of a test was sent has cost anything.
fn check_free(server: &Server) {
    let rows = server.export();
    assert!(rows.iter().all(|row| row.cost_picos == 0), "a malformed request was billed: {rows:?}");
}

#[test]
fn malformed_chunks_are_refused() {
    let mut server = Server::start(&impatient());
    let key = server.key(KeyOptions { project: "chunks", ..KeyOptions::default() });
    let body = chat("Hi", json!({"max_tokens": 1})).to_string();
    let body = body.as_bytes();
    let send = |bytes: &[u8]| post(&key, "Transfer-Encoding: chunked\r\n", bytes);
    let chunk_size = |size: &str| send(format!("{size}\r\n").as_bytes());
    let refused = || Expect::StatusOrClosed(&[400]);
    let mut extension = format!("{:x};x=", body.len()).into_bytes();
    extension.extend(std::iter::repeat_n(b'x', 1 << 20));
    let mut trailers = chunked(body);
    trailers.truncate(trailers.len() - 2);
    trailers.extend((0..20_000).flat_map(|i| format!("x-{i}: {}\r\n", "y".repeat(40)).into_bytes()));
    trailers.extend_from_slice(b"\r\n");
    check_all(
        &mut server,
        vec![
            case("64 17 F", chunk_size("FFFFFFFFFFFFFFFFF"), refused()),
            case("64 -1", chunk_size("-1"), refused()),
            // As a number it is one, so the chunk is awaited like any other: the body limit or the deadline ends it.
            case("64 16 F", chunk_size("FFFFFFFFFFFFFFFF"), Expect::StatusOrClosed(&[400, 408, 413])),
            case("64 not hex", chunk_size("zz"), refused()),
            case("64 bare LF", send(b"5\nhello\n0\n\n"), refused()),
            case("64 1 MB extension", send(&extension), Expect::StatusOrClosed(&[400, 413, 431])),
            case("65 1 MB of trailers", send(&trailers), Expect::StatusOrClosed(&[400, 413, 431])),
            // A body over the limit that announces no length.
            case("14 chunked 5 MiB", send(&chunked(&vec![b' '; 5 << 20])), Expect::StatusOrClosed(&[413])),
        ],
    );
    check_free(&server);
}

#[test]
fn a_smuggled_request_runs_as_nobody() {
    let server = Server::start(&impatient());
    let key = server.key(KeyOptions { project: "smuggle", ..KeyOptions::default() });
    let body = chat("Hi", json!({"max_tokens": 1})).to_string();
    let smuggled = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut bytes = chunked(body.as_bytes());
    let lines = format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", bytes.len() + smuggled.len());
    bytes.extend_from_slice(smuggled);
    let mut wire = Wire::connect(server.address).expect("connect");
    wire.write(&post(&key, &lines, &bytes)).expect("write");
    // The HTTP library drops the length and believes the chunks, as the standard allows. So what follows the last
    // chunk is a request of its own, and without a key of its own it is refused.
    let first = wire.reply().expect("an answer").expect("an answer");
    assert!([200, 400].contains(&first.status()), "{}", first.text());
    if let Ok(Some(second)) = wire.reply() {
        assert!([400, 401].contains(&second.status()), "the smuggled request got {}", second.text());
    }
    // The other way round: the length covers a whole request, so it is text of the body and never runs.
    let inner = String::from_utf8(get(&key, "")).expect("text");
    let mut wire = Wire::connect(server.address).expect("connect");
    wire.write(&post(&key, &format!("Content-Length: {}\r\n", inner.len()), inner.as_bytes()))
        .expect("write");
    assert_eq!(wire.reply().expect("an answer").expect("an answer").status(), 400);
    wire.set_read_limit(Duration::from_secs(20)).expect("set the limit");
    assert!(wire.is_closed(), "the idle connection was not closed, or a second answer came");
}

#[test]
fn odd_heads_are_refused() {
    let mut server = Server::start(&impatient());
    let key = server.key(KeyOptions { project: "heads", ..KeyOptions::default() });
    let get = |lines: &str| get(&key, lines);
    let refused = || Expect::StatusOrClosed(&[400]);
    let long = || Expect::StatusOrClosed(&[431]);
    let address = format!("GET /v1/models?{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(65_536));
    let fields = |count: usize| (0..count).map(|i| format!("x-{i}: y\r\n")).collect::<String>();
    check_all(
        &mut server,
        vec![
            case("a plain request", get(""), Expect::Status(&[200])),
            case("66 60 fields", get(&fields(60)), Expect::Status(&[200])),
            case("66 65 fields", get(&fields(63)), Expect::Status(&[431])),
            case("66 32 KiB and more", get(&format!("x-long: {}\r\n", "y".repeat(33_000))), long()),
            case("66 10^6 tiny fields", get(&"a: b\r\n".repeat(1_000_000)), long()),
            case(
                "66 1 MB name",
                get(&format!("{}: y\r\n", "x".repeat(1_000_000))),
                Expect::StatusOrClosed(&[400, 431]),
            ),
            // The head limit is reached before the limit of an address alone, so 431 is as good as 414.
            case("67 64 KiB address", address, Expect::StatusOrClosed(&[414, 431])),
            case("68 bare CR", get("x-a: b\rc\r\n"), refused()),
            case("68 NUL", get("x-a: b\0c\r\n"), refused()),
            case("68 space before the colon", get("x-a : b\r\n"), refused()),
            case("68 no colon", get("nonsense\r\n"), refused()),
            case("68 control in a name", get("x\u{1}a: b\r\n"), refused()),
        ],
    );
}

#[test]
fn odd_protocols_are_refused_or_ignored() {
    let mut server = Server::start(&impatient());
    let key = server.key(KeyOptions { project: "protocols", ..KeyOptions::default() });
    let get = |lines: &str| get(&key, lines);
    let line = |line: &str| format!("{line}\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n").into_bytes();
    let refused = || Expect::StatusOrClosed(&[400]);
    let new_chunks = post(&key, "Transfer-Encoding: chunked\r\n", b"0\r\n\r\n");
    let old_chunks = String::from_utf8_lossy(&new_chunks).replacen("HTTP/1.1", "HTTP/1.0", 1);
    check_all(
        &mut server,
        vec![
            case("69 HTTP/0.9", "GET /v1/models\r\n\r\n", refused()),
            case("69 HTTP/3.0", line("GET /v1/models HTTP/3.0"), Expect::StatusOrClosed(&[400, 505])),
            case("69 HTTP/1.0 with chunks", old_chunks.into_bytes(), refused()),
            case("69 HTTP/1.0", line("GET /v1/models HTTP/1.0"), Expect::StatusOrClosed(&[200, 400, 505])),
            case("69 random bytes", (0..=255).rev().collect::<Vec<u8>>(), refused()),
            case("69 TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(20), refused()),
            case(
                "69 HTTP/2 preface",
                "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                Expect::StatusOrClosed(&[400, 505]),
            ),
            case("72 Expect: x", get("Expect: x\r\n"), Expect::Status(&[200, 417])),
            // An upgrade that is not offered is ignored: the request is served as it is.
            case(
                "73 Upgrade: h2c",
                get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
                Expect::Status(&[200]),
            ),
            case(
                "73 Upgrade: websocket",
                get(
                    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n",
                ),
                Expect::Status(&[200]),
            ),
            case(
                "73 CONNECT",
                line("CONNECT example.org:443 HTTP/1.1"),
                Expect::StatusOrClosed(&[400, 404, 405]),
            ),
            case(
                "74 forwarded-for",
                get("X-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\n"),
                Expect::Status(&[200]),
            ),
            case(
                "71 no Host",
                format!("GET /v1/models HTTP/1.1\r\nAuthorization: Bearer {key}\r\n\r\n"),
                Expect::Status(&[400]),
            ),
            case("71 two Hosts", get("Host: y\r\n"), Expect::Status(&[400])),
        ],
    );
}

#[test]
fn odd_addresses_reach_nothing() {
    let mut server = Server::start(&impatient());
    let key = server.key(KeyOptions { project: "addresses", ..KeyOptions::default() });
    let to = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n").into_bytes()
    };
    let nothing = || Expect::StatusOrClosed(&[400, 404]);
    check_all(
        &mut server,
        vec![
            // The authority of an absolute address is ignored, the path alone counts; both ends here are ourselves.
            case(
                "70 absolute form",
                to("http://evil.example/v1/models"),
                Expect::StatusOrClosed(&[200, 400, 404]),
            ),
            case("70 //", to("//v1/models"), nothing()),
            case("70 dots", to("/v1/../metrics"), nothing()),
            case("70 encoded dots", to("/v1/%2e%2e/metrics"), nothing()),
            case("70 encoded NUL", to("/v1/models%00"), nothing()),
            case("70 backslash", to("/v1\\models"), nothing()),
            case("70 asterisk", to("*"), nothing()),
            case("82 root", to("/"), nothing()),
            case("82 unknown", to("/v1/nonsense"), nothing()),
            case("82 trailing slash", to("/v1/models/"), nothing()),
            case("82 other case", to("/V1/MODELS"), nothing()),
            // These live on the admin listener alone.
            case("83 metrics", to("/metrics"), nothing()),
            case("83 admin", to("/admin/keys"), nothing()),
        ],
    );
    let reply = server.get("/v1/nonsense", &[("Authorization", &format!("Bearer {key}"))]);
    assert_eq!((reply.status(), reply.code().as_str()), (404, "unknown_url"), "{}", reply.text());
}

#[test]
fn other_methods_are_told_which_to_use() {
    let server = Server::start(&impatient());
    let key = server.key(KeyOptions { project: "methods", ..KeyOptions::default() });
    for (path, right) in
        [("/v1/chat/completions", "POST"), ("/v1/completions", "POST"), ("/v1/models", "GET")]
    {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "BREW"] {
            if method == right {
                continue;
            }
            let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n");
            let bytes = format!("{head}Content-Type: application/json\r\nContent-Length: 0\r\n\r\n");
            let reply = exchange(server.address, bytes.as_bytes()).expect("an answer").expect("an answer");
            assert_eq!(reply.status(), 405, "{method} {path}: {}", reply.text());
            let allow = reply.header("allow").unwrap_or_default();
            assert!(allow.split(',').any(|m| m.trim() == right), "{method} {path}: Allow is {allow:?}");
            assert!(reply.json()["error"]["message"].is_string(), "{method} {path}: {}", reply.text());
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_and_each_is_checked() {
    let server = Server::start(&impatient());
    let key = server.key(KeyOptions { project: "pipeline", ..KeyOptions::default() });
    let mut bytes = Vec::new();
    for i in 0..50 {
        let key = if i % 2 == 0 { key.as_str() } else { "sk-sw-wrong" };
        bytes.extend(get(key, ""));
    }
    let mut wire = Wire::connect(server.address).expect("connect");
    wire.write(&bytes).expect("write");
    for i in 0..50 {
        let reply = wire.reply().expect("an answer").expect("an answer");
        assert_eq!(reply.status(), if i % 2 == 0 { 200 } else { 401 }, "request {i}");
    }
}
