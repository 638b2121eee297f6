//! A grammar, in Lark syntax, of what a model may write when there are tools.

use std::fmt::Write;

use super::{Dialect, THINK, ToolSyntax};

/// White space between the parts of a call: enough for how models write, and bounded.
const SPACE: &str = "[ \\n]{0,4}";

/// What an answer may hold beside calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing: it must call.
    Nothing,
    /// Any text.
    Text,
    /// The part `@content`.
    Content,
}

/// The calls that an answer may hold.
#[derive(Clone, Copy, Debug)]
pub struct Calls<'a> {
    /// Names of the tools: letters, digits, `_` and `-`. The arguments of number `i` are the part `@tool_i`.
    pub names: &'a [&'a str],
    /// More than one call.
    pub parallel: bool,
}

/// The grammar: thinking first if the model thinks, then `rest` or calls.
pub fn form(dialect: Dialect, calls: Calls, rest: Rest) -> String {
    let mut text = String::new();
    let think = thinking(dialect, &mut text);
    let mut ways = Vec::new();
    match rest {
        Rest::Nothing => {}
        Rest::Content => ways.push("@content"),
        Rest::Text => ways.push("free"),
    }
    if !calls.names.is_empty() {
        define_calls(dialect.tools, calls, rest == Rest::Text, &mut text);
        ways.push("calls");
    }
    if rest == Rest::Text {
        let free = match dialect.tools.opening() {
            // Calls begin with the answer, so text must begin otherwise.
            "" => "FREE?\nFREE: /[^{< \\n](?s:.*)/".to_owned(),
            opening => {
                format!("FREE\nFREE: /(?s:.*)/ & ~/(?s:.*){}(?s:.*)/", escape(opening))
            }
        };
        let _ = writeln!(text, "free: {free}");
    }
    format!("start: {think}({})\n{text}", ways.join(" | "))
}

/// Defines the thinking; gives how `start` begins.
fn thinking(dialect: Dialect, text: &mut String) -> &'static str {
    if !dialect.thinks {
        return "";
    }
    let _ = writeln!(text, "thought[lazy]: /(?s:.*){}[ \\n]{{0,4}}/", escape(THINK.1));
    if dialect.opens_thinking {
        return "thought ";
    }
    let _ = writeln!(text, "thinking: \"{}\" thought", THINK.0);
    "thinking? "
}

fn define_calls(syntax: ToolSyntax, calls: Calls, after_text: bool, text: &mut String) {
    let many = if calls.parallel { "*" } else { "{0}" };
    let opening = syntax.opening();
    // Where text may come first, it goes up to the opening, and no further.
    let open = if after_text && !opening.is_empty() {
        let _ = writeln!(text, "open[lazy]: /(?s:.*){}/", escape(opening));
        "open".to_owned()
    } else if opening.is_empty() {
        String::new()
    } else {
        format!("\"{opening}\"")
    };
    let repeat = |more: &str| if calls.parallel { format!(" ({more}){many}") } else { String::new() };
    let body = match syntax {
        ToolSyntax::Hermes => {
            let more = repeat(&format!("GAP \"{opening}\" GAP call GAP \"</tool_call>\""));
            format!("{open} GAP call GAP \"</tool_call>\"{more}")
        }
        ToolSyntax::Llama3 => format!("\"<|python_tag|>\"? call{}", repeat("GAP \";\" GAP call")),
        ToolSyntax::Mistral => {
            format!("{open} GAP \"[\" GAP call{} GAP \"]\"", repeat("GAP \",\" GAP call"))
        }
    };
    let _ = writeln!(text, "calls: {body}\nGAP: /{SPACE}/");
    let ways: Vec<String> = (0..calls.names.len()).map(|i| format!("HEAD_{i} @tool_{i} END")).collect();
    let _ = writeln!(text, "call: {}\nEND: /{SPACE}\\}}/", ways.join(" | "));
    for (i, name) in calls.names.iter().enumerate() {
        let key = syntax.arguments_key();
        let _ = writeln!(
            text,
            "HEAD_{i}: /\\{{{SPACE}\"name\"{SPACE}:{SPACE}\"{name}\"{SPACE},{SPACE}\"{key}\"{SPACE}:{SPACE}/"
        );
    }
}

/// For a regular expression between slashes.
fn escape(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            (!c.is_alphanumeric() && c != '_' && c != '<' && c != '>').then_some('\\').into_iter().chain([c])
        })
        .collect()
}
