use proptest::prelude::*;

use super::*;
use crate::accounts::Budget;
use crate::config::LedgerSection;
use crate::ledger::{
    BudgetPeriod, BudgetScope, BudgetShortage, CreditShortage, Details, EndReason, Settlement, Timings,
};

/// Per token of a prompt that is computed.
const INPUT: i64 = 10;

fn plan(prompt: u32, max_tokens: u32, n: u32, allowance: u32) -> Plan {
    let plan = Plan { prompt_tokens: vec![prompt], max_tokens: vec![max_tokens], n, covered: 0 };
    Plan { covered: plan.output_within(allowance), ..plan }
}

fn funds(output: i64, plan: &Plan, minimum: u32) -> Funds {
    let price = PriceVersion::new("m", "default", 0, Picos(INPUT), Picos(5), Picos(output));
    Funds::new(price, plan, minimum).unwrap()
}

#[test]
fn the_dearer_prompt_price_and_the_allowance_are_held() {
    assert_eq!(funds(20, &plan(7, 100, 1, 32), 16).amount(), Ok(Picos(7 * INPUT + 32 * 20)));
}

#[test]
fn what_a_budget_still_pays_for() {
    let refusal = |limit, spent, held| {
        HoldError::Budget(Box::new(BudgetShortage {
            scope: BudgetScope::Key,
            id: "key_1".to_owned(),
            period: BudgetPeriod::Total,
            limit: Picos(limit),
            spent: Picos(spent),
            held: Picos(held),
            requested: Picos(1),
            resets_ms: None,
        }))
    };
    let of = |output, refusal, reserved| {
        funds(output, &plan(7, 100, 1, 32), 16).affordable(&refusal, Picos(reserved))
    };
    assert_eq!(of(20, refusal(1_000, 300, 200), 70), Some(21));
    assert_eq!(of(20, refusal(500, 300, 200), 0), None);
    assert_eq!(of(20, refusal(519, 300, 200), 0), None);
    assert_eq!(of(0, refusal(1_000, 0, 0), 0), None);
    let line = CreditShortage { balance: Picos(-5), line: Picos(50), held: Picos(4), requested: Picos(1) };
    assert_eq!(of(20, HoldError::Credit(line), 0), Some(2));
}

fn hold_request(id: usize, funds: &Funds, budgets: &[(BudgetScope, i64)]) -> HoldRequest {
    let budget = |&(scope, limit): &(BudgetScope, i64)| Budget {
        scope,
        id: format!("{scope}_1"),
        period: BudgetPeriod::Total,
        limit: Picos(limit),
    };
    HoldRequest {
        request_id: format!("r{id}"),
        key_id: "key_1".to_owned(),
        project_id: "project_1".to_owned(),
        org_id: "org_1".to_owned(),
        model: "m".to_owned(),
        tier: "default".to_owned(),
        endpoint: "/v1/chat/completions".to_owned(),
        price: funds.price.clone(),
        amount: funds.amount().unwrap(),
        prompt_tokens: 1,
        budgets: budgets.iter().map(budget).collect(),
        credit_line: None,
        details: Details::default(),
        lease: None,
        at_ms: 1_000,
    }
}

/// A request: tokens of its prompt, wanted output, choices, allowance, minimum, and how much is generated.
type Asked = (u32, u32, u32, u32, u32, u32);

/// What is open: its funds, how many tokens its prompt and output have, and how many more it would generate.
struct Open {
    id: usize,
    funds: Funds,
    prompt: u32,
    output: u32,
    more: u32,
}

fn asked() -> impl Strategy<Value = Asked> {
    (1..40_u32, 1..200_u32, 1..4_u32, 1..100_u32, 1..40_u32, 0..700_u32)
}

/// Sends the requests one after the other, each beginning while up to two others are open; all generate in turn.
async fn all_money_is_used_and_no_more(
    ledger: &Ledger,
    output: i64,
    key: i64,
    project: i64,
    asked: &[Asked],
) {
    let budgets = [(BudgetScope::Key, key), (BudgetScope::Project, project)];
    let budget = key.min(project);
    let (mut spent, mut open) = (0, Vec::<Open>::new());
    for (id, &(prompt, max_tokens, n, allowance, minimum, more)) in asked.iter().enumerate() {
        let plan = plan(prompt, max_tokens, n, allowance.max(minimum));
        let mut funds = funds(output, &plan, minimum);
        let held: i64 = open.iter().map(|open| open.funds.amount().unwrap().0).sum();
        let least = i64::from(prompt) * INPUT + i64::from(max_tokens.min(minimum) * n) * output;
        let request = hold_request(id, &funds, &budgets);
        let admitted = funds.hold(ledger, request).await;
        assert_eq!(admitted.is_ok(), spent + held + least <= budget, "{admitted:?}");
        if admitted.is_ok() {
            open.push(Open { id, more: more.min(plan.output_limit()), funds, prompt, output: 0 });
        }
        while open.len() > 2 || (id + 1 == asked.len() && !open.is_empty()) {
            let mut one = open.remove(0);
            let name = format!("r{}", one.id);
            let held = |one: &Open| one.funds.amount().unwrap().0;
            while one.output < one.more {
                let others: i64 = open.iter().map(held).sum();
                let fits = one.output < one.funds.covered || spent + others + held(&one) + output <= budget;
                let covered = one.funds.cover(ledger, &name, one.output + 1, 32).await;
                assert_eq!(covered.is_ok(), fits, "{covered:?}");
                if covered.is_err() {
                    break;
                }
                one.output += 1;
            }
            let tokens = Tokens { uncached_input: one.prompt, cached_input: 0, output: one.output };
            let (end, timings) = (EndReason::Finished, Timings::default());
            let settlement = Settlement { request_id: name, tokens, end, at_ms: 2_000, timings };
            spent += ledger.settle(settlement).await.unwrap().cost.0;
            assert!(spent <= budget, "{spent} of {budget}");
        }
    }
}

proptest! {
    #![proptest_config(super::super::tests::cases(24))]

    #[test]
    fn what_fits_is_never_refused_and_nothing_is_overrun(
        output in 1..50_i64,
        key in 0..20_000_i64,
        project in 0..20_000_i64,
        asked in proptest::collection::vec(asked(), 1..12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let ledger = Ledger::open(dir.path(), &LedgerSection::default(), 1_000).unwrap();
        runtime.block_on(all_money_is_used_and_no_more(&ledger, output, key, project, &asked));
    }
}
