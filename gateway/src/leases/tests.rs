//! Life cycles with a moved clock, to the pico-USD.

mod properties;
mod sla;

use super::*;
use crate::accounts::Identity;
use crate::civil::HOUR_MS;
use crate::config::LedgerSection;
use crate::ledger::{
    Balance, Credit, CreditKind, Details, EndReason, HoldRequest, Ledger, Settlement, Timings, Tokens,
    balance, verify::verify,
};
use crate::money::PriceVersion;

const HALF_MS: u64 = HOUR_MS / 2;
/// 0.05 USD.
const UNIT_HOUR: i64 = 50_000_000_000;

fn section() -> LeasesSection {
    toml::from_str("unit_hour_usd = \"0.05\"\nunit_tokens_per_second = 10\nnotice_hours = 2").unwrap()
}

fn leases(dir: &Path, units: u32) -> Leases {
    Leases::open(dir, &section(), HashMap::from([("m".to_owned(), units)])).unwrap()
}

fn ledger(dir: &Path, now_ms: u64) -> Ledger {
    Ledger::open(dir, &LedgerSection::default(), now_ms).unwrap()
}

fn payer() -> Identity {
    Identity { credit_line: Some(Picos::ZERO), ..Identity::default() }
}

/// A lease of hours from the first step's to `end`.
fn lease(leases: &Leases, id: &str, steps: &[(u64, u32)], end: u64, created_ms: u64) -> Lease {
    let steps = steps.iter().map(|&(hour, units)| Step { at_ms: hour * HOUR_MS, units });
    Lease {
        id: id.to_owned(),
        org_id: "org_1".to_owned(),
        org_name: "acme".to_owned(),
        project_id: "proj_1".to_owned(),
        project_name: "search".to_owned(),
        key_id: "key_1".to_owned(),
        key_name: "main".to_owned(),
        model: "m".to_owned(),
        steps: steps.collect(),
        end_ms: end * HOUR_MS,
        agreed_end_ms: end * HOUR_MS,
        overflow: Overflow::ReservedOnly,
        terms: leases.terms().unwrap(),
        created_ms,
        notice: None,
    }
}

async fn pay_in(ledger: &Ledger, usd: i64, at_ms: u64) {
    let credit = Credit {
        id: "paid".to_owned(),
        org_id: "org_1".to_owned(),
        kind: CreditKind::Grant,
        amount: Picos(usd * 1_000_000_000_000),
        expires_ms: None,
        note: String::new(),
        lease: None,
        at_ms,
    };
    ledger.credit(credit).await.unwrap();
}

struct Life {
    name: &'static str,
    steps: &'static [(u64, u32)],
    end: u64,
    /// When, in half hours, and by whom.
    notice: Option<(u64, Party)>,
    /// What it comes to.
    state: State,
    ends: u64,
    unit_hours: i64,
    /// Hundredths of a unit-hour that come back.
    credit: i64,
}

const LIVES: [Life; 8] = [
    Life {
        name: "runs its time",
        steps: &[(100, 2)],
        end: 103,
        notice: None,
        state: State::Ended,
        ends: 103,
        unit_hours: 6,
        credit: 0,
    },
    Life {
        name: "grows and shrinks",
        steps: &[(100, 1), (101, 4), (103, 2)],
        end: 105,
        notice: None,
        state: State::Ended,
        ends: 105,
        unit_hours: 1 + 4 + 4 + 2 + 2,
        credit: 0,
    },
    Life {
        name: "is ended early by its holder",
        steps: &[(100, 2)],
        end: 108,
        notice: Some((201, Party::Holder)),
        state: State::Ended,
        ends: 103,
        unit_hours: 6,
        credit: 0,
    },
    Life {
        name: "is given up long before it begins",
        steps: &[(110, 3)],
        end: 112,
        notice: Some((201, Party::Holder)),
        state: State::Cancelled,
        ends: 110,
        unit_hours: 0,
        credit: 0,
    },
    Life {
        name: "is given up when the notice period reaches into it",
        steps: &[(101, 3)],
        end: 108,
        notice: Some((201, Party::Holder)),
        state: State::Ended,
        ends: 103,
        unit_hours: 6,
        credit: 0,
    },
    Life {
        name: "is taken back while it grows",
        steps: &[(100, 1), (102, 2)],
        end: 108,
        notice: Some((202, Party::Operator)),
        state: State::Reclaimed,
        ends: 103,
        unit_hours: 1 + 1 + 2,
        credit: 10 * 2 * 5,
    },
    Life {
        name: "is taken back before it begins",
        steps: &[(110, 1)],
        end: 115,
        notice: Some((200, Party::Operator)),
        state: State::Cancelled,
        ends: 110,
        unit_hours: 0,
        credit: 10 * 5,
    },
    Life {
        name: "has its notice in its last hours refused",
        steps: &[(100, 2)],
        end: 103,
        notice: Some((204, Party::Holder)),
        state: State::Ended,
        ends: 103,
        unit_hours: 6,
        credit: 0,
    },
];

