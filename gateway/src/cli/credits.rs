//! `spillway credits`.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Subcommand;

use super::{Failure, print};
use crate::accounts::{Accounts, CreditKind, CreditOrder, NewCredit};
use crate::civil;
use crate::config::LedgerSection;
use crate::ledger::{Ledger, LedgerError, balance};
use crate::money::Picos;
use crate::serving::{post_credits, unix_ms};

/// How long a running server may take to post an order: it looks every second.
const SERVER_WAIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// Credit of organisations. A running server posts what is ordered here within a second; without one it is posted at once.
#[derive(Debug, Subcommand)]
pub(super) enum CreditsCommand {
    /// Give credit
    Grant {
        /// The organisation, by id or name
        org: String,
        /// The amount
        #[arg(value_parser = usd)]
        usd: Picos,
        /// Date or time (RFC 3339) at which what is left of it is gone
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// What it is for
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Correct a balance, up or down
    Correct {
        /// The organisation, by id or name
        org: String,
        /// The amount; negative takes away
        #[arg(value_parser = usd, allow_hyphen_values = true)]
        usd: Picos,
        /// What was wrong
        #[arg(long)]
        note: String,
    },
    /// List what was given and corrected
    List {
        /// The organisation, by id or name
        org: String,
    },
    /// Show what is left
    Balance {
        /// The organisation, by id or name
        org: String,
    },
}

fn usd(text: &str) -> Result<Picos, String> {
    Picos::parse_usd(text).map_err(|error| error.to_string())
}

/// Runs a command on the data in `dir`.
pub(super) fn run(command: CreditsCommand, dir: &Path) -> Result<(), Failure> {
    let accounts = Accounts::open(dir)?;
    match command {
        CreditsCommand::Grant { org, usd, expires, note } => {
            if usd <= Picos::ZERO {
                return Err("a grant must be positive; 'spillway credits correct' takes away".into());
            }
            let expires_ms = expires.as_deref().map(civil::parse_ms).transpose()?;
            if expires_ms.is_some_and(|at| at <= unix_ms()) {
                return Err("the expiry is not in the future".into());
            }
            let new = NewCredit { id: None, org, kind: CreditKind::Grant, amount: usd, expires_ms, note };
            order(&accounts, &new, dir)
        }
        CreditsCommand::Correct { org, usd, note } => {
            let kind = CreditKind::Correction;
            order(&accounts, &NewCredit { id: None, org, kind, amount: usd, expires_ms: None, note }, dir)
        }
        CreditsCommand::List { org } => {
            print(format_args!(
                "{:<24} {:<11} {:>16} {:<24} {:<20} NOTE",
                "CREATED", "KIND", "USD", "EXPIRES", "STATE"
            ))?;
            for order in accounts.list_credits(&org)? {
                show(&order)?;
            }
            Ok(())
        }
        CreditsCommand::Balance { org } => {
            let org = accounts.org(&org)?;
            let balance = balance(dir, &org.id)?;
            let line = org.credit_line.map_or_else(|| "none, pays later".to_owned(), Picos::to_usd);
            for (name, value) in [
                ("balance", balance.total().to_usd()),
                ("credited", balance.credited.to_usd()),
                ("spent", balance.spent.to_usd()),
                ("held", balance.held.to_usd()),
                ("credit line", line),
            ] {
                print(format_args!("{name:<12} {value}"))?;
            }
            for grant in balance.grants {
                let until = grant.expires_ms.map_or_else(|| "ever".to_owned(), civil::format_s);
                print(format_args!(
                    "{:<12} {} left until {until}",
                    format!("row {}", grant.seq),
                    grant.left
                ))?;
            }
            Ok(())
        }
    }
}

/// Notes the order, then sees that it is posted: by the server where one runs, else here.
fn order(accounts: &Accounts, new: &NewCredit, dir: &Path) -> Result<(), Failure> {
    let order = accounts.order_credit(new, unix_ms())?;
    match Ledger::open(dir, &LedgerSection::default(), unix_ms()) {
        Ok(ledger) => {
            let runtime = tokio::runtime::Builder::new_current_thread().build()?;
            let posted = runtime.block_on(post_credits(accounts, &ledger));
            ledger.close();
            posted?;
        }
        Err(LedgerError::Locked(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let begun = Instant::now();
    loop {
        let now = accounts.credit_order(&order.id)?;
        if let Some(reason) = now.refused {
            return Err(format!("{} was refused: {reason}", now.id).into());
        }
        if now.seq.is_some() {
            return show(&now);
        }
        if begun.elapsed() > SERVER_WAIT {
            return Err(format!(
                "{} is noted, but the server has not posted it yet; see 'spillway credits list {}'",
                now.id, now.org_id
            )
            .into());
        }
        std::thread::sleep(PAUSE);
    }
}

fn show(order: &CreditOrder) -> Result<(), Failure> {
    let state = match (order.seq, &order.refused) {
        (Some(seq), _) => format!("row {seq}"),
        (None, Some(reason)) => format!("refused: {reason}"),
        (None, None) => "waiting".to_owned(),
    };
    let expires = order.expires_ms.map_or_else(|| "never".to_owned(), civil::format_s);
    let (created, kind) = (civil::format_s(order.created_ms), order.kind.as_str());
    let amount = order.amount.to_usd();
    Ok(print(format_args!("{created:<24} {kind:<11} {amount:>16} {expires:<24} {state:<20} {}", order.note))?)
}
