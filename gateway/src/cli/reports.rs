//! `spillway usage`, `export` and `verify`: everything derived from the ledger.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::{Failure, print};
use crate::accounts::{Accounts, Names};
use crate::civil;
use crate::config::{Config, LedgerSection};
use crate::ledger::export::{self, Format, manifest};
use crate::ledger::statement;
use crate::ledger::usage::{self, GroupBy};
use crate::ledger::{Ledger, LedgerError, Period, verify as audit};
use crate::money::Picos;
use crate::receipts;
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
    /// A calendar month (UTC), such as 2026-11
    #[arg(long, value_name = "MONTH", conflicts_with_all = ["from", "to"])]
    month: Option<String>,
}

impl PeriodArgs {
    fn parse(&self) -> Result<Period, Failure> {
        if let Some(month) = &self.month {
            return self::month(month);
        }
        Ok(Period::parse(self.from.as_deref(), self.to.as_deref())?)
    }
}

fn month(text: &str) -> Result<Period, Failure> {
    let bounds = civil::parse_month(text);
    let (from_ms, to_ms) = bounds.map_err(|_| format!("{text:?} is not a month such as 2026-11"))?;
    Ok(Period { from_ms, to_ms })
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
    /// Only this organisation, by name or id
    #[arg(long, value_name = "NAME")]
    org: Option<String>,
    /// Stripe customer of an organisation, by name or id; repeat it for each
    #[arg(long, value_name = "ORG=cus_...", value_parser = customer)]
    stripe_customer: Vec<(String, String)>,
    /// File to write, complete or not at all, with a manifest beside it; left out: standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Configuration file, for its [reports] section
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ExportFormat {
    /// JSON lines, one a request
    Jsonl,
    /// CSV, a line a request
    Csv,
    /// FOCUS 1.2 and 1.4 Cost and Usage, CSV, by the hour
    Focus,
    /// The same as Parquet, typed
    FocusParquet,
    /// CloudEvents 1.0 for OpenMeter or Lago, JSON lines
    Cloudevents,
    /// Stripe meter events, JSON lines
    Stripe,
}

fn customer(text: &str) -> Result<(String, String), String> {
    let pair =
        text.rsplit_once('=').filter(|(org, customer)| !org.is_empty() && customer.starts_with("cus_"));
    pair.map(|(org, customer)| (org.to_owned(), customer.to_owned()))
        .ok_or("not of the form ORG=cus_...".to_owned())
}

/// Arguments of `statement`.
#[derive(Debug, Args)]
pub(super) struct StatementArgs {
    /// A calendar month (UTC), such as 2026-11
    #[arg(long, value_name = "MONTH")]
    month: String,
    /// The organisation, by name or id
    #[arg(long, value_name = "NAME")]
    org: String,
    /// File to write, complete or not at all; left out: standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Configuration file, for its [reports] section
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Also check the exported files in this folder that have a manifest
    #[arg(long, value_name = "DIR")]
    exports: Option<PathBuf>,
    /// Also check the receipts in this file, one a line
    #[arg(long, value_name = "FILE")]
    receipts: Option<PathBuf>,
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
            print_usage(&format!("{grouping:?}").to_uppercase(), &rows)?;
        }
    }
    Ok(())
}

fn print_usage(title: &str, rows: &[usage::UsageRow]) -> std::io::Result<()> {
    print(format_args!(
        "{title:<28} {:>9} {:>12} {:>12} {:>12} {:>12} {:>16}",
        "REQUESTS", "PROMPT", "UNCACHED", "CACHED", "OUTPUT", "USD"
    ))?;
    for row in rows {
        let prompt = row.uncached_input + row.cached_input;
        print(format_args!(
            "{:<28} {:>9} {prompt:>12} {:>12} {:>12} {:>12} {:>16}",
            row.name,
            row.requests,
            row.uncached_input,
            row.cached_input,
            row.output,
            row.cost.to_usd()
        ))?;
    }
    let total = rows.iter().try_fold(Picos::ZERO, |sum, row| sum.checked_add(row.cost));
    print(format_args!(
        "{:<28} {:>9} {:>67}\n",
        "TOTAL",
        rows.iter().map(|row| row.requests).sum::<u64>(),
        total.map_or_else(|| "out of range".to_owned(), Picos::to_usd)
    ))
}

