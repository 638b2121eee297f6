//! Cases about the routes that take texts and token ids instead of conversations.

use serde_json::{Value, json};

use super::Case;
use crate::support::{merged, model_id};

/// The embedder that the corpus is tried against.
pub(super) const EMBEDDER: &str = "all-minilm-l6-v2";
const MIB: usize = 1024 * 1024;

pub(super) fn cases() -> Vec<Case> {
    [embeddings(), pairs(), tokens(), moderations()].into_iter().flatten().collect()
}

fn case(
    path: &'static str,
    base: Value,
    name: &str,
    extra: Value,
    code: &'static str,
    param: &'static str,
) -> Case {
    Case::json(format!("{path}: {name}"), merged(base, extra), 400).path(path).code(code).param(param)
}

fn embeddings() -> Vec<Case> {
    let refused = |name: &str, extra: Value, code, param| {
        case("/v1/embeddings", json!({"model": EMBEDDER, "input": "x"}), name, extra, code, param)
    };
    let input = |name: &str, input: Value, code| refused(name, json!({"input": input}), code, "input");
    let (long, context) = ("word ".repeat(300), "context_length_exceeded");
    vec![
        input("none", Value::Null, "missing_required_parameter"),
        input("no text", json!(""), "empty_string"),
        input("no texts", json!([]), "empty_array"),
        input("no tokens", json!([[]]), "empty_array"),
        input("an object", json!({}), "invalid_type"),
        input("a number", json!(5), "invalid_type"),
        input("texts and numbers", json!(["a", 5]), "invalid_type"),
        input("a list in lists", json!([[["a"]]]), "invalid_type"),
        input("half a token", json!([1.5]), "invalid_type"),
        input("a negative token", json!([-1]), "integer_below_min_value"),
        input("a token beyond the vocabulary", json!([30_522]), "invalid_value"),
        input("a token beyond 32 bits", json!([4_294_967_296_u64]), "integer_above_max_value"),
        input("a long text", json!(long), context),
        input("a long text among others", json!(["a", long]), context),
        input("many tokens", json!(vec![2_000; 257]), context),
        input("3 MiB of text", json!("word ".repeat(3 * MIB / 5)), context),
        input("3 MiB of emoji", json!("🙂 ".repeat(3 * MIB / 5)), context),
        input("2,049 texts", json!(vec!["a"; 2_049]), "array_above_max_length"),
        input("more tokens than a request may have", json!(vec!["word ".repeat(200); 1_600]), context),
        refused("dimensions", json!({"dimensions": 3}), "unsupported_value", "dimensions"),
        refused("no dimensions", json!({"dimensions": 0}), "integer_below_min_value", "dimensions"),
        refused("an unknown format", json!({"encoding_format": "int8"}), "invalid_value", "encoding_format"),
        refused("a model that generates", json!({"model": model_id()}), "unsupported_value", "model"),
        refused("an unknown field", json!({"truncate": "END"}), "unknown_parameter", "truncate"),
    ]
}

fn pairs() -> Vec<Case> {
    let rerank = |name: &str, extra: Value, code, param| {
        let base = json!({"model": EMBEDDER, "query": "a", "documents": ["a"]});
        case("/v1/rerank", base, name, extra, code, param)
    };
    let score = |name: &str, extra: Value, code, param| {
        case("/v1/score", json!({"model": EMBEDDER, "text_1": "a", "text_2": "b"}), name, extra, code, param)
    };
    let (long, context) = ("word ".repeat(300), "context_length_exceeded");
    vec![
        rerank("no query", json!({"query": null}), "missing_required_parameter", "query"),
        rerank("an empty query", json!({"query": ""}), "empty_string", "query"),
        rerank("a long query", json!({"query": long}), context, "query"),
        rerank("no documents", json!({"documents": []}), "empty_array", "documents"),
        rerank(
            "2,049 documents",
            json!({"documents": vec!["a"; 2_049]}),
            "array_above_max_length",
            "documents",
        ),
        rerank("a number", json!({"documents": [5]}), "invalid_type", "documents[0]"),
        rerank(
            "a document without text",
            json!({"documents": [{"title": "x"}]}),
            "missing_required_parameter",
            "documents[0].text",
        ),
        rerank("a long document", json!({"documents": ["a", long]}), context, "documents[1]"),
        rerank("no results", json!({"top_n": 0}), "integer_below_min_value", "top_n"),
        rerank(
            "cut documents",
            json!({"max_tokens_per_doc": 5}),
            "unsupported_parameter",
            "max_tokens_per_doc",
        ),
        score("no text", json!({"text_1": null}), "missing_required_parameter", "text_1"),
        score("no texts", json!({"text_2": []}), "empty_array", "text_2"),
        score(
            "two against three",
            json!({"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}),
            "invalid_value",
            "text_2",
        ),
        score("2,049 texts", json!({"text_2": vec!["a"; 2_049]}), "array_above_max_length", "text_2"),
        score("a long text", json!({"text_2": long}), context, "text_2"),
    ]
}

fn tokens() -> Vec<Case> {
    let tokenize = |name: &str, extra: Value, code, param| {
        case("/v1/tokenize", json!({"model": model_id()}), name, extra, code, param)
    };
    let detokenize = |name: &str, tokens: Value, code, param| {
        case("/v1/detokenize", json!({"model": model_id()}), name, json!({"tokens": tokens}), code, param)
    };
    vec![
        tokenize("nothing", json!({}), "missing_required_parameter", "prompt"),
        tokenize("a number", json!({"prompt": 5}), "invalid_type", "prompt"),
        tokenize(
            "both",
            json!({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}),
            "conflicting_parameters",
            "prompt",
        ),
        tokenize(
            "a bad message",
            json!({"messages": [{"role": "root", "content": "a"}]}),
            "invalid_value",
            "messages[0].role",
        ),
        detokenize("no list", json!("x"), "invalid_type", "tokens"),
        detokenize("a text", json!(["x"]), "invalid_type", "tokens[0]"),
        detokenize("beyond the vocabulary", json!([1, 49_152]), "invalid_value", "tokens[1]"),
        detokenize("a negative token", json!([-1]), "integer_below_min_value", "tokens[0]"),
    ]
}

fn moderations() -> Vec<Case> {
    let refused = |name: &str, extra: Value, code, param| {
        case("/v1/moderations", json!({"input": "x"}), name, extra, code, param)
    };
    vec![
        refused("nothing", json!({"input": null}), "missing_required_parameter", "input"),
        refused("no texts", json!({"input": []}), "empty_array", "input"),
        refused("2,049 texts", json!({"input": vec!["a"; 2_049]}), "array_above_max_length", "input"),
        refused(
            "an image",
            json!({"input": [{"type": "image_url", "image_url": {"url": "x"}}]}),
            "unsupported_parameter",
            "input[0].type",
        ),
        refused("a number", json!({"input": [5]}), "invalid_type", "input[0]"),
    ]
}
