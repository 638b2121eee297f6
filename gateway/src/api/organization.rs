//! `/v1/organization/...`: a customer's own usage and costs, in the shapes of the OpenAI API.
//!
//! The organisation is the caller's. Each page says how far it reaches: `ledger.sequence` is the last row that it has
//! seen, and buckets that end by `ledger.complete_until` will never change.

mod query;
pub mod usage;

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Reports;
use crate::receipts::Signer;

/// Where reports are read from, and how much of them at once.
pub struct ReportSource {
    /// The data directory.
    pub dir: PathBuf,
    /// Bounds of a report.
    pub options: Reports,
    /// Signs receipts.
    pub signer: Arc<Signer>,
    /// Reports that are read at once; they share the blocking threads with the encoding of prompts.
    pub places: tokio::sync::Semaphore,
}

impl ReportSource {
    /// Reads from `dir`.
    pub fn new(dir: PathBuf, options: Reports, signer: Signer) -> Self {
        Self { dir, options, signer: Arc::new(signer), places: tokio::sync::Semaphore::new(2) }
    }
}
