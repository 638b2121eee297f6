//! A customer's receipts against the ledger.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::Value;

use super::{Receipt, ReceiptError, Signer};
use crate::ledger::Evidences;

/// What was found in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Lines with a receipt.
    pub receipts: u64,
    /// What is wrong, with the line.
    pub problems: Vec<String>,
}

/// Checks the receipts in `file` against the ledger in `dir`. A line is a receipt, or an answer or event that has one; of
/// a recorded stream (`data: ...`) those that have none are passed over.
pub fn check_file(dir: &Path, file: &Path) -> Result<Checked, ReceiptError> {
    let io = |source| ReceiptError::Io { path: file.display().to_string(), source };
    let signer = Signer::open(dir)?;
    let ledger = Evidences::open(dir)?;
    let mut checked = Checked::default();
    for (at, line) in BufReader::new(File::open(file).map_err(io)?).lines().enumerate() {
        let line = line.map_err(io)?;
        let found = match find(&line) {
            Found::Nothing => continue,
            Found::Receipt(receipt) => check(&signer, &ledger, &receipt)?,
            Found::Bad(problem) => Err(problem),
        };
        checked.receipts += 1;
        if let Err(problem) = found {
            checked.problems.push(format!("line {}: {problem}", at + 1));
        }
    }
    Ok(checked)
}

/// What a line holds.
enum Found {
    Nothing,
    Receipt(Box<Receipt>),
    Bad(String),
}

/// Looks at the places where answers and events carry a receipt.
fn find(line: &str) -> Found {
    let line = line.trim();
    let event = line.strip_prefix("data:");
    // The other fields of an event stream, comments, and what ends it.
    let is_other = ["event:", "id:", "retry:", ":"].iter().any(|start| line.starts_with(start));
    if line.is_empty() || is_other || event.is_some_and(|data| data.trim() == "[DONE]") {
        return Found::Nothing;
    }
    let mut value: Value = match serde_json::from_str(event.unwrap_or(line)) {
        Ok(value) => value,
        Err(error) => return Found::Bad(format!("not JSON: {error}")),
    };
    let carried = ["/receipt", "/response/receipt"].into_iter().find_map(|place| {
        let found = value.pointer_mut(place).map(Value::take);
        found.filter(|found| !found.is_null())
    });
    match (carried, event) {
        (None, Some(_)) => Found::Nothing,
        (carried, _) => match serde_json::from_value(carried.unwrap_or(value)) {
            Ok(receipt) => Found::Receipt(receipt),
            Err(error) => Found::Bad(format!("no receipt: {error}")),
        },
    }
}

fn check(signer: &Signer, ledger: &Evidences, receipt: &Receipt) -> Result<Result<(), String>, ReceiptError> {
    let is_signed = receipt.is_signed_by(&signer.key.verifying_key());
    let Some(evidence) = ledger.find(&receipt.request_id)? else {
        return Ok(Err(format!("the ledger has no settled request {:?}", receipt.request_id)));
    };
    let expected = signer.sign(evidence);
    let names = differing(receipt, &expected);
    Ok(match (names.is_empty(), is_signed) {
        (true, true) => Ok(()),
        (true, false) => Err("the signature is not ours".to_owned()),
        (false, true) => Err(format!("signed by us, but the ledger has other values: {}", names.join(", "))),
        (false, false) => Err(format!("changed after it was signed: {}", names.join(", "))),
    })
}

/// The fields that are not the same, with both values; the signature counts only by itself.
fn differing(receipt: &Receipt, expected: &Receipt) -> Vec<String> {
    let object = |receipt: &Receipt| serde_json::to_value(receipt).unwrap_or_default();
    let (told, true_values) = (object(receipt), object(expected));
    let fields = told.as_object().into_iter().flatten().filter(|(name, _)| *name != "signature");
    fields
        .filter(|(name, value)| true_values.get(name.as_str()) != Some(value))
        .map(|(name, value)| format!("{name} {value} is {}", true_values[name.as_str()]))
        .collect()
}
