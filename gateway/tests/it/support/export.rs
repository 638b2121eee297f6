//! The bill as an operator exports it.

use std::path::Path;

use serde_json::Value;

use super::server::{cli, said};
use super::stream::Usage;

/// One line of the export: one request.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) request_id: String,
    pub(crate) project: String,
    pub(crate) end: String,
    pub(crate) usage: Usage,
    pub(crate) cost_picos: i128,
    pub(crate) raw: Value,
}

/// Sums over rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) rows: u64,
    pub(crate) prompt: u64,
    pub(crate) completion: u64,
    pub(crate) cost_picos: i128,
}

impl Totals {
    pub(crate) fn of(rows: &[Row]) -> Self {
        rows.iter().fold(Self::default(), |sum, row| Self {
            rows: sum.rows + 1,
            prompt: sum.prompt + row.usage.prompt,
            completion: sum.completion + row.usage.completion,
            cost_picos: sum.cost_picos + row.cost_picos,
        })
    }
}

/// All rows of the export. A request must never come twice.
pub(crate) fn rows(data: &Path) -> Vec<Row> {
    let output = cli(data, &["export", "--format", "jsonl"]);
    assert!(output.status.success(), "export failed: {}", said(&output));
    let text = String::from_utf8(output.stdout).expect("the export is UTF-8");
    let rows: Vec<Row> = text.lines().map(parse).collect();
    let mut ids: Vec<&str> = rows.iter().map(|r| r.request_id.as_str()).collect();
    ids.sort_unstable();
    for pair in ids.windows(2) {
        assert_ne!(pair[0], pair[1], "a request is in the export twice");
    }
    rows
}

fn parse(line: &str) -> Row {
    let raw: Value =
        serde_json::from_str(line).unwrap_or_else(|e| panic!("export line is not JSON ({e}): {line}"));
    let count = |name: &str| raw[name].as_u64().unwrap_or_else(|| panic!("{name} is not a count in {line}"));
    let text =
        |name: &str| raw[name].as_str().unwrap_or_else(|| panic!("{name} is not text in {line}")).to_owned();
    let (uncached, cached) = (count("uncached_input_tokens"), count("cached_input_tokens"));
    Row {
        request_id: text("request_id"),
        project: text("project"),
        end: text("end_reason"),
        usage: Usage { prompt: uncached + cached, cached, completion: count("output_tokens") },
        cost_picos: i128::from(raw["cost_picos"].as_i64().expect("cost_picos is an integer")),
        raw,
    }
}
