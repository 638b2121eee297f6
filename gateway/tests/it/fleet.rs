//! Several gateways that keep limits together through a real Redis server, and what they do without it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gateway::accounts::{Identity, KeyLimits};
use gateway::config::{FleetSection, Limits};
use gateway::limits::{LimitKind, Limiter};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    Config, KeyOptions, Redis, Rng, Server, chat, cli, data_folder, eventually, said, seed,
};

/// Requests per minute, tokens per minute and places of the key that the limiters share.
const LIMITS: (u32, u32, u32) = (3_000, 400_000, 24);
const LEASE_PERCENT: u32 = 2;

fn identity() -> Identity {
    let limits = KeyLimits {
        requests_per_minute: Some(LIMITS.0),
        tokens_per_minute: Some(LIMITS.1),
        concurrency: Some(LIMITS.2),
    };
    Identity { key_id: "k".into(), project_id: "p".into(), org_id: "o".into(), limits, ..Identity::default() }
}

fn limiters(redis: &Redis, count: u32) -> Vec<Limiter> {
    let section = FleetSection {
        redis_url: Some(redis.url()),
        gateways: count,
        lease_percent: LEASE_PERCENT,
        ..FleetSection::default()
    };
    (0..count).map(|_| Limiter::new(&Limits::default()).join(&section).expect("join")).collect()
}

fn all(limiters: &[Limiter], shared: bool) {
    eventually("all gateways know", || limiters.iter().all(|l| l.is_shared() == Some(shared)));
}

/// One admitted request: when it was asked for, when it was admitted, what it used.
#[derive(Clone, Copy, Debug)]
struct Admitted {
    asked: Instant,
    admitted: Instant,
    tokens: u32,
}

/// Asks as fast as it can until `until`, several at once on each limiter; what was admitted, and the most in flight.
async fn drive(limiters: &[Limiter], started: Instant, until: Instant, seed: u64) -> (Vec<Admitted>, u32) {
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut tasks = Vec::new();
    for (at, limiter) in (0_u64..).zip(limiters.iter().flat_map(|limiter| std::iter::repeat_n(limiter, 12))) {
        let (limiter, running, most) = (limiter.clone(), Arc::clone(&running), Arc::clone(&most));
        let mut rng = Rng::new(seed ^ (at << 32));
        tasks.push(tokio::spawn(async move {
            let (id, mut seen) = (identity(), Vec::new());
            let now_ms = || u64::try_from(started.elapsed().as_millis()).expect("short");
            while Instant::now() < until {
                let asked = Instant::now();
                let reserved = u32::try_from(rng.between(0, 300)).expect("small");
                let Ok(reservation) = limiter.admit(&id, reserved, now_ms()).await else {
                    tokio::time::sleep(Duration::from_millis(rng.between(1, 4))).await;
                    continue;
                };
                let admitted = Instant::now();
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(rng.between(0, 20))).await;
                running.fetch_sub(1, Ordering::SeqCst);
                let tokens = match rng.between(0, 3) {
                    0 => {
                        drop(reservation);
                        0
                    }
                    1 => {
                        reservation.settle(reserved / 2, now_ms());
                        reserved / 2
                    }
                    _ => {
                        reservation.settle(reserved, now_ms());
                        reserved
                    }
                };
                seen.push(Admitted { asked, admitted, tokens });
            }
            seen
        }));
    }
    let mut seen = Vec::new();
    for task in tasks {
        seen.extend(task.await.expect("a client"));
    }
    (seen, most.load(Ordering::SeqCst))
}

