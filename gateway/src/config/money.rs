//! Prices and budgets as written in the file.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::{BudgetRule, ConfigError, ModelRule, invalid};
use crate::civil;
use crate::money::{Picos, PriceVersion, RateCard};

/// The model that comes with Spillway; it has a default price.
pub(super) const DEMO_MODEL: &str = "smollm2-135m-instruct";
/// The embedder that comes with it; it has a default price too.
pub const DEMO_EMBEDDER: &str = "all-minilm-l6-v2";
/// The tier that every served model needs a price for.
const DEFAULT_TIER: &str = "default";

/// Prices and budgets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Money {
    /// Always `USD`.
    pub currency: String,
    /// `[[money.price]]`: unset, the demo model has one.
    pub price: Vec<PriceRule>,
    /// `[[money.budget]]`: limits on what may be spent.
    pub budget: Vec<BudgetRule>,
}

/// One version of a model's prices, in USD per 1M tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceRule {
    /// Model id.
    pub model: String,
    /// Service tier.
    #[serde(default = "default_tier")]
    pub tier: String,
    /// Per 1M uncached prompt tokens.
    pub uncached_input: Decimal,
    /// Per 1M cached prompt tokens.
    pub cached_input: Decimal,
    /// Per 1M generated tokens.
    pub output: Decimal,
    /// First instant at which it applies (RFC 3339 or a date); unset: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_from: Option<Instant>,
}

/// A decimal amount, kept as text so that no float can round it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decimal(pub String);

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Decimal;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a decimal amount as a string, such as \"0.10\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Decimal, E> {
                Ok(Decimal(text.to_owned()))
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Decimal, E> {
                Err(E::custom(format!(
                    "money is exact, a float is not: write {value} as a string: \"{value}\""
                )))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Decimal, E> {
                Err(E::custom(format!("write {value} as a string: \"{value}\"")))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// An instant, written as a string or as TOML's own date.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Instant {
    /// As a string.
    Text(String),
    /// As TOML's own.
    Toml(toml::value::Datetime),
}

impl Serialize for Instant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl Instant {
    fn text(&self) -> String {
        match self {
            Instant::Text(text) => text.clone(),
            Instant::Toml(datetime) => datetime.to_string(),
        }
    }
}

impl Default for Money {
    fn default() -> Self {
        let price = |text: &str| Decimal(text.to_owned());
        let demo = PriceRule {
            model: DEMO_MODEL.to_owned(),
            tier: default_tier(),
            uncached_input: price("0.10"),
            cached_input: price("0.05"),
            output: price("0.40"),
            effective_from: None,
        };
        // What is generated nothing has no price; a vector is paid for by its input.
        let embedder = PriceRule {
            model: DEMO_EMBEDDER.to_owned(),
            uncached_input: price("0.02"),
            cached_input: price("0.02"),
            output: price("0"),
            ..demo.clone()
        };
        Self { currency: "USD".to_owned(), price: vec![demo, embedder], budget: Vec::new() }
    }
}

impl Money {
    pub(super) fn validate(&self, served: &[ModelRule]) -> Result<(), ConfigError> {
        if self.currency != "USD" {
            return Err(invalid("money.currency", &self.currency, "only \"USD\" is supported"));
        }
        let card = self.rate_card()?;
        let is_priced = |id: &str| card.versions().iter().any(|v| v.model == id && v.tier == DEFAULT_TIER);
        if let Some(unpriced) = served.iter().find(|rule| !is_priced(&rule.id)) {
            let message = "has no [[money.price]] with tier \"default\": nothing is served without a price";
            return Err(invalid("model.id", &unpriced.id, message));
        }
        self.budget.iter().enumerate().try_for_each(|(at, budget)| budget.validate(at))
    }

    pub(super) fn rate_card(&self) -> Result<RateCard, ConfigError> {
        let versions = self.price.iter().enumerate().map(|(at, rule)| rule.version(at));
        RateCard::new(versions.collect::<Result<_, _>>()?)
            .map_err(|source| ConfigError::Money { key: "money.price".to_owned(), source })
    }
}

impl PriceRule {
    fn version(&self, at: usize) -> Result<PriceVersion, ConfigError> {
        let price = |name: &str, value: &Decimal| {
            Picos::parse_per_million(&value.0)
                .map_err(|source| ConfigError::Money { key: format!("money.price[{at}].{name}"), source })
        };
        let from = self.effective_from.as_ref().map_or(Ok(0), |instant| {
            let text = instant.text();
            civil::parse_ms(&text).map_err(|error| {
                invalid(&format!("money.price[{at}].effective_from"), &text, &error.to_string())
            })
        })?;
        let (uncached, cached) =
            (price("uncached_input", &self.uncached_input)?, price("cached_input", &self.cached_input)?);
        Ok(PriceVersion::new(&self.model, &self.tier, from, uncached, cached, price("output", &self.output)?))
    }
}

fn default_tier() -> String {
    DEFAULT_TIER.to_owned()
}
