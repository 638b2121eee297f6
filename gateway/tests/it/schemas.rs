//! Answers that were asked for in a schema's form, held against the schema by a validator that is not ours.

use std::process::Command;

use crate::sdk::{CLIENTS, printed, run};
use crate::support::{python, said};

/// Schemas that are tried, at least.
const LEAST: u64 = 200;
/// Answers that may be cut by their limit: one in this many, for a small model likes to repeat itself. A cut answer is
/// only known to begin as JSON does.
const ONE_CUT_IN: u64 = 10;

#[test]
fn answers_are_valid_by_an_independent_validator() {
    let (server, output) = run(Command::new(python()).arg(format!("{CLIENTS}/python/test_schemas.py")));
    println!("{}", said(&output));
    assert!(output.status.success(), "the script failed:\n{}\n{}", said(&output), server.printed());
    let counts = printed(&output, "schemas ").pop().expect("the counts");
    let count = |name: &str| counts[name].as_u64().expect("a count");
    assert!(count("schemas") >= LEAST, "{counts}");
    assert_eq!(count("whole") + count("cut"), count("schemas"), "{counts}");
    assert!(count("cut") * ONE_CUT_IN <= count("schemas"), "{counts}");
    server.verify();
}
