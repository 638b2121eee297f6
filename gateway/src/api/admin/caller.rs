//! Who calls: an operator with an admin key.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts, Request};
use axum::http::request::Parts;

use crate::accounts::{Accounts, AccountsError, AuthError};
use crate::api::Shared;
use crate::api::auth::secret;
use crate::api::body::read_json;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::Fields;
use crate::api::scope::Scope;
use crate::serving::unix_ms;

/// An authenticated operator. A handler that takes one cannot be reached without an admin key.
pub(super) struct Admin {
    /// What all handlers share.
    pub(super) api: Shared,
    /// The accounts, for changes in the key's name.
    accounts: Accounts,
    scope: Arc<Scope>,
}

impl<S: Send + Sync> FromRequestParts<S> for Admin
where
    Shared: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let api = Shared::from_ref(state);
        let scope = parts.extensions.get::<Arc<Scope>>().cloned().unwrap_or_default();
        let secret = secret(&parts.headers).map_err(refusal)?.to_owned();
        let accounts = api.accounts.clone();
        let found = blocking(move || accounts.authenticate_admin(&secret, unix_ms()).map_err(refusal));
        let accounts = api.accounts.by(&found.await?.id);
        Ok(Self { api, accounts, scope })
    }
}

impl Admin {
    /// The accounts, for changes in the key's name.
    pub(super) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Works on the accounts, off the threads that serve connections.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Accounts) -> Result<T, AccountsError> + Send + 'static,
    ) -> ApiResult<T> {
        let accounts = self.accounts.clone();
        blocking(move || work(&accounts).map_err(ApiError::from)).await
    }

    /// The fields of a body.
    pub(super) async fn fields(&self, request: Request) -> ApiResult<Fields> {
        let (parts, body) = request.into_parts();
        Fields::root(read_json(&self.scope, &parts.headers, body, self.api.body).await?)
    }
}

/// Runs `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> ApiResult<T> + Send + 'static,
) -> ApiResult<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| {
        Err(ApiError::new(Code::ServerError, "The server had an error. Try again shortly."))
    })
}

fn refusal(error: AuthError) -> ApiError {
    match error {
        AuthError::Missing => ApiError::new(
            Code::InvalidApiKey,
            "You didn't provide an admin API key. Send it as 'Authorization: Bearer YOUR_ADMIN_KEY'.",
        ),
        AuthError::Unavailable => error.into(),
        _ => ApiError::new(
            Code::InvalidApiKey,
            "Incorrect admin API key provided. Create one with 'spillway admin-keys create'.",
        ),
    }
}
