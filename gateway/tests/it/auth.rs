//! Who may ask.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::support::{Config, KeyOptions, Reply, Server, chat, eventually, said, shared};

fn check_refused(name: &str, reply: &Reply) {
    assert_eq!((reply.status(), reply.code().as_str()), (401, "invalid_api_key"), "{name}: {}", reply.text());
    assert!(reply.header("www-authenticate").is_some(), "{name}: no WWW-Authenticate in {:?}", reply.head);
}

fn ask(server: &Server, headers: &[(&str, &str)]) -> Reply {
    let body = chat("Hi", json!({"max_tokens": 1}));
    server.post_raw("/v1/chat/completions", headers, body.to_string().as_bytes())
}

#[test]
fn wrong_keys_are_refused() {
    let (server, key) = shared();
    let bearer = format!("Bearer {key}");
    let close = format!("Bearer {}", flip_last(key));
    let longer = format!("Bearer {key}x");
    let cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("no key", vec![]),
        ("basic", vec![("Authorization", "Basic dXNlcjpwYXNz")]),
        ("empty bearer", vec![("Authorization", "Bearer ")]),
        ("bearer alone", vec![("Authorization", "Bearer")]),
        ("no scheme", vec![("Authorization", key)]),
        ("two headers", vec![("Authorization", &bearer), ("Authorization", &bearer)]),
        ("two different headers", vec![("Authorization", &bearer), ("Authorization", "Bearer sk-sw-x")]),
        ("one letter off", vec![("Authorization", &close)]),
        ("one letter more", vec![("Authorization", &longer)]),
        ("another maker's", vec![("Authorization", "Bearer sk-proj-abcdefghijklmnopqrstuvwxyz")]),
        ("injection", vec![("Authorization", "Bearer ' OR 1=1--")]),
        ("a quote", vec![("Authorization", "Bearer sk-sw-\"'`;")]),
        ("not ASCII", vec![("Authorization", "Bearer sk-sw-ключ")]),
        ("empty api-key", vec![("api-key", "")]),
        ("wrong api-key", vec![("api-key", "sk-sw-x")]),
        ("wrong x-api-key", vec![("x-api-key", "sk-sw-x")]),
        ("right and wrong at once", vec![("Authorization", &bearer), ("x-api-key", "sk-sw-x")]),
    ];
    for (name, headers) in cases {
        check_refused(name, &ask(server, &headers));
    }
    let huge = format!("Bearer sk-sw-{}", "x".repeat(65_536));
    let reply = ask(server, &[("Authorization", &huge)]);
    assert!([400, 401, 431].contains(&reply.status()), "64 KB key: {}", reply.status());
    // A key in the address would end in logs.
    let in_query = server.post_raw(&format!("/v1/chat/completions?api_key={key}"), &[], b"{}");
    check_refused("key in the query", &in_query);
}

fn flip_last(key: &str) -> String {
    let (rest, last) = key.split_at(key.len() - 1);
    format!("{rest}{}", if last == "a" { "b" } else { "a" })
}

#[test]
fn a_wrong_key_learns_nothing_about_the_request() {
    let (server, _) = shared();
    let replies: Vec<Reply> = ["{}", "not json", "{\"model\":\"x\"}"]
        .into_iter()
        .map(|body| {
            server.post_raw("/v1/chat/completions", &[("Authorization", "Bearer sk-sw-x")], body.as_bytes())
        })
        .collect();
    for reply in &replies {
        check_refused("wrong key", reply);
        assert_eq!(reply.text(), replies[0].text());
    }
}

#[test]
fn a_key_is_taken_from_each_of_the_three_headers() {
    let (server, key) = shared();
    let bearer = format!("Bearer {key}");
    let lower = format!("bearer {key}");
    for header in
        [("Authorization", bearer.as_str()), ("authorization", &lower), ("api-key", key), ("X-Api-Key", key)]
    {
        let reply = ask(server, &[header]);
        assert_eq!(reply.status(), 200, "{}: {}", header.0, reply.text());
    }
}

#[test]
fn a_revoked_key_stops_working() {
    let (server, _) = shared();
    let key = server.key(KeyOptions { project: "revoked", name: Some("to-revoke"), ..KeyOptions::default() });
    let bearer = format!("Bearer {key}");
    assert_eq!(ask(server, &[("Authorization", &bearer)]).status(), 200);
    let id = crate::cli::key_id(server, "to-revoke");
    assert!(server.cli(&["keys", "revoke", &id]).status.success());
    eventually("the revoked key is refused", || ask(server, &[("Authorization", &bearer)]).status() == 401);
    check_refused("revoked", &ask(server, &[("Authorization", &bearer)]));
    // Revoking twice is no error, revoking nothing is one.
    assert!(server.cli(&["keys", "revoke", &id]).status.success());
    assert!(!server.cli(&["keys", "revoke", "key_none"]).status.success());
}

#[test]
fn a_new_key_works_at_once() {
    let (server, _) = shared();
    for i in 0..3 {
        // A script that makes a key uses it in its next line, and client libraries do not retry a 401.
        let output = server.cli(&["keys", "create", "--project", "fresh"]);
        assert!(output.status.success(), "{}", said(&output));
        let key = String::from_utf8(output.stdout).expect("a key is text");
        let reply = ask(server, &[("Authorization", &format!("Bearer {}", key.trim()))]);
        assert_eq!(reply.status(), 200, "key {i}: {}", reply.text());
    }
}

#[test]
fn an_expired_key_is_refused() {
    let (server, _) = shared();
    let soon = SystemTime::now() + Duration::from_secs(3);
    let seconds = soon.duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let key = server.key(KeyOptions {
        project: "expiring",
        expires: Some(&rfc3339(seconds)),
        ..KeyOptions::default()
    });
    let bearer = format!("Bearer {key}");
    eventually("the key expires", || ask(server, &[("Authorization", &bearer)]).status() == 401);
    let reply = ask(server, &[("Authorization", &bearer)]);
    assert!(["invalid_api_key", "key_expired"].contains(&reply.code().as_str()), "{}", reply.text());
}

/// UTC time as `2026-11-24T06:00:00Z` (days to a date after the civil calendar's usual 400-year cycle).
fn rfc3339(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[test]
fn keys_are_nowhere_in_the_open() {
    let server = Server::start(&Config::new());
    let key = server.key(KeyOptions { project: "secret", ..KeyOptions::default() });
    let canary = "canary-4711-in-the-prompt";
    assert_eq!(server.chat(&key, &chat(canary, json!({"max_tokens": 2}))).status(), 200);
    check_refused("wrong", &ask(&server, &[("Authorization", &format!("Bearer {}", flip_last(&key)))]));
    let secret = key.strip_prefix("sk-sw-").expect("a key begins with sk-sw-");
    let texts = [
        ("log", server.printed()),
        ("metrics", server.admin_get("/metrics").text()),
        ("export", server.export().iter().map(|r| r.raw.to_string()).collect()),
        ("key list", said(&server.cli(&["keys", "list"]))),
    ];
    for (name, text) in texts {
        assert!(!text.contains(secret), "the key is in the {name}");
        assert!(!text.contains(canary), "the prompt is in the {name}");
    }
    for entry in std::fs::read_dir(server.data().path()).expect("list the data folder") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            let bytes = std::fs::read(&path).expect("read a data file");
            let holds = |what: &str| bytes.windows(what.len()).any(|w| w == what.as_bytes());
            assert!(!holds(secret), "the key is in {}", path.display());
            assert!(!holds(canary), "the prompt is in {}", path.display());
        }
    }
}
