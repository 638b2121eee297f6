//! Service tiers as a customer sees them: who may use which, which one serves, and what it costs.

use serde_json::json;

use crate::support::{Config, KeyOptions, Server, chat};

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
