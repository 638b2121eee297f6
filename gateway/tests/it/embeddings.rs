//! Several models in one process: vectors, ranking, tokens, Azure's paths, and what they cost.

mod last;

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::support::{Config, KeyOptions, Server, chat, command, data_folder, model_id, model_path, python};

const EMBEDDER: &str = "all-minilm-l6-v2";

/// A server with a chat model and an embedder.
fn server() -> (&'static Server, &'static str) {
    static SHARED: OnceLock<(Server, String)> = OnceLock::new();
    let (server, key) = SHARED.get_or_init(|| {
        let server = Server::start(&config());
        let key = server.key(KeyOptions { project: "vectors", ..KeyOptions::default() });
        (server, key)
    });
    (server, key)
}

fn config() -> Config {
    Config::new().models(&[(model_id(), model_path()), (EMBEDDER, &models::fetch::ensure_test_embedder())])
}

fn embed(extra: Value) -> Value {
    crate::support::merged(json!({"model": EMBEDDER, "input": "The weather is lovely today."}), extra)
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().expect("a vector").iter().map(|v| v.as_f64().expect("a number")).collect()
}

#[test]
fn vectors_of_every_input_shape_and_their_bill() {
    let (server, key) = server();
    let texts = ["The weather is lovely today.", "It's so sunny outside!"];
    let reply = server.post("/v1/embeddings", key, &embed(json!({"input": texts})));
    let answer = reply.ok();
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!(EMBEDDER)));
    assert_eq!(answer["usage"]["prompt_tokens"], 17);
    assert_eq!(answer["usage"]["total_tokens"], 17);
    let vectors: Vec<Vec<f64>> =
        answer["data"].as_array().expect("data").iter().map(|item| floats(&item["embedding"])).collect();
    assert_eq!((vectors.len(), vectors[0].len()), (2, 384));
    let cosine: f64 = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| a * b).sum();
    assert!((cosine - 0.6660).abs() < 1e-4, "{cosine}");
    for name in ["x-ratelimit-remaining-tokens", "x-ratelimit-limit-requests", "x-request-id"] {
        assert!(reply.header(name).is_some(), "no {name}");
    }
    // The bill has exactly these numbers.
    let row = server.row(reply.header("x-request-id").expect("an id"));
    assert_eq!((row.usage.prompt, row.usage.cached, row.usage.completion), (17, 0, 0));
    // 0.02 USD per 1M tokens.
    assert_eq!(row.cost_picos, 17 * 20_000);
    assert_eq!(answer["usage"]["cost_usd"], "0.00000034");

    // A text alone, and its own tokens, give the same vector.
    let alone = server.post("/v1/embeddings", key, &embed(json!({}))).ok();
    assert_eq!(alone["data"][0]["embedding"], answer["data"][0]["embedding"]);
    let tokens = server.post("/v1/tokenize", key, &json!({"model": EMBEDDER, "prompt": texts[0]})).ok();
    assert_eq!((tokens["count"].as_u64(), tokens["max_model_len"].as_u64()), (Some(8), Some(256)));
    let ids = &tokens["tokens"];
    for input in [ids.clone(), json!([ids, ids])] {
        let same = server.post("/v1/embeddings", key, &embed(json!({"input": input}))).ok();
        assert_eq!(same["data"][0]["embedding"], answer["data"][0]["embedding"]);
    }
    let text = server.post("/v1/embeddings", key, &embed(json!({"encoding_format": "base64"}))).ok();
    assert_eq!(text["data"][0]["embedding"].as_str().map(str::len), Some(384 * 4 / 3 * 4));
    server.verify();
}

