//! Faults of the machine around a server: a full disk, no descriptors, flipped bits, sessions that break, clocks that jump,
//! more work than it can do. After each the books hold.

use std::fs;
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use gateway::config::LedgerSection;
use gateway::ledger::copy::Place;
use gateway::ledger::{HoldRequest, Ledger, Settlement, verify};
use serde_json::json;

use crate::fleet_ledger::{PRICE, hold, open, runtime, settlement, verified};
use crate::support::{
    Config, KeyOptions, Method, Reply, Rng, Seen, Server, Trial, Usage, chat, command, data_folder, database,
    model_id, number, seed, trials,
};

/// What one answer that is no stream shows.
fn seen(reply: &Reply) -> Seen {
    let request_id = reply.header("x-request-id").expect("x-request-id").to_owned();
    if reply.status() != 200 {
        return Seen::Refused { request_id };
    }
    Seen::Usage { request_id, usage: Usage::of(&reply.json()["usage"]), counted: None }
}

fn start() -> (Server, String) {
    let server = Server::start(&Config::new());
    let key = server.key(KeyOptions { project: "faults", ..KeyOptions::default() });
    (server, key)
}

/// Asks a few small questions, so that there is something in the books.
fn ask(server: &Server, key: &str, times: u64) {
    for number in 0..times {
        server
            .chat(key, &chat(&format!("Number {number}"), json!({"max_tokens": 3, "ignore_eos": true})))
            .ok();
    }
}

/// A file that may not grow is a disk that is full: the write fails, and nothing else does.
#[test]
fn a_full_disk_refuses_new_work_and_needs_no_repair() {
    let seed = seed(0x5EED_0F08);
    let mut rng = Rng::new(seed);
    for trial in 0..trials(3) {
        let (data, config) = (data_folder(), Config::new());
        let blocks = rng.between(800, 2_400);
        let server = Server::start_under(&format!("trap '' XFSZ; ulimit -f {blocks}"), data.clone(), &config);
        let key = server.key(KeyOptions { project: "faults", ..KeyOptions::default() });
        let long = chat(
            "Tell a story.",
            json!({"max_tokens": 4_000, "stream": true, "ignore_eos": true, "logprobs": true,
                   "stream_options": {"include_usage": true}}),
        );
        let mut live = server.events(&key, &long);
        let mut all = Vec::new();
        let small = chat("Hi", json!({"max_tokens": 2}));
        while all.len() < 1_000 && !matches!(all.last(), Some(Seen::Refused { .. })) {
            all.push(seen(&server.chat(&key, &small)));
        }
        let refused = server.chat(&key, &small);
        assert_eq!((refused.status(), refused.code().as_str()), (503, "ledger_unavailable"), "trial {trial}");
        assert_eq!(server.admin_get("/readyz").status(), 503);
        let transcript = live.transcript();
        assert!(transcript.usage.is_none(), "a stream went on without a ledger: {transcript:?}");
        assert!(transcript.error.is_some(), "a stream ended without saying why");
        all.push(Seen::stream(transcript));
        drop(server);
        // There is room again, and nobody has repaired anything.
        let server = Server::start_in(data.clone(), &config);
        server.chat(&key, &small).ok();
        Trial::after(data.path(), &all).check(&format!("seed {seed:#x}, trial {trial}"));
    }
}

#[test]
fn a_server_without_descriptors_left_serves_on() {
    let config = Config::new();
    let server = Server::start_under("ulimit -n 80", data_folder(), &config);
    let key = server.key(KeyOptions { project: "faults", ..KeyOptions::default() });
    let body = chat(
        "Tell a story.",
        json!({"max_tokens": 150, "stream": true, "ignore_eos": true, "logprobs": true,
               "stream_options": {"include_usage": true}}),
    );
    let mut live = server.events(&key, &body);
    let idle: Vec<_> = (0..200).map(|_| TcpStream::connect(server.address).expect("queued")).collect();
    let transcript = live.transcript().finished();
    drop(idle);
    let reply = server.chat(&key, &chat("Hi", json!({"max_tokens": 2})));
    reply.ok();
    Trial::after(server.data().path(), &[Seen::stream(transcript), seen(&reply)]).check("no descriptors");
}

