//! A store that fails, a process that dies, a file that was tampered with.

use std::sync::Arc;

use rusqlite::Connection;

use super::super::credit::{Grant, Purse};
use super::super::row::{Facts, GENESIS, Kind, Transfer};
use super::super::schema;
use super::super::sqlite::SqliteStore;
use super::super::store::{Ended, State, Store, StoreError, StoreResult};
use super::*;

/// Passes calls on until the `fail_at`-th, which fails without effect; so do all later ones.
struct Failing {
    store: SqliteStore,
    calls: u32,
    fail_at: u32,
}

impl Failing {
    fn step(&mut self) -> StoreResult<&mut SqliteStore> {
        self.calls += 1;
        if self.calls >= self.fail_at {
            return Err(StoreError("disk full".to_owned()));
        }
        Ok(&mut self.store)
    }
}

impl Store for Failing {
    fn load(&mut self) -> StoreResult<State> {
        self.store.load()
    }
    fn begin(&mut self) -> StoreResult<Vec<Transfer>> {
        self.step()?.begin()
    }
    fn append(&mut self, row: &Transfer) -> StoreResult<()> {
        self.step()?.append(row)
    }
    fn ended(&mut self, request_id: &str) -> StoreResult<Option<Ended>> {
        self.step()?.ended(request_id)
    }
    fn put_checkpoint(&mut self, request_id: &str, tokens: Tokens, at_ms: u64) -> StoreResult<()> {
        self.step()?.put_checkpoint(request_id, tokens, at_ms)
    }
    fn delete_checkpoint(&mut self, request_id: &str) -> StoreResult<()> {
        self.step()?.delete_checkpoint(request_id)
    }
    fn spent(&mut self, scope: BudgetScope, id: &str, hours: Option<(u64, u64)>) -> StoreResult<i64> {
        self.step()?.spent(scope, id, hours)
    }
    fn add_spent(&mut self, scope: BudgetScope, id: &str, hour_ms: u64, picos: i64) -> StoreResult<()> {
        self.step()?.add_spent(scope, id, hour_ms, picos)
    }
    fn purse(&mut self, org_id: &str) -> StoreResult<Purse> {
        self.step()?.purse(org_id)
    }
    fn add_credited(&mut self, org_id: &str, picos: i64) -> StoreResult<()> {
        self.step()?.add_credited(org_id, picos)
    }
    fn put_grant(&mut self, org_id: &str, grant: &Grant) -> StoreResult<()> {
        self.step()?.put_grant(org_id, grant)
    }
    fn credit_row(&mut self, id: &str) -> StoreResult<Option<i64>> {
        self.step()?.credit_row(id)
    }
    fn due_orgs(&mut self, now_ms: u64) -> StoreResult<Vec<String>> {
        self.step()?.due_orgs(now_ms)
    }
    fn orphans(&mut self) -> StoreResult<Vec<(String, Option<Tokens>)>> {
        self.step()?.orphans()
    }
    fn recover(&mut self) -> bool {
        self.store.recover()
    }
    fn commit(&mut self) -> StoreResult<()> {
        self.step()?.commit()
    }
}

/// Three requests, until something fails; the settlements that were acknowledged.
async fn three_requests(ledger: &Ledger) -> (Vec<Settled>, bool) {
    let mut acked = Vec::new();
    for id in ["a", "b", "c"] {
        if ledger.hold(request(id, 5_000)).await.is_err()
            || ledger.extend(id, Picos(500), 1).await.is_err()
            || ledger.checkpoint(id, tokens(10, 0, 1), 1).await.is_err()
        {
            return (acked, false);
        }
        match ledger.settle(settlement(id, tokens(10, 0, 5))).await {
            Ok(settled) => acked.push(settled),
            Err(error) => {
                assert!(matches!(error, LedgerError::Unavailable(_)), "{error}");
                return (acked, false);
            }
        }
    }
    (acked, true)
}

#[tokio::test]
async fn whichever_call_fails_nothing_acknowledged_is_lost() {
    let mut fail_at = 1;
    loop {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let failing = Failing { store, calls: 0, fail_at };
        let ledger = Ledger::start(Box::new(failing), &LedgerSection::default(), 0, &|_| Ok(None)).unwrap();
        let (acked, done) = three_requests(&ledger).await;
        assert_eq!(ledger.healthy(), done);
        if !done {
            assert!(matches!(ledger.hold(request("z", 1)).await, Err(HoldError::Unavailable(_))));
            assert!(matches!(ledger.void("a", 1).await, Err(LedgerError::Unavailable(_))));
            assert!(!ledger.checkpoint_detached("a", tokens(0, 0, 0), 1));
        }
        drop(ledger);
        let ledger = open(dir.path());
        for (settled, id) in acked.iter().zip(["a", "b", "c"]) {
            assert_eq!(ledger.settle(settlement(id, tokens(0, 0, 0))).await.unwrap(), *settled);
        }
        let report = closed_and_balanced(&ledger, dir.path());
        assert_eq!(report.open, 0);
        if done {
            assert!(fail_at > 30, "{fail_at}");
            return;
        }
        fail_at += 1;
    }
}

