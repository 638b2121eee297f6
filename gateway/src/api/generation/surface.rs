//! How a route shapes what is generated.

use bytes::Bytes;
use engine::Tier;

use super::output::{Choice, Ending, Piece};
use crate::api::error::ApiError;
use crate::api::sse;
use crate::money::Tokens;
use crate::receipts::Receipt as Signed;
use crate::serving::Receipt;

/// Shapes output for one route. Each function that gives `Bytes` gives none, one or several whole events.
pub trait Surface: Send + 'static {
    /// Which tier serves it, before anything else; not always the one that was asked for.
    fn served(&mut self, tier: Tier);
    /// The first events. `input` holds the input tokens, the cached ones as far as known by now.
    fn open(&mut self, choices: usize, input: Tokens) -> Bytes;
    /// New output of a choice.
    fn piece(&mut self, choice: usize, piece: &Piece) -> Bytes;
    /// A choice is complete. `rest` may have parts or only tokens.
    fn end(&mut self, choice: usize, rest: &Piece, ending: &Ending) -> Bytes;
    /// The signed receipt of what was billed. It comes before the last events, or the answer, and belongs into them.
    fn signed(&mut self, receipt: Box<Signed>);
    /// The last events of a complete stream: the bill is durable.
    fn close(&mut self, receipt: &Receipt) -> Bytes;
    /// The last events of a stream that broke off.
    fn fail(&mut self, error: &ApiError) -> Bytes;
    /// A sign of life while there is nothing to tell.
    fn ping(&mut self) -> Bytes {
        sse::PING
    }
    /// The whole answer at once, as JSON.
    fn answer(&mut self, choices: Vec<Choice>, receipt: &Receipt) -> Vec<u8>;
}
