//! Who calls: the key from the header, the identity from the accounts.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use engine::{Engine, Tier};

use super::Shared;
use super::error::{ApiError, ApiResult, Code};
use super::scope::Scope;
use crate::accounts::{AuthError, Identity, Permission};
use crate::receipts::Signer;
use crate::server::PeerAddress;
use crate::serving::{AdmitError, BatchJob, InFlight, Job, WireState, unix_ms};

/// Longest `Idempotency-Key`.
pub const MAX_IDEMPOTENCY_KEY: usize = 255;

/// Asks for a signed receipt in the answer.
pub const RECEIPT: &str = "x-spillway-receipt";

/// An authenticated caller. A handler that takes one cannot be reached without a key.
pub struct Caller {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// The request it makes.
    pub scope: Arc<Scope>,
    /// Set where the request is a line of a batch.
    pub batch: Option<BatchJob>,
    /// Whether a signed receipt is to come with the answer.
    pub wants_receipt: bool,
    /// The connection that the answer goes out on; absent where the client does not wait for it.
    pub wire: Option<Arc<WireState>>,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller
where
    Shared: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let api = Shared::from_ref(state);
        let scope = parts.extensions.get::<Arc<Scope>>().cloned().unwrap_or_default();
        let secret = secret(&parts.headers)?;
        let identity = api.accounts.authenticate(secret, unix_ms())?;
        check_rights(&identity, parts)?;
        let wire = parts.extensions.get().cloned();
        let mut caller = Self { identity, scope, batch: None, wants_receipt: false, wire };
        caller.note_limits(&api);
        check_idempotency_key(&parts.headers)?;
        caller.wants_receipt = wants_receipt(&parts.headers)?;
        Ok(caller)
    }
}

impl Caller {
    /// Notes what is left of the limits for the answer's header.
    pub fn note_limits(&self, api: &Shared) {
        let serving = &api.serving;
        self.scope.set_rate(serving.limiter.headers(&self.identity, serving.monotonic_ms()));
    }

    /// The tier that serves the request; `wanted` is absent where that is left to the project's default.
    pub fn tier(&self, api: &Shared, wanted: Option<Tier>) -> ApiResult<Tier> {
        match (self.batch, wanted) {
            (None, wanted) => match api.serving.tiers.choose(&self.identity, wanted) {
                // Whether the lease is of this model is seen at admission.
                Err(error) if error.wanted == Tier::Reserved && self.leases_something(api) => {
                    Ok(Tier::Reserved)
                }
                chosen => Ok(chosen?),
            },
            (Some(_), None | Some(Tier::Batch)) => Ok(Tier::Batch),
            (Some(_), Some(_)) => {
                let message =
                    "The lines of a batch are served in the tier 'batch'. Leave out 'service_tier'.";
                Err(ApiError::param(Code::UnsupportedValue, "service_tier", message))
            }
        }
    }

    /// What signs the receipt that is to come with the answer.
    pub fn signer(&self, api: &Shared) -> Option<Arc<Signer>> {
        self.wants_receipt.then(|| Arc::clone(&api.reports.signer))
    }

    /// Whether the project has a lease at this moment.
    pub fn leases_something(&self, api: &Shared) -> bool {
        let leases = api.serving.leases.as_ref();
        leases.is_some_and(|leases| !leases.serving(&self.identity.project_id, None, unix_ms()).is_empty())
    }

    /// Admits `job` and notes the limits, also when it is refused.
    pub async fn admit(&self, api: &Shared, engine: &Engine, job: Job) -> Result<InFlight, AdmitError> {
        let admitted = api.serving.admit(engine, job).await;
        self.note_limits(api);
        admitted
    }
}

/// The one key of a request; several are as bad as none, because proxies would disagree on which counts.
pub(super) fn secret(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut found = None;
    for name in [header::AUTHORIZATION.as_str(), "api-key", "x-api-key"] {
        for value in headers.get_all(name) {
            let text = value.to_str().map_err(|_| AuthError::Malformed)?;
            let secret = match name {
                "authorization" => bearer(text).ok_or(AuthError::Malformed)?,
                _ => text.trim(),
            };
            if found.replace(secret).is_some_and(|first| first != secret)
                || headers.get_all(name).iter().count() > 1
            {
                return Err(AuthError::Malformed);
            }
        }
    }
    found.filter(|secret| !secret.is_empty()).ok_or(AuthError::Missing)
}

