use super::super::RateHeaders;
use super::ask::{Grant, Pair};
use super::*;

const SHARING: Sharing = Sharing { lease_percent: 10, gateways: 2 };

fn pool() -> Pool {
    Pool::new(Caps { requests: 60, tokens: 600, concurrency: 4 }, 0)
}

/// What the script would answer where it takes everything wanted.
fn all(ask: &Ask) -> Grant {
    let [requests, tokens, places] = ask.want.map(i64::from);
    Grant::read(&[requests, tokens, places, 0, 0, 0])
}

fn left(pool: &Pool) -> (u32, u32) {
    // Nothing is left to others, so the headers show the lease alone.
    let headers = pool.headers(None, 0).unwrap_or_default();
    (headers.remaining_requests, headers.remaining_tokens)
}

#[test]
fn the_first_request_asks_for_a_lease_and_the_next_take_from_it() {
    let mut pool = pool();
    assert!(!pool.covers(100, None));
    let (ask, hand) = pool.ask("k", 100, SHARING);
    assert_eq!((ask.need, ask.want), ([1, 100, 1], [7, 160, 1]));
    // A second one that asks meanwhile asks for itself only.
    let (second, second_hand) = pool.ask("k", 50, SHARING);
    assert_eq!((second.need, second.want), ([1, 50, 1], [1, 50, 1]));
    pool.answered(&ask, hand, all(&ask), true, 0);
    pool.answered(&second, second_hand, all(&second), true, 0);
    assert_eq!((left(&pool), pool.in_use), ((6, 60), 2));
    // The place of one that ended serves the next, and so does what it left unused, up to a lease.
    pool.release(SHARING, (100, 0), 0, true, false);
    assert_eq!(left(&pool), (6, 60));
    assert!(pool.covers(60, None) && !pool.covers(61, None));
    pool.take(60, false);
    assert_eq!((left(&pool), pool.in_use), ((5, 0), 2));
    // 100 unused, nothing of them refilled in no time: all are told to the others.
    let report = pool.report("k", SHARING, 1_000, 0).unwrap();
    assert_eq!(report.back, Pair { requests: 0, tokens: 100 * 60_000 });
    assert_eq!(pool.report("k", SHARING, 1_000, 0).map(|ask| ask.numbers()), None);
}

#[test]
fn a_refusal_changes_nothing_and_says_how_long() {
    let mut pool = pool();
    let (ask, hand) = pool.ask("k", 100, SHARING);
    let grant = Grant::read(&[0, 0, 0, 30_000, 40 * 60_000, 0]);
    pool.answered(&ask, hand, grant, false, 0);
    assert_eq!((left(&pool), pool.in_use), ((0, 40), 0));
    let refusals = pool.refusals(Scope::Key, 100, Some((&ask, grant)), SHARING);
    let said: Vec<_> = refusals.iter().map(|e| (e.kind, e.used, e.retry_after_ms)).collect();
    assert_eq!(
        said,
        [
            (super::super::LimitKind::Requests, 60, Some(500)),
            (super::super::LimitKind::Tokens, 560, Some(6_000)),
            (super::super::LimitKind::Concurrency, 4, Some(1_000)),
        ]
    );
}

#[test]
fn a_debit_is_reported_even_when_the_first_report_is_lost() {
    let mut pool = pool();
    let (ask, hand) = pool.ask("k", 10, SHARING);
    pool.answered(&ask, hand, Grant::read(&[1, 10, 1, 0, 0, 3]), true, 0);
    pool.release(SHARING, (10, 25), 0, true, false);
    let debit = Pair { requests: 0, tokens: -15 * 60_000 };
    let report = pool.report("k", SHARING, 1_000, 0).unwrap();
    assert_eq!((report.back, report.places_back), (debit, 1));
    pool.lost(&report);
    assert_eq!(pool.report("k", SHARING, 1_000, 0).unwrap().back, debit);
}

#[test]
fn without_redis_a_gateway_has_its_part_of_the_rate_and_pays_for_it_later() {
    let mut pool = pool();
    pool.went_away();
    pool.refill(SHARING, 1_000, 1_000);
    assert!(!pool.covers(0, Some(SHARING)));
    // 30 requests and 300 tokens a minute.
    pool.refill(SHARING, 1_000, 3_000);
    assert!(pool.covers(10, Some(SHARING)) && !pool.covers(11, Some(SHARING)));
    pool.take(10, true);
    let refusals = pool.refusals(Scope::Key, 10, None, SHARING);
    assert_eq!(refusals.iter().map(|e| e.retry_after_ms).max(), Some(Some(2_000)));
    for at in 1..1_000 {
        pool.refill(SHARING, 1_000, 3_000 + at * 7);
    }
    assert_eq!(pool.headers(Some(SHARING), 0).map(|h: RateHeaders| h.remaining_tokens), Some(34));
    let ask = pool.resync("k", SHARING, 9_993).unwrap();
    assert_eq!(ask.back, Pair { requests: -60_000, tokens: -600_000 });
    assert_eq!((ask.places, pool.in_use), (Some(1), 1));
    // The part that was not used is gone: it was never taken from the common limit.
    pool.came_back();
    assert!(!pool.covers(1, None));
}
