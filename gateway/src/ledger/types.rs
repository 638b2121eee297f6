//! What callers give and get.

use std::fmt;
use std::str::FromStr;

use super::details::Details;
use crate::accounts::Budget;
pub use crate::accounts::CreditKind;
use crate::civil;
pub use crate::config::{BudgetPeriod, BudgetScope};
pub use crate::money::Tokens;
use crate::money::{MoneyError, Picos, PriceVersion};

/// Longest request id, in bytes.
pub(super) const MAX_REQUEST_ID: usize = 128;

/// Money to hold for a request about to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldRequest {
    /// Unique for all time, at most 128 bytes.
    pub request_id: String,
    /// API key.
    pub key_id: String,
    /// Its project.
    pub project_id: String,
    /// Its organisation.
    pub org_id: String,
    /// Model id, equal to the price's.
    pub model: String,
    /// Service tier, equal to the price's.
    pub tier: String,
    /// Route, such as `/v1/chat/completions`.
    pub endpoint: String,
    /// Prices in force at admission; they stay the request's prices.
    pub price: PriceVersion,
    /// How much to hold; no settlement may cost more.
    pub amount: Picos,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Budgets to check, now and at every extension. Those of end users and tags are counted from this request on.
    pub budgets: Vec<Budget>,
    /// How far the organisation's balance may go below zero; `None`: without a bound.
    pub credit_line: Option<Picos>,
    /// What reports and receipts say about it.
    pub details: Details,
    /// The lease that it uses or pays for.
    pub lease: Option<String>,
    /// Admission, Unix milliseconds.
    pub at_ms: u64,
}

/// Credit to give to, or to take from, an organisation's balance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credit {
    /// Unique for all time, at most 128 bytes; the same credit twice is one.
    pub id: String,
    /// Whose balance.
    pub org_id: String,
    /// Why.
    pub kind: CreditKind,
    /// How much; negative only for a correction.
    pub amount: Picos,
    /// First instant at which what is left of it is gone, Unix milliseconds.
    pub expires_ms: Option<u64>,
    /// What it is for, or the row it corrects.
    pub note: String,
    /// What is given back for a lease; its note is then the lease's id.
    pub lease: Option<Box<LeaseCredit>>,
    /// When, Unix milliseconds.
    pub at_ms: u64,
}

/// What a credit for a lease is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseCredit {
    /// The project that holds the lease.
    pub project_id: String,
    /// The key that it was made with.
    pub key_id: String,
    /// The price of its unit-hours.
    pub price: PriceVersion,
    /// Names at the time of the lease.
    pub details: Details,
    /// The hour that it is for, Unix milliseconds.
    pub hour_ms: u64,
}

/// The final account of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The request held for.
    pub request_id: String,
    /// What is billed.
    pub tokens: Tokens,
    /// Why it ended.
    pub end: EndReason,
    /// When it ended, Unix milliseconds.
    pub at_ms: u64,
    /// Other instants worth keeping.
    pub timings: Timings,
}

/// Instants of a request beside admission (known from the hold) and end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// First token sent, Unix milliseconds.
    pub first_token_ms: Option<u64>,
    /// How fast the answer came.
    pub pace: Option<Pace>,
}

/// How fast an answer came, as far as it was the server's doing: time in which its reader took nothing is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From the request's arrival to its first token, or to the end where it was waited for in vain, milliseconds.
    pub wait_ms: u32,
    /// Mean time between two tokens of a choice, microseconds; `None` with fewer than two.
    pub gap_us: Option<u32>,
}

/// Why a billed request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// In the normal way.
    Finished,
    /// The client went away.
    Disconnected,
    /// A deadline of the server passed.
    Timeout,
    /// The deadline that was promised passed.
    Late,
    /// Something broke after content was sent.
    Error,
    /// A budget was used up.
    Budget,
    /// The server stopped.
    Shutdown,
    /// The process died; billed at its last checkpoint after the restart.
    Recovered,
}

impl EndReason {
    const ALL: [EndReason; 8] = [
        EndReason::Finished,
        EndReason::Disconnected,
        EndReason::Timeout,
        EndReason::Late,
        EndReason::Error,
        EndReason::Budget,
        EndReason::Shutdown,
        EndReason::Recovered,
    ];

    /// Whether a promised deadline was missed that way. Neither a client that goes away nor an empty budget is the
    /// server's doing.
    pub(super) fn breaks_deadline(self) -> bool {
        matches!(self, Self::Late | Self::Error | Self::Shutdown | Self::Recovered)
    }

