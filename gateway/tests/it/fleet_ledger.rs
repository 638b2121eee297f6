//! One ledger for several gateways: a real PostgreSQL server, broken connections, gateways that die.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use gateway::accounts::Budget;
use gateway::config::LedgerSection;
use gateway::ledger::copy::{Copier, Place};
use gateway::ledger::{
    BudgetPeriod, BudgetScope, Credit, CreditKind, Details, EndReason, HoldRequest, Ledger, Settlement,
    Timings, Tokens, verify,
};
use gateway::money::{Picos, PriceVersion};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::fleet::two_folders;
use crate::support::{
    Config, KeyOptions, Rng, Server, chat, data_folder, database, eventually, number, seed, trials,
};

pub(crate) const PRICE: i64 = 100;

pub(crate) fn open(place: &Place) -> Ledger {
    let options = LedgerSection::default();
    match place {
        Place::Directory(dir) => Ledger::open(dir, &options, 5_000),
        Place::Postgres(url) => Ledger::open_shared(url, &options, 5_000, &|_| Ok(None)),
    }
    .expect("the ledger opens")
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

pub(crate) fn hold(id: &str, amount: i64, budget: Option<i64>) -> HoldRequest {
    let limit = |limit| Budget {
        scope: BudgetScope::Project,
        id: "proj_1".to_owned(),
        period: BudgetPeriod::Total,
        limit: Picos(limit),
    };
    HoldRequest {
        request_id: id.to_owned(),
        key_id: "key_1".to_owned(),
        project_id: "proj_1".to_owned(),
        org_id: "org_1".to_owned(),
        model: "m".to_owned(),
        tier: "default".to_owned(),
        endpoint: "/v1/chat/completions".to_owned(),
        price: PriceVersion::new("m", "default", 0, Picos(PRICE), Picos(PRICE), Picos(PRICE)),
        amount: Picos(amount),
        prompt_tokens: 1,
        budgets: budget.map(limit).into_iter().collect(),
        credit_line: None,
        details: Details { org_name: "acme".to_owned(), ..Details::default() },
        lease: None,
        at_ms: 6_000,
    }
}

fn output(output: u32) -> Tokens {
    Tokens { output, ..Tokens::default() }
}

pub(crate) fn settlement(id: &str, tokens: u32) -> Settlement {
    let timings = Timings { first_token_ms: Some(6_500), ..Timings::default() };
    Settlement {
        request_id: id.to_owned(),
        tokens: output(tokens),
        end: EndReason::Finished,
        at_ms: 7_000,
        timings,
    }
}

/// Copies a ledger into a folder, checks every sum and every row there, and returns what was found.
pub(crate) fn verified(from: &Place, dir: &Path) -> (verify::Report, String) {
    let mut copier = Copier::open(from, &Place::Directory(dir.to_owned())).expect("open both");
    copier.go_on().expect("copy");
    let head = copier.head().1;
    drop(copier);
    let report = verify::verify(dir).expect("readable");
    assert!(report.is_ok(), "{report}");
    (report, head)
}

#[test]
fn the_same_life_gives_the_same_ledger_in_both_stores() {
    let (folder, copies) = (data_folder(), [data_folder(), data_folder()]);
    let places = [Place::Directory(folder.path().join("own")), Place::Postgres(database())];
    let mut heads = Vec::new();
    for (place, copy) in places.iter().zip(&copies) {
        let ledger = open(place);
        runtime().block_on(async {
            let credit = Credit {
                id: "paid".to_owned(),
                org_id: "org_1".to_owned(),
                kind: CreditKind::Grant,
                amount: Picos(50_000),
                expires_ms: Some(6_900),
                note: "invoice 7".to_owned(),
                lease: None,
                at_ms: 5_500,
            };
            assert_eq!(
                ledger.credit(credit.clone()).await.expect("granted"),
                ledger.credit(credit).await.expect("again")
            );
            ledger.hold(hold("a", 1_000, Some(3_000))).await.expect("held");
            let refused = ledger.hold(hold("b", 2_001, Some(3_000))).await.expect_err("over the budget");
            assert!(refused.to_string().contains("project budget of"), "{refused}");
            assert!(ledger.hold(hold("a", 1, None)).await.is_err(), "an id is used once");
            ledger.extend("a", Picos(500), 6_100).await.expect("extended");
            ledger.checkpoint("a", output(3), 6_200).await.expect("noted");
            let first = ledger.settle(settlement("a", 7)).await.expect("settled");
            assert_eq!((first.cost.0, first.tokens.output), (700, 7));
            assert_eq!(ledger.settle(settlement("a", 9)).await.expect("the first result"), first);
            ledger.hold(hold("b", 2_000, Some(3_000))).await.expect("held");
            ledger.void("b", 7_100).await.expect("voided");
            ledger.void("b", 7_100).await.expect("voided before");
            assert!(ledger.settle(settlement("b", 1)).await.is_err(), "voided");
            ledger.expire_credit(8_000);
            ledger.hold(hold("c", 400, None)).await.expect("held");
            ledger.checkpoint("c", output(2), 8_200).await.expect("noted");
        });
        ledger.close();
        drop(ledger);
        // The process has ended with a request open: it is billed at its checkpoint.
        if let Place::Postgres(url) = place {
            let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
                         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
            eventually("the server knows that the session has ended", || number(url, locks) == 0);
        }
        let ledger = open(place);
        assert_eq!((ledger.recovery().settled, ledger.recovery().voided), (1, 0));
        ledger.close();
        drop(ledger);
        let (report, head) = verified(place, copy.path());
        assert_eq!((report.settled, report.voided, report.open, report.cost.0), (2, 1, 0, 900));
        heads.push(head);
    }
    assert_eq!(heads[0], heads[1], "equal rows have equal hashes");
    // On into the other kind of store, and not on top of another ledger.
    let there = Place::Postgres(database());
    let mut copier = Copier::open(&places[0], &there).expect("open both");
    assert!(copier.go_on().expect("copied") > 0);
    assert_eq!((copier.go_on().expect("nothing new"), &copier.head().1), (0, &heads[0]));
    drop(copier);
    let ledger = open(&there);
    runtime().block_on(ledger.hold(hold("only here", 1, None))).expect("held");
    ledger.close();
    assert!(Copier::open(&places[0], &there).is_err(), "the target has rows that the source has not");
}

/// Generates one token after another until the budget ends, holding for five at a time; what it billed.
async fn stream(ledger: Ledger, id: String, budget: i64) -> i64 {
    const PIECE: i64 = 5 * PRICE;
    if ledger.hold(hold(&id, PIECE, Some(budget))).await.is_err() {
        return 0;
    }
    let mut pieces = 1;
    while pieces < 4 && ledger.extend(&id, Picos(PIECE), 6_100).await.is_ok() {
        pieces += 1;
    }
    let tokens = u32::try_from(pieces * 5).expect("few");
    ledger.settle(settlement(&id, tokens)).await.expect("settled").cost.0
}

#[test]
fn gateways_use_one_budget_up_and_no_more() {
    let (place, folder) = (Place::Postgres(database()), data_folder());
    let budget = 501 * 5 * PRICE + 1;
    let ledgers = [open(&place), open(&place), open(&place)];
    let billed: i64 = runtime().block_on(async {
        let streams =
            (0..300).map(|at| tokio::spawn(stream(ledgers[at % 3].clone(), format!("s{at}"), budget)));
        let mut billed = 0;
        for stream in streams.collect::<Vec<_>>() {
            billed += stream.await.expect("a stream");
        }
        billed
    });
    ledgers.iter().for_each(Ledger::close);
    // What is left is less than the smallest piece.
    assert!(billed <= budget && billed > budget - 5 * PRICE, "{billed} billed of {budget}");
    let (report, _) = verified(&place, folder.path());
    assert_eq!((report.cost.0, report.open), (billed, 0));
}

/// Hands bytes to and fro, and cuts connections around the commit as it is told.
struct Cutter {
    address: SocketAddr,
    /// 0: never; 1: before the commit reaches the server; 2: after it did, before the answer.
    plan: Arc<AtomicU32>,
    cuts: Arc<AtomicU32>,
}

impl Cutter {
    fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address");
        let (plan, cuts) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let shared = (Arc::clone(&plan), Arc::clone(&cuts));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(upstream) = TcpStream::connect(server) else { return };
                let (plan, cuts) = (Arc::clone(&shared.0), Arc::clone(&shared.1));
                let (down, up) = (client.try_clone().expect("clone"), upstream.try_clone().expect("clone"));
                let silent = Arc::new(Mutex::new(false));
                let mute = Arc::clone(&silent);
                thread::spawn(move || forward(up, down, |_| !*mute.lock().expect("flag")));
                thread::spawn(move || {
                    forward(client, upstream, |bytes| {
                        if !bytes.windows(6).any(|word| word == b"COMMIT") {
                            return true;
                        }
                        let cut = plan.swap(0, Ordering::SeqCst);
                        cuts.fetch_add(u32::from(cut > 0), Ordering::SeqCst);
                        *silent.lock().expect("flag") |= cut == 2;
                        cut != 1
                    });
                });
            }
        });
        Self { address, plan, cuts }
    }
}

