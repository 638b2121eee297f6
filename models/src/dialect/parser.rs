//! Takes a model's output apart as it comes: thinking, text and calls.

use super::call::{CallReader, Step, Told};
use super::{Dialect, THINK, ToolSyntax};

const CLOSING: &str = "</tool_call>";
const PYTHON: &str = "<|python_tag|>";
const ARGUMENTS: &str = "[ARGS]";
/// Longest name of a tool that is read without quotes.
const MAX_NAME_BYTES: usize = 256;

/// A stretch of what a model wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Text of the answer.
    Text(String),
    /// Thinking.
    Reasoning(String),
    /// A call begins; they are numbered from 0.
    CallStart {
        /// Number of the call.
        index: usize,
        /// Name of the tool.
        name: String,
    },
    /// More of a call's arguments, JSON text.
    Arguments {
        /// Number of the call.
        index: usize,
        /// What is new.
        text: String,
    },
}

#[derive(Clone, Debug)]
enum State {
    /// Nothing but white space so far.
    Start,
    Thinking,
    Text,
    /// Inside a call; the text so far, in case it turns out to be none.
    Call(CallReader, String),
    /// Between the calls, or after them.
    Between,
    /// A tool's name without quotes, up to its arguments.
    Name(String),
    /// The arguments after such a name.
    Bare(CallReader),
}

/// Parser of one answer. Half a marker is never given out: what could become one is held back.
#[derive(Clone, Debug)]
pub struct OutputParser {
    dialect: Dialect,
    /// Whether calls are looked for.
    tools: bool,
    state: State,
    held: String,
    calls: usize,
    /// It has thought: the white space before the answer is no part of it.
    has_thought: bool,
    said: Vec<Said>,
}

impl OutputParser {
    /// At the beginning of an answer; calls are looked for where there are `tools`.
    pub fn new(dialect: Dialect, tools: bool) -> Self {
        let state = if dialect.opens_thinking { State::Thinking } else { State::Start };
        Self { dialect, tools, state, held: String::new(), calls: 0, has_thought: false, said: Vec::new() }
    }

    /// Calls begun so far.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Takes more output; gives what is certain.
    pub fn push(&mut self, text: &str) -> Vec<Said> {
        self.held.push_str(text);
        while self.advance(false) {}
        std::mem::take(&mut self.said)
    }

    /// The output is over; gives what was held back. Of a call that was cut before its name, nothing is left.
    pub fn finish(&mut self) -> Vec<Said> {
        while self.advance(true) {}
        std::mem::take(&mut self.said)
    }

    /// One step; false when more output is needed.
    fn advance(&mut self, at_end: bool) -> bool {
        match &mut self.state {
            State::Start => self.start(at_end),
            State::Thinking => self.thinking(at_end),
            State::Text => self.text(at_end),
            State::Call(..) => self.call(),
            State::Between => self.between(at_end),
            State::Name(_) => self.name(),
            State::Bare(_) => self.bare(),
        }
    }

    fn start(&mut self, at_end: bool) -> bool {
        if self.has_thought {
            self.held = self.held.trim_start().to_owned();
        }
        let rest = self.held.trim_start();
        if rest.is_empty() && !at_end {
            return false;
        }
        let is_llama = self.tools && self.dialect.tools == ToolSyntax::Llama3;
        if self.dialect.thinks && rest.starts_with(THINK.0) {
            self.held = rest[THINK.0.len()..].to_owned();
            self.state = State::Thinking;
        } else if is_llama && rest.starts_with(PYTHON) {
            self.held = rest[PYTHON.len()..].to_owned();
            self.state = State::Call(CallReader::default(), String::new());
        } else if is_llama && rest.starts_with('{') {
            self.state = State::Call(CallReader::default(), String::new());
        } else {
            let open =
                (self.dialect.thinks && THINK.0.starts_with(rest)) || (is_llama && PYTHON.starts_with(rest));
            if open && !at_end {
                return false;
            }
            self.state = State::Text;
        }
        true
    }

    fn thinking(&mut self, at_end: bool) -> bool {
        match split(&self.held, THINK.1, at_end) {
            Split::Found(at) => {
                let thought = self.held[..at].trim_end().to_owned();
                self.held = self.held[at + THINK.1.len()..].to_owned();
                self.say(Said::Reasoning(thought));
                self.state = State::Start;
                (self.has_thought, self.dialect.thinks) = (true, false);
                true
            }
            Split::Certain(at) => {
                let at = if at_end { at } else { self.held[..at].trim_end().len() };
                let thought: String = self.held.drain(..at).collect();
                self.say(Said::Reasoning(thought));
                false
            }
        }
    }

    fn text(&mut self, at_end: bool) -> bool {
        let opening = self.dialect.tools.opening();
        if !self.tools || opening.is_empty() {
            let text = std::mem::take(&mut self.held);
            self.say(Said::Text(text));
            return false;
        }
        match split(&self.held, opening, at_end) {
            Split::Found(at) => {
                let text = self.held[..at].trim_end().to_owned();
                self.held = self.held[at + opening.len()..].to_owned();
                self.say(Said::Text(text));
                self.state = match self.dialect.tools {
                    ToolSyntax::Mistral => State::Name(String::new()),
                    _ => State::Call(CallReader::default(), String::new()),
                };
                true
            }
            Split::Certain(at) => {
                // White space before a call is no text.
                let at = if at_end { at } else { self.held[..at].trim_end().len() };
                let text: String = self.held.drain(..at).collect();
                self.say(Said::Text(text));
                false
            }
        }
    }

