//! The official client libraries against the real server, and the bill against what they printed.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{Config, KeyOptions, Server, Usage, eventually, model_id, node_modules, python, said};

/// The embedder that scripts may ask for where it is served.
pub(crate) const EMBEDDER: &str = "all-minilm-l6-v2";
pub(crate) const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// Starts a server with the keys that the scripts need and runs `command` with their names in its environment.
pub(crate) fn run(command: &mut Command) -> (Server, Output) {
    run_on(&Config::new(), command)
}

/// The same with a configuration of its own.
pub(crate) fn run_on(config: &Config, command: &mut Command) -> (Server, Output) {
    let server = Server::start(config);
    let key = server.key(KeyOptions { project: "sdk", ..KeyOptions::default() });
    let limited =
        server.key(KeyOptions { project: "limited", requests_per_minute: Some(1), ..KeyOptions::default() });
    let poor =
        server.key(KeyOptions { project: "poor", budget: Some("0.000000000001"), ..KeyOptions::default() });
    let output = command
        .env_remove("OPENAI_API_KEY")
        .env_remove("OPENAI_BASE_URL")
        .env("SPILLWAY_URL", format!("http://{}/v1", server.address))
        .env("SPILLWAY_MODEL", model_id())
        .env("SPILLWAY_EMBEDDER", EMBEDDER)
        .env("SPILLWAY_KEY", key)
        .env("SPILLWAY_KEY_LIMITED", limited)
        .env("SPILLWAY_KEY_POOR", poor)
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1")
        .output()
        .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    (server, output)
}

/// The JSON of lines that begin with `label`, which may stand behind the marks of a test runner.
pub(crate) fn printed(output: &Output, label: &str) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.trim_start_matches(['#', ' ']).strip_prefix(label).map(str::to_owned))
        .map(|json| serde_json::from_str(&json).unwrap_or_else(|e| panic!("not JSON ({e}): {json}")))
        .collect()
}

/// Every usage that the script saw is one equal row; streams that it left are billed near what it read.
fn check_bill(server: &Server, output: &Output, least: usize) {
    let rows = server.export();
    let seen = printed(output, "usage ");
    assert!(seen.len() >= least, "the script printed only {} usages:\n{}", seen.len(), said(output));
    for line in &seen {
        let id = line["request_id"].as_str().expect("a request id");
        let row =
            rows.iter().find(|r| r.request_id == id).unwrap_or_else(|| panic!("{id} is not in the export"));
        assert_eq!(row.usage, Usage::of(&line["usage"]), "{id}");
    }
    let left = printed(output, "left ");
    assert!(!left.is_empty(), "the script left no stream");
    for line in &left {
        let row = server.row(line["request_id"].as_str().expect("a request id"));
        let chunks = line["content_chunks"].as_u64().expect("a count");
        let billed = row.usage.completion;
        assert!(billed + 32 >= chunks && billed < 1_500, "left after {chunks} chunks, billed {billed}");
    }
    let known: Vec<&str> = seen.iter().chain(&left).filter_map(|l| l["request_id"].as_str()).collect();
    for row in &rows {
        let known = known.contains(&row.request_id.as_str());
        assert!(known || row.cost_picos == 0, "nobody saw this bill: {row:?}");
    }
    eventually("all slots are free", || server.running() == 0);
    server.verify();
}

#[test]
fn python_client() {
    let (server, output) = run(Command::new(python()).arg(format!("{CLIENTS}/python/test_openai.py")));
    assert!(output.status.success(), "the script failed:\n{}\n{}", said(&output), server.printed());
    check_bill(&server, &output, 40);
}

#[test]
fn anthropic_client() {
    let (server, output) = run(Command::new(python()).arg(format!("{CLIENTS}/python/test_anthropic.py")));
    assert!(output.status.success(), "the script failed:\n{}\n{}", said(&output), server.printed());
    check_bill(&server, &output, 8);
}

#[test]
fn python_client_of_responses() {
    let (server, output) = run(Command::new(python()).arg(format!("{CLIENTS}/python/test_responses.py")));
    assert!(output.status.success(), "the script failed:\n{}\n{}", said(&output), server.printed());
    check_bill(&server, &output, 15);
}

#[test]
fn python_client_of_files() {
    let (_, output) = run(Command::new(python()).arg(format!("{CLIENTS}/python/test_files.py")));
    assert!(output.status.success(), "the script failed:\n{}", said(&output));
}

#[test]
fn python_client_of_batches() {
    let (server, output) = run(Command::new(python()).arg(format!("{CLIENTS}/python/test_batches.py")));
    assert!(output.status.success(), "the script failed:\n{}\n{}", said(&output), server.printed());
    server.verify();
}

fn node(script: &str, least: usize) {
    let script = format!("{CLIENTS}/node/{script}");
    let mut command = Command::new("node");
    command.args(["--test", "--test-reporter=tap", &script]).env("SPILLWAY_NODE_TOOLS", node_modules());
    let (server, output) = run(&mut command);
    assert!(output.status.success(), "the script failed:\n{}\n{}", said(&output), server.printed());
    check_bill(&server, &output, least);
}

#[test]
fn node_client() {
    node("openai.test.mjs", 40);
}

#[test]
fn node_client_of_responses() {
    node("responses.test.mjs", 6);
}
