//! Answers that nobody waits for: they go on, can be looked at from any event on, ended, and are billed for what they are.

use serde_json::{Value, json};

use super::{ask, body, id, path, text};
use crate::support::{Config, KeyOptions, Server, eventually, shared};

/// Goes on to its limit, so that a test knows how long it is.
fn long(tokens: u32, extra: Value) -> Value {
    let base = json!({"background": true, "max_output_tokens": tokens, "ignore_eos": true, "input": "Tell a long story."});
    crate::support::merged(base, extra)
}

fn fetched(server: &Server, key: &str, response: &Value) -> Value {
    server.fetch(&path(response), key).ok()
}

fn ended(server: &Server, key: &str, response: &Value) -> Value {
    let mut last = Value::Null;
    eventually("the response ends", || {
        last = fetched(server, key, response);
        !matches!(last["status"].as_str(), Some("queued" | "in_progress"))
    });
    last
}

#[test]
fn it_goes_on_without_a_client_and_is_billed() {
    let (server, key) = shared();
    let reply = ask(server, key, long(40, json!({})));
    let begun = reply.ok();
    assert_eq!((&begun["status"], &begun["background"]), (&json!("in_progress"), &json!(true)));
    let done = ended(server, key, &begun);
    assert_eq!((&done["status"], &done["usage"]["output_tokens"]), (&json!("incomplete"), &json!(40)));
    assert_eq!(done["incomplete_details"]["reason"], "max_output_tokens");
    assert!(!text(&done).is_empty());
    assert_eq!(server.row(reply.header("x-request-id").expect("an id")).usage.completion, 40);
    let next = ask(server, key, json!({"previous_response_id": id(&done)}));
    assert!(next.ok()["usage"]["input_tokens"].as_u64() > Some(40));
    // Not made as a stream, so it cannot be streamed.
    assert_eq!(server.fetch(&format!("{}?stream=true", path(&done)), key).status(), 400);
    // Ending what has ended changes nothing.
    let again = server.post(&format!("{}/cancel", path(&done)), key, &json!({})).ok();
    assert_eq!(again, done);
}

#[test]
fn a_stream_that_was_left_can_be_resumed_from_any_event_on() {
    let (server, key) = shared();
    let stream = body(long(60, json!({"stream": true})));
    let mut left = server.try_events("/v1/responses", key, &stream).expect("a stream");
    let request_id = left.request_id();
    let mut seen = vec![left.next_named().expect("an event")];
    let begun = seen[0]["response"].clone();
    while seen.len() < 8 {
        seen.push(left.next_named().expect("an event"));
    }
    drop(left);
    let resume = |after: usize| format!("{}?stream=true&starting_after={after}", path(&begun));
    seen.extend(server.fetch_events(&resume(7), key).named());
    for (i, event) in seen.iter().enumerate() {
        assert_eq!(event["sequence_number"], i);
    }
    let end = &seen[seen.len() - 1];
    assert_eq!(
        (&end["type"], &end["response"]["usage"]["output_tokens"]),
        (&json!("response.incomplete"), &json!(60))
    );
    let told: String = seen
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .filter_map(|event| event["delta"].as_str())
        .collect();
    assert_eq!(told, text(&end["response"]));
    // The same again from the store, whole and in part.
    assert_eq!(server.fetch_events(&format!("{}?stream=true", path(&begun)), key).named(), seen);
    assert_eq!(server.fetch_events(&resume(7), key).named(), seen[8..]);
    assert!(server.fetch_events(&resume(100_000), key).named().is_empty());
    assert_eq!(server.row(&request_id).usage.completion, 60, "leaving must not end it");
}

