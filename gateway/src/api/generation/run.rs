//! A generation on its way, told as pieces of output.

use super::output::{Ending, Part, Piece};
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
enum Said {
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
}

impl Run {
    pub(super) fn new(flight: InFlight, choices: usize, screen: Option<OutputGuard>) -> Self {
        let rests = (0..choices).map(|_| Piece::default()).collect();
        Self { flight, rests, screens: vec![screen; choices] }
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
                    let stop = self.say(choice, Said::More(delta.text));
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
                    let stop = self.say(choice, Said::All);
                    let rest = std::mem::take(&mut self.rests[choice]);
                    let ending = match stop {
                        true => Ending::ContentFilter,
                        false => Ending::of(&finish.reason, finish.stop_match, false),
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
    fn say(&mut self, choice: usize, said: Said) -> bool {
        let screened = match (&mut self.screens[choice], said) {
            (Some(screen), Said::More(text)) => screen.push(&text),
            (Some(screen), Said::All) => screen.finish(),
            (None, Said::More(text)) => Screened { text, stop: false },
            (None, Said::All) => Screened::default(),
        };
        if !screened.text.is_empty() {
            self.rests[choice].parts.push(Part::Text(screened.text));
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
