//! What a choice says.

use engine::{FinishReason, TokenLogprob};

/// A stretch of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text of the answer.
    Text(String),
    /// Text of the thinking before it.
    Reasoning(String),
    /// A call begins; calls of a choice are numbered from 0.
    CallStart {
        /// Number of the call.
        index: usize,
        /// Its id.
        id: String,
        /// Name of the tool.
        name: String,
    },
    /// More of the latest call's arguments, JSON text.
    CallArguments {
        /// Number of the call.
        index: usize,
        /// What is new.
        text: String,
    },
}

/// New output of one choice.
#[derive(Debug, Default)]
pub struct Piece {
    /// What it says; empty only in a choice's last piece.
    pub parts: Vec<Part>,
    /// One entry a prompt token but the first, where asked for; in the first piece of a choice.
    pub prompt: Vec<TokenLogprob>,
    /// Output tokens behind it.
    pub tokens: u32,
    /// One entry a token where asked for.
    pub logprobs: Vec<TokenLogprob>,
}

impl Piece {
    /// The text without reasoning and calls.
    pub fn text(&self) -> String {
        text_of(&self.parts)
    }
}

fn text_of(parts: &[Part]) -> String {
    let text = |part: &Part| match part {
        Part::Text(text) => Some(text.clone()),
        _ => None,
    };
    parts.iter().filter_map(text).collect()
}

/// Why a choice ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The model was done, or the named stop string came.
    Stop(Option<String>),
    /// Its limit, or the end of a budget.
    Length,
    /// It called tools and waits for their answers.
    ToolCalls,
    /// A content rule of the operator.
    ContentFilter,
}

impl Ending {
    /// The engine's reason, for a choice that made calls or not.
    pub(super) fn of(reason: &FinishReason, stop_match: Option<String>, called: bool) -> Self {
        match reason {
            FinishReason::Length => Self::Length,
            _ if called => Self::ToolCalls,
            _ => Self::Stop(stop_match),
        }
    }
}

/// Everything one choice said.
#[derive(Debug)]
pub struct Choice {
    /// What it said; neighbours of one kind are joined.
    pub parts: Vec<Part>,
    /// One entry a prompt token but the first, where asked for.
    pub prompt: Vec<TokenLogprob>,
    /// One entry a token where asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Why it ended.
    pub ending: Ending,
}

impl Choice {
    /// Nothing said yet.
    pub(super) fn new() -> Self {
        let (parts, prompt, logprobs) = Default::default();
        Self { parts, prompt, logprobs, ending: Ending::Length }
    }

    pub(super) fn push(&mut self, piece: Piece) {
        self.prompt.extend(piece.prompt);
        self.logprobs.extend(piece.logprobs);
        for part in piece.parts {
            match (self.parts.last_mut(), part) {
                (Some(Part::Text(text)), Part::Text(more)) => text.push_str(&more),
                (Some(Part::Reasoning(text)), Part::Reasoning(more)) => text.push_str(&more),
                (
                    Some(Part::CallArguments { index, text }),
                    Part::CallArguments { index: same, text: more },
                ) if *index == same => text.push_str(&more),
                (_, part) => self.parts.push(part),
            }
        }
    }

    /// The text without reasoning and calls.
    pub fn text(&self) -> String {
        text_of(&self.parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_kind_are_joined() {
        let mut choice = Choice::new();
        let call = |text: &str| Part::CallArguments { index: 0, text: text.to_owned() };
        let start = Part::CallStart { index: 0, id: "call_1".to_owned(), name: "f".to_owned() };
        let text = |text: &str| Part::Text(text.to_owned());
        choice.push(Piece { parts: vec![text("a")], ..Piece::default() });
        choice.push(Piece { parts: vec![text("b"), start.clone(), call("{")], ..Piece::default() });
        choice.push(Piece { parts: vec![call("}"), text("c")], ..Piece::default() });
        assert_eq!(choice.parts, [text("ab"), start, call("{}"), text("c")]);
        assert_eq!(choice.text(), "abc");
    }
}
