//! Recomputing the ledger from its rows, trusting nothing else in it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

mod cursor;

use cursor::EntryCursor;

use super::details::Details;
use super::export::focus::{Focus, lint::Lint};
use super::export::{WITH_CREDITS, each_row};
use super::period::Period;
use super::reader;
use super::row::{Entry, Facts, GENESIS, Hash, Kind, Transfer};
use super::schema::{COLUMNS, GUARDS};
use super::tally::Tally;
use super::types::LedgerError;
use crate::config::Reports;
use crate::money::{Picos, PriceVersion, Tokens};

/// Problems listed by text; beyond that they are only counted.
const MAX_LISTED: usize = 100;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rows.
    pub rows: u64,
    /// Double-entry lines.
    pub entries: u64,
    /// Holds, ended or open.
    pub holds: u64,
    /// Holds that ended billed.
    pub settled: u64,
    /// Holds that ended without cost.
    pub voided: u64,
    /// Holds not ended: requests in flight, or left by a dead process.
    pub open: u64,
    /// Tokens billed.
    pub tokens: u64,
    /// Money billed.
    pub cost: Picos,
    /// Money held by open holds.
    pub held: Picos,
    /// Hash of the last row, in hex; equal heads mean equal ledgers.
    pub head: String,
    /// How many problems there are.
    pub problem_count: u64,
    /// The first hundred of them.
    pub problems: Vec<String>,
}

impl Report {
    /// True where the ledger balances and nothing contradicts anything.
    pub fn is_ok(&self) -> bool {
        self.problem_count == 0
    }

    fn problem(&mut self, text: impl fmt::Display) {
        self.problem_count += 1;
        if self.problems.len() < MAX_LISTED {
            self.problems.push(text.to_string());
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "rows {} (entries {}), head {}", self.rows, self.entries, self.head)?;
        writeln!(
            f,
            "holds {}: {} settled, {} voided, {} open ({} USD held)",
            self.holds, self.settled, self.voided, self.open, self.held
        )?;
        writeln!(f, "billed {} tokens, {} USD", self.tokens, self.cost)?;
        for problem in &self.problems {
            writeln!(f, "problem: {problem}")?;
        }
        match self.problem_count {
            0 => write!(f, "the ledger balances"),
            count => write!(f, "{count} problems"),
        }
    }
}

/// Checks the ledger in `dir`: file, hash chain, double entry, life of every hold, price × tokens, balances, export.
/// Works while a server writes. `Err` only where it cannot be read at all.
pub fn verify(dir: &Path) -> Result<Report, LedgerError> {
    let db = reader::open(dir)?;
    let mut audit = Audit::default();
    audit.check_file(&db)?;
    audit.walk(&db)?;
    audit.check_balances();
    audit.check_checkpoints(&db)?;
    for problem in std::mem::take(&mut audit.tally).problems(&db)? {
        audit.report.problem(problem);
    }
    audit.check_export(&db)?;
    Ok(audit.report)
}

struct Open {
    facts: Arc<Facts>,
    details: Option<Arc<Details>>,
    lease: Option<String>,
    held: i128,
}

#[derive(Default)]
struct Audit {
    report: Report,
    previous: Option<(i64, u64, Hash)>,
    open: HashMap<String, Open>,
    ended: HashSet<String>,
    accounts: HashMap<String, i128>,
    /// Spent and held by organisation, from the rows' own columns.
    orgs: HashMap<String, i128>,
    cost: i128,
    credited: i128,
    /// Given back for leases.
    rebates: i128,
    tokens: u64,
    /// What the next row has to give back, and for which request.
    owed: Option<(String, Picos)>,
    tally: Tally,
}

impl Audit {
    fn check_file(&mut self, db: &Connection) -> Result<(), LedgerError> {
        let mut statement = db.prepare("PRAGMA integrity_check(10)")?;
        let answers: Vec<String> =
            statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        for answer in answers.iter().filter(|answer| *answer != "ok") {
            self.report.problem(format!("file: {answer}"));
        }
        for guard in GUARDS {
            let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND name = ?1";
            if db.query_row(sql, [guard], |row| row.get::<_, i64>(0))? != 1 {
                self.report.problem(format!("trigger {guard} is missing: rows could be changed"));
            }
        }
        Ok(())
    }

