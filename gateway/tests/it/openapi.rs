//! The document of the API, and the server held against it.

use std::process::Command;

use crate::corpus::with_context;
use crate::sdk::{CLIENTS, EMBEDDER, run_on};
use crate::support::{Config, Server, data_folder, eventually, model_id, said, schemathesis_python, shared};

#[test]
fn document_and_page_are_served_to_anybody() {
    let (server, _) = shared();
    let document = server.get("/openapi.json", &[]).ok();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/v1/chat/completions"]["post"].is_object());
    let page = server.get("/docs", &[]);
    assert_eq!(page.status(), 200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(
        page.header("content-security-policy").is_some_and(|policy| policy.contains("default-src 'none'"))
    );
    let text = page.text();
    assert!(
        text.contains("openapi.json") && !text.contains("://"),
        "the page loads something from elsewhere"
    );
}

#[test]
fn the_server_keeps_to_its_document() {
    let folder = data_folder();
    // A short context, so that a request without a limit is no long story.
    let (model, embedder) = (with_context(folder.path(), 64), models::fetch::ensure_test_embedder());
    let config = Config::new().models(&[(model_id(), &model), (EMBEDDER, &embedder)]);
    let config = config.with("leases", "unit_hour_usd", "\"0.05\"");
    let script = format!("{CLIENTS}/python/run_schemathesis.py");
    let (server, output) = run_on(&config, Command::new(schemathesis_python()).arg(script));
    assert!(output.status.success(), "the document is not kept:\n{}\n{}", said(&output), server.printed());
    eventually("all slots are free", || server.running() == 0);
    server.verify();
}

#[test]
fn the_operators_side_keeps_to_its_document() {
    let server = Server::start(&Config::new());
    let document = server.admin_get("/openapi.json").ok();
    assert!(document["paths"]["/v1/admin/organizations/{id}/credits"]["post"].is_object());
    assert_eq!(server.admin_get("/docs").status(), 200);
    let script = format!("{CLIENTS}/python/run_schemathesis.py");
    let output = Command::new(schemathesis_python())
        .arg(script)
        .env("SPILLWAY_URL", format!("http://{}/v1", server.admin))
        .env("SPILLWAY_KEY", server.admin_key())
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1")
        .output()
        .expect("the tester starts");
    assert!(output.status.success(), "the document is not kept:\n{}\n{}", said(&output), server.printed());
    server.verify();
}

#[test]
fn a_path_that_is_no_text_is_refused_in_our_shape() {
    let (server, key) = shared();
    for path in ["/v1/models/%ff", "/v1/responses/%ff", "/v1/receipts/a%C3", "/v1/nowhere/%ff"] {
        let reply = server.fetch(path, key);
        assert_eq!(
            (reply.status(), reply.code().as_str()),
            (400, "invalid_request"),
            "{path}: {}",
            reply.text()
        );
    }
}
