//! `spillway ledger`: moving the ledger between stores.

use clap::Subcommand;

use super::{Failure, print};
use crate::ledger::copy::{Copier, Place};

#[derive(Debug, Subcommand)]
pub(super) enum LedgerCommand {
    /// Copy all rows that the target does not have yet: from SQLite to PostgreSQL, back, or into a copy for reports
    Copy {
        /// A data directory, or postgres://user:password@host/database
        #[arg(long, value_name = "PLACE")]
        from: Place,
        /// A data directory, or postgres://user:password@host/database
        #[arg(long, value_name = "PLACE")]
        to: Place,
    },
}

pub(super) fn run(command: &LedgerCommand) -> Result<(), Failure> {
    let LedgerCommand::Copy { from, to } = command;
    let mut copier = Copier::open(from, to)?;
    let rows = copier.go_on()?;
    let (last, head) = copier.head();
    print(format_args!("copied {rows} rows to {to:?}; last row {last}, head {head}"))?;
    if copier.open_requests() > 0 {
        print(format_args!("{} requests are open in it", copier.open_requests()))?;
    }
    Ok(())
}