#[test]
fn what_cannot_be_embedded_is_refused_and_costs_nothing() {
    let (server, key) = server();
    let long = "word ".repeat(300);
    let rows = server.export().len();
    for (extra, status, code, param) in [
        (json!({"input": long}), 400, "context_length_exceeded", "input"),
        (json!({"input": ["a", long]}), 400, "context_length_exceeded", "input[1]"),
        (json!({"input": [30_522]}), 400, "invalid_value", "input"),
        (json!({"input": vec!["a"; 2_049]}), 400, "array_above_max_length", "input"),
        (json!({"input": ""}), 400, "empty_string", "input"),
        (json!({"dimensions": 128}), 400, "unsupported_value", "dimensions"),
        (json!({"model": model_id()}), 400, "unsupported_value", "model"),
        (json!({"model": "none"}), 404, "model_not_found", "model"),
        (json!({"nonsense": 1}), 400, "unknown_parameter", "nonsense"),
    ] {
        let reply = server.post("/v1/embeddings", key, &embed(extra));
        let error = &reply.json()["error"];
        assert_eq!((reply.status(), error["code"].as_str()), (status, Some(code)), "{error}");
        assert_eq!(error["param"].as_str(), Some(param), "{error}");
    }
    let reply = server.chat(key, &chat("Hi", json!({"model": EMBEDDER})));
    assert_eq!((reply.status(), reply.code()), (400, "unsupported_value".to_owned()));
    let refused = server.export().into_iter().filter(|row| row.usage.prompt > 256).count();
    assert_eq!(refused, 0, "{rows} rows before");
    server.verify();
}

#[test]
fn budgets_and_limits_hold_for_vectors_too() {
    let config = config().budget("project", "poor/poor", "0.0000002");
    let server = Server::start(&config);
    let poor = server.key(KeyOptions { project: "poor", org: Some("poor"), ..KeyOptions::default() });
    // 8 tokens cost 160 nano-USD: the second does not fit.
    server.post("/v1/embeddings", &poor, &embed(json!({}))).ok();
    let reply = server.post("/v1/embeddings", &poor, &embed(json!({})));
    assert_eq!((reply.status(), reply.code()), (429, "insufficient_quota".to_owned()));
    let slow =
        server.key(KeyOptions { project: "slow", tokens_per_minute: Some(10), ..KeyOptions::default() });
    server.post("/v1/embeddings", &slow, &embed(json!({}))).ok();
    let reply = server.post("/v1/embeddings", &slow, &embed(json!({})));
    assert_eq!((reply.status(), reply.code()), (429, "rate_limit_exceeded".to_owned()));
    assert!(reply.header("retry-after").is_some());
    let few =
        server.key(KeyOptions { project: "few", requests_per_minute: Some(2), ..KeyOptions::default() });
    let tokenize =
        || server.post("/v1/tokenize", &few, &json!({"model": model_id(), "prompt": "a"})).status();
    assert_eq!([tokenize(), tokenize(), tokenize()], [200, 200, 429]);
    server.verify();
    assert_eq!(server.export().len(), 2);
}

