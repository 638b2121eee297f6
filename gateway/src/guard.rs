//! Content rules over prompts and answers: block lists and patterns of the operator's own.
//!
//! A prompt that breaks a rule is refused before it costs anything. An answer is searched as it comes; a little of it is
//! held back, so that what a rule forbids is not told token by token before the whole of it is there.

mod output;

use std::sync::Arc;

use regex::Regex;

pub use crate::config::{InputAction, OutputAction};
pub use output::{OutputGuard, Screened};

use crate::config::GuardSection;

/// The compiled rules.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    rules: Arc<[Rule]>,
    /// Those that concern answers.
    of_output: Arc<[Rule]>,
    hold_bytes: usize,
}

#[derive(Clone, Debug)]
struct Rule {
    name: String,
    regex: Regex,
    input: InputAction,
    output: OutputAction,
}

impl Guard {
    /// Compiles the rules.
    ///
    /// # Errors
    /// A pattern that is none; a validated configuration has no such.
    pub fn new(section: &GuardSection) -> Result<Self, regex::Error> {
        let rule = |rule: &crate::config::GuardRule| {
            let (name, regex) = (rule.name.clone(), rule.regex()?);
            Ok(Rule { name, regex, input: rule.input, output: rule.output })
        };
        let rules = section.rule.iter().map(rule).collect::<Result<Arc<[Rule]>, regex::Error>>()?;
        let of_output = rules.iter().filter(|rule| rule.output != OutputAction::Off).cloned().collect();
        Ok(Self { rules, of_output, hold_bytes: section.hold_bytes })
    }

    /// Whether prompts need to be searched at all.
    pub fn screens_input(&self) -> bool {
        self.rules.iter().any(|rule| rule.input == InputAction::Refuse)
    }

    /// The first rule for which a prompt with this text is refused.
    pub fn refuses(&self, text: &str) -> Option<&str> {
        let mut refusing = self.rules.iter().filter(|rule| rule.input == InputAction::Refuse);
        refusing.find(|rule| rule.regex.is_match(text)).map(|rule| rule.name.as_str())
    }

    /// Every rule by name, and whether `text` matches it.
    pub fn categories<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (&'a str, bool)> {
        self.rules.iter().map(|rule| (rule.name.as_str(), rule.regex.is_match(text)))
    }

    /// Whether answers need to be searched at all.
    pub fn screens_output(&self) -> bool {
        !self.of_output.is_empty()
    }

    /// A screen for one choice; `None` where no rule concerns answers.
    pub fn output(&self) -> Option<OutputGuard> {
        self.screens_output().then(|| OutputGuard::new(Arc::clone(&self.of_output), self.hold_bytes))
    }
}
