//! Single lives of requests. Compiled twice, see [`super::kit`].

use super::*;

/// What happened, in a few words.
fn word<T: std::fmt::Debug, E: std::fmt::Display>(result: Result<T, E>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn bank_statement_of_one_request() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let billed = "Settled { seq: 3, cost: Picos(4500), tokens: Tokens { uncached_input: 8, cached_input: 2, \
                  output: 9 }, end: Finished }";
    let too_dear = "request \"a\" costs 0.0000000049 USD, held are 0.0000000045";
    let statement = [
        (word(ledger.hold(request("a", 4_000)).await), "()"),
        (word(ledger.hold(request("a", 1)).await), "request \"a\" already has a hold"),
        (word(ledger.extend("a", Picos(500), 1_100).await), "()"),
        (word(ledger.extend("b", Picos(500), 1_100).await), "request \"b\" has no open hold"),
        (word(ledger.checkpoint("a", tokens(8, 2, 4), 1_200).await), "()"),
        (word(ledger.checkpoint("a", tokens(8, 2, 10), 1_200).await), too_dear),
        (word(ledger.checkpoint("a", tokens(8, 2, 1), 1_200).await), "()"),
        (word(ledger.settle(settlement("a", tokens(8, 2, 10))).await), too_dear),
        (word(ledger.settle(settlement("a", tokens(8, 2, 9))).await), billed),
        (word(ledger.settle(settlement("a", tokens(0, 0, 0))).await), billed),
        (word(ledger.void("a", 2_100).await), "request \"a\" was settled"),
        (word(ledger.extend("a", Picos(1), 2_100).await), "request \"a\" has no open hold"),
        (word(ledger.checkpoint("a", tokens(8, 2, 9), 2_100).await), "request \"a\" has no hold"),
        (word(ledger.hold(request("a", 1)).await), "request \"a\" already has a hold"),
        (word(ledger.hold(request("b", 7)).await), "()"),
        (word(ledger.void("b", 2_100).await), "()"),
        (word(ledger.void("b", 2_100).await), "()"),
        (word(ledger.settle(settlement("b", tokens(0, 0, 0))).await), "request \"b\" was voided"),
        (word(ledger.settle(settlement("c", tokens(0, 0, 0))).await), "request \"c\" has no hold"),
        (word(ledger.void("c", 2_100).await), "request \"c\" has no hold"),
    ];
    for (line, (got, expected)) in statement.iter().enumerate() {
        assert_eq!(got, expected, "line {line}");
    }
    assert_eq!(ledger.open_holds(), 0);
    let report = closed_and_balanced(&ledger, dir.path());
    assert_eq!((report.rows, report.holds, report.settled, report.voided, report.open), (5, 2, 1, 1, 0));
    assert_eq!((report.cost, report.tokens, report.held), (Picos(4_500), 19, Picos::ZERO));
}

#[tokio::test]
async fn impossible_holds_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let other_model = HoldRequest { model: "n".to_owned(), ..request("a", 1) };
    let late = HoldRequest { at_ms: u64::MAX, ..request("a", 1) };
    for bad in [request("", 1), request(&"x".repeat(129), 1), request("a", -1), other_model, late] {
        assert!(matches!(ledger.hold(bad).await, Err(HoldError::Invalid(_))));
    }
    ledger.hold(request("a", i64::MAX)).await.unwrap();
    assert!(matches!(ledger.hold(request("b", 1)).await, Err(HoldError::Invalid(_))));
    assert!(matches!(ledger.extend("a", Picos(1), 1).await, Err(HoldError::Invalid(_))));
    assert!(matches!(ledger.extend("a", Picos(-1), 1).await, Err(HoldError::Invalid(_))));
    ledger.void("a", 1).await.unwrap();
    closed_and_balanced(&ledger, dir.path());
}