#[test]
fn a_flipped_bit_is_found_or_changes_no_sum() {
    let seed = seed(0x5EED_0F09);
    let (mut server, key) = start();
    ask(&server, &key, 6);
    server.terminate();
    server.exit_status();
    let clean = verify::verify(server.data().path()).expect("readable");
    assert!(clean.is_ok() && clean.settled == 6, "{clean}");
    let bytes = fs::read(server.data().path().join("ledger.db")).expect("the ledger");
    let (copy, mut rng) = (data_folder(), Rng::new(seed));
    let (count, mut found) = (trials(200), 0);
    for trial in 0..count {
        let mut bytes = bytes.clone();
        let at = usize::try_from(rng.between(0, bytes.len() as u64)).expect("in memory");
        bytes[at] ^= 1 << rng.between(0, 8);
        fs::write(copy.path().join("ledger.db"), &bytes).expect("write the copy");
        match verify::verify(copy.path()) {
            Ok(report) if report.is_ok() => {
                assert_eq!(report.to_string(), clean.to_string(), "seed {seed:#x}, trial {trial}, byte {at}");
            }
            Ok(_) | Err(_) => found += 1,
        }
    }
    println!("{found} of {count} bits were found, the others changed nothing");
    assert!(found >= count / 10, "only {found} of {count} bits were found");
}

#[test]
fn an_interrupted_export_leaves_a_whole_file_or_none() {
    let seed = seed(0x5EED_0F18);
    let (server, key) = start();
    ask(&server, &key, 8);
    let expected = server.cli(&["export", "--format", "csv"]).stdout;
    let (mut rng, mut none) = (Rng::new(seed), 0);
    let out = server.data().path().join("bill.csv");
    for trial in 0..trials(40) {
        // Of the last trial; where there is none, there is nothing to remove.
        let _ = fs::remove_file(&out);
        let export = || {
            let mut command = command(server.data().path());
            command.args(["export", "--format", "csv", "--out"]).arg(&out).arg("--data");
            command.arg(server.data().path()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let mut child = export().spawn().expect("start the export");
        thread::sleep(Duration::from_micros(rng.between(0, 12_000)));
        child.kill().expect("kill -9");
        child.wait().expect("reap");
        match fs::read(&out) {
            Ok(bytes) => assert_eq!(bytes, expected, "seed {seed:#x}, trial {trial}: a part of a file"),
            Err(_) => none += 1,
        }
        assert!(export().status().expect("run the export").success(), "seed {seed:#x}, trial {trial}");
        assert_eq!(fs::read(&out).expect("the file"), expected, "seed {seed:#x}, trial {trial}");
    }
    assert!(none > 0, "every export was through before it was killed");
    let folder = server.data();
    let checked = server.cli(&["verify", "--exports", folder.path().to_str().expect("a path")]);
    assert!(checked.status.success(), "{checked:?}");
}

/// Becomes true when this ends, however.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The server's side ends all sessions again and again, in the middle of whatever they do.
#[test]
fn sessions_that_break_at_any_moment_lose_and_double_nothing() {
    let seed = seed(0x5EED_0F13);
    let (url, folder) = (database(), data_folder());
    let place = Place::Postgres(url.clone());
    let ledgers = [open(&place), open(&place)];
    let (is_over, kills, ended) =
        (AtomicBool::new(false), Mutex::new(0), Arc::new([AtomicU64::new(0), AtomicU64::new(0)]));
    let count = trials(150);
    let billed: i64 = thread::scope(|scope| {
        // Also where something fails, or the other thread would never end.
        let over = SetOnDrop(&is_over);
        scope.spawn(|| {
            let (mut rng, mut before) = (Rng::new(seed), [0, 0]);
            while !is_over.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(rng.between(50, 250)));
                // A ledger gives a commit up that breaks four times: on a slow machine each must have got one through since.
                let now = [0, 1].map(|at: usize| ended[at].load(Ordering::SeqCst));
                if now.iter().zip(before).any(|(now, before)| *now == before) {
                    continue;
                }
                before = now;
                let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                           WHERE datname = current_database() AND pid <> pg_backend_pid()";
                *kills.lock().expect("a count") += number(&url, sql);
            }
        });
        let billed = runtime().block_on(async {
            let requests = (0..count).map(|at| {
                let (which, ended) = (usize::from(at % 2 == 0), Arc::clone(&ended));
                let ledger = ledgers[which].clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(at * 15)).await;
                    let id = format!("r{at}");
                    ledger.hold(hold(&id, 10 * PRICE, None)).await.expect("held");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    // Where the others took this gateway for dead meanwhile, the answer says what they have billed.
                    let cost = ledger.settle(settlement(&id, 3)).await.map_or(0, |settled| settled.cost.0);
                    ended[which].fetch_add(1, Ordering::SeqCst);
                    cost
                })
            });
            let mut billed = 0;
            for request in requests.collect::<Vec<_>>() {
                billed += request.await.expect("a request");
            }
            billed
        });
        drop(over);
        billed
    });
    let kills = *kills.lock().expect("a count");
    assert!(kills >= 8, "only {kills} sessions were ended");
    ledgers.iter().for_each(Ledger::close);
    let (report, _) = verified(&place, folder.path());
    assert_eq!((report.holds, report.cost.0, report.open), (count, billed, 0), "seed {seed:#x}");
    println!("{kills} sessions ended under {count} requests: {} settled", report.settled);
}

