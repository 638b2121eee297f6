//! A generation on its way, told as pieces of output.

use super::output::{Ending, Part, Piece};
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

/// A generation that was admitted. Dropping it ends and bills it as a disconnect.
pub struct Run {
    flight: InFlight,
    /// Tokens of each choice that have nothing to show yet; they travel with its next piece.
    rests: Vec<Piece>,
}

impl Run {
    pub(super) fn new(flight: InFlight, choices: usize) -> Self {
        Self { flight, rests: (0..choices).map(|_| Piece::default()).collect() }
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
                Step::Delta(choice, delta) => {
                    let rest = &mut self.rests[choice];
                    rest.tokens += delta.tokens;
                    rest.logprobs.extend(delta.logprobs);
                    if !delta.text.is_empty() {
                        rest.parts.push(Part::Text(delta.text));
                        return Progress::Output(choice, std::mem::take(rest));
                    }
                }
                Step::Finished(choice, finish) => {
                    let ending = Ending::of(&finish.reason, finish.stop_match, false);
                    return Progress::Ended(choice, std::mem::take(&mut self.rests[choice]), ending);
                }
                Step::Idle => return Progress::Idle,
                Step::Done => return Progress::Done,
                Step::Cut(cause) => return Progress::Cut(cause),
            }
        }
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