#[tokio::test]
async fn a_dead_process_is_billed_at_its_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    for id in ["delivered", "silent", "done"] {
        ledger.hold(request(id, 10_000)).await.unwrap();
    }
    ledger.checkpoint("delivered", tokens(10, 0, 3), 1).await.unwrap();
    assert!(ledger.checkpoint_detached("delivered", tokens(10, 0, 7), 1));
    ledger.settle(settlement("done", tokens(1, 1, 1))).await.unwrap();
    drop(ledger);
    let before = balanced(dir.path());
    assert_eq!((before.open, before.settled), (2, 1));

    let ledger = open(dir.path());
    assert_eq!(*ledger.recovery(), Recovery { settled: 1, voided: 1 });
    let settled = ledger.settle(settlement("delivered", tokens(0, 0, 0))).await.unwrap();
    assert_eq!((settled.tokens, settled.end), (tokens(10, 0, 7), EndReason::Recovered));
    assert!(matches!(
        ledger.settle(settlement("silent", tokens(0, 0, 1))).await,
        Err(LedgerError::Voided(_))
    ));
    let after = closed_and_balanced(&ledger, dir.path());
    assert_eq!((after.open, after.settled, after.voided), (0, 2, 1));
    // A second start finds nothing to do and changes nothing.
    assert_eq!(*open(dir.path()).recovery(), Recovery::default());
    assert_eq!(balanced(dir.path()).head, after.head);
}

async fn small_ledger(dir: &Path) {
    let ledger = open(dir);
    for id in ["a", "b"] {
        ledger.hold(request(id, 10_000)).await.unwrap();
        ledger.settle(settlement(id, tokens(1, 2, 3))).await.unwrap();
    }
    ledger.hold(request("c", 10_000)).await.unwrap();
    ledger.checkpoint("c", tokens(1, 0, 1), 1).await.unwrap();
    ledger.close();
}

#[tokio::test]
async fn rows_cannot_be_changed() {
    let dir = tempfile::tempdir().unwrap();
    small_ledger(dir.path()).await;
    let db = Connection::open(dir.path().join("ledger.db")).unwrap();
    for sql in [
        "UPDATE transfers SET cost_picos = 0",
        "DELETE FROM transfers WHERE seq = 5",
        "UPDATE entries SET amount_picos = 1",
        "DELETE FROM entries",
        "INSERT INTO transfers SELECT 6, kind, request_id, at_ms, org_id, project_id, key_id, endpoint, model, tier,
             price_id, price_from_ms, price_uncached_input, price_cached_input, price_output, prompt_tokens,
             admitted_ms, held_picos, released_picos, uncached_input, cached_input, output, cost_uncached_input,
             cost_cached_input, cost_output, cost_picos, end_reason, first_token_ms, hash, org_name, project_name,
             key_name, end_user, tags, request_sha256, weights_sha256, counted, credit_picos, expires_ms, note
         FROM transfers WHERE kind = 'settle' LIMIT 1",
    ] {
        assert!(db.execute(sql, []).is_err(), "{sql}");
    }
    drop(db);
    balanced(dir.path());
}

#[tokio::test]
async fn tampering_is_found() {
    for (sql, finding) in [
        ("UPDATE transfers SET endpoint = '/x' WHERE seq = 2", "row 2 does not have the hash"),
        ("UPDATE transfers SET tags = '{\"team\":\"other\"}' WHERE seq = 2", "row 2 does not have the hash"),
        ("UPDATE transfers SET org_name = 'other' WHERE seq = 2", "has changed its key"),
        ("UPDATE transfers SET at_ms = 1 WHERE seq = 2", "row 2 is earlier"),
        ("UPDATE transfers SET output = output + 1 WHERE seq = 2", "row 2: price x tokens"),
        ("UPDATE transfers SET price_output = 1 WHERE seq = 2", "row 2: price version"),
        ("UPDATE transfers SET key_id = 'key_2' WHERE seq = 2", "changed its key"),
        ("UPDATE transfers SET released_picos = 9999 WHERE seq = 2", "held 10000, released 9999"),
        (
            "UPDATE entries SET amount_picos = amount_picos + 1 WHERE seq = 2 AND line = 0",
            "row 2: entries do not add up",
        ),
        (
            "UPDATE entries SET account = 'hold:key:key_2' WHERE seq = 1 AND line = 1",
            "row 1: entries do not say",
        ),
        ("DELETE FROM entries WHERE seq = 5", "account hold:key:key_1"),
        (
            "DELETE FROM entries WHERE seq = 5; DELETE FROM transfers WHERE seq = 5",
            "checkpoint of request \"c\"",
        ),
        ("DELETE FROM entries WHERE seq = 2; DELETE FROM transfers WHERE seq = 2", "row 3 follows row 1"),
        ("DELETE FROM transfers WHERE seq = 5", "entries of row 5 have no row"),
        ("UPDATE checkpoints SET output = 1000", "costs more than is held"),
        ("SELECT 1", "trigger transfers_no_update is missing"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        small_ledger(dir.path()).await;
        let db = Connection::open(dir.path().join("ledger.db")).unwrap();
        db.execute_batch(
            "PRAGMA foreign_keys = OFF; DROP TRIGGER transfers_no_update; DROP TRIGGER transfers_no_delete;
             DROP TRIGGER entries_no_update; DROP TRIGGER entries_no_delete;",
        )
        .unwrap();
        db.execute_batch(sql).unwrap();
        drop(db);
        let report = verify::verify(dir.path()).unwrap();
        let text = report.to_string();
        assert!(!report.is_ok() && text.contains(finding), "{sql}\n{text}");
    }
}

#[test]
fn a_ledger_of_another_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    Connection::open(dir.path().join("ledger.db")).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(verify::verify(dir.path()), Err(LedgerError::Schema { found: 99, .. })));
    let opened = Ledger::open(dir.path(), &LedgerSection::default(), 0);
    assert!(matches!(opened, Err(LedgerError::Schema { found: 99, .. })));
}

