//! Budgets by calendar period: exact at every border and after every restart. Compiled twice, see [`super::kit`].

use proptest::prelude::*;

use super::*;

/// 2026-11-23, a Monday.
const MONDAY: u64 = 1_795_392_000_000;

fn shortage(result: Result<(), HoldError>) -> BudgetShortage {
    match result {
        Err(HoldError::Budget(short)) => *short,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_cost_belongs_to_the_period_of_its_hold() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let ask = |id: &str, amount, at_ms| HoldRequest {
        budgets: vec![budget(BudgetScope::Key, "key_1", BudgetPeriod::Day, 1_000)],
        at_ms,
        ..request(id, amount)
    };
    let night = MONDAY + DAY_MS - 5;
    ledger.hold(ask("a", 600, night)).await.unwrap();
    ledger.hold(ask("b", 300, night)).await.unwrap();
    let short = shortage(ledger.hold(ask("c", 101, night)).await);
    assert_eq!((short.spent, short.held, short.requested), (Picos(0), Picos(900), Picos(101)));
    assert_eq!((short.period, short.resets_ms), (BudgetPeriod::Day, Some(MONDAY + DAY_MS)));
    // The next day starts empty, while the first goes on counting what was begun in it.
    let morning = MONDAY + DAY_MS;
    ledger.hold(ask("d", 1_000, morning)).await.unwrap();
    ledger.extend("a", Picos(100), morning).await.unwrap();
    assert_eq!(shortage(ledger.extend("a", Picos(1), morning).await).resets_ms, Some(morning));
    ledger.settle(Settlement { at_ms: morning, ..settlement("a", tokens(3, 0, 1)) }).await.unwrap();
    ledger.extend("b", Picos(0), morning).await.unwrap();
    let short = shortage(ledger.extend("b", Picos(1), morning).await);
    assert_eq!((short.spent, short.held), (Picos(700), Picos(300)));
    drop(ledger);
    // After a restart both days are as they were.
    let ledger = open_as(dir.path(), &LedgerSection::default(), morning);
    assert_eq!(ledger.recovery().voided, 2);
    ledger.hold(ask("e", 1_000, morning + 1)).await.unwrap();
    ledger.settle(Settlement { at_ms: morning, ..settlement("e", tokens(1, 0, 0)) }).await.unwrap();
    let short = shortage(ledger.hold(ask("f", 901, morning + 2)).await);
    assert_eq!((short.spent, short.held), (Picos(100), Picos(0)));
    let report = closed_and_balanced(&ledger, dir.path());
    assert_eq!(report.cost, Picos(800));
}

#[tokio::test]
async fn users_and_tags_have_budgets() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let ask = |id: &str, user: &str, amount| HoldRequest {
        budgets: vec![
            budget(BudgetScope::User, &format!("org_1/{user}"), BudgetPeriod::Hour, 1_000),
            budget(BudgetScope::Tag, "org_1/team=blue", BudgetPeriod::Total, 1_500),
        ],
        ..request(id, amount)
    };
    ledger.hold(ask("a", "ann", 1_000)).await.unwrap();
    assert_eq!(shortage(ledger.hold(ask("b", "ann", 1)).await).id, "org_1/ann");
    assert_eq!(shortage(ledger.hold(ask("c", "bob", 501)).await).id, "org_1/team=blue");
    ledger.settle(settlement("a", tokens(5, 0, 0))).await.unwrap();
    drop(ledger);
    let ledger = open(dir.path());
    let short = shortage(ledger.hold(ask("d", "bob", 1_001)).await);
    assert_eq!((short.id.as_str(), short.spent.0), ("org_1/bob", 0));
    ledger.hold(ask("e", "bob", 1_000)).await.unwrap();
    let short = shortage(ledger.hold(ask("f", "ann", 1)).await);
    assert_eq!((short.id.as_str(), short.spent, short.held), ("org_1/team=blue", Picos(500), Picos(1_000)));
    ledger.void("e", 1).await.unwrap();
    closed_and_balanced(&ledger, dir.path());
}

#[derive(Clone, Debug)]
enum Op {
    Hold { amount: i64 },
    Extend { slot: usize, amount: i64 },
    Settle { slot: usize, share: u32 },
    Void { slot: usize },
    Wait { ms: u64 },
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (0_i64..4_000).prop_map(|amount| Op::Hold { amount }),
        2 => (0_usize..8, 0_i64..2_000).prop_map(|(slot, amount)| Op::Extend { slot, amount }),
        4 => (0_usize..8, 0_u32..=100).prop_map(|(slot, share)| Op::Settle { slot, share }),
        1 => (0_usize..8).prop_map(|slot| Op::Void { slot }),
        4 => prop_oneof![0_u64..HOUR_MS, 0..2 * DAY_MS, 0..40 * DAY_MS].prop_map(|ms| Op::Wait { ms }),
        1 => Just(Op::Restart),
    ]
}

const LIMITS: [(BudgetScope, &str, BudgetPeriod, i64); 5] = [
    (BudgetScope::Key, "key_1", BudgetPeriod::Hour, 5_000),
    (BudgetScope::User, "org_1/ann", BudgetPeriod::Day, 9_000),
    (BudgetScope::Project, "proj_1", BudgetPeriod::Week, 15_000),
    (BudgetScope::Organisation, "org_1", BudgetPeriod::Month, 30_000),
    (BudgetScope::Tag, "org_1/a=b", BudgetPeriod::Total, 80_000),
];

