//! Flex prices that follow what is free.
//!
//! ```toml
//! [[spot.model]]
//! id = "smollm2-135m-instruct"
//! floor_percent = 20              # of the default price, where all is free
//! cap_percent = 80                # where nothing is
//! ```

use serde::{Deserialize, Serialize};

use super::sections::{Bound, section};
use super::{ConfigError, invalid};

section! {
    /// Prices of the tier `flex` that follow what is free; fixed unless a model is named.
    SpotSection, "spot",
    numbers {
        /// Prices between cap and floor, a step apart.
        steps: u32 = 10, 1, 100, "steps";
        /// How far past a step what is free has to go before the price follows, as a part of the step: so that it does not
        /// swing with every request.
        hysteresis_percent: u32 = 40, 0, 49, "%";
    }
    others {
        /// The models whose flex price follows.
        model: Vec<SpotRule> = Vec::new();
    }
}

/// Between which prices the flex price of a model moves; before any price of its own for the tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpotRule {
    /// The model.
    pub id: String,
    /// Percent of its default price where all places are free.
    pub floor_percent: u32,
    /// Percent of its default price where none is.
    pub cap_percent: u32,
}

impl SpotSection {
    pub(super) fn validate(&self, models: &[&str]) -> Result<(), ConfigError> {
        self.check_bounds()?;
        for (at, rule) in self.model.iter().enumerate() {
            let key = |name: &str| format!("spot.model[{at}].{name}");
            if !models.contains(&rule.id.as_str()) {
                return Err(invalid(&key("id"), &rule.id, "is no model that is served"));
            }
            if self.model[..at].iter().any(|earlier| earlier.id == rule.id) {
                return Err(invalid(&key("id"), &rule.id, "occurs twice"));
            }
            if rule.cap_percent > 1_000 {
                return Err(invalid(&key("cap_percent"), &rule.cap_percent, "must be at most 1000"));
            }
            if rule.floor_percent > rule.cap_percent {
                let message = format!("must not exceed cap_percent = {}", rule.cap_percent);
                return Err(invalid(&key("floor_percent"), &rule.floor_percent, &message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn floors_lie_below_caps_of_models_that_are_served() {
        let refusal = |toml: &str| {
            let config: crate::config::Config = toml::from_str(toml).unwrap();
            config.validate().map_or_else(|error| error.to_string(), |()| String::new())
        };
        let rule = |id: &str, floor: u32, cap: u32| {
            format!("[[spot.model]]\nid = {id:?}\nfloor_percent = {floor}\ncap_percent = {cap}\n")
        };
        let id = crate::config::Config::default().served()[0].id.clone();
        assert_eq!(refusal(&rule(&id, 20, 80)), "");
        assert_eq!(refusal(&rule(&id, 80, 80)), "");
        for (toml, told) in [
            (rule(&id, 81, 80), "floor_percent"),
            (rule(&id, 81, 1_001), "cap_percent"),
            (rule("nobody", 1, 2), "no model that is served"),
            (rule(&id, 1, 2) + &rule(&id, 1, 2), "occurs twice"),
            ("[spot]\nhysteresis_percent = 50".to_owned(), "spot.hysteresis_percent"),
        ] {
            assert!(refusal(&toml).contains(told), "{toml}: {}", refusal(&toml));
        }
    }
}