/// In any window: admitted ≤ limit + rate × window + a lease for each gateway.
fn check_windows(seen: &[Admitted], gateways: u32) {
    let bound = |limit: u32, window: Duration| {
        let refill = f64::from(limit) * window.as_secs_f64() / 60.0;
        f64::from(limit) + refill + f64::from(gateways * (limit * LEASE_PERCENT / 100))
    };
    for first in seen {
        let mut inside: Vec<_> = seen.iter().filter(|a| a.asked >= first.asked).collect();
        inside.sort_by_key(|a| a.admitted);
        let (mut requests, mut tokens) = (0.0, 0.0);
        for one in inside {
            (requests, tokens) = (requests + 1.0, tokens + f64::from(one.tokens));
            let window = one.admitted - first.asked;
            let (most_requests, most_tokens) = (bound(LIMITS.0, window), bound(LIMITS.1, window));
            assert!(requests <= most_requests, "{requests} requests in {window:?}, allowed {most_requests}");
            assert!(tokens <= most_tokens, "{tokens} tokens in {window:?}, allowed {most_tokens}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_together_stay_within_each_limit_and_a_lease() {
    let redis = Redis::start();
    let (limiters, seed) = (limiters(&redis, 3), seed(0x5EED_0F1E));
    all(&limiters, true);
    let started = Instant::now();
    let (seen, most) = drive(&limiters, started, started + Duration::from_secs(4), seed).await;
    println!("seed {seed:#x}: {} admitted, at most {most} at once", seen.len());
    assert!(most <= LIMITS.2, "{most} at once, allowed {}", LIMITS.2);
    check_windows(&seen, 3);
    // What one gateway holds back unused does not keep the others from using the limit.
    let tokens: u32 = seen.iter().map(|a| a.tokens).sum();
    let is_used =
        seen.len() as u32 + 3 * 60 >= LIMITS.0 || tokens + 3 * 8_000 >= LIMITS.1 || most + 2 >= LIMITS.2;
    assert!(is_used, "{} requests, {tokens} tokens, {most} at once", seen.len());
    // Everything was given back.
    eventually("a place for everybody", || {
        let taken = limiters[0].headers(&identity(), 10_000_000);
        taken.remaining_requests > 0
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_redis_makes_limits_stricter_only() {
    let mut redis = Redis::start();
    let (limiters, seed) = (limiters(&redis, 2), seed(0x5EED_0F10));
    all(&limiters, true);
    let started = Instant::now();
    let phase = |from: u64, index: u64| (started, Instant::now() + Duration::from_millis(from), seed + index);
    let mut seen = Vec::new();
    let (begin, until, seed_1) = phase(1_000, 1);
    seen.extend(drive(&limiters, begin, until, seed_1).await.0);
    // Slow, then gone, then back with nothing in it.
    redis.freeze();
    let (begin, until, seed_2) = phase(1_500, 2);
    let frozen = drive(&limiters, begin, until, seed_2).await.0;
    all(&limiters, false);
    assert!(!frozen.is_empty(), "without Redis nothing was admitted");
    seen.extend(frozen);
    redis.thaw();
    redis.kill();
    let (begin, until, seed_3) = phase(1_500, 3);
    let gone = drive(&limiters, begin, until, seed_3).await.0;
    assert!(!gone.is_empty(), "without Redis nothing was admitted");
    seen.extend(gone);
    redis.start_empty();
    all(&limiters, true);
    let (begin, until, seed_4) = phase(1_000, 4);
    seen.extend(drive(&limiters, begin, until, seed_4).await.0);
    println!("seed {seed:#x}: {} admitted", seen.len());
    check_windows(&seen, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_limits_are_exact_and_refusals_say_when() {
    let redis = Redis::start();
    let limiters = limiters(&redis, 2);
    all(&limiters, true);
    let limits = KeyLimits { requests_per_minute: Some(4), concurrency: Some(3), ..KeyLimits::default() };
    let id = Identity { key_id: "small".into(), limits, ..identity() };
    let mut held = Vec::new();
    for at in [0, 1, 0] {
        held.push(limiters[at].admit(&id, 10, 0).await.expect("within the limits"));
    }
    let full = limiters[1].admit(&id, 10, 0).await.expect_err("no place is left");
    assert_eq!((full.kind, full.limit, full.used), (LimitKind::Concurrency, 3, 3));
    held.pop();
    let mut again = Err(full);
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        again = limiters[1].admit(&id, 10, 0).await;
        if again.is_ok() {
            break;
        }
    }
    held.push(again.expect("a place given back is free for all"));
    drop(held);
    let spent = limiters[0].admit(&id, 10, 0).await.expect_err("no request is left");
    assert_eq!((spent.kind, spent.limit, spent.used), (LimitKind::Requests, 4, 4));
    let wait = spent.retry_after_ms.expect("it will fit");
    assert!((1..=15_000).contains(&wait), "a request comes every 15 s, not in {wait} ms");
    assert_eq!(limiters[0].headers(&id, 0).remaining_requests, 0);
    let never = limiters[0].admit(&id, 2_000_000_000, 0).await.expect_err("more than the limit");
    assert_eq!((never.kind, never.retry_after_ms), (LimitKind::Tokens, None));
}

/// Data folders of two gateways with the same accounts, and a key.
pub(crate) fn two_folders(options: KeyOptions) -> ([Arc<TempDir>; 2], String) {
    let folders = [data_folder(), data_folder()];
    let arguments = options.arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let made = cli(folders[0].path(), &arguments);
    assert!(made.status.success(), "{}", said(&made));
    copy(folders[0].path(), folders[1].path());
    (folders, String::from_utf8(made.stdout).expect("a key is text").trim().to_owned())
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("list the folder") {
        let path = entry.expect("readable").path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copy");
        }
    }
}

#[test]
fn two_gateways_share_a_keys_limits_and_a_dead_one_gives_its_places_back() {
    let redis = Redis::start();
    let options = KeyOptions {
        project: "fleet",
        concurrency: Some(2),
        requests_per_minute: Some(20),
        ..KeyOptions::default()
    };
    let (folders, key) = two_folders(options);
    let config = Config::new()
        .with("fleet", "redis_url", &format!("\"{}\"", redis.url()))
        .with("fleet", "place_ttl_s", "2")
        .with("fleet", "timeout_ms", "5000");
    let [mut first, second] = folders.map(|folder| Server::start_in(folder, &config));
    for server in [&first, &second] {
        eventually("limits are shared", || server.metric("spillway_limits_shared") == Some(1.0));
    }
    let small = chat("Hi", json!({"max_tokens": 1}));
    let long = chat("Tell a story.", json!({"max_tokens": 2_000, "stream": true, "ignore_eos": true}));
    let mut streams = [first.events(&key, &long), first.events(&key, &long)];
    for stream in &mut streams {
        stream.next().expect("an event").expect("an event");
    }
    let refused = second.chat(&key, &small);
    assert_eq!(
        (refused.status(), refused.code().as_str()),
        (429, "rate_limit_exceeded"),
        "{}",
        refused.text()
    );
    // Two requests are taken; kill -9 lets nobody give the places back.
    first.kill_hard();
    let mut served = 0;
    eventually("the places of the dead gateway are free", || {
        let status = second.chat(&key, &small).status();
        served += u32::from(status == 200);
        status == 200
    });
    for _ in 0..60 {
        served += u32::from(second.chat(&key, &small).status() == 200);
    }
    // 20 a minute less the two of the other gateway, and what refills meanwhile.
    assert!((10..=30).contains(&served), "{served} requests were served");
    second.verify();
}
