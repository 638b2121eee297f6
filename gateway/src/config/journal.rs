//! Whether the ledger's notes of a stream go before it or follow it.

use serde::{Deserialize, Serialize};

/// The value of `ledger.journal`: what a crash leaves between the tokens that a client has and those that are billed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Journal {
    /// Tokens are noted after they were sent: never billed beyond what was sent.
    #[default]
    Behind,
    /// Tokens are noted before they are sent: never billed below what was sent.
    Ahead,
}
