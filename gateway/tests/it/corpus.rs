//! Hostile and mistaken requests as one table: each has its status and code, costs nothing, and leaves the server
//! serving in the memory it had.

mod bodies;
mod fields;
mod forms;
mod leases;
mod vectors;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{
    Config, KeyOptions, Reply, Server, Totals, chat, data_folder, merged, model_id, model_path,
};

/// What is sent.
pub(crate) enum Body {
    Json(Value),
    Bytes(Vec<u8>),
}

/// One line of the table.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) path: &'static str,
    pub(crate) body: Body,
    pub(crate) headers: Vec<(&'static str, String)>,
    /// Any of these statuses.
    pub(crate) status: Vec<u16>,
    /// Any of these codes; empty when the status says enough.
    pub(crate) code: Vec<&'static str>,
    /// The field that the answer has to name.
    pub(crate) param: Option<&'static str>,
}

impl Case {
    fn new(name: impl Into<String>, body: Body, status: u16) -> Self {
        Self {
            name: name.into(),
            path: "/v1/chat/completions",
            body,
            headers: Vec::new(),
            status: vec![status],
            code: Vec::new(),
            param: None,
        }
    }

    pub(crate) fn json(name: impl Into<String>, body: Value, status: u16) -> Self {
        Self::new(name, Body::Json(body), status)
    }

    pub(crate) fn bytes(name: impl Into<String>, body: impl Into<Vec<u8>>, status: u16) -> Self {
        Self::new(name, Body::Bytes(body.into()), status)
    }

    /// A proper chat request with `extra` merged over it, refused with 400.
    pub(crate) fn field(name: impl Into<String>, extra: Value) -> Self {
        Self::json(name, merged(chat("Hi", json!({})), extra), 400)
    }

    pub(crate) fn code(mut self, code: &'static str) -> Self {
        self.code.push(code);
        self
    }

    pub(crate) fn or_status(mut self, status: u16) -> Self {
        self.status.push(status);
        self
    }

