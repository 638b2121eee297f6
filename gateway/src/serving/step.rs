//! What a request has to tell on its way.

use engine::{Delta, Finish, TokenLogprob};

use crate::guard::Unjudged;
use crate::ledger::{EndReason, HoldError};
use crate::money::{Picos, Tokens};

/// What a request that goes on has to tell.
#[derive(Debug)]
pub enum Step {
    /// What the next prompt tokens of a choice score.
    Prompt(usize, Vec<TokenLogprob>),
    /// More text of a choice.
    Delta(usize, Delta),
    /// A choice is complete.
    Finished(usize, Finish),
    /// Nothing happened for a while.
    Idle,
    /// All choices are complete.
    Done,
    /// It cannot go on.
    Cut(Cause),
}

/// Why a request ends before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its deadline passed.
    Deadline,
    /// The deadline passed that its caller was promised.
    Late,
    /// The server goes down.
    Shutdown,
    /// A budget is used up.
    Budget(HoldError),
    /// Deliveries cannot be recorded.
    Ledger(String),
    /// The engine failed.
    Engine(String),
    /// The operator's content hook did not judge the answer.
    Unjudged(Unjudged),
}

impl Cause {
    /// How the ledger names it.
    pub(super) fn end(&self) -> EndReason {
        match self {
            Cause::Deadline => EndReason::Timeout,
            Cause::Late => EndReason::Late,
            Cause::Shutdown => EndReason::Shutdown,
            Cause::Budget(_) => EndReason::Budget,
            Cause::Ledger(_) | Cause::Engine(_) | Cause::Unjudged(_) => EndReason::Error,
        }
    }
}

impl From<HoldError> for Cause {
    fn from(error: HoldError) -> Self {
        match error {
            HoldError::Budget(_) | HoldError::Credit(_) => Cause::Budget(error),
            other => Cause::Ledger(other.to_string()),
        }
    }
}

/// What a settled request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Billed tokens.
    pub tokens: Tokens,
    /// Their price.
    pub cost: Picos,
}
