use proptest::prelude::*;

use super::*;

fn dialect(tools: ToolSyntax) -> Dialect {
    Dialect { tools, thinks: true, opens_thinking: false }
}

/// What a whole output says when it comes in `pieces`; neighbours are joined.
fn parse(dialect: Dialect, tools: bool, pieces: &[&str]) -> Vec<Said> {
    let mut parser = OutputParser::new(dialect, tools);
    let mut all: Vec<Said> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    all.extend(parser.finish());
    let mut joined: Vec<Said> = Vec::new();
    for said in all {
        match (joined.last_mut(), said) {
            (Some(Said::Text(text)), Said::Text(more)) => text.push_str(&more),
            (Some(Said::Reasoning(text)), Said::Reasoning(more)) => text.push_str(&more),
            (Some(Said::Arguments { text, .. }), Said::Arguments { text: more, .. }) => text.push_str(&more),
            (_, said) => joined.push(said),
        }
    }
    joined
}

fn text(text: &str) -> Said {
    Said::Text(text.to_owned())
}

fn thought(text: &str) -> Said {
    Said::Reasoning(text.to_owned())
}

fn call(index: usize, name: &str, arguments: &str) -> [Said; 2] {
    let start = Said::CallStart { index, name: name.to_owned() };
    [start, Said::Arguments { index, text: arguments.to_owned() }]
}

fn cases() -> Vec<(ToolSyntax, &'static str, Vec<Said>)> {
    use ToolSyntax::{Hermes, Llama3, Mistral};
    let two = |a: [Said; 2], b: [Said; 2]| a.into_iter().chain(b).collect::<Vec<_>>();
    vec![
        (Hermes, "plain <tool_ text\n", vec![text("plain <tool_ text\n")]),
        (
            Hermes,
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>",
            call(0, "f", "{\"a\": 1}").to_vec(),
        ),
        (
            Hermes,
            "Let me see. \n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>",
            [vec![text("Let me see.")], two(call(0, "f", "{}"), call(1, "g", "{}"))].concat(),
        ),
        (Hermes, "<think>\nhm </th </think>\n\nyes", vec![thought("\nhm </th"), text("yes")]),
        (
            Hermes,
            "<think>a</think><tool_call>{\"name\":\"f\",\"arguments\":{\"x\":\"</tool_call>\"}}</tool_call>",
            [vec![thought("a")], call(0, "f", "{\"x\":\"</tool_call>\"}").to_vec()].concat(),
        ),
        (Hermes, "<think>never ends", vec![thought("never ends")]),
        (Hermes, "<tool_call>{\"name\":\"f\",\"arguments\":{\"cut", call(0, "f", "{\"cut").to_vec()),
        (Hermes, "a <tool_call>{\"nam", vec![text("a")]),
        (Hermes, "<tool_call>no call", vec![text("no call")]),
        (
            Llama3,
            "{\"name\": \"f\", \"parameters\": {\"a\": \"é\"}}",
            call(0, "f", "{\"a\": \"é\"}").to_vec(),
        ),
        (
            Llama3,
            "<|python_tag|>{\"name\":\"f\",\"parameters\":{}}; {\"name\":\"g\",\"parameters\":{}}",
            two(call(0, "f", "{}"), call(1, "g", "{}")),
        ),
        (Llama3, "{\"answer\": 1} is {it}", vec![text("{\"answer\": 1} is {it}")]),
        (Llama3, "Hello {\"name\": \"f\"}", vec![text("Hello {\"name\": \"f\"}")]),
        (
            Mistral,
            "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {\"b\": [1]}}]",
            two(call(0, "f", "{}"), call(1, "g", "{\"b\": [1]}")),
        ),
        (
            Mistral,
            "ok[TOOL_CALLS]f[CALL_ID]123[ARGS]{\"a\": {}}[TOOL_CALLS]g[ARGS]{}",
            [vec![text("ok")], two(call(0, "f", "{\"a\": {}}"), call(1, "g", "{}"))].concat(),
        ),
    ]
}

#[test]
fn each_family_is_understood() {
    for (syntax, output, expected) in cases() {
        assert_eq!(parse(dialect(syntax), true, &[output]), expected, "{output}");
    }
}

#[test]
fn without_tools_calls_are_text() {
    let output = "<tool_call>{\"name\": \"f\"}</tool_call>";
    assert_eq!(parse(dialect(ToolSyntax::Hermes), false, &[output]), [text(output)]);
    assert_eq!(
        parse(dialect(ToolSyntax::Llama3), false, &["{\"name\": \"f\"}"]),
        [text("{\"name\": \"f\"}")]
    );
}

#[test]
fn an_answer_may_begin_inside_the_thinking() {
    let dialect = Dialect { opens_thinking: true, ..dialect(ToolSyntax::Hermes) };
    assert_eq!(parse(dialect, true, &["hm\n</think>\n\nyes"]), [thought("hm"), text("yes")]);
    assert_eq!(parse(dialect, true, &["hm</think>\n", "\nyes"]), [thought("hm"), text("yes")]);
}

proptest! {
    /// The same comes out however it is cut, and nothing is given out that a marker could begin with.
    #[test]
    fn cuts_do_not_matter(which in 0..15_usize, cuts in prop::collection::vec(0..200_usize, 0..12)) {
        let (syntax, output, expected) = cases().swap_remove(which);
        let mut ends: Vec<usize> = cuts.into_iter().filter(|at| output.is_char_boundary(*at)).collect();
        ends.push(output.len());
        ends.retain(|at| *at <= output.len());
        ends.sort_unstable();
        let mut start = 0;
        let pieces: Vec<&str> = ends.into_iter().map(|end| {
            let piece = &output[start..end];
            start = end;
            piece
        }).collect();
        prop_assert_eq!(parse(dialect(syntax), true, &pieces), expected);
    }

    #[test]
    fn anything_is_survived(output in "[<tool_call>\\[TOOL_CALLS\\]{}\":, a/;|]{0,80}") {
        for syntax in [ToolSyntax::Hermes, ToolSyntax::Llama3, ToolSyntax::Mistral] {
            parse(dialect(syntax), true, &[&output]);
        }
    }
}