/// How time passes for the server.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Clock {
    /// It looks every half hour.
    Runs,
    /// It is started anew every half hour.
    Restarts,
    /// It is away but for the notice, and catches up at the end.
    Jumps,
}

async fn live(life: &Life, clock: Clock) {
    let about = format!("a lease that {} ({clock:?})", life.name);
    let dir = tempfile::tempdir().unwrap();
    let start_ms = 99 * HOUR_MS;
    let (mut leases, mut ledger) = (leases(dir.path(), 5), ledger(dir.path(), start_ms));
    pay_in(&ledger, 2, start_ms).await;
    let new = lease(&leases, "lease_1", life.steps, life.end, start_ms);
    let whole = new.fee(0, new.end_ms).unwrap();
    leases.grant(&ledger, &payer(), new).await.unwrap();
    let held = balance(dir.path(), "org_1").unwrap().held;
    assert_eq!(held, whole, "{about}");
    for half in 198..=2 * life.end + 2 {
        let now_ms = half * HALF_MS + 15_000;
        if clock == Clock::Restarts {
            ledger.close();
            ledger = self::ledger(dir.path(), now_ms);
            leases = self::leases(dir.path(), 5);
            leases.recover(&ledger, now_ms).await.unwrap();
        }
        if let Some((_, by)) = life.notice.filter(|(at, _)| *at == half) {
            let refused = leases.give_notice("lease_1", by, half * HALF_MS);
            assert_eq!(refused.is_err(), life.name.contains("refused"), "{about}");
            assert!(leases.give_notice("lease_1", by, half * HALF_MS).is_err(), "{about}: a second notice");
        }
        if clock != Clock::Jumps || half == 2 * life.end + 2 {
            leases.keep(&ledger, now_ms).await.unwrap();
            check(&leases, dir.path(), now_ms, &about);
        }
    }
    let (kept, sums) = leases.get(Some("proj_1"), "lease_1").unwrap().unwrap();
    assert_eq!((kept.stage, kept.lease.end_ms), (Stage::Done, life.ends * HOUR_MS), "{about}");
    assert_eq!(kept.lease.state(life.end * HOUR_MS), life.state, "{about}");
    assert_eq!(sums.offered, u64::try_from(life.unit_hours).unwrap() * 36_000, "{about}");
    assert_eq!((sums.used, sums.resold), (0, 0), "{about}");
    let Balance { credited, spent, held, .. } = balance(dir.path(), "org_1").unwrap();
    assert_eq!((spent, held), (Picos(life.unit_hours * UNIT_HOUR), Picos::ZERO), "{about}");
    assert_eq!(credited.0 - 2_000_000_000_000, life.credit * UNIT_HOUR / 100, "{about}");
    ledger.close();
    let report = verify(dir.path()).unwrap();
    assert!(report.is_ok() && report.tokens == 0, "{about}: {report}");
}

/// What has begun is billed, what is to come is held.
fn check(leases: &Leases, dir: &Path, now_ms: u64, about: &str) {
    let (kept, _) = leases.get(None, "lease_1").unwrap().unwrap();
    let (lease, begun_ms) = (&kept.lease, (now_ms / HOUR_MS + 1) * HOUR_MS);
    let Balance { spent, held, .. } = balance(dir, "org_1").unwrap();
    assert_eq!(spent, lease.fee(0, begun_ms.min(lease.end_ms)).unwrap(), "{about} at {now_ms}");
    let owed = lease.fee(begun_ms, lease.end_ms.max(begun_ms)).unwrap();
    // What notice has freed in the middle of an hour is free with the next.
    let most = lease.fee(begun_ms, lease.agreed_end_ms.max(begun_ms)).unwrap();
    assert!(held >= owed && held <= most, "{about} at {now_ms}: {held} held, {owed} owed");
    if lease.notice.is_none_or(|notice| notice.at_ms / HOUR_MS < now_ms / HOUR_MS)
        || kept.stage != Stage::Live
    {
        assert_eq!(held, owed, "{about} at {now_ms}");
    }
}

