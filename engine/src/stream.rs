//! Tokens become text, on the reader's task.

mod stops;

use std::collections::VecDeque;
use std::sync::Arc;

use models::{Decoder, Tokenizer};

use crate::event::{Delta, Event, Finish, FinishReason, Usage};
use crate::link::{Inlet, Interest, Update};
use crate::mailbox::Mailbox;
use crate::request::Stop;
use stops::{Scan, StopMatcher};

/// The events of one sequence. Dropping it cancels the sequence; the engine frees its blocks within one step.
///
/// The ending token (end of text, or a stop token) counts as generated and gives no text. A character that is
/// incomplete at the end gives no text either.
pub struct TokenStream {
    inlet: Inlet,
    mailbox: Arc<Mailbox>,
    decoder: Decoder,
    stops: StopMatcher,
    include_stop: bool,
    /// Stop strings are not looked for in the text of so many tokens.
    min_tokens: u32,
    /// Tokens whose text is not certain yet.
    held: Delta,
    usage: Usage,
    events: VecDeque<Event>,
    finished: bool,
}

/// What a stream must know of its request.
pub(crate) struct StreamParams {
    pub(crate) prompt_tokens: u32,
    pub(crate) min_tokens: u32,
    pub(crate) stop: Stop,
}

impl TokenStream {
    pub(crate) fn new(
        inlet: Inlet,
        mailbox: Arc<Mailbox>,
        tokenizer: &Arc<Tokenizer>,
        params: StreamParams,
    ) -> Self {
        let StreamParams { prompt_tokens, min_tokens, stop } = params;
        Self {
            inlet,
            mailbox,
            decoder: Decoder::new(Arc::clone(tokenizer)),
            include_stop: stop.include_stop,
            stops: StopMatcher::new(stop.strings, stop.include_stop),
            min_tokens,
            held: Delta::default(),
            usage: Usage { prompt_tokens, ..Usage::default() },
            events: VecDeque::new(),
            finished: false,
        }
    }

    /// The next event; `None` after [`Event::Finished`]. Cancel safe: no event is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.finished {
                return None;
            }
            match self.inlet.recv().await {
                Some((update, wake)) => {
                    if wake {
                        self.mailbox.wake();
                    }
                    self.accept(update);
                }
                None => {
                    let text = self.stops.finish();
                    self.finish(self.inlet.end(), text, None);
                }
            }
        }
    }

    /// Prompt tokens found in the prefix cache; 0 before [`Event::Started`].
    pub fn cached_tokens(&self) -> u32 {
        self.usage.cached_tokens
    }

    fn accept(&mut self, update: Update) {
        let (token, logprob, ends) = match update {
            Update::Started { cached_tokens } => {
                self.usage.cached_tokens = cached_tokens;
                self.events.push_back(Event::Started { cached_tokens });
                return;
            }
            Update::Prompt(logprobs) => return self.events.push_back(Event::Prompt(logprobs)),
            Update::Token { token, logprob, ends } => (token, logprob, ends),
        };
        self.usage.completion_tokens += 1;
        self.held.tokens += 1;
        self.held.token_ids.push(token);
        if ends && !self.include_stop {
            return;
        }
        self.held.logprobs.extend(logprob);
        let text = self.decoder.push(token);
        if self.usage.completion_tokens <= self.min_tokens {
            return self.emit(text);
        }
        match self.stops.push(&text) {
            Scan::Text(text) => self.emit(text),
            Scan::Match { text, stop } => {
                self.finish(FinishReason::Stop, text, Some(stop));
                if self.inlet.leave(Interest::Satisfied) {
                    self.mailbox.wake();
                }
            }
        }
    }

    /// Reports text, if any, with all tokens held so far.
    fn emit(&mut self, text: String) {
        if !text.is_empty() {
            let held = std::mem::take(&mut self.held);
            self.events.push_back(Event::Delta(Delta { text, ..held }));
        }
    }

    fn finish(&mut self, reason: FinishReason, text: String, stop_match: Option<String>) {
        let held = std::mem::take(&mut self.held);
        if held.tokens > 0 || !text.is_empty() {
            self.events.push_back(Event::Delta(Delta { text, ..held }));
        }
        self.events.push_back(Event::Finished(Finish { reason, usage: self.usage, stop_match }));
        self.finished = true;
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        if !self.finished && self.inlet.leave(Interest::Dropped) {
            self.mailbox.wake();
        }
    }
}

impl std::fmt::Debug for TokenStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenStream").field("usage", &self.usage).finish_non_exhaustive()
    }
}
