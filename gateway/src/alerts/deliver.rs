//! One webhook request.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::accounts::Alert;
use crate::civil;
use crate::config::{AlertsSection, WEBHOOK_SECRET_PREFIX};

/// Longest pause between two attempts.
const MAX_PAUSE_MS: u64 = 3_600_000;

/// Where alerts go, and how they are signed.
#[derive(Clone)]
pub struct Hook {
    pub(super) section: AlertsSection,
    url: String,
    key: Vec<u8>,
    agent: ureq::Agent,
}

/// Why alerts cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error("alerts.secret is not {WEBHOOK_SECRET_PREFIX} and base64: {0}")]
pub struct HookError(#[from] base64::DecodeError);

impl Hook {
    /// `None` where no address is configured.
    pub fn new(section: &AlertsSection) -> Result<Option<Self>, HookError> {
        let (Some(url), Some(secret)) = (&section.url, &section.secret) else { return Ok(None) };
        let key = STANDARD.decode(secret.trim_start_matches(WEBHOOK_SECRET_PREFIX))?;
        // A redirect could lead the signed text anywhere.
        let agent =
            ureq::AgentBuilder::new().timeout(Duration::from_secs(section.timeout_s)).redirects(0).build();
        Ok(Some(Self { section: section.clone(), url: url.clone(), key, agent }))
    }

    /// Pause after so many attempts, doubling.
    pub(super) fn pause_ms(&self, attempts: u32) -> u64 {
        let first = self.section.retry_first_s * 1_000;
        first.saturating_mul(1 << attempts.saturating_sub(1).min(20)).min(MAX_PAUSE_MS)
    }

    /// Sends an alert once; blocks.
    pub(super) fn deliver(&self, alert: &Alert, now_ms: u64) -> Result<(), String> {
        let (id, timestamp) = (alert.id(), (now_ms / 1_000).to_string());
        let body = event(alert).to_string();
        let sent = self
            .agent
            .post(&self.url)
            .set("content-type", "application/json")
            .set("webhook-id", &id)
            .set("webhook-timestamp", &timestamp)
            .set("webhook-signature", &signature(&self.key, &id, &timestamp, &body))
            .send_string(&body);
        match sent {
            Ok(answer) if (200..300).contains(&answer.status()) => Ok(()),
            Ok(answer) => Err(format!("the receiver answered {}", answer.status())),
            Err(ureq::Error::Status(status, _)) => Err(format!("the receiver answered {status}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Signs a webhook as the Standard Webhooks specification says.
pub fn signature(key: &[u8], id: &str, timestamp: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key length fits");
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

fn event(alert: &Alert) -> Value {
    let budget = &alert.budget;
    json!({
        "type": "spend_alert.triggered",
        "timestamp": civil::format_ms(alert.at_ms),
        "data": {
            "scope": budget.scope.as_str(),
            "subject_id": budget.id,
            "period": budget.period.as_str(),
            "period_start": civil::format_ms(alert.start_ms),
            "period_end": alert.end_ms.map(civil::format_ms),
            "threshold_percent": alert.threshold,
            "limit_usd": budget.limit.to_usd(),
            "spent_usd": alert.spent.to_usd(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_as_the_specification_says() {
        // The example of the specification's reference libraries.
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let (id, timestamp) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330");
        assert_eq!(
            signature(&key, id, timestamp, r#"{"test": 2432232314}"#),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }
}