/// Writes the bill.
pub(super) fn export(args: &ExportArgs, config: &Config) -> Result<(), Failure> {
    let dir = &config.data.dir;
    let names = prepare(dir)?;
    let org_id = args.org.as_deref().map(|org| org_id(&names, org)).transpose()?;
    let request = export::Request {
        format: match args.format {
            ExportFormat::Jsonl => Format::Jsonl,
            ExportFormat::Csv => Format::Csv,
            ExportFormat::Focus => Format::Focus,
            ExportFormat::FocusParquet => Format::FocusParquet,
            ExportFormat::Cloudevents => Format::CloudEvents,
            ExportFormat::Stripe => Format::Stripe,
        },
        period: args.period.parse()?,
        org_id: org_id.as_deref(),
        reports: &config.reports,
        customers: &args.stripe_customer,
    };
    let summary = match &args.out {
        Some(path) => export::export_to_file(dir, &request, path)?,
        None => export::export(dir, &request, &mut std::io::stdout().lock())?,
    };
    let open = if summary.is_final { "" } else { "; the period is not over in the ledger" };
    eprintln!(
        "{} lines, {} requests, {} tokens, {} USD{open}",
        summary.lines, summary.requests, summary.tokens, summary.cost
    );
    Ok(())
}

/// The id of an organisation by its name, or by the id itself.
fn org_id(names: &Names, text: &str) -> Result<String, Failure> {
    let is_org = |id: &str| id.starts_with("org_");
    let found =
        names.0.iter().find(|(id, name)| is_org(id) && (id.as_str() == text || name.as_str() == text));
    found.map(|(id, _)| id.clone()).ok_or_else(|| format!("no organisation named {text:?}").into())
}

/// Writes the monthly statement of an organisation.
pub(super) fn statement(args: &StatementArgs, config: &Config) -> Result<(), Failure> {
    let dir = &config.data.dir;
    let names = prepare(dir)?;
    let org_id = org_id(&names, &args.org)?;
    let request = statement::Request {
        org_id: &org_id,
        org_name: names.of(&org_id),
        month: month(&args.month)?,
        provider: &config.reports.provider,
    };
    let (page, total) = statement::statement(dir, &request)?;
    match &args.out {
        Some(path) => export::write_file(path, page.as_bytes())?,
        None => print(format_args!("{}", page.trim_end()))?,
    }
    eprintln!("{total} USD");
    Ok(())
}

/// Says whether the ledger balances; a failure names what does not.
pub(super) fn verify(args: &VerifyArgs, dir: &Path) -> Result<(), Failure> {
    prepare(dir)?;
    let report = audit::verify(dir)?;
    print(format_args!("{report}"))?;
    let mut problems = report.problem_count;
    if let Some(folder) = &args.exports {
        let checked = manifest::check_folder(dir, folder)?;
        print(format_args!(
            "exported files {}: {} of periods not over when written",
            checked.files, checked.open
        ))?;
        for problem in &checked.problems {
            print(format_args!("problem: {problem}"))?;
        }
        if checked.problems.is_empty() {
            print(format_args!("the files are what the ledger says"))?;
        }
        problems += checked.problems.len() as u64;
    }
    if let Some(file) = &args.receipts {
        let checked = receipts::check_file(dir, file)?;
        print(format_args!(
            "receipts {}: {} disagree with the ledger",
            checked.receipts,
            checked.problems.len()
        ))?;
        for problem in &checked.problems {
            print(format_args!("problem: {problem}"))?;
        }
        problems += checked.problems.len() as u64;
    }
    if problems == 0 { Ok(()) } else { Err(format!("{problems} problems found").into()) }
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
