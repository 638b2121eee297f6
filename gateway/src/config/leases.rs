//! Capacity that is sold ahead.
//!
//! ```toml
//! [leases]
//! unit_hour_usd = "0.05"          # without a price nothing is leased
//! unit_tokens_per_second = 10
//! reserve_percent = 20
//! ```

use serde::{Deserialize, Serialize};

use super::money::Decimal;
use super::sections::{Bound, section};
use super::{ConfigError, FleetSection, invalid};
use crate::money::Picos;

section! {
    /// Capacity that is sold ahead, in units; off unless `unit_hour_usd` is set.
    LeasesSection, "leases",
    numbers {
        /// Generated tokens that a unit guarantees, of those that `spillway calibrate` measured within
        /// `capacity.inter_token_ms`.
        unit_tokens_per_second: u32 = 10, 1, 1_000_000, "tokens/s";
        /// Prompt tokens that weigh as one generated: they are computed many at a time. Cached ones weigh nothing.
        prompt_tokens_per_token: u32 = 8, 1, 1000, "tokens";
        /// Part of what was measured that is never leased: the operator's own, and what keeps other tiers alive.
        reserve_percent: u32 = 20, 0, 100, "%";
        /// Shortest lease.
        min_hours: u32 = 1, 1, 8784, "h";
        /// Longest lease.
        max_hours: u32 = 744, 1, 8784, "h";
        /// How far ahead a lease may begin.
        max_ahead_hours: u32 = 2160, 0, 87_600, "h";
        /// From the word of either side that ends a lease early to its end.
        notice_hours: u32 = 24, 0, 8784, "h";
        /// Part of the holding price that comes back for what was idle and used by flex or batch.
        rebate_percent: u32 = 50, 0, 100, "%";
        /// Part of the holding price of the hours that the operator takes back which is given as credit.
        reclaim_credit_percent: u32 = 10, 0, 100, "%";
        /// Target of a lease for the time from request to first token; 0: nothing is promised, as prompts differ in length.
        sla_first_token_ms: u32 = 0, 0, 3_600_000, "ms";
        /// Target of a lease for the mean time between two tokens of an answer; 0: nothing is promised.
        sla_inter_token_ms: u32 = 0, 0, 60_000, "ms";
        /// Parts of a thousand of an hour's requests that are to keep a target.
        sla_objective_permille: u32 = 990, 1, 999, "per mille";
        /// Requests of an hour below which it is not judged: a few say nothing.
        sla_min_requests: u32 = 20, 1, 1_000_000, "requests";
        /// Part of the holding price of an hour that comes back where a target was missed in it.
        sla_credit_percent: u32 = 10, 0, 100, "%";
        /// Leases of an organisation that are not over.
        max_per_organisation: u32 = 16, 1, 10_000, "leases";
        /// Steps of a lease that grows or shrinks.
        max_steps: usize = 48, 1, 1000, "steps";
    }
    others {
        /// What holding one unit for one hour costs, in USD; what is used is paid at the prices of the tier `reserved`.
        unit_hour_usd: Option<Decimal> = None;
    }
}

impl LeasesSection {
    /// The price of a unit-hour; `None`: nothing is leased. After a successful load it cannot fail.
    pub fn price(&self) -> Result<Option<Picos>, ConfigError> {
        let parse = |text: &Decimal| {
            let key = "leases.unit_hour_usd";
            let price = Picos::parse_usd(&text.0)
                .map_err(|source| ConfigError::Money { key: key.to_owned(), source })?;
            match price > Picos::ZERO {
                true => Ok(price),
                false => Err(invalid(key, &text.0, "must be more than nothing")),
            }
        };
        self.unit_hour_usd.as_ref().map(parse).transpose()
    }

    pub(super) fn validate(&self, fleet: &FleetSection) -> Result<(), ConfigError> {
        self.check_bounds()?;
        if self.min_hours > self.max_hours {
            let message = format!("must not exceed leases.max_hours = {}", self.max_hours);
            return Err(invalid("leases.min_hours", &self.min_hours, &message));
        }
        let price = self.price()?;
        if price.is_some() && (fleet.redis_url.is_some() || fleet.postgres_url.is_some()) {
            let message = "leases need a single gateway: leave it out, or leave out fleet.redis_url and fleet.postgres_url";
            return Err(invalid("leases.unit_hour_usd", &price.unwrap_or_default(), message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(toml: &str) -> String {
        let config: crate::config::Config = toml::from_str(toml).unwrap();
        config.validate().map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn leases_are_off_without_a_price_and_need_a_single_gateway() {
        assert_eq!(LeasesSection::default().price().unwrap(), None);
        assert_eq!(refusal("[leases]\nunit_hour_usd = \"0.05\""), "");
        let section: LeasesSection = toml::from_str("unit_hour_usd = \"0.05\"").unwrap();
        assert_eq!(section.price().unwrap(), Some(Picos(50_000_000_000)));
        for (toml, told) in [
            ("[leases]\nunit_hour_usd = \"0\"", "leases.unit_hour_usd"),
            ("[leases]\nunit_hour_usd = \"-1\"", "leases.unit_hour_usd"),
            ("[leases]\nunit_hour_usd = \"1e3\"", "leases.unit_hour_usd"),
            ("[leases]\nmin_hours = 9\nmax_hours = 8", "leases.min_hours"),
            ("[leases]\nnotice_hours = 9000", "leases.notice_hours"),
            (
                "[leases]\nunit_hour_usd = \"0.05\"\n[fleet]\npostgres_url = \"postgres://h/d\"",
                "leases need a single gateway",
            ),
            ("[leases]\nunit_hour_usd = \"0.05\"\n[fleet]\nredis_url = \"redis://h\"", "single gateway"),
        ] {
            assert!(refusal(toml).contains(told), "{toml}: {}", refusal(toml));
        }
    }
}