#[test]
fn documents_are_ranked_and_pairs_scored() {
    let (server, key) = server();
    let documents =
        json!(["He drove to the stadium.", {"text": "It's so sunny outside!"}, "It's so sunny outside!"]);
    let body = json!({"model": EMBEDDER, "query": "The weather is lovely today.", "documents": documents, "top_n": 2,
                      "return_documents": true});
    let reply = server.post("/v1/rerank", key, &body);
    let answer = reply.ok();
    assert_eq!(answer["method"], "embedding_cosine");
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results.iter().map(|r| r["index"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2)]);
    assert!((results[0]["relevance_score"].as_f64().expect("a score") - 0.6660).abs() < 1e-4);
    assert_eq!(results[0]["document"]["text"], "It's so sunny outside!");
    // Query and equal documents are paid for once.
    assert_eq!(answer["usage"]["prompt_tokens"], 8 + 8 + 9);
    assert_eq!(server.row(reply.header("x-request-id").expect("an id")).usage.prompt, 25);
    let body = json!({"model": EMBEDDER, "text_1": "The weather is lovely today.",
                      "text_2": ["It's so sunny outside!", "He drove to the stadium."]});
    let scores = server.post("/v1/score", key, &body).ok();
    let score = |i: usize| scores["data"][i]["score"].as_f64().expect("a score");
    assert!((score(0) - 0.6660).abs() < 1e-4 && (score(1) - 0.1046).abs() < 1e-4, "{scores}");
    for (path, body, param) in [
        ("/v1/rerank", json!({"model": EMBEDDER, "documents": ["a"]}), "query"),
        ("/v1/rerank", json!({"model": EMBEDDER, "query": "a", "documents": []}), "documents"),
        ("/v1/rerank", json!({"model": EMBEDDER, "query": "a", "documents": [1]}), "documents[0]"),
        (
            "/v1/rerank",
            json!({"model": EMBEDDER, "query": "a", "documents": ["a"], "max_tokens_per_doc": 5}),
            "max_tokens_per_doc",
        ),
        (
            "/v1/rerank",
            json!({"model": EMBEDDER, "query": "a", "documents": ["word ".repeat(300)]}),
            "documents[0]",
        ),
        ("/v1/score", json!({"model": EMBEDDER, "text_1": ["a", "b"], "text_2": ["a", "b", "c"]}), "text_2"),
    ] {
        let reply = server.post(path, key, &body);
        assert_eq!(
            (reply.status(), reply.json()["error"]["param"].as_str()),
            (400, Some(param)),
            "{}",
            reply.text()
        );
    }
}

#[test]
fn tokens_are_those_that_are_billed() {
    let (server, key) = server();
    let body = chat("Name three rivers.", json!({"max_tokens": 1}));
    let billed = server.chat(key, &body).ok()["usage"]["prompt_tokens"].as_u64();
    let ask = json!({"model": model_id(), "messages": body["messages"], "return_token_strs": true});
    let answer = server.post("/v1/tokenize", key, &ask).ok();
    assert_eq!(answer["count"].as_u64(), billed);
    assert_eq!(answer["tokens"].as_array().map(|t| t.len() as u64), billed);
    assert_eq!(answer["token_strs"][0], "<|im_start|>");
    let back =
        server.post("/v1/detokenize", key, &json!({"model": model_id(), "tokens": answer["tokens"]})).ok();
    let text = back["prompt"].as_str().expect("a text");
    assert!(text.contains("<|im_start|>user\nName three rivers.<|im_end|>"), "{text}");
    let refused = |path: &str, body: Value| server.post(path, key, &body).json()["error"]["param"].clone();
    assert_eq!(refused("/v1/tokenize", json!({"model": model_id()})), "prompt");
    assert_eq!(
        refused("/v1/tokenize", json!({"model": model_id(), "prompt": "a", "messages": []})),
        "prompt"
    );
    assert_eq!(refused("/v1/detokenize", json!({"model": model_id(), "tokens": [1, 49_152]})), "tokens[1]");
}

