//! Deadlines that were promised and missed.

use super::*;
use crate::config::Reports;
use crate::ledger::export::{Format, Request, export};
use crate::ledger::row::Kind;

fn promised(id: &str, deadline_ms: Option<u64>) -> HoldRequest {
    HoldRequest { details: Details { deadline_ms, ..details() }, ..request(id, 10_000) }
}

fn ended(id: &str, end: EndReason) -> Settlement {
    Settlement { end, ..settlement(id, tokens(3, 2, 5)) }
}

fn kinds(dir: &Path, id: &str) -> Vec<(Kind, i64)> {
    let db = reader::open(dir).unwrap();
    let sql = format!("SELECT {} FROM transfers WHERE request_id = ?1 ORDER BY seq", schema::COLUMNS);
    let mut statement = db.prepare(&sql).unwrap();
    let rows = statement.query_map([id], reader::transfer).unwrap();
    rows.map(|row| row.unwrap()).map(|row| (row.kind, row.credit.0)).collect()
}

#[tokio::test]
async fn what_a_missed_deadline_cost_comes_back_once_and_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let cost = price().cost(tokens(3, 2, 5)).unwrap().total;
    let ends = [
        (EndReason::Finished, false),
        (EndReason::Disconnected, false),
        (EndReason::Budget, false),
        (EndReason::Timeout, false),
        (EndReason::Late, true),
        (EndReason::Error, true),
        (EndReason::Shutdown, true),
        (EndReason::Recovered, true),
    ];
    let mut owed = 0;
    for (end, is_missed) in ends {
        for (deadline, is_promised) in [(Some(1_900), true), (None, false)] {
            let id = format!("{end}.{is_promised}");
            ledger.hold(promised(&id, deadline)).await.unwrap();
            let settled = ledger.settle(ended(&id, end)).await.unwrap();
            assert_eq!(settled.cost, cost);
            // Another attempt to end it changes nothing.
            assert_eq!(ledger.settle(ended(&id, EndReason::Late)).await.unwrap(), settled);
            let mut expected = vec![(Kind::Hold, 0), (Kind::Settle, 0)];
            if is_missed && is_promised {
                expected.push((Kind::Refund, cost.0));
                owed += cost.0;
            }
            assert_eq!(kinds(dir.path(), &id), expected, "{id}");
        }
    }
    // Nothing that was billed is nothing to give back.
    ledger.hold(promised("free", Some(1_900))).await.unwrap();
    ledger.settle(Settlement { tokens: Tokens::default(), ..ended("free", EndReason::Late) }).await.unwrap();
    assert_eq!(kinds(dir.path(), "free").len(), 2);
    let held = balance(dir.path(), "org_1").unwrap();
    assert_eq!((held.credited, held.spent), (Picos(owed), Picos(16 * cost.0)));
    closed_and_balanced(&ledger, dir.path());
    let (mut file, reports) = (Vec::new(), Reports::default());
    let asked = Request {
        format: Format::Focus,
        period: Period::ALL,
        org_id: None,
        reports: &reports,
        customers: &[],
    };
    export(dir.path(), &asked, &mut file).unwrap();
    let mut lines = csv::Reader::from_reader(file.as_slice());
    let headers = lines.headers().unwrap().clone();
    let at = |name: &str| headers.iter().position(|header| header == name).unwrap();
    let refunds: Vec<_> = lines
        .records()
        .map(Result::unwrap)
        .filter(|line| &line[at("ChargeCategory")] == "Credit")
        .map(|line| (line[at("x_TokenType")].to_owned(), line[at("BilledCost")].to_owned()))
        .collect();
    assert_eq!(refunds, [("refund".to_owned(), Picos(-owed).to_usd())]);
}

#[tokio::test]
async fn a_process_that_died_has_missed_its_deadlines() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    for (id, deadline) in [("late", Some(9_000)), ("usual", None), ("unseen", Some(9_000))] {
        ledger.hold(promised(id, deadline)).await.unwrap();
        if id != "unseen" {
            ledger.checkpoint(id, tokens(3, 2, 5), 1_500).await.unwrap();
        }
    }
    ledger.close();
    for _ in 0..2 {
        let again = open(dir.path());
        again.close();
        let cost = price().cost(tokens(3, 2, 5)).unwrap().total;
        assert_eq!(kinds(dir.path(), "late"), [(Kind::Hold, 0), (Kind::Settle, 0), (Kind::Refund, cost.0)]);
        assert_eq!(kinds(dir.path(), "usual"), [(Kind::Hold, 0), (Kind::Settle, 0)]);
        assert_eq!(kinds(dir.path(), "unseen"), [(Kind::Hold, 0), (Kind::Void, 0)]);
        balanced(dir.path());
    }
}

#[tokio::test]
async fn a_refund_that_is_not_owed_or_not_given_is_seen() {
    for tamper in [
        "DELETE FROM entries WHERE seq = 3; DELETE FROM transfers WHERE seq = 3;",
        "UPDATE transfers SET credit_picos = credit_picos - 1 WHERE seq = 3;",
        "UPDATE transfers SET deadline_ms = NULL;",
        "UPDATE transfers SET wait_ms = 1 WHERE kind = 'settle';",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(dir.path());
        ledger.hold(promised("a", Some(1_900))).await.unwrap();
        ledger.settle(ended("a", EndReason::Late)).await.unwrap();
        closed_and_balanced(&ledger, dir.path());
        let db = rusqlite::Connection::open(dir.path().join("ledger.db")).unwrap();
        for guard in schema::GUARDS {
            db.execute_batch(&format!("DROP TRIGGER {guard}")).unwrap();
        }
        db.execute_batch(tamper).unwrap();
        let report = verify::verify(dir.path()).unwrap();
        let guards = schema::GUARDS.len() as u64;
        assert!(report.problem_count > guards, "{tamper}: {report}");
    }
}
