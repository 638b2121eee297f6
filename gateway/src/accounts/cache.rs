//! All keys in memory, reread when the database says that another connection changed it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rusqlite::{Connection, Row, TransactionBehavior, params};

use super::budgets::{self, Budget, Rules};
use super::secret::{Digest, Pepper};
use super::{AccountsError, AuthError, Identity, schema, store};
use crate::config::{Allowance, make_private_dir};
use crate::money::Picos;

/// How long a change by another process may stay unseen.
const POLL_MS: u64 = 250;
/// The same for a key that is not known yet: always asked, one pragma each, so that a key just made works at once.
const UNKNOWN_POLL_MS: u64 = 0;

/// Uses of a key closer together than this are one.
const USE_MS: u64 = 60_000;

struct Entry {
    identity: Arc<Identity>,
    expires_ms: Option<u64>,
    revoked: bool,
    archived: bool,
    org_disabled: bool,
    last_used_ms: AtomicU64,
}

impl Entry {
    /// Whether the key works.
    fn check(&self, now_ms: u64) -> Result<(), AuthError> {
        if self.revoked {
            Err(AuthError::Revoked)
        } else if self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms) {
            Err(AuthError::Expired)
        } else if self.org_disabled {
            Err(AuthError::OrgDisabled)
        } else if self.archived {
            Err(AuthError::ProjectArchived)
        } else {
            Ok(())
        }
    }
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
    /// Budgets of the configuration.
    configured: Rules,
    db: Mutex<Connection>,
    /// Ids of keys, of customers and admins, whose last use is not written down yet.
    used: Mutex<HashMap<String, u64>>,
    snapshot: RwLock<Snapshot>,
}

impl Inner {
    pub(super) fn open(dir: &Path, configured: Rules) -> Result<Self, AccountsError> {
        make_private_dir(dir)
            .map_err(|source| AccountsError::Io { path: dir.display().to_string(), source })?;
        let pepper = Pepper::open(dir)?;
        let db = schema::open(dir, &pepper)?;
        let (db, used) = (Mutex::new(db), Mutex::default());
        let inner = Self { pepper, configured, db, used, snapshot: RwLock::default() };
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
        entry.check(now_ms)?;
        let last = entry.last_used_ms.load(Ordering::Relaxed);
        if now_ms.abs_diff(last) >= USE_MS {
            entry.last_used_ms.store(now_ms, Ordering::Relaxed);
            self.note_use(&entry.identity.key_id, now_ms);
        }
        Ok(entry.identity.clone())
    }

    /// The identity behind a key's id, for work that goes on after its request.
    pub(super) fn identity(&self, key_id: &str, now_ms: u64) -> Result<Arc<Identity>, AuthError> {
        self.refresh(now_ms, POLL_MS)?;
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        let mut entries = snapshot.keys.values();
        let entry = entries.find(|entry| entry.identity.key_id == key_id).ok_or(AuthError::Unknown)?;
        entry.check(now_ms)?;
        Ok(entry.identity.clone())
    }

    /// To be written down later, once for many uses.
    pub(super) fn note_use(&self, id: &str, now_ms: u64) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), now_ms);
    }

    pub(super) fn save_last_used(&self) -> Result<(), AccountsError> {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return Ok(());
        }
        let mut db = self.lock();
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (id, now_ms) in used {
            let at = i64::try_from(now_ms).unwrap_or(i64::MAX);
            for table in ["keys", "admin_keys"] {
                tx.execute(&format!("UPDATE {table} SET last_used_ms = ?2 WHERE id = ?1"), params![id, at])?;
            }
        }
        Ok(tx.commit()?)
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

    pub(super) fn all_budgets(&self) -> Vec<Budget> {
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        let working = snapshot.keys.values().filter(|entry| !entry.revoked && !entry.archived);
        let mut all: Vec<Budget> = working.flat_map(|entry| entry.identity.named_budgets()).collect();
        all.sort_by(|a, b| (a.scope, &a.id, a.period, a.limit).cmp(&(b.scope, &b.id, b.period, b.limit)));
        // Of several limits the least is the one that holds.
        all.dedup_by(|b, a| (a.scope, &a.id, a.period) == (b.scope, &b.id, b.period));
        all
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
        let mut stored = Rules::default();
        for budget in store::budgets::list_budgets(db)? {
            let allowance = Allowance { period: budget.period, limit: budget.limit };
            stored.add(budget.scope, budget.id, allowance);
        }
        let mut statement = db.prepare_cached(
            "SELECT k.mac, k.id, k.name, p.id, p.name, o.id, o.name, k.expires_ms,
                    k.revoked_ms IS NOT NULL, o.disabled_ms IS NOT NULL,
                    k.requests_per_minute, k.tokens_per_minute, k.concurrency,
                    p.requests_per_minute, p.tokens_per_minute, p.concurrency,
                    p.allowed_tiers, p.default_tier, p.allowed_models, p.store_responses,
                    k.permissions, k.allowed_models, k.allowed_ips, o.credit_line_picos,
                    coalesce(k.last_used_ms, 0), p.archived_ms IS NOT NULL
             FROM keys k JOIN projects p ON p.id = k.project_id JOIN orgs o ON o.id = p.org_id",
        )?;
        let rows = statement.query_map([], |row| self.entry(row, &stored))?;
        let keys = rows.collect::<rusqlite::Result<_>>()?;
        let mut snapshot = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        *snapshot = Snapshot { keys, data_version, checked_ms: now_ms };
        Ok(())
    }

    fn entry(&self, row: &Row<'_>, stored: &Rules) -> rusqlite::Result<(Digest, Entry)> {
        let mut identity = Identity {
            key_id: row.get(1)?,
            key_name: row.get(2)?,
            project_id: row.get(3)?,
            project_name: row.get(4)?,
            org_id: row.get(5)?,
            org_name: row.get(6)?,
            limits: store::limits(row, 10)?,
            project_limits: store::limits(row, 13)?,
            project: store::orgs::settings(row, 16)?,
            permissions: store::list(row, 20)?,
            allowed_models: store::strings(row, 21)?,
            allowed_ips: store::list(row, 22)?.unwrap_or_default(),
            credit_line: row.get::<_, Option<i64>>(23)?.map(Picos),
            ..Identity::default()
        };
        budgets::resolve(&mut identity, &self.configured, stored);
        let entry = Entry {
            identity: Arc::new(identity),
            expires_ms: row.get(7)?,
            revoked: row.get(8)?,
            archived: row.get(25)?,
            org_disabled: row.get(9)?,
            last_used_ms: AtomicU64::new(row.get(24)?),
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
