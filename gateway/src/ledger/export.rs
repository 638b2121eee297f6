//! The usage export: one line per settled request, as JSON lines or CSV. The same ledger gives the same bytes.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};
use serde::Serialize;

use super::period::Period;
use super::reader;
use super::row::Transfer;
use super::schema::COLUMNS;
use super::types::{EndReason, LedgerError};
use crate::accounts::Names;
use crate::civil;
use crate::money::Picos;

/// Form of the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Jsonl,
    /// RFC 4180 with a header line; texts that a spreadsheet would take for a formula begin with a quote.
    Csv,
}

/// What an export contains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Lines, without the header.
    pub lines: u64,
    /// Tokens of all classes.
    pub tokens: u64,
    /// Sum of the costs.
    pub cost: Picos,
    /// First ledger row.
    pub first_seq: Option<i64>,
    /// Last ledger row.
    pub last_seq: Option<i64>,
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
}

/// One line. Amounts are exact: USD as decimal text, and pico-USD as a whole number; times are UTC.
#[derive(Serialize)]
struct Line<'a> {
    seq: i64,
    request_id: &'a str,
    organisation_id: &'a str,
    organisation: &'a str,
    project_id: &'a str,
    project: &'a str,
    key_id: &'a str,
    key: &'a str,
    model: &'a str,
    service_tier: &'a str,
    endpoint: &'a str,
    admitted_at: String,
    first_token_at: Option<String>,
    ended_at: String,
    end_reason: &'a str,
    uncached_input_tokens: u32,
    cached_input_tokens: u32,
    output_tokens: u32,
    price_version: &'a str,
    uncached_input_usd_per_million: String,
    cached_input_usd_per_million: String,
    output_usd_per_million: String,
    uncached_input_usd: String,
    cached_input_usd: String,
    output_usd: String,
    cost_usd: String,
    uncached_input_picos: i64,
    cached_input_picos: i64,
    output_picos: i64,
    cost_picos: i64,
    row_sha256: String,
}

/// Writes the settled requests of `period` from the ledger in `dir`; works while a server writes.
pub fn export(
    dir: &Path,
    names: &Names,
    format: Format,
    period: Period,
    out: &mut dyn Write,
) -> Result<Summary, ExportError> {
    let db = reader::open(dir)?;
    let failed = |source| ExportError::Write { path: "output".to_owned(), source };
    let mut out = BufWriter::with_capacity(1 << 16, out);
    let summary = match format {
        Format::Jsonl => each_settled(&db, period, |row| {
            serde_json::to_writer(&mut out, &line(row, names)).map_err(io::Error::from)?;
            out.write_all(b"\n")
        })?,
        Format::Csv => {
            let mut csv = csv::WriterBuilder::new().has_headers(false).from_writer(&mut out);
            csv.write_record(HEADER).map_err(io::Error::from).map_err(failed)?;
            let summary =
                each_settled(&db, period, |row| csv.serialize(escaped(row, names)).map_err(io::Error::from))?;
            csv.flush().map_err(failed)?;
            summary
        }
    };
    out.flush().map_err(failed)?;
    Ok(summary)
}

/// As [`export`] into a file, which appears complete or not at all.
pub fn export_to_file(
    dir: &Path,
    names: &Names,
    format: Format,
    period: Period,
    path: &Path,
) -> Result<Summary, ExportError> {
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
    let written = export(dir, names, format, period, &mut file);
    let result = written.and_then(|summary| finish(&file).map(|()| summary).map_err(failed));
    if result.is_err() {
        let _ = fs::remove_file(&partial);
    }
    result
}

/// Calls `write` with every settled row of `period` in ledger order.
pub(super) fn each_settled(
    db: &Connection,
    period: Period,
    mut write: impl FnMut(&Transfer) -> io::Result<()>,
) -> Result<Summary, ExportError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM transfers WHERE kind = 'settle' AND at_ms >= ?1 AND at_ms < ?2 ORDER BY seq"
    );
    let mut statement = db.prepare(&sql).map_err(LedgerError::from)?;
    let mut rows = statement.query(params![period.from_ms, period.to_ms]).map_err(LedgerError::from)?;
    let mut summary = Summary::default();
    while let Some(row) = rows.next().map_err(LedgerError::from)? {
        let row = reader::transfer(row).map_err(LedgerError::from)?;
        write(&row).map_err(|source| ExportError::Write { path: "output".to_owned(), source })?;
        summary.lines += 1;
        summary.tokens += row.tokens.total();
        let cost = summary.cost.checked_add(row.cost.total);
        summary.cost = cost.ok_or_else(|| LedgerError::Corrupt("the costs do not fit".to_owned()))?;
        summary.first_seq = summary.first_seq.or(Some(row.seq));
        summary.last_seq = Some(row.seq);
    }
    Ok(summary)
}

fn line<'a>(row: &'a Transfer, names: &'a Names) -> Line<'a> {
    let (facts, price) = (&row.facts, &row.facts.price);
    Line {
        seq: row.seq,
        request_id: &row.request_id,
        organisation_id: &facts.org_id,
        organisation: names.of(&facts.org_id),
        project_id: &facts.project_id,
        project: names.of(&facts.project_id),
        key_id: &facts.key_id,
        key: names.of(&facts.key_id),
        model: &price.model,
        service_tier: &price.tier,
        endpoint: &facts.endpoint,
        admitted_at: civil::format_ms(facts.admitted_ms),
        first_token_at: row.first_token_ms.map(civil::format_ms),
        ended_at: civil::format_ms(row.at_ms),
        end_reason: row.end.map_or("", EndReason::as_str),
        uncached_input_tokens: row.tokens.uncached_input,
        cached_input_tokens: row.tokens.cached_input,
        output_tokens: row.tokens.output,
        price_version: &price.id,
        uncached_input_usd_per_million: price.uncached_input.to_usd_per_million(),
        cached_input_usd_per_million: price.cached_input.to_usd_per_million(),
        output_usd_per_million: price.output.to_usd_per_million(),
        uncached_input_usd: row.cost.uncached_input.to_usd(),
        cached_input_usd: row.cost.cached_input.to_usd(),
        output_usd: row.cost.output.to_usd(),
        cost_usd: row.cost.total.to_usd(),
        uncached_input_picos: row.cost.uncached_input.0,
        cached_input_picos: row.cost.cached_input.0,
        output_picos: row.cost.output.0,
        cost_picos: row.cost.total.0,
        row_sha256: row.hash.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}")),
    }
}

/// The line's values as CSV fields, each text safe to open in a spreadsheet.
fn escaped(row: &Transfer, names: &Names) -> Vec<String> {
    let value = serde_json::to_value(line(row, names)).unwrap_or_default();
    let fields = value.as_object().into_iter().flatten().map(|(_, value)| match value {
        serde_json::Value::String(text) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => {
            format!("'{text}")
        }
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    });
    fields.collect()
}

/// The columns of the CSV form: the fields of [`Line`] in order.
const HEADER: [&str; 31] = [
    "seq",
    "request_id",
    "organisation_id",
    "organisation",
    "project_id",
    "project",
    "key_id",
    "key",
    "model",
    "service_tier",
    "endpoint",
    "admitted_at",
    "first_token_at",
    "ended_at",
    "end_reason",
    "uncached_input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "price_version",
    "uncached_input_usd_per_million",
    "cached_input_usd_per_million",
    "output_usd_per_million",
    "uncached_input_usd",
    "cached_input_usd",
    "output_usd",
    "cost_usd",
    "uncached_input_picos",
    "cached_input_picos",
    "output_picos",
    "cost_picos",
    "row_sha256",
];
