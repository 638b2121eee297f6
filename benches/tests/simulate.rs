//! The simulation as an operator runs it.

use std::path::Path;
use std::process::Command;

fn run(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_simulate")).args(arguments).output().expect("run simulate");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Columns of a tier's line.
fn tier(table: &str, name: &str) -> Vec<f64> {
    let line =
        table.lines().find(|line| line.split_whitespace().next() == Some(name)).expect("the tier's line");
    line.split_whitespace().skip(1).map(|word| word.parse().expect("a number")).collect()
}

#[test]
fn a_seed_has_one_report_and_higher_tiers_wait_less() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let svg = folder.join("simulate.svg");
    let arguments = ["--seed", "7", "--seconds", "120", "--svg", svg.to_str().expect("text")];
    let first = run(&arguments);
    assert_eq!(first, run(&arguments));
    assert_ne!(first, run(&["--seed", "8", "--seconds", "120"]));
    let ttft_p99 = |name: &str| tier(&first, name)[5];
    assert!(ttft_p99("internal") < ttft_p99("batch"), "{first}");
    assert!(ttft_p99("default") < ttft_p99("batch"), "{first}");
    assert!(std::fs::read_to_string(&svg).expect("a plot").ends_with("</svg>\n"));
}

#[test]
fn a_trace_is_played_token_by_token() {
    let trace = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trace.csv");
    let text = "at_ms,tier,org,prompt_tokens,output_tokens\n5,flex,b,10,3\n0,default,a,20,4\n";
    std::fs::write(&trace, text).expect("write the trace");
    let mut arguments = vec!["--trace", trace.to_str().expect("text"), "--devices", "2"];
    arguments.extend(["--step-us", "1000", "--prompt-us", "100", "--output-us", "10"]);
    let table = run(&arguments);
    // 1000 + 20 * 100 us to the first token, then 1010 us for each.
    let default = tier(&table, "default");
    assert_eq!(
        (default[0], default[2], default[3], default[4], default[6]),
        (1.0, 20.0, 4.0, 3.0, 1.0),
        "{table}"
    );
    assert_eq!(tier(&table, "flex")[4], 2.0, "the second device is free: {table}");
    assert!((default[7] - (20.0 * 0.1 + 4.0 * 0.4) / 1e6).abs() < 1e-6, "{table}");
    std::fs::write(&trace, text.replace("flex", "gold")).expect("write the trace");
    let refused =
        Command::new(env!("CARGO_BIN_EXE_simulate")).args(&arguments).output().expect("run simulate");
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("line 2"));
}
