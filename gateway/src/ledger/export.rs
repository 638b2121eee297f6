//! The bill as a file, in six forms. Every one is a pure function of the ledger, the period and the `[reports]` section:
//! the same of these gives the same bytes on any machine.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::period::Period;
use super::reader;
use super::row::Transfer;
use super::schema::COLUMNS;
use super::types::LedgerError;
use crate::config::Reports;
use crate::money::Picos;

mod events;
pub(super) mod focus;
mod lines;
pub mod manifest;
mod text;

pub(super) use text::decimal;

/// Form of the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// One JSON object a request.
    Jsonl,
    /// RFC 4180 with a header line, a line a request; texts that a spreadsheet would take for a formula begin with a
    /// quote.
    Csv,
    /// FOCUS Cost and Usage as CSV: all columns of 1.2 and of 1.4, a line an hour, key, model, token class, tier, price
    /// and tag set.
    Focus,
    /// The same as Parquet, with typed columns.
    FocusParquet,
    /// One CloudEvent 1.0 a request and token class, as JSON lines; OpenMeter and Lago take them.
    CloudEvents,
    /// One Stripe meter event a request and token class, as JSON lines.
    Stripe,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 6] = [
        Format::Jsonl,
        Format::Csv,
        Format::Focus,
        Format::FocusParquet,
        Format::CloudEvents,
        Format::Stripe,
    ];

    /// The name in commands and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Jsonl => "jsonl",
            Format::Csv => "csv",
            Format::Focus => "focus",
            Format::FocusParquet => "focus-parquet",
            Format::CloudEvents => "cloudevents",
            Format::Stripe => "stripe",
        }
    }
}

/// What to export.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Form of the lines.
    pub format: Format,
    /// Requests settled in it.
    pub period: Period,
    /// Only this organisation, by id.
    pub org_id: Option<&'a str>,
    /// What the lines say beside the ledger.
    pub reports: &'a Reports,
    /// Stripe customers (`cus_...`) by organisation, name or id.
    pub customers: &'a [(String, String)],
}

/// What an export contains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Lines, without the header.
    pub lines: u64,
    /// Settled requests.
    pub requests: u64,
    /// Tokens of all classes.
    pub tokens: u64,
    /// Sum of the costs.
    pub cost: Picos,
    /// First ledger row of the period, whatever its kind. Periods that meet have rows that meet.
    pub first_seq: Option<i64>,
    /// Last ledger row of the period.
    pub last_seq: Option<i64>,
    /// True where no row can be added to the period any more.
    pub is_final: bool,
}

/// Why an export fails.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The output cannot be written.
    #[error("{path}: {source}")]
    Write {
        /// The file, or `output`.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// FOCUS lines stand for whole hours.
    #[error("FOCUS lines stand for whole hours: {0} is not the beginning of one")]
    NotAnHour(String),
    /// A meter event needs a customer.
    #[error("organisation {name:?} ({id}) has no Stripe customer: give --stripe-customer '{name}=cus_...'")]
    NoCustomer {
        /// Its name.
        name: String,
        /// Its id.
        id: String,
    },
}

/// Turns settled rows into lines.
trait Lines {
    /// Before the first row.
    fn begin(&mut self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
    /// One settled row, in ledger order; how many lines it gave by now.
    fn row(&mut self, row: &Transfer, out: &mut dyn Write) -> Result<u64, LineError>;
    /// After the last row; lines still to come.
    fn end(&mut self, _out: &mut dyn Write) -> Result<u64, LineError> {
        Ok(0)
    }
}

/// Why a line cannot be made.
#[derive(Debug)]
enum LineError {
    Write(io::Error),
    Refused(ExportError),
}

impl From<io::Error> for LineError {
    fn from(error: io::Error) -> Self {
        LineError::Write(error)
    }
}

impl From<csv::Error> for LineError {
    fn from(error: csv::Error) -> Self {
        LineError::Write(error.into())
    }
}

/// Writes the settled requests that `request` names from the ledger in `dir`; works while a server writes.
pub fn export(dir: &Path, request: &Request<'_>, out: &mut dyn Write) -> Result<Summary, ExportError> {
    let db = reader::open(dir)?;
    export_from(&db, request, out)
}

fn export_from(db: &Connection, request: &Request<'_>, out: &mut dyn Write) -> Result<Summary, ExportError> {
    let mut lines: Box<dyn Lines + '_> = match request.format {
        Format::Jsonl => Box::new(lines::Jsonl),
        Format::Csv => Box::new(lines::Csv),
        Format::Focus => Box::new(focus::Focus::new(request)?),
        Format::FocusParquet => Box::new(focus::FocusParquet::new(request)?),
        Format::CloudEvents => Box::new(events::CloudEvents::new(request.reports)),
        Format::Stripe => Box::new(events::Stripe::new(request.customers)),
    };
    let failed = |source| ExportError::Write { path: "output".to_owned(), source };
    let of_line = |error| match error {
        LineError::Write(source) => failed(source),
        LineError::Refused(error) => error,
    };
    let mut out = BufWriter::with_capacity(1 << 16, out);
    lines.begin(&mut out).map_err(failed)?;
    let mut count = 0;
    let kinds = match request.format {
        Format::Focus | Format::FocusParquet => WITH_CREDITS,
        _ => SETTLED,
    };
    let mut summary = each_row(db, kinds, request.period, request.org_id, |row| {
        count += lines.row(row, &mut out).map_err(of_line)?;
        Ok(())
    })?;
    summary.lines = count + lines.end(&mut out).map_err(of_line)?;
    out.flush().map_err(failed)?;
    Ok(summary)
}

