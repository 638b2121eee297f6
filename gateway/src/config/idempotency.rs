//! Bounds of what is kept for requests that may be sent twice.

use serde::{Deserialize, Serialize};

use super::sections::section;
use super::{Bound, ConfigError};

section! {
    /// Requests with an `Idempotency-Key`, which may be sent twice and are billed once.
    IdempotencySection, "idempotency",
    numbers {
        /// How long a key stands for its first request; clients that retry do so within minutes, jobs within a day.
        ttl_hours: u32 = 24, 1, 8760, "h";
        /// Largest answer to a request with a key, held in memory while it is made; streams of long contexts take a few MiB.
        max_answer_kib: usize = 16_384, 64, 1_048_576, "KiB";
        /// Answers kept for one project; beyond it its oldest are dropped, and their keys refused instead of replayed.
        project_mib: usize = 64, 1, 1_048_576, "MiB";
        /// Keys remembered for one project; beyond it the oldest are forgotten.
        project_keys: u32 = 100_000, 16, 100_000_000, "keys";
    }
    others {}
}
