//! Balances that are paid in. Compiled twice, see [`super::kit`].

use proptest::prelude::*;

use super::*;

fn grant(id: &str, amount: i64, expires_ms: Option<u64>, at_ms: u64) -> Credit {
    Credit {
        id: id.to_owned(),
        org_id: "org_1".to_owned(),
        kind: CreditKind::Grant,
        amount: Picos(amount),
        expires_ms,
        lease: None,
        note: "paid".to_owned(),
        at_ms,
    }
}

fn prepaid(id: &str, amount: i64, line: i64, at_ms: u64) -> HoldRequest {
    HoldRequest { credit_line: Some(Picos(line)), at_ms, ..request(id, amount) }
}

fn shortage(result: Result<(), HoldError>) -> CreditShortage {
    match result {
        Err(HoldError::Credit(short)) => short,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn bank_statement_of_a_balance() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let short = shortage(ledger.hold(prepaid("a", 1, 0, 1)).await);
    assert_eq!((short.balance, short.line, short.held), (Picos(0), Picos(0), Picos(0)));
    let seq = ledger.credit(grant("g1", 1_000, None, 2)).await.unwrap();
    assert_eq!(ledger.credit(grant("g1", 1_000, None, 3)).await.unwrap(), seq, "the same grant twice is one");
    ledger.hold(prepaid("a", 600, 0, 4)).await.unwrap();
    assert_eq!(shortage(ledger.hold(prepaid("b", 401, 0, 4)).await).held, Picos(600));
    ledger.hold(prepaid("b", 400, 0, 4)).await.unwrap();
    assert!(ledger.extend("a", Picos(1), 4).await.is_err());
    ledger.settle(settlement("a", tokens(5, 0, 0))).await.unwrap();
    ledger.void("b", 5).await.unwrap();
    // A credit line lets the balance go below zero; the next grant pays it back.
    ledger.hold(prepaid("c", 700, 200, 6)).await.unwrap();
    ledger.settle(settlement("c", tokens(7, 0, 0))).await.unwrap();
    assert_eq!(shortage(ledger.hold(prepaid("d", 1, 200, 2_000)).await).balance, Picos(-200));
    ledger.credit(grant("g2", 300, None, 2_000)).await.unwrap();
    assert_eq!(shortage(ledger.hold(prepaid("d", 101, 0, 2_000)).await).balance, Picos(100));
    let correction = |id: &str, amount| Credit {
        kind: CreditKind::Correction,
        note: "row 7".to_owned(),
        ..grant(id, amount, None, 2_000)
    };
    ledger.credit(correction("k1", -60)).await.unwrap();
    assert_eq!(shortage(ledger.hold(prepaid("d", 41, 0, 2_000)).await).balance, Picos(40));
    ledger.credit(correction("k2", 10)).await.unwrap();
    // Who pays later is not asked for a balance.
    ledger.hold(request("free", 1_000_000)).await.unwrap();
    ledger.void("free", 2_000).await.unwrap();
    drop(ledger);
    let ledger = open(dir.path());
    assert_eq!(shortage(ledger.hold(prepaid("e", 51, 0, 2_000)).await).balance, Picos(50));
    for bad in [
        grant("", 1, None, 1),
        grant("x", 0, None, 1),
        grant("x", -1, None, 1),
        grant("x", 1, Some(1), 1),
        Credit { expires_ms: Some(9_000), ..correction("x", 1) },
        grant("x", i64::MAX, None, 1),
    ] {
        assert!(matches!(ledger.credit(bad).await, Err(LedgerError::Invalid(_))));
    }
    closed_and_balanced(&ledger, dir.path());
}

#[tokio::test]
async fn what_expires_leaves_requests_in_flight_their_money() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    ledger.credit(grant("old", 1_000, Some(100), 1)).await.unwrap();
    ledger.credit(grant("new", 500, None, 1)).await.unwrap();
    ledger.hold(prepaid("a", 800, 0, 2)).await.unwrap();
    // 1,500 granted, 800 held: the old grant can go down to what, with the new one, still covers the hold.
    ledger.expire_credit(100);
    let short = shortage(ledger.hold(prepaid("b", 1, 0, 101)).await);
    assert_eq!((short.balance, short.held), (Picos(800), Picos(800)));
    ledger.settle(Settlement { at_ms: 102, ..settlement("a", tokens(2, 0, 0)) }).await.unwrap();
    // 200 were spent from the old grant; its last 100 go once the hold is gone.
    let short = shortage(ledger.hold(prepaid("c", 501, 0, 103)).await);
    assert_eq!((short.balance, short.held), (Picos(500), Picos(0)));
    ledger.hold(prepaid("c", 500, 0, 103)).await.unwrap();
    closed_and_balanced(&ledger, dir.path());
}

