//! Where alerts of budgets go.
//!
//! ```toml
//! [alerts]
//! url = "https://hooks.example.com/spend"
//! secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"    # of your own: whsec_ and `openssl rand -base64 24`
//! thresholds = [80, 100]
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::sections::section;
use super::{Bound, ConfigError, invalid};

/// What a signing secret begins with, as the Standard Webhooks specification has it.
pub const WEBHOOK_SECRET_PREFIX: &str = "whsec_";
/// Length of the key in it, in bytes, of that specification.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const MAX_THRESHOLDS: usize = 16;

section! {
    /// Alerts of budgets, by webhook.
    AlertsSection, "alerts",
    numbers {
        /// How often budgets are compared with the ledger.
        interval_s: u64 = 5, 1, 3600, "s";
        /// Time for the receiver to answer.
        timeout_s: u64 = 10, 1, 60, "s";
        /// How often an alert is told before it is given up: with the pauses below for about a day.
        attempts: u32 = 32, 1, 1000, "attempts";
        /// Pause after the first attempt; each further one is twice as long, up to an hour.
        retry_first_s: u64 = 5, 1, 3600, "s";
    }
    others {
        /// Where alerts are posted; unset: nowhere.
        url: Option<String> = None;
        /// `whsec_` and the base64 of 24 to 64 random bytes: the key of the signatures.
        secret: Option<String> = None;
        /// Percent of a budget at which it is told.
        thresholds: Vec<u32> = vec![50, 80, 100];
    }
}

impl AlertsSection {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        self.check_bounds()?;
        if let Some(url) =
            self.url.as_ref().filter(|url| !["http://", "https://"].iter().any(|s| url.starts_with(s)))
        {
            return Err(invalid("alerts.url", url, "must begin with https:// or http://"));
        }
        if self.url.is_some() != self.secret.is_some() {
            let message = "url and secret belong together: alerts are always signed";
            return Err(invalid("alerts", &"url, secret", message));
        }
        if let Some(secret) = &self.secret {
            let key = secret.strip_prefix(WEBHOOK_SECRET_PREFIX).and_then(|key| STANDARD.decode(key).ok());
            if !key.is_some_and(|key| KEY_BYTES.contains(&key.len())) {
                // The value is a secret and stays out of the message.
                let message = "must be whsec_ and the base64 of 24 to 64 random bytes";
                return Err(invalid("alerts.secret", &"(hidden)", message));
            }
        }
        let percents = self.thresholds.iter().all(|percent| (1..=100).contains(percent));
        if !percents || self.thresholds.len() > MAX_THRESHOLDS {
            let message = format!("must be at most {MAX_THRESHOLDS} numbers of 1 to 100, percent");
            return Err(invalid("alerts.thresholds", &format!("{:?}", self.thresholds), &message));
        }
        Ok(())
    }
}