/// Requests whose clock jumps by up to two days to and fro, over the end of a year.
#[test]
fn a_clock_that_jumps_moves_no_row_back_and_loses_none() {
    let seed = seed(0x5EED_0F14);
    let (folder, mut rng) = (data_folder(), Rng::new(seed));
    let year_end_ms = 1_798_761_600_000;
    let day_ms = 86_400_000;
    let count = trials(500);
    let ledger = Ledger::open(folder.path(), &LedgerSection::default(), year_end_ms - day_ms).expect("opens");
    runtime().block_on(async {
        for at in 0..count {
            let id = format!("r{at}");
            let mut clock = || year_end_ms + rng.between(0, 4 * day_ms) - 2 * day_ms;
            let request = HoldRequest { at_ms: clock(), ..hold(&id, 10 * PRICE, None) };
            ledger.hold(request).await.expect("held");
            let ending = Settlement { at_ms: clock(), ..settlement(&id, 2) };
            assert_eq!(ledger.settle(ending).await.expect("settled").cost.0, 2 * PRICE);
        }
    });
    ledger.close();
    drop(ledger);
    Trial::after(folder.path(), &[]).check(&format!("seed {seed:#x}"));
    let report = verify::verify(folder.path()).expect("readable");
    let billed = i64::try_from(count).expect("few") * 2 * PRICE;
    assert_eq!((report.settled, report.cost.0), (count, billed), "seed {seed:#x}");
}

#[test]
fn more_work_than_there_is_room_for_is_refused_and_free() {
    let config = Config::new().with("engine", "max_waiting", "4").with("engine", "max_num_seqs", "4");
    let server = Server::start(&config);
    let key = server.key(KeyOptions { project: "faults", ..KeyOptions::default() });
    let body = chat("Hi", json!({"max_tokens": 12, "ignore_eos": true}));
    let all: Vec<Seen> = thread::scope(|scope| {
        let clients: Vec<_> = (0..40)
            .map(|_| {
                let (server, key, body) = (&server, &key, &body);
                scope.spawn(move || (0..3).map(|_| seen(&server.chat(key, body))).collect::<Vec<_>>())
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    });
    let refused = all.iter().filter(|seen| matches!(seen, Seen::Refused { .. })).count();
    assert!(refused > 0 && refused < all.len(), "{refused} of {} were refused", all.len());
    Trial::after(server.data().path(), &all).check("ten times too much");
}

#[test]
fn a_price_that_changes_under_a_stream_is_for_the_next() {
    let (server, key) = start();
    let admin = server.admin_key();
    let streamed = chat(
        "Tell a story.",
        json!({"max_tokens": 60, "stream": true, "ignore_eos": true, "logprobs": true,
               "stream_options": {"include_usage": true}}),
    );
    let mut live = server.events(&key, &streamed);
    live.next().expect("an event").expect("an event");
    let price = json!({"model": model_id(), "uncached_input": "1", "cached_input": "1", "output": "1"});
    let made = server.operate(Method::Post, "/v1/admin/prices", &admin, Some(&price));
    assert!(made.status() < 300, "{}", made.text());
    let first = live.transcript().finished();
    let later = server.chat(&key, &chat("Hi", json!({"max_tokens": 2})));
    let [old, new] =
        [first.request_id.as_str(), later.header("x-request-id").expect("an id")].map(|id| server.row(id));
    assert_eq!(old.raw["output_usd_per_million"], json!("0.4"), "{old:?}");
    assert_eq!(new.raw["output_usd_per_million"], json!("1"), "{new:?}");
    Trial::after(server.data().path(), &[Seen::stream(first), seen(&later)]).check("a change of price");
}