#[derive(Clone, Debug)]
enum Op {
    Grant { amount: i64, lasts: Option<u64> },
    Correct { amount: i64 },
    Hold { amount: i64 },
    Settle { slot: usize, share: u32 },
    Void { slot: usize },
    Wait { ms: u64 },
    Expire,
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (1_i64..3_000, proptest::option::of(1_u64..500))
            .prop_map(|(amount, lasts)| Op::Grant { amount, lasts }),
        1 => (-500_i64..500).prop_map(|amount| Op::Correct { amount }),
        4 => (0_i64..2_000).prop_map(|amount| Op::Hold { amount }),
        4 => (0_usize..6, 0_u32..=100).prop_map(|(slot, share)| Op::Settle { slot, share }),
        1 => (0_usize..6).prop_map(|slot| Op::Void { slot }),
        3 => (0_u64..300).prop_map(|ms| Op::Wait { ms }),
        1 => Just(Op::Expire),
        1 => Just(Op::Restart),
    ]
}

const LINE: i64 = 300;

#[derive(Default)]
struct Seen {
    now_ms: u64,
    made: u32,
    open: Vec<(String, i64)>,
    granted: i64,
    corrected: i64,
    spent: i64,
}

async fn step(ledger: &Ledger, seen: &mut Seen, op: &Op) {
    seen.made += 1;
    let id = format!("x{}", seen.made);
    match *op {
        Op::Grant { amount, lasts } => {
            ledger.credit(grant(&id, amount, lasts.map(|ms| seen.now_ms + ms), seen.now_ms)).await.unwrap();
            seen.granted += amount;
        }
        Op::Correct { amount } if amount != 0 => {
            let kind = CreditKind::Correction;
            ledger.credit(Credit { kind, ..grant(&id, amount, None, seen.now_ms) }).await.unwrap();
            seen.corrected += amount;
        }
        Op::Hold { amount } => {
            let held: i64 = seen.open.iter().map(|(_, held)| held).sum();
            match ledger.hold(prepaid(&id, amount, LINE, seen.now_ms)).await {
                Ok(()) => {
                    // Whatever has expired, more than this can never be there.
                    assert!(seen.granted + seen.corrected - seen.spent + LINE >= held + amount);
                    seen.open.push((id, amount));
                }
                Err(HoldError::Credit(short)) => {
                    assert_eq!(short.held.0, held);
                    assert!(short.balance.0 + LINE < held + amount);
                    assert!(short.balance.0 <= seen.granted + seen.corrected - seen.spent);
                }
                Err(error) => panic!("{error}"),
            }
        }
        Op::Settle { slot, share } if slot < seen.open.len() => {
            let (id, held) = seen.open.remove(slot);
            let count = u32::try_from(held / 100).unwrap() * share / 100;
            let settlement = Settlement { at_ms: seen.now_ms, ..settlement(&id, tokens(count, 0, 0)) };
            seen.spent += ledger.settle(settlement).await.unwrap().cost.0;
        }
        Op::Void { slot } if slot < seen.open.len() => {
            let (id, _) = seen.open.remove(slot);
            ledger.void(&id, seen.now_ms).await.unwrap();
        }
        Op::Wait { ms } => seen.now_ms += ms,
        Op::Expire => ledger.expire_credit(seen.now_ms),
        _ => {}
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn balances_are_never_overdrawn_and_always_add_up(ops in proptest::collection::vec(op(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut seen = Seen { now_ms: 1, ..Seen::default() };
        let mut ledger = Some(open(dir.path()));
        for op in &ops {
            if matches!(op, Op::Restart) {
                drop(ledger.take());
                balanced(dir.path());
                ledger = Some(open_as(dir.path(), &LedgerSection::default(), seen.now_ms));
                seen.open.clear();
            } else {
                runtime.block_on(step(ledger.as_ref().unwrap(), &mut seen, op));
            }
        }
        let report = closed_and_balanced(&ledger.unwrap(), dir.path());
        assert_eq!(report.cost.0, seen.spent);
    }
}
