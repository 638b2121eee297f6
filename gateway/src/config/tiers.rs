//! What `[tiers]` means: engine rules, derived prices, and checks of names.

use engine::{Sharing, Tier, TierRule};

use super::{BatchWindow, ConfigError, Tiers, invalid};
use crate::money::{MoneyError, PriceVersion, RateCard};

/// Largest weight of a tenant.
const MAX_WEIGHT: u32 = 1_000;

impl Tiers {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        self.check_bounds()?;
        check_tiers("tiers", Some(&self.allowed), Some(&self.default))?;
        if !self.allowed.contains(&self.default) {
            return Err(invalid("tiers.default", &self.default, "must be among tiers.allowed"));
        }
        for (at, rule) in self.tenant.iter().enumerate() {
            let key = format!("tiers.tenant[{at}]");
            if rule.name.is_empty() || rule.name.matches('/').count() > 1 {
                let message = "must be an organisation, or a project as \"organisation/project\"";
                return Err(invalid(&format!("{key}.name"), &rule.name, message));
            }
            if let Some(weight) = rule.weight.filter(|weight| !(1..=MAX_WEIGHT).contains(weight)) {
                return Err(invalid(
                    &format!("{key}.weight"),
                    &weight,
                    &format!("must be 1 to {MAX_WEIGHT}"),
                ));
            }
            check_tiers(&key, rule.allowed.as_ref(), rule.default.as_ref())?;
        }
        Ok(())
    }

    /// The engine's rules.
    pub fn sharing(&self) -> Sharing {
        let rule = |yield_tokens, starvation_steps| TierRule { yield_tokens, starvation_steps };
        Sharing {
            prefill_cost: self.prefill_cost,
            decode_cost: self.decode_cost,
            drift: self.drift,
            tiers: [
                rule(self.internal_yield_tokens, 0),
                rule(self.reserved_yield_tokens, self.reserved_starvation_steps),
                rule(self.priority_yield_tokens, self.priority_starvation_steps),
                rule(self.default_yield_tokens, self.default_starvation_steps),
                rule(self.flex_yield_tokens, self.flex_starvation_steps),
                rule(0, self.batch_starvation_steps),
            ],
        }
    }

    fn percent(&self, tier: Tier) -> u32 {
        match tier {
            Tier::Internal => self.internal_price_percent,
            Tier::Reserved => self.reserved_price_percent,
            Tier::Priority => self.priority_price_percent,
            Tier::Default => 100,
            Tier::Flex => self.flex_price_percent,
            Tier::Batch => self.batch_price_percent,
        }
    }

    /// All tiers of the rate card: those of the engine, and the windows of batches.
    fn percents(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let windows = [
            (BatchWindow::Hour.tier(), self.batch_1h_price_percent),
            (BatchWindow::FourHours.tier(), self.batch_4h_price_percent),
            (BatchWindow::Week.tier(), self.batch_7d_price_percent),
        ];
        Tier::ALL.map(|tier| (tier.name(), self.percent(tier))).into_iter().chain(windows)
    }

    /// Adds to each version of a default price those of the tiers, until the model has a price of its own for the tier. A
    /// fraction of a pico-USD is rounded up.
    pub(super) fn complete(&self, card: RateCard) -> Result<RateCard, ConfigError> {
        let is_own = |base: &PriceVersion, tier: &str| {
            let mut own = card.versions().iter().filter(|v| v.model == base.model && v.tier == tier);
            own.any(|version| version.effective_from_ms <= base.effective_from_ms)
        };
        let mut versions = card.versions().to_vec();
        for base in card.versions().iter().filter(|version| version.tier == Tier::Default.name()) {
            for (tier, percent) in self.percents().filter(|(tier, _)| !is_own(base, tier)) {
                versions.push(derived(base, tier, percent).map_err(money)?);
            }
        }
        RateCard::new(versions).map_err(money)
    }
}

fn money(source: MoneyError) -> ConfigError {
    ConfigError::Money { key: "tiers".to_owned(), source }
}

fn derived(base: &PriceVersion, tier: &str, percent: u32) -> Result<PriceVersion, MoneyError> {
    base.part(tier, percent, 100)
}

fn check_tiers(
    key: &str,
    allowed: Option<&Vec<String>>,
    default: Option<&String>,
) -> Result<(), ConfigError> {
    let names = Tier::ALL.map(Tier::name).join(", ");
    match allowed.into_iter().flatten().chain(default).find(|name| Tier::named(name).is_none()) {
        Some(name) => {
            Err(invalid(&format!("{key}.allowed or {key}.default"), name, &format!("is none of {names}")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Picos;

    #[test]
    fn tiers_without_a_price_take_their_part_of_the_default_price() {
        let base = PriceVersion::new("m", "default", 7, Picos(100_000), Picos(3), Picos(400_000));
        let flex = PriceVersion::new("m", "flex", 9, Picos(1), Picos(1), Picos(1));
        let card = Tiers::default().complete(RateCard::new(vec![base, flex]).unwrap()).unwrap();
        let price =
            |tier: &str| card.at("m", tier, 10).map(|v| (v.uncached_input.0, v.cached_input.0, v.output.0));
        assert_eq!(price("priority"), Some((175_000, 6, 700_000)));
        assert_eq!(price("batch"), Some((50_000, 2, 200_000)));
        assert_eq!(price("batch_7d"), Some((40_000, 2, 160_000)));
        assert_eq!(price("flex"), Some((1, 1, 1)), "its own price");
        assert_eq!(card.at("m", "flex", 8).map(|v| v.output.0), Some(200_000), "before its own price");
        assert_eq!(card.at("m", "batch", 6), None, "not before the default price");
    }

    #[test]
    fn unknown_names_are_refused() {
        for tiers in [
            Tiers { allowed: vec!["gold".into()], ..Tiers::default() },
            Tiers { default: "batch".into(), ..Tiers::default() },
        ] {
            assert!(tiers.validate().is_err());
        }
    }
}
