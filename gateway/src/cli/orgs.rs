//! `spillway orgs`.

use std::path::Path;

use clap::Subcommand;

use super::{Failure, print};
use crate::accounts::{Accounts, OrgRow};
use crate::civil;
use crate::money::Picos;
use crate::serving::unix_ms;

/// Organisations; each command works while a server runs, and takes an id or a name.
#[derive(Debug, Subcommand)]
pub(super) enum OrgsCommand {
    /// List organisations
    List,
    /// Make an organisation
    Create {
        /// Its name
        name: String,
        /// How far its balance may go below zero; left out: it pays later, without a bound
        #[arg(long, value_name = "USD", value_parser = line)]
        credit_line: Option<Picos>,
    },
    /// Refuse all its keys from now on
    Disable {
        /// The organisation
        org: String,
    },
    /// Take its keys again
    Enable {
        /// The organisation
        org: String,
    },
    /// Say how far its balance may go below zero: 0 is prepaid
    CreditLine {
        /// The organisation
        org: String,
        /// The amount, or `none`: it pays later, without a bound
        usd: String,
    },
}

fn line(text: &str) -> Result<Picos, String> {
    match Picos::parse_usd(text).map_err(|error| error.to_string())? {
        line if line < Picos::ZERO => Err(format!("{text} must not be negative")),
        line => Ok(line),
    }
}

/// Runs a command on the accounts in `dir`.
pub(super) fn run(command: OrgsCommand, dir: &Path) -> Result<(), Failure> {
    let accounts = Accounts::open(dir)?;
    let now = unix_ms();
    match command {
        OrgsCommand::List => {
            print(format_args!("{:<24} {:<24} {:<16} STATE", "ID", "NAME", "CREDIT LINE"))?;
            for org in accounts.list_orgs()? {
                show(&org)?;
            }
            Ok(())
        }
        OrgsCommand::Create { name, credit_line } => {
            let made = accounts.create_org(&name, now)?;
            show(&match credit_line {
                None => made,
                line => accounts.set_credit_line(&made.id, line, now)?,
            })
        }
        OrgsCommand::Disable { org } => show(&accounts.set_org_disabled(&org, true, now)?),
        OrgsCommand::Enable { org } => show(&accounts.set_org_disabled(&org, false, now)?),
        OrgsCommand::CreditLine { org, usd } => {
            let line = if usd == "none" { None } else { Some(line(&usd)?) };
            show(&accounts.set_credit_line(&org, line, now)?)
        }
    }
}

fn show(org: &OrgRow) -> Result<(), Failure> {
    let state = match org.disabled_ms {
        Some(at) => format!("disabled {}", civil::format_s(at)),
        None => "active".to_owned(),
    };
    let line = org.credit_line.map_or_else(|| "none".to_owned(), Picos::to_usd);
    Ok(print(format_args!("{:<24} {:<24} {line:<16} {state}", org.id, org.name))?)
}
