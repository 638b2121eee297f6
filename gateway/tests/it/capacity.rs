//! What a machine can serve: measured by command, told by route.

use serde_json::{Value, json};

use crate::support::{Config, KeyOptions, Server, command, data_folder, eventually, model_id, said};

fn tier<'a>(capacity: &'a Value, name: &str) -> &'a Value {
    let tiers = capacity["data"][0]["tiers"].as_array().expect("tiers");
    tiers.iter().find(|tier| tier["service_tier"] == name).unwrap_or(&Value::Null)
}

#[test]
fn what_is_measured_is_told_with_what_is_left() {
    let config = Config::new().with("engine", "max_num_seqs", "4").with("engine", "kv_cache_mib", "64");
    let data = data_folder();
    let file = data.path().join("calibrate.toml");
    std::fs::write(&file, config.render()).expect("write the configuration");
    let output =
        command(data.path()).arg("calibrate").arg("--config").arg(&file).output().expect("calibrate");
    assert!(output.status.success(), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("output tok/s"), "{}", said(&output));
    assert!(data.path().join("capacity.svg").exists());

    let server = Server::start_in(data, &config);
    let key = server.key(KeyOptions { project: "capacity", ..KeyOptions::default() });
    let idle = server.fetch("/v1/capacity", &key).ok();
    let model = &idle["data"][0];
    assert_eq!((&model["model"], &model["max_concurrent"]), (&json!(model_id()), &json!(4)));
    assert_eq!(model["kv_tokens"]["free"], model["kv_tokens"]["total"]);
    let points = model["measured"]["points"].as_array().expect("points");
    let sizes: Vec<u64> = points.iter().filter_map(|point| point["sequences"].as_u64()).collect();
    assert_eq!(sizes, [1, 2, 4]);
    assert!(points.iter().all(|point| point["output_tokens_per_second"].as_f64() > Some(0.0)), "{points:?}");
    let names: Vec<&Value> =
        model["tiers"].as_array().expect("tiers").iter().map(|tier| &tier["service_tier"]).collect();
    assert_eq!(names, ["priority", "default", "flex", "batch"]);
    assert_eq!(
        (&tier(&idle, "flex")["level"], &tier(&idle, "flex")["free_concurrent"]),
        (&json!("high"), &json!(4))
    );

    let long =
        crate::support::chat("Hi", json!({"max_tokens": 600, "ignore_eos": true, "stream": true, "n": 4}));
    let stream = server.events(&key, &long);
    eventually("all places are taken", || {
        tier(&server.fetch("/v1/capacity", &key).ok(), "default")["running"] == 4
    });
    let busy = server.fetch("/v1/capacity", &key).ok();
    assert_eq!(tier(&busy, "default")["level"], "limit_reached");
    assert!(tier(&busy, "default")["expected_wait_ms"].as_u64() > Some(0));
    assert_eq!(tier(&busy, "priority")["free_concurrent"], 4, "lower tiers make room");
    assert_eq!(tier(&busy, "internal"), &Value::Null, "not this project's");
    drop(stream);
    eventually("all places are free", || {
        tier(&server.fetch("/v1/capacity", &key).ok(), "batch")["level"] == "high"
    });
}