    /// All rows in order, each with its entries read beside it.
    fn walk(&mut self, db: &Connection) -> Result<(), LedgerError> {
        let mut lines = db.prepare("SELECT seq, account, amount_picos FROM entries ORDER BY seq, line")?;
        let mut lines = EntryCursor::new(lines.query([])?)?;
        let mut statement = db.prepare(&format!("SELECT {COLUMNS} FROM transfers ORDER BY seq"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let row = reader::transfer(row)?;
            let entries = lines.take(row.seq)?;
            self.check_row(&row, &entries);
            self.check_refund(&row);
            self.tally.observe(&row);
            if !matches!(row.kind, Kind::Grant | Kind::Expire | Kind::Correct | Kind::Refund) {
                self.check_life(&row);
            }
        }
        if let Some((id, owed)) = &self.owed {
            self.report.problem(format!("{owed} USD of request {id:?} are not given back"));
        }
        if let Some((seq, _)) = lines.next {
            self.report.problem(format!("entries of row {seq} have no row"));
        }
        self.report.head = self
            .previous
            .map_or(GENESIS, |(_, _, hash)| hash)
            .iter()
            .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        Ok(())
    }

    fn check_row(&mut self, row: &Transfer, entries: &[Entry]) {
        let (seq, report) = (row.seq, &mut self.report);
        report.rows += 1;
        report.entries += entries.len() as u64;
        let (last_seq, last_ms, last_hash) = self.previous.unwrap_or((0, 0, GENESIS));
        if seq != last_seq + 1 {
            report.problem(format!("row {seq} follows row {last_seq}"));
        }
        if row.at_ms < last_ms {
            report.problem(format!("row {seq} is earlier than the row before it"));
        }
        if row.chained(&last_hash) != row.hash {
            report.problem(format!("row {seq} does not have the hash of its content"));
        }
        self.previous = Some((seq, row.at_ms, row.hash));
        let price = &row.facts.price;
        let named = PriceVersion::new(
            &price.model,
            &price.tier,
            price.effective_from_ms,
            price.uncached_input,
            price.cached_input,
            price.output,
        );
        if named.id != price.id {
            report.problem(format!("row {seq}: price version {} does not name its prices", price.id));
        }
        if price.cost(row.tokens) != Ok(row.cost) {
            report.problem(format!("row {seq}: price x tokens is not the amount {}", row.cost.total));
        }
        if entries.iter().map(|entry| i128::from(entry.amount.0)).sum::<i128>() != 0 {
            report.problem(format!("row {seq}: entries do not add up to zero"));
        }
        if row.entries().as_deref() != Ok(entries) {
            report.problem(format!("row {seq}: entries do not say what the row says"));
        }
        for entry in entries {
            *self.accounts.entry(entry.account.clone()).or_default() += i128::from(entry.amount.0);
        }
        let change = i128::from(row.held.0) - i128::from(row.released.0) + i128::from(row.cost.total.0)
            - i128::from(row.credit.0);
        self.credited += i128::from(row.credit.0);
        if row.facts.is_holding() || row.kind == Kind::Refund {
            self.rebates += i128::from(row.credit.0);
        }
        *self.orgs.entry(row.facts.org_id.clone()).or_default() += change;
    }

    /// A bill that breaks a promised deadline is given back in the next row, and nothing else is.
    fn check_refund(&mut self, row: &Transfer) {
        let owed = self.owed.take();
        let given = (row.kind == Kind::Refund).then(|| (row.request_id.clone(), row.credit));
        if owed != given {
            self.report
                .problem(format!("row {}: owed as a refund was {owed:?}, given is {given:?}", row.seq));
        }
        self.owed = Some((row.request_id.clone(), row.owed())).filter(|(_, owed)| *owed > Picos::ZERO);
    }

    /// A hold comes first and once, extensions while it is open, one end that releases all of it.
    fn check_life(&mut self, row: &Transfer) {
        let (seq, id) = (row.seq, &row.request_id);
        let Self { report, open, ended, .. } = self;
        if row.kind == Kind::Hold {
            report.holds += 1;
            if open.contains_key(id) || ended.contains(id) {
                report.problem(format!("row {seq}: second hold of request {id:?}"));
            }
            let details = row.details.clone();
            let lease = row.note.clone();
            let hold = Open { facts: row.facts.clone(), details, lease, held: row.held.0.into() };
            open.insert(id.clone(), hold);
        } else {
            let Some(hold) = open.get_mut(id) else {
                return report.problem(format!(
                    "row {seq}: {} of request {id:?} without open hold",
                    row.kind.as_str()
                ));
            };
            let keeps_details =
                row.kind != Kind::Settle || (&hold.details, &hold.lease) == (&row.details, &row.note);
            if hold.facts != row.facts || !keeps_details {
                report.problem(format!("row {seq}: request {id:?} has changed its key, price or admission"));
            }
            hold.held += i128::from(row.held.0);
        }
        let ends = matches!(row.kind, Kind::Settle | Kind::Void);
        if !ends
            && (row.released, row.cost.total, row.tokens) != (Picos::ZERO, Picos::ZERO, Tokens::default())
        {
            report.problem(format!("row {seq}: a {} releases or bills", row.kind.as_str()));
        }
        if ends {
            let held = open.remove(id).map_or(0, |hold| hold.held);
            ended.insert(id.clone());
            if i128::from(row.released.0) != held || row.cost.total > row.released || row.held != Picos::ZERO
            {
                report.problem(format!("row {seq}: request {id:?} held {held}, released {}", row.released.0));
            }
        }
        match row.kind {
            Kind::Settle => {
                report.settled += 1;
                self.cost += i128::from(row.cost.total.0);
                self.tokens += row.used();
            }
            Kind::Void => {
                report.voided += 1;
                if row.cost.total != Picos::ZERO || row.tokens != Tokens::default() {
                    report.problem(format!("row {seq}: a void that bills"));
                }
            }
            Kind::Hold | Kind::Extend | Kind::Grant | Kind::Expire | Kind::Correct | Kind::Refund => {}
        }
    }

    /// Accounts rebuilt from entries must equal what the rows' own columns say.
    fn check_balances(&mut self) {
        let total: i128 = self.accounts.values().sum();
        if total != 0 {
            self.report.problem(format!("all entries together are {total}, not zero"));
        }
        let mut by_key: HashMap<&str, i128> = HashMap::new();
        for hold in self.open.values() {
            *by_key.entry(&hold.facts.key_id).or_default() += hold.held;
        }
        let (mut revenue, mut credits) = (0, 0);
        for (account, &balance) in &self.accounts {
            let expected = if account.starts_with("credits:") {
                credits += balance;
                continue;
            } else if let Some(key) = account.strip_prefix("hold:key:") {
                by_key.get(key).copied().unwrap_or(0)
            } else if let Some(org) = account.strip_prefix("customer:") {
                -self.orgs.get(org).copied().unwrap_or(0)
            } else {
                revenue += balance;
                continue;
            };
            if balance != expected {
                self.report.problem(format!("account {account} has {balance}, its requests say {expected}"));
            }
        }
        if -credits != self.credited {
            self.report.problem(format!("credit accounts have {credits}, rows say {}", self.credited));
        }
        if revenue != self.cost {
            self.report.problem(format!("revenue is {revenue}, settled requests say {}", self.cost));
        }
        let held: i128 = self.open.values().map(|hold| hold.held).sum();
        for (what, value) in [("held", held), ("billed", self.cost)] {
            if i64::try_from(value).is_err() {
                self.report.problem(format!("{what} {value} picos are out of range"));
            }
        }
        self.report.open = self.open.len() as u64;
        self.report.held = Picos(i64::try_from(held).unwrap_or(i64::MAX));
        self.report.cost = Picos(i64::try_from(self.cost).unwrap_or(i64::MAX));
        self.report.tokens = self.tokens;
    }

    /// A checkpoint belongs to an open hold, which can pay for it.
    fn check_checkpoints(&mut self, db: &Connection) -> Result<(), LedgerError> {
        let mut statement =
            db.prepare("SELECT request_id, uncached_input, cached_input, output FROM checkpoints")?;
        for noted in statement.query_map([], |row| Ok((row.get::<_, String>(0)?, reader::tokens(row, 1)?)))? {
            let (id, tokens) = noted?;
            let Some(hold) = self.open.get(&id) else {
                self.report.problem(format!("checkpoint of request {id:?}, which has no open hold"));
                continue;
            };
            if !hold.facts.price.cost(tokens).is_ok_and(|cost| i128::from(cost.total.0) <= hold.held) {
                self.report.problem(format!("checkpoint of request {id:?} costs more than is held"));
            }
        }
        Ok(())
    }

    fn check_export(&mut self, db: &Connection) -> Result<(), LedgerError> {
        let reports = Reports::default();
        let (mut focus, mut lint) = (Focus::of(&reports), Lint::default());
        let exported = each_row(db, WITH_CREDITS, Period::ALL, None, |row| {
            if focus.is_past(row) {
                focus.drain(|line| lint.line(line))?;
            }
            Ok(focus.add(row)?)
        });
        match exported {
            Ok(summary) => {
                let found = (summary.requests, summary.tokens, summary.cost);
                let expected = (self.report.settled, self.report.tokens, self.report.cost);
                if found != expected {
                    self.report.problem(format!("the export has {found:?}, the ledger {expected:?}"));
                }
                focus.drain(|line| lint.line(line))?;
                let expected = (i128::from(self.report.tokens), i128::from(self.report.cost.0), self.rebates);
                let found = (lint.tokens, lint.cost, lint.credited);
                if found != expected {
                    self.report.problem(format!("the FOCUS lines have {found:?}, the ledger {expected:?}"));
                }
            }
            Err(error) => self.report.problem(format!("the export fails: {error}")),
        }
        lint.problems.into_iter().for_each(|problem| self.report.problem(problem));
        Ok(())
    }
}
