//! All keys in memory, reread when the database says that another connection changed it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rusqlite::{Connection, Row, TransactionBehavior};

use super::secret::{Digest, Pepper};
use super::{AccountsError, AuthError, Budgets, Identity, schema, store};
use crate::config::{BudgetScope, make_private_dir};
use crate::money::Picos;

/// How long a change by another process may stay unseen.
const POLL_MS: u64 = 250;
/// The same for a key that is not known yet: always asked, one pragma each, so that a key just made works at once.
const UNKNOWN_POLL_MS: u64 = 0;

pub(super) type BudgetRules = HashMap<(BudgetScope, String), Picos>;

struct Entry {
    identity: Arc<Identity>,
    expires_ms: Option<u64>,
    revoked: bool,
    org_disabled: bool,
}

#[derive(Default)]
struct Snapshot {
    keys: HashMap<Digest, Entry>,
    data_version: i64,
    /// When the database was last asked; `None` where the answer was an error.
    checked_ms: Option<u64>,
}

pub(super) struct Inner {
    pub(super) pepper: Pepper,
    budgets: BudgetRules,
    db: Mutex<Connection>,
    snapshot: RwLock<Snapshot>,
}

impl Inner {
    pub(super) fn open(dir: &Path, budgets: BudgetRules) -> Result<Self, AccountsError> {
        make_private_dir(dir)
            .map_err(|source| AccountsError::Io { path: dir.display().to_string(), source })?;
        let pepper = Pepper::open(dir)?;
        let db = schema::open(dir, &pepper)?;
        let inner = Self { pepper, budgets, db: Mutex::new(db), snapshot: RwLock::default() };
        inner.reload(&inner.lock(), None)?;
        Ok(inner)
    }

    /// Runs `work` in one transaction and rereads the keys.
    pub(super) fn change<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, AccountsError>,
    ) -> Result<T, AccountsError> {
        let mut db = self.lock();
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let result = work(&tx)?;
        tx.commit()?;
        self.reload(&db, None)?;
        Ok(result)
    }

    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, AccountsError>,
    ) -> Result<T, AccountsError> {
        work(&self.lock())
    }

    pub(super) fn authenticate(&self, secret: &str, now_ms: u64) -> Result<Arc<Identity>, AuthError> {
        self.refresh(now_ms, POLL_MS)?;
        // Found by its keyed hash: how long the search takes says nothing about any stored key.
        let mac = self.pepper.mac(secret);
        if !self.knows(&mac) {
            self.refresh(now_ms, UNKNOWN_POLL_MS)?;
        }
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        let entry = snapshot.keys.get(&mac).ok_or(AuthError::Unknown)?;
        if entry.revoked {
            Err(AuthError::Revoked)
        } else if entry.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms) {
            Err(AuthError::Expired)
        } else if entry.org_disabled {
            Err(AuthError::OrgDisabled)
        } else {
            Ok(entry.identity.clone())
        }
    }

    /// Asks the database for changes where the last answer is too old; a database that does not answer lets nobody in.
    fn refresh(&self, now_ms: u64, poll_ms: u64) -> Result<(), AuthError> {
        if self.is_fresh(now_ms, poll_ms) {
            return Ok(());
        }
        let db = self.lock();
        // Another caller may have asked while this one waited.
        if self.is_fresh(now_ms, poll_ms) {
            return Ok(());
        }
        let asked = data_version(&db).map_err(AccountsError::from).and_then(|version| {
            let mut snapshot = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
            if snapshot.data_version == version {
                snapshot.checked_ms = Some(now_ms);
                return Ok(());
            }
            drop(snapshot);
            self.reload(&db, Some(now_ms))
        });
        asked.map_err(|error| {
            tracing::error!(%error, "accounts cannot be read");
            AuthError::Unavailable
        })
    }

    fn knows(&self, mac: &Digest) -> bool {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).keys.contains_key(mac)
    }

    /// Also false where the clock went back.
    fn is_fresh(&self, now_ms: u64, poll_ms: u64) -> bool {
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        snapshot.checked_ms.is_some_and(|at| now_ms.checked_sub(at).is_some_and(|age| age < poll_ms))
    }

    fn reload(&self, db: &Connection, now_ms: Option<u64>) -> Result<(), AccountsError> {
        // The version first: a change between the two reads is then seen again, never missed.
        let data_version = data_version(db)?;
        let mut statement = db.prepare_cached(
            "SELECT k.mac, k.id, k.name, p.id, p.name, o.id, o.name, k.budget_picos, k.expires_ms,
                    k.revoked_ms IS NOT NULL, o.disabled_ms IS NOT NULL,
                    k.requests_per_minute, k.tokens_per_minute, k.concurrency,
                    p.requests_per_minute, p.tokens_per_minute, p.concurrency
             FROM keys k JOIN projects p ON p.id = k.project_id JOIN orgs o ON o.id = p.org_id",
        )?;
        let rows = statement.query_map([], |row| self.entry(row))?;
        let keys = rows.collect::<rusqlite::Result<_>>()?;
        let mut snapshot = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        *snapshot = Snapshot { keys, data_version, checked_ms: now_ms };
        Ok(())
    }

    fn entry(&self, row: &Row<'_>) -> rusqlite::Result<(Digest, Entry)> {
        let mut identity = Identity {
            key_id: row.get(1)?,
            key_name: row.get(2)?,
            project_id: row.get(3)?,
            project_name: row.get(4)?,
            org_id: row.get(5)?,
            org_name: row.get(6)?,
            limits: store::limits(row, 11)?,
            project_limits: store::limits(row, 14)?,
            budgets: Budgets { key: row.get::<_, Option<i64>>(7)?.map(Picos), ..Budgets::default() },
        };
        let rule = |scope, name: String| self.budgets.get(&(scope, name)).copied();
        let configured = rule(BudgetScope::Key, identity.key_id.clone());
        identity.budgets = Budgets {
            key: [identity.budgets.key, configured].into_iter().flatten().min(),
            project: rule(BudgetScope::Project, format!("{}/{}", identity.org_name, identity.project_name)),
            org: rule(BudgetScope::Organisation, identity.org_name.clone()),
        };
        let entry = Entry {
            identity: Arc::new(identity),
            expires_ms: row.get(8)?,
            revoked: row.get(9)?,
            org_disabled: row.get(10)?,
        };
        Ok((row.get(0)?, entry))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic while holding the lock leaves at worst an open transaction, which its guard has rolled back.
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn data_version(db: &Connection) -> rusqlite::Result<i64> {
    db.pragma_query_value(None, "data_version", |row| row.get(0))
}
