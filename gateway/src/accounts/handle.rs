//! The handle that everybody works with.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::budgets::{Budget, Rules};
use super::secret::{self, ADMIN_SECRET_PREFIX, SECRET_PREFIX};
use super::store::audit::Note;
use super::types::{
    AdminKeyRow, AuditFilter, AuditRow, CreatedKey, Identity, KeyLimits, KeyRow, Names, NewKey, OrgRow,
    ProjectRow, ProjectSettings,
};
use super::{AccountsError, AuthError, cache, store};
use crate::config::{BudgetPeriod, BudgetRule, BudgetScope};
use crate::money::Picos;

/// Who changes something, and when; for the audit log.
pub(super) struct By<'a> {
    pub(super) actor: &'a str,
    /// Unix milliseconds.
    pub(super) now_ms: u64,
}

/// Handle on the accounts; cheap to clone, safe to share. Calls that touch the disk block for microseconds to
/// milliseconds; [`Accounts::authenticate`] does so at most every 250 ms.
#[derive(Clone)]
pub struct Accounts {
    pub(super) inner: Arc<cache::Inner>,
    actor: Arc<str>,
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").field("actor", &self.actor).finish_non_exhaustive()
    }
}

impl Accounts {
    /// Opens (or makes) the accounts in `dir`.
    pub fn open(dir: &Path) -> Result<Accounts, AccountsError> {
        Self::open_with(dir, &[])
    }

    /// As [`Accounts::open`], with the configuration's budgets; where an account has one of its own for the same period,
    /// the smaller counts.
    pub fn open_with(dir: &Path, budgets: &[BudgetRule]) -> Result<Accounts, AccountsError> {
        let inner = cache::Inner::open(dir, Rules::configured(budgets))?;
        Ok(Self { inner: Arc::new(inner), actor: "cli".into() })
    }

    /// The same accounts for changes by `actor`, as the audit log is to name it; `cli` without this.
    pub fn by(&self, actor: &str) -> Accounts {
        Self { inner: self.inner.clone(), actor: actor.into() }
    }

