//! Alerts of budgets: what is to be told, and whether it was.

use rusqlite::{Connection, Row, params};
use sha2::{Digest, Sha256};

use super::{Accounts, AccountsError, Budget};
use crate::money::Picos;

/// Told alerts of periods that ended long ago leave after this time; longer than any period with an end.
const KEEP_MS: u64 = 62 * 86_400_000;

/// A budget has passed a threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// The budget.
    pub budget: Budget,
    /// Begin of the period, Unix milliseconds.
    pub start_ms: u64,
    /// Its end.
    pub end_ms: Option<u64>,
    /// Percent of the limit.
    pub threshold: u32,
    /// What was spent when it was noticed.
    pub spent: Picos,
    /// When it was noticed.
    pub at_ms: u64,
    /// How often it was told in vain.
    pub attempts: u32,
}

impl Alert {
    /// The same for the same budget, period and threshold, on any machine.
    pub fn id(&self) -> String {
        let Budget { scope, id, period, .. } = &self.budget;
        let text = format!("{scope}\n{id}\n{period}\n{}\n{}", self.start_ms, self.threshold);
        let digest = Sha256::digest(text.as_bytes());
        digest.iter().take(12).fold("alert_".to_owned(), |id, byte| format!("{id}{byte:02x}"))
    }
}

impl Accounts {
    /// Notes alerts that are not noted yet.
    pub fn raise_alerts(&self, alerts: &[Alert], now_ms: u64) -> Result<(), AccountsError> {
        if alerts.is_empty() {
            return Ok(());
        }
        self.inner.read(|db| {
            db.execute(
                "DELETE FROM alerts WHERE period <> 'total' AND at_ms < ?1 AND next_ms IS NULL",
                [now_ms.saturating_sub(KEEP_MS)],
            )?;
            alerts.iter().try_for_each(|alert| insert(db, alert))
        })
    }

    /// Alerts to be told now, oldest first.
    pub fn due_alerts(&self, now_ms: u64, limit: usize) -> Result<Vec<Alert>, AccountsError> {
        self.inner.read(|db| due(db, now_ms, limit))
    }

    /// The receiver has taken it.
    pub fn alert_told(&self, alert: &Alert, now_ms: u64) -> Result<(), AccountsError> {
        self.inner.read(|db| update(db, alert, Some(now_ms), None))
    }

    /// It was told in vain; `next_ms`: when to try again, if at all.
    pub fn alert_failed(&self, alert: &Alert, next_ms: Option<u64>) -> Result<(), AccountsError> {
        self.inner.read(|db| update(db, alert, None, next_ms))
    }
}

fn insert(db: &Connection, alert: &Alert) -> Result<(), AccountsError> {
    let Budget { scope, id, period, limit } = &alert.budget;
    db.prepare_cached(
        "INSERT INTO alerts (scope, subject, period, start_ms, threshold, at_ms, end_ms, limit_picos, spent_picos, next_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?6) ON CONFLICT DO NOTHING",
    )?
    .execute(params![
        scope.as_str(),
        id,
        period.as_str(),
        alert.start_ms,
        alert.threshold,
        alert.at_ms,
        alert.end_ms,
        limit.0,
        alert.spent.0
    ])?;
    Ok(())
}

fn due(db: &Connection, now_ms: u64, limit: usize) -> Result<Vec<Alert>, AccountsError> {
    let mut statement = db.prepare_cached(
        "SELECT scope, subject, period, start_ms, threshold, at_ms, end_ms, limit_picos, spent_picos, attempts
         FROM alerts WHERE next_ms <= ?1 ORDER BY next_ms, threshold LIMIT ?2",
    )?;
    let read = |row: &Row<'_>| {
        let names: (String, String) = (row.get(0)?, row.get(2)?);
        let alert = |budget: Budget| -> rusqlite::Result<Alert> {
            Ok(Alert {
                budget,
                start_ms: row.get(3)?,
                threshold: row.get(4)?,
                at_ms: row.get(5)?,
                end_ms: row.get(6)?,
                spent: Picos(row.get(8)?),
                attempts: row.get(9)?,
            })
        };
        let setting = |message| AccountsError::Setting { what: "alerts", message };
        let (id, limit) = (row.get(1)?, Picos(row.get(7)?));
        let budget = match (names.0.parse().map_err(setting), names.1.parse().map_err(setting)) {
            (Ok(scope), Ok(period)) => Budget { scope, id, period, limit },
            (Err(error), _) | (_, Err(error)) => return Ok(Err(error)),
        };
        alert(budget).map(Ok)
    };
    let rows = statement.query_map(params![now_ms, limit], read)?.collect::<rusqlite::Result<Vec<_>>>()?;
    rows.into_iter().collect()
}

fn update(
    db: &Connection,
    alert: &Alert,
    told_ms: Option<u64>,
    next_ms: Option<u64>,
) -> Result<(), AccountsError> {
    let Budget { scope, id, period, .. } = &alert.budget;
    db.prepare_cached(
        "UPDATE alerts SET told_ms = ?6, next_ms = ?7, attempts = attempts + 1
         WHERE scope = ?1 AND subject = ?2 AND period = ?3 AND start_ms = ?4 AND threshold = ?5",
    )?
    .execute(params![
        scope.as_str(),
        id,
        period.as_str(),
        alert.start_ms,
        alert.threshold,
        told_ms,
        next_ms
    ])?;
    Ok(())
}
