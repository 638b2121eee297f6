//! Which faults are tried where, and which are not: the table names tests, and this test that they are there.
//!
//! The tests of every fault in one command, 20 times as many trials, with other seeds (each series prints its own, and
//! a failure shows it):
//!
//! ```sh
//! FAULT_TRIALS=20 FAULT_SEED=$RANDOM cargo test --release --workspace --test it -- --nocapture --test-threads 2 \
//!     fault crash fleet billing slow_clients idempotency batches::killed drain limits auth
//! FAULT_TRIALS=20 PROPTEST_CASES=20000 cargo test --release --workspace --lib -- ledger serving
//! ```

use std::path::Path;

/// A fault, the tests that cause it, and what is missing.
struct Fault {
    id: &'static str,
    what: &'static str,
    /// `file::test` below the gateway's folder.
    tests: &'static [&'static str],
    missing: &'static str,
}

const fn fault(
    id: &'static str,
    what: &'static str,
    tests: &'static [&'static str],
    missing: &'static str,
) -> Fault {
    Fault { id, what, tests, missing }
}

const MATRIX: [Fault; 24] = [
    fault(
        "F1",
        "the client goes away",
        &[
            "tests/it/billing.rs::billed_is_delivered_to_the_token",
            "tests/it/billing.rs::a_client_that_leaves_before_the_first_token_pays_nothing",
            "tests/it/billing.rs::a_client_that_leaves_a_unary_request_frees_its_slot",
        ],
        "between the last token and the usage",
    ),
    fault(
        "F2",
        "the client never reads",
        &["tests/it/slow_clients.rs::a_client_that_never_reads_is_cut_and_pays_for_what_was_sent"],
        "",
    ),
    fault(
        "F3",
        "kill -9 of a gateway",
        &[
            "tests/it/crash.rs::killed_servers_keep_their_books",
            "tests/it/crash.rs::with_a_journal_ahead_nothing_that_was_sent_goes_unbilled",
            "tests/it/batches.rs::killed_servers_lose_and_double_no_line",
            "tests/it/fleet.rs::two_gateways_share_a_keys_limits_and_a_dead_one_gives_its_places_back",
            "tests/it/fleet_ledger.rs::a_killed_gateways_requests_are_ended_by_the_others_within_the_budget",
            "tests/it/fleet_streams.rs::a_thousand_streams_on_killed_gateways_use_one_budget_up_and_no_more",
        ],
        "named points of failure; moments are random",
    ),
    fault(
        "F4",
        "kill -9 of the engine",
        &["src/serving/tests.rs::whatever_the_engine_does_requests_end_and_are_billed_as_told"],
        "it lives in the gateway's process, so that a kill is F3; here its thread panics",
    ),
    fault(
        "F5",
        "crashes during recovery",
        &["tests/it/crash.rs::a_crash_during_recovery_changes_nothing"],
        "",
    ),
    fault(
        "F6",
        "power loss",
        &["src/ledger/tests/power.rs::a_loss_of_power_loses_nothing_acknowledged"],
        "by replay of the files' sectors with SQLite; PostgreSQL has its own tests",
    ),
    fault(
        "F7",
        "a failing sync",
        &["src/ledger/tests/faults.rs::whichever_call_fails_nothing_acknowledged_is_lost"],
        "",
    ),
    fault(
        "F8",
        "disk full",
        &["tests/it/faults.rs::a_full_disk_refuses_new_work_and_needs_no_repair"],
        "by a limit on the size of files, not by a full file system",
    ),
    fault(
        "F9",
        "bit rot",
        &[
            "tests/it/faults.rs::a_flipped_bit_is_found_or_changes_no_sum",
            "tests/it/cli.rs::a_damaged_ledger_is_noticed",
            "src/ledger/tests/faults.rs::tampering_is_found",
            "src/ledger/tests/reports.rs::files_of_closed_periods_are_checked_against_the_ledger",
        ],
        "",
    ),
    fault(
        "F10",
        "Redis slow, gone, back and empty",
        &["tests/it/fleet.rs::losing_redis_makes_limits_stricter_only"],
        "",
    ),
    fault(
        "F11",
        "Redis fails over and has lost writes",
        &["tests/it/fleet.rs::losing_redis_makes_limits_stricter_only"],
        "it comes back with nothing, which is the worst case; no replica is started. Money is never there",
    ),
    fault(
        "F12",
        "connections to PostgreSQL break",
        &[
            "tests/it/fleet_ledger.rs::a_commit_without_an_answer_is_neither_lost_nor_done_twice",
            "tests/it/faults.rs::sessions_that_break_at_any_moment_lose_and_double_nothing",
        ],
        "a failover to a replica",
    ),
    fault("F13", "the network between gateway and engine", &[], "there is none: one process"),
    fault(
        "F14",
        "the clock jumps",
        &[
            "tests/it/faults.rs::a_clock_that_jumps_moves_no_row_back_and_loses_none",
            "src/ledger/tests/lives.rs::time_never_runs_backwards_in_the_ledger",
        ],
        "",
    ),
    fault(
        "F15",
        "no descriptors left",
        &["tests/it/faults.rs::a_server_without_descriptors_left_serves_on"],
        "no memory, no threads",
    ),
    fault("F16", "events twice and in any order", &["src/ledger/tests/properties.rs::any_life_balances"], ""),
    fault(
        "F17",
        "one idempotency key many times",
        &[
            "tests/it/idempotency.rs::sixteen_at_once_are_one",
            "tests/it/idempotency.rs::an_answer_is_given_again_and_billed_once",
            "tests/it/idempotency.rs::another_body_is_refused_by_name_and_a_refusal_frees_the_key",
            "tests/it/idempotency.rs::keys_outlive_the_process",
        ],
        "",
    ),
    fault(
        "F18",
        "an interrupted export",
        &[
            "tests/it/faults.rs::an_interrupted_export_leaves_a_whole_file_or_none",
            "src/ledger/tests/reports.rs::a_file_appears_whole_or_not_at_all",
        ],
        "moments are random, not every system call",
    ),
    fault(
        "F19",
        "drain under load",
        &["tests/it/drain.rs::a_terminated_server_finishes_its_streams"],
        "a thousand streams",
    ),
    fault("F20", "a rolling restart", &[], "the listener is not handed over"),
    fault(
        "F21",
        "overload",
        &["tests/it/faults.rs::more_work_than_there_is_room_for_is_refused_and_free"],
        "that what is served stays at its peak; it is measured, not tested",
    ),
    fault(
        "F22",
        "key revoked, budget used up, price changed",
        &[
            "tests/it/auth.rs::a_revoked_key_stops_working",
            "tests/it/limits.rs::a_stream_that_outruns_its_budget_is_ended_within_it",
            "tests/it/fleet_ledger.rs::gateways_use_one_budget_up_and_no_more",
            "src/ledger/tests/budgets.rs::a_thousand_streams_use_one_budget_up_and_no_more",
            "tests/it/faults.rs::a_price_that_changes_under_a_stream_is_for_the_next",
        ],
        "",
    ),
    fault(
        "F23",
        "the engine answers garbage",
        &["src/serving/tests.rs::whatever_the_engine_does_requests_end_and_are_billed_as_told"],
        "counts that are lies; they are checked",
    ),
    fault("F24", "a long soak", &[], "FAULT_TRIALS runs the trials for as long as wanted; no mix of faults"),
];

#[test]
fn the_matrix_names_tests_that_are_there() {
    let gateway = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (at, Fault { id, what, tests, missing }) in (1..).zip(&MATRIX) {
        assert_eq!(*id, format!("F{at}"));
        assert!(!tests.is_empty() || !missing.is_empty(), "{id} says nothing");
        for test in *tests {
            let (file, name) = test.split_once("::").expect("file::test");
            let source =
                std::fs::read_to_string(gateway.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
            let body =
                source.split_once(&format!("fn {name}(")).unwrap_or_else(|| panic!("{test} is not there")).0;
            let before = body.rsplit("}\n").next().unwrap_or(body);
            assert!(before.contains("test"), "{test} is no test");
        }
        println!(
            "{id:4} {what}: {} tests{}{missing}",
            tests.len(),
            if missing.is_empty() { "" } else { "; missing: " }
        );
    }
}
