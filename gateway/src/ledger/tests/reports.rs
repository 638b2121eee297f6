//! Export and usage report.

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use super::super::export::{self, ExportError, Format, Request, Summary, export, export_to_file, manifest};
use super::super::usage::{GroupBy, usage};
use super::*;
use crate::accounts::Names;
use crate::civil;
use crate::config::Reports;

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

fn asked<'a>(format: Format, period: Period, reports: &'a Reports) -> Request<'a> {
    Request { format, period, org_id: None, reports, customers: &[] }
}

fn text(dir: &Path, format: Format, period: Period) -> (String, Summary) {
    let mut bytes = Vec::new();
    let reports = Reports::default();
    let summary = export(dir, &asked(format, period, &reports), &mut bytes).unwrap();
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
    assert_eq!(
        (lines[0]["organisation"].as_str(), lines[0]["key"].as_str()),
        (Some("acme"), Some("a \"quoted\", name"))
    );
    assert_eq!(lines[0]["ended_at"], "1970-01-01T00:00:01.000Z");
    assert_eq!(summary.cost, Picos(sum("cost_picos")));
    // The hold that is still open is a row, too.
    assert_eq!((summary.lines, summary.first_seq, summary.last_seq), (5, Some(1), Some(11)));

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
                serde_json::Value::Null => String::new(),
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
    let reports = Reports::default();
    let write = |path: &Path| export_to_file(dir.path(), &asked(Format::Jsonl, Period::ALL, &reports), path);
    assert_eq!(write(&path).unwrap().lines, 5);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text(dir.path(), Format::Jsonl, Period::ALL).0);
    let missing = tempfile::tempdir().unwrap();
    assert!(export_to_file(missing.path(), &asked(Format::Csv, Period::ALL, &reports), &path).is_err());
    assert!(write(&out.path().join("no/such/dir")).is_err());
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 2, "no partial file is left");
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

/// Requests of two keys and three tag sets over three hours, at random sizes.
async fn three_hours(dir: &Path, seed: u64) -> Ledger {
    let ledger = open(dir);
    let mut state = seed;
    let mut random = |below: u32| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(state >> 33).unwrap() % below
    };
    for n in 0..90_u64 {
        let id = format!("r{n}");
        let tags = Tags::new((random(3) > 0).then(|| ("team".to_owned(), random(2).to_string())));
        let key_id = format!("key_{}", random(2));
        let hold =
            HoldRequest { key_id, at_ms: 0, details: Details { tags, ..details() }, ..request(&id, 1 << 40) };
        ledger.hold(hold).await.unwrap();
        let at_ms = n * 2 * 60_000;
        let tokens = tokens(random(3), random(2_000), random(9_000_000));
        ledger.settle(Settlement { at_ms, ..settlement(&id, tokens) }).await.unwrap();
    }
    ledger
}

#[tokio::test]
async fn focus_lines_add_up_by_the_hour() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = three_hours(dir.path(), 1).await;
    let report = closed_and_balanced(&ledger, dir.path());
    let (focus, summary) = text(dir.path(), Format::Focus, Period::ALL);
    let mut reader = csv::Reader::from_reader(focus.as_bytes());
    let header = reader.headers().unwrap().clone();
    let at = |name: &str| header.iter().position(|column| column == name).unwrap();
    let lines: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!(lines.len() as u64, summary.lines);
    let picos: i64 = lines.iter().map(|line| Picos::parse_usd(&line[at("BilledCost")]).unwrap().0).sum();
    assert_eq!(picos, report.cost.0);
    let hours: std::collections::HashSet<_> =
        lines.iter().map(|line| line[at("ChargePeriodStart")].to_owned()).collect();
    assert_eq!(hours.len(), 3);
    let tags: std::collections::HashSet<_> = lines.iter().map(|line| line[at("Tags")].to_owned()).collect();
    assert_eq!(tags.len(), 3);
    for line in &lines {
        assert_eq!(&line[at("SubAccountName")], "'=cmd|' /C calc'!A0");
        assert_eq!(&line[at("InvoiceId")], "1970-01-org_1");
        assert!(line[at("x_LedgerFirstSequence")].parse::<u64>().unwrap() > 0);
    }
    let half = Period { from_ms: 0, to_ms: 1_800_000 };
    let (reports, mut sink) = (Reports::default(), Vec::new());
    let refused = export(dir.path(), &asked(Format::Focus, half, &reports), &mut sink);
    assert!(matches!(refused, Err(ExportError::NotAnHour(_))));
}

