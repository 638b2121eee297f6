//! kill -9 at random moments: after each restart the books hold, and the bill is what the clients saw.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::{
    Config, Events, KeyOptions, Method, Rng, Seen, Server, Trial, Usage, Wire, chat, command, data_folder,
    seed, trials,
};

const STREAMS: u64 = 16;
const UNARY: u64 = 2;

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
        let _ = seen.send(Seen::stream(transcript));
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
        let _ = seen.send(Seen::Usage { request_id, usage, counted: None });
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

/// Kills and restarts a server; after each restart all that clients saw must fit the books.
fn kill_and_check(config: &Config, ahead: bool, count: u64, seed: u64) {
    let mut rng = Rng::new(seed);
    let data = data_folder();
    let mut server = Server::start_in(data.clone(), config);
    let key = server.key(KeyOptions { project: "crash", ..KeyOptions::default() });
    let (mut usages, mut cuts) = (0, 0);
    for trial in 0..count {
        let seen = kill_under_load(&mut server, &key, &mut rng);
        drop(server);
        server = Server::start_in(data.clone(), config);
        Trial::after(data.path(), &seen).ahead(ahead).check(&format!("seed {seed:#x}, trial {trial}"));
        cuts += seen.iter().filter(|seen| matches!(seen, Seen::Cut { .. })).count() as u64;
        usages += seen.iter().filter(|seen| matches!(seen, Seen::Usage { .. })).count() as u64;
    }
    // Trials that cut nothing, or let nothing finish, would prove nothing.
    assert!(cuts >= 4 * count, "only {cuts} streams were cut in {count} trials");
    assert!(usages >= count / 3, "only {usages} requests finished in {count} trials");
    println!("{count} kills: {usages} finished and {cuts} cut requests, all billed as seen");
}

#[test]
fn killed_servers_keep_their_books() {
    kill_and_check(&Config::new(), false, trials(25), seed(0x5EED_0001));
}

#[test]
fn with_a_journal_ahead_nothing_that_was_sent_goes_unbilled() {
    let config = Config::new().with("ledger", "journal", "\"ahead\"");
    kill_and_check(&config, true, trials(10), seed(0x5EED_0002));
}

/// Starts a server again and again and kills it while it recovers.
#[test]
fn a_crash_during_recovery_changes_nothing() {
    let seed = seed(0x5EED_0F05);
    let mut rng = Rng::new(seed);
    let (data, config) = (data_folder(), Config::new());
    let mut server = Server::start_in(data.clone(), &config);
    let key = server.key(KeyOptions { project: "crash", ..KeyOptions::default() });
    // Three crashes each.
    for trial in 0..trials(17) {
        let seen = kill_under_load(&mut server, &key, &mut rng);
        drop(server);
        for _ in 0..3 {
            let mut again = command(data.path());
            again.arg("serve").arg("--config").arg(data.path().join("test.toml"));
            let started = again.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let mut started = started.expect("start spillway");
            thread::sleep(Duration::from_millis(rng.between(5, 150)));
            started.kill().expect("kill -9");
            started.wait().expect("reap");
        }
        server = Server::start_in(data.clone(), &config);
        Trial::after(data.path(), &seen).check(&format!("seed {seed:#x}, trial {trial}"));
    }
}
