//! What a server does from time to time.

use std::sync::Arc;
use std::time::Duration;

use super::{Serving, unix_ms};
use crate::accounts::{Accounts, AccountsError, CreditOrder};
use crate::ledger::{Credit, Ledger, LedgerError};

/// How long an order of another process may wait for the ledger.
const TICK: Duration = Duration::from_secs(1);
/// Ticks between the rarer jobs.
const SLOW_EVERY: u32 = 60;

/// Bills leases, posts the credit that other processes ordered and takes over their prices, each second; writes down when keys were
/// used and ends expired credit, each minute. Never returns.
pub async fn upkeep(serving: Arc<Serving>, accounts: Accounts) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut known_prices = None;
    for turn in 0_u32.. {
        ticks.tick().await;
        if let Some(leases) = &serving.leases
            && let Err(error) = leases.keep(&serving.ledger, unix_ms()).await
        {
            tracing::error!(%error, "the money of leases cannot be kept");
        }
        if let Err(error) = post_credits(&accounts, &serving.ledger).await {
            tracing::error!(error, "credit cannot be posted");
        }
        match blocking(&accounts, Accounts::list_prices).await {
            // A version is never changed, so their number says whether there is a new one.
            Ok(added) if known_prices != Some(added.len()) => {
                known_prices = Some(added.len());
                if let Err(error) = serving.rates.set_added(&added) {
                    tracing::error!(%error, "an added price cannot be used");
                }
            }
            Ok(_) => {}
            Err(error) => tracing::error!(error, "prices cannot be read"),
        }
        if turn % SLOW_EVERY == 0 {
            serving.ledger.expire_credit(unix_ms());
            if let Err(error) = blocking(&accounts, Accounts::save_last_used).await {
                tracing::error!(error, "the last use of keys cannot be written");
            }
        }
    }
}

/// Posts every order that waits, oldest first.
pub async fn post_credits(accounts: &Accounts, ledger: &Ledger) -> Result<(), String> {
    for order in blocking(accounts, Accounts::waiting_credits).await? {
        post_credit(accounts, ledger, order).await?;
    }
    Ok(())
}

/// Posts one order. The ledger knows it by its id, so it counts once whoever posts it, and however often.
async fn post_credit(accounts: &Accounts, ledger: &Ledger, order: CreditOrder) -> Result<(), String> {
    let CreditOrder { id, org_id, kind, amount, expires_ms, note, .. } = order;
    let credit =
        Credit { id: id.clone(), org_id, kind, amount, expires_ms, note, lease: None, at_ms: unix_ms() };
    let outcome = match ledger.credit(credit).await {
        Ok(seq) => Ok(seq),
        Err(LedgerError::Invalid(reason)) => Err(reason),
        Err(error) => return Err(error.to_string()),
    };
    blocking(accounts, move |accounts| {
        accounts.finish_credit(&id, outcome.as_ref().copied().map_err(String::as_str))
    })
    .await
}

async fn blocking<T: Send + 'static>(
    accounts: &Accounts,
    work: impl FnOnce(&Accounts) -> Result<T, AccountsError> + Send + 'static,
) -> Result<T, String> {
    let accounts = accounts.clone();
    match tokio::task::spawn_blocking(move || work(&accounts)).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
