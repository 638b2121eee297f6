//! Signed receipts: what a request was billed for, in a form that the customer can keep and anybody can check.
//!
//! A receipt is a pure function of the request's row in the ledger and the signing key (Ed25519), so it can be asked for
//! at any time and is always the same. Signed are the lines `name value` of every field but `signature`, in the order of
//! [`Receipt`], after a first line `spillway-receipt-1`; each line ends with a line feed.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::make_private_dir;
use crate::ledger::{Evidence, Evidences, LedgerError, hex, parse_sha256};
use crate::money::Picos;

mod check;
#[cfg(test)]
mod tests;

pub use check::{Checked, check_file};

/// File of the signing key in the data directory: 64 hex digits, for its owner alone.
const KEY_FILE: &str = "receipt.key";

/// A receipt. Absent hashes are empty texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The request, as in `x-request-id`.
    pub request_id: String,
    /// Who paid.
    pub organization_id: String,
    /// Its project.
    pub project_id: String,
    /// Its key.
    pub api_key_id: String,
    /// Route.
    pub endpoint: String,
    /// SHA-256 of the request's body as it was sent.
    pub request_sha256: String,
    /// Model id.
    pub model: String,
    /// SHA-256 of the weight file.
    pub weights_sha256: String,
    /// Tier that served it.
    pub service_tier: String,
    /// Prompt tokens computed.
    pub uncached_input_tokens: u32,
    /// Prompt tokens found in the cache.
    pub cached_input_tokens: u32,
    /// Tokens generated.
    pub output_tokens: u32,
    /// Names the prices.
    pub price_version: String,
    /// What it cost, exact.
    pub cost_usd: String,
    /// Why it ended.
    pub end_reason: String,
    /// When it was settled.
    pub settled_at: String,
    /// Number of its row in the ledger.
    pub ledger_sequence: i64,
    /// Hash of the row before.
    pub previous_sha256: String,
    /// Hash of the row.
    pub row_sha256: String,
    /// What came back of it at once, because its deadline was missed; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refunded_usd: Option<String>,
    /// Names the signing key.
    pub signing_key_id: String,
    /// Ed25519 over the lines of the fields above, hex.
    pub signature: String,
}

/// Why receipts cannot be signed or checked.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// The key or the file cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The key file holds no key.
    #[error("{0} does not hold 64 hex digits")]
    BadKey(String),
    /// The system gave no random bytes.
    #[error("random bytes: {0}")]
    Random(String),
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Signs receipts; its key is made on first use and never changes.
pub struct Signer {
    key: SigningKey,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("key_id", &self.key_id()).finish_non_exhaustive()
    }
}

impl Signer {
    /// The key of the data directory `dir`.
    pub fn open(dir: &Path) -> Result<Self, ReceiptError> {
        let path = dir.join(KEY_FILE);
        let io = |source| ReceiptError::Io { path: path.display().to_string(), source };
        make_private_dir(dir).map_err(io)?;
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| ReceiptError::Random(error.to_string()))?;
        // Written beside and linked into place, so that two processes agree on one whole key.
        let partial = dir.join(format!("{KEY_FILE}.partial-{}", std::process::id()));
        if !path.exists() {
            let _ = fs::remove_file(&partial);
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial);
            let mut file = file.map_err(io)?;
            file.write_all(hex(&secret).as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
            let linked = fs::hard_link(&partial, &path);
            fs::remove_file(&partial).map_err(io)?;
            match linked {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(io(error)),
                _ => {}
            }
        }
        let text = fs::read_to_string(&path).map_err(io)?;
        let secret =
            parse_sha256(text.trim()).ok_or_else(|| ReceiptError::BadKey(path.display().to_string()))?;
        Ok(Self { key: SigningKey::from_bytes(&secret) })
    }

    /// The public key, hex.
    pub fn public_key(&self) -> String {
        hex(self.key.verifying_key().as_bytes())
    }

    /// Names the key: the first 16 hex digits of the SHA-256 of the public key.
    pub fn key_id(&self) -> String {
        hex(&Sha256::digest(self.key.verifying_key().as_bytes())[..8])
    }

    /// The receipt of a settled request.
    pub fn sign(&self, evidence: Evidence) -> Receipt {
        let digest = |digest: Option<[u8; 32]>| digest.map_or(String::new(), |digest| hex(&digest));
        let mut receipt = Receipt {
            request_id: evidence.request_id,
            organization_id: evidence.org_id,
            project_id: evidence.project_id,
            api_key_id: evidence.key_id,
            endpoint: evidence.endpoint,
            request_sha256: digest(evidence.request_sha256),
            model: evidence.model,
            weights_sha256: digest(evidence.weights_sha256),
            service_tier: evidence.tier,
            uncached_input_tokens: evidence.tokens.uncached_input,
            cached_input_tokens: evidence.tokens.cached_input,
            output_tokens: evidence.tokens.output,
            price_version: evidence.price_version,
            cost_usd: evidence.cost.to_usd(),
            end_reason: evidence.end.to_owned(),
            settled_at: evidence.settled_at,
            ledger_sequence: evidence.sequence,
            previous_sha256: evidence.previous_sha256,
            row_sha256: evidence.row_sha256,
            refunded_usd: (evidence.refunded > Picos::ZERO).then(|| evidence.refunded.to_usd()),
            signing_key_id: self.key_id(),
            signature: String::new(),
        };
        receipt.signature = hex(&self.key.sign(receipt.signed_text().as_bytes()).to_bytes());
        receipt
    }

    /// The receipt of `request_id`, if it is settled in the ledger in `dir`.
    pub fn find(&self, dir: &Path, request_id: &str) -> Result<Option<Receipt>, ReceiptError> {
        Ok(Evidences::open(dir)?.find(request_id)?.map(|evidence| self.sign(evidence)))
    }
}

impl Receipt {
    /// The text that is signed.
    pub fn signed_text(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        let fields = value.as_object().into_iter().flatten().filter(|(name, _)| *name != "signature");
        fields.fold("spillway-receipt-1\n".to_owned(), |text, (name, value)| match value.as_str() {
            Some(value) => format!("{text}{name} {value}\n"),
            None => format!("{text}{name} {value}\n"),
        })
    }

    /// Whether the signature is that of `key` over the fields.
    pub fn is_signed_by(&self, key: &VerifyingKey) -> bool {
        let halves = self.signature.get(..64).zip(self.signature.get(64..));
        let halves = halves.and_then(|(r, s)| Some((parse_sha256(r)?, parse_sha256(s)?)));
        halves.is_some_and(|(r, s)| {
            let signature = Signature::from_components(r, s);
            key.verify_strict(self.signed_text().as_bytes(), &signature).is_ok()
        })
    }
}
