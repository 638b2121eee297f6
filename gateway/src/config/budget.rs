//! Budgets as written in the file: what is limited, to how much, in which period.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Decimal, invalid};
use crate::civil;
use crate::money::Picos;

/// What a budget limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BudgetScope {
    /// One API key.
    Key,
    /// All keys of a project.
    Project,
    /// All projects of an organisation.
    Organisation,
    /// One end user of an organisation, as named by the request's `safety_identifier` or `user`.
    User,
    /// One `metadata` pair of an organisation's requests.
    Tag,
}

impl BudgetScope {
    /// All scopes, narrow to wide.
    pub const ALL: [BudgetScope; 5] = [
        BudgetScope::Key,
        BudgetScope::User,
        BudgetScope::Tag,
        BudgetScope::Project,
        BudgetScope::Organisation,
    ];

    /// The spelling used in configuration, messages and the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            BudgetScope::Key => "key",
            BudgetScope::Project => "project",
            BudgetScope::Organisation => "organisation",
            BudgetScope::User => "user",
            BudgetScope::Tag => "tag",
        }
    }
}

impl fmt::Display for BudgetScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for BudgetScope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is not one of key, project, organisation, user, tag"))
    }
}

/// How long a budget lasts: a calendar period in UTC, or for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BudgetPeriod {
    /// From the full hour.
    Hour,
    /// From midnight.
    Day,
    /// From Monday's midnight.
    Week,
    /// From the first day's midnight.
    Month,
    /// Without end.
    #[default]
    Total,
}

impl BudgetPeriod {
    /// All periods, short to long.
    pub const ALL: [BudgetPeriod; 5] =
        [BudgetPeriod::Hour, BudgetPeriod::Day, BudgetPeriod::Week, BudgetPeriod::Month, BudgetPeriod::Total];

    /// The spelling used in configuration, messages and accounts.
    pub fn as_str(self) -> &'static str {
        match self {
            BudgetPeriod::Hour => "hour",
            BudgetPeriod::Day => "day",
            BudgetPeriod::Week => "week",
            BudgetPeriod::Month => "month",
            BudgetPeriod::Total => "total",
        }
    }

    /// Begin and end of the period around `at_ms`, Unix milliseconds; the total has no end.
    pub fn around(self, at_ms: u64) -> (u64, Option<u64>) {
        let of = |length: u64, shift: u64| {
            let start = (at_ms + shift) / length * length;
            (start.saturating_sub(shift), Some(start + length - shift))
        };
        match self {
            BudgetPeriod::Hour => of(civil::HOUR_MS, 0),
            BudgetPeriod::Day => of(civil::DAY_MS, 0),
            // The epoch was a Thursday, three days after a Monday.
            BudgetPeriod::Week => of(7 * civil::DAY_MS, 3 * civil::DAY_MS),
            BudgetPeriod::Month => {
                let (start, end) = civil::month_of(at_ms);
                (start, Some(end))
            }
            BudgetPeriod::Total => (0, None),
        }
    }
}

impl fmt::Display for BudgetPeriod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for BudgetPeriod {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|period| period.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is not one of hour, day, week, month, total"))
    }
}

/// An amount and its period, in text `USD[/PERIOD]`: `5`, `5/day`, `0.10/hour`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Its period.
    pub period: BudgetPeriod,
    /// What may be spent in it.
    pub limit: Picos,
}

impl FromStr for Allowance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (amount, period) = text.split_once('/').unwrap_or((text, "total"));
        let limit = Picos::parse_usd(amount).map_err(|error| error.to_string())?;
        if limit < Picos::ZERO {
            return Err(format!("{amount} must not be negative"));
        }
        Ok(Self { period: period.trim().parse()?, limit })
    }
}

/// A limit on what a key, project, organisation, end user or tag may spend in a period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetRule {
    /// What it limits.
    pub scope: BudgetScope,
    /// Key id; project as `organisation/project`; organisation name; end user as `organisation/user`; tag as
    /// `organisation/key=value`. `*` in place of the last part stands for each that has no budget of its own for the
    /// period: `*`, `acme/*`, `acme/team=*`.
    pub name: String,
    /// The amount.
    pub usd: Decimal,
    /// The period; unset: what may ever be spent.
    #[serde(default)]
    pub period: BudgetPeriod,
}

impl BudgetRule {
    /// The amount; exact, because [`super::Config::load`] refused any other.
    pub fn picos(&self) -> Option<Picos> {
        Picos::parse_usd(&self.usd.0).ok().filter(|picos| picos.0 >= 0)
    }

    pub(super) fn validate(&self, at: usize) -> Result<(), ConfigError> {
        let key = |name: &str| format!("money.budget[{at}].{name}");
        let filled = |text: &str| !text.is_empty();
        let pair = self.name.split_once('/').filter(|(org, rest)| filled(org) && filled(rest));
        let fits = match self.scope {
            BudgetScope::Key | BudgetScope::Organisation => filled(&self.name) && !self.name.contains('/'),
            BudgetScope::Project => pair.is_some_and(|(_, project)| !project.contains('/')),
            BudgetScope::User => pair.is_some(),
            BudgetScope::Tag => pair.and_then(|(_, tag)| tag.split_once('=')).is_some_and(|(k, _)| filled(k)),
        };
        if !fits {
            let message = "must be a key id, an organisation, a project as \"organisation/project\", a user as \
                           \"organisation/user\" or a tag as \"organisation/key=value\"";
            return Err(invalid(&key("name"), &self.name, message));
        }
        let amount =
            Picos::parse_usd(&self.usd.0).map_err(|source| ConfigError::Money { key: key("usd"), source })?;
        if amount.0 < 0 {
            return Err(invalid(&key("usd"), &self.usd.0, "must not be negative"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_calendar_periods_in_utc() {
        let ms = |text: &str| civil::parse_ms(text).unwrap();
        let at = ms("2026-11-24T08:51:24.5Z");
        for (period, from, to) in [
            (BudgetPeriod::Hour, "2026-11-24T08:00:00Z", "2026-11-24T09:00:00Z"),
            (BudgetPeriod::Day, "2026-11-24", "2026-11-25"),
            (BudgetPeriod::Week, "2026-11-23", "2026-11-30"),
            (BudgetPeriod::Month, "2026-11-01", "2026-12-01"),
        ] {
            assert_eq!(period.around(at), (ms(from), Some(ms(to))), "{period}");
            assert_eq!(period.around(ms(from)), (ms(from), Some(ms(to))), "{period} from its begin");
            assert_eq!(period.around(ms(to) - 1), (ms(from), Some(ms(to))), "{period} to its end");
        }
        assert_eq!(BudgetPeriod::Month.around(ms("2028-02-29")).1, Some(ms("2028-03-01")));
        assert_eq!(BudgetPeriod::Week.around(0), (0, Some(ms("1970-01-05"))));
        assert_eq!(BudgetPeriod::Total.around(at), (0, None));
    }

    #[test]
    fn allowances_as_text() {
        let of = |text: &str| text.parse::<Allowance>().map(|a| (a.limit.to_usd(), a.period.as_str()));
        assert_eq!(of("5"), Ok(("5".to_owned(), "total")));
        assert_eq!(of("0.10/day"), Ok(("0.1".to_owned(), "day")));
        for bad in ["", "5/", "5/year", "-1", "-1/day", "x/day", "1e3"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
