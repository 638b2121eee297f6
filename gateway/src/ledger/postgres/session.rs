//! Sessions with the server: how they are made, and what their failures mean.

use std::time::Duration;

use postgres::{Client, NoTls};

use super::super::store::{StoreError, StoreResult};
use super::super::types::LedgerError;
use super::rows::get;
use super::schema;

/// Tells our advisory locks from those of others in the same database.
pub(super) const LOCKS: i64 = 0x5350_494c << 32;
/// Silence after which a connection counts as broken.
const PATIENCE: Duration = Duration::from_secs(10);

impl From<postgres::Error> for StoreError {
    fn from(error: postgres::Error) -> Self {
        // Its own text is only the kind of the error.
        let detail = error.as_db_error().map(|detail| format!(": {}", detail.message()));
        StoreError(format!("{error}{}", detail.unwrap_or_default()))
    }
}

/// Whether the server has refused a statement and goes on, so that the transaction was surely not committed.
pub(super) fn is_answer(error: &postgres::Error) -> bool {
    error.as_db_error().is_some_and(|refusal| refusal.severity() == "ERROR")
}

pub(super) fn connect(url: &str) -> StoreResult<Client> {
    let mut config: postgres::Config = url.parse()?;
    config.connect_timeout(PATIENCE).keepalives_idle(PATIENCE).tcp_user_timeout(PATIENCE);
    let mut client = config.connect(NoTls)?;
    // A gateway that stands still in the middle of a transaction must not stop the others for ever.
    client.batch_execute("SET idle_in_transaction_session_timeout = '10s'")?;
    // Asked back: without these an answered commit would not be durable.
    for setting in ["synchronous_commit", "fsync"] {
        let row = client.query_one("SELECT current_setting($1)", &[&setting])?;
        let value: String = get(&row, 0)?;
        if !["on", "remote_apply"].contains(&value.as_str()) {
            return Err(StoreError(format!("{setting} is {value:?}, needed is \"on\"")));
        }
    }
    Ok(client)
}

pub(super) fn migrate(client: &mut Client) -> Result<(), LedgerError> {
    let failed = |error: postgres::Error| LedgerError::from(StoreError::from(error));
    let mut transaction = client.transaction().map_err(failed)?;
    // Gateways that start together take turns.
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&(LOCKS - 1)]).map_err(failed)?;
    let sql = "SELECT 1 FROM information_schema.tables WHERE table_schema = current_schema AND table_name = 'ledger_version'";
    let found: i64 = match transaction.query_opt(sql, &[]).map_err(failed)? {
        None => 0,
        Some(_) => {
            let row = transaction.query_one("SELECT version FROM ledger_version", &[]).map_err(failed)?;
            get(&row, 0)?
        }
    };
    let steps = usize::try_from(found).ok().and_then(|found| schema::STEPS.get(found..));
    for step in steps.ok_or(LedgerError::Schema { found, known: schema::VERSION })? {
        transaction.batch_execute(step).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}
