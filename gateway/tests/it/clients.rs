//! The matrix of clients: each does what its manual shows - answers, streams, tools, forms, embeddings - against the real
//! server.

use std::process::Command;

use crate::sdk::{CLIENTS, EMBEDDER, run_on};
use crate::support::{
    Config, eventually, frameworks_python, model_id, model_path, node_modules, python, said,
};

fn passes(command: &mut Command) {
    let embedder = models::fetch::ensure_test_embedder();
    let config = Config::new().models(&[(model_id(), model_path()), (EMBEDDER, &embedder)]);
    let (server, output) = run_on(&config, command);
    assert!(output.status.success(), "the script failed:\n{}\n{}", said(&output), server.printed());
    eventually("all slots are free", || server.running() == 0);
    assert!(server.export().len() > 5, "the script asked for next to nothing:\n{}", said(&output));
    server.verify();
}

fn node(script: &str) {
    let script = format!("{CLIENTS}/node/{script}");
    let mut command = Command::new("node");
    passes(
        command.args(["--test", "--test-reporter=tap", &script]).env("SPILLWAY_NODE_TOOLS", node_modules()),
    );
}

#[test]
fn tools_with_the_python_clients() {
    passes(Command::new(python()).arg(format!("{CLIENTS}/python/test_tools.py")));
}

#[test]
fn langchain_litellm_instructor_and_llm() {
    passes(Command::new(frameworks_python()).arg(format!("{CLIENTS}/python/test_frameworks.py")));
}

#[test]
fn tools_with_the_node_clients() {
    node("tools.test.mjs");
}

#[test]
fn the_ai_sdk() {
    node("ai.test.mjs");
}