#[tokio::test]
async fn lives_cost_what_was_agreed() {
    for life in &LIVES {
        for clock in [Clock::Runs, Clock::Restarts, Clock::Jumps] {
            live(life, clock).await;
        }
    }
}

#[tokio::test]
async fn what_cannot_be_paid_is_not_sold() {
    let dir = tempfile::tempdir().unwrap();
    let (leases, ledger) = (leases(dir.path(), 5), ledger(dir.path(), 0));
    pay_in(&ledger, 1, 0).await;
    // 21 unit-hours cost 1.05 USD.
    let dear = lease(&leases, "dear", &[(1, 3)], 8, 0);
    let refused = leases.grant(&ledger, &payer(), dear).await;
    assert!(matches!(refused, Err(LeaseError::Hold(HoldError::Credit(_)))), "{refused:?}");
    assert_eq!(leases.free("m", HOUR_MS, 8 * HOUR_MS).unwrap(), 5, "its place is free again");
    let granted = leases.grant(&ledger, &payer(), lease(&leases, "a", &[(1, 4)], 6, 0)).await;
    assert!(granted.is_ok(), "{granted:?}");
    let full = leases.grant(&ledger, &payer(), lease(&leases, "b", &[(5, 2)], 7, 0)).await;
    assert!(matches!(full, Err(LeaseError::Full { wanted: 2, free: 1, sellable: 5 })), "{full:?}");
    assert_eq!(balance(dir.path(), "org_1").unwrap().held, Picos(20 * UNIT_HOUR));
    assert!(leases.get(Some("proj_2"), "a").unwrap().is_none(), "another project's");
    assert!(leases.serving("proj_1", Some("m"), HOUR_MS - 1).is_empty());
    assert_eq!(leases.serving("proj_1", Some("m"), HOUR_MS)[0].tokens_per_minute(HOUR_MS), 4 * 600);
    assert!(leases.serving("proj_1", Some("m"), 6 * HOUR_MS).is_empty());
}

#[tokio::test]
async fn what_a_crash_left_pending_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let (leases, ledger) = (leases(dir.path(), 5), ledger(dir.path(), 0));
    pay_in(&ledger, 1, 0).await;
    let new = lease(&leases, "a", &[(1, 4)], 3, 0);
    // Its place is taken and its money held, and then nothing more.
    leases.reserve(&new).unwrap();
    let twin = Leases::open(tempfile::tempdir().unwrap().path(), &section(), leases.inner.sellable.clone());
    twin.unwrap().grant(&ledger, &payer(), new).await.unwrap();
    leases.reserve(&lease(&leases, "b", &[(1, 1)], 3, 0)).unwrap();
    assert_eq!(leases.free("m", HOUR_MS, 2 * HOUR_MS).unwrap(), 0);
    ledger.close();
    let ledger = self::ledger(dir.path(), 10);
    let leases = self::leases(dir.path(), 5);
    assert!(leases.list(None, None, 10).unwrap().unwrap().0.is_empty());
    assert!(leases.serving("proj_1", None, HOUR_MS).is_empty());
    leases.recover(&ledger, 10).await.unwrap();
    assert_eq!(leases.free("m", HOUR_MS, 2 * HOUR_MS).unwrap(), 5);
    assert_eq!(balance(dir.path(), "org_1").unwrap().held, Picos::ZERO);
    ledger.close();
    assert!(verify(dir.path()).unwrap().is_ok());
}

/// The money of a request in `tier`.
fn held(id: &str, tier: &str, lease: Option<&str>, at_ms: u64) -> HoldRequest {
    HoldRequest {
        request_id: id.to_owned(),
        key_id: "key_2".to_owned(),
        project_id: "proj_2".to_owned(),
        org_id: "org_2".to_owned(),
        model: "m".to_owned(),
        tier: tier.to_owned(),
        endpoint: "/v1/chat/completions".to_owned(),
        price: PriceVersion::new("m", tier, 0, Picos(1), Picos(1), Picos(1)),
        amount: Picos(1_000_000),
        prompt_tokens: 0,
        budgets: Vec::new(),
        credit_line: None,
        details: Details::default(),
        lease: lease.map(str::to_owned),
        at_ms,
    }
}

