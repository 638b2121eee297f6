//! Tells the operator by webhook when a budget passes a threshold.
//!
//! Budgets are compared with the ledger every few seconds. What is to be told is noted in the accounts' database first, once
//! for each budget, period and threshold, and told until the receiver takes it or the attempts are used up; a restart
//! changes nothing. The request follows the Standard Webhooks specification: `webhook-id` is the same in every attempt,
//! `webhook-signature` is `v1,` and the base64 of the HMAC-SHA256 over `id.timestamp.body`.

mod deliver;

pub use deliver::{Hook, HookError, signature};

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::accounts::{Accounts, Alert, Budget};
use crate::ledger::spent_in;
use crate::serving::unix_ms;

/// Alerts told in one round; the others wait for the next.
const MAX_ROUND: usize = 32;

/// Looks at budgets and tells what is new, until it is dropped.
pub async fn watch(hook: Hook, accounts: Accounts, dir: PathBuf) {
    let mut ticks = tokio::time::interval(Duration::from_secs(hook.section.interval_s));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (hook, accounts, dir) = (hook.clone(), accounts.clone(), dir.clone());
        let round = tokio::task::spawn_blocking(move || {
            raise(&hook, &accounts, &dir)?;
            tell(&hook, &accounts)
        });
        match round.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error, "budgets cannot be watched"),
            Err(error) => tracing::error!(%error, "budgets cannot be watched"),
        }
    }
}

/// Notes every threshold that a budget has passed in its present period.
fn raise(hook: &Hook, accounts: &Accounts, dir: &Path) -> Result<(), String> {
    let now = unix_ms();
    let budgets = accounts.all_budgets();
    let periods: Vec<_> = budgets
        .iter()
        .map(|budget| {
            let (start_ms, end_ms) = budget.period.around(now);
            (budget.scope, budget.id.as_str(), end_ms.map(|end_ms| (start_ms, end_ms)))
        })
        .collect();
    let spent = spent_in(dir, &periods).map_err(|error| error.to_string())?;
    let mut passed = Vec::new();
    for (budget, spent) in budgets.iter().zip(spent) {
        let (start_ms, end_ms) = budget.period.around(now);
        for &threshold in
            hook.section.thresholds.iter().filter(|&&percent| has_passed(budget, spent.0, percent))
        {
            let budget = budget.clone();
            passed.push(Alert { budget, start_ms, end_ms, threshold, spent, at_ms: now, attempts: 0 });
        }
    }
    accounts.raise_alerts(&passed, now).map_err(|error| error.to_string())
}

fn has_passed(budget: &Budget, spent: i64, percent: u32) -> bool {
    i128::from(spent) * 100 >= i128::from(budget.limit.0) * i128::from(percent)
}

/// Tells what is due.
fn tell(hook: &Hook, accounts: &Accounts) -> Result<(), String> {
    let failed = |error: crate::accounts::AccountsError| error.to_string();
    for alert in accounts.due_alerts(unix_ms(), MAX_ROUND).map_err(failed)? {
        let now = unix_ms();
        match hook.deliver(&alert, now) {
            Ok(()) => accounts.alert_told(&alert, now).map_err(failed)?,
            Err(reason) => {
                let attempts = alert.attempts + 1;
                let next_ms = (attempts < hook.section.attempts).then(|| now + hook.pause_ms(attempts));
                tracing::warn!(
                    reason,
                    attempts,
                    gives_up = next_ms.is_none(),
                    "a budget alert was not taken"
                );
                accounts.alert_failed(&alert, next_ms).map_err(failed)?;
            }
        }
    }
    Ok(())
}
