//! The demo model's own file as an embedder: vectors of the last token.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::floats;
use crate::support::{Config, KeyOptions, Server, model_id, model_path};

const EMBEDDER: &str = "last-token";

/// The demo model's file with two more entries: the last token makes the vector, and an end is put behind a text.
fn file(dir: &tempfile::TempDir) -> PathBuf {
    /// Where the entries begin: behind magic, version and two counts.
    const ENTRIES: usize = 24;
    let mut bytes = fs::read(model_path()).expect("the model");
    let count = u64::from_le_bytes(bytes[16..ENTRIES].try_into().expect("eight bytes"));
    bytes[16..ENTRIES].copy_from_slice(&(count + 3).to_le_bytes());
    let key = |name: &str, kind: u32| {
        [&(name.len() as u64).to_le_bytes()[..], name.as_bytes(), &kind.to_le_bytes()].concat()
    };
    let mut entries = [key("llama.pooling_type", 4), 3_u32.to_le_bytes().to_vec()].concat();
    entries.extend(key("tokenizer.ggml.add_eos_token", 7));
    entries.push(1);
    entries.extend(key("padding", 8));
    // The weights behind stay where they are aligned.
    let padding = (entries.len() + 8).next_multiple_of(32) - entries.len() - 8;
    entries.extend((padding as u64).to_le_bytes());
    entries.resize(entries.len() + padding, b' ');
    bytes.splice(ENTRIES..ENTRIES, entries);
    let path = dir.path().join("last-token.gguf");
    fs::write(&path, bytes).expect("the file");
    path
}

#[test]
fn a_decoder_embeds_by_its_last_token() {
    let dir = tempfile::tempdir().expect("a folder");
    let price = |model: &str| {
        format!(
            "[[money.price]]\nmodel = \"{model}\"\ntier = \"default\"\nuncached_input = \"0.01\"\ncached_input = \"0\"\noutput = \"0\"\n"
        )
    };
    let prices = price(EMBEDDER) + &price(model_id());
    let path = file(&dir);
    let server =
        Server::start(&Config::new().models(&[(model_id(), model_path()), (EMBEDDER, &path)]).table(&prices));
    let key = server.key(KeyOptions::default());
    let texts = ["The weather is lovely today.", "It is sunny outside!", "A tax return is due in May."];
    let reply = server.post("/v1/embeddings", &key, &json!({"model": EMBEDDER, "input": texts}));
    let answer = reply.ok();
    let vectors: Vec<Vec<f64>> =
        answer["data"].as_array().expect("data").iter().map(|item| floats(&item["embedding"])).collect();
    for vector in &vectors {
        let length: f64 = vector.iter().map(|v| v * v).sum();
        assert!(vector.len() == 576 && (length - 1.0).abs() < 1e-6, "{} values, {length}", vector.len());
    }
    let cosine = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (near, far) = (cosine(&vectors[0], &vectors[1]), cosine(&vectors[0], &vectors[2]));
    assert!(near > far && near < 0.999_999, "{near} {far}");

    // The end is a token of the bill, and of what the model reads.
    let tokens = server.post("/v1/tokenize", &key, &json!({"model": EMBEDDER, "prompt": texts[0]})).ok();
    let ids = tokens["tokens"].as_array().expect("tokens");
    assert_eq!(ids.last(), Some(&json!(2)), "{tokens}");
    let again = server.post("/v1/embeddings", &key, &json!({"model": EMBEDDER, "input": ids}));
    let again = again.ok();
    assert_eq!(again["usage"]["prompt_tokens"], ids.len());
    assert_eq!(again["data"][0]["embedding"], answer["data"][0]["embedding"]);
    let chat = json!({"model": EMBEDDER, "messages": [{"role": "user", "content": "Hi"}]});
    assert_eq!(server.chat(&key, &chat).status(), 400);
    server.verify();
}
