//! What stands beside an exported file: its hash, and which rows of the ledger it covers, anchored in the hash chain.
//! Files whose periods meet have rows that meet; so a gap or an overlap between them can be seen without the ledger.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ExportError, Format, Request, Summary};
use crate::civil;
use crate::ledger::details::hex;
use crate::ledger::row::{GENESIS, Hash};
use crate::ledger::types::LedgerError;

mod check;

pub use check::{Checked, check_folder};

/// Passes bytes on, counted and hashed.
pub(super) struct Hashed<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> Hashed<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), bytes: 0 }
    }

    /// The hash and the number of bytes.
    pub(super) fn finish(self) -> (Hash, u64) {
        (self.hasher.finalize().into(), self.bytes)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The manifest of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this form.
    pub version: u32,
    /// Name of the file, without its folder.
    pub file: String,
    /// [`Format::as_str`].
    pub format: String,
    /// Of the file, hex.
    pub sha256: String,
    /// Size of the file.
    pub bytes: u64,
    /// Lines in it, without the header.
    pub lines: u64,
    /// Settled requests behind them.
    pub requests: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Their cost in USD, exact.
    pub cost_usd: String,
    /// First instant of the period.
    pub from: String,
    /// First instant after it.
    pub to: String,
    /// True where the period can get no further row: the file is the same for ever.
    pub is_final: bool,
    /// Only this organisation.
    pub organisation_id: Option<String>,
    /// `reports.provider` and `reports.region` of the configuration, and its tag bound, which the lines depend on.
    pub provider: String,
    /// See `provider`.
    pub region: String,
    /// See `provider`.
    pub max_tag_sets: usize,
    /// Stripe customers by organisation.
    pub customers: Vec<(String, String)>,
    /// Rows of the ledger in the period, of every kind.
    pub ledger: Rows,
}

/// Rows of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// First row; absent where there are none.
    pub first_sequence: Option<i64>,
    /// Last row.
    pub last_sequence: Option<i64>,
    /// Hash of the row before the first one.
    pub previous_sha256: Option<String>,
    /// Hash of the last row.
    pub last_sha256: Option<String>,
}

/// Where the manifest of `file` is: beside it.
pub fn path_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".manifest.json");
    PathBuf::from(name)
}

impl Manifest {
    pub(super) fn of(
        db: &Connection,
        request: &Request<'_>,
        summary: &Summary,
        sha256: Hash,
        bytes: u64,
    ) -> Result<Self, ExportError> {
        let hash_of = |seq: i64| -> Result<Option<String>, LedgerError> {
            let sql = "SELECT hash FROM transfers WHERE seq = ?1";
            let hash = db.query_row(sql, [seq], |row| row.get::<_, Hash>(0)).optional()?;
            Ok(Some(hex(&hash.unwrap_or(GENESIS))))
        };
        let ledger = Rows {
            first_sequence: summary.first_seq,
            last_sequence: summary.last_seq,
            previous_sha256: summary.first_seq.map_or(Ok(None), |seq| hash_of(seq - 1))?,
            last_sha256: summary.last_seq.map_or(Ok(None), hash_of)?,
        };
        Ok(Self {
            version: 1,
            file: String::new(),
            format: request.format.as_str().to_owned(),
            sha256: hex(&sha256),
            bytes,
            lines: summary.lines,
            requests: summary.requests,
            tokens: summary.tokens,
            cost_usd: summary.cost.to_usd(),
            from: civil::format_ms(request.period.from_ms),
            to: civil::format_ms(request.period.to_ms),
            is_final: summary.is_final,
            organisation_id: request.org_id.map(str::to_owned),
            provider: request.reports.provider.clone(),
            region: request.reports.region.clone(),
            max_tag_sets: request.reports.max_tag_sets,
            customers: match request.format {
                Format::Stripe => request.customers.to_vec(),
                _ => Vec::new(),
            },
            ledger,
        })
    }

    /// As text, for the file at `path`.
    pub(super) fn render(mut self, path: &Path) -> String {
        self.file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = serde_json::to_string_pretty(&self).expect("texts and numbers are JSON");
        text + "\n"
    }
}
