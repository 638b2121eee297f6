//! Leases through kills.

use super::*;

/// Leases in every state of their life, with days of hours that nobody has billed yet, as a server would find them that
/// was away.
fn history(dir: &Path, now: u64) -> i64 {
    let (leases, ledger) = open(dir, now - 60 * HOUR_MS);
    runtime().block_on(async {
        let grant = |id, span, units| leases.grant(&ledger, payer(), lease(&leases, id, span, units, now));
        let mut ended = lease(&leases, "ended", (50, 40), 2, now);
        ended.terms.sla =
            Sla { inter_token_ms: 50, objective_permille: 990, min_requests: 1, ..ended.terms.sla };
        ended.terms.sla.credit_percent = 10;
        leases.grant(&ledger, payer(), ended).await.expect("granted");
        // In four of its hours tokens come too slowly.
        for ago in (47..=50).rev() {
            let at = now / HOUR_MS * HOUR_MS - ago * HOUR_MS + 20_000;
            for n in 0..3 {
                serve(&ledger, &format!("slow.{ago}.{n}"), "reserved", Some("ended"), (0, Some(50_001)), at)
                    .await;
            }
        }
        grant("active", (45, 100), 3).await.expect("granted");
        grant("given_up", (30, 100), 1).await.expect("granted");
        grant("taken_back", (20, 100), 1).await.expect("granted");
        let mut to_come = lease(&leases, "to_come", (0, 12), 5, now);
        for ms in [&mut to_come.steps[0].at_ms, &mut to_come.end_ms, &mut to_come.agreed_end_ms] {
            *ms += 24 * HOUR_MS;
        }
        leases.grant(&ledger, payer(), to_come).await.expect("granted");
        let hour = now / HOUR_MS * HOUR_MS;
        leases.give_notice("given_up", Party::Holder, hour - 11 * HOUR_MS).expect("given up");
        leases.give_notice("taken_back", Party::Operator, hour - 11 * HOUR_MS).expect("taken back");
    });
    ledger.close();
    // Hours that have begun: 40 of two, 46 of three, 20 and 10 of one (the hour of the notice has begun).
    (40 * 2 + 46 * 3 + 20 + 10) * UNIT_HOUR
}

fn payer() -> &'static Identity {
    static PAYER: std::sync::OnceLock<Identity> = std::sync::OnceLock::new();
    PAYER.get_or_init(Identity::default)
}

#[test]
fn a_lease_that_is_asked_for_again_after_a_crash_is_the_same() {
    let (data, config) = (data_folder(), config());
    calibrated(data.path());
    let mut server = Server::start_in(data.clone(), &config);
    let key = server.key(KeyOptions { project: "search", ..KeyOptions::default() });
    let body = json!({"model": model_id(), "units": 5, "hours": 2}).to_string();
    let bearer = format!("Bearer {key}");
    let ask = |server: &Server, idempotency: &str| {
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", idempotency),
        ];
        server.post_raw("/v1/capacity/leases", &headers, body.as_bytes()).ok()["id"].clone()
    };
    let first = ask(&server, "one");
    server.kill_hard();
    server.exit_status();
    drop(server);
    // As where the process had died before it kept its answer.
    let kept = rusqlite::Connection::open(data.path().join("idempotency.db")).expect("idempotency.db");
    kept.execute("DELETE FROM answers", []).expect("forgotten");
    drop(kept);
    let server = Server::start_in(data, &config);
    server.await_key(&key);
    assert_eq!(ask(&server, "one"), first);
    assert_ne!(ask(&server, "two"), first);
    assert_eq!(server.fetch("/v1/capacity/leases", &key).ok()["data"].as_array().map(Vec::len), Some(2));
}

#[test]
fn killed_servers_bill_each_hour_once() {
    let seed = seed(0x1EA5_E001);
    let mut rng = Rng::new(seed);
    let (data, config) = (data_folder(), config());
    calibrated(data.path());
    let now = now_ms();
    let billed = history(data.path(), now);
    assert_eq!(balance(data.path(), "org_1").expect("a balance").spent, Picos::ZERO);
    std::fs::write(data.path().join("test.toml"), config.render()).expect("write the configuration");
    for _ in 0..trials(5) {
        let mut again = command(data.path());
        again.arg("serve").arg("--config").arg(data.path().join("test.toml"));
        let started = again.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut started = started.expect("start spillway");
        let before = balance(data.path(), "org_1").expect("a balance").spent;
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        // The moment is the point of the trial: once it has begun to catch up, where there is anything left.
        while before.0 < billed
            && balance(data.path(), "org_1").expect("a balance").spent == before
            && std::time::Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(2));
        }
        thread::sleep(Duration::from_millis(rng.between(0, 60)));
        started.kill().expect("kill -9");
        started.wait().expect("reap");
        let report = verify(data.path()).expect("a ledger");
        assert!(report.is_ok(), "seed {seed:#x}: {report}");
        assert!(balance(data.path(), "org_1").expect("a balance").spent.0 <= billed + 4 * UNIT_HOUR);
    }
    let server = Server::start_in(data.clone(), &config);
    let begun = i64::try_from(now_ms() / HOUR_MS - now / HOUR_MS).expect("few hours");
    // Where an hour began during the test, the active lease was billed for it, too.
    let (spent, to_hold) = (billed + begun * 3 * UNIT_HOUR, (54 - begun) * 3 + 12 * 5);
    eventually("all hours are billed and the rest is free", || {
        let balance = balance(data.path(), "org_1").expect("a balance");
        (balance.spent, balance.held) == (Picos(spent), Picos(to_hold * UNIT_HOUR))
    });
    // A tenth of the 90 hours that were taken back, and of four slow hours of two units; nothing was resold.
    eventually("what was taken back and what was slow is paid", || {
        balance(data.path(), "org_1").expect("a balance").credited
            == Picos(9 * UNIT_HOUR + 4 * 2 * UNIT_HOUR / 10)
    });
    server.verify();
    let holdings = server.export().iter().filter(|row| row.raw["service_tier"] == "lease").count();
    assert_eq!(i64::try_from(holdings).expect("few"), 40 + 46 + 20 + 10 + begun);
}
