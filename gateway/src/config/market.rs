//! The sections of files and of work that can wait.

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::sections::{Bound, section};

section! {
    /// Files of customers.
    FilesSection, "files",
    numbers {
        /// One file, as the public API allows.
        max_file_mib: u64 = 512, 1, 1_048_576, "MiB";
        /// All files of an organisation.
        org_mib: u64 = 4096, 1, 1_073_741_824, "MiB";
        /// Files of an organisation; lists are made of them.
        org_files: u64 = 10_000, 1, 10_000_000, "files";
        /// All files of all organisations; the disk is also the ledger's.
        total_mib: u64 = 32_768, 1, 1_073_741_824, "MiB";
        /// Uploads at one time; each writes to the disk.
        max_uploads: usize = 16, 1, 1024, "uploads";
        /// Time for a file to arrive.
        upload_deadline_s: u64 = 3600, 1, 86_400, "s";
        /// How long files for and from batches are kept where nobody says otherwise, as the public API does.
        batch_ttl_days: u64 = 30, 1, 3650, "days";
        /// Length of a file's name.
        max_name_bytes: usize = 512, 1, 4096, "bytes";
    }
    others {}
}

section! {
    /// Batches: requests in files, done when there is room.
    BatchesSection, "batches",
    numbers {
        /// Lines of all batches in flight; they stand behind everything else in the engine's queue.
        concurrency: usize = 32, 1, 4096, "lines";
        /// Lines of one batch, as the public API allows.
        max_lines: u32 = 50_000, 1, 1_000_000, "lines";
        /// Input file of one batch, as the public API allows.
        max_file_mib: u64 = 200, 1, 1_048_576, "MiB";
        /// Length of a line's `custom_id`.
        max_custom_id_bytes: usize = 512, 1, 4096, "bytes";
        /// Tokens of all lines of an organisation that wait. They are estimated when a batch is read: a quarter of the
        /// bytes of a line's body.
        org_queue_tokens: u64 = 20_000_000, 1, 1_000_000_000_000, "tokens";
        /// Batches of an organisation that are not finished.
        org_unfinished: u32 = 100, 1, 100_000, "batches";
        /// The same of all organisations.
        unfinished: u32 = 1000, 1, 100_000, "batches";
        /// Times that a line is tried whose answer is a fault of the server.
        max_attempts: u32 = 3, 1, 100, "attempts";
        /// Mistakes of an input file that are told.
        max_errors: usize = 100, 1, 10_000, "errors";
        /// How long a finished batch can be looked at.
        keep_days: u64 = 90, 1, 3650, "days";
    }
    others {}
}

section! {
    /// What is promised of what the machine can serve.
    CapacitySection, "capacity",
    numbers {
        /// Time between two tokens that 99 of 100 keep; what was measured within it can be sold.
        inter_token_ms: u32 = 100, 1, 60_000, "ms";
    }
    others {}
}

section! {
    /// Targets of the tiers, for the metrics that say how they are kept. Batches have a window in their place.
    SloSection, "slo",
    numbers {
        /// Parts of a thousand that are to keep their target.
        objective_permille: u32 = 990, 1, 999, "per mille";
        /// Target of the time from request to first token; 0: nothing is promised.
        internal_first_token_ms: u32 = 1000, 0, 3_600_000, "ms";
        /// Target of the time between two tokens; 0: nothing is promised.
        internal_inter_token_ms: u32 = 100, 0, 3_600_000, "ms";
        /// The same for `reserved`.
        reserved_first_token_ms: u32 = 1000, 0, 3_600_000, "ms";
        /// The same for `reserved`.
        reserved_inter_token_ms: u32 = 100, 0, 3_600_000, "ms";
        /// The same for `priority`.
        priority_first_token_ms: u32 = 1000, 0, 3_600_000, "ms";
        /// The same for `priority`.
        priority_inter_token_ms: u32 = 100, 0, 3_600_000, "ms";
        /// The same for `default`.
        default_first_token_ms: u32 = 3000, 0, 3_600_000, "ms";
        /// The same for `default`.
        default_inter_token_ms: u32 = 200, 0, 3_600_000, "ms";
        /// The same for `flex`.
        flex_first_token_ms: u32 = 0, 0, 3_600_000, "ms";
        /// The same for `flex`.
        flex_inter_token_ms: u32 = 0, 0, 3_600_000, "ms";
    }
    others {}
}

/// How long a batch may take; the longer, the cheaper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchWindow {
    /// One hour.
    #[serde(rename = "1h")]
    Hour,
    /// Four hours.
    #[serde(rename = "4h")]
    FourHours,
    /// A day, which the public API has.
    #[serde(rename = "24h")]
    Day,
    /// A week.
    #[serde(rename = "7d")]
    Week,
}

impl BatchWindow {
    /// All of them.
    pub const ALL: [BatchWindow; 4] =
        [BatchWindow::Hour, BatchWindow::FourHours, BatchWindow::Day, BatchWindow::Week];

    /// The spelling in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            BatchWindow::Hour => "1h",
            BatchWindow::FourHours => "4h",
            BatchWindow::Day => "24h",
            BatchWindow::Week => "7d",
        }
    }

    /// The tier in rate card and bill.
    pub fn tier(self) -> &'static str {
        match self {
            BatchWindow::Hour => "batch_1h",
            BatchWindow::FourHours => "batch_4h",
            BatchWindow::Day => "batch",
            BatchWindow::Week => "batch_7d",
        }
    }

    /// Its length.
    pub fn ms(self) -> u64 {
        3_600_000
            * match self {
                BatchWindow::Hour => 1,
                BatchWindow::FourHours => 4,
                BatchWindow::Day => 24,
                BatchWindow::Week => 168,
            }
    }

    /// The window of this name.
    pub fn named(name: &str) -> Option<BatchWindow> {
        Self::ALL.into_iter().find(|window| window.as_str() == name)
    }
}
