//! Sums in SQLite: checked against the rows, and read without going through all of them.

use rusqlite::Connection;

use super::super::schema::STEPS;
use super::super::sqlite::{OPEN_ROWS, SPENT};
use super::*;

fn shortage(result: Result<(), HoldError>) -> BudgetShortage {
    match result {
        Err(HoldError::Budget(short)) => *short,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn sums_that_do_not_fit_the_rows_are_found() {
    for (sql, finding) in [
        (
            "UPDATE spent SET picos = picos + 1 WHERE scope = 'key' AND hour_ms = -1",
            "kept as spent, rows say",
        ),
        ("DELETE FROM spent WHERE scope = 'project'", "spent are not kept"),
        ("INSERT INTO spent VALUES ('user', 'org_1/x', 0, 5)", "5 kept as spent, rows say 0"),
        ("INSERT INTO open_holds VALUES ('x', 1, 5)", "kept as open"),
        ("INSERT INTO credited VALUES ('org_1', 5)", "rows say 0 credited"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(dir.path());
        ledger.hold(request("a", 1_000)).await.unwrap();
        ledger.settle(settlement("a", tokens(1, 0, 0))).await.unwrap();
        drop(ledger);
        Connection::open(dir.path().join("ledger.db")).unwrap().execute_batch(sql).unwrap();
        let report = verify::verify(dir.path()).unwrap();
        assert!(report.problems.iter().any(|problem| problem.contains(finding)), "{sql}: {report}");
    }
}

/// A ledger of 100,000 settled requests (200,000 rows) in the first schema, brought up to date.
fn large(dir: &Path) {
    let db = Connection::open(dir.join("ledger.db")).unwrap();
    db.execute_batch(STEPS[0]).unwrap();
    let row = |kind: &str, seq: &str, held: i64, released: i64, tokens: i64, cost: i64, end: &str| {
        format!(
            "INSERT INTO transfers SELECT {seq}, '{kind}', 'r' || n, n * 60000, 'org_1', 'proj_1', 'key_' || (n % 7), '/',
                 'm', 'default', 'pv', 0, 100, 50, 400, 1, n * 60000, {held}, {released}, {tokens}, 0, 0, {cost}, 0, 0,
                 {cost}, {end}, NULL, zeroblob(32) FROM numbers;"
        )
    };
    db.execute_batch(&format!(
        "BEGIN; CREATE TEMP TABLE numbers AS WITH RECURSIVE c (n) AS (
             SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 100000) SELECT n FROM c;
         {} {} PRAGMA user_version = 1; COMMIT;",
        row("hold", "2 * n - 1", 500, 0, 0, 0, "NULL"),
        row("settle", "2 * n", 0, 500, 1, 100, "'finished'"),
    ))
    .unwrap();
}

#[tokio::test]
async fn a_start_does_not_read_old_rows() {
    let dir = tempfile::tempdir().unwrap();
    large(dir.path());
    drop(open(dir.path()));
    let db = Connection::open(dir.path().join("ledger.db")).unwrap();
    let rows: i64 = db.query_row("SELECT count(*) FROM transfers", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 200_000);
    let queries = [
        OPEN_ROWS.as_str(),
        SPENT,
        "SELECT seq, at_ms, hash FROM transfers ORDER BY seq DESC LIMIT 1",
        "SELECT picos FROM credited WHERE org_id = 'org_1'",
        "SELECT seq, left_picos, expires_ms FROM grants WHERE org_id = 'org_1' AND left_picos > 0",
    ];
    for sql in queries {
        let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let parameters = statement.parameter_count();
        let values = vec![0_i64; parameters];
        let plan: Vec<String> = statement
            .query_map(rusqlite::params_from_iter(values), |row| row.get::<_, String>(3))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        for step in plan.iter().filter(|step| step.contains("SCAN")) {
            // The only things gone through are the holds that are open now, and the last row.
            let fits =
                step.contains("SCAN o") || (step.contains("SCAN transfers") && sql.contains("LIMIT 1"));
            assert!(fits, "{sql}: {plan:?}");
        }
    }
    // Steps of SQLite's machine that the reading of a start takes: no more with 200,000 rows than with two.
    let steps = |db: &Connection| {
        let mut statement = db.prepare(&OPEN_ROWS).unwrap();
        assert!(statement.query([]).unwrap().next().unwrap().is_none());
        statement.get_status(rusqlite::StatementStatus::VmStep)
    };
    let small = tempfile::tempdir().unwrap();
    let ledger = open(small.path());
    ledger.hold(request("a", 1_000)).await.unwrap();
    ledger.settle(settlement("a", tokens(1, 0, 0))).await.unwrap();
    drop(ledger);
    let small = Connection::open(small.path().join("ledger.db")).unwrap();
    assert_eq!(steps(&db), steps(&small));
    // And it still knows what was spent in the last of them.
    let ledger = open(dir.path());
    let at_ms = 100_000 * 60_000;
    let ask = |scope, id: &str, period| HoldRequest {
        key_id: "key_5".to_owned(),
        budgets: vec![budget(scope, id, period, 1)],
        at_ms,
        ..request("new", 2)
    };
    let spent = async |scope, id, period| shortage(ledger.hold(ask(scope, id, period)).await).spent.0;
    assert_eq!(spent(BudgetScope::Project, "proj_1", BudgetPeriod::Total).await, 100_000 * 100);
    let since_hour = 100_000 - at_ms / HOUR_MS * 60 + 1;
    assert_eq!(spent(BudgetScope::Project, "proj_1", BudgetPeriod::Hour).await as u64, since_hour * 100);
    assert_eq!(spent(BudgetScope::Key, "key_5", BudgetPeriod::Total).await, 14_286 * 100);
}
