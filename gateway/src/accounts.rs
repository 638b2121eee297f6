//! Who may call: organisation → project → API key, in `spillway.db` of the data directory.
//!
//! Only a keyed hash and a short prefix of a key are stored. Several processes may work on one directory: a server
//! polls SQLite's `data_version` and so sees within 250 ms what the command line changed.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::config::{BudgetRule, BudgetScope};
use crate::money::Picos;

mod cache;
mod schema;
mod secret;
mod store;
#[cfg(test)]
mod tests;

pub use secret::{SECRET_LEN, SECRET_PREFIX};

/// Longest name of an organisation, project or key, in characters.
pub const MAX_NAME_CHARS: usize = 64;

/// Limits of one key or project; `None` takes the configuration's default, 0 admits nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// Requests per minute, also the burst.
    pub requests_per_minute: Option<u32>,
    /// Tokens per minute, also the burst.
    pub tokens_per_minute: Option<u32>,
    /// Requests in flight.
    pub concurrency: Option<u32>,
}

/// What may ever be spent under one key; `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budgets {
    /// By the key.
    pub key: Option<Picos>,
    /// By all keys of its project.
    pub project: Option<Picos>,
    /// By all projects of its organisation.
    pub org: Option<Picos>,
}

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `key_...`.
    pub key_id: String,
    /// The key's name.
    pub key_name: String,
    /// `proj_...`.
    pub project_id: String,
    /// The project's name.
    pub project_name: String,
    /// `org_...`.
    pub org_id: String,
    /// The organisation's name.
    pub org_name: String,
    /// The key's own limits.
    pub limits: KeyLimits,
    /// The project's own limits.
    pub project_limits: KeyLimits,
    /// Budgets above every request of this key.
    pub budgets: Budgets,
}

/// A key to be made. Organisation and project are made on demand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewKey {
    /// Organisation name.
    pub org: String,
    /// Project name.
    pub project: String,
    /// Key name; need not be unique.
    pub name: String,
    /// The key's limits.
    pub limits: KeyLimits,
    /// What the key may ever spend.
    pub budget: Option<Picos>,
    /// First instant at which it no longer works, Unix milliseconds.
    pub expires_at_ms: Option<u64>,
}

/// A key just made. The secret is not stored and cannot be shown again.
#[derive(Clone, PartialEq, Eq)]
pub struct CreatedKey {
    /// `key_...`.
    pub id: String,
    /// `sk-sw-` and 43 characters; show once, log never.
    pub secret: String,
}

impl fmt::Debug for CreatedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A key as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// `key_...`.
    pub id: String,
    /// The key's name.
    pub name: String,
    /// The secret's first characters, `sk-sw-` and eight more.
    pub prefix: String,
    /// Organisation name.
    pub org: String,
    /// Project name.
    pub project: String,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// When it expires.
    pub expires_ms: Option<u64>,
    /// When it was revoked.
    pub revoked_ms: Option<u64>,
    /// Its limits.
    pub limits: KeyLimits,
    /// What it may ever spend.
    pub budget: Option<Picos>,
}

/// Names by id, for reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(pub HashMap<String, String>);

impl Names {
    /// The name behind `id`, or the id itself where it is unknown.
    pub fn of<'a>(&'a self, id: &'a str) -> &'a str {
        self.0.get(id).map_or(id, String::as_str)
    }
}

/// Why accounts cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// The directory or one of its files cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The database failed.
    #[error("accounts database: {0}")]
    Database(#[from] rusqlite::Error),
    /// Made by another version.
    #[error("accounts database has schema version {found}, this program knows {known}")]
    Schema {
        /// Version in the file.
        found: i64,
        /// Version of this program.
        known: i64,
    },
    /// The pepper does not fit the stored hashes, so no key could ever match.
    #[error("{path} is not the pepper that the stored keys were made with")]
    WrongPepper {
        /// The pepper file.
        path: String,
    },
    /// The pepper can be read by every user of the machine.
    #[error("{path} has mode {mode:03o}: other users must not be able to read it (chmod 600)")]
    PepperReadable {
        /// The pepper file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// A name that breaks the rules.
    #[error(
        "{what} name {name:?}: must be 1 to 64 characters, no control characters, no '/', no outer spaces"
    )]
    Name {
        /// `organisation`, `project` or `key`.
        what: &'static str,
        /// The name, cut short.
        name: String,
    },
    /// Money amounts and instants must fit their column and not be negative.
    #[error("{what} {value} is outside 0..={max}", max = i64::MAX)]
    Range {
        /// The field.
        what: &'static str,
        /// Its value.
        value: i128,
    },
    /// No key fits.
    #[error("no key with id, name or prefix {0:?}")]
    NoSuchKey(String),
    /// Several keys fit.
    #[error("{count} keys fit {text:?}: give the id")]
    Ambiguous {
        /// The text given.
        text: String,
        /// How many fit.
        count: usize,
    },
    /// No such organisation or project.
    #[error("no {what} named {name:?}")]
    NoSuchName {
        /// `organisation` or `project`.
        what: &'static str,
        /// The name, cut short.
        name: String,
    },
    /// The system gave no random bytes.
    #[error("random bytes: {0}")]
    Random(String),
}

