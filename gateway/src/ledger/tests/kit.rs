//! What the ledger's tests are made of. This file and those that say so are compiled twice: over SQLite here, and over
//! PostgreSQL among the end-to-end tests.

use proptest::test_runner::Config;

use super::*;

/// So many cases of a property, unless `PROPTEST_CASES` says how many.
pub(super) fn cases(usual: u32) -> Config {
    let config = Config::default();
    if std::env::var_os("PROPTEST_CASES").is_some() {
        config
    } else {
        Config { cases: usual / SHARE, ..config }
    }
}

pub(super) fn price() -> PriceVersion {
    PriceVersion::new("m", "default", 0, Picos(100), Picos(50), Picos(400))
}

pub(super) fn tokens(uncached_input: u32, cached_input: u32, output: u32) -> Tokens {
    Tokens { uncached_input, cached_input, output }
}

pub(super) fn request(id: &str, amount: i64) -> HoldRequest {
    HoldRequest {
        request_id: id.to_owned(),
        key_id: "key_1".to_owned(),
        project_id: "proj_1".to_owned(),
        org_id: "org_1".to_owned(),
        model: "m".to_owned(),
        tier: "default".to_owned(),
        endpoint: "/v1/chat/completions".to_owned(),
        price: price(),
        amount: Picos(amount),
        prompt_tokens: 10,
        budgets: Vec::new(),
        credit_line: None,
        details: details(),
        lease: None,
        at_ms: 1_000,
    }
}

pub(super) fn budget(scope: BudgetScope, id: &str, period: BudgetPeriod, limit: i64) -> Budget {
    Budget { scope, id: id.to_owned(), period, limit: Picos(limit) }
}

pub(super) fn total(scope: BudgetScope, id: &str, limit: i64) -> Budget {
    budget(scope, id, BudgetPeriod::Total, limit)
}

pub(super) fn details() -> Details {
    let tag = ("team".to_owned(), "search, \"Zürich\"".to_owned());
    Details {
        org_name: "acme".to_owned(),
        project_name: "=cmd|' /C calc'!A0".to_owned(),
        key_name: "a \"quoted\", name".to_owned(),
        user: Some("u-1".to_owned()),
        tags: Tags::new([tag]),
        request_sha256: Some([7; 32]),
        weights_sha256: Some([9; 32]),
        deadline_ms: None,
    }
}

pub(super) fn settlement(id: &str, tokens: Tokens) -> Settlement {
    let timings = Timings { first_token_ms: Some(1_500), ..Timings::default() };
    Settlement { request_id: id.to_owned(), tokens, end: EndReason::Finished, at_ms: 2_000, timings }
}
