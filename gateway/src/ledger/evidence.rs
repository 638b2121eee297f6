//! What the ledger says of one settled request, for receipts.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::details::{Sha256Digest, hex};
use super::reader;
use super::row::{GENESIS, Hash, Transfer};
use super::schema::COLUMNS;
use super::types::{EndReason, LedgerError};
use crate::civil;
use crate::money::{Picos, Tokens};

/// One settled request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The request.
    pub request_id: String,
    /// Who paid.
    pub org_id: String,
    /// Its project.
    pub project_id: String,
    /// Its key.
    pub key_id: String,
    /// Route.
    pub endpoint: String,
    /// Model id.
    pub model: String,
    /// Service tier.
    pub tier: String,
    /// Billed tokens.
    pub tokens: Tokens,
    /// Price version, which names its prices.
    pub price_version: String,
    /// What it cost.
    pub cost: Picos,
    /// Why it ended.
    pub end: &'static str,
    /// When it was settled, RFC 3339.
    pub settled_at: String,
    /// Of the body as received.
    pub request_sha256: Option<Sha256Digest>,
    /// Of the weights that served it.
    pub weights_sha256: Option<Sha256Digest>,
    /// What came back of it at once.
    pub refunded: Picos,
    /// Number of its row.
    pub sequence: i64,
    /// Hash of the row before.
    pub previous_sha256: String,
    /// Hash of its row.
    pub row_sha256: String,
}

impl Evidence {
    /// What a settling row says that comes after the row with the hash `previous`.
    pub(super) fn of(row: Transfer, previous: &Hash) -> Self {
        let (facts, details) = (&row.facts, row.details.as_deref());
        Self {
            org_id: facts.org_id.clone(),
            project_id: facts.project_id.clone(),
            key_id: facts.key_id.clone(),
            endpoint: facts.endpoint.clone(),
            model: facts.price.model.clone(),
            tier: facts.price.tier.clone(),
            tokens: row.tokens,
            price_version: facts.price.id.clone(),
            cost: row.cost.total,
            refunded: row.owed(),
            end: row.end.map_or("", EndReason::as_str),
            settled_at: civil::format_ms(row.at_ms),
            request_sha256: details.and_then(|details| details.request_sha256),
            weights_sha256: details.and_then(|details| details.weights_sha256),
            sequence: row.seq,
            previous_sha256: hex(previous),
            row_sha256: hex(&row.hash),
            request_id: row.request_id,
        }
    }
}

/// Reads of one state of the ledger.
pub struct Evidences {
    db: Connection,
}

impl Evidences {
    /// The ledger in `dir` as of now.
    pub fn open(dir: &Path) -> Result<Self, LedgerError> {
        Ok(Self { db: reader::open(dir)? })
    }

    /// What is settled under `request_id`.
    pub fn find(&self, request_id: &str) -> Result<Option<Evidence>, LedgerError> {
        // The first condition is that of the index over endings.
        let sql = format!(
            "SELECT {COLUMNS} FROM transfers WHERE request_id = ?1 AND kind IN ('settle', 'void') AND kind = 'settle'"
        );
        let row = self.db.prepare_cached(&sql)?.query_row([request_id], reader::transfer).optional()?;
        let Some(row) = row else { return Ok(None) };
        let previous = "SELECT hash FROM transfers WHERE seq = ?1";
        let mut previous = self.db.prepare_cached(previous)?;
        let previous = previous.query_row([row.seq - 1], |row| row.get::<_, Hash>(0)).optional()?;
        Ok(Some(Evidence::of(row, &previous.unwrap_or(GENESIS))))
    }
}
