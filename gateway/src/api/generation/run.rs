//! A generation on its way, told as pieces of output.

use models::{OutputParser, Said};

use super::output::{Ending, Part, Piece};
use crate::api::scope::random;
use crate::guard::{OutputGuard, Screened};
use crate::ledger::{EndReason, LedgerError};
use crate::serving::{Cause, InFlight, Receipt, Step};

/// What a generation that goes on has to tell.
#[derive(Debug)]
pub enum Progress {
    /// New output of a choice; its parts are not empty.
    Output(usize, Piece),
    /// A choice is complete. The piece holds what is left, often only tokens without text.
    Ended(usize, Piece, Ending),
    /// Nothing happened for a while.
    Idle,
    /// All choices are complete: [`settle`](Run::settle).
    Done,
    /// It cannot go on: [`cut`](Run::cut).
    Cut(Cause),
}

/// What the engine generated of a choice.
enum Generated {
    More(String),
    All,
}

/// A generation that was admitted. Dropping it ends and bills it as a disconnect.
pub struct Run {
    flight: InFlight,
    /// Tokens of each choice that have nothing to show yet; they travel with its next piece.
    rests: Vec<Piece>,
    /// The screen of each choice, where there are content rules.
    screens: Vec<Option<OutputGuard>>,
    /// What takes each choice apart; absent where everything is text.
    parsers: Vec<Option<OutputParser>>,
}

impl Run {
    pub(super) fn new(
        flight: InFlight,
        parsers: Vec<Option<OutputParser>>,
        screen: Option<OutputGuard>,
    ) -> Self {
        let rests = parsers.iter().map(|_| Piece::default()).collect();
        Self { flight, rests, screens: vec![screen; parsers.len()], parsers }
    }

    /// Number of choices.
    pub fn choices(&self) -> usize {
        self.rests.len()
    }

    /// Limits, money and delivery of it.
    pub fn flight(&mut self) -> &mut InFlight {
        &mut self.flight
    }

    /// The next thing to tell. Cancel safe.
    pub async fn next(&mut self) -> Progress {
        loop {
            match self.flight.next().await {
                Step::Prompt(choice, logprobs) => self.rests[choice].prompt.extend(logprobs),
                Step::Delta(choice, delta) => {
                    let rest = &mut self.rests[choice];
                    rest.tokens += delta.tokens;
                    rest.logprobs.extend(delta.logprobs);
                    let stop = self.say(choice, Generated::More(delta.text));
                    if stop {
                        self.flight.close(choice);
                        let rest = std::mem::take(&mut self.rests[choice]);
                        return Progress::Ended(choice, rest, Ending::ContentFilter);
                    }
                    if !self.rests[choice].parts.is_empty() {
                        return Progress::Output(choice, std::mem::take(&mut self.rests[choice]));
                    }
                }
                Step::Finished(choice, finish) => {
                    let stop = self.say(choice, Generated::All);
                    let rest = std::mem::take(&mut self.rests[choice]);
                    let ending = match stop {
                        true => Ending::ContentFilter,
                        false => {
                            let called =
                                self.parsers[choice].as_ref().is_some_and(|parser| parser.calls() > 0);
                            Ending::of(&finish.reason, finish.stop_match, called)
                        }
                    };
                    return Progress::Ended(choice, rest, ending);
                }
                Step::Idle => return Progress::Idle,
                Step::Done => return Progress::Done,
                Step::Cut(cause) => return Progress::Cut(cause),
            }
        }
    }

    /// Adds text to what a choice tells next; true where a content rule ends the choice.
    fn say(&mut self, choice: usize, said: Generated) -> bool {
        let is_over = matches!(said, Generated::All);
        let screened = match (&mut self.screens[choice], said) {
            (Some(screen), Generated::More(text)) => screen.push(&text),
            (Some(screen), Generated::All) => screen.finish(),
            (None, Generated::More(text)) => Screened { text, stop: false },
            (None, Generated::All) => Screened::default(),
        };
        let parts = &mut self.rests[choice].parts;
        match &mut self.parsers[choice] {
            Some(parser) => {
                parts.extend(parser.push(&screened.text).into_iter().map(part));
                if is_over || screened.stop {
                    parts.extend(parser.finish().into_iter().map(part));
                }
            }
            None if screened.text.is_empty() => {}
            None => parts.push(Part::Text(screened.text)),
        }
        screened.stop
    }

    /// Bills everything; when this returns, the bill is durable and its numbers may be told.
    pub async fn settle(&mut self, end: EndReason) -> Result<Receipt, LedgerError> {
        self.flight.settle(end).await
    }

    /// Ends it before its time; what was handed over is billed.
    pub async fn cut(&mut self, cause: &Cause) {
        self.flight.cut(cause).await;
    }
}

fn part(said: Said) -> Part {
    match said {
        Said::Text(text) => Part::Text(text),
        Said::Reasoning(text) => Part::Reasoning(text),
        Said::CallStart { index, name } => Part::CallStart { index, id: call_id(), name },
        Said::Arguments { index, text } => Part::CallArguments { index, text },
    }
}

/// Nine letters and digits, which is what the strictest templates take when the call comes back.
fn call_id() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    random::<9>().iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}
