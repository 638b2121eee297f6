//! The ledger's own tests once more, over PostgreSQL: the very files that are its unit tests over SQLite.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};
use std::thread;

use gateway::accounts::Budget;
use gateway::civil::{DAY_MS, HOUR_MS};
use gateway::config::LedgerSection;
use gateway::ledger::copy::Place;
use gateway::ledger::{
    BudgetPeriod, BudgetScope, BudgetShortage, Credit, CreditKind, CreditShortage, Details, EndReason,
    HoldError, HoldRequest, Ledger, LedgerError, Settlement, Tags, Timings, Tokens, verify,
};
use gateway::money::{Picos, PriceVersion};

use crate::fleet_ledger::verified;
use crate::support::{data_folder, database, eventually, number};

#[cfg(test)]
#[path = "../../src/ledger/tests/budgets.rs"]
mod budgets;
#[cfg(test)]
#[path = "../../src/ledger/tests/credits.rs"]
mod credits;
#[path = "../../src/ledger/tests/kit.rs"]
mod kit;
#[path = "../../src/ledger/tests/lives.rs"]
mod lives;
#[cfg(test)]
#[path = "../../src/ledger/tests/properties.rs"]
mod properties;

use kit::*;

/// A database of its own for each case takes its time.
const SHARE: u32 = 8;

/// Sessions of a ledger that hold it open.
const SESSIONS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
                        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// The database that stands for the ledger in `dir`.
fn url_of(dir: &Path) -> String {
    static URLS: LazyLock<Mutex<HashMap<PathBuf, String>>> = LazyLock::new(Mutex::default);
    URLS.lock().expect("no test panics here").entry(dir.to_owned()).or_insert_with(database).clone()
}

/// Does `work` on a thread that runs no futures, as the database's client must be.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

fn open(dir: &Path) -> Ledger {
    open_as(dir, &LedgerSection::default(), 5_000)
}

/// Opens a ledger that nobody else has open.
fn open_as(dir: &Path, options: &LedgerSection, now_ms: u64) -> Ledger {
    apart(|| {
        let url = url_of(dir);
        // A session that was just dropped is known to have ended a moment later.
        eventually("the session before has ended", || number(&url, SESSIONS) == 0);
        Ledger::open_shared(&url, options, now_ms, &|_| Ok(None)).expect("the ledger opens")
    })
}

/// Closes the ledger and demands that it balances.
fn closed_and_balanced(ledger: &Ledger, dir: &Path) -> verify::Report {
    ledger.close();
    balanced(dir)
}

/// What is found in a copy of it.
fn balanced(dir: &Path) -> verify::Report {
    let place = Place::Postgres(apart(|| url_of(dir)));
    let copy = data_folder();
    apart(|| verified(&place, copy.path()).0)
}