#[test]
fn cancelling_ends_it_and_bills_what_was_generated() {
    let (server, key) = shared();
    let stream = body(long(1_500, json!({"stream": true})));
    let mut events = server.try_events("/v1/responses", key, &stream).expect("a stream");
    let begun = events.next_named().expect("an event")["response"].clone();
    let mut deltas = 0;
    while deltas < 5 {
        deltas += u64::from(events.next_named().expect("an event")["type"] == "response.output_text.delta");
    }
    let cancelled = server.post(&format!("{}/cancel", path(&begun)), key, &json!({})).ok();
    assert_eq!(
        (&cancelled["status"], &cancelled["output"][0]["status"]),
        (&json!("cancelled"), &json!("incomplete"))
    );
    assert_eq!(fetched(server, key, &begun), cancelled);
    let rest = events.named();
    assert_eq!(rest.last().expect("an end")["response"], cancelled);
    let row = server.row(&events.request_id());
    assert_eq!(Some(row.usage.completion), cancelled["usage"]["output_tokens"].as_u64());
    assert!((5..1_500).contains(&row.usage.completion), "{row:?}");
    let next = ask(server, key, json!({"previous_response_id": id(&begun)}));
    assert_eq!(next.code(), "invalid_value", "a cancelled answer was continued");
    // Deleting one in the making ends it, too.
    let begun = ask(server, key, long(1_500, json!({}))).ok();
    server.delete(&path(&begun), key).ok();
    assert_eq!(server.fetch(&path(&begun), key).status(), 404);
    eventually("all slots are free", || server.running() == 0);
}

#[test]
fn what_a_crash_interrupts_has_failed_and_costs_nothing() {
    let mut server = Server::start(&Config::new());
    let key = server.key(KeyOptions { project: "crash", ..KeyOptions::default() });
    let reply = ask(&server, &key, long(1_500, json!({})));
    let begun = reply.ok();
    let stream = body(long(1_500, json!({"stream": true})));
    let mut events = server.try_events("/v1/responses", &key, &stream).expect("a stream");
    let streamed = events.next_named().expect("an event")["response"].clone();
    while events.next_named().expect("an event")["type"] != "response.output_text.delta" {}
    server.kill_hard();
    server.exit_status();
    let server = Server::start_in(server.data(), &Config::new());
    for response in [&begun, &streamed] {
        let failed = fetched(&server, &key, response);
        assert_eq!((&failed["status"], &failed["error"]["code"]), (&json!("failed"), &json!("server_error")));
    }
    let resumed =
        server.fetch_events(&format!("{}?stream=true&starting_after=3", path(&streamed)), &key).named();
    assert_eq!((resumed.len(), &resumed[0]["type"]), (1, &json!("response.failed")));
    assert_eq!(resumed[0]["sequence_number"], 4);
    let rows = server.export();
    assert!(rows.iter().all(|row| row.cost_picos == 0), "{rows:?}");
    server.verify();
}

#[test]
fn a_server_that_goes_down_lets_it_end_first() {
    let mut server = Server::start(&Config::new());
    let key = server.key(KeyOptions { project: "drain", ..KeyOptions::default() });
    let begun = ask(&server, &key, long(200, json!({}))).ok();
    server.terminate();
    assert!(server.exit_status().success());
    // Where its time is over, it has failed and costs nothing.
    let mut hasty = Server::start_in(server.data(), &Config::new().with("server", "drain_seconds", "0"));
    let done = fetched(&hasty, &key, &begun);
    assert_eq!((&done["status"], &done["usage"]["output_tokens"]), (&json!("incomplete"), &json!(200)));
    let reply = ask(&hasty, &key, long(1_500, json!({})));
    hasty.terminate();
    hasty.exit_status();
    let server = Server::start_in(hasty.data(), &Config::new());
    let failed = fetched(&server, &key, &reply.ok());
    assert_eq!(failed["status"], "failed", "{failed}");
    let id = reply.header("x-request-id").expect("an id");
    assert!(server.export().iter().all(|row| row.request_id != id || row.cost_picos == 0));
    server.verify();
}

#[test]
fn refusals_come_at_once() {
    let (server, _) = shared();
    let poor = server.key(KeyOptions {
        project: "bg-poor",
        budget: Some("0.000000000001"),
        ..KeyOptions::default()
    });
    assert_eq!(ask(server, &poor, long(10, json!({}))).code(), "insufficient_quota");
    let some =
        server.key(KeyOptions { project: "bg-some", budget: Some("0.00002"), ..KeyOptions::default() });
    let begun = ask(server, &some, long(1_000, json!({}))).ok();
    let done = ended(server, &some, &begun);
    assert_eq!((&done["status"], &done["error"]), (&json!("incomplete"), &Value::Null), "the budget ends it");
    let tokens = done["usage"]["output_tokens"].as_u64().expect("a count");
    assert!((16..60).contains(&tokens), "{tokens} tokens");
}