/// Copies until an end, or until `pass` refuses; then closes both ways.
fn forward(mut from: TcpStream, mut to: TcpStream, mut pass: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if !pass(&buffer[..length]) || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[test]
fn a_commit_without_an_answer_is_neither_lost_nor_done_twice() {
    let seed = seed(0x5EED_0F12);
    let (url, folder, mut rng) = (database(), data_folder(), Rng::new(seed));
    let port = url.rsplit(':').next().and_then(|rest| rest.split('/').next()).expect("a port");
    let cutter = Cutter::before(format!("127.0.0.1:{port}").parse().expect("an address"));
    let through = url.replace(&format!(":{port}/"), &format!(":{}/", cutter.address.port()));
    let (ledger, other) = (open(&Place::Postgres(through)), open(&Place::Postgres(url.clone())));
    let (trials, mut expected) = (u32::try_from(trials(100)).expect("few"), 0);
    runtime().block_on(async {
        for trial in 0..trials {
            let (id, tokens) = (format!("t{trial}"), u32::try_from(rng.between(1, 9)).expect("few"));
            let (cut, at) = (u32::try_from(rng.between(1, 3)).expect("one or two"), rng.between(0, 3));
            let arm = |step| cutter.plan.store(if step == at { cut } else { 0 }, Ordering::SeqCst);
            arm(0);
            ledger.hold(hold(&id, 10 * PRICE, None)).await.expect("held");
            // Another gateway writes in between, so the chain goes on from rows of others.
            let theirs = format!("o{trial}");
            other.hold(hold(&theirs, 10 * PRICE, None)).await.expect("held");
            arm(1);
            ledger.extend(&id, Picos(PRICE), 6_100).await.expect("extended");
            other.settle(settlement(&theirs, 1)).await.expect("settled");
            arm(2);
            let settled = ledger.settle(settlement(&id, tokens)).await.expect("settled");
            assert_eq!(settled.tokens.output, tokens, "seed {seed:#x}, trial {trial}");
            expected += i64::from(tokens + 1) * PRICE;
        }
    });
    assert!(cutter.cuts.load(Ordering::SeqCst) >= trials / 2, "too few connections were cut");
    assert!(ledger.healthy() && other.healthy());
    ledger.close();
    other.close();
    let (report, _) = verified(&Place::Postgres(url), folder.path());
    assert_eq!(
        (report.settled, report.cost.0, report.open),
        (2 * u64::from(trials), expected, 0),
        "seed {seed:#x}"
    );
}

#[test]
fn a_killed_gateways_requests_are_ended_by_the_others_within_the_budget() {
    let (url, budget) = (database(), 200_000_000);
    let options = KeyOptions { project: "fleet", budget: Some("0.0002"), ..KeyOptions::default() };
    let (folders, key) = two_folders(options);
    let config = Config::new().with("fleet", "postgres_url", &format!("\"{url}\"")).with(
        "limits",
        "output_allowance_tokens",
        "32",
    );
    let [mut first, second] = folders.map(|folder| Server::start_in(folder, &config));
    let long = chat("Tell a story.", json!({"max_tokens": 2_000, "stream": true, "ignore_eos": true}));
    let mut streams: Vec<_> = (0..4).map(|_| first.events(&key, &long)).collect();
    for stream in &mut streams {
        stream.next().expect("an event").expect("an event");
    }
    // The first checkpoints are written within this time; the moment need not be exact.
    thread::sleep(Duration::from_millis(400));
    first.kill_hard();
    // Nobody starts the dead one again; what it had open must not hold the budget for ever.
    eventually("no request is open", || number(&url, "SELECT count(*) FROM open_holds") == 0);
    let recovered = number(&url, "SELECT count(*) FROM transfers WHERE end_reason = 'recovered'");
    assert!(recovered > 0, "the kill hit no stream that had a checkpoint");
    let body = chat("Hi", json!({"max_tokens": 60, "ignore_eos": true}));
    let refused = (0..12).map(|_| second.chat(&key, &body)).find(|reply| reply.status() != 200);
    assert_eq!(refused.expect("the budget ends").code(), "insufficient_quota");
    let billed = number(&url, "SELECT sum(cost_picos)::bigint FROM transfers");
    // One more request of 60 tokens and a short prompt did not fit.
    assert!(billed <= budget && billed > budget - 30_000_000, "{billed} picos billed of {budget}");
    let folder = data_folder();
    let (report, _) = verified(&Place::Postgres(url), folder.path());
    assert_eq!((report.cost.0, report.open), (billed, 0));
    // The gateway's own copy for reports follows.
    eventually("the copy is complete", || {
        verify::verify(second.data().path()).is_ok_and(|own| own.head == report.head && own.is_ok())
    });
}