/// As [`export`] into a file, which appears complete or not at all, with its [`manifest`] beside it.
pub fn export_to_file(dir: &Path, request: &Request<'_>, path: &Path) -> Result<Summary, ExportError> {
    let db = reader::open(dir)?;
    let mut written = None;
    whole_file(path, |file| {
        let mut hashed = manifest::Hashed::new(file);
        let summary = export_from(&db, request, &mut hashed)?;
        written = Some((summary, hashed.finish()));
        Ok(())
    })?;
    let Some((summary, (sha256, bytes))) = written else { return Ok(Summary::default()) };
    let text = manifest::Manifest::of(&db, request, &summary, sha256, bytes)?.render(path);
    whole_file(&manifest::path_of(path), |file| {
        let failed = |source| ExportError::Write { path: path.display().to_string(), source };
        file.write_all(text.as_bytes()).map_err(failed)
    })?;
    Ok(summary)
}

/// Writes a file that appears complete or not at all.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let failed = |source| ExportError::Write { path: path.display().to_string(), source };
    whole_file(path, |file| file.write_all(bytes).map_err(failed))
}

/// Fills a file that appears under its name complete or not at all, also after a power cut.
fn whole_file(
    path: &Path,
    fill: impl FnOnce(&mut File) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    let partial = PathBuf::from(partial);
    let failed = |source| ExportError::Write { path: path.display().to_string(), source };
    let mut file = File::create(&partial).map_err(failed)?;
    let finish = |file: &File| {
        file.sync_all()?;
        fs::rename(&partial, path)?;
        // The new name, too, must survive a power cut.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    let result = fill(&mut file).and_then(|()| finish(&file).map_err(failed));
    if result.is_err() {
        let _ = fs::remove_file(&partial);
    }
    result
}

/// Settled rows.
const SETTLED: &str = "kind = 'settle'";
/// The same, what was given back for leases, and refunds.
pub(super) const WITH_CREDITS: &str =
    "(kind IN ('settle', 'refund') OR (kind = 'grant' AND endpoint = '/v1/capacity/leases'))";

/// Calls `each` with every row of these `kinds` in `period`, in ledger order; only settled ones count in the summary.
pub(super) fn each_row(
    db: &Connection,
    kinds: &str,
    period: Period,
    org_id: Option<&str>,
    mut each: impl FnMut(&Transfer) -> Result<(), ExportError>,
) -> Result<Summary, ExportError> {
    let span = reader::span(db, period).map_err(LedgerError::from)?;
    let sql = format!(
        "SELECT {COLUMNS} FROM transfers WHERE {kinds} AND seq BETWEEN ?1 AND ?2
         AND (?3 IS NULL OR org_id = ?3) ORDER BY seq"
    );
    let mut statement = db.prepare(&sql).map_err(LedgerError::from)?;
    let bounds = params![span.first, span.last, org_id];
    let mut rows = statement.query(bounds).map_err(LedgerError::from)?;
    let mut summary = Summary { is_final: span.is_final, ..Summary::default() };
    (summary.first_seq, summary.last_seq) = match span.first <= span.last {
        true => (Some(span.first), Some(span.last)),
        false => (None, None),
    };
    while let Some(row) = rows.next().map_err(LedgerError::from)? {
        let row = reader::transfer(row).map_err(LedgerError::from)?;
        each(&row)?;
        if row.end.is_none() {
            continue;
        }
        summary.requests += 1;
        summary.tokens += row.used();
        let cost = summary.cost.checked_add(row.cost.total);
        summary.cost = cost.ok_or_else(|| LedgerError::Corrupt("the costs do not fit".to_owned()))?;
    }
    Ok(summary)
}