    pub(super) fn acting(&self, now_ms: u64) -> By<'_> {
        By { actor: &self.actor, now_ms }
    }

    /// Lets a caller in. `secret` is what the client sent, of any length and content.
    pub fn authenticate(&self, secret: &str, now_ms: u64) -> Result<Arc<Identity>, AuthError> {
        if secret.is_empty() {
            return Err(AuthError::Missing);
        }
        if !secret::well_formed(SECRET_PREFIX, secret) {
            return Err(AuthError::Malformed);
        }
        self.inner.authenticate(secret, now_ms)
    }

    /// A secret of this installation for what is sealed for an organisation; `purpose` tells several apart.
    pub fn sealing_key(&self, purpose: &str, org_id: &str) -> [u8; 32] {
        // No key's text has a line break, so none has this code.
        self.inner.pepper.mac(&format!("sealing key\n{purpose}\n{org_id}"))
    }

    /// The caller behind a key's id as things stand now: for work that goes on after the request that began it.
    pub fn identity(&self, key_id: &str, now_ms: u64) -> Result<Arc<Identity>, AuthError> {
        self.inner.identity(key_id, now_ms)
    }

    /// Lets the operator in; for the admin listener.
    pub fn authenticate_admin(&self, secret: &str, now_ms: u64) -> Result<AdminKeyRow, AuthError> {
        if secret.is_empty() {
            return Err(AuthError::Missing);
        }
        if !secret::well_formed(ADMIN_SECRET_PREFIX, secret) {
            return Err(AuthError::Malformed);
        }
        let mac = self.inner.pepper.mac(secret);
        let found = self.inner.read(|db| store::admin_keys::find(db, &mac)).map_err(|error| {
            tracing::error!(%error, "accounts cannot be read");
            AuthError::Unavailable
        })?;
        let key = found.ok_or(AuthError::Unknown)?;
        self.inner.note_use(&key.id, now_ms);
        Ok(key)
    }

    /// Writes down when keys were last used; to be called once a minute.
    pub fn save_last_used(&self) -> Result<(), AccountsError> {
        self.inner.save_last_used()
    }

    /// Makes the organisation and the project where they do not exist.
    pub fn ensure_project(&self, org: &str, project: &str, now_ms: u64) -> Result<(), AccountsError> {
        let by = self.acting(now_ms);
        self.inner.change(|db| store::orgs::ensure_project(db, &by, org, project).map(drop))
    }

    /// Makes a key, and its organisation and project where needed.
    pub fn create_key(&self, new: &NewKey, now_ms: u64) -> Result<CreatedKey, AccountsError> {
        let secret = secret::generate(SECRET_PREFIX)?;
        let mac = self.inner.pepper.mac(&secret);
        let (by, shown) = (self.acting(now_ms), secret::shown(SECRET_PREFIX, &secret));
        let id = self.inner.change(|db| store::keys::insert_key(db, &by, new, &mac, shown))?;
        Ok(CreatedKey { id, secret })
    }

    /// Notes in the audit log what was done to a lease, which is kept elsewhere: `lease.created` or `lease.ended`.
    pub fn note_lease(
        &self,
        event: &'static str,
        lease_id: &str,
        project_id: &str,
        about: serde_json::Value,
        now_ms: u64,
    ) -> Result<(), AccountsError> {
        let by = self.acting(now_ms);
        let (project_id, after) = (Some(project_id), Some(about));
        let note = Note { event, object_id: lease_id, project_id, before: None, after };
        self.inner.change(|db| store::audit::note(db, &by, note))
    }

    /// All keys, oldest first.
    pub fn list_keys(&self) -> Result<Vec<KeyRow>, AccountsError> {
        self.inner.read(store::keys::list_keys)
    }

    /// The key with this id.
    pub fn key(&self, id: &str) -> Result<KeyRow, AccountsError> {
        self.inner.read(|db| store::keys::key(db, id))
    }

    /// Writes a key's name, expiry, limits, rights and lists.
    pub fn update_key(&self, key: &KeyRow, now_ms: u64) -> Result<KeyRow, AccountsError> {
        let by = self.acting(now_ms);
        self.inner.change(|db| store::keys::update_key(db, &by, key))
    }

    /// Revokes the one key with this id, name or prefix. A key already revoked keeps its first instant.
    pub fn revoke_key(&self, text: &str, now_ms: u64) -> Result<KeyRow, AccountsError> {
        let by = self.acting(now_ms);
        self.inner.change(|db| store::keys::revoke_key(db, &by, text))
    }

    /// Makes an organisation.
    pub fn create_org(&self, name: &str, now_ms: u64) -> Result<OrgRow, AccountsError> {
        let by = self.acting(now_ms);
        self.inner.change(|db| store::orgs::insert_org(db, &by, name))
    }

    /// The organisation with this id or name.
    pub fn org(&self, text: &str) -> Result<OrgRow, AccountsError> {
        self.inner.read(|db| store::orgs::org(db, text))
    }

    /// All organisations, oldest first.
    pub fn list_orgs(&self) -> Result<Vec<OrgRow>, AccountsError> {
        self.inner.read(store::orgs::list_orgs)
    }

    /// Switches the organisation with this id or name off or on.
    pub fn set_org_disabled(&self, org: &str, disabled: bool, now_ms: u64) -> Result<OrgRow, AccountsError> {
        let by = self.acting(now_ms);
        self.inner.change(|db| store::orgs::set_org_disabled(db, &by, org, disabled))
    }

    /// Says how far the organisation's balance may go below zero; `None`: it pays later, without a bound.
    pub fn set_credit_line(
        &self,
        org: &str,
        line: Option<Picos>,
        now_ms: u64,
    ) -> Result<OrgRow, AccountsError> {
        let by = self.acting(now_ms);
        self.inner.change(|db| store::orgs::set_credit_line(db, &by, org, line))
    }

    /// Makes a project of an organisation (id or name).
    pub fn create_project(
        &self,
        org: &str,
        name: &str,
        settings: &ProjectSettings,
        now_ms: u64,
    ) -> Result<ProjectRow, AccountsError> {
        let by = self.acting(now_ms);
        self.inner.change(|db| {
            let org = store::orgs::org(db, org)?;
            store::orgs::insert_project(db, &by, &org.id, name, settings)
        })
    }

    /// The project with this id.
    pub fn project(&self, id: &str) -> Result<ProjectRow, AccountsError> {
        self.inner.read(|db| store::orgs::project(db, id))
    }

    /// All projects, oldest first.
    pub fn list_projects(&self) -> Result<Vec<ProjectRow>, AccountsError> {
        self.inner.read(store::orgs::list_projects)
    }

    /// Writes everything of a project but its id and organisation.
    pub fn update_project(&self, project: &ProjectRow, now_ms: u64) -> Result<ProjectRow, AccountsError> {
        let by = self.acting(now_ms);
        self.inner.change(|db| store::orgs::update_project(db, &by, project))
    }

    /// Sets a project's own limits.
    pub fn set_project_limits(
        &self,
        org: &str,
        project: &str,
        limits: KeyLimits,
        now_ms: u64,
    ) -> Result<ProjectRow, AccountsError> {
        let by = self.acting(now_ms);
        self.inner.change(|db| {
            let found = store::orgs::project_named(db, org, project)?;
            store::orgs::update_project(db, &by, &ProjectRow { limits, ..found })
        })
    }

    /// Makes a budget or changes its limit.
    pub fn set_budget(&self, budget: &Budget, now_ms: u64) -> Result<(), AccountsError> {
        let by = self.acting(now_ms);
        self.inner.change(|db| store::budgets::set_budget(db, &by, budget))
    }

    /// Removes a budget.
    pub fn remove_budget(
        &self,
        scope: BudgetScope,
        id: &str,
        period: BudgetPeriod,
        now_ms: u64,
    ) -> Result<(), AccountsError> {
        let by = self.acting(now_ms);
        self.inner.change(|db| store::budgets::remove_budget(db, &by, scope, id, period))
    }

    /// All budgets made by command or API, in a fixed order; those of the configuration are not among them.
    pub fn list_budgets(&self) -> Result<Vec<Budget>, AccountsError> {
        self.inner.read(store::budgets::list_budgets)
    }

    /// Every budget of a working key, its project and organisation, and of the end users and tags that are named.
    pub fn all_budgets(&self) -> Vec<Budget> {
        self.inner.all_budgets()
    }

    /// Makes a key for the admin listener.
    pub fn create_admin_key(&self, name: &str, now_ms: u64) -> Result<(AdminKeyRow, String), AccountsError> {
        let secret = secret::generate(ADMIN_SECRET_PREFIX)?;
        let mac = self.inner.pepper.mac(&secret);
        let (by, shown) = (self.acting(now_ms), secret::shown(ADMIN_SECRET_PREFIX, &secret));
        let row = self.inner.change(|db| store::admin_keys::insert(db, &by, name, &mac, shown))?;
        Ok((row, secret))
    }

    /// The admin keys that work, oldest first.
    pub fn list_admin_keys(&self) -> Result<Vec<AdminKeyRow>, AccountsError> {
        self.inner.read(store::admin_keys::list)
    }

    /// The working admin key with this id.
    pub fn admin_key(&self, id: &str) -> Result<AdminKeyRow, AccountsError> {
        self.inner.read(|db| store::admin_keys::get(db, id))
    }

    /// Makes an admin key useless.
    pub fn revoke_admin_key(&self, id: &str, now_ms: u64) -> Result<AdminKeyRow, AccountsError> {
        let by = self.acting(now_ms);
        self.inner.change(|db| store::admin_keys::revoke(db, &by, id))
    }

    /// Up to `limit` lines of the audit log that pass the filter, the newest first.
    pub fn audit_log(&self, filter: &AuditFilter, limit: usize) -> Result<Vec<AuditRow>, AccountsError> {
        self.inner.read(|db| store::audit::list(db, filter, limit))
    }

    /// Names of every organisation, project and key by id.
    pub fn names(&self) -> Result<Names, AccountsError> {
        self.inner.read(store::names)
    }
}
