//! Which tier serves a request, and whose share of it.

use std::collections::HashMap;

use engine::{Tenant, Tier};

use crate::accounts::Identity;
use crate::config::{TenantRule, Tiers};

/// A tier that the project may not use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("service tier {} is not enabled, enabled are {}", wanted.name(), names(allowed))]
pub struct TierError {
    /// The tier asked for.
    pub wanted: Tier,
    /// Those that the project may use.
    pub allowed: Vec<Tier>,
}

/// The names of `tiers`, for messages.
pub fn names(tiers: &[Tier]) -> String {
    tiers.iter().map(|tier| tier.name()).collect::<Vec<_>>().join(", ")
}

/// Tiers and weights of all tenants, as configured.
#[derive(Clone, Debug)]
pub struct TierPolicy {
    allowed: Vec<String>,
    default: String,
    rules: HashMap<String, TenantRule>,
}

impl TierPolicy {
    /// The configured policy.
    pub fn new(tiers: &Tiers) -> Self {
        let rules = tiers.tenant.iter().map(|rule| (rule.name.clone(), rule.clone())).collect();
        Self { allowed: tiers.allowed.clone(), default: tiers.default.clone(), rules }
    }

    /// The tier that serves a request; `wanted` is absent where the caller leaves it to the project's default.
    pub fn choose(&self, identity: &Identity, wanted: Option<Tier>) -> Result<Tier, TierError> {
        let [project, org] = self.rules_of(identity);
        let rules = || [project, org].into_iter().flatten();
        // What the project says itself goes before what the configuration says of it.
        let own = identity.project.allowed_tiers.as_ref();
        let allowed = own.or_else(|| rules().find_map(|rule| rule.allowed.as_ref())).unwrap_or(&self.allowed);
        let allowed: Vec<Tier> = allowed.iter().filter_map(|name| Tier::named(name)).collect();
        let own = identity.project.default_tier.as_ref();
        let default = own.or_else(|| rules().find_map(|rule| rule.default.as_ref())).unwrap_or(&self.default);
        let default = Tier::named(default).unwrap_or_default();
        match wanted {
            // A default that the operator has set is the operator's word.
            None => Ok(default),
            Some(tier) if tier == default || allowed.contains(&tier) => Ok(tier),
            Some(wanted) => Err(TierError { wanted, allowed }),
        }
    }

    /// In whose name the engine counts.
    pub fn tenant(&self, identity: &Identity) -> Tenant {
        let weight = |rule: Option<&TenantRule>| rule.and_then(|rule| rule.weight).unwrap_or(1);
        let [project, org] = self.rules_of(identity);
        Tenant {
            org: identity.org_id.clone(),
            project: identity.project_id.clone(),
            org_weight: weight(org),
            project_weight: weight(project),
        }
    }

    fn rules_of(&self, identity: &Identity) -> [Option<&TenantRule>; 2] {
        let project = format!("{}/{}", identity.org_name, identity.project_name);
        [self.rules.get(&project), self.rules.get(&identity.org_name)]
    }
}
