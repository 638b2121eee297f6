//! `spillway keys`.

use std::path::Path;

use clap::{Args, Subcommand};

use super::{Failure, print};
use crate::accounts::{Accounts, IpNet, KeyLimits, KeyRow, NewKey, Permission};
use crate::civil;
use crate::config::Allowance;
use crate::serving::unix_ms;

/// What can be done with keys; each works while a server runs.
#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Print a new key, and nothing else, on standard output; it cannot be shown again
    Create(CreateArgs),
    /// List keys without their secrets
    List,
    /// Make a key useless within a second
    Revoke {
        /// Id, name or prefix of the key
        key: String,
    },
}

/// The new key.
#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Project; made if it does not exist
    #[arg(long)]
    project: String,
    /// Organisation; made if it does not exist
    #[arg(long, default_value = "demo")]
    org: String,
    /// Name of the key
    #[arg(long, default_value = "key")]
    name: String,
    /// Requests per minute
    #[arg(long, value_name = "COUNT")]
    rpm: Option<u32>,
    /// Tokens per minute
    #[arg(long, value_name = "COUNT")]
    tpm: Option<u32>,
    /// Requests in flight
    #[arg(long, value_name = "COUNT")]
    concurrency: Option<u32>,
    /// What the key may spend: in all, or per hour, day, week or month (UTC); may be given several times
    #[arg(long, alias = "budget-usd", value_name = "USD[/PERIOD]")]
    budget: Vec<Allowance>,
    /// What the key may be used for: model.request, model.read, data.read, data.write, capacity.write; left out: everything
    #[arg(long, value_name = "NAME")]
    permission: Vec<Permission>,
    /// Models that exist for the key; left out: all of the project's
    #[arg(long, value_name = "MODEL")]
    model: Vec<String>,
    /// Addresses or ranges from which the key works; left out: all
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpNet>,
    /// Date or time (RFC 3339) at which it stops working
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
}

/// Runs a command on the accounts in `dir`.
pub(super) fn run(command: KeysCommand, dir: &Path) -> Result<(), Failure> {
    match command {
        KeysCommand::Create(args) => create(args, dir),
        KeysCommand::List => list(dir),
        KeysCommand::Revoke { key } => {
            let row = Accounts::open(dir)?.revoke_key(&key, unix_ms())?;
            print(format_args!("{} revoked", row.id))?;
            Ok(())
        }
    }
}

fn create(args: CreateArgs, dir: &Path) -> Result<(), Failure> {
    let expires_at_ms = args.expires.as_deref().map(civil::parse_ms).transpose()?;
    let limits = KeyLimits {
        requests_per_minute: args.rpm,
        tokens_per_minute: args.tpm,
        concurrency: args.concurrency,
    };
    let new = NewKey {
        org: args.org,
        project: args.project,
        name: args.name,
        limits,
        budgets: args.budget,
        expires_at_ms,
        permissions: (!args.permission.is_empty()).then_some(args.permission),
        allowed_models: (!args.model.is_empty()).then_some(args.model),
        allowed_ips: args.ip,
    };
    let created = Accounts::open(dir)?.create_key(&new, unix_ms())?;
    eprintln!("{} created; it is shown once:", created.id);
    print(format_args!("{}", created.secret))?;
    Ok(())
}

fn list(dir: &Path) -> Result<(), Failure> {
    let now = unix_ms();
    print(format_args!(
        "{:<28} {:<14} {:<16} {:<16} {:<16} STATE",
        "ID", "PREFIX", "ORGANISATION", "PROJECT", "NAME"
    ))?;
    for row in Accounts::open(dir)?.list_keys()? {
        let state = state(&row, now);
        print(format_args!(
            "{:<28} {:<14} {:<16} {:<16} {:<16} {state}",
            row.id, row.prefix, row.org, row.project, row.name
        ))?;
    }
    Ok(())
}

fn state(row: &KeyRow, now_ms: u64) -> String {
    match (row.revoked_ms, row.expires_ms) {
        (Some(at), _) => format!("revoked {}", civil::format_ms(at)),
        (None, Some(at)) if at <= now_ms => format!("expired {}", civil::format_ms(at)),
        (None, Some(at)) => format!("active until {}", civil::format_ms(at)),
        (None, None) => "active".to_owned(),
    }
}
