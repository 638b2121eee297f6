//! Why accounts refuse.

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
    /// No such organisation, project, key or budget.
    #[error("no {what} {name:?}")]
    NoSuchName {
        /// What was looked for.
        what: &'static str,
        /// The name or id, cut short.
        name: String,
    },
    /// The name or id is taken.
    #[error("there is already a {what} {name:?}")]
    Exists {
        /// What it is.
        what: &'static str,
        /// The name or id, cut short.
        name: String,
    },
    /// A setting that cannot be.
    #[error("{what}: {message}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// What is wrong with it.
        message: String,
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
    /// The key does not work from this address.
    #[error("this API key does not work from this address")]
    Address,
    /// Its project is archived.
    #[error("the project of this API key is archived")]
    ProjectArchived,
    /// Its organisation is switched off.
    #[error("the organisation of this API key is disabled")]
    OrgDisabled,
    /// The accounts cannot be read, so nobody is let in.
    #[error("accounts are unavailable")]
    Unavailable,
}