/// Requests as a plain list: when held, how much, and what it cost once settled.
#[derive(Default)]
struct Plain {
    now_ms: u64,
    requests: Vec<(u64, i64, Option<i64>)>,
}

impl Plain {
    /// Spent + held in the budget's period around `at_ms`.
    fn taken(&self, period: BudgetPeriod, at_ms: u64) -> i64 {
        let start = period.around(at_ms).0;
        let within = self.requests.iter().filter(|(held_ms, _, _)| period.around(*held_ms).0 == start);
        within.map(|(_, held, cost)| cost.unwrap_or(*held)).sum()
    }

    fn fits(&self, amount: i64, at_ms: u64) -> bool {
        LIMITS.iter().all(|(_, _, period, limit)| self.taken(*period, at_ms) + amount <= *limit)
    }

    fn open(&self, slot: usize) -> Option<usize> {
        (0..self.requests.len()).filter(|at| self.requests[*at].2.is_none()).nth(slot)
    }
}

async fn step(ledger: &Ledger, plain: &mut Plain, op: &Op) {
    let now_ms = plain.now_ms;
    let open = |plain: &Plain, slot| plain.open(slot).map(|at| (at, format!("r{at}")));
    match *op {
        Op::Hold { amount } => {
            let budgets = LIMITS.iter().map(|(scope, id, period, limit)| budget(*scope, id, *period, *limit));
            let hold = HoldRequest {
                budgets: budgets.collect(),
                at_ms: now_ms,
                ..request(&format!("r{}", plain.requests.len()), amount)
            };
            let admitted = ledger.hold(hold).await.is_ok();
            assert_eq!(admitted, plain.fits(amount, now_ms));
            if admitted {
                plain.requests.push((now_ms, amount, None));
            }
        }
        Op::Extend { slot, amount } => {
            let Some((at, id)) = open(plain, slot) else { return };
            let extended = ledger.extend(&id, Picos(amount), now_ms).await.is_ok();
            assert_eq!(extended, plain.fits(amount, plain.requests[at].0));
            if extended {
                plain.requests[at].1 += amount;
            }
        }
        Op::Settle { slot, share } => {
            let Some((at, id)) = open(plain, slot) else { return };
            let affordable = u32::try_from(plain.requests[at].1 / 100).unwrap();
            let settlement =
                Settlement { at_ms: now_ms, ..settlement(&id, tokens(affordable * share / 100, 0, 0)) };
            plain.requests[at].2 = Some(ledger.settle(settlement).await.unwrap().cost.0);
        }
        Op::Void { slot } => {
            let Some((at, id)) = open(plain, slot) else { return };
            ledger.void(&id, now_ms).await.unwrap();
            plain.requests[at].2 = Some(0);
        }
        Op::Wait { ms } => plain.now_ms += ms,
        Op::Restart => {}
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn no_period_is_ever_overrun(ops in proptest::collection::vec(op(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut plain = Plain { now_ms: MONDAY, ..Plain::default() };
        let mut ledger = Some(open(dir.path()));
        for op in &ops {
            if matches!(op, Op::Restart) {
                drop(ledger.take());
                balanced(dir.path());
                ledger = Some(open_as(dir.path(), &LedgerSection::default(), plain.now_ms));
                // Without checkpoints every open request is void.
                plain.requests.iter_mut().for_each(|(_, _, cost)| *cost = Some(cost.unwrap_or(0)));
            } else {
                runtime.block_on(step(ledger.as_ref().unwrap(), &mut plain, op));
            }
            for (held_ms, _, _) in &plain.requests {
                for (_, _, period, limit) in &LIMITS {
                    assert!(plain.taken(*period, *held_ms) <= *limit);
                }
            }
        }
        closed_and_balanced(&ledger.unwrap(), dir.path());
    }
}

const STREAMS_BUDGET: i64 = 10_000_000;
/// 16 tokens at 400 picos.
const LEASE: i64 = 16 * 400;

/// A request that extends its hold by a lease at a time, as streams do, until `length` tokens or the budget's end.
async fn stream(ledger: Ledger, n: u32, length: u32) -> i64 {
    let id = format!("r{n}");
    let budgets = vec![budget(BudgetScope::Organisation, "org_1", BudgetPeriod::Month, STREAMS_BUDGET)];
    if ledger.hold(HoldRequest { budgets, ..request(&id, LEASE) }).await.is_err() {
        return 0;
    }
    let mut covered = 16;
    while covered < length {
        match ledger.extend(&id, Picos(LEASE), 1).await {
            Ok(()) => covered += 16,
            Err(HoldError::Budget(_)) => break,
            Err(error) => panic!("{error}"),
        }
    }
    ledger.settle(settlement(&id, tokens(0, 0, covered.min(length)))).await.unwrap().cost.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_streams_use_one_budget_up_and_no_more() {
    // Streams that never end by themselves use it up to the last lease; of the others each ends elsewhere.
    for (endless, least) in [(true, STREAMS_BUDGET - LEASE + 1), (false, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(dir.path());
        let length = |n: u32| if endless { u32::MAX } else { 16 + n * 37 % 4_000 };
        let tasks: Vec<_> = (0..1_000).map(|n| tokio::spawn(stream(ledger.clone(), n, length(n)))).collect();
        let mut billed = 0;
        for task in tasks {
            billed += task.await.unwrap();
        }
        assert!((least..=STREAMS_BUDGET).contains(&billed), "{billed}");
        assert_eq!(closed_and_balanced(&ledger, dir.path()).cost.0, billed);
    }
}
