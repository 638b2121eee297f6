//! The device that generating models run on.

use serde_json::json;

use crate::support::{Config, KeyOptions, Server, chat, command, data_folder, said};

#[test]
fn a_device_that_is_not_there_refuses_to_start() {
    let data = data_folder();
    let file = data.path().join("device.toml");
    for (literal, named) in [
        ("\"cuda:63\"", "engine.device = \"cuda:63\": no CUDA device:"),
        ("\"gpu\"", "\"gpu\" must be \"auto\", \"cpu\" or \"cuda:\""),
    ] {
        std::fs::write(&file, Config::new().with("engine", "device", literal).render()).expect("written");
        let output = command(data.path()).args(["serve", "--config"]).arg(&file).output().expect("runs");
        assert!(!output.status.success(), "{literal} was taken");
        assert!(said(&output).contains(named), "{literal}: {}", said(&output));
    }
}

#[test]
fn without_a_device_the_cpu_serves_and_says_so() {
    let server = Server::start(&Config::new().with("engine", "device", "\"auto\""));
    let key = server.key(KeyOptions::default());
    assert_eq!(server.chat(&key, &chat("Hi", json!({"max_tokens": 2}))).status(), 200);
    let printed = server.printed();
    // A build that cannot use a device has nothing to warn of.
    let warnings = usize::from(cfg!(feature = "cuda"));
    assert_eq!(printed.matches("serving on the CPU: no CUDA device: ").count(), warnings, "{printed}");
}
