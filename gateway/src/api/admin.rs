//! The operator's side, on the private listener: every route demands an admin key.
//!
//! `/v1/organization/...` has the shapes of the OpenAI API, so that its client libraries work; `/v1/admin/...` is what
//! that API does not have. The operator sees all organisations: where that API has only one, `organization_id` names it.

mod admin_keys;
mod audit_logs;
mod budgets;
mod caller;
mod credits;
pub mod document;
mod keys;
mod leases;
mod organizations;
mod page;
mod prices;
mod projects;
mod read;

use axum::Router;
use axum::routing::{get, post};

use super::Shared;

pub use document::document;

/// All routes.
pub fn routes() -> Router<Shared> {
    Router::new()
        .route(ROUTES[0], get(admin_keys::list).post(admin_keys::create))
        .route(ROUTES[1], get(admin_keys::retrieve).delete(admin_keys::delete))
        .route(ROUTES[2], get(audit_logs::list))
        .route(ROUTES[3], get(projects::list).post(projects::create))
        .route(ROUTES[4], get(projects::retrieve).post(projects::update))
        .route(ROUTES[5], post(projects::archive))
        .route(ROUTES[6], get(keys::list).post(keys::create))
        .route(ROUTES[7], get(keys::retrieve).post(keys::update).delete(keys::delete))
        .route(ROUTES[8], get(organizations::list).post(organizations::create))
        .route(ROUTES[9], get(organizations::retrieve).post(organizations::update))
        .route(ROUTES[10], get(credits::balance))
        .route(ROUTES[11], get(credits::list).post(credits::create))
        .route(ROUTES[12], get(budgets::list).post(budgets::set).delete(budgets::remove))
        .route(ROUTES[13], get(prices::list).post(prices::create))
        .route(ROUTES[14], get(leases::list))
        .route(ROUTES[15], post(leases::reclaim))
}

/// Their paths.
pub const ROUTES: [&str; 16] = [
    "/v1/organization/admin_api_keys",
    "/v1/organization/admin_api_keys/{id}",
    "/v1/organization/audit_logs",
    "/v1/organization/projects",
    "/v1/organization/projects/{id}",
    "/v1/organization/projects/{id}/archive",
    "/v1/organization/projects/{id}/api_keys",
    "/v1/organization/projects/{id}/api_keys/{key_id}",
    "/v1/admin/organizations",
    "/v1/admin/organizations/{id}",
    "/v1/admin/organizations/{id}/balance",
    "/v1/admin/organizations/{id}/credits",
    "/v1/admin/budgets",
    "/v1/admin/prices",
    "/v1/admin/leases",
    "/v1/admin/leases/{id}/reclaim",
];
