use super::*;
use crate::api::generation::{Format, ToolChoice};
use crate::api::json;

fn read(extra: &str) -> ApiResult<Wanted> {
    let body = format!(r#"{{"model":"m",{extra}}}"#);
    super::read(json::parse(body.as_bytes(), 64).unwrap(), &Limits::default())
}

#[test]
fn every_honoured_field_at_once() {
    let wanted = read(
        r#""input":"hi","instructions":"i","previous_response_id":"resp_1","max_output_tokens":7,"max_tool_calls":3,
        "metadata":{"k":"v"},"parallel_tool_calls":false,"temperature":0.3,"top_p":0.9,"presence_penalty":0.1,
        "top_logprobs":2,"include":["message.output_text.logprobs","reasoning.encrypted_content"],"store":true,
        "stream":true,"stream_options":{"include_obfuscation":true},"truncation":"auto","user":"u","seed":4,
        "safety_identifier":"s","prompt_cache_key":"p","service_tier":"auto","background":true,"conversation":null,
        "reasoning":{"effort":"none","summary":"auto"},"tool_choice":{"type":"function","name":"f"},
        "text":{"format":{"type":"json_schema","name":"n","schema":{},"strict":false},"verbosity":"medium"},
        "tools":[{"type":"function","name":"f","description":null,"parameters":{"type":"object"},"strict":false}]"#,
    )
    .unwrap();
    let generation = &wanted.generation;
    assert_eq!((generation.max_tokens, generation.logprobs, generation.stream), (Some(7), Some(2), true));
    assert_eq!(generation.format, Format::JsonSchema { schema: json!({}), strict: false });
    assert_eq!(
        (&generation.tools.choice, generation.tools.parallel),
        (&ToolChoice::Named("f".into()), false)
    );
    assert_eq!(generation.user.as_deref(), Some("s"));
    assert!(
        wanted.truncate
            && wanted.obfuscate
            && wanted.background
            && is_stored(&wanted, StoreResponses::False).unwrap()
    );
    let repeated = &wanted.repeated;
    assert_eq!(repeated["tools"][0]["strict"], false);
    assert_eq!((&repeated["presence_penalty"], &repeated["top_logprobs"]), (&json!(0.1), &json!(2)));
    assert_eq!((&repeated["truncation"], &repeated["metadata"]), (&json!("auto"), &json!({"k": "v"})));
}

#[test]
fn refused_fields() {
    let cases: &[(&str, Code, &str)] = &[
        (r#""instructions":"i""#, Code::MissingParameter, "input"),
        (r#""input":"a","messages":[]"#, Code::UnknownParameter, "messages"),
        (r#""input":"a","conversation":"c""#, Code::UnsupportedParameter, "conversation"),
        (r#""input":"a","prompt":{"id":"p"}"#, Code::UnsupportedParameter, "prompt"),
        (r#""input":"a","max_output_tokens":0"#, Code::IntegerBelowMin, "max_output_tokens"),
        (r#""input":"a","temperature":2.5"#, Code::DecimalAboveMax, "temperature"),
        (r#""input":"a","include":["file_search_call.results"]"#, Code::UnsupportedParameter, "include"),
        (r#""input":"a","top_logprobs":2"#, Code::InvalidValue, "top_logprobs"),
        (r#""input":"a","truncation":"some""#, Code::InvalidValue, "truncation"),
        (r#""input":"a","reasoning":{"effort":"high"}"#, Code::UnsupportedValue, "reasoning.effort"),
        (r#""input":"a","text":{"format":{"type":"xml"}}"#, Code::InvalidValue, "text.format.type"),
        (
            r#""input":"a","text":{"format":{"type":"json_schema","name":"n"}}"#,
            Code::MissingParameter,
            "text.format.schema",
        ),
        (r#""input":"a","text":{"verbosity":"low"}"#, Code::UnsupportedValue, "text.verbosity"),
        (r#""input":"a","tools":[{"type":"web_search"}]"#, Code::UnsupportedValue, "tools[0].type"),
        (
            r#""input":"a","tools":[{"type":"function","name":"f"},{"type":"function","name":"f"}]"#,
            Code::InvalidValue,
            "tools[1].name",
        ),
        (r#""input":"a","tool_choice":"some""#, Code::InvalidValue, "tool_choice"),
        (r#""input":"a","tool_choice":{"type":"function","name":"f"}"#, Code::InvalidValue, "tool_choice"),
        (r#""input":"a","stream_options":{}"#, Code::InvalidValue, "stream_options"),
        (r#""input":"a","metadata":{"k":1}"#, Code::InvalidType, "metadata.k"),
    ];
    for (extra, code, param) in cases {
        let Err(error) = read(extra) else { panic!("{extra} was taken") };
        assert_eq!((error.code, error.param.as_deref()), (*code, Some(*param)), "{extra}");
    }
    let unkept = read(r#""input":"a","background":true,"store":false"#).unwrap();
    assert_eq!(is_stored(&unkept, StoreResponses::True).unwrap_err().code, Code::ConflictingParameters);
}

#[test]
fn a_project_decides_what_is_kept() {
    use StoreResponses::{False, Never, True};
    let stored = |extra: &str, policy| {
        let wanted = read(&format!(r#""input":"a"{extra}"#)).unwrap();
        is_stored(&wanted, policy).map_err(|error| error.param.unwrap_or_default())
    };
    assert_eq!([True, False, Never].map(|policy| stored("", policy)), [Ok(true), Ok(false), Ok(false)]);
    let (keep, background) = (r#","store":true"#, r#","background":true"#);
    assert_eq!([True, False].map(|policy| stored(keep, policy)), [Ok(true), Ok(true)]);
    assert_eq!(stored(keep, Never), Err("store".to_owned()));
    assert_eq!(stored(background, Never), Err("background".to_owned()));
    assert_eq!(stored(r#","store":false"#, True), Ok(false));
}

#[test]
fn a_count_takes_only_what_decides_on_the_prompt() {
    let body =
        |extra: &str| json::parse(format!(r#"{{"model":"m","input":"a"{extra}}}"#).as_bytes(), 64).unwrap();
    assert!(read_count(body(r#","instructions":"i","truncation":"disabled""#), &Limits::default()).is_ok());
    let Err(error) = read_count(body(r#","temperature":1"#), &Limits::default()) else { panic!("taken") };
    assert_eq!(error.param.as_deref(), Some("temperature"));
}

#[test]
fn the_document_lists_what_is_read() {
    use crate::api::openapi::testing::assert_documented as check;
    check("ResponseRequest", || assert!(read("\"input\":\"hi\"").is_ok()));
    let count = json::parse(br#"{"model":"m","input":"hi"}"#, 64).unwrap();
    check("InputTokensRequest", || assert!(read_count(count, &Limits::default()).is_ok()));
    let compact = json::parse(br#"{"model":"m","input":"hi"}"#, 64).unwrap();
    check("CompactRequest", || assert!(read_compact(compact, &Limits::default()).is_ok()));
}

#[test]
fn a_message_is_a_request_that_is_told_in_events() {
    let read = |extra: &str| {
        let body = format!(r#"{{"type":"response.create","model":"m","input":"a"{extra}}}"#);
        read_event(json::parse(body.as_bytes(), 64).unwrap(), &Limits::default())
    };
    let wanted =
        read(r#","stream":true,"background":false,"stream_options":{"include_obfuscation":true}"#).unwrap();
    assert!(wanted.generation.stream && wanted.generate && wanted.obfuscate && !wanted.background);
    assert!(!read(r#","generate":false"#).unwrap().generate);
    for (extra, param) in [
        (r#","stream":false"#, "stream"),
        (r#","background":true"#, "background"),
        (r#","stream_id":"a""#, "stream_id"),
    ] {
        assert_eq!(read(extra).err().and_then(|error| error.param).as_deref(), Some(param));
    }
    // Elsewhere a message's own fields are unknown.
    for extra in [r#""type":"response.create""#, r#""generate":true"#] {
        let error = self::read(&format!(r#""input":"a",{extra}"#)).err().expect("a refusal");
        assert_eq!(error.code, Code::UnknownParameter);
    }
}
