//! What callers give and get.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use super::budgets::{Budget, TagBudget, UserBudget};
use super::ip::IpNet;
use super::permission::Permission;
use crate::config::Allowance;
use crate::money::Picos;

/// Limits of one key or project; `None` takes the configuration's default, 0 admits nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// Requests per minute, also the burst.
    pub requests_per_minute: Option<u32>,
    /// Tokens per minute, also the burst.
    pub tokens_per_minute: Option<u32>,
    /// Requests in flight.
    pub concurrency: Option<u32>,
}

/// Whether answers are kept for a later `GET`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreResponses {
    /// Only where the request says `store: true`.
    False,
    /// Unless the request says `store: false`, as the public API does.
    #[default]
    True,
    /// Not even where the request asks for it.
    Never,
}

impl StoreResponses {
    /// The spelling in database and API.
    pub fn as_str(self) -> &'static str {
        match self {
            StoreResponses::False => "false",
            StoreResponses::True => "true",
            StoreResponses::Never => "never",
        }
    }
}

impl FromStr for StoreResponses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = [Self::False, Self::True, Self::Never].into_iter().find(|value| value.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is not one of false, true, never"))
    }
}

/// What a project allows its requests; `None` allows everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProjectSettings {
    /// Service tiers that may be asked for.
    pub allowed_tiers: Option<Vec<String>>,
    /// Service tier of a request that names none; `None`: `default`.
    pub default_tier: Option<String>,
    /// Models that exist for the project's keys.
    pub allowed_models: Option<Vec<String>>,
    /// Whether answers are kept.
    pub store_responses: StoreResponses,
}

/// An authenticated caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `key_...`.
    pub key_id: String,
    /// The key's name.
    pub key_name: String,
    /// `proj_...`.
    pub project_id: String,
    /// The project's name.
    pub project_name: String,
    /// `org_...`.
    pub org_id: String,
    /// The organisation's name.
    pub org_name: String,
    /// The key's own limits.
    pub limits: KeyLimits,
    /// The project's own limits.
    pub project_limits: KeyLimits,
    /// What the project allows.
    pub project: ProjectSettings,
    /// Models that exist for this key, of those that the project allows; `None`: all of them.
    pub allowed_models: Option<Vec<String>>,
    /// What the key may be used for; `None`: everything.
    pub permissions: Option<Vec<Permission>>,
    /// Addresses from which the key works; empty: all.
    pub allowed_ips: Vec<IpNet>,
    /// Budgets of key, project and organisation, above every request of this key.
    pub budgets: Vec<Budget>,
    /// Budgets of the organisation's end users.
    pub user_budgets: Vec<UserBudget>,
    /// Budgets of the organisation's tags.
    pub tag_budgets: Vec<TagBudget>,
    /// How far the organisation's balance may go below zero; `None`: it pays later, without a bound.
    pub credit_line: Option<Picos>,
}

impl Identity {
    /// Whether `model` exists for this caller.
    pub fn may_use(&self, model: &str) -> bool {
        let lists = [&self.project.allowed_models, &self.allowed_models];
        lists.into_iter().flatten().all(|allowed| allowed.iter().any(|name| name == model))
    }

    /// Whether the key may be used for `permission`.
    pub fn allows(&self, permission: Permission) -> bool {
        self.permissions.as_ref().is_none_or(|granted| granted.contains(&permission))
    }
}

/// A key to be made. Organisation and project are made on demand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewKey {
    /// Organisation name.
    pub org: String,
    /// Project name.
    pub project: String,
    /// Key name; need not be unique.
    pub name: String,
    /// The key's limits.
    pub limits: KeyLimits,
    /// What the key may spend.
    pub budgets: Vec<Allowance>,
    /// First instant at which it no longer works, Unix milliseconds.
    pub expires_at_ms: Option<u64>,
    /// What it may be used for; `None`: everything.
    pub permissions: Option<Vec<Permission>>,
    /// Models that exist for it; `None`: all of the project's.
    pub allowed_models: Option<Vec<String>>,
    /// Addresses from which it works; empty: all.
    pub allowed_ips: Vec<IpNet>,
}

/// A key just made. The secret is not stored and cannot be shown again.
#[derive(Clone, PartialEq, Eq)]
pub struct CreatedKey {
    /// `key_...`.
    pub id: String,
    /// `sk-sw-` and 43 characters; show once, log never.
    pub secret: String,
}

impl fmt::Debug for CreatedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A key as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// `key_...`.
    pub id: String,
    /// The key's name.
    pub name: String,
    /// The secret's first characters, `sk-sw-` and eight more.
    pub prefix: String,
    /// Organisation name.
    pub org: String,
    /// Project name.
    pub project: String,
    /// `proj_...`.
    pub project_id: String,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// When it expires.
    pub expires_ms: Option<u64>,
    /// When it was revoked.
    pub revoked_ms: Option<u64>,
    /// When it was last used, to the minute.
    pub last_used_ms: Option<u64>,
    /// Its limits.
    pub limits: KeyLimits,
    /// What it may be used for; `None`: everything.
    pub permissions: Option<Vec<Permission>>,
    /// Models that exist for it; `None`: all of the project's.
    pub allowed_models: Option<Vec<String>>,
    /// Addresses from which it works; empty: all.
    pub allowed_ips: Vec<IpNet>,
}

/// An organisation as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrgRow {
    /// `org_...`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// When it was switched off.
    pub disabled_ms: Option<u64>,
    /// How far its balance may go below zero; `None`: it pays later, without a bound.
    pub credit_line: Option<Picos>,
}

/// A project as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectRow {
    /// `proj_...`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `org_...`.
    pub org_id: String,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// When it was archived.
    pub archived_ms: Option<u64>,
    /// Its limits.
    pub limits: KeyLimits,
    /// What it allows.
    pub settings: ProjectSettings,
}

/// A key of the operator for the admin listener, as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminKeyRow {
    /// `adm_...`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The secret's first characters.
    pub prefix: String,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// When it was last used, to the minute.
    pub last_used_ms: Option<u64>,
}

/// One entry of the audit log: who changed what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number.
    pub seq: i64,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// Who: an admin key's id, or `cli` for the command line.
    pub actor: String,
    /// What, as `object.verb`.
    pub event: String,
    /// Id of the object.
    pub object_id: String,
    /// Project of the object, if it has one.
    pub project_id: Option<String>,
    /// The object before, as JSON; `None` where it is new.
    pub before: Option<String>,
    /// The object after, as JSON; `None` where it is gone.
    pub after: Option<String>,
}

/// Which lines of the audit log are wanted; what is empty lets all pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only lines with a smaller number.
    pub below: Option<i64>,
    /// Only lines with a larger number.
    pub above: Option<i64>,
    /// Not before this instant, Unix milliseconds.
    pub from_ms: Option<u64>,
    /// Before this instant.
    pub to_ms: Option<u64>,
    /// What happened, as `object.verb`.
    pub events: Vec<String>,
    /// Who did it.
    pub actors: Vec<String>,
    /// Projects of the objects.
    pub projects: Vec<String>,
    /// Ids of the objects.
    pub objects: Vec<String>,
}

/// Names by id, for reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(pub HashMap<String, String>);

impl Names {
    /// The name behind `id`, or the id itself where it is unknown.
    pub fn of<'a>(&'a self, id: &'a str) -> &'a str {
        self.0.get(id).map_or(id, String::as_str)
    }
}
