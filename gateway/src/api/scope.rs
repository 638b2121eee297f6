//! What belongs to one HTTP request from its first layer to its last byte.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::error::Code;
use crate::ledger::Sha256Digest;
use crate::limits::RateHeaders;
use crate::metrics::Metrics;

/// A request's own id, its begin, and the limits' figures once the caller is known.
#[derive(Debug)]
pub struct Scope {
    /// `req_` and 24 hex digits. A client's id is never taken over.
    pub request_id: String,
    /// When the header was complete.
    pub arrived: Instant,
    rate: Mutex<Option<RateHeaders>>,
    body: OnceLock<Sha256Digest>,
}

impl Scope {
    /// A request that arrives now.
    pub fn new() -> Self {
        let bytes = random::<12>();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            request_id: format!("req_{hex}"),
            arrived: Instant::now(),
            rate: Mutex::new(None),
            body: OnceLock::new(),
        }
    }

    /// The random part of the id, for the ids of answers.
    pub fn suffix(&self) -> &str {
        self.request_id.trim_start_matches("req_")
    }

    /// Notes the hash of the body as received; the first call counts.
    pub fn note_body(&self, sha256: Sha256Digest) {
        let _ = self.body.set(sha256);
    }

    /// The hash of the body, once read.
    pub fn body_sha256(&self) -> Option<Sha256Digest> {
        self.body.get().copied()
    }

    /// Notes the latest figures of the caller's limits.
    pub fn set_rate(&self, rate: RateHeaders) {
        *self.rate.lock().unwrap_or_else(PoisonError::into_inner) = Some(rate);
    }

    /// Counts the answer and writes its line into the log.
    pub fn note_answer(
        &self,
        metrics: &Metrics,
        method: &str,
        route: &'static str,
        status: u16,
        code: Option<Code>,
    ) {
        metrics.requests.add(route, status, 1);
        let row = code.map(Code::row);
        if let Some(row) = row {
            metrics.refusals.add(row.kind, row.code, 1);
        }
        tracing::info!(
            request_id = self.request_id,
            method,
            route,
            status,
            code = row.map_or("", |row| row.code),
            head_ms = u64::try_from(self.arrived.elapsed().as_millis()).unwrap_or(u64::MAX),
            "request"
        );
    }

    /// Writes id, duration and limits into an answer's header.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        let mut put = |name: &'static str, value: String| {
            let value = HeaderValue::from_str(&value).expect("ids, numbers and durations are visible ASCII");
            headers.insert(HeaderName::from_static(name), value);
        };
        put("x-request-id", self.request_id.clone());
        put("openai-processing-ms", self.arrived.elapsed().as_millis().to_string());
        put("openai-version", "2020-10-01".to_owned());
        if let Some(rate) = *self.rate.lock().unwrap_or_else(PoisonError::into_inner) {
            put("x-ratelimit-limit-requests", rate.limit_requests.to_string());
            put("x-ratelimit-remaining-requests", rate.remaining_requests.to_string());
            put("x-ratelimit-reset-requests", duration(rate.reset_requests_ms));
            put("x-ratelimit-limit-tokens", rate.limit_tokens.to_string());
            put("x-ratelimit-remaining-tokens", rate.remaining_tokens.to_string());
            put("x-ratelimit-reset-tokens", duration(rate.reset_tokens_ms));
        }
    }
}

impl Default for Scope {
    fn default() -> Self {
        Self::new()
    }
}

/// Random bytes of the operating system.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has random bytes after boot");
    bytes
}

/// A duration in the API's spelling: `250ms`, `1.5s`, `1m3s`.
fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        1_000..60_000 => format!("{}s", ms as f64 / 1_000.0),
        _ => format!("{}m{}s", ms / 60_000, (ms % 60_000).div_ceil(1_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_the_api_spells_them() {
        for (ms, want) in [(0, "0ms"), (12, "12ms"), (1_000, "1s"), (1_500, "1.5s"), (63_000, "1m3s")] {
            assert_eq!(duration(ms), want);
        }
    }

    #[test]
    fn limits_appear_once_they_are_known() {
        let scope = Scope::new();
        let mut headers = HeaderMap::new();
        scope.write_headers(&mut headers);
        assert_eq!(headers["x-request-id"].len(), 28);
        assert!(!headers.contains_key("x-ratelimit-limit-requests"));
        scope.set_rate(RateHeaders { limit_requests: 9, reset_tokens_ms: 20, ..RateHeaders::default() });
        scope.write_headers(&mut headers);
        assert_eq!(headers["x-ratelimit-limit-requests"], "9");
        assert_eq!(headers["x-ratelimit-reset-tokens"], "20ms");
    }
}
