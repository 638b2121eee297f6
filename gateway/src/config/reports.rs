//! What reports and exports say beside the ledger.

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::sections::{Bound, section};

section! {
    /// What reports and exports say beside the ledger.
    Reports, "reports",
    numbers {
        /// Lines of one page of the usage and costs endpoints, over all its buckets; a finer question is refused by name.
        max_page_results: usize = 10_000, 1, 1_000_000, "lines";
        /// Distinct tag sets of an organisation in one hour of the FOCUS export; requests beyond it share one line
        /// without tags that says so, because a tag per request would make the bill as long as the log.
        max_tag_sets: usize = 1000, 1, 1_000_000, "tag sets";
    }
    others {
        /// Who sells: provider and issuer of invoices.
        provider: String = "Spillway".to_owned();
        /// Where it is served.
        region: String = "local".to_owned();
    }
}
