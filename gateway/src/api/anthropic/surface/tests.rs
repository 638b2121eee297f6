use super::*;
use crate::money::Picos;

fn receipt(uncached_input: u32, cached_input: u32, output: u32) -> Receipt {
    Receipt { tokens: Tokens { uncached_input, cached_input, output }, cost: Picos(1_000_000) }
}

fn message() -> Message {
    Message::new("req_1", "m", 50, 100)
}

fn parts() -> Vec<Part> {
    let call = |index, text: &str| Part::CallArguments { index, text: text.to_owned() };
    let start = |index, id: &str| Part::CallStart { index, id: id.to_owned(), name: "f".to_owned() };
    vec![
        Part::Reasoning("th".into()),
        Part::Reasoning("ink".into()),
        Part::Text("a".into()),
        Part::Text("b".into()),
        start(0, "c0"),
        call(0, "{\"x\""),
        call(0, ":1}"),
        start(1, "c1"),
        call(1, "{}"),
    ]
}

fn events(bytes: &[u8]) -> Vec<Value> {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let event = |block: &str| {
        let (name, data) = block.split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(name, format!("event: {}", data["type"].as_str().unwrap()));
        data
    };
    text.split("\n\n").filter(|block| !block.is_empty()).map(event).collect()
}

#[test]
fn a_stream_opens_and_closes_every_block_in_order() {
    let mut surface = message();
    let mut stream = surface.open(1, Tokens { uncached_input: 3, cached_input: 4, output: 0 }).to_vec();
    for part in parts() {
        stream.extend(surface.piece(0, &Piece { parts: vec![part], ..Piece::default() }));
    }
    stream.extend(surface.end(0, &Piece::default(), &Ending::ToolCalls));
    stream.extend(surface.close(&receipt(3, 4, 9)));
    let events = events(&stream);
    let seen: Vec<String> = events
        .iter()
        .map(|e| {
            format!(
                "{} {} {}",
                e["type"].as_str().unwrap(),
                e["index"],
                e["delta"]["type"].as_str().unwrap_or("")
            )
        })
        .collect();
    let expected = [
        "message_start null ",
        "ping null ",
        "content_block_start 0 ",
        "content_block_delta 0 thinking_delta",
        "content_block_delta 0 thinking_delta",
        "content_block_delta 0 signature_delta",
        "content_block_stop 0 ",
        "content_block_start 1 ",
        "content_block_delta 1 text_delta",
        "content_block_delta 1 text_delta",
        "content_block_stop 1 ",
        "content_block_start 2 ",
        "content_block_delta 2 input_json_delta",
        "content_block_delta 2 input_json_delta",
        "content_block_stop 2 ",
        "content_block_start 3 ",
        "content_block_delta 3 input_json_delta",
        "content_block_stop 3 ",
        "message_delta null ",
        "message_stop null ",
    ];
    assert_eq!(seen, expected);
    let usage = &events[0]["message"]["usage"];
    assert_eq!((&usage["input_tokens"], &usage["cache_read_input_tokens"]), (&json!(3), &json!(4)));
    assert_eq!(events[18]["delta"]["stop_reason"], "tool_use");
    assert_eq!(events[18]["usage"]["output_tokens"], 9);
}

#[test]
fn one_answer_has_the_same_blocks() {
    let joined = [
        Part::Reasoning("think".into()),
        Part::Text("ab".into()),
        Part::CallStart { index: 0, id: "c0".into(), name: "f".into() },
        Part::CallArguments { index: 0, text: "{\"x\":1}".into() },
        Part::CallStart { index: 1, id: "c1".into(), name: "f".into() },
        Part::CallArguments { index: 1, text: "{\"cut".into() },
    ];
    let content = blocks(&joined);
    let kinds: Vec<_> = content.iter().map(|block| block["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use", "tool_use"]);
    assert_eq!((&content[2]["input"], &content[3]["input"]), (&json!({"x": 1}), &json!({})));
}

#[test]
fn stop_reasons() {
    let surface = message();
    let reason = |ending: &Ending, tokens: Receipt| surface.stopped(ending, tokens.tokens).reason.unwrap();
    assert_eq!(reason(&Ending::Stop(None), receipt(1, 0, 1)), "end_turn");
    assert_eq!(reason(&Ending::Stop(Some("x".into())), receipt(1, 0, 1)), "stop_sequence");
    assert_eq!(reason(&Ending::Length, receipt(1, 0, 50)), "max_tokens");
    assert_eq!(reason(&Ending::Length, receipt(80, 5, 15)), "model_context_window_exceeded");
    assert_eq!(reason(&Ending::Length, receipt(80, 5, 5)), "max_tokens");
}