/// A request of `tokens` in `tier`, settled at `at_ms`.
async fn serve(ledger: &Ledger, id: String, tier: &str, lease: Option<&str>, tokens: Tokens, at_ms: u64) {
    ledger.hold(held(&id, tier, lease, at_ms)).await.unwrap();
    let (end, timings) = (EndReason::Finished, Timings::default());
    ledger.settle(Settlement { request_id: id, tokens, end, at_ms, timings }).await.unwrap();
}

#[tokio::test]
async fn what_was_idle_and_used_by_others_is_given_back_once() {
    let dir = tempfile::tempdir().unwrap();
    let (leases, ledger) = (leases(dir.path(), 5), ledger(dir.path(), 0));
    pay_in(&ledger, 5, 0).await;
    leases.grant(&ledger, &payer(), lease(&leases, "a", &[(1, 2)], 3, 0)).await.unwrap();
    leases.grant(&ledger, &payer(), lease(&leases, "b", &[(1, 1)], 3, 0)).await.unwrap();
    let (in_hour, output) = (HOUR_MS + 7, |output| Tokens { output, ..Tokens::default() });
    leases.keep(&ledger, in_hour).await.unwrap();
    // 801 prompt tokens weigh 101, cached ones nothing.
    let used = Tokens { uncached_input: 801, cached_input: 5_000, output: 10_000 };
    serve(&ledger, "r1".to_owned(), "reserved", Some("a"), used, in_hour).await;
    serve(&ledger, "r2".to_owned(), "flex", None, output(40_000), in_hour).await;
    serve(&ledger, "r3".to_owned(), "batch_1h", None, output(5_000), in_hour).await;
    serve(&ledger, "r4".to_owned(), "batch", None, output(30_000), in_hour).await;
    serve(&ledger, "r5".to_owned(), "default", None, output(50_000), in_hour).await;
    leases.keep(&ledger, 2 * HOUR_MS + 9_999).await.unwrap();
    assert_eq!(
        leases.get(None, "a").unwrap().unwrap().1,
        Sums::default(),
        "what is on its way is waited for"
    );
    serve(&ledger, "r6".to_owned(), "flex", None, output(100_000), 2 * HOUR_MS + 5).await;
    for _ in 0..2 {
        leases.keep(&ledger, 2 * HOUR_MS + 10_000).await.unwrap();
    }
    // `a` offered 72,000; the rest after its use is less than the 75,000 that were served, and `b` has what is left.
    let rebate = |resold: i64| resold * UNIT_HOUR * 50 / (100 * 36_000);
    let of_a = Sums {
        offered: 72_000,
        used: 10_101,
        resold: 61_899,
        rebate_picos: rebate(61_899),
        ..Sums::default()
    };
    let of_b =
        Sums { offered: 36_000, used: 0, resold: 13_101, rebate_picos: rebate(13_101), ..Sums::default() };
    assert_eq!(leases.get(None, "a").unwrap().unwrap().1, of_a);
    assert_eq!(leases.get(None, "b").unwrap().unwrap().1, of_b);
    assert_eq!((of_a.rebate_picos, of_b.rebate_picos), (42_985_416_666, 9_097_916_666));
    let credited = balance(dir.path(), "org_1").unwrap().credited;
    assert_eq!(credited.0, 5_000_000_000_000 + of_a.rebate_picos + of_b.rebate_picos);
    ledger.close();
    let report = verify(dir.path()).unwrap();
    assert!(report.is_ok(), "{report}");
}

#[test]
fn units_are_what_was_measured_less_the_reserve() {
    let point = |sequences, output_tokens_per_second, inter_token_p99_ms| crate::capacity::Point {
        sequences,
        input_tokens_per_second: 900.0,
        output_tokens_per_second,
        inter_token_p50_ms: 1.0,
        inter_token_p99_ms,
    };
    let measured = Measured {
        model: "m".to_owned(),
        weights_sha256: "00".to_owned(),
        measured_ms: 1,
        kv_tokens: 100,
        points: vec![point(1, 50.0, 20.0), point(8, 199.9, 90.0), point(32, 400.0, 300.0)],
    };
    let units = |toml: &str, ms| sellable_units(&measured, ms, &toml::from_str(toml).unwrap());
    // 199.9 x 0.8 / 10.
    assert_eq!(units("", 100.0), 15);
    assert_eq!(units("reserve_percent = 0", 100.0), 19);
    assert_eq!(units("reserve_percent = 100", 100.0), 0);
    assert_eq!(units("unit_tokens_per_second = 160", 100.0), 0);
    assert_eq!((units("", 30.0), units("", 10.0)), (4, 0));
}
