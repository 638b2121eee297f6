use super::*;
use crate::api::generation::ToolChoice;
use crate::api::json;

const USER: &str = r#"[{"role":"user","content":"hi"}]"#;

fn read(text: &str) -> ApiResult<Generation> {
    super::read(json::parse(text.as_bytes(), 64).unwrap(), &Limits::default())
}

fn with(extra: &str) -> String {
    format!(r#"{{"model":"m","max_tokens":9,"messages":{USER},{extra}}}"#)
}

fn with_messages(messages: &str) -> String {
    format!(r#"{{"model":"m","max_tokens":9,"messages":{messages}}}"#)
}

fn chat(generation: &Generation) -> &Conversation {
    let PromptInput::Chat(chat) = &generation.prompts[0] else { panic!("not a chat") };
    chat
}

#[test]
fn every_honoured_field_at_once() {
    let generation = read(&with(
        r#""system":[{"type":"text","text":"a","cache_control":{"type":"ephemeral","ttl":"1h"}},{"type":"text","text":"b"}],
        "stream":true,"temperature":0.5,"top_p":0.9,"top_k":5,"stop_sequences":["x","y"],"metadata":{"user_id":"u"},
        "service_tier":"standard_only","speed":"standard","thinking":{"type":"adaptive","display":"summarized"},
        "cache_control":{"type":"ephemeral"},"container":null,"output_config":{"format":{"type":"json_schema","schema":{}}},
        "tools":[{"name":"f","description":"d","input_schema":{"type":"object"},"strict":true,"type":"custom"}],
        "tool_choice":{"type":"tool","name":"f","disable_parallel_tool_use":true}"#,
    ))
    .unwrap();
    assert_eq!((generation.max_tokens, generation.stream, generation.n), (Some(9), true, 1));
    assert_eq!(generation.stop.strings, ["x", "y"]);
    assert_eq!(generation.user.as_deref(), Some("u"));
    assert_eq!(generation.format, Format::JsonSchema { schema: serde_json::json!({}), strict: true });
    assert_eq!(generation.tools.choice, ToolChoice::Named("f".to_owned()));
    assert!(!generation.tools.parallel && generation.tools.tools[0].name == "f");
    let messages = &chat(&generation).messages;
    assert_eq!((messages[0].role.as_str(), messages[0].content.as_str()), ("system", "ab"));
}

#[test]
fn a_conversation_with_calls_and_thinking() {
    let generation = read(&with_messages(
        r#"[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
        {"role":"assistant","content":[{"type":"thinking","thinking":"t","signature":"s"},{"type":"text","text":"c",
         "citations":null},{"type":"tool_use","id":"toolu_1","name":"f","input":{"x":1},"caller":{"type":"direct"}}]},
        {"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","content":[{"type":"text","text":"r"}],
         "is_error":true},{"type":"text","text":"d"}]},
        {"role":"user","content":"e"}]"#,
    ))
    .unwrap();
    let messages = &chat(&generation).messages;
    let said: Vec<_> = messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
    assert_eq!(said, [("user", "ab"), ("assistant", "c"), ("tool", "Error: r"), ("user", "d\ne")]);
    assert_eq!(messages[1].reasoning.as_deref(), Some("t"));
    assert_eq!(messages[1].tool_calls[0].arguments, r#"{"x":1}"#);
    assert_eq!(messages[2].tool_call_id.as_deref(), Some("toolu_1"));
}

