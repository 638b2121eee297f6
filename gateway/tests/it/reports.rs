//! Reports and exports of a real server's ledger, and the official validator on them.

use std::collections::{BTreeSet, HashMap};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Config, KeyOptions, Server, Totals, chat, focus_python, said};

/// Rules that fail for every line that is right. Both rules on `InvoiceId` are unconditional and contradict each other:
/// one demands null, one forbids it. `CommitmentDiscountStatus` must be null without a commitment, but the rules test
/// that it is not. `CapacityReservationStatus-C-004-C` fires where the reservation is null. The others have these as
/// parts.
pub(crate) const DEFECTS: [&str; 12] = [
    "CapacityReservationStatus-C-000-C",
    "CapacityReservationStatus-C-002-C",
    "CapacityReservationStatus-C-004-C",
    "CommitmentDiscountStatus-C-000-C",
    "CommitmentDiscountStatus-C-002-C",
    "CommitmentDiscountStatus-C-003-C",
    "CommitmentDiscountStatus-C-004-C",
    "CostAndUsage-D-000-M",
    "CostAndUsage-D-002-M",
    "InvoiceId-C-000-O",
    "InvoiceId-C-003-C",
    "InvoiceId-C-004-C",
];

/// A server that has sold to two organisations, with and without tags.
fn sold() -> Server {
    let server = Server::start(&Config::new());
    for (org, project) in [("acme", "search"), ("umbrella", "=labs")] {
        let key = server.key(KeyOptions { org: Some(org), project, ..KeyOptions::default() });
        for (team, max_tokens) in [("blue", 3), ("red", 5), ("blue", 2)] {
            let tags = json!({"team": team, "app": "a, \"b\""});
            let body = chat("Hi", json!({"max_tokens": max_tokens, "metadata": tags, "user": "u-1"}));
            server.chat(&key, &body).ok();
        }
        server.chat(&key, &chat("Tell me more.", json!({"max_tokens": 4}))).ok();
    }
    server
}

fn csv_lines(bytes: &[u8]) -> Vec<HashMap<String, String>> {
    csv::Reader::from_reader(bytes)
        .deserialize()
        .map(|line| line.expect("a line as long as the header"))
        .collect()
}