    pub(crate) fn param(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn path(mut self, path: &'static str) -> Self {
        self.path = path;
        self
    }

    /// Says what is wrong with an answer, if anything.
    fn complaint(&self, reply: &Reply) -> Option<String> {
        let said =
            || format!("got {} with {}", reply.status(), reply.text().chars().take(400).collect::<String>());
        if !self.status.contains(&reply.status()) {
            return Some(format!("{}: expected {:?} {:?}, {}", self.name, self.status, self.code, said()));
        }
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or(Value::Null);
        let error = &body["error"];
        if error["message"].as_str().is_none_or(str::is_empty) {
            return Some(format!("{}: no error message, {}", self.name, said()));
        }
        if reply.status() == 400 && error["type"] != "invalid_request_error" {
            return Some(format!("{}: the type is not invalid_request_error, {}", self.name, said()));
        }
        // Anthropic's errors have them one level below.
        let details = if self.path.starts_with("/v1/messages") { &error["details"] } else { error };
        let code = error["code"].as_str().or(details["error_code"].as_str()).unwrap_or_default();
        if !self.code.is_empty() && !self.code.contains(&code) {
            return Some(format!("{}: expected code {:?}, {}", self.name, self.code, said()));
        }
        match self.param {
            // `messages` is named by `messages[0].role` as well.
            Some(param) if !details["param"].as_str().is_some_and(|p| p.starts_with(param)) => {
                Some(format!("{}: expected param {param}, {}", self.name, said()))
            }
            _ => None,
        }
    }
}

fn send(server: &Server, key: &str, case: &Case) -> Reply {
    let bearer = format!("Bearer {key}");
    let mut headers = vec![("Authorization", bearer.as_str())];
    headers.extend(case.headers.iter().map(|(name, value)| (*name, value.as_str())));
    match &case.body {
        Body::Json(value) => server.post_raw(case.path, &headers, value.to_string().as_bytes()),
        Body::Bytes(bytes) => server.post_raw(case.path, &headers, bytes),
    }
}

fn check_all(server: &mut Server, key: &str, cases: &[Case]) {
    let mut complaints = Vec::new();
    for case in cases {
        let reply = send(server, key, case);
        complaints.extend(case.complaint(&reply));
        assert!(server.is_alive(), "{}: the server died", case.name);
    }
    assert!(
        complaints.is_empty(),
        "{} of {} cases:\n{}",
        complaints.len(),
        cases.len(),
        complaints.join("\n")
    );
}

#[test]
fn refused_requests_cost_nothing_and_harm_nothing() {
    let embedder = models::fetch::ensure_test_embedder();
    // A cache so small that these rounds touch all of it.
    let config =
        Config::new().with("engine", "kv_cache_mib", "96").with("leases", "unit_hour_usd", "\"0.05\"");
    let config = config.models(&[(model_id(), model_path()), (vectors::EMBEDDER, &embedder)]);
    let mut server = Server::start(&config);
    let key = server.key(KeyOptions { project: "corpus", ..KeyOptions::default() });
    let good = chat("Say hello.", json!({"temperature": 0, "max_tokens": 8}));
    let answer = server.chat(&key, &good).ok();
    let totals = Totals::of(&server.export());
    let cases = [bodies::cases(), fields::cases(), forms::cases(), leases::cases(), vectors::cases()];
    let cases: Vec<Case> = cases.into_iter().flatten().collect();
    // What each thread's allocator keeps once it was used is no leak: a leak would grow in every round.
    let mut resident = server.resident_kib();
    let settles = (0..6).any(|_| {
        check_all(&mut server, &key, &cases);
        let before = std::mem::replace(&mut resident, server.resident_kib());
        resident.saturating_sub(before) <= 16 * 1024
    });
    assert!(settles, "resident memory grows with every round of the corpus, to {resident} KiB");

    assert_eq!(totals, billed_totals(&server), "refused requests left a charge");
    server.verify();
    let again = server.chat(&key, &good).ok();
    assert_eq!(answer["choices"], again["choices"], "the server answers otherwise after the corpus");
    assert_eq!(server.running(), 0);
}

/// Totals of the rows that carry tokens or money.
fn billed_totals(server: &Server) -> Totals {
    let rows = server.export();
    let charged: Vec<_> =
        rows.into_iter().filter(|r| r.cost_picos != 0 || r.usage.prompt + r.usage.completion != 0).collect();
    Totals::of(&charged)
}

#[test]
fn odd_requests_are_served() {
    let mut server = Server::start(&Config::new());
    let key = server.key(KeyOptions { project: "odd", ..KeyOptions::default() });
    for (name, body) in served() {
        let reply = server.chat(&key, &body);
        assert_eq!(reply.status(), 200, "{name}: {}", reply.text());
        let text = reply.json()["choices"][0]["message"]["content"].as_str().map(str::to_owned);
        assert!(text.is_some(), "{name}: no text in {}", reply.text());
        assert!(server.is_alive(), "{name}: the server died");
    }
    let log = server.printed();
    assert!(!log.contains("\u{1b}[31mforged"), "a caller wrote control characters into the log:\n{log}");
    assert!(!log.lines().any(|l| l.starts_with("forged")), "a caller forged a line of the log:\n{log}");
    server.verify();
}

/// Requests that look bad and are not.
fn served() -> Vec<(&'static str, Value)> {
    let small = |content: &str, extra: Value| chat(content, merged(json!({"max_tokens": 4}), extra));
    let ban_all: serde_json::Map<String, Value> =
        (0..300).map(|id: u32| (id.to_string(), json!(-100))).collect();
    vec![
        ("NUL in the content", small("a\u{0}b", json!({}))),
        ("a Markdown image is text", small("![x](http://127.0.0.1:1/x.png)", json!({}))),
        ("all control tokens as text", small("<|im_start|><|im_end|><|endoftext|><repo_name>", json!({}))),
        ("bidirectional marks", small("\u{202e}abc\u{2066}", json!({}))),
        ("combining marks", small(&format!("e{}", "\u{301}".repeat(200)), json!({}))),
        ("emoji families", small("👨‍👩‍👧‍👦🏳️‍🌈", json!({}))),
        ("line separators", small("a\u{2028}b\u{2029}c\r\n\u{85}", json!({}))),
        ("tiny temperature", small("Hi", json!({"temperature": 1e-300}))),
        ("tiny top_p", small("Hi", json!({"top_p": 1e-45}))),
        ("null temperature", small("Hi", json!({"temperature": null}))),
        ("many tokens banned", small("Hi", json!({"logit_bias": ban_all}))),
        (
            "every extreme at once",
            small(
                "Hi",
                json!({"temperature": 2, "top_p": 1, "frequency_penalty": -2,
            "presence_penalty": 2, "seed": 0, "top_logprobs": 20, "logprobs": true}),
            ),
        ),
        ("CR, LF and colour in user", small("Hi", json!({"user": "u\r\nforged\u{1b}[31mforged"}))),
        (
            "an empty user message among others",
            chat(
                "",
                json!({"max_tokens": 2, "messages": [
            {"role": "system", "content": "x"}, {"role": "user", "content": "Hi"}]}),
            ),
        ),
    ]
}

/// A copy of the model whose file says that it takes `context` tokens, so that the border is reached in no time.
pub(crate) fn with_context(folder: &Path, context: u32) -> PathBuf {
    let mut bytes = std::fs::read(model_path()).expect("read the model");
    let key = b"llama.context_length";
    let at = bytes.windows(key.len()).position(|w| w == key).expect("the file names its context");
    // After the key: the type, 4 for u32, then the value, both little-endian.
    let value = at + key.len() + 4;
    assert_eq!(bytes[at + key.len()..value], 4_u32.to_le_bytes(), "the context is not a u32");
    bytes[value..value + 4].copy_from_slice(&context.to_le_bytes());
    let path = folder.join("short.gguf");
    std::fs::write(&path, bytes).expect("write the model");
    path
}

#[test]
fn prompts_are_taken_up_to_the_context() {
    let data = data_folder();
    let path = with_context(data.path(), 256);
    let server = Server::start_in(data, &Config::new().model(&path));
    let key = server.key(KeyOptions { project: "context", ..KeyOptions::default() });
    let prompt_of = |tokens: usize| {
        json!({"model": model_id(), "prompt": vec![504; tokens], "max_tokens": 5, "temperature": 0,
               "ignore_eos": true})
    };
    let last = server.post("/v1/completions", &key, &prompt_of(255)).ok();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert_eq!(last["usage"]["completion_tokens"], 1, "one token is left in the context: {last}");
    for tokens in [256, 257, 10_000] {
        let reply = server.post("/v1/completions", &key, &prompt_of(tokens));
        assert_eq!(
            (reply.status(), reply.code().as_str()),
            (400, "context_length_exceeded"),
            "{}",
            reply.text()
        );
        assert_eq!(reply.json()["error"]["param"], "prompt");
    }
    // A wish for more than is left is cut to what is left.
    let unbounded = merged(prompt_of(200), json!({"max_tokens": 100_000}));
    let answer = server.post("/v1/completions", &key, &unbounded).ok();
    assert_eq!(answer["usage"]["total_tokens"], 256, "{answer}");
}