#[test]
fn refused_messages() {
    let block = |block: &str| format!(r#"[{{"role":"user","content":[{block}]}}]"#);
    let image =
        block(r#"{"type":"text","text":"a"},{"type":"image","source":{"type":"url","url":"http://x"}}"#);
    let document = block(r#"{"type":"document","source":{}}"#);
    let orphan = block(r#"{"type":"tool_result","tool_use_id":"t","content":"r"}"#);
    let control = block(r#"{"type":"text","text":"a","cache_control":{"type":"forever"}}"#);
    let extra = block(r#"{"type":"text","text":"a","colour":"red"}"#);
    let cases: &[(&str, Code, &str)] = &[
        ("[]", Code::EmptyArray, "messages"),
        (r#"[{"role":"user","content":""}]"#, Code::EmptyPrompt, "messages"),
        (r#"[{"role":"user"}]"#, Code::InvalidType, "messages[0].content"),
        (r#"[{"role":"user","content":[]}]"#, Code::EmptyArray, "messages[0].content"),
        (r#"[{"role":"tool","content":"x"}]"#, Code::InvalidValue, "messages[0].role"),
        (r#"[{"content":"x"}]"#, Code::MissingParameter, "messages[0].role"),
        (r#"[{"role":"user","content":"x","name":"y"}]"#, Code::UnknownParameter, "messages[0].name"),
        (
            r#"[{"role":"user","content":"x"},{"role":"assistant","content":"The"}]"#,
            Code::UnsupportedValue,
            "messages",
        ),
        (&image, Code::UnsupportedContent, "messages[0].content[1].type"),
        (&document, Code::UnsupportedContent, "messages[0].content[0].type"),
        (&orphan, Code::InvalidValue, "messages[0].content[0].tool_use_id"),
        (&control, Code::InvalidValue, "messages[0].content[0].cache_control.type"),
        (&extra, Code::UnknownParameter, "messages[0].content[0].colour"),
    ];
    for (messages, code, param) in cases {
        let error = read(&with_messages(messages)).expect_err(messages);
        assert_eq!((error.code, error.param.as_deref()), (*code, Some(*param)), "{messages}");
    }
}

#[test]
fn refused_fields() {
    let cases: &[(&str, Code, &str)] = &[
        (r#""max_token":1"#, Code::UnknownParameter, "max_token"),
        (r#""temperature":1.5"#, Code::DecimalAboveMax, "temperature"),
        (r#""container":"c""#, Code::UnsupportedParameter, "container"),
        (r#""mcp_servers":[]"#, Code::UnsupportedParameter, "mcp_servers"),
        (r#""thinking":{"type":"enabled","budget_tokens":1024}"#, Code::UnsupportedValue, "thinking.type"),
        (r#""output_config":{"effort":"max"}"#, Code::UnsupportedParameter, "output_config.effort"),
        (r#""stop_sequences":[""]"#, Code::EmptyString, "stop_sequences"),
        (r#""metadata":{"user_id":1}"#, Code::InvalidType, "metadata.user_id"),
        (r#""metadata":{"x":"y"}"#, Code::UnknownParameter, "metadata.x"),
        (r#""tools":[{"type":"web_search_20250305","name":"w"}]"#, Code::UnsupportedValue, "tools[0].type"),
        (r#""tools":[{"name":"a b","input_schema":{}}]"#, Code::InvalidValue, "tools[0].name"),
        (r#""tool_choice":{"type":"any"}"#, Code::InvalidValue, "tool_choice"),
        (r#""tool_choice":{"type":"some"}"#, Code::InvalidValue, "tool_choice.type"),
        (r#""service_tier":"flex""#, Code::InvalidValue, "service_tier"),
        (r#""system":[{"type":"image"}]"#, Code::UnsupportedContent, "system[0].type"),
    ];
    for (extra, code, param) in cases {
        let error = read(&with(extra)).expect_err(extra);
        assert_eq!((error.code, error.param.as_deref()), (*code, Some(*param)), "{extra}");
    }
    let without_limit = format!(r#"{{"model":"m","messages":{USER}}}"#);
    assert_eq!(read(&without_limit).unwrap_err().param.as_deref(), Some("max_tokens"));
    let count = json::parse(with(r#""stream":true"#).as_bytes(), 64).unwrap();
    assert_eq!(read_count(count, &Limits::default()).unwrap_err().code, Code::UnknownParameter);
}

#[test]
fn the_document_lists_what_is_read() {
    use crate::api::openapi::testing::assert_documented as check;
    check("MessageRequest", || assert!(read(&with("\"stream\":false")).is_ok()));
    let count = json::parse(with_messages(USER).replace("\"max_tokens\":9,", "").as_bytes(), 64).unwrap();
    check("CountRequest", || assert!(read_count(count, &Limits::default()).is_ok()));
}
