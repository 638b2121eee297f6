//! Targets of leases: what misses them, and what comes back.

use super::*;
use crate::ledger::Pace;

/// Targets of 200 and 50 ms that nine of ten requests are to keep; an hour is judged from ten requests on.
fn promised() -> LeasesSection {
    let sla = "sla_first_token_ms = 200\nsla_inter_token_ms = 50\nsla_objective_permille = 900\nsla_min_requests = 10";
    toml::from_str(&format!("unit_hour_usd = \"0.05\"\nunit_tokens_per_second = 10\n{sla}")).unwrap()
}

fn open(dir: &Path) -> Leases {
    Leases::open(dir, &promised(), HashMap::from([("m".to_owned(), 5)])).unwrap()
}

/// A request under the lease that takes so long, settled at `at_ms`.
async fn answer(ledger: &Ledger, id: String, lease: &str, pace: Option<Pace>, at_ms: u64) {
    ledger.hold(held(&id, "reserved", Some(lease), at_ms)).await.unwrap();
    let timings = Timings { pace, ..Timings::default() };
    let (end, tokens) = (EndReason::Finished, Tokens::default());
    ledger.settle(Settlement { request_id: id, tokens, end, at_ms, timings }).await.unwrap();
}

/// Requests of one hour: how many, with which wait and gap.
type Hour = &'static [(u32, u32, Option<u32>)];

/// What an hour is like, and whether its lease gets credit for it.
const HOURS: [(&str, Hour, bool); 9] = [
    ("nothing is asked", &[], false),
    ("all is in time", &[(20, 200, Some(50_000))], false),
    ("one of ten begins late, which may be", &[(9, 10, None), (1, 201, None)], false),
    ("two of twenty begin late, which may be", &[(18, 10, None), (2, 60_000, None)], false),
    ("two of ten begin late", &[(8, 10, None), (2, 201, None)], true),
    ("two of ten go on slowly", &[(8, 10, Some(50_000)), (2, 10, Some(50_001))], true),
    ("both are missed, which is one breach", &[(10, 900, Some(90_000))], true),
    ("nine requests say nothing", &[(9, 900, Some(90_000))], false),
    ("ten are late, of which only nine have a gap", &[(1, 10, None), (9, 10, Some(90_000))], false),
];

#[tokio::test]
async fn an_hour_that_misses_a_target_gives_the_agreed_part_back_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = ledger(dir.path(), 0);
    let mut leases = open(dir.path());
    pay_in(&ledger, 5, 0).await;
    let hours = HOURS.len() as u64;
    let new = lease(&leases, "a", &[(1, 3)], 2 + hours, 0);
    leases.grant(&ledger, &payer(), new).await.unwrap();
    // Its requests are slow, too, but nothing was promised.
    let mut other = lease(&leases, "b", &[(1, 1)], 2 + hours, 0);
    other.terms.sla = Sla::default();
    leases.grant(&ledger, &payer(), other).await.unwrap();
    let mut breaches = 0;
    for (number, (name, requests, is_breached)) in (1_u64..).zip(HOURS) {
        let begin_ms = number * HOUR_MS;
        leases.keep(&ledger, begin_ms + 11_000).await.unwrap();
        for (kind, (count, wait_ms, gap_us)) in requests.iter().enumerate() {
            for n in 0..*count {
                let pace = Some(Pace { wait_ms: *wait_ms, gap_us: *gap_us });
                answer(&ledger, format!("{number}.{kind}.{n}"), "a", pace, begin_ms + 60_000).await;
                answer(&ledger, format!("{number}.{kind}.{n}.b"), "b", pace, begin_ms + 60_000).await;
            }
        }
        answer(&ledger, format!("{number}.old"), "a", None, begin_ms + 60_000).await;
        breaches += u64::from(is_breached);
        // The process ends between the credit and the note of it, and again.
        for _ in 0..3 {
            leases.keep(&ledger, begin_ms + HOUR_MS + 10_000).await.unwrap();
            let db = Connection::open(dir.path().join("leases.db")).unwrap();
            let forget = "DELETE FROM hours WHERE hour_ms = ?1";
            db.execute(forget, [begin_ms]).unwrap();
            db.execute("UPDATE leases SET accounted_ms = ?1", [begin_ms]).unwrap();
            drop(leases);
            ledger.close();
            ledger = self::ledger(dir.path(), begin_ms + HOUR_MS);
            leases = open(dir.path());
        }
        leases.keep(&ledger, begin_ms + HOUR_MS + 10_000).await.unwrap();
        let sums = leases.get(None, "a").unwrap().unwrap().1;
        // A tenth of what three units cost.
        assert_eq!(sums.sla_picos, breaches as i64 * 3 * UNIT_HOUR / 10, "{name}");
        let credited = balance(dir.path(), "org_1").unwrap().credited;
        assert_eq!(credited.0, 5_000_000_000_000 + sums.sla_picos, "{name}");
    }
    let (a, b) = (leases.get(None, "a").unwrap().unwrap().1, leases.get(None, "b").unwrap().unwrap().1);
    assert_eq!((a.first.all, a.first.missed), (20 + 10 + 20 + 10 + 10 + 10 + 9 + 10, 1 + 2 + 2 + 10 + 9));
    assert_eq!((a.next.all, a.next.missed), (20 + 10 + 10 + 9 + 9, 2 + 10 + 9 + 9));
    assert_eq!(b, Sums { offered: b.offered, ..Sums::default() }, "nothing was promised");
    ledger.close();
    let report = verify(dir.path()).unwrap();
    assert!(report.is_ok(), "{report}");
}

#[test]
fn leases_of_the_first_form_are_read_and_promise_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let leases = open(dir.path());
    let mut old = serde_json::to_value(lease(&leases, "a", &[(1, 1)], 2, 0)).unwrap();
    old["terms"].as_object_mut().unwrap().remove("sla");
    let old: Lease = serde_json::from_value(old).unwrap();
    assert_eq!(old.terms.sla, Sla::default());
    assert!(!old.terms.sla.is_promised());
}
