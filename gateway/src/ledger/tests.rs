use std::path::Path;

use super::*;
use crate::accounts::Budget;
use crate::civil::{DAY_MS, HOUR_MS};
use crate::money::PriceVersion;

mod budgets;
mod credits;
mod faults;
mod kit;
mod lives;
mod periods;
mod power;
mod properties;
mod refunds;
mod reports;

use kit::*;

/// Cases of a property for each that is tried on a slower store.
const SHARE: u32 = 1;

fn open(dir: &Path) -> Ledger {
    open_as(dir, &LedgerSection::default(), 5_000)
}

fn open_as(dir: &Path, options: &LedgerSection, now_ms: u64) -> Ledger {
    Ledger::open(dir, options, now_ms).unwrap()
}

/// Closes the ledger and demands that it balances.
fn closed_and_balanced(ledger: &Ledger, dir: &Path) -> verify::Report {
    ledger.close();
    balanced(dir)
}

fn balanced(dir: &Path) -> verify::Report {
    let report = verify::verify(dir).unwrap();
    assert!(report.is_ok(), "{report}");
    report
}

#[tokio::test]
async fn one_writer_many_readers() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(verify::verify(dir.path()), Err(LedgerError::Missing(_))));
    let ledger = open(dir.path());
    ledger.hold(request("a", 1_000)).await.unwrap();
    let second = Ledger::open(dir.path(), &LedgerSection::default(), 0);
    assert!(matches!(second, Err(LedgerError::Locked(_))));
    let report = balanced(dir.path());
    assert_eq!((report.open, report.held), (1, Picos(1_000)));
    drop(ledger);
    let ledger = open(dir.path());
    assert_eq!(*ledger.recovery(), Recovery { settled: 0, voided: 1 });
}