    fn call(&mut self) -> bool {
        let State::Call(reader, raw) = &mut self.state else { return false };
        let mut end = None;
        for (at, c) in self.held.char_indices() {
            raw.push(c);
            match reader.push(c) {
                Step::More => {}
                step => {
                    end = Some((at + c.len_utf8(), step));
                    break;
                }
            }
        }
        let (told, named) = (reader.told(), reader.is_named());
        let raw = std::mem::take(raw);
        let Some((taken, step)) = end else {
            if let State::Call(_, kept) = &mut self.state {
                *kept = if named { String::new() } else { raw };
            }
            self.held.clear();
            self.tell(told);
            return false;
        };
        self.held.drain(..taken);
        self.tell(told);
        if step == Step::Done {
            self.state = State::Between;
        } else {
            // Not a call after all.
            self.state = State::Text;
            self.tools = self.tools && self.dialect.tools != ToolSyntax::Llama3;
            if !named {
                self.say(Said::Text(raw));
            }
        }
        true
    }

    fn tell(&mut self, told: Vec<Told>) {
        for told in told {
            match told {
                Told::Name(name) => {
                    self.said.push(Said::CallStart { index: self.calls, name });
                    self.calls += 1;
                }
                Told::Arguments(text) => {
                    self.say(Said::Arguments { index: self.calls.saturating_sub(1), text })
                }
            }
        }
    }

    fn between(&mut self, at_end: bool) -> bool {
        let rest = self.held.trim_start().to_owned();
        let marks: &[(&str, bool)] = match self.dialect.tools {
            ToolSyntax::Hermes => &[(CLOSING, false), ("<tool_call>", true)],
            ToolSyntax::Llama3 => &[(";", true)],
            ToolSyntax::Mistral => &[(",", true), ("]", false), ("[TOOL_CALLS]", true)],
        };
        for (mark, opens) in marks {
            if let Some(rest) = rest.strip_prefix(mark) {
                self.held = rest.to_owned();
                if *opens {
                    self.state = match self.dialect.tools {
                        ToolSyntax::Mistral if *mark != "," => State::Name(String::new()),
                        _ => State::Call(CallReader::default(), String::new()),
                    };
                }
                return true;
            }
        }
        if rest.is_empty() || (!at_end && marks.iter().any(|(mark, _)| mark.starts_with(&rest))) {
            return false;
        }
        self.held = rest;
        self.state = State::Text;
        true
    }

    /// After `[TOOL_CALLS]`: a list of objects, or a name without quotes.
    fn name(&mut self) -> bool {
        let State::Name(name) = &mut self.state else { return false };
        if name.is_empty() {
            let rest = self.held.trim_start();
            if let Some(rest) = rest.strip_prefix('[') {
                self.held = rest.to_owned();
                self.state = State::Call(CallReader::default(), String::new());
                return true;
            }
        }
        let Some(at) = self.held.find('{') else {
            if self.held.len() > MAX_NAME_BYTES {
                self.state = State::Text;
                return true;
            }
            return false;
        };
        let head: String = self.held.drain(..at).collect();
        let head = head.split(ARGUMENTS).next().unwrap_or_default();
        let name = head.split("[CALL_ID]").next().unwrap_or_default().trim().to_owned();
        // A name and its arguments are what an object with them would tell.
        let mut reader = CallReader::default();
        let object = format!("{{\"name\":{},\"arguments\":", serde_json::Value::from(name));
        object.chars().for_each(|c| {
            reader.push(c);
        });
        let told = reader.told();
        self.tell(told);
        self.state = State::Bare(reader);
        true
    }

    fn bare(&mut self) -> bool {
        let State::Bare(reader) = &mut self.state else { return false };
        let mut end = None;
        for (at, c) in self.held.char_indices() {
            // After the arguments, a brace would end the object that is not there.
            if reader.is_between() {
                end = Some(at);
                break;
            }
            reader.push(c);
        }
        let ended = end.is_some() || reader.is_between();
        let told = reader.told();
        self.held.drain(..end.unwrap_or(self.held.len()));
        self.tell(told);
        if ended {
            self.state = State::Between;
        }
        ended
    }

    fn say(&mut self, said: Said) {
        match (&said, self.said.last_mut()) {
            (Said::Text(text) | Said::Reasoning(text) | Said::Arguments { text, .. }, _)
                if text.is_empty() => {}
            (Said::Text(more), Some(Said::Text(text))) => text.push_str(more),
            _ => self.said.push(said),
        }
    }
}

enum Split {
    /// The mark begins here.
    Found(usize),
    /// Text up to here is no part of a mark.
    Certain(usize),
}

fn split(text: &str, mark: &str, at_end: bool) -> Split {
    if let Some(at) = text.find(mark) {
        return Split::Found(at);
    }
    if at_end {
        return Split::Certain(text.len());
    }
    let starts = (1..mark.len()).rev().filter(|n| mark.is_char_boundary(*n));
    let held = starts.into_iter().find(|n| text.ends_with(&mark[..*n])).unwrap_or(0);
    Split::Certain(text.len() - held)
}

#[cfg(test)]
mod tests;
