//! Content rules over prompts and answers: block lists and patterns of the operator's own.
//!
//! A prompt that breaks a rule is refused before it costs anything. An answer is searched as it comes; a little of it is
//! held back, so that what a rule forbids is not told token by token before the whole of it is there.

mod output;

use regex::Regex;

pub use crate::config::{InputAction, OutputAction};
pub use output::{OutputGuard, Screened};

use crate::config::GuardSection;

/// The compiled rules.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    rules: Vec<Rule>,
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
        let rules = section.rule.iter().map(rule).collect::<Result<_, regex::Error>>()?;
        Ok(Self { rules, hold_bytes: section.hold_bytes })
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

    /// A screen for one choice; `None` where no rule concerns answers.
    pub fn output(&self) -> Option<OutputGuard> {
        let rules: Vec<Rule> =
            self.rules.iter().filter(|rule| rule.output != OutputAction::Off).cloned().collect();
        (!rules.is_empty()).then(|| OutputGuard::new(rules, self.hold_bytes))
    }
}
