use proptest::prelude::*;

use super::*;

fn identity(key: &str, requests: u32, tokens: u32, concurrency: u32) -> Identity {
    let limits = KeyLimits {
        requests_per_minute: Some(requests),
        tokens_per_minute: Some(tokens),
        concurrency: Some(concurrency),
    };
    Identity { key_id: key.into(), project_id: "p".into(), org_id: "o".into(), limits, ..Identity::default() }
}

fn limiter() -> Limiter {
    Limiter::new(&config::Limits::default())
}

/// What happened, as one word.
fn outcome(result: &Result<Reservation, LimitError>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(e) => format!("{} {:?} used {} retry {:?}", e.scope, e.kind, e.used, e.retry_after_ms),
    }
}

#[test]
fn bank_statement_of_one_key() {
    let (limiter, id) = (limiter(), identity("k", 60, 600, 2));
    let mut held = Vec::new();
    // (now, tokens, expected); every admitted request stays in flight.
    for (now_ms, tokens, expected) in [
        (0, 601, "key Tokens used 0 retry None"),
        (0, 500, "ok"),
        (0, 200, "key Tokens used 500 retry Some(10000)"),
        (9_999, 200, "key Tokens used 401 retry Some(1)"),
        (10_000, 200, "ok"),
        (10_000, 1, "key Concurrency used 2 retry Some(1000)"),
        (10_000, 600, "key Tokens used 600 retry Some(60000)"),
    ] {
        let result = limiter.reserve(&id, tokens, now_ms);
        assert_eq!(outcome(&result), expected, "at {now_ms}, {tokens} tokens");
        held.extend(result.ok());
    }
    assert_eq!(limiter.in_flight(&id), (2, 2));
    // 450 unused return at once, as if only 50 had been taken at 0: that bucket was full again when 200 were taken.
    held.remove(0).settle(50, 10_000);
    assert_eq!(limiter.headers(&id, 10_000).remaining_tokens, 400);
    // 100 more than reserved are taken now.
    held.remove(0).settle(300, 10_000);
    let headers = limiter.headers(&id, 10_000);
    assert_eq!((headers.remaining_tokens, headers.reset_tokens_ms), (300, 30_000));
    assert_eq!((headers.limit_requests, headers.remaining_requests), (60, 59));
    assert_eq!(limiter.in_flight(&id), (0, 0));
}

#[test]
fn the_project_limits_all_its_keys() {
    let limiter = limiter();
    let project_limits = KeyLimits { requests_per_minute: Some(3), ..KeyLimits::default() };
    let keys = ["a", "b"].map(|key| Identity { project_limits, ..identity(key, 2, 100, 9) });
    let mut seen = Vec::new();
    for key in [0, 0, 0, 1, 1] {
        seen.push(outcome(&limiter.reserve(&keys[key], 1, 0)));
    }
    assert_eq!(
        seen,
        [
            "ok",
            "ok",
            "key Requests used 2 retry Some(30000)",
            "ok",
            "project Requests used 3 retry Some(20000)"
        ]
    );
    assert_eq!(limiter.headers(&keys[1], 0).remaining_requests, 0);
    assert_eq!(limiter.headers(&keys[1], 0).limit_requests, 3);
}

#[test]
fn dropping_gives_tokens_back_and_a_debit_is_not_forgiven() {
    let (limiter, id) = (limiter(), identity("k", 60, 600, 2));
    drop(limiter.reserve(&id, 600, 0).unwrap());
    assert_eq!(limiter.headers(&id, 0).remaining_tokens, 600);
    let reservation = limiter.reserve(&id, 1, 0).unwrap();
    reservation.settle(601, 60_000);
    assert_eq!(limiter.headers(&id, 60_000).remaining_tokens, 0);
    assert_eq!(limiter.headers(&id, 61_000).remaining_tokens, 10);
}

#[test]
fn a_limit_of_zero_admits_nothing_for_ever() {
    let limiter = limiter();
    for id in [identity("k", 0, 1, 1), identity("k", 1, 0, 1), identity("k", 1, 1, 0)] {
        assert_eq!(limiter.reserve(&id, 1, 0).unwrap_err().retry_after_ms, None);
    }
}

