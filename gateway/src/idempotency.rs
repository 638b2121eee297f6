//! Requests that may be sent twice and count once: `idempotency.db` of the data directory, and those in flight.
//!
//! A request with an `Idempotency-Key` runs in a task of its own. Whoever sends it again while it runs sees it from the
//! start; afterwards its answer is kept for a while. Refusals are not kept, because they cost nothing: the key is then free
//! again. The key of an attempt that was billed is never free again before its time is over, even where the answer itself
//! is not kept any more.

mod live;
mod store;
#[cfg(test)]
mod tests;

pub use live::{Head, Run, Watcher};
pub use store::{Idempotency, StoreError};

use bytes::Bytes;

/// Whose key it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    /// Keys of different projects never meet.
    pub project_id: String,
    /// As the client sent it.
    pub key: String,
}

/// A hash of what was asked: route and body.
pub type Fingerprint = [u8; 32];

/// What a request with a key comes to.
pub enum Begun {
    /// It is the first: carry it out.
    New(Run),
    /// The first runs still: look on.
    Live(Watcher),
    /// The first has ended with this answer.
    Done(Answer),
    /// The first was billed but its answer is not there, or not any more.
    Gone,
    /// The key stands for something else.
    Mismatch,
}

/// An answer to be kept, or as it was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The request that was carried out, and billed.
    pub request_id: String,
    /// HTTP status.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body, byte for byte.
    pub body: Bytes,
}
