//! Cases about single fields of a chat request.

use serde_json::{Value, json};

use super::Case;
use crate::support::{chat, merged};

const INVALID_TYPE: &str = "invalid_type";
const INVALID_VALUE: &str = "invalid_value";
const MISSING: &str = "missing_required_parameter";
const UNKNOWN: &str = "unknown_parameter";
const UNSUPPORTED: &str = "unsupported_parameter";
const CONTENT: &str = "unsupported_content";
const INTEGER_HIGH: &str = "integer_above_max_value";
const INTEGER_LOW: &str = "integer_below_min_value";
const DECIMAL_HIGH: &str = "decimal_above_max_value";
const DECIMAL_LOW: &str = "decimal_below_min_value";
const ARRAY_LONG: &str = "array_above_max_length";
const STRING_LONG: &str = "string_above_max_length";

pub(super) fn cases() -> Vec<Case> {
    [
        model(),
        messages(),
        contents(),
        lengths(),
        sampling(),
        bias_and_logprobs(),
        stops_and_streams(),
        tools_and_formats(),
        unknown(),
        labels(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn field(name: &'static str, value: Value) -> Case {
    let shown: String = value.to_string().chars().take(40).collect();
    Case::field(format!("{name} = {shown}"), json!({name: value})).param(name)
}

fn model() -> Vec<Case> {
    let named = |name: &str| merged(chat("Hi", json!({})), json!({"model": name}));
    let absent =
        |name: &str| Case::json(format!("19 model {name:?}"), named(name), 404).code("model_not_found");
    vec![
        Case::field("18 no model", json!({"model": null})).code(MISSING).param("model"),
        field("model", json!(5)).code(INVALID_TYPE),
        field("model", json!(["x"])).code(INVALID_TYPE),
        absent("gpt-4o").param("model"),
        absent("../../etc/passwd").or_status(400),
        absent("'; DROP TABLE transfers--").or_status(400),
        absent("SMOLLM2-135M-INSTRUCT\u{0}").or_status(400),
        Case::json("20 model of 1 MB", named(&"m".repeat(1_000_000)), 400)
            .or_status(404)
            .code("model_not_found")
            .code(STRING_LONG),
        absent("").or_status(400).code(INVALID_VALUE).code(MISSING).code("string_below_min_length"),
    ]
}

fn messages() -> Vec<Case> {
    let with = |message: Value| json!({"messages": [message]});
    let many: Vec<Value> = (0..2_049).map(|_| json!({"role": "user", "content": "a"})).collect();
    let case = |name: &str, extra: Value| Case::field(name, extra).param("messages");
    vec![
        case("21 no messages", json!({"messages": null})).code(MISSING),
        case("21 empty array", json!({"messages": []})).code("empty_array"),
        case("21 messages is text", json!({"messages": "Hi"})).code(INVALID_TYPE),
        case("21 messages is an object", json!({"messages": {}})).code(INVALID_TYPE),
        case("21 a message is text", with(json!("Hi"))).code(INVALID_TYPE),
        case("21 a message is null", with(json!(null))).code(INVALID_TYPE),
        case("22 2,049 messages", json!({"messages": many})).code(ARRAY_LONG),
        case("23 unknown role", with(json!({"role": "root", "content": "a"}))).code(INVALID_VALUE),
        case("23 no role", with(json!({"content": "a"})))
            .code(INVALID_VALUE)
            .code(INVALID_TYPE)
            .code(MISSING),
        case("23 role is a number", with(json!({"role": 1, "content": "a"}))).code(INVALID_TYPE),
        case("24 no content", with(json!({"role": "user"}))).code(INVALID_TYPE).code(MISSING),
        case("24 null content", with(json!({"role": "user", "content": null}))).code(INVALID_TYPE),
        case("24 content is an object", with(json!({"role": "user", "content": {}}))).code(INVALID_TYPE),
        case("24 content is a number", with(json!({"role": "user", "content": 5}))).code(INVALID_TYPE),
        case("24 content without parts", with(json!({"role": "user", "content": []}))).code("empty_array"),
        case("unknown field of a message", with(json!({"role": "user", "content": "a", "x": 1})))
            .code(UNKNOWN),
        case("name is a number", with(json!({"role": "user", "content": "a", "name": 1}))).code(INVALID_TYPE),
        case("33 all messages are empty", with(json!({"role": "user", "content": ""}))).code("empty_prompt"),
    ]
}

fn contents() -> Vec<Case> {
    let part = |name: &str, part: Value| {
        Case::field(name, json!({"messages": [{"role": "user", "content": [part]}]})).param("messages")
    };
    let image = |url: &str| {
        let shown: String = url.chars().take(40).collect();
        part(&format!("26 image {shown}"), json!({"type": "image_url", "image_url": {"url": url}}))
            .code(CONTENT)
    };
    vec![
        part("25 unknown type", json!({"type": "hologram"})).code(INVALID_VALUE),
        part("25 no type", json!({"text": "a"})).code(INVALID_VALUE).code(MISSING).code(INVALID_TYPE),
        part("25 type is a number", json!({"type": 1})).code(INVALID_TYPE).code(INVALID_VALUE),
        part("25 text is a number", json!({"type": "text", "text": 1})).code(INVALID_TYPE),
        part("25 no text", json!({"type": "text"})).code(INVALID_TYPE).code(MISSING),
        part("25 a part is text", json!("a")).code(INVALID_TYPE),
        image("http://127.0.0.1:9/x.png"),
        image("https://user@127.0.0.1/"),
        image("file:///etc/passwd"),
        image("http://169.254.169.254/latest/meta-data"),
        image("http://a\\@b"),
        image("gopher://127.0.0.1:9/x"),
        image(&format!("data:image/png;base64,{}", "A".repeat(3_000_000))),
        part("27 audio", json!({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}))
            .code(CONTENT),
        part("27 file", json!({"type": "file", "file": {"file_id": "x"}})).code(CONTENT),
    ]
}

fn lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in ["max_tokens", "max_completion_tokens"] {
        let mut case = |value: Value, code: &'static str| {
            let extra = json!({"max_tokens": null});
            let mut body = merged(chat("Hi", json!({})), extra);
            body[name] = value.clone();
            cases.push(Case::json(format!("34 {name} = {value}"), body, 400).code(code).param(name));
        };
        case(json!(0), INTEGER_LOW);
        case(json!(-1), INTEGER_LOW);
        case(json!(1.5), INVALID_TYPE);
        case(json!("5"), INVALID_TYPE);
        case(json!(true), INVALID_TYPE);
        case(json!([1]), INVALID_TYPE);
    }
    let both = json!({"max_tokens": 5, "max_completion_tokens": 6});
    cases.push(Case::field("35 both limits", both).code("conflicting_parameters"));
    for (value, code) in
        [(0, INTEGER_LOW), (-1, INTEGER_LOW), (9, INTEGER_HIGH), (1_000_000_000, INTEGER_HIGH)]
    {
        cases.push(field("n", json!(value)).code(code));
    }
    cases.push(field("n", json!("2")).code(INVALID_TYPE));
    cases.push(field("n", json!(1.5)).code(INVALID_TYPE));
    cases.push(field("best_of", json!(1_000_000_000)).code(UNSUPPORTED).code(UNKNOWN));
    cases
}

fn sampling() -> Vec<Case> {
    let mut cases = vec![
        field("temperature", json!(-0.1)).code(DECIMAL_LOW),
        field("temperature", json!(2.1)).code(DECIMAL_HIGH),
        field("temperature", json!("hot")).code(INVALID_TYPE),
        field("temperature", json!([])).code(INVALID_TYPE),
        field("top_p", json!(1.01)).code(DECIMAL_HIGH),
        field("top_p", json!(-0.5)).code(DECIMAL_LOW),
        field("top_k", json!(-2)).code(INTEGER_LOW),
        field("top_k", json!(1.5)).code(INVALID_TYPE),
        field("min_p", json!(1.5)).code(DECIMAL_HIGH),
        field("min_p", json!(-0.1)).code(DECIMAL_LOW),
        field("repetition_penalty", json!(0)).code(DECIMAL_LOW),
        field("repetition_penalty", json!(1e30)).code(DECIMAL_HIGH),
        field("min_tokens", json!(-1)).code(INTEGER_LOW),
        // More than max_tokens allows.
        field("min_tokens", json!(17)),
        field("ignore_eos", json!("yes")).code(INVALID_TYPE),
        field("seed", json!(1.5)).code(INVALID_TYPE),
        field("seed", json!("7")).code(INVALID_TYPE),
        Case::bytes(
            "46 seed 2^64",
            chat("Hi", json!({})).to_string().replacen('{', "{\"seed\":18446744073709551616,", 1),
            400,
        )
        .code(INTEGER_HIGH)
        .param("seed"),
    ];
    for name in ["frequency_penalty", "presence_penalty"] {
        cases.push(field(name, json!(2.01)).code(DECIMAL_HIGH));
        cases.push(field(name, json!(-2.01)).code(DECIMAL_LOW));
        cases.push(field(name, json!("x")).code(INVALID_TYPE));
    }
    cases
}

fn bias_and_logprobs() -> Vec<Case> {
    let many: serde_json::Map<String, Value> = (0..301).map(|id: u32| (id.to_string(), json!(1))).collect();
    vec![
        field("logit_bias", json!(many)),
        field("logit_bias", json!({"abc": 1})),
        field("logit_bias", json!({"-1": 1})),
        field("logit_bias", json!({"1.5": 1})),
        field("logit_bias", json!({"49152": 1})),
        field("logit_bias", json!({"18446744073709551616": 1})),
        field("logit_bias", json!({"5": 101})),
        field("logit_bias", json!({"5": -101})),
        field("logit_bias", json!({"5": "x"})),
        field("logit_bias", json!({"5": null})),
        field("logit_bias", json!([1, 2])).code(INVALID_TYPE),
        field("logprobs", json!(5)).code(INVALID_TYPE),
        field("logprobs", json!("true")).code(INVALID_TYPE),
        Case::field("43 top_logprobs 21", json!({"logprobs": true, "top_logprobs": 21}))
            .code(INTEGER_HIGH)
            .param("top_logprobs"),
        Case::field("43 top_logprobs -1", json!({"logprobs": true, "top_logprobs": -1}))
            .code(INTEGER_LOW)
            .param("top_logprobs"),
        Case::field("top_logprobs without logprobs", json!({"top_logprobs": 2})).param("top_logprobs"),
    ]
}

fn stops_and_streams() -> Vec<Case> {
    let many: Vec<String> = (0..100_000).map(|i| i.to_string()).collect();
    vec![
        field("stop", json!(["a", "b", "c", "d", "e"])).code(ARRAY_LONG),
        field("stop", json!("")),
        field("stop", json!(["a", ""])),
        field("stop", json!("s".repeat(1_000_000))),
        field("stop", json!(many)).code(ARRAY_LONG),
        field("stop", json!(5)).code(INVALID_TYPE),
        field("stop", json!([5])).code(INVALID_TYPE),
        field("stop_token_ids", json!([-1])),
        field("stop_token_ids", json!([49_152_000])),
        field("stop_token_ids", json!("x")).code(INVALID_TYPE),
        field("stream", json!("yes")).code(INVALID_TYPE),
        field("stream", json!(1)).code(INVALID_TYPE),
        field("stream_options", json!({"include_usage": true})).code(INVALID_VALUE),
        Case::field("51 stream_options is text", json!({"stream": true, "stream_options": "x"}))
            .code(INVALID_TYPE),
        Case::field("51 unknown option", json!({"stream": true, "stream_options": {"x": 1}})).code(UNKNOWN),
        Case::field(
            "51 include_usage is text",
            json!({"stream": true, "stream_options": {"include_usage": "x"}}),
        )
        .code(INVALID_TYPE),
    ]
}

fn tools_and_formats() -> Vec<Case> {
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}});
    let deep = (0..70).fold(json!({"type": "string"}), |inner, _| json!({"type": "array", "items": inner}));
    let schema =
        |schema: Value| json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}});
    vec![
        field("tools", json!([tool, tool])),
        field("tools", json!(vec![tool.clone(); 129])),
        field("tools", json!("x")),
        field("tool_choice", json!("required")),
        field("tool_choice", json!({"type": "function", "function": {"name": "absent"}})),
        field("functions", json!([{"name": "f"}])),
        field("function_call", json!("auto")),
        field("response_format", schema(json!("not a schema"))),
        field("response_format", schema(json!({"$ref": "#"}))),
        field("response_format", schema(json!({"type": "string", "pattern": "(a+)+(?=b)"}))),
        Case::field("47 a deep schema", json!({"response_format": schema(deep)})),
        field("response_format", json!({"type": "hologram"})),
        field("response_format", json!(5)),
        field("audio", json!({"voice": "x", "format": "wav"})),
        field("modalities", json!(["audio"])),
        field("prediction", json!({"type": "content", "content": "x"})),
        field("web_search_options", json!({})),
    ]
}