#[test]
fn focus_lines_pass_the_official_validator_and_add_up() {
    let server = sold();
    let file = server.data().path().join("focus.csv");
    let path = file.to_str().expect("a path");
    let output = server.cli(&["export", "--format", "focus", "--out", path]);
    assert!(output.status.success(), "{}", said(&output));
    let bytes = std::fs::read(&file).expect("the file");
    let lines = csv_lines(&bytes);
    let sum = |name: &str| lines.iter().map(|line| units(&line[name], 12)).sum::<i128>();
    let totals = Totals::of(&server.export());
    assert_eq!(sum("BilledCost"), totals.cost_picos);
    assert_eq!(sum("ConsumedQuantity"), i128::from(totals.prompt + totals.completion) * 1_000_000_000_000);
    for line in &lines {
        let product = units(&line["ContractedUnitPrice"], 6) * units(&line["PricingQuantity"], 6);
        assert_eq!(product, units(&line["ContractedCost"], 12), "{line:?}");
    }
    let tags: BTreeSet<&str> = lines.iter().map(|line| line["Tags"].as_str()).collect();
    let expected = ["", r#"{"app":"a, \"b\"","team":"blue"}"#, r#"{"app":"a, \"b\"","team":"red"}"#];
    assert_eq!(tags, BTreeSet::from(expected));
    let (failed, passed) = official_validator(path);
    let unknown: Vec<_> = failed.iter().filter(|rule| !DEFECTS.contains(&rule.as_str())).collect();
    assert!(unknown.is_empty(), "rules fail that are no known defects of the validator: {unknown:?}");
    assert!(passed >= 350, "only {passed} rules passed");
    let wrong = String::from_utf8(bytes).expect("text").replace(",USD,", ",Dollars,");
    std::fs::write(&file, wrong).expect("write");
    let caught = official_validator(path).0;
    assert!(caught.iter().any(|rule| rule.starts_with("BillingCurrency")), "a planted error: {caught:?}");
}

/// A decimal with a point in units of `places`.
fn units(text: &str, places: usize) -> i128 {
    let (whole, fraction) = text.split_once('.').unwrap_or_else(|| panic!("{text:?} has no point"));
    assert!(fraction.len() <= places, "{text:?} has more than {places} places");
    format!("{whole}{fraction:0<places$}").parse().unwrap_or_else(|e| panic!("{text:?}: {e}"))
}

/// The rules that fail, and how many pass.
pub(crate) fn official_validator(path: &str) -> (Vec<String>, usize) {
    let python = focus_python();
    let site = Command::new(&python)
        .args([
            "-c",
            "import focus_validator, os; print(os.path.dirname(os.path.dirname(focus_validator.__file__)))",
        ])
        .output()
        .expect("run python");
    let site = String::from_utf8(site.stdout).expect("a path").trim().to_owned();
    let report = format!("{path}.xml");
    let output = Command::new(&python)
        .args([
            "-m",
            "focus_validator.main",
            "--data-file",
            path,
            "--validate-version",
            "1.2",
            "--block-download",
        ])
        .args(["--focus-dataset", "CostAndUsage", "--applicability-criteria", "ALL"])
        .args(["--output-type", "unittest", "--output-destination", &report])
        // It looks for its list of currencies below the working directory.
        .current_dir(&site)
        .output()
        .expect("run the validator");
    let xml =
        std::fs::read_to_string(&report).unwrap_or_else(|e| panic!("no report ({e}): {}", said(&output)));
    let (mut failed, mut passed) = (Vec::new(), 0);
    for case in xml.split("<testcase ").skip(1) {
        let name = case.split("name=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        let rule = name.split([' ', ':']).next().unwrap_or_default().to_owned();
        match () {
            () if case.contains("<failure") || case.contains("<error") => failed.push(rule),
            () if case.contains("<skipped") => {}
            () => passed += 1,
        }
    }
    (failed, passed)
}

#[test]
fn a_statement_says_what_the_ledger_says() {
    let server = sold();
    let rows = server.export();
    let month = rows[0].raw["ended_at"].as_str().expect("an instant")[..7].to_owned();
    let file = server.data().path().join("statement.html");
    let path = file.to_str().expect("a path");
    let output = server.cli(&["statement", "--month", &month, "--org", "acme", "--out", path]);
    assert!(output.status.success(), "{}", said(&output));
    let page = std::fs::read_to_string(&file).expect("the file");
    let picos: i128 = rows
        .iter()
        .filter(|row| {
            row.raw["organisation"] == "acme"
                && row.raw["ended_at"].as_str().is_some_and(|at| at.starts_with(&month))
        })
        .map(|row| row.cost_picos)
        .sum();
    let stated = page.split("<strong>").nth(1).and_then(|rest| rest.split(" USD").next()).expect("a total");
    assert_eq!(units(stated, 12), picos, "{stated}");
    assert!(
        page.contains("search")
            && page.contains("search")
            && !page.contains("umbrella")
            && !page.contains("=labs")
    );
    let again = server.cli(&["statement", "--month", &month, "--org", "acme"]);
    assert_eq!(String::from_utf8(again.stdout).expect("text"), page, "the same page each time");
    let unknown = server.cli(&["statement", "--month", "2026-13", "--org", "acme"]);
    assert!(!unknown.status.success() && said(&unknown).contains("2026-13"), "{}", said(&unknown));
}

/// A page of a report, as the customer of `key` sees it.
fn report(server: &Server, key: &str, path: &str) -> Value {
    server.get(path, &[("Authorization", &format!("Bearer {key}"))]).ok()
}

#[test]
fn a_customer_sees_the_usage_and_costs_of_the_own_organisation_at_once() {
    let server = sold();
    let key = server.key(KeyOptions { org: Some("acme"), project: "search", ..KeyOptions::default() });
    let mine: Vec<_> = server.export().into_iter().filter(|row| row.raw["organisation"] == "acme").collect();
    let totals = Totals::of(&mine);
    let page = report(
        &server,
        &key,
        "/v1/organization/usage/completions?start_time=0&limit=31&bucket_width=1d&page=page_1700000000",
    );
    assert_eq!((page["object"].as_str(), page["data"].as_array().map(Vec::len)), (Some("page"), Some(31)));
    // Page by page from the beginning of the month to the end, minute by minute.
    let ended = mine.iter().map(|row| row.raw["ended_at"].as_str().expect("a time")).min().expect("a row");
    let seconds = Command::new("date").args(["-u", "-d", ended, "+%s"]).output().expect("run date");
    let start: u64 = String::from_utf8(seconds.stdout).expect("text").trim().parse().expect("a number");
    let base = format!("start_time={}&end_time={}", start - 60, start + 600);
    let (mut cursor, mut results, mut pages) = (String::new(), Vec::new(), 0);
    loop {
        let query = format!("{base}&bucket_width=1m&limit=4&group_by=model&group_by=user_id{cursor}");
        let page = report(&server, &key, &format!("/v1/organization/usage/completions?{query}"));
        let buckets = page["data"].as_array().expect("buckets").clone();
        results
            .extend(buckets.iter().flat_map(|bucket| bucket["results"].as_array().expect("results").clone()));
        pages += 1;
        let Some(next) = page["next_page"].as_str() else { break };
        assert_eq!(page["has_more"], true);
        cursor = format!("&page={next}");
    }
    assert!(pages > 1);
    let sum =
        |field: &str| results.iter().map(|result| result[field].as_u64().expect("a count")).sum::<u64>();
    let found = (sum("num_model_requests"), sum("input_tokens"), sum("output_tokens"));
    assert_eq!(found, (totals.rows, totals.prompt, totals.completion));
    let users: BTreeSet<_> = results.iter().map(|result| result["user_id"].as_str()).collect();
    assert_eq!(users, BTreeSet::from([None, Some("u-1")]));
    let costs =
        report(&server, &key, &format!("/v1/organization/costs?{base}&bucket_width=1h&group_by[]=line_item"));
    let items: Vec<_> = costs["data"]
        .as_array()
        .expect("buckets")
        .iter()
        .flat_map(|bucket| bucket["results"].as_array().expect("results").clone())
        .collect();
    let picos: i128 = items
        .iter()
        .map(|item| {
            let usd = item["amount"]["value_usd"].as_str().expect("an amount");
            units(if usd.contains('.') { usd.to_owned() } else { format!("{usd}.0") }.as_str(), 12)
        })
        .sum();
    assert_eq!(picos, totals.cost_picos);
    // What a client has seen is in the report: the last row is that of the last request.
    assert!(costs["ledger"]["sequence"].as_i64() >= mine.last().and_then(|row| row.raw["seq"].as_i64()));
    let bearer = format!("Bearer {key}");
    for (query, param) in [("", "start_time"), ("start_time=1&min_sequence=999999", "min_sequence")] {
        let path = format!("/v1/organization/usage/completions?{query}");
        let refused = server.get(&path, &[("Authorization", &bearer)]);
        assert_eq!((refused.status(), refused.json()["error"]["param"].as_str()), (400, Some(param)));
    }
    assert_eq!(server.get("/v1/organization/costs?start_time=0", &[]).status(), 401);
}

#[test]
fn receipts_are_checked_against_the_ledger() {
    let server = Server::start(&Config::new());
    let key = server.key(KeyOptions { org: Some("acme"), project: "p", ..KeyOptions::default() });
    let stranger = server.key(KeyOptions { org: Some("other"), project: "p", ..KeyOptions::default() });
    let body = chat("Hi", json!({"max_tokens": 4})).to_string();
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", bearer.as_str())];
    let mut lines = Vec::new();
    for _ in 0..2 {
        let reply = server.post_raw("/v1/chat/completions", &headers, body.as_bytes());
        let usage = reply.ok()["usage"].clone();
        let id = reply.header("x-request-id").expect("an id").to_owned();
        let receipt = report(&server, &key, &format!("/v1/receipts/{id}"));
        assert_eq!(receipt["output_tokens"], usage["completion_tokens"]);
        assert_eq!(receipt["cost_usd"], usage["cost_usd"]);
        let mut sum = Command::new("sha256sum")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("run sha256sum");
        std::io::Write::write_all(&mut sum.stdin.take().expect("piped"), body.as_bytes()).expect("write");
        let sum = sum.wait_with_output().expect("a hash").stdout;
        assert_eq!(receipt["request_sha256"].as_str(), std::str::from_utf8(&sum[..64]).ok());
        assert_eq!(receipt["weights_sha256"].as_str().map(str::len), Some(64));
        let other =
            server.get(&format!("/v1/receipts/{id}"), &[("Authorization", &format!("Bearer {stranger}"))]);
        assert_eq!((other.status(), other.code().as_str()), (404, "receipt_not_found"));
        lines.push(receipt);
    }
    let keys = server.get("/.well-known/spillway-receipts.json", &[]).ok();
    assert_eq!(keys["data"][0]["id"], lines[0]["signing_key_id"]);
    let file = server.data().path().join("receipts.jsonl");
    let path = file.to_str().expect("a path");
    let check = |lines: &[Value]| {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(&file, text).expect("write");
        server.cli(&["verify", "--receipts", path])
    };
    let good = check(&lines);
    assert!(good.status.success(), "{}", said(&good));
    lines[1]["output_tokens"] = json!(3);
    let bad = check(&lines);
    let text = said(&bad);
    assert!(
        !bad.status.success() && text.contains("line 2") && text.contains("output_tokens 3 is 4"),
        "{text}"
    );
}

#[test]
fn every_format_of_a_closed_hour_is_the_same_for_ever() {
    let server = sold();
    let folder = server.data().path().join("exports");
    std::fs::create_dir(&folder).expect("a folder");
    for format in ["jsonl", "csv", "focus", "focus-parquet", "cloudevents", "stripe"] {
        let customers = ["--stripe-customer", "acme=cus_1", "--stripe-customer", "umbrella=cus_2"];
        let export = |extra: &[&str]| {
            let arguments = [&["export", "--format", format], &customers[..], extra].concat();
            let output = server.cli(&arguments);
            assert!(output.status.success(), "{}", said(&output));
            output.stdout
        };
        let first = export(&[]);
        assert!(!first.is_empty());
        let file = folder.join(format);
        export(&["--out", file.to_str().expect("a path")]);
        assert_eq!(first, std::fs::read(&file).expect("the file"), "{format}");
    }
    let output = server.cli(&["verify", "--exports", folder.to_str().expect("a path")]);
    assert!(output.status.success(), "{}", said(&output));
    let manifest = std::fs::read(folder.join("focus.manifest.json")).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    assert_eq!(manifest["requests"], 8);
    assert_eq!(manifest["ledger"]["first_sequence"], 1);
    std::fs::write(folder.join("csv"), "changed").expect("write");
    assert!(!server.cli(&["verify", "--exports", folder.to_str().expect("a path")]).status.success());
    let unmapped = server.cli(&["export", "--format", "stripe"]);
    assert!(!unmapped.status.success() && said(&unmapped).contains("Stripe customer"), "{}", said(&unmapped));
    let one = server.cli(&["export", "--format", "jsonl", "--org", "acme"]);
    assert_eq!(String::from_utf8_lossy(&one.stdout).lines().count(), 4);
}
