//! How a model writes what is no plain text: calls of tools, and thinking.
//!
//! A [`Dialect`] follows from the model's template, or is named by its card. [`OutputParser`] takes what the model writes
//! apart; [`form`] gives a grammar of what it may write.

mod call;
mod form;
mod parser;

use serde::Deserialize;

pub use form::{Calls, Rest, form};
pub use parser::{OutputParser, Said};

/// What begins and ends thinking.
pub(crate) const THINK: (&str, &str) = ("<think>", "</think>");

/// How a family of models writes calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToolSyntax {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, one after the other: Hermes, Qwen, SmolLM3 and many more.
    #[default]
    Hermes,
    /// The whole answer is `{"name": …, "parameters": {…}}`, perhaps after `<|python_tag|>`, more of them after `;`.
    Llama3,
    /// `[TOOL_CALLS]` and a list of `{"name": …, "arguments": {…}}`, or a name, `[ARGS]` and the arguments.
    Mistral,
}

impl ToolSyntax {
    /// What begins the calls; empty where they begin with the answer.
    pub(crate) fn opening(self) -> &'static str {
        match self {
            Self::Hermes => "<tool_call>",
            Self::Llama3 => "",
            Self::Mistral => "[TOOL_CALLS]",
        }
    }

    /// The key of a call's arguments.
    pub(crate) fn arguments_key(self) -> &'static str {
        if self == Self::Llama3 { "parameters" } else { "arguments" }
    }
}

/// How a model writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialect {
    /// Its calls.
    pub tools: ToolSyntax,
    /// It may think before it answers.
    pub thinks: bool,
    /// Its template begins the thinking, so that an answer starts inside of it.
    pub opens_thinking: bool,
}

impl Dialect {
    /// What a template's source tells.
    pub(crate) fn of_template(source: &str) -> Self {
        let tools = if source.contains("[TOOL_CALLS]") {
            ToolSyntax::Mistral
        } else if source.contains("<|python_tag|>") && !source.contains("<tool_call>") {
            ToolSyntax::Llama3
        } else {
            ToolSyntax::Hermes
        };
        Self { tools, thinks: source.contains(THINK.1), opens_thinking: false }
    }
}

/// Control tokens of some models that a reader of their output must see: they open or close what this module parses.
pub(crate) fn is_visible(token: &str) -> bool {
    let marks = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>"];
    marks.contains(&token) || token == THINK.0 || token == THINK.1
}
