//! Cases about the body as a whole: encodings, types, sizes.

use serde_json::{Value, json};

use super::Case;
use crate::support::{chat, model_id};

const MIB: usize = 1024 * 1024;

pub(super) fn cases() -> Vec<Case> {
    [malformed(), typed(), numbers(), sizes(), encodings(), long_prompts()].into_iter().flatten().collect()
}

/// A request whose text is written out, `{}` being put in for the content with its quotes.
fn with_content(content: &str) -> Vec<u8> {
    format!(
        r#"{{"model":"{}","max_tokens":1,"messages":[{{"role":"user","content":{content}}}]}}"#,
        model_id()
    )
    .into_bytes()
}

fn malformed() -> Vec<Case> {
    let good = chat("Hi", json!({})).to_string();
    let mut invalid_utf8 = with_content("\"X\"");
    let at = invalid_utf8.iter().position(|&b| b == b'X').expect("the mark");
    invalid_utf8.splice(at..=at, [0xC3, 0x28]);
    let twice = good.replacen('{', &format!(r#"{{"model":"{}","#, model_id()), 1);
    let nested = good.replace(r#""role":"user""#, r#""role":"user","role":"user""#);
    let bad = |name: &str, body: Vec<u8>| Case::bytes(name, body, 400).code("invalid_json");
    let mut cases = vec![
        bad("1 empty body", Vec::new()),
        bad("3 truncated", good.as_bytes()[..good.len() - 2].to_vec()),
        bad("4 trailing garbage", format!("{good} x").into_bytes()),
        bad("4 two documents", format!("{good}{good}").into_bytes()),
        bad("5 byte order mark", format!("\u{feff}{good}").into_bytes()),
        bad("6 invalid UTF-8", invalid_utf8),
        bad("7 lone surrogate", with_content(r#""\ud800""#)),
        bad("7 reversed surrogates", with_content(r#""\udc00\ud800""#)),
        bad("raw NUL in a string", with_content("\"a\0b\"")),
        bad("single quotes", good.replace('"', "'").into_bytes()),
        bad("a comment", good.replacen('{', "{/* x */", 1).into_bytes()),
        bad("random bytes", (0..=255).collect()),
        Case::bytes("10 model twice", twice, 400).code("duplicate_field").param("model"),
        Case::bytes("10 role twice", nested, 400).code("duplicate_field"),
    ];
    for depth in [65_usize, 1_000_000] {
        let content = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        cases.push(
            Case::bytes(format!("9 arrays {depth} deep"), with_content(&content), 400).code("json_too_deep"),
        );
        let open = "[".repeat(depth);
        // Too deep and unfinished: whichever the reader notices first.
        let unfinished = Case::bytes(format!("9 {depth} brackets opened"), open, 400);
        cases.push(unfinished.code("json_too_deep").code("invalid_json"));
    }
    let objects = format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    cases.push(
        Case::bytes("9 objects 100,000 deep", objects, 400).code("json_too_deep").code("unknown_parameter"),
    );
    cases
}

fn typed() -> Vec<Case> {
    ["null", "[]", "\"x\"", "1", "true"]
        .into_iter()
        .map(|body| Case::bytes(format!("2 body {body}"), body, 400).code("invalid_type"))
        .collect()
}

fn numbers() -> Vec<Case> {
    let with = |text: &str| {
        let good = chat("Hi", json!({})).to_string();
        good.replacen('{', &format!(r#"{{"temperature":{text},"#), 1)
    };
    let seeded =
        |text: &str| chat("Hi", json!({})).to_string().replacen('{', &format!(r#"{{"n":{text},"#), 1);
    let above = "integer_above_max_value";
    let below = "integer_below_min_value";
    let mut cases: Vec<Case> = ["1e999", "NaN", "Infinity", "-Infinity", "0x1", "01", "+1", ".5", "1."]
        .into_iter()
        .map(|text| Case::bytes(format!("11 number {text}"), with(text), 400).code("invalid_json"))
        .collect();
    cases.extend([
        Case::bytes("12 2^63", seeded("9223372036854775808"), 400).code(above).param("n"),
        Case::bytes("12 2^64", seeded("18446744073709551616"), 400).code(above).param("n"),
        Case::bytes("12 -2^63-1", seeded("-9223372036854775809"), 400).code(below).param("n"),
        // The body limit comes first.
        Case::bytes("13 ten million digits", with(&"1".repeat(10 * MIB)), 413).or_status(400),
        Case::bytes("13 a million digits", with(&"1".repeat(MIB)), 400),
    ]);
    cases
}

fn sizes() -> Vec<Case> {
    let empty = with_content("\"\"").len();
    let body = with_content(&format!("\"{}\"", "a".repeat(4 * MIB + 1 - empty)));
    assert_eq!(body.len(), 4 * MIB + 1);
    vec![
        Case::bytes("14 4 MiB and a byte", body, 413).code("request_too_large").code("payload_too_large"),
        Case::bytes("14 32 MiB", vec![b' '; 32 * MIB], 413)
            .code("request_too_large")
            .code("payload_too_large"),
    ]
}

fn encodings() -> Vec<Case> {
    let good = || chat("Hi", json!({}));
    let mut cases = Vec::new();
    for encoding in ["gzip", "br", "deflate", "zstd", "gzip, gzip", "x"] {
        let case = Case::json(format!("15 Content-Encoding {encoding}"), good(), 415);
        cases.push(case.header("Content-Encoding", encoding).code("unsupported_encoding"));
    }
    let kinds =
        ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "", "json"];
    for kind in kinds {
        let case = Case::json(format!("16 Content-Type {kind:?}"), good(), 415);
        cases.push(case.header("Content-Type", kind).code("unsupported_media_type"));
    }
    for charset in ["utf-16", "latin1"] {
        let case = Case::json(format!("17 charset {charset}"), good(), 415);
        cases.push(case.header("Content-Type", format!("application/json; charset={charset}")));
    }
    for (name, value) in
        [("of 256 characters", "k".repeat(256)), ("empty", String::new()), ("not ASCII", "ключ".into())]
    {
        let case = Case::json(format!("54 Idempotency-Key {name}"), good(), 400);
        cases.push(case.header("Idempotency-Key", value));
    }
    cases
}

fn long_prompts() -> Vec<Case> {
    let fill = |unit: &str| {
        let escaped = json!(unit).to_string().len() - 2;
        unit.repeat((4 * MIB - 1_000) / escaped)
    };
    let name = |what: &str| format!("32 4 MiB of {what}");
    let long = |what: &str, unit: &str| {
        Case::json(name(what), chat(&fill(unit), json!({})), 400)
            .code("context_length_exceeded")
            .param("messages")
    };
    let parts: Vec<Value> =
        (0..2_000).map(|_| json!({"type": "text", "text": "word ".repeat(100)})).collect();
    vec![
        long("one letter", "a"),
        long("spaces", " "),
        long("emoji", "🙂"),
        long("combining marks", "\u{301}"),
        long("words", "word "),
        long("line ends", "\n"),
        long("digits", "7"),
        Case::json("30 words beyond the context", chat(&"word ".repeat(9_000), json!({})), 400)
            .code("context_length_exceeded")
            .param("messages"),
        Case::json(
            "30 parts beyond the context",
            chat("", json!({"messages": [{"role": "user", "content": parts}]})),
            400,
        )
        .code("context_length_exceeded")
        .code("array_above_max_length"),
    ]
}
