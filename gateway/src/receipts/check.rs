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

/// Checks every line of `file` - a receipt, or an answer that has one as `receipt` - against the ledger in `dir`.
pub fn check_file(dir: &Path, file: &Path) -> Result<Checked, ReceiptError> {
    let io = |source| ReceiptError::Io { path: file.display().to_string(), source };
    let signer = Signer::open(dir)?;
    let ledger = Evidences::open(dir)?;
    let mut checked = Checked::default();
    for (at, line) in BufReader::new(File::open(file).map_err(io)?).lines().enumerate() {
        let line = line.map_err(io)?;
        if line.trim().is_empty() {
            continue;
        }
        checked.receipts += 1;
        if let Err(problem) = check_line(&signer, &ledger, &line)? {
            checked.problems.push(format!("line {}: {problem}", at + 1));
        }
    }
    Ok(checked)
}

fn check_line(signer: &Signer, ledger: &Evidences, line: &str) -> Result<Result<(), String>, ReceiptError> {
    let mut value: Value = match serde_json::from_str(line) {
        Ok(value) => value,
        Err(error) => return Ok(Err(format!("not JSON: {error}"))),
    };
    let value = value.get_mut("receipt").map(Value::take).unwrap_or(value);
    let receipt: Receipt = match serde_json::from_value(value) {
        Ok(receipt) => receipt,
        Err(error) => return Ok(Err(format!("no receipt: {error}"))),
    };
    let is_signed = receipt.is_signed_by(&signer.key.verifying_key());
    let Some(evidence) = ledger.find(&receipt.request_id)? else {
        return Ok(Err(format!("the ledger has no settled request {:?}", receipt.request_id)));
    };
    let expected = signer.sign(evidence);
    let names = differing(&receipt, &expected);
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
