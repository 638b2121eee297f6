//! Service tiers as a customer sees them: who may use which, which one serves, and what it costs.

use serde_json::json;

use crate::support::{Config, KeyOptions, Server, chat, eventually, model_id};

#[test]
fn the_tier_that_serves_is_named_billed_and_counted() {
    let server = Server::start(&Config::new());
    let key = server.key(KeyOptions { project: "tiers", ..KeyOptions::default() });
    // Prompts of one length that share no beginning, so that only the tier changes the price.
    let ask = |word: &str, extra: serde_json::Value| {
        let reply = server.chat(&key, &chat(word, extra));
        let row = server.row(reply.header("x-request-id").expect("an id"));
        (reply.ok()["service_tier"].as_str().map(str::to_owned), row)
    };
    let fixed = |tier: Option<&str>| match tier {
        None => json!({"max_tokens": 4, "ignore_eos": true}),
        Some(tier) => json!({"max_tokens": 4, "ignore_eos": true, "service_tier": tier}),
    };
    let price = |percent: i64, row: &crate::support::Row| {
        let usage = row.usage;
        let uncached = (usage.prompt - usage.cached) as i64;
        (uncached * 100_000 + usage.cached as i64 * 50_000 + usage.completion as i64 * 400_000) * percent
            / 100
    };
    for (asked, served, percent) in [
        (None, "default", 100),
        (Some("auto"), "default", 100),
        (Some("standard"), "default", 100),
        (Some("flex"), "flex", 50),
        (Some("priority"), "priority", 175),
        (Some("fast"), "priority", 175),
    ] {
        let (told, row) = ask("Hello", fixed(asked));
        assert_eq!(told.as_deref(), Some(served), "asked for {asked:?}");
        assert_eq!(row.cost_picos as i64, price(percent, &row), "asked for {asked:?}: {row:?}");
    }
    let metrics = server.admin_get("/metrics").text();
    assert!(metrics.contains("spillway_tier_tokens_total{tier=\"flex\",class=\"output\"} 4"), "{metrics}");
    assert!(metrics.contains("spillway_tier_time_to_first_token_seconds_count{tier=\"priority\"} 2"));
    server.verify();
}

#[test]
fn projects_use_only_the_tiers_that_they_have() {
    let config = Config::new().with("tiers", "allowed", "[\"default\"]").with(
        "tiers",
        "tenant",
        "[{ name = \"acme/own\", allowed = [\"internal\", \"batch\"], default = \"flex\" }]",
    );
    let server = Server::start(&config);
    let plain = server.key(KeyOptions { project: "plain", ..KeyOptions::default() });
    let own = server.key(KeyOptions { org: Some("acme"), project: "own", ..KeyOptions::default() });
    let ask =
        |key: &str, tier: &str| server.chat(key, &chat("Hi", json!({"max_tokens": 2, "service_tier": tier})));
    for tier in ["flex", "priority", "internal", "scale", "gold"] {
        let reply = ask(&plain, tier);
        assert_eq!(reply.status(), 400, "{tier}");
        let error = &reply.json()["error"];
        assert_eq!((&error["param"], &error["code"]), (&json!("service_tier"), &json!("unsupported_value")));
    }
    assert_eq!(ask(&own, "auto").ok()["service_tier"], "flex");
    assert_eq!(ask(&own, "internal").ok()["service_tier"], "internal");
    assert_eq!(ask(&own, "default").status(), 400);
    assert!(server.export().iter().all(|row| row.cost_picos > 0), "what was refused is not in the bill");
}

#[test]
fn missed_targets_are_counted_and_burn() {
    let config =
        Config::new().with("slo", "default_first_token_ms", "1").with("slo", "priority_first_token_ms", "0");
    let server = Server::start(&config);
    let key = server.key(KeyOptions { project: "slo", ..KeyOptions::default() });
    server.chat(&key, &chat("Hi", json!({"max_tokens": 2}))).ok();
    server.chat(&key, &chat("Hi", json!({"max_tokens": 2, "service_tier": "priority"}))).ok();
    let metrics = server.admin_get("/metrics").text();
    for line in [
        "spillway_slo_events_total{tier=\"default\",target=\"first_token\"} 1",
        "spillway_slo_misses_total{tier=\"default\",target=\"first_token\"} 1",
        "spillway_slo_burn_rate{tier=\"default\",target=\"first_token\",window=\"5m\"} 100.0000",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert!(!metrics.contains("tier=\"priority\",target=\"first_token\""), "nothing was promised");
}

#[test]
fn the_flex_price_follows_what_is_free_and_is_billed_as_told() {
    // Four places and one step: with all free flex costs the floor, with one the cap.
    let config = Config::new().with("engine", "max_num_seqs", "4").with("spot", "steps", "1").with(
        "spot",
        "model",
        &format!("[{{ id = {:?}, floor_percent = 20, cap_percent = 90 }}]", model_id()),
    );
    let server = Server::start(&config);
    let key = server.key(KeyOptions { project: "spot", ..KeyOptions::default() });
    let ask = |word: &str| {
        let reply = server
            .chat(&key, &chat(word, json!({"max_tokens": 3, "ignore_eos": true, "service_tier": "flex"})));
        let told = reply.header("x-price-usd-per-million").expect("the price").to_owned();
        let version = reply.header("x-price-version").expect("the price version").to_owned();
        reply.ok();
        let row = server.row(reply.header("x-request-id").expect("an id"));
        assert_eq!(row.raw["price_version"], version);
        assert_eq!(
            row.raw["output_usd_per_million"].as_str().map(|usd| format!("output={usd}")),
            told.rsplit(", ").next().map(str::to_owned)
        );
        (told, row)
    };
    let check = |percent: i128, (told, row): (String, crate::support::Row), expected: &str| {
        assert_eq!(told, expected);
        let (uncached, cached) = (row.usage.prompt - row.usage.cached, row.usage.cached);
        let whole = i128::from(uncached) * 100_000
            + i128::from(cached) * 50_000
            + i128::from(row.usage.completion) * 400_000;
        assert_eq!(row.cost_picos * 100, whole * percent);
    };
    check(20, ask("One"), "uncached_input=0.02, cached_input=0.01, output=0.08");
    let long = json!({"max_tokens": 1_900, "n": 3, "ignore_eos": true, "stream": true});
    // Where the machine was away meanwhile, the three have ended.
    let mut risen = (0..20).map(|turn| {
        let mut busy = server.events(&key, &chat(&format!("Go on {turn}."), long.clone()));
        busy.next().expect("an event").expect("an event");
        ask(&format!("Two {turn}"))
    });
    let risen = risen.find(|(told, _)| told.ends_with("output=0.36"));
    check(90, risen.expect("the price rises"), "uncached_input=0.09, cached_input=0.045, output=0.36");
    eventually("all places are free", || server.running() == 0);
    check(20, ask("Three"), "uncached_input=0.02, cached_input=0.01, output=0.08");
    let other = server.chat(&key, &chat("Four", json!({"max_tokens": 2})));
    assert_eq!(
        other.header("x-price-usd-per-million"),
        Some("uncached_input=0.1, cached_input=0.05, output=0.4")
    );
    server.verify();
}