#[test]
fn a_changed_limit_applies_at_once_and_idle_scopes_are_forgotten() {
    let limiter = limiter();
    drop(limiter.reserve(&identity("k", 10, 100, 1), 1, 0).unwrap());
    assert_eq!(limiter.headers(&identity("k", 5, 100, 1), 0).remaining_requests, 4);
    assert_eq!(limiter.headers(&identity("k", 20, 100, 1), 0).remaining_requests, 19);
    for n in 0..3 * SWEEP_EVERY {
        drop(limiter.reserve(&identity(&format!("k{n}"), 60, 100, 1), 1, u64::from(n) * 60_000));
    }
    assert!(limiter.scopes() <= SWEEP_EVERY as usize + 3, "{}", limiter.scopes());
}

#[derive(Clone, Debug)]
enum Step {
    Reserve { tokens: u32 },
    Settle { which: usize, actual: u32 },
    Drop { which: usize },
    Wait { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u32..80).prop_map(|tokens| Step::Reserve { tokens }),
        2 => (0_usize..8, 0_u32..80).prop_map(|(which, actual)| Step::Settle { which, actual }),
        1 => (0_usize..8).prop_map(|which| Step::Drop { which }),
        3 => (0_u64..30_000).prop_map(|ms| Step::Wait { ms }),
    ]
}

proptest! {
    /// L1: in any window, admitted ≤ burst + rate × length, for requests and for tokens (as finally used, where no
    /// more was used than reserved).
    #[test]
    fn no_window_admits_too_much(steps in proptest::collection::vec(step(), 1..150)) {
        let (requests, tokens, concurrency) = (7, 100, 3);
        let (limiter, id) = (limiter(), identity("k", requests, tokens, concurrency));
        let (mut now_ms, mut held, mut used) = (0_u64, Vec::new(), Vec::<(u64, u32)>::new());
        for step in steps {
            match step {
                Step::Wait { ms } => now_ms += ms,
                Step::Reserve { tokens } => match limiter.reserve(&id, tokens, now_ms) {
                    Ok(reservation) => {
                        held.push((reservation, used.len()));
                        used.push((now_ms, tokens));
                    }
                    // L3: obeying the advice succeeds when nothing else happens.
                    Err(error) if error.kind != LimitKind::Concurrency => {
                        let wait_ms = error.retry_after_ms.expect("fits the bucket");
                        let early = limiter.reserve(&id, tokens, now_ms + wait_ms - 1);
                        prop_assert!(early.is_err());
                        now_ms += wait_ms;
                        if let Err(again) = limiter.reserve(&id, tokens, now_ms) {
                            prop_assert_eq!(again.kind, LimitKind::Concurrency);
                        } else {
                            used.push((now_ms, 0));
                        }
                    }
                    Err(_) => {}
                },
                Step::Settle { which, actual } if which < held.len() => {
                    let (reservation, at) = held.remove(which);
                    used[at].1 = actual.min(reservation.tokens());
                    reservation.settle(used[at].1, now_ms);
                }
                Step::Drop { which } if which < held.len() => used[held.remove(which).1].1 = 0,
                Step::Settle { .. } | Step::Drop { .. } => {}
            }
            prop_assert!(held.len() <= concurrency as usize);
            prop_assert_eq!(limiter.in_flight(&id).0 as usize, held.len());
        }
        for (first, &(from, _)) in used.iter().enumerate() {
            let mut sums = (0_u64, 0_u64);
            for &(at, amount) in &used[first..] {
                sums = (sums.0 + 1, sums.1 + u64::from(amount));
                let window_ms = at - from;
                prop_assert!(sums.0 * 60_000 <= u64::from(requests) * (60_000 + window_ms));
                prop_assert!(sums.1 * 60_000 <= u64::from(tokens) * (60_000 + window_ms));
            }
        }
    }

    /// A scope never refuses for ever what fits, and never goes wrong at the ends of the number range.
    #[test]
    fn extremes_do_not_overflow(limit: u32, tokens: u32, actual: u32, at: u64, later: u64) {
        let (limiter, id) = (limiter(), identity("k", u32::MAX, limit, u32::MAX));
        let big = Identity {
            project_limits: KeyLimits { tokens_per_minute: Some(u32::MAX), ..KeyLimits::default() },
            ..id
        };
        match limiter.reserve(&big, tokens, at) {
            Ok(reservation) => reservation.settle(actual, later),
            Err(error) => {
                // The organisation's limit is the configuration's.
                let limit = limit.min(config::Limits::default().organisation_tokens_per_minute);
                prop_assert!(tokens > limit && error.retry_after_ms.is_none());
            }
        }
        let _ = limiter.headers(&big, later);
    }
}
