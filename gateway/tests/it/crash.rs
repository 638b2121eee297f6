//! kill -9 at random moments: after each restart the books hold, and the bill is what the clients saw.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::{
    Config, Events, KeyOptions, Method, Rng, Row, Server, Transcript, Usage, Wire, chat, data_folder,
};

const TRIALS: u64 = 25;
const STREAMS: u64 = 16;
const UNARY: u64 = 2;
/// Tokens of a stream that may be missing from its last checkpoint.
const CHECKPOINT_TOKENS: u64 = 32;

/// What one client knows of one request.
#[derive(Debug)]
enum Seen {
    /// A stream, up to its end or to where the connection broke. All that the server's kernel had taken is read,
    /// so the tokens listed here are the tokens sent.
    Stream(Transcript),
    /// A unary answer.
    Answer { request_id: String, usage: Usage },
}

fn ask(address: SocketAddr, key: &str, body: &serde_json::Value) -> std::io::Result<Wire> {
    let mut wire = Wire::connect(address)?;
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", bearer.as_str())];
    wire.request(Method::Post, "/v1/chat/completions", &headers, Some(body.to_string().as_bytes()))?;
    Ok(wire)
}

/// Streams one request after another until the server is gone.
fn stream_on(address: SocketAddr, key: &str, mut rng: Rng, seen: &mpsc::Sender<Seen>) {
    loop {
        let length = if rng.between(0, 2) == 0 { rng.between(1, 6) } else { rng.between(6, 80) };
        let body = chat(
            &format!("Tell me about {}.", rng.between(0, 50)),
            json!({"max_tokens": length, "ignore_eos": true, "stream": true, "logprobs": true,
                   "seed": rng.between(0, 1_000), "stream_options": {"include_usage": true}}),
        );
        let Ok(mut events) = ask(address, key, &body).and_then(Events::open) else { return };
        let transcript = events.transcript();
        let broken = transcript.cut.is_some();
        let _ = seen.send(Seen::Stream(transcript));
        if broken {
            return;
        }
    }
}

/// Asks for whole answers until the server is gone.
fn ask_on(address: SocketAddr, key: &str, mut rng: Rng, seen: &mpsc::Sender<Seen>) {
    loop {
        let body = chat("Hi", json!({"max_tokens": rng.between(1, 8), "n": rng.between(1, 3)}));
        let Ok(Some(reply)) = ask(address, key, &body).and_then(|mut wire| wire.reply()) else { return };
        let request_id = reply.header("x-request-id").expect("x-request-id").to_owned();
        let usage = Usage::of(&reply.ok()["usage"]);
        let _ = seen.send(Seen::Answer { request_id, usage });
    }
}

/// Runs clients against the server, kills it at a random moment, and returns what the clients saw.
fn kill_under_load(server: &mut Server, key: &str, rng: &mut Rng) -> Vec<Seen> {
    let (sender, receiver) = mpsc::channel();
    let address = server.address;
    let clients: Vec<_> = (0..STREAMS + UNARY)
        .map(|i| {
            let (sender, key, rng) = (sender.clone(), key.to_owned(), Rng::new(rng.next()));
            thread::spawn(move || {
                if i < STREAMS {
                    stream_on(address, &key, rng, &sender);
                } else {
                    ask_on(address, &key, rng, &sender);
                }
            })
        })
        .collect();
    // Every other trial begins its wait when the first request has finished, so that also on a slow machine some do.
    let mut all = Vec::new();
    if rng.between(0, 2) == 0 {
        all.push(receiver.recv_timeout(Duration::from_secs(60)).expect("no request finished"));
    }
    // The moment is the point of the trial, so this is a wait for time and not for an event.
    thread::sleep(Duration::from_millis(rng.between(20, 700)));
    server.kill_hard();
    for client in clients {
        client.join().expect("a client");
    }
    drop(sender);
    all.extend(receiver);
    all
}

fn find<'a>(rows: &'a [Row], id: &str) -> Option<&'a Row> {
    rows.iter().find(|row| row.request_id == id)
}

/// What is wrong with the bill of one request, if anything.
fn complaint(rows: &[Row], seen: &Seen) -> Option<String> {
    match seen {
        Seen::Answer { request_id, usage } => {
            let row = find(rows, request_id);
            (row.map(|r| r.usage) != Some(*usage))
                .then(|| format!("answer {request_id}: saw {usage:?}, row {row:?}"))
        }
        Seen::Stream(stream) => {
            let row = find(rows, &stream.request_id);
            if let Some(usage) = stream.usage {
                return (row.map(|r| r.usage) != Some(usage))
                    .then(|| format!("stream {}: saw {usage:?}, row {row:?}", stream.request_id));
            }
            let billed = row.map_or(0, |r| r.usage.completion);
            let sent = stream.listed_tokens;
            let fits = billed <= sent && billed + CHECKPOINT_TOKENS >= sent;
            (!fits)
                .then(|| format!("stream {}: was sent {sent}, billed {billed}: {row:?}", stream.request_id))
        }
    }
}

#[test]
fn killed_servers_keep_their_books() {
    let seed = 0x5EED_0001;
    let mut rng = Rng::new(seed);
    let data = data_folder();
    let config = Config::new();
    let mut server = Server::start_in(data.clone(), &config);
    let key = server.key(KeyOptions { project: "crash", ..KeyOptions::default() });
    let (mut usages, mut cuts) = (0, 0);
    for trial in 0..TRIALS {
        let seen = kill_under_load(&mut server, &key, &mut rng);
        drop(server);
        server = Server::start_in(data.clone(), &config);
        server.verify();
        let rows = server.export();
        let complaints: Vec<String> = seen.iter().filter_map(|s| complaint(&rows, s)).collect();
        assert!(
            complaints.is_empty(),
            "seed {seed:#x}, trial {trial}: {} of {} requests are billed wrongly:\n{}",
            complaints.len(),
            seen.len(),
            complaints.join("\n")
        );
        let open = |s: &&Seen| matches!(s, Seen::Stream(t) if t.usage.is_none());
        cuts += seen.iter().filter(open).count();
        usages += seen.iter().filter(|s| !open(s)).count();
    }
    // Trials that cut nothing, or let nothing finish, would prove nothing.
    assert!(cuts >= 100, "only {cuts} streams were cut in {TRIALS} trials");
    assert!(usages >= 10, "only {usages} requests finished in {TRIALS} trials");
    println!("{TRIALS} kills: {usages} finished and {cuts} cut requests, all billed as seen");
}
