//! Content rules over prompts and answers: block lists and patterns of the operator's own, and a judge over HTTP.
//!
//! A prompt that breaks a rule is refused before it costs anything. An answer is searched as it comes; a little of it is
//! held back, so that what a rule forbids is not told token by token before the whole of it is there.

mod hook;
mod output;

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use regex::Regex;

pub use crate::config::{InputAction, OutputAction};
pub use hook::{Asked, Hook, Judgement, Unjudged};
pub use output::{OutputGuard, Screened};

use crate::config::GuardSection;
use crate::serving::off_thread;

/// Texts of one request that are looked at together, so that none takes all threads of the hook.
const AT_ONCE: usize = 4;

/// The compiled rules.
#[derive(Clone, Debug)]
pub struct Guard {
    rules: Arc<[Rule]>,
    /// Those that concern answers.
    of_output: Arc<[Rule]>,
    hold_bytes: usize,
    hook: Option<Hook>,
}

/// Why the rules cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// A pattern that is none; a validated configuration has no such.
    #[error(transparent)]
    Pattern(#[from] regex::Error),
    /// The threads of the hook do not start.
    #[error("threads of the hook: {0}")]
    Threads(#[from] std::io::Error),
}

/// Why a text is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The rule or the categories that it breaks.
    Forbidden(String),
    /// It could not be judged.
    Unjudged(Unjudged),
}

#[derive(Clone, Debug)]
struct Rule {
    name: String,
    regex: Regex,
    input: InputAction,
    output: OutputAction,
}

impl Guard {
    /// Compiles the rules and starts the hook's threads.
    ///
    /// # Errors
    /// See [`GuardError`].
    pub fn new(section: &GuardSection) -> Result<Self, GuardError> {
        let rule = |rule: &crate::config::GuardRule| {
            let (name, regex) = (rule.name.clone(), rule.regex()?);
            Ok(Rule { name, regex, input: rule.input, output: rule.output })
        };
        let rules = section.rule.iter().map(rule).collect::<Result<Arc<[Rule]>, regex::Error>>()?;
        let of_output = rules.iter().filter(|rule| rule.output != OutputAction::Off).cloned().collect();
        let hook = Hook::new(&section.hook)?;
        Ok(Self { rules, of_output, hold_bytes: section.hold_bytes, hook })
    }

    /// Whether prompts need to be searched at all.
    pub fn screens_input(&self) -> bool {
        self.rules.iter().any(|rule| rule.input == InputAction::Refuse) || self.judge_of_input().is_some()
    }

    fn judge_of_input(&self) -> Option<&Hook> {
        self.hook.as_ref().filter(|hook| hook.input())
    }

    /// Whether a prompt with this text is refused: by a rule, or by the hook.
    ///
    /// # Errors
    /// The refusal.
    async fn screen(&self, text: String) -> Result<(), Refusal> {
        let guard = self.clone();
        let bytes = text.len();
        let searched = off_thread(bytes, move || (guard.refuses(&text).map(str::to_owned), text)).await;
        let (rule, text) = match searched {
            Ok(searched) => searched,
            Err(error) => return Err(Refusal::Unjudged(Unjudged::new(&error))),
        };
        if let Some(rule) = rule {
            return Err(Refusal::Forbidden(rule));
        }
        let Some(hook) = self.judge_of_input() else { return Ok(()) };
        let judgement = hook.ask(text).answer().await.map_err(Refusal::Unjudged)?;
        if judgement.flagged { Err(Refusal::Forbidden(judgement.reasons())) } else { Ok(()) }
    }

    /// Screens many texts, a few of them at a time.
    ///
    /// # Errors
    /// The first refusal, with what came along with its text.
    pub fn screen_all<'a, P: Send + 'a>(
        &'a self,
        texts: Vec<(String, P)>,
    ) -> BoxFuture<'a, Result<(), (Refusal, P)>> {
        let screened = stream::iter(texts).map(move |(text, param)| {
            async move { self.screen(text).await.map_err(|refusal| (refusal, param)) }.boxed()
        });
        screened.buffered(AT_ONCE).try_collect().boxed()
    }

    /// What the hook finds in each text; nothing where there is no hook.
    ///
    /// # Errors
    /// It did not say of one of them, and that is not to be overlooked.
    pub fn judge_all(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Judgement>, Unjudged>> {
        let judged = stream::iter(texts).map(|text| self.judge(text).boxed());
        judged.buffered(AT_ONCE).try_collect().boxed()
    }

    async fn judge(&self, text: String) -> Result<Judgement, Unjudged> {
        match &self.hook {
            Some(hook) => hook.ask(text).answer().await,
            None => Ok(Judgement::default()),
        }
    }

    /// The hook, where it judges answers, and how many bytes of them at once.
    pub fn judge_of_output(&self) -> Option<(Hook, usize)> {
        let hook = self.hook.as_ref()?;
        Some((hook.clone(), hook.window()?))
    }

    /// The first rule for which a prompt with this text is refused.
    fn refuses(&self, text: &str) -> Option<&str> {
        let mut refusing = self.rules.iter().filter(|rule| rule.input == InputAction::Refuse);
        refusing.find(|rule| rule.regex.is_match(text)).map(|rule| rule.name.as_str())
    }

    /// Every rule by name, and whether `text` matches it.
    pub fn categories<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (&'a str, bool)> {
        self.rules.iter().map(|rule| (rule.name.as_str(), rule.regex.is_match(text)))
    }

    /// Whether answers need to be searched at all.
    pub fn screens_output(&self) -> bool {
        !self.of_output.is_empty() || self.judge_of_output().is_some()
    }

    /// A screen for one choice; `None` where no rule concerns answers.
    pub fn output(&self) -> Option<OutputGuard> {
        (!self.of_output.is_empty()).then(|| OutputGuard::new(Arc::clone(&self.of_output), self.hold_bytes))
    }
}
