//! The operator's own judge of texts, asked over HTTP in the form of OpenAI's moderations: `{"input": text}` out,
//! `{"results": [{"flagged": …, "categories": {…}}]}` back.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

use crate::config::{GuardHook, HookFailure};

/// Longest answer that is read, bytes.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// Most categories of an answer, and their longest name in bytes.
const MAX_CATEGORIES: usize = 128;
const MAX_NAME_BYTES: usize = 64;
/// Texts that wait for each thread; with more the judge is too slow for this server.
const WAITING: usize = 16;

/// What the judge found in a text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Judgement {
    /// The text is forbidden.
    pub flagged: bool,
    /// What was looked for, and whether it was found.
    #[serde(default)]
    pub categories: BTreeMap<String, Option<bool>>,
}

impl Judgement {
    /// The categories that were found, or a word where the judge names none.
    pub fn reasons(&self) -> String {
        let found: Vec<&str> = self
            .categories
            .iter()
            .filter(|(_, found)| **found == Some(true))
            .map(|(name, _)| name.as_str())
            .collect();
        if found.is_empty() { "content".to_owned() } else { found.join(", ") }
    }

    /// It, if it is one that can be shown.
    fn checked(self) -> Result<Self, String> {
        let categories = self.categories.len();
        if categories > MAX_CATEGORIES {
            return Err(format!("it names {categories} categories, which are more than {MAX_CATEGORIES}"));
        }
        match self.categories.keys().find(|name| name.len() > MAX_NAME_BYTES) {
            Some(name) => Err(format!(
                "it names a category of {} bytes, which are more than {MAX_NAME_BYTES}",
                name.len()
            )),
            None => Ok(self),
        }
    }
}

/// The judge did not say, and what it does not allow is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the content hook did not judge: {0}")]
pub struct Unjudged(String);

impl Unjudged {
    /// For whatever else went wrong.
    pub(super) fn new(error: &dyn std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<Judgement>,
}

struct Question {
    text: String,
    until: Instant,
    reply: oneshot::Sender<Result<Judgement, Unjudged>>,
}

/// The way to the judge; clones share it. Its threads end with the last.
#[derive(Clone, Debug)]
pub struct Hook {
    questions: SyncSender<Question>,
    section: GuardHook,
}

/// A question on its way.
#[derive(Debug)]
pub struct Asked {
    reply: oneshot::Receiver<Result<Judgement, Unjudged>>,
    on_failure: HookFailure,
}

impl Asked {
    /// What the judge says. Cancel safe.
    ///
    /// # Errors
    /// If it did not say, unless that is to be overlooked.
    pub async fn answer(&mut self) -> Result<Judgement, Unjudged> {
        let answer = (&mut self.reply).await;
        let answer = answer.unwrap_or_else(|_| Err(Unjudged("too many texts wait for it".to_owned())));
        match answer {
            Err(error) if self.on_failure == HookFailure::Allow => {
                tracing::warn!(%error, "a text is told without a judgement");
                Ok(Judgement::default())
            }
            other => other,
        }
    }
}

impl Hook {
    /// `None` where no address is configured.
    pub fn new(section: &GuardHook) -> std::io::Result<Option<Self>> {
        let Some(url) = section.url.clone() else { return Ok(None) };
        let timeout = Duration::from_millis(section.timeout_ms);
        // A redirect could lead the texts anywhere.
        let agent = ureq::AgentBuilder::new().timeout(timeout).redirects(0).build();
        let (questions, waiting) = mpsc::sync_channel(WAITING * section.threads);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..section.threads {
            let judge = Judge { agent: agent.clone(), url: url.clone(), section: section.clone() };
            let waiting = Arc::clone(&waiting);
            std::thread::Builder::new().name("guard".to_owned()).spawn(move || judge.run(&waiting))?;
        }
        Ok(Some(Self { questions, section: section.clone() }))
    }

    /// Whether prompts are to be judged.
    pub fn input(&self) -> bool {
        self.section.input
    }

    /// Bytes of an answer that are judged together and told together; `None` where answers are not judged.
    pub fn window(&self) -> Option<usize> {
        self.section.output.then_some(self.section.window_bytes)
    }

    /// Has `text` judged.
    pub fn ask(&self, text: String) -> Asked {
        let (reply, answer) = oneshot::channel();
        let until = Instant::now() + Duration::from_millis(self.section.timeout_ms);
        // A full queue drops the question, which is then answered as unjudged.
        let _ = self.questions.try_send(Question { text, until, reply });
        Asked { reply: answer, on_failure: self.section.on_failure }
    }
}

/// One thread's way to the judge.
struct Judge {
    agent: ureq::Agent,
    url: String,
    section: GuardHook,
}

impl Judge {
    fn run(&self, waiting: &Mutex<Receiver<Question>>) {
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Question { text, until, reply }) = next else { return };
            if reply.is_closed() {
                continue;
            }
            let answer = if Instant::now() > until {
                Err(format!("no thread was free within {} ms", self.section.timeout_ms))
            } else {
                self.judge(&text)
            };
            let _ = reply.send(answer.map_err(Unjudged));
        }
    }

    fn judge(&self, text: &str) -> Result<Judgement, String> {
        let mut body = json!({"input": text});
        if let Some(model) = &self.section.model {
            body["model"] = model.as_str().into();
        }
        let mut request = self.agent.post(&self.url).set("content-type", "application/json");
        if let Some(token) = &self.section.token {
            request = request.set("authorization", &format!("Bearer {token}"));
        }
        let answer = request.send_string(&body.to_string()).map_err(|error| match error {
            ureq::Error::Status(status, _) => format!("it answered {status}"),
            // The address may hold a password.
            ureq::Error::Transport(error) => error.kind().to_string(),
        })?;
        let mut bytes = Vec::new();
        let read = answer.into_reader().take(MAX_ANSWER_BYTES).read_to_end(&mut bytes);
        read.map_err(|error| error.to_string())?;
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|error| format!("its answer is no moderation: {error}"))?;
        answer.results.into_iter().next().ok_or("its answer has no result")?.checked()
    }
}
