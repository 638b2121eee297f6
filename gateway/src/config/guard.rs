//! Content rules as written in the file.

use serde::{Deserialize, Serialize};

use super::sections::section;
use super::{Bound, ConfigError, invalid};

/// Most rules; every text is searched once for each.
const MAX_RULES: usize = 64;
/// Longest pattern, and longest word, bytes.
const MAX_PATTERN_BYTES: usize = 4096;
/// Most words of a rule.
const MAX_WORDS: usize = 10_000;
/// Longest name, bytes: it becomes a category of moderations.
const MAX_NAME_BYTES: usize = 64;

/// Content rules. Without rules and hook nothing is searched and nothing is held back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuardSection {
    /// Output bytes of a choice that are held back so that a match over several tokens is found before its beginning is
    /// told. A longer match is found as well, but late.
    pub hold_bytes: usize,
    /// The rules, each searched on its own.
    pub rule: Vec<GuardRule>,
    /// A judge of the operator's own.
    pub hook: GuardHook,
}

section! {
    /// A judge of texts that is asked over HTTP, in the form of OpenAI's moderations.
    GuardHook, "guard.hook",
    numbers {
        /// How long a text may wait for the judge, and again for its answer.
        timeout_ms: u64 = 2_000, 10, 60_000, "ms";
        /// Texts that are judged at the same time; each has a thread that waits for it.
        threads: usize = 8, 1, 256, "threads";
        /// Bytes of an answer that are judged together, after those before them, and then told together: less comes
        /// sooner and asks more often.
        window_bytes: usize = 512, 1, 1_048_576, "bytes";
    }
    others {
        /// Where texts are posted as `{"input": text}`; unset: nowhere.
        url: Option<String> = None;
        /// Sent as a bearer token.
        token: Option<String> = None;
        /// Sent as `model`.
        model: Option<String> = None;
        /// Whether prompts are judged.
        input: bool = true;
        /// Whether answers are judged, window by window as they come.
        output: bool = true;
        /// What happens to a text that the judge says nothing about: "refuse" or "allow".
        on_failure: HookFailure = HookFailure::Refuse;
    }
}

/// What happens to a text that was not judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookFailure {
    /// A prompt is refused with 503; an answer ends with this error, and costs what was told of it.
    #[default]
    Refuse,
    /// It is taken as allowed, with a warning in the log.
    Allow,
}

impl Default for GuardSection {
    fn default() -> Self {
        Self { hold_bytes: 64, rule: Vec::new(), hook: GuardHook::default() }
    }
}

/// One rule: a pattern or words, and what to do where they are found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardRule {
    /// Category that clients see: letters, digits, `_`, `-`, `/`.
    pub name: String,
    /// A regular expression, searched in linear time.
    #[serde(default)]
    pub pattern: Option<String>,
    /// Whole words in any case.
    #[serde(default)]
    pub words: Vec<String>,
    /// What to do with a prompt.
    #[serde(default)]
    pub input: InputAction,
    /// What to do with an answer.
    #[serde(default)]
    pub output: OutputAction,
}

/// What a match in a prompt does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputAction {
    /// Refuses the request, which costs nothing.
    #[default]
    Refuse,
    /// Nothing; moderations still name it.
    Off,
}

/// What a match in an answer does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputAction {
    /// Ends the choice before the match, with `content_filter`.
    #[default]
    Stop,
    /// Puts `[name]` in its place.
    Mask,
    /// Nothing; moderations still name it.
    Off,
}

impl GuardSection {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=65_536).contains(&self.hold_bytes) {
            return Err(ConfigError::OutOfBounds {
                key: "guard.hold_bytes".to_owned(),
                value: self.hold_bytes as u64,
                unit: "bytes",
                min: 1,
                max: 65_536,
            });
        }
        self.hook.check_bounds()?;
        if let Some(url) = &self.hook.url
            && !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme))
        {
            return Err(invalid("guard.hook.url", url, "must begin with https:// or http://"));
        }
        if self.rule.len() > MAX_RULES {
            let message = format!("at most {MAX_RULES} rules");
            return Err(invalid("guard.rule", &self.rule.len(), &message));
        }
        for (i, rule) in self.rule.iter().enumerate() {
            rule.validate(&format!("guard.rule[{i}]"))?;
            if self.rule[..i].iter().any(|other| other.name == rule.name) {
                return Err(invalid(&format!("guard.rule[{i}].name"), &rule.name, "is used twice"));
            }
        }
        Ok(())
    }
}

impl GuardRule {
    fn validate(&self, key: &str) -> Result<(), ConfigError> {
        let name_ok = (1..=MAX_NAME_BYTES).contains(&self.name.len())
            && self.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-/".contains(&b));
        if !name_ok {
            let message = format!("must be 1 to {MAX_NAME_BYTES} letters, digits, '_', '-' or '/'");
            return Err(invalid(&format!("{key}.name"), &self.name, &message));
        }
        if self.pattern.is_some() != self.words.is_empty() {
            return Err(invalid(key, &self.name, "must have either 'pattern' or 'words'"));
        }
        if self.words.len() > MAX_WORDS {
            return Err(invalid(
                &format!("{key}.words"),
                &self.words.len(),
                &format!("at most {MAX_WORDS} words"),
            ));
        }
        let texts = self.pattern.iter().chain(&self.words);
        if let Some(text) = texts.clone().find(|text| text.is_empty() || text.len() > MAX_PATTERN_BYTES) {
            let message = format!("patterns and words must have 1 to {MAX_PATTERN_BYTES} bytes");
            return Err(invalid(key, &text.len(), &message));
        }
        match self.regex() {
            Err(error) => Err(invalid(&format!("{key}.pattern"), &self.name, &error.to_string())),
            Ok(regex) if regex.is_match("") => {
                Err(invalid(&format!("{key}.pattern"), &self.name, "must not match the empty text"))
            }
            Ok(_) => Ok(()),
        }
    }

    /// The rule as one regular expression of bounded size.
    pub(crate) fn regex(&self) -> Result<regex::Regex, regex::Error> {
        let pattern = match &self.pattern {
            Some(pattern) => pattern.clone(),
            None => {
                let words: Vec<String> = self.words.iter().map(|word| regex::escape(word)).collect();
                // `\b` only where the word itself begins or ends with a word character.
                format!(r"(?i)(?:{})", words.iter().map(|word| bounded(word)).collect::<Vec<_>>().join("|"))
            }
        };
        regex::RegexBuilder::new(&pattern).size_limit(8 << 20).build()
    }
}

fn bounded(word: &str) -> String {
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let mark = |yes: bool| if yes { r"\b" } else { "" };
    // An escaped mark begins with a backslash, which is no word character, as it should be.
    format!("{}{word}{}", mark(is_word(word.chars().next())), mark(is_word(word.chars().last())))
}
