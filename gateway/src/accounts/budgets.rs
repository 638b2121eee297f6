//! Which budgets stand above a request.

use std::collections::{BTreeMap, HashMap};

use super::Identity;
use crate::config::{Allowance, BudgetPeriod, BudgetRule, BudgetScope};
use crate::money::Picos;

/// Stands for each name that has no budget of its own.
const EACH: &str = "*";

/// A limit on what one account may spend in one period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Whose.
    pub scope: BudgetScope,
    /// Id of the account in the ledger: of key, project or organisation; `ORG/USER`; `ORG/KEY=VALUE`.
    pub id: String,
    /// Its period.
    pub period: BudgetPeriod,
    /// What may be spent in it.
    pub limit: Picos,
}

/// A budget of one end user, or of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserBudget {
    /// `None`: each without one of its own for the period.
    pub user: Option<String>,
    /// Period and limit.
    pub allowance: Allowance,
}

/// A budget of one tag, or of each value of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagBudget {
    /// Key of the `metadata` pair.
    pub key: String,
    /// Its value; `None`: each without a budget of its own for the period.
    pub value: Option<String>,
    /// Period and limit.
    pub allowance: Allowance,
}

impl Identity {
    /// All budgets above a request that names this end user and these `metadata` pairs.
    pub fn budgets_of<'a>(
        &self,
        end_user: Option<&str>,
        metadata: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Vec<Budget> {
        let mut budgets = self.budgets.clone();
        if let Some(user) = end_user {
            let fitting = |budget: &UserBudget| budget.user.as_deref().is_none_or(|own| own == user);
            let found = self.user_budgets.iter().filter(|budget| fitting(budget));
            let found = found.map(|budget| (budget.user.is_some(), budget.allowance));
            extend(&mut budgets, BudgetScope::User, &format!("{}/{user}", self.org_id), found);
        }
        for (key, value) in metadata {
            let fitting = |budget: &TagBudget| {
                budget.key == key && budget.value.as_deref().is_none_or(|own| own == value)
            };
            let found = self.tag_budgets.iter().filter(|budget| fitting(budget));
            let found = found.map(|budget| (budget.value.is_some(), budget.allowance));
            extend(&mut budgets, BudgetScope::Tag, &format!("{}/{key}={value}", self.org_id), found);
        }
        budgets
    }
}

impl Identity {
    /// Its budgets that are known without a request: not those of each end user or tag value.
    pub(super) fn named_budgets(&self) -> Vec<Budget> {
        let mut budgets = self.budgets.clone();
        let org = &self.org_id;
        for budget in &self.user_budgets {
            if let Some(user) = &budget.user {
                let Allowance { period, limit } = budget.allowance;
                budgets.push(Budget { scope: BudgetScope::User, id: format!("{org}/{user}"), period, limit });
            }
        }
        for budget in &self.tag_budgets {
            if let Some(value) = &budget.value {
                let (Allowance { period, limit }, id) =
                    (budget.allowance, format!("{org}/{}={value}", budget.key));
                budgets.push(Budget { scope: BudgetScope::Tag, id, period, limit });
            }
        }
        budgets
    }
}

/// Adds the least limit of each period; one that was made for this account (true) takes the place of those for each.
fn extend(
    budgets: &mut Vec<Budget>,
    scope: BudgetScope,
    id: &str,
    found: impl Iterator<Item = (bool, Allowance)>,
) {
    let mut by_period: BTreeMap<BudgetPeriod, (bool, Picos)> = BTreeMap::new();
    for (own, Allowance { period, limit }) in found {
        let best = by_period.entry(period).or_insert((own, limit));
        if (own && !best.0) || (own == best.0 && limit < best.1) {
            *best = (own, limit);
        }
    }
    let made = |(period, (_, limit))| Budget { scope, id: id.to_owned(), period, limit };
    budgets.extend(by_period.into_iter().map(made));
}

/// Budgets of the configuration and of the database, by scope and name or id.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules(HashMap<(BudgetScope, String), Vec<Allowance>>);

impl Rules {
    /// The configuration's, by name.
    pub(super) fn configured(rules: &[BudgetRule]) -> Self {
        let mut all = Self::default();
        for rule in rules {
            if let Some(limit) = rule.picos() {
                all.add(rule.scope, rule.name.clone(), Allowance { period: rule.period, limit });
            }
        }
        all
    }

    pub(super) fn add(&mut self, scope: BudgetScope, name: String, allowance: Allowance) {
        self.0.entry((scope, name)).or_default().push(allowance);
    }

    fn get(&self, scope: BudgetScope, name: &str) -> impl Iterator<Item = Allowance> + '_ {
        self.0.get(&(scope, name.to_owned())).into_iter().flatten().copied()
    }

    /// Every rule of `scope` whose name begins with `prefix`: what follows, and the allowance. In a fixed order.
    fn beginning(&self, scope: BudgetScope, prefix: &str) -> Vec<(&str, Allowance)> {
        let all = self.0.iter().filter(|((of, _), _)| *of == scope);
        let fitting = all.filter_map(|((_, name), found)| Some((name.strip_prefix(prefix)?, found)));
        let mut found: Vec<_> =
            fitting.flat_map(|(name, found)| found.iter().map(move |a| (name, *a))).collect();
        found.sort_by_key(|(name, allowance)| (*name, allowance.period, allowance.limit));
        found
    }
}

/// Fills in the budgets above `identity`: by name from the configuration, by id from the database.
pub(super) fn resolve(identity: &mut Identity, configured: &Rules, stored: &Rules) {
    let Identity { key_id, project_id, project_name, org_id, org_name, .. } = identity;
    let (key_id, project_id, org_id) = (key_id.clone(), project_id.clone(), org_id.clone());
    let project = format!("{org_name}/{project_name}");
    let each_project = format!("{org_name}/{EACH}");
    let accounts = [
        (BudgetScope::Key, &key_id, key_id.as_str(), [EACH, EACH]),
        (BudgetScope::Project, &project_id, &project, [&each_project, "*/*"]),
        (BudgetScope::Organisation, &org_id, org_name.as_str(), [EACH, EACH]),
    ];
    let mut budgets = Vec::new();
    for (scope, id, name, each) in accounts {
        let own = stored.get(scope, id).chain(configured.get(scope, name)).map(|a| (true, a));
        let each = each.into_iter().flat_map(|each| configured.get(scope, each)).map(|a| (false, a));
        extend(&mut budgets, scope, id, own.chain(each));
    }
    let of_org = |scope| {
        let by_name = configured.beginning(scope, &format!("{org_name}/")).into_iter();
        by_name.chain(stored.beginning(scope, &format!("{org_id}/")))
    };
    let named = |name: &str| (name != EACH).then(|| name.to_owned());
    let user = |(name, allowance)| UserBudget { user: named(name), allowance };
    let tag = |(name, allowance): (&str, Allowance)| {
        let (key, value) = name.split_once('=')?;
        Some(TagBudget { key: key.to_owned(), value: named(value), allowance })
    };
    identity.user_budgets = of_org(BudgetScope::User).map(user).collect();
    identity.tag_budgets = of_org(BudgetScope::Tag).filter_map(tag).collect();
    identity.budgets = budgets;
}
