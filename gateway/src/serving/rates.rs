//! The prices in force: the configuration's, and those that were added while the server ran.

use std::sync::{Arc, PoisonError, RwLock};

use crate::config::{Config, ConfigError};
use crate::money::{PriceVersion, RateCard};

/// The rate card, which may grow.
#[derive(Debug)]
pub struct Rates {
    config: Config,
    card: RwLock<Arc<RateCard>>,
}

impl Rates {
    /// The configuration's prices and these.
    pub fn new(config: &Config, added: &[PriceVersion]) -> Result<Self, ConfigError> {
        let card = config.rate_card_with(added)?;
        Ok(Self { config: config.clone(), card: RwLock::new(Arc::new(card)) })
    }

    /// The version in force for `model` and `tier` at `now_ms`.
    pub fn at(&self, model: &str, tier: &str, now_ms: u64) -> Option<PriceVersion> {
        self.card().at(model, tier, now_ms).cloned()
    }

    /// All versions.
    pub fn card(&self) -> Arc<RateCard> {
        Arc::clone(&self.card.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the card would be with these versions added; refused where one begins at the instant of another.
    pub fn check(&self, added: &[PriceVersion]) -> Result<RateCard, ConfigError> {
        self.config.rate_card_with(added)
    }

    /// Takes these for the added versions.
    pub fn set_added(&self, added: &[PriceVersion]) -> Result<(), ConfigError> {
        let card = Arc::new(self.check(added)?);
        *self.card.write().unwrap_or_else(PoisonError::into_inner) = card;
        Ok(())
    }
}