#[tokio::test]
async fn more_tag_sets_than_allowed_share_a_line_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = three_hours(dir.path(), 2).await;
    drop(ledger);
    let reports = Reports { max_tag_sets: 1, ..Reports::default() };
    let mut bytes = Vec::new();
    export(dir.path(), &asked(Format::Focus, Period::ALL, &reports), &mut bytes).unwrap();
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let header = reader.headers().unwrap().clone();
    let at = |name: &str| header.iter().position(|column| column == name).unwrap();
    let mut omitted = 0;
    for line in reader.records().map(Result::unwrap) {
        if &line[at("x_TagsOmitted")] == "true" {
            assert_eq!(&line[at("Tags")], "");
            omitted += 1;
        }
    }
    assert!(omitted > 0);
}

/// A field of a Parquet row as the CSV has it.
fn as_csv(field: &Field) -> String {
    match field {
        Field::Null => String::new(),
        Field::Str(text) => text.clone(),
        Field::Bool(value) => value.to_string(),
        Field::Long(value) => value.to_string(),
        Field::TimestampMillis(ms) => civil::format_s(ms.unsigned_abs()),
        Field::Decimal(decimal) => {
            assert_eq!((decimal.precision(), decimal.scale()), (38, 12));
            let bytes: [u8; 16] = decimal.data().try_into().unwrap();
            export::decimal(i128::from_be_bytes(bytes), 12)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn parquet_has_the_lines_of_the_csv_with_types() {
    let dir = tempfile::tempdir().unwrap();
    drop(three_hours(dir.path(), 5).await);
    let reports = Reports { region: "eu west".to_owned(), ..Reports::default() };
    let write = |format, period| {
        let mut bytes = Vec::new();
        let summary = export(dir.path(), &asked(format, period, &reports), &mut bytes).unwrap();
        (bytes, summary)
    };
    let (csv, summary) = write(Format::Focus, Period::ALL);
    let (parquet, same) = write(Format::FocusParquet, Period::ALL);
    assert_eq!(summary, same);
    assert_eq!(write(Format::FocusParquet, Period::ALL).0, parquet, "the same bytes every time");
    let file = SerializedFileReader::new(bytes::Bytes::from(parquet)).unwrap();
    let mut csv = csv::Reader::from_reader(csv.as_slice());
    let header: Vec<String> = csv.headers().unwrap().iter().map(str::to_owned).collect();
    let rows: Vec<_> = file.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert!(rows.len() > 5 && rows.len() as u64 == summary.lines);
    for (line, row) in csv.records().map(Result::unwrap).zip(rows) {
        let (names, values): (Vec<_>, Vec<_>) =
            row.get_column_iter().map(|(name, field)| (name.clone(), as_csv(field))).unzip();
        assert_eq!(names, header);
        assert_eq!(values, line.iter().collect::<Vec<_>>());
    }
    let nothing = Period { from_ms: 3_600_000_000_000, to_ms: 3_600_003_600_000 };
    let empty =
        SerializedFileReader::new(bytes::Bytes::from(write(Format::FocusParquet, nothing).0)).unwrap();
    assert_eq!(empty.get_row_iter(None).unwrap().count(), 0);
}

#[tokio::test]
async fn events_are_one_a_class_and_never_two_of_an_id() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = three_hours(dir.path(), 3).await;
    let total = closed_and_balanced(&ledger, dir.path()).tokens;
    let customers = [("acme".to_owned(), "cus_1".to_owned())];
    let reports = Reports { region: "eu west".to_owned(), ..Reports::default() };
    let mut ids = std::collections::HashSet::new();
    for (format, id, value) in
        [(Format::CloudEvents, "/id", "/data/tokens"), (Format::Stripe, "/identifier", "/payload/value")]
    {
        let request = Request { customers: &customers, ..asked(format, Period::ALL, &reports) };
        let mut bytes = Vec::new();
        let summary = export(dir.path(), &request, &mut bytes).unwrap();
        let mut sum = 0;
        for line in String::from_utf8(bytes).unwrap().lines() {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |pointer: &str| event.pointer(pointer).unwrap().as_str().unwrap().to_owned();
            assert!(ids.insert((format, text(id))), "{line}");
            sum += text(value).parse::<u64>().unwrap();
            assert!(event.get("source").is_none_or(|source| source == "spillway/eu%20west"));
        }
        assert_eq!((sum, ids.iter().filter(|(of, _)| *of == format).count() as u64), (total, summary.lines));
    }
    let refused = export(dir.path(), &asked(Format::Stripe, Period::ALL, &reports), &mut Vec::new());
    assert!(matches!(refused, Err(ExportError::NoCustomer { .. })));
}

#[tokio::test]
async fn files_of_closed_periods_are_checked_against_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    drop(three_hours(dir.path(), 4).await);
    let out = tempfile::tempdir().unwrap();
    let reports = Reports::default();
    let hour = |n: u64| Period { from_ms: n * 3_600_000, to_ms: (n + 1) * 3_600_000 };
    let write = |n: u64, format| {
        let path = out.path().join(format!("{n}.{}", Format::as_str(format)));
        export_to_file(dir.path(), &asked(format, hour(n), &reports), &path).unwrap()
    };
    let mut next = 1;
    for n in 0..3 {
        let summary = write(n, Format::Focus);
        assert_eq!((summary.first_seq, summary.is_final), (Some(next), n < 2));
        next = summary.last_seq.unwrap() + 1;
    }
    let check = || manifest::check_folder(dir.path(), out.path()).unwrap();
    let checked = check();
    assert_eq!((checked.files, checked.open, checked.problems), (3, 1, Vec::new()));
    // A file left out, one changed, one twice.
    let first = out.path().join("1.focus.manifest.json");
    let kept = std::fs::read(&first).unwrap();
    std::fs::remove_file(&first).unwrap();
    assert!(check().problems[0].contains("are in neither"), "{:?}", check().problems);
    std::fs::write(&first, kept).unwrap();
    let path = out.path().join("1.focus");
    let changed = std::fs::read_to_string(&path).unwrap().replacen("key_1", "key_0", 1);
    std::fs::write(&path, changed).unwrap();
    assert!(check().problems[0].contains("SHA-256 differs"), "{:?}", check().problems);
    write(1, Format::Focus);
    let whole = out.path().join("0-again.focus");
    export_to_file(dir.path(), &asked(Format::Focus, hour(0), &reports), &whole).unwrap();
    assert!(check().problems[0].contains("are in both"), "{:?}", check().problems);
}

fn paid(id: &str, amount: i64) -> Credit {
    Credit {
        id: id.to_owned(),
        org_id: "org_1".to_owned(),
        kind: CreditKind::Grant,
        amount: Picos(amount),
        expires_ms: None,
        note: "paid".to_owned(),
        lease: None,
        at_ms: 3_000,
    }
}

#[tokio::test]
async fn what_a_lease_gave_back_is_on_the_statement() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    ledger.hold(request("a", 5_000)).await.unwrap();
    ledger.settle(settlement("a", tokens(5, 0, 0))).await.unwrap();
    let month = Period { from_ms: 0, to_ms: 31 * 86_400_000 };
    let asked = statement::Request { org_id: "org_1", org_name: "acme", month, provider: "spare" };
    let page = || statement::statement(dir.path(), &asked).unwrap();
    assert!(!page().0.contains("given back"), "nothing was");
    for (id, lease, amount) in
        [("g1", "lease_1", 250_000_000_000), ("g2", "lease_1", 1), ("g3", "lease_2", 500_000_000_000)]
    {
        let about = LeaseCredit {
            project_id: "proj_1".to_owned(),
            key_id: "key_1".to_owned(),
            price: price(),
            details: details(),
            hour_ms: 0,
        };
        let lease_credit = Some(Box::new(about));
        let credit = Credit { lease: lease_credit, note: lease.to_owned(), ..paid(id, amount) };
        ledger.credit(credit).await.unwrap();
    }
    // What is paid in is no rebate.
    ledger.credit(paid("paid", 7_000_000_000_000)).await.unwrap();
    let (page, total) = page();
    assert_eq!(total, Picos(500), "what was used stays the total");
    for text in ["What was given back", "lease_1", ">0.250000000001<", ">0.500000000000<", ">0.750000000001<"]
    {
        assert!(page.contains(text), "{text}\n{page}");
    }
    closed_and_balanced(&ledger, dir.path());
}
