//! One line a request, as JSON or CSV.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

use super::text::inert;
use super::{LineError, Lines};
use crate::civil;
use crate::ledger::details::{Tags, hex};
use crate::ledger::row::Transfer;
use crate::ledger::types::EndReason;

/// One line. Amounts are exact: USD as decimal text, and pico-USD as a whole number; times are UTC. Names are those at
/// admission; a row of the first schema has ids in their place.
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
    user: Option<&'a str>,
    tags: Option<Value>,
    request_sha256: Option<String>,
    weights_sha256: Option<String>,
    row_sha256: String,
}

/// The columns of the CSV form: the fields of [`Line`] in order.
const HEADER: [&str; 35] = [
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
    "user",
    "tags",
    "request_sha256",
    "weights_sha256",
    "row_sha256",
];

/// JSON lines.
pub(super) struct Jsonl;

impl Lines for Jsonl {
    fn row(&mut self, row: &Transfer, out: &mut dyn Write) -> Result<u64, LineError> {
        serde_json::to_writer(&mut *out, &line(row)).map_err(io::Error::from)?;
        out.write_all(b"\n")?;
        Ok(1)
    }
}

/// Comma-separated values.
pub(super) struct Csv;

impl Lines for Csv {
    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        record(out, HEADER)
    }

    fn row(&mut self, row: &Transfer, out: &mut dyn Write) -> Result<u64, LineError> {
        let value = serde_json::to_value(line(row)).map_err(io::Error::from)?;
        let fields = value.as_object().into_iter().flatten().map(|(_, value)| match value {
            Value::String(text) => inert(text.clone()),
            Value::Null => String::new(),
            other => other.to_string(),
        });
        record(out, fields)?;
        Ok(1)
    }
}

/// Writes one CSV record.
pub(super) fn record(
    out: &mut dyn Write,
    fields: impl IntoIterator<Item = impl AsRef<[u8]>>,
) -> io::Result<()> {
    let mut csv = csv::WriterBuilder::new().buffer_capacity(1 << 11).from_writer(out);
    csv.write_record(fields)?;
    csv.flush()
}

fn line(row: &Transfer) -> Line<'_> {
    let (facts, price) = (&row.facts, &row.facts.price);
    let details = row.details.as_deref();
    let digest = |digest: Option<[u8; 32]>| digest.map(|digest| hex(&digest));
    Line {
        seq: row.seq,
        request_id: &row.request_id,
        organisation_id: &facts.org_id,
        organisation: details.map_or(&facts.org_id, |details| &details.org_name),
        project_id: &facts.project_id,
        project: details.map_or(&facts.project_id, |details| &details.project_name),
        key_id: &facts.key_id,
        key: details.map_or(&facts.key_id, |details| &details.key_name),
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
        user: details.and_then(|details| details.user.as_deref()),
        tags: details.and_then(|details| details.tags.as_ref()).map(Tags::to_value),
        request_sha256: digest(details.and_then(|details| details.request_sha256)),
        weights_sha256: digest(details.and_then(|details| details.weights_sha256)),
        row_sha256: hex(&row.hash),
    }
}
