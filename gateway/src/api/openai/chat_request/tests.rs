use super::*;
use crate::api::generation::{Format, ToolChoice};
use crate::api::json;

const USER: &str = r#"[{"role":"user","content":"hi"}]"#;

fn read(text: &str) -> ApiResult<Common> {
    super::read(json::parse(text.as_bytes(), 64).unwrap(), &Limits::default())
}

fn with(extra: &str) -> String {
    format!(r#"{{"model":"m","messages":{USER},{extra}}}"#)
}

fn with_messages(messages: &str) -> String {
    format!(r#"{{"model":"m","messages":{messages}}}"#)
}

fn check(body: &str, code: Code, param: &str) {
    let error = read(body).expect_err(&body[..body.len().min(200)]);
    assert_eq!((error.code, error.param.as_deref()), (code, Some(param)), "{}", &body[..body.len().min(200)]);
}

#[test]
fn every_honoured_field_at_once() {
    let request = read(&with(
        r#""stream":true,"stream_options":{"include_usage":true,"include_obfuscation":true},"temperature":0.5,"top_p":0.9,
        "max_completion_tokens":7,"stop":["a","b"],"n":2,"seed":-5,"logprobs":true,"top_logprobs":3,"logit_bias":{"5":-100},
        "presence_penalty":1,"frequency_penalty":-1,"user":"u\r\n","safety_identifier":"s","metadata":{"k":"v"},
        "service_tier":"auto","store":false,"response_format":{"type":"text"},"reasoning_effort":"none",
        "modalities":["text"],"prompt_cache_key":"p","top_k":5,"min_p":0.1,"repetition_penalty":1.1,"min_tokens":2,
        "ignore_eos":true,"stop_token_ids":[2],"tools":null,"verbosity":null"#,
    ))
    .unwrap();
    let Common { generation, options } = request;
    assert_eq!((generation.max_tokens, generation.logprobs), (Some(7), Some(3)));
    assert_eq!((generation.n, generation.sampling.seed), (2, Some(-5)));
    assert_eq!((options.include_usage, options.obfuscate), (true, true));
    assert_eq!((generation.stop.strings.len(), generation.stop.token_ids), (2, vec![2]));
    assert_eq!(generation.user.as_deref(), Some("s"));
}

#[test]
fn messages_in_all_shapes() {
    let request = read(&with_messages(
        r#"[{"role":"developer","content":"d"},{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],
        "name":"bob"},{"role":"assistant","content":"\u0000![x](http://x)","refusal":null,"tool_calls":[],"annotations":[],
        "audio":null,"function_call":null}]"#,
    ))
    .unwrap();
    let PromptInput::Chat(conversation) = &request.generation.prompts[0] else { panic!("not a chat") };
    let got: Vec<_> = conversation.messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
    assert_eq!(got, [("system", "d"), ("user", "ab"), ("assistant", "\0![x](http://x)")]);
}