#[test]
fn models_say_what_they_are_and_cost() {
    let (server, key) = server();
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", bearer.as_str())];
    let list = server.get("/v1/models", &headers).ok();
    let ids: Vec<_> = list["data"].as_array().expect("data").iter().map(|m| m["id"].clone()).collect();
    assert_eq!(ids, [model_id(), EMBEDDER]);
    let (chats, embeds) = (&list["data"][0], &list["data"][1]);
    assert_eq!((&chats["kind"], &embeds["kind"]), (&json!("chat"), &json!("embedding")));
    assert_eq!((&embeds["dimensions"], &embeds["context_length"]), (&json!(384), &json!(256)));
    assert_eq!(embeds["rerank_method"], "embedding_cosine");
    assert_eq!(chats["pricing"]["default"]["uncached_input"], "0.1");
    assert_eq!(chats["pricing"]["default"]["output"], "0.4");
    assert!(chats["capacity"]["max_concurrent"].as_u64() > Some(0));
    assert_eq!(server.get(&format!("/v1/models/{EMBEDDER}"), &headers).ok(), *embeds);
    // Every parameter that is said to be supported is accepted.
    for name in chats["supported_parameters"].as_array().expect("a list") {
        let name = name.as_str().expect("a name");
        let extra = match name {
            "stop" => json!({name: "x"}),
            "stop_token_ids" => json!({name: [1]}),
            "stream_options" => json!({"stream": true, name: {"include_usage": true}}),
            "logit_bias" => json!({name: {"5": 1}}),
            "logprobs" | "ignore_eos" | "stream" | "parallel_tool_calls" => json!({name: true}),
            "response_format" => json!({name: {"type": "json_object"}}),
            "structured_outputs" => json!({name: {"choice": ["yes", "no"]}}),
            "service_tier" => json!({name: "default"}),
            "tools" | "tool_choice" => {
                json!({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"})
            }
            "top_logprobs" => json!({"logprobs": true, name: 1}),
            "max_completion_tokens" => json!({"max_tokens": null, name: 1}),
            _ => json!({name: 1}),
        };
        let body = crate::support::merged(chat("Hi", json!({"max_tokens": 1})), extra);
        assert_eq!(server.chat(key, &body).status(), 200, "{name}");
    }
    assert_eq!(server.admin_get("/readyz").status(), 200);
    let page = server.admin_get("/metrics").text();
    assert!(page.contains("spillway_engine_running{model=\"smollm2-135m-instruct\"} "), "{page}");
    assert!(page.contains("spillway_embedder_running{model=\"all-minilm-l6-v2\"} "), "{page}");
}

#[test]
fn azure_paths_name_the_model() {
    let (server, key) = server();
    let headers = [("api-key", key)];
    let body = chat("Hi", json!({"model": "gpt-4o", "max_tokens": 2})).to_string();
    let path = format!("/openai/deployments/{}/chat/completions?api-version=2024-10-21", model_id());
    let answer = server.post_raw(&path, &headers, body.as_bytes()).ok();
    assert_eq!(answer["model"], model_id());
    let path = "/openai/deployments/none/chat/completions?api-version=2024-10-21";
    let reply = server.post_raw(path, &headers, body.as_bytes());
    assert_eq!((reply.status(), reply.code()), (404, "model_not_found".to_owned()));
    let input = json!({"input": "a"}).to_string();
    let path = format!("/openai/deployments/{EMBEDDER}/embeddings?api-version=1");
    assert_eq!(server.post_raw(&path, &headers, input.as_bytes()).ok()["model"], EMBEDDER);
    let body = chat("Hi", json!({"max_tokens": 2})).to_string();
    server.post_raw("/openai/v1/chat/completions", &headers, body.as_bytes()).ok();
}

#[test]
fn the_official_client_gets_vectors_and_speaks_azure() {
    let (server, key) = server();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/python/test_embeddings.py");
    let output = std::process::Command::new(python())
        .arg(script)
        .env("SPILLWAY_URL", format!("http://{}", server.address))
        .env("SPILLWAY_KEY", key)
        .env("SPILLWAY_MODEL", model_id())
        .env("SPILLWAY_EMBEDDER", EMBEDDER)
        .output()
        .expect("run the client");
    assert!(output.status.success(), "{}", crate::support::said(&output));
}

#[test]
fn a_model_in_both_places_does_not_start() {
    let folder = data_folder();
    let file = folder.path().join("test.toml");
    std::fs::write(&file, format!("[[models]]\nid = \"{EMBEDDER}\"\n[model]\nid = \"x\"\n")).expect("write");
    let output =
        command(folder.path()).arg("serve").arg("--config").arg(&file).output().expect("run spillway");
    assert!(!output.status.success());
    assert!(crate::support::said(&output).contains("not in both"), "{}", crate::support::said(&output));
}