#[tokio::test]
async fn every_budget_above_the_key_counts() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let ask = |id: &str, key: &str, project: &str, amount| HoldRequest {
        key_id: key.to_owned(),
        project_id: project.to_owned(),
        budgets: vec![
            total(BudgetScope::Key, key, 1_000),
            total(BudgetScope::Project, project, 1_500),
            total(BudgetScope::Organisation, "org_1", 2_000),
        ],
        ..request(id, amount)
    };
    ledger.hold(ask("a", "k1", "p1", 1_000)).await.unwrap();
    let over = |id: &str, scope, limit, spent, held, requested| {
        Err(HoldError::Budget(Box::new(BudgetShortage {
            scope,
            id: id.to_owned(),
            period: BudgetPeriod::Total,
            limit: Picos(limit),
            spent: Picos(spent),
            held: Picos(held),
            requested: Picos(requested),
            resets_ms: None,
        })))
    };
    assert_eq!(ledger.hold(ask("b", "k1", "p1", 1)).await, over("k1", BudgetScope::Key, 1_000, 0, 1_000, 1));
    assert_eq!(
        ledger.hold(ask("c", "k2", "p1", 501)).await,
        over("p1", BudgetScope::Project, 1_500, 0, 1_000, 501)
    );
    ledger.hold(ask("d", "k2", "p1", 500)).await.unwrap();
    assert_eq!(
        ledger.hold(ask("e", "k3", "p2", 501)).await,
        over("org_1", BudgetScope::Organisation, 2_000, 0, 1_500, 501)
    );
    ledger.hold(ask("f", "k3", "p2", 500)).await.unwrap();
    assert_eq!(
        ledger.extend("f", Picos(1), 1).await,
        over("org_1", BudgetScope::Organisation, 2_000, 0, 2_000, 1)
    );
    // What a settle gives back may be held again; what it billed never.
    ledger.settle(settlement("a", tokens(1, 0, 0))).await.unwrap();
    assert_eq!(ledger.extend("f", Picos(901), 1).await, over("k3", BudgetScope::Key, 1_000, 0, 500, 901));
    ledger.hold(ask("g", "k1", "p1", 900)).await.unwrap();
    assert_eq!(ledger.hold(ask("h", "k1", "p1", 1)).await, over("k1", BudgetScope::Key, 1_000, 100, 900, 1));
    // A restart frees what was held and remembers what was spent.
    drop(ledger);
    let ledger = open(dir.path());
    assert_eq!(
        ledger.hold(ask("i", "k1", "p1", 901)).await,
        over("k1", BudgetScope::Key, 1_000, 100, 0, 901)
    );
    ledger.hold(ask("j", "k1", "p1", 900)).await.unwrap();
    ledger.void("j", 1).await.unwrap();
    closed_and_balanced(&ledger, dir.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_tasks_race_for_one_place() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let race = |n: u32| {
        let ledger = ledger.clone();
        let budgets = vec![total(BudgetScope::Organisation, "org_1", 199)];
        let request = HoldRequest { key_id: format!("k{n}"), budgets, ..request(&format!("r{n}"), 100) };
        tokio::spawn(async move { ledger.hold(request).await.is_ok() })
    };
    let tasks: Vec<_> = (0..64).map(race).collect();
    let mut admitted = 0;
    for task in tasks {
        admitted += u32::from(task.await.unwrap());
    }
    assert_eq!(admitted, 1);
    drop(ledger);
    assert_eq!(balanced(dir.path()).open, 1);
}

#[tokio::test]
async fn a_settlement_raced_by_many_is_billed_once() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    ledger.hold(request("a", 10_000)).await.unwrap();
    let settles = (1..=16).map(|output| ledger.settle(settlement("a", tokens(0, 0, output))));
    let results = futures::future::join_all(settles).await;
    let first = results[0].as_ref().unwrap();
    assert!(results.iter().all(|result| result.as_ref().unwrap() == first));
    assert_eq!(closed_and_balanced(&ledger, dir.path()).cost, first.cost);
}

#[tokio::test]
async fn detached_ends_are_carried_out_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = LedgerSection { queue: 1, max_batch: 1, ..LedgerSection::default() };
    let ledger = open_as(dir.path(), &tiny, 0);
    for n in 0..100 {
        let id = format!("r{n}");
        ledger.hold(request(&id, 1_000)).await.unwrap();
        match n % 4 {
            0 => ledger.void_detached(&id, 1),
            1 => ledger.settle_detached(settlement(&id, tokens(1, 0, 1))),
            2 => {
                ledger.settle_detached(settlement(&id, tokens(1, 0, 1)));
                ledger.void_detached(&id, 1);
            }
            // Dearer than its hold: billed at the last checkpoint.
            _ => {
                ledger.checkpoint(&id, tokens(1, 0, 0), 1).await.unwrap();
                ledger.settle_detached(settlement(&id, tokens(1, 0, 99)));
            }
        }
    }
    ledger.void_detached("never held", 1);
    let report = closed_and_balanced(&ledger, dir.path());
    assert_eq!((report.settled, report.voided, report.open), (75, 25, 0));
    assert_eq!(report.cost, Picos(50 * 500 + 25 * 100));
    assert!(matches!(ledger.hold(request("late", 1)).await, Err(HoldError::Unavailable(_))));
    ledger.void_detached("late", 1);
}

#[tokio::test]
async fn a_hold_nobody_waits_for_is_voided() {
    use futures::FutureExt as _;
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    for n in 0..50 {
        // Polled once, so queued; then dropped, before or after the writer's answer.
        let mut hold = Box::pin(ledger.hold(request(&format!("r{n}"), 10)));
        assert!(hold.as_mut().now_or_never().is_none_or(|result| result.is_ok()) || n > 0);
        if n % 2 == 0 {
            ledger.hold(request(&format!("s{n}"), 10)).await.unwrap();
            ledger.void(&format!("s{n}"), 1).await.unwrap();
        }
        drop(hold);
    }
    // A refused duplicate whose caller goes away must leave the true owner's hold alone.
    ledger.hold(request("mine", 10)).await.unwrap();
    drop(Box::pin(ledger.hold(request("mine", 10))).as_mut().now_or_never());
    ledger.settle(settlement("mine", tokens(0, 0, 0))).await.unwrap();
    let report = closed_and_balanced(&ledger, dir.path());
    assert_eq!((report.open, report.settled), (0, 1));
}

#[tokio::test]
async fn time_never_runs_backwards_in_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    ledger.hold(HoldRequest { at_ms: 3_600_000, ..request("a", 1_000) }).await.unwrap();
    ledger.settle(Settlement { at_ms: 5, ..settlement("a", tokens(1, 0, 0)) }).await.unwrap();
    ledger.hold(HoldRequest { at_ms: 0, ..request("b", 1_000) }).await.unwrap();
    ledger.settle(Settlement { at_ms: u64::MAX, ..settlement("b", tokens(1, 0, 0)) }).await.unwrap();
    closed_and_balanced(&ledger, dir.path());
}
