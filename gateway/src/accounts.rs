//! Who may call: organisation → project → API key, in `spillway.db` of the data directory.
//!
//! Only a keyed hash and a short prefix of a key are stored. Several processes may work on one directory: a server
//! polls SQLite's `data_version` and so sees within 250 ms what the command line changed. Every change leaves a line in
//! the audit log, in the same transaction.

mod alerts;
mod budgets;
mod cache;
mod error;
mod handle;
mod ip;
mod money;
mod permission;
mod schema;
mod secret;
mod store;
#[cfg(test)]
mod tests;
mod types;

pub use alerts::Alert;
pub use budgets::{Budget, TagBudget, UserBudget};
pub use error::{AccountsError, AuthError};
pub use handle::Accounts;
pub use ip::IpNet;
pub use money::{CreditKind, CreditOrder, NewCredit};
pub use permission::Permission;
pub use secret::{ADMIN_SECRET_PREFIX, SECRET_LEN, SECRET_PREFIX};
pub use types::{
    AdminKeyRow, AuditFilter, AuditRow, CreatedKey, Identity, KeyLimits, KeyRow, Names, NewKey, OrgRow,
    ProjectRow, ProjectSettings, StoreResponses,
};

/// Longest name of an organisation, project or key, in characters.
pub const MAX_NAME_CHARS: usize = 64;