    /// The spelling in ledger and exports.
    pub fn as_str(self) -> &'static str {
        match self {
            EndReason::Finished => "finished",
            EndReason::Disconnected => "disconnected",
            EndReason::Timeout => "timeout",
            EndReason::Late => "late",
            EndReason::Error => "error",
            EndReason::Budget => "budget",
            EndReason::Shutdown => "shutdown",
            EndReason::Recovered => "recovered",
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EndReason {
    type Err = LedgerError;

    fn from_str(text: &str) -> Result<Self, LedgerError> {
        let found = Self::ALL.into_iter().find(|reason| reason.as_str() == text);
        found.ok_or_else(|| LedgerError::Corrupt(format!("unknown end reason {text:?}")))
    }
}

/// A settled request as it stands in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Number of its row.
    pub seq: i64,
    /// What it cost.
    pub cost: Picos,
    /// What was billed.
    pub tokens: Tokens,
    /// Why it ended.
    pub end: EndReason,
}

/// What a budget has left for a request that needs more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetShortage {
    /// Whose budget.
    pub scope: BudgetScope,
    /// Id of its account, as in [`Budget::id`].
    pub id: String,
    /// Its period.
    pub period: BudgetPeriod,
    /// Its size.
    pub limit: Picos,
    /// Settled in the period.
    pub spent: Picos,
    /// Held by requests in flight.
    pub held: Picos,
    /// What this request asked for.
    pub requested: Picos,
    /// When the next period begins, Unix milliseconds; `None`: never.
    pub resets_ms: Option<u64>,
}

impl fmt::Display for BudgetShortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, period, limit, spent, held, requested, .. } = self;
        write!(f, "{scope} budget of {limit} USD")?;
        if let Some(resets_ms) = self.resets_ms {
            write!(f, " a {period} (until {})", civil::format_ms(resets_ms))?;
        }
        write!(f, ": {spent} spent, {held} held, {requested} requested")
    }
}

/// What an organisation's balance has left for a request that needs more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreditShortage {
    /// Granted and not spent; negative where a credit line is in use.
    pub balance: Picos,
    /// How far it may go below zero.
    pub line: Picos,
    /// Held by requests in flight.
    pub held: Picos,
    /// What this request asked for.
    pub requested: Picos,
}

impl fmt::Display for CreditShortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { balance, line, held, requested } = self;
        write!(
            f,
            "balance of {balance} USD and credit line of {line} USD: {held} held, {requested} requested"
        )
    }
}

impl HoldError {
    /// What a smaller request could still hold, where money is what is missing.
    pub fn left(&self) -> Option<Picos> {
        match self {
            HoldError::Budget(short) => short.limit.checked_sub(short.spent)?.checked_sub(short.held),
            HoldError::Credit(short) => short.balance.checked_add(short.line)?.checked_sub(short.held),
            _ => None,
        }
    }
}

/// Why money cannot be held.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum HoldError {
    /// A budget has too little left; `limit - spent - held` is what would still fit.
    #[error("{}", .0)]
    Budget(Box<BudgetShortage>),
    /// The organisation's balance is too low.
    #[error("{}", .0)]
    Credit(CreditShortage),
    /// The request id was used before.
    #[error("request {0:?} already has a hold")]
    Duplicate(String),
    /// Nothing is held under this id (any more).
    #[error("request {0:?} has no open hold")]
    UnknownRequest(String),
    /// A caller's mistake: negative amount, an id too long, a price for another model.
    #[error("hold refused: {0}")]
    Invalid(String),
    /// The ledger cannot be written; nothing may be served.
    #[error("ledger unavailable: {0}")]
    Unavailable(String),
}

/// Why the ledger cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The ledger cannot be written; nothing may be served.
    #[error("ledger unavailable: {0}")]
    Unavailable(String),
    /// Another process writes this ledger.
    #[error("{0} is locked: another server is using this data directory")]
    Locked(String),
    /// There is no ledger to read.
    #[error("no ledger at {0}")]
    Missing(String),
    /// A file cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The database failed.
    #[error("ledger database: {0}")]
    Database(#[from] rusqlite::Error),
    /// Made by another version.
    #[error("ledger has schema version {found}, this program knows {known}")]
    Schema {
        /// Version in the file.
        found: i64,
        /// Version of this program.
        known: i64,
    },
    /// The content contradicts itself.
    #[error("ledger is damaged: {0}")]
    Corrupt(String),
    /// A caller's mistake in a grant or correction.
    #[error("credit refused: {0}")]
    Invalid(String),
    /// Nothing was ever held under this id.
    #[error("request {0:?} has no hold")]
    UnknownRequest(String),
    /// The request was voided; it cannot be billed.
    #[error("request {0:?} was voided")]
    Voided(String),
    /// The request was billed; it cannot be voided.
    #[error("request {0:?} was settled")]
    AlreadySettled(String),
    /// More is to be billed than is held: extend the hold first.
    #[error("request {request_id:?} costs {cost} USD, held are {held}")]
    SettleExceedsHold {
        /// The request.
        request_id: String,
        /// Price × tokens.
        cost: Picos,
        /// What is held.
        held: Picos,
    },
    /// Price × tokens does not fit.
    #[error(transparent)]
    Money(#[from] MoneyError),
}