fn unknown() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        "chat_template",
        "chat_template_kwargs",
        "api_base",
        "base_url",
        "api_key",
        "guided_regex",
        "prompt_embeds",
        "lora_path",
        "nonsense",
        "Model",
        "__proto__",
    ]
    .into_iter()
    .map(|name| field(name, json!("x")).code(UNKNOWN))
    .collect();
    cases.push(field("prompt", json!("x")).code(UNKNOWN));
    // A text completion has no messages.
    cases.push(
        field("messages", json!([{"role": "user", "content": "a"}])).code(UNKNOWN).path("/v1/completions"),
    );
    cases
}

fn labels() -> Vec<Case> {
    let pairs: serde_json::Map<String, Value> = (0..17).map(|i: u32| (format!("k{i}"), json!("v"))).collect();
    let metadata = |value: Value| field("metadata", value);
    vec![
        field("user", json!("u".repeat(10_000))).code(STRING_LONG),
        field("user", json!(5)).code(INVALID_TYPE),
        metadata(json!(pairs)),
        metadata(json!({"k": "v".repeat(513)})).code(STRING_LONG),
        metadata(json!({"k".repeat(65): "v"})).code(STRING_LONG),
        metadata(json!({"k": 5})).code(INVALID_TYPE),
        metadata(json!("x")).code(INVALID_TYPE),
        field("service_tier", json!("gold")).code(INVALID_VALUE).code("unsupported_value"),
        field("service_tier", json!(5)).code(INVALID_TYPE),
        field("reasoning_effort", json!("maximal")),
        field("verbosity", json!(5)),
    ]
}
