//! Opening a database of ours.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Transaction};

/// How long a statement waits for another process; writes take milliseconds, so this is ample.
pub(crate) const BUSY: Duration = Duration::from_secs(5);
/// How often the switch to the write-ahead log is tried, a pause apart: as long as [`BUSY`] in all.
const TRIES: u32 = 500;
const PAUSE: Duration = Duration::from_millis(10);

/// Opens or makes the database in `path`, with a write-ahead log.
pub(crate) fn open(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(BUSY)?;
    // SQLite does not wait for a lock here, so processes that start together try again.
    for _ in 1..TRIES {
        match db.pragma_update(None, "journal_mode", "WAL") {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                std::thread::sleep(PAUSE);
            }
            result => return result.map(|()| db),
        }
    }
    db.pragma_update(None, "journal_mode", "WAL").map(|()| db)
}

/// Makes `tables` in a database without a version; of another `version` than this, it gives the one that was found.
pub(crate) fn make(tx: &Transaction<'_>, tables: &str, version: i64) -> rusqlite::Result<Result<(), i64>> {
    let found: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found == 0 {
        tx.execute_batch(tables)?;
        tx.pragma_update(None, "user_version", version)?;
    }
    Ok(if found == 0 || found == version { Ok(()) } else { Err(found) })
}

/// Takes a database to the version that `steps` end at: one of version n gets the steps from n on. Of a version beyond them,
/// it gives the one that was found.
pub(crate) fn migrate(tx: &Transaction<'_>, steps: &[&str]) -> rusqlite::Result<Result<(), i64>> {
    let found: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Some(missing) = usize::try_from(found).ok().and_then(|found| steps.get(found..)) else {
        return Ok(Err(found));
    };
    missing.iter().try_for_each(|step| tx.execute_batch(step))?;
    tx.pragma_update(None, "user_version", steps.len() as i64).map(Ok)
}
