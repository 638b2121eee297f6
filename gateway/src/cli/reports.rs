//! `spillway usage`, `export` and `verify`: everything derived from the ledger.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::Failure;
use crate::accounts::{Accounts, Names};
use crate::config::LedgerSection;
use crate::ledger::export::{self, Format};
use crate::ledger::usage::{self, GroupBy};
use crate::ledger::{Ledger, LedgerError, Period, verify as audit};
use crate::money::Picos;
use crate::serving::unix_ms;

/// The period of a report.
#[derive(Debug, Args)]
struct PeriodArgs {
    /// First date (midnight UTC) or time (RFC 3339); left out: from the beginning
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// First date or time after the period; left out: until now
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
}

impl PeriodArgs {
    fn parse(&self) -> Result<Period, Failure> {
        Ok(Period::parse(self.from.as_deref(), self.to.as_deref())?)
    }
}

/// Arguments of `usage`.
#[derive(Debug, Args)]
pub(super) struct UsageArgs {
    #[command(flatten)]
    period: PeriodArgs,
    /// Only this grouping
    #[arg(long)]
    by: Option<Grouping>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Grouping {
    Organisation,
    Project,
    Key,
    Model,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Form of the lines
    #[arg(long)]
    format: ExportFormat,
    #[command(flatten)]
    period: PeriodArgs,
    /// File to write, complete or not at all; left out: standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ExportFormat {
    Jsonl,
    Csv,
}

/// Prints tokens and cost by group.
pub(super) fn usage(args: &UsageArgs, dir: &Path) -> Result<(), Failure> {
    let period = args.period.parse()?;
    let names = prepare(dir)?;
    let all = [
        (Grouping::Organisation, GroupBy::Organisation),
        (Grouping::Project, GroupBy::Project),
        (Grouping::Key, GroupBy::Key),
        (Grouping::Model, GroupBy::Model),
    ];
    for (grouping, by) in all {
        if args.by.is_none_or(|wanted| wanted as u8 == grouping as u8) {
            let rows = usage::usage(dir, &names, period, by)?;
            print_usage(&format!("{grouping:?}").to_uppercase(), &rows);
        }
    }
    Ok(())
}

fn print_usage(title: &str, rows: &[usage::UsageRow]) {
    println!(
        "{title:<28} {:>9} {:>12} {:>12} {:>12} {:>12} {:>16}",
        "REQUESTS", "PROMPT", "UNCACHED", "CACHED", "OUTPUT", "USD"
    );
    for row in rows {
        let prompt = row.uncached_input + row.cached_input;
        println!(
            "{:<28} {:>9} {prompt:>12} {:>12} {:>12} {:>12} {:>16}",
            row.name,
            row.requests,
            row.uncached_input,
            row.cached_input,
            row.output,
            row.cost.to_usd()
        );
    }
    let total = rows.iter().try_fold(Picos::ZERO, |sum, row| sum.checked_add(row.cost));
    println!(
        "{:<28} {:>9} {:>67}\n",
        "TOTAL",
        rows.iter().map(|row| row.requests).sum::<u64>(),
        total.map_or_else(|| "out of range".to_owned(), Picos::to_usd)
    );
}

/// Writes the bill.
pub(super) fn export(args: &ExportArgs, dir: &Path) -> Result<(), Failure> {
    let period = args.period.parse()?;
    let format = match args.format {
        ExportFormat::Jsonl => Format::Jsonl,
        ExportFormat::Csv => Format::Csv,
    };
    let names = prepare(dir)?;
    let summary = match &args.out {
        Some(path) => export::export_to_file(dir, &names, format, period, path)?,
        None => export::export(dir, &names, format, period, &mut std::io::stdout().lock())?,
    };
    eprintln!("{} requests, {} tokens, {} USD", summary.lines, summary.tokens, summary.cost);
    Ok(())
}

/// Says whether the ledger balances; a failure names what does not.
pub(super) fn verify(dir: &Path) -> Result<(), Failure> {
    prepare(dir)?;
    let report = audit::verify(dir)?;
    println!("{report}");
    if report.is_ok() {
        Ok(())
    } else {
        Err(format!("{} problems found in the ledger", report.problem_count).into())
    }
}

/// The names of accounts. A directory that has accounts but never served gets an empty ledger, so that reports of
/// nothing are empty instead of failing; the ledger of an earlier version is brought up to date.
fn prepare(dir: &Path) -> Result<Names, Failure> {
    if !dir.is_dir() {
        return Err(format!("no data directory at {}", dir.display()).into());
    }
    let names = Accounts::open(dir)?.names()?;
    let nothing = Period { from_ms: 0, to_ms: 0 };
    let needs_opening = match usage::usage(dir, &names, nothing, GroupBy::Model) {
        Err(LedgerError::Missing(_)) => true,
        Err(LedgerError::Schema { found, known }) => found < known,
        _ => false,
    };
    if needs_opening {
        match Ledger::open(dir, &LedgerSection::default(), unix_ms()) {
            Ok(ledger) => ledger.close(),
            // A server is starting at this moment and makes it.
            Err(LedgerError::Locked(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(names)
}
