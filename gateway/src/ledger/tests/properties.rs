//! Random lives of requests, with restarts, against a plain model. Compiled twice, see [`super::kit`].

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const IDS: usize = 6;
const BUDGET: i64 = 20_000;

#[derive(Clone, Debug)]
enum Op {
    Hold { id: usize, amount: i64 },
    Extend { id: usize, amount: i64 },
    Checkpoint { id: usize, tokens: Tokens },
    Settle { id: usize, tokens: Tokens, detached: bool },
    Void { id: usize },
    Crash,
}

fn some_tokens() -> impl Strategy<Value = Tokens> {
    (0_u32..10, 0_u32..10, 0_u32..20).prop_map(|(uncached, cached, output)| tokens(uncached, cached, output))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..IDS, 0_i64..8_000).prop_map(|(id, amount)| Op::Hold { id, amount }),
        2 => (0..IDS, 0_i64..3_000).prop_map(|(id, amount)| Op::Extend { id, amount }),
        3 => (0..IDS, some_tokens()).prop_map(|(id, tokens)| Op::Checkpoint { id, tokens }),
        3 => (0..IDS, some_tokens(), any::<bool>())
            .prop_map(|(id, tokens, detached)| Op::Settle { id, tokens, detached }),
        1 => (0..IDS).prop_map(|id| Op::Void { id }),
        1 => Just(Op::Crash),
    ]
}

#[derive(Default)]
struct Model {
    open: HashMap<String, (i64, Option<Tokens>)>,
    /// Cost of what ended; `None`: voided.
    ended: HashMap<String, Option<i64>>,
    /// A request id is never used again: the n-th life of slot `id` has its own.
    lives: [u32; IDS],
}

impl Model {
    fn id(&self, slot: usize) -> String {
        format!("slot{slot}-{}", self.lives[slot])
    }

    fn spent(&self) -> i64 {
        self.ended.values().flatten().sum()
    }

    fn fits(&self, amount: i64) -> bool {
        self.spent() + self.open.values().map(|(held, _)| held).sum::<i64>() + amount <= BUDGET
    }

    fn end(&mut self, id: &str, cost: Option<i64>) {
        self.open.remove(id);
        self.ended.insert(id.to_owned(), cost);
    }

    /// Billed at the checkpoint, or voided.
    fn end_noted(&mut self, id: &str) {
        let noted = self.open[id].1;
        self.end(id, noted.map(cost));
    }
}

fn cost(tokens: Tokens) -> i64 {
    price().cost(tokens).unwrap().total.0
}

async fn step(ledger: &Ledger, model: &mut Model, op: &Op) {
    match *op {
        Op::Hold { id: slot, amount } => {
            if model.ended.contains_key(&model.id(slot)) {
                model.lives[slot] += 1;
            }
            let id = model.id(slot);
            let budgets = vec![total(BudgetScope::Project, "proj_1", BUDGET)];
            let admitted = ledger.hold(HoldRequest { budgets, ..request(&id, amount) }).await.is_ok();
            assert_eq!(admitted, !model.open.contains_key(&id) && model.fits(amount));
            if admitted {
                model.open.insert(id, (amount, None));
            }
        }
        Op::Extend { id: slot, amount } => {
            let id = model.id(slot);
            let extended = ledger.extend(&id, Picos(amount), 1).await.is_ok();
            assert_eq!(extended, model.open.contains_key(&id) && model.fits(amount));
            if extended {
                model.open.get_mut(&id).unwrap().0 += amount;
            }
        }
        Op::Checkpoint { id: slot, tokens } => {
            let id = model.id(slot);
            let taken = ledger.checkpoint(&id, tokens, 1).await.is_ok();
            let Some((held, noted)) = model.open.get_mut(&id) else { return assert!(!taken) };
            let behind = noted.is_some_and(|noted| !tokens.covers(noted));
            assert_eq!(taken, behind || cost(tokens) <= *held);
            if taken && !behind {
                *noted = Some(tokens);
            }
        }
        Op::Settle { id: slot, tokens, detached } => {
            let id = model.id(slot);
            let open = model.open.get(&id).copied();
            if detached {
                ledger.settle_detached(settlement(&id, tokens));
                match open {
                    Some((held, _)) if cost(tokens) <= held => model.end(&id, Some(cost(tokens))),
                    Some(_) => model.end_noted(&id),
                    None => {}
                }
                return;
            }
            let result = ledger.settle(settlement(&id, tokens)).await.map(|settled| settled.cost.0);
            match (open, model.ended.get(&id)) {
                (Some((held, _)), _) if cost(tokens) <= held => {
                    assert_eq!(result.unwrap(), cost(tokens));
                    model.end(&id, Some(cost(tokens)));
                }
                (None, Some(Some(first))) => assert_eq!(result.unwrap(), *first),
                _ => assert!(result.is_err()),
            }
        }
        Op::Void { id: slot } => {
            let id = model.id(slot);
            let voided = ledger.void(&id, 1).await.is_ok();
            assert_eq!(voided, model.open.contains_key(&id) || model.ended.get(&id) == Some(&None));
            if voided {
                model.end(&id, None);
            }
        }
        Op::Crash => {}
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn any_life_balances(ops in proptest::collection::vec(op(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::default();
        let mut ledger = Some(open(dir.path()));
        for op in ops.iter().chain([&Op::Crash]) {
            if matches!(op, Op::Crash) {
                drop(ledger.take());
                let left: Vec<String> = model.open.keys().cloned().collect();
                let report = balanced(dir.path());
                assert_eq!(report.open as usize, left.len());
                assert_eq!(report.cost.0, model.spent());
                ledger = Some(open(dir.path()));
                left.iter().for_each(|id| model.end_noted(id));
                assert_eq!(balanced(dir.path()).open, 0);
            } else {
                runtime.block_on(step(ledger.as_ref().unwrap(), &mut model, op));
            }
            assert!(model.spent() <= BUDGET);
        }
        let report = closed_and_balanced(&ledger.unwrap(), dir.path());
        let settled = model.ended.values().flatten().count();
        assert_eq!((report.cost.0, report.settled as usize), (model.spent(), settled));
        assert_eq!(report.holds as usize, model.ended.len());
    }
}
