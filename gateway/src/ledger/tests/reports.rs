//! Export and usage report.

use super::super::export::{Format, Summary, export, export_to_file};
use super::super::usage::{GroupBy, usage};
use super::*;
use crate::accounts::Names;

fn names() -> Names {
    let pairs = [("org_1", "acme"), ("proj_1", "=cmd|' /C calc'!A0"), ("key_1", "a \"quoted\", name")];
    Names(pairs.into_iter().map(|(id, name)| (id.to_owned(), name.to_owned())).collect())
}

/// Requests settled at 1 000, 2 000, ... ms, and one still open.
async fn filled(dir: &Path) -> Ledger {
    let ledger = open(dir);
    for n in 1..=5_u32 {
        let id = format!("r{n}");
        let key_id = format!("key_{}", n % 2 + 1);
        ledger.hold(HoldRequest { key_id, at_ms: 0, ..request(&id, 1_000_000) }).await.unwrap();
        let at_ms = u64::from(n) * 1_000;
        ledger.settle(Settlement { at_ms, ..settlement(&id, tokens(n, 10 * n, 100 * n)) }).await.unwrap();
    }
    ledger.hold(request("open", 5)).await.unwrap();
    ledger
}

fn text(dir: &Path, format: Format, period: Period) -> (String, Summary) {
    let mut bytes = Vec::new();
    let summary = export(dir, &names(), format, period, &mut bytes).unwrap();
    (String::from_utf8(bytes).unwrap(), summary)
}

#[tokio::test]
async fn export_adds_up_in_both_formats() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = filled(dir.path()).await;
    let (jsonl, summary) = text(dir.path(), Format::Jsonl, Period::ALL);
    let lines: Vec<serde_json::Value> =
        jsonl.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let sum = |field: &str| lines.iter().map(|line| line[field].as_i64().unwrap()).sum::<i64>();
    assert_eq!(lines.len(), 5);
    assert_eq!(sum("cost_picos"), 15 * (100 + 500 + 40_000));
    assert_eq!(
        sum("uncached_input_picos") + sum("cached_input_picos") + sum("output_picos"),
        sum("cost_picos")
    );
    let usd = |line: &serde_json::Value| Picos::parse_usd(line["cost_usd"].as_str().unwrap()).unwrap();
    assert!(lines.iter().all(|line| usd(line).0 == line["cost_picos"].as_i64().unwrap()));
    assert_eq!((lines[0]["organisation"].as_str(), lines[0]["key"].as_str()), (Some("acme"), Some("key_2")));
    assert_eq!(lines[0]["ended_at"], "1970-01-01T00:00:01.000Z");
    assert_eq!(summary.cost, Picos(sum("cost_picos")));
    assert_eq!((summary.lines, summary.first_seq, summary.last_seq), (5, Some(2), Some(10)));

    let (csv_text, csv_summary) = text(dir.path(), Format::Csv, Period::ALL);
    assert_eq!(csv_summary, summary);
    let mut reader = csv::Reader::from_reader(csv_text.as_bytes());
    let header: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let fields: Vec<&String> = lines[0].as_object().unwrap().keys().collect();
    assert_eq!(header.iter().collect::<Vec<_>>(), fields);
    for (record, line) in reader.records().zip(&lines) {
        let record = record.unwrap();
        for (value, field) in record.iter().zip(&header) {
            let expected = match &line[field] {
                serde_json::Value::String(text) if field == "project" => format!("'{text}"),
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            assert_eq!(value, expected, "{field}");
        }
    }
    ledger.void("open", 1).await.unwrap();
    assert_eq!(
        text(dir.path(), Format::Jsonl, Period::ALL).0,
        jsonl,
        "a row that is no settle changes nothing"
    );
    closed_and_balanced(&ledger, dir.path());
    assert_eq!(text(dir.path(), Format::Csv, Period::ALL).0, csv_text);
}

#[tokio::test]
async fn periods_meet_without_gap_or_overlap() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = filled(dir.path()).await;
    let at = |from_ms, to_ms| text(dir.path(), Format::Jsonl, Period { from_ms, to_ms }).0;
    let whole = at(0, u64::MAX >> 1);
    for cut in [0, 999, 1_000, 1_001, 3_000, 5_000, 9_000] {
        assert_eq!(at(0, cut) + &at(cut, u64::MAX >> 1), whole, "{cut}");
    }
    drop(ledger);
    let parse = |from, to| Period::parse(Some(from), Some(to));
    assert_eq!(parse("1970-01-01", "1970-01-01T00:00:02Z"), Ok(Period { from_ms: 0, to_ms: 2_000 }));
    assert_eq!(Period::parse(None, None), Ok(Period::ALL));
    assert!(matches!(parse("2026-02-01", "2026-01-01"), Err(PeriodError::Reversed { .. })));
    assert!(matches!(parse("yesterday", "2026-01-01"), Err(PeriodError::Instant(_))));
}

#[tokio::test]
async fn a_file_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()).await);
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("usage.jsonl");
    let write = |path: &Path| export_to_file(dir.path(), &names(), Format::Jsonl, Period::ALL, path);
    assert_eq!(write(&path).unwrap().lines, 5);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text(dir.path(), Format::Jsonl, Period::ALL).0);
    let missing = tempfile::tempdir().unwrap();
    assert!(export_to_file(missing.path(), &names(), Format::Csv, Period::ALL, &path).is_err());
    assert!(write(&out.path().join("no/such/dir")).is_err());
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 1, "no partial file is left");
}

#[tokio::test]
async fn usage_is_grouped() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = filled(dir.path()).await;
    let by = |by| usage(dir.path(), &names(), Period::ALL, by).unwrap();
    let keys = by(GroupBy::Key);
    let figures: Vec<_> =
        keys.iter().map(|row| (row.id.as_str(), row.requests, row.output, row.cost.0)).collect();
    assert_eq!(figures, [("key_2", 3, 900, 9 * 40_600), ("key_1", 2, 600, 6 * 40_600)]);
    assert_eq!(keys[1].name, "a \"quoted\", name");
    for group in [GroupBy::Organisation, GroupBy::Project, GroupBy::Model] {
        let rows = by(group);
        assert_eq!((rows.len(), rows[0].requests, rows[0].cost.0), (1, 5, 15 * 40_600));
    }
    let early = Period { from_ms: 0, to_ms: 2_000 };
    assert_eq!(usage(dir.path(), &names(), early, GroupBy::Model).unwrap()[0].uncached_input, 1);
    drop(ledger);
}