/// A hold and a settle as the first schema wrote them, and that schema.
fn first_schema(dir: &Path) {
    let facts = Arc::new(Facts {
        org_id: "org_1".to_owned(),
        project_id: "proj_1".to_owned(),
        key_id: "key_1".to_owned(),
        endpoint: "/v1/completions".to_owned(),
        price: price(),
        prompt_tokens: 3,
        admitted_ms: 7,
        counted: Vec::new(),
    });
    let mut hold = Transfer {
        seq: 1,
        kind: Kind::Hold,
        request_id: "old".to_owned(),
        at_ms: 7,
        facts,
        held: Picos(2_000),
        released: Picos::ZERO,
        tokens: Tokens::default(),
        cost: price().cost(Tokens::default()).unwrap(),
        end: None,
        first_token_ms: None,
        pace: None,
        details: None,
        credit: Picos::ZERO,
        expires_ms: None,
        note: None,
        hash: GENESIS,
    };
    hold.hash = hold.chained(&GENESIS);
    let tokens = tokens(1, 2, 3);
    let cost = price().cost(tokens).unwrap();
    let (held, released, end) = (Picos::ZERO, Picos(2_000), Some(EndReason::Finished));
    let mut settle =
        Transfer { seq: 2, kind: Kind::Settle, held, released, tokens, cost, end, ..hold.clone() };
    settle.hash = settle.chained(&hold.hash);
    write_first_schema(dir, &[hold, settle]);
}

fn write_first_schema(dir: &Path, rows: &[Transfer]) {
    let db = Connection::open(dir.join("ledger.db")).unwrap();
    db.execute_batch(schema::STEPS[0]).unwrap();
    db.pragma_update(None, "user_version", 1).unwrap();
    for row in rows {
        let price = &row.facts.price;
        let numbers = [price.uncached_input, price.cached_input, price.output].map(|picos| picos.0);
        db.execute(
            "INSERT INTO transfers VALUES (?1, ?2, ?3, ?4, 'org_1', 'proj_1', 'key_1', '/v1/completions', ?5, ?6, ?7, 0,
                 ?8, ?9, ?10, 3, 7, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, NULL, ?21)",
            rusqlite::params![
                row.seq,
                row.kind.as_str(),
                row.request_id,
                row.at_ms,
                price.model,
                price.tier,
                price.id,
                numbers[0],
                numbers[1],
                numbers[2],
                row.held.0,
                row.released.0,
                row.tokens.uncached_input,
                row.tokens.cached_input,
                row.tokens.output,
                row.cost.uncached_input.0,
                row.cost.cached_input.0,
                row.cost.output.0,
                row.cost.total.0,
                row.end.map(EndReason::as_str),
                row.hash.as_slice(),
            ],
        )
        .unwrap();
        for (line, entry) in row.entries().unwrap().iter().enumerate() {
            let values = rusqlite::params![row.seq, line, entry.account, entry.amount.0];
            db.execute("INSERT INTO entries VALUES (?1, ?2, ?3, ?4)", values).unwrap();
        }
    }
}

#[tokio::test]
async fn a_ledger_of_the_first_schema_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    first_schema(dir.path());
    assert!(matches!(verify::verify(dir.path()), Err(LedgerError::Schema { found: 1, .. })));
    let ledger = open(dir.path());
    let old = balanced(dir.path());
    assert_eq!((old.rows, old.settled, old.cost), (2, 1, Picos(100 + 100 + 1_200)));
    ledger.hold(request("new", 5_000)).await.unwrap();
    ledger.settle(settlement("new", tokens(1, 1, 1))).await.unwrap();
    assert_eq!(closed_and_balanced(&ledger, dir.path()).settled, 2);
}
