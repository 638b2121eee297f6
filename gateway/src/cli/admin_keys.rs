//! `spillway admin-keys`.

use std::path::Path;

use clap::Subcommand;

use super::{Failure, print};
use crate::accounts::Accounts;
use crate::civil;
use crate::serving::unix_ms;

/// Keys for the admin listener; each command works while a server runs.
#[derive(Debug, Subcommand)]
pub(super) enum AdminKeysCommand {
    /// Print a new admin key, and nothing else, on standard output; it cannot be shown again
    Create {
        /// Name of the key
        #[arg(long, default_value = "admin")]
        name: String,
    },
    /// List the working admin keys without their secrets
    List,
    /// Make an admin key useless at once
    Revoke {
        /// Id of the key
        id: String,
    },
}

/// Runs a command on the accounts in `dir`.
pub(super) fn run(command: AdminKeysCommand, dir: &Path) -> Result<(), Failure> {
    let accounts = Accounts::open(dir)?;
    match command {
        AdminKeysCommand::Create { name } => {
            let (key, secret) = accounts.create_admin_key(&name, unix_ms())?;
            eprintln!("{} created; it is shown once:", key.id);
            print(secret)?;
        }
        AdminKeysCommand::List => {
            print(format_args!("{:<24} {:<18} {:<24} {:<24} NAME", "ID", "PREFIX", "CREATED", "LAST USED"))?;
            for key in accounts.list_admin_keys()? {
                let used = key.last_used_ms.map_or_else(|| "never".to_owned(), civil::format_s);
                let created = civil::format_s(key.created_ms);
                print(format_args!(
                    "{:<24} {:<18} {created:<24} {used:<24} {}",
                    key.id, key.prefix, key.name
                ))?;
            }
        }
        AdminKeysCommand::Revoke { id } => {
            print(format_args!("{} revoked", accounts.revoke_admin_key(&id, unix_ms())?.id))?;
        }
    }
    Ok(())
}