#[test]
fn refused_messages() {
    let long = format!("[{}{{}}]", "{},".repeat(2_048));
    let cases: &[(&str, Code, &str)] = &[
        ("[]", Code::EmptyArray, "messages"),
        ("{}", Code::InvalidType, "messages"),
        (&long, Code::ArrayTooLong, "messages"),
        (r#"[{"role":"wizard","content":"x"}]"#, Code::InvalidValue, "messages[0].role"),
        (r#"[{"content":"x"}]"#, Code::InvalidType, "messages[0].role"),
        (r#"[{"role":1,"content":"x"}]"#, Code::InvalidType, "messages[0].role"),
        (r#"[{"role":"function","content":"x"}]"#, Code::UnsupportedValue, "messages[0].role"),
        (r#"[{"role":"tool","content":"x"}]"#, Code::MissingParameter, "messages[0].tool_call_id"),
        (
            r#"[{"role":"tool","content":"x","tool_call_id":"c"}]"#,
            Code::InvalidValue,
            "messages[0].tool_call_id",
        ),
        (r#"[{"role":"user"}]"#, Code::InvalidType, "messages[0].content"),
        (r#"[{"role":"assistant","content":null}]"#, Code::InvalidType, "messages[0].content"),
        (r#"[{"role":"user","content":{}}]"#, Code::InvalidType, "messages[0].content"),
        (r#"[{"role":"user","content":[{"type":"x"}]}]"#, Code::InvalidValue, "messages[0].content[0].type"),
        (r#"[{"role":"user","content":"x","weight":1}]"#, Code::UnknownParameter, "messages[0].weight"),
        (
            r#"[{"role":"assistant","content":"x","tool_calls":[{}]}]"#,
            Code::MissingParameter,
            "messages[0].tool_calls[0].id",
        ),
    ];
    for (messages, code, param) in cases {
        check(&with_messages(messages), *code, param);
    }
    for kind in ["image_url", "input_audio", "file"] {
        let part =
            format!(r#"[{{"role":"user","content":[{{"type":"{kind}","{kind}":{{"url":"file:///x"}}}}]}}]"#);
        check(&with_messages(&part), Code::UnsupportedContent, "messages[0].content[0].type");
    }
}

#[test]
fn refused_fields() {
    let bias = (0..301).map(|i| format!("\"{i}\":1")).collect::<Vec<_>>().join(",");
    let bias = format!("\"logit_bias\":{{{bias}}}");
    let pairs = (0..17).map(|i| format!("\"k{i}\":\"v\"")).collect::<Vec<_>>().join(",");
    let pairs = format!("\"metadata\":{{{pairs}}}");
    let value = format!("\"metadata\":{{\"k\":\"{}\"}}", "v".repeat(513));
    let user = format!("\"user\":\"{}\"", "u".repeat(10_240));
    let stop = format!("\"stop\":\"{}\"", "s".repeat(1 << 20));
    let cases: &[(&str, Code, &str)] = &[
        ("\"max_tokens\":0", Code::IntegerBelowMin, "max_tokens"),
        ("\"max_tokens\":-1", Code::IntegerBelowMin, "max_tokens"),
        ("\"max_tokens\":1.5", Code::InvalidType, "max_tokens"),
        ("\"max_tokens\":\"5\"", Code::InvalidType, "max_tokens"),
        ("\"max_tokens\":2147483648", Code::IntegerAboveMax, "max_tokens"),
        ("\"max_tokens\":1,\"max_completion_tokens\":1", Code::ConflictingParameters, "max_tokens"),
        ("\"max_tokens\":1,\"min_tokens\":2", Code::InvalidValue, "min_tokens"),
        ("\"temperature\":-0.1", Code::DecimalBelowMin, "temperature"),
        ("\"temperature\":2.1", Code::DecimalAboveMax, "temperature"),
        ("\"temperature\":\"hot\"", Code::InvalidType, "temperature"),
        ("\"top_p\":1.01", Code::DecimalAboveMax, "top_p"),
        ("\"n\":0", Code::IntegerBelowMin, "n"),
        ("\"n\":9", Code::IntegerAboveMax, "n"),
        ("\"n\":1000000000", Code::IntegerAboveMax, "n"),
        ("\"best_of\":1000000000", Code::UnsupportedParameter, "best_of"),
        (&bias, Code::ObjectTooLarge, "logit_bias"),
        ("\"logit_bias\":{\"abc\":1}", Code::InvalidValue, "logit_bias"),
        ("\"logit_bias\":{\"+1\":1}", Code::InvalidValue, "logit_bias"),
        ("\"logit_bias\":{\"1\":1,\"01\":1}", Code::InvalidValue, "logit_bias"),
        ("\"logit_bias\":{\"1\":101}", Code::DecimalAboveMax, "logit_bias"),
        ("\"logprobs\":true,\"top_logprobs\":21", Code::IntegerAboveMax, "top_logprobs"),
        ("\"top_logprobs\":2", Code::InvalidValue, "top_logprobs"),
        ("\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]", Code::ArrayTooLong, "stop"),
        ("\"stop\":\"\"", Code::EmptyString, "stop"),
        (&stop, Code::StringTooLong, "stop"),
        ("\"seed\":9223372036854775808", Code::IntegerAboveMax, "seed"),
        ("\"seed\":1.5", Code::InvalidType, "seed"),
        (
            "\"response_format\":{\"type\":\"json_schema\"}",
            Code::MissingParameter,
            "response_format.json_schema",
        ),
        ("\"response_format\":{\"type\":\"x\"}", Code::InvalidValue, "response_format.type"),
        (
            "\"structured_outputs\":{\"regex\":\"a\",\"grammar\":\"b\"}",
            Code::ConflictingParameters,
            "structured_outputs",
        ),
        ("\"chat_template\":\"x\"", Code::UnknownParameter, "chat_template"),
        ("\"api_base\":\"x\"", Code::UnknownParameter, "api_base"),
        ("\"stream\":\"yes\"", Code::InvalidType, "stream"),
        ("\"stream_options\":{}", Code::InvalidValue, "stream_options"),
        ("\"stream\":true,\"stream_options\":{\"x\":1}", Code::UnknownParameter, "stream_options.x"),
        (&user, Code::StringTooLong, "user"),
        (&pairs, Code::ObjectTooLarge, "metadata"),
        (&value, Code::StringTooLong, "metadata.k"),
        ("\"service_tier\":\"gold\"", Code::UnsupportedValue, "service_tier"),
        ("\"store\":true", Code::UnsupportedParameter, "store"),
        ("\"reasoning_effort\":\"high\"", Code::UnsupportedValue, "reasoning_effort"),
        ("\"modalities\":[\"audio\"]", Code::UnsupportedValue, "modalities"),
    ];
    for (extra, code, param) in cases {
        check(&with(extra), *code, param);
    }
    check(&format!(r#"{{"messages":{USER}}}"#), Code::MissingParameter, "model");
    check(r#"{"model":"m"}"#, Code::MissingParameter, "messages");
}

#[test]
fn tools_and_formats_are_read() {
    let tool = |name: &str| {
        format!(r#"{{"type":"function","function":{{"name":"{name}","parameters":{{"type":"object"}}}}}}"#)
    };
    let allowed = r#""tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"type":"function","function":{"name":"b"}}]}}"#;
    let text =
        with(&format!(r#""tools":[{},{}],"parallel_tool_calls":false,{allowed}"#, tool("a"), tool("b")));
    let generation = read(&text).unwrap().generation;
    assert_eq!(generation.tools.tools.len(), 1);
    assert_eq!((generation.tools.choice, generation.tools.parallel), (ToolChoice::Required, false));
    let format = r#""response_format":{"type":"json_schema","json_schema":{"name":"n","strict":true,"schema":{"type":"object",
        "properties":{"z":{"type":"string"},"a":{"type":"string"}},"required":["z","a"],"additionalProperties":false}}}"#;
    let Format::JsonSchema { schema, .. } = read(&with(format)).unwrap().generation.format else {
        panic!("a schema")
    };
    let order: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    assert_eq!(order, ["z", "a"], "answers follow the order of the schema");
    let loose = format.replace("\"required\":[\"z\",\"a\"]", "\"required\":[]");
    check(&with(&loose), Code::InvalidSchema, "response_format");
    let calls = with_messages(
        r#"[{"role":"user","content":"x"},{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function",
        "function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"c","content":"1"}]"#,
    );
    let PromptInput::Chat(chat) = &read(&calls).unwrap().generation.prompts[0] else { panic!("not a chat") };
    assert_eq!(chat.messages[1].tool_calls[0].name, "f");
    assert_eq!(
        (chat.messages[2].tool_call_id.as_deref(), chat.messages[2].name.as_deref()),
        (Some("c"), Some("f"))
    );
}

#[test]
fn refused_tools() {
    let cases: &[(&str, Code, &str)] = &[
        ("\"tools\":[{\"type\":\"custom\"}]", Code::UnsupportedValue, "tools[0].type"),
        (
            "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a b\"}}]",
            Code::InvalidValue,
            "tools[0].function.name",
        ),
        ("\"tool_choice\":\"required\"", Code::InvalidValue, "tool_choice"),
        ("\"tool_choice\":\"sometimes\"", Code::InvalidValue, "tool_choice"),
        ("\"functions\":[]", Code::UnsupportedParameter, "functions"),
    ];
    for (extra, code, param) in cases {
        check(&with(extra), *code, param);
    }
}

#[test]
fn the_document_lists_what_is_read() {
    let body = with("\"tools\":[],\"response_format\":{\"type\":\"text\"}");
    crate::api::openapi::testing::assert_documented("ChatRequest", || assert!(read(&body).is_ok()));
}