/// Why a caller is not let in. The text says nothing that helps to guess keys.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AuthError {
    /// No key was given.
    #[error("no API key was given")]
    Missing,
    /// Cannot be a key of ours.
    #[error("incorrect API key")]
    Malformed,
    /// Not a key of ours.
    #[error("incorrect API key")]
    Unknown,
    /// No longer a key.
    #[error("this API key was revoked")]
    Revoked,
    /// Past its last instant.
    #[error("this API key has expired")]
    Expired,
    /// Its organisation is switched off.
    #[error("the organisation of this API key is disabled")]
    OrgDisabled,
    /// The accounts cannot be read, so nobody is let in.
    #[error("accounts are unavailable")]
    Unavailable,
}

/// Handle on the accounts; cheap to clone, safe to share. Calls that touch the disk block for microseconds to
/// milliseconds; [`Accounts::authenticate`] does so at most every 250 ms.
#[derive(Clone)]
pub struct Accounts {
    inner: Arc<cache::Inner>,
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").finish_non_exhaustive()
    }
}

impl Accounts {
    /// Opens (or makes) the accounts in `dir`.
    pub fn open(dir: &Path) -> Result<Accounts, AccountsError> {
        Self::open_with(dir, &[])
    }

    /// As [`Accounts::open`], with the configuration's budgets; where a key has one of its own, the smaller counts.
    pub fn open_with(dir: &Path, budgets: &[BudgetRule]) -> Result<Accounts, AccountsError> {
        let rules = budgets
            .iter()
            .filter_map(|rule| Some(((rule.scope, rule.name.clone()), rule.picos()?)))
            .fold(HashMap::new(), |mut rules: HashMap<(BudgetScope, String), Picos>, (key, amount)| {
                rules.entry(key).and_modify(|least| *least = amount.min(*least)).or_insert(amount);
                rules
            });
        Ok(Self { inner: Arc::new(cache::Inner::open(dir, rules)?) })
    }

    /// Makes the organisation and the project where they do not exist.
    pub fn ensure_project(&self, org: &str, project: &str, now_ms: u64) -> Result<(), AccountsError> {
        self.inner.change(|db| store::ensure_project(db, org, project, now_ms).map(drop))
    }

    /// Makes a key, and its organisation and project where needed.
    pub fn create_key(&self, new: &NewKey, now_ms: u64) -> Result<CreatedKey, AccountsError> {
        let secret = secret::generate()?;
        let mac = self.inner.pepper.mac(&secret);
        let id = self.inner.change(|db| store::insert_key(db, new, &mac, secret::shown(&secret), now_ms))?;
        Ok(CreatedKey { id, secret })
    }

    /// All keys, oldest first.
    pub fn list_keys(&self) -> Result<Vec<KeyRow>, AccountsError> {
        self.inner.read(store::list_keys)
    }

    /// Revokes the one key with this id, name or prefix. A key already revoked keeps its first instant.
    pub fn revoke_key(&self, text: &str, now_ms: u64) -> Result<KeyRow, AccountsError> {
        self.inner.change(|db| store::revoke_key(db, text, now_ms))
    }

    /// Switches an organisation off or on.
    pub fn set_org_disabled(&self, org: &str, disabled: bool, now_ms: u64) -> Result<(), AccountsError> {
        self.inner.change(|db| store::set_org_disabled(db, org, disabled, now_ms))
    }

    /// Sets a project's own limits.
    pub fn set_project_limits(
        &self,
        org: &str,
        project: &str,
        limits: KeyLimits,
    ) -> Result<(), AccountsError> {
        self.inner.change(|db| store::set_project_limits(db, org, project, limits))
    }

    /// Names of every organisation, project and key by id.
    pub fn names(&self) -> Result<Names, AccountsError> {
        self.inner.read(store::names)
    }

    /// Lets a caller in. `secret` is what the client sent, of any length and content.
    pub fn authenticate(&self, secret: &str, now_ms: u64) -> Result<Arc<Identity>, AuthError> {
        if secret.is_empty() {
            return Err(AuthError::Missing);
        }
        if !secret::well_formed(secret) {
            return Err(AuthError::Malformed);
        }
        self.inner.authenticate(secret, now_ms)
    }
}