fn bearer(text: &str) -> Option<&str> {
    let (scheme, secret) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

/// What the key itself allows: addresses, and routes.
fn check_rights(identity: &Identity, parts: &Parts) -> ApiResult<()> {
    let peer = parts.extensions.get::<PeerAddress>().map(|peer| peer.0.ip());
    let ranges = &identity.allowed_ips;
    if !ranges.is_empty() && !peer.is_some_and(|peer| ranges.iter().any(|range| range.contains(peer))) {
        return Err(AuthError::Address.into());
    }
    let needed = Permission::needed(parts.method.as_str(), parts.uri.path());
    if identity.allows(needed) {
        return Ok(());
    }
    let message = format!("This API key lacks the permission '{needed}'. Use one that has it.");
    Err(ApiError::new(Code::InsufficientPermissions, message))
}

fn check_idempotency_key(headers: &HeaderMap) -> ApiResult<()> {
    let fits = |key: &[u8]| {
        (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) && key.iter().all(|byte| (0x20..0x7f).contains(byte))
    };
    if headers.get_all("idempotency-key").iter().all(|key| fits(key.as_bytes())) {
        return Ok(());
    }
    let message = format!("Idempotency-Key must be 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters.");
    Err(ApiError::param(Code::InvalidValue, "Idempotency-Key", message))
}

/// Whether a signed receipt is to come with the answer.
fn wants_receipt(headers: &HeaderMap) -> ApiResult<bool> {
    let mut wanted = headers.get_all(RECEIPT).iter().map(|value| match value.as_bytes() {
        b"true" => Ok(true),
        b"false" => Ok(false),
        _ => {
            Err(ApiError::param(Code::InvalidValue, RECEIPT, format!("{RECEIPT} must be 'true' or 'false'.")))
        }
    });
    let first = wanted.next().unwrap_or(Ok(false))?;
    match wanted.next() {
        None => Ok(first),
        Some(_) => {
            let message = format!("The request must have one {RECEIPT} header, not several.");
            Err(ApiError::param(Code::InvalidValue, RECEIPT, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn keys_from_three_headers_but_only_one() {
        type Case = (&'static [(&'static str, &'static str)], Result<&'static str, AuthError>);
        let cases: &[Case] = &[
            (&[], Err(AuthError::Missing)),
            (&[("authorization", "Bearer k")], Ok("k")),
            (&[("authorization", "bearer   k")], Ok("k")),
            (&[("authorization", "Bearer ")], Err(AuthError::Missing)),
            (&[("authorization", "Basic k")], Err(AuthError::Malformed)),
            (&[("api-key", "k")], Ok("k")),
            (&[("x-api-key", "k")], Ok("k")),
            (&[("authorization", "Bearer k"), ("api-key", "k")], Ok("k")),
            (&[("authorization", "Bearer k"), ("api-key", "l")], Err(AuthError::Malformed)),
            (&[("authorization", "Bearer k"), ("authorization", "Bearer k")], Err(AuthError::Malformed)),
        ];
        for (pairs, want) in cases {
            let pairs: Vec<_> = pairs.iter().map(|(a, b)| (*a, *b)).collect();
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(
                    axum::http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    value.parse().unwrap(),
                );
            }
            assert_eq!(secret(&headers), *want);
        }
    }

    #[test]
    fn receipts_are_wanted_or_not() {
        for (values, want) in [
            (vec![], Some(false)),
            (vec!["true"], Some(true)),
            (vec!["false"], Some(false)),
            (vec!["True"], None),
            (vec![""], None),
            (vec!["true", "true"], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(RECEIPT, value.parse().unwrap());
            }
            assert_eq!(wants_receipt(&headers).ok(), want, "{values:?}");
        }
    }

    #[test]
    fn idempotency_keys() {
        assert!(check_idempotency_key(&headers(&[])).is_ok());
        assert!(check_idempotency_key(&headers(&[("idempotency-key", "a-1")])).is_ok());
        assert!(check_idempotency_key(&headers(&[("idempotency-key", "")])).is_err());
        let mut long = HeaderMap::new();
        long.insert("idempotency-key", "k".repeat(256).parse().unwrap());
        assert!(check_idempotency_key(&long).is_err());
    }
}
