//! The document of the operator's routes, made from the code: `GET /openapi.json` of the private listener.

pub mod answers;
pub mod requests;

use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use utoipa::openapi::OpenApi as Description;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::api::openapi::of_operator;

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Spillway, the operator's side",
        version = env!("CARGO_PKG_VERSION"),
        description = "Customers, projects, keys, money. Served on the private listener, which no customer should reach; \
                       fields that are not listed are refused by name.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        super::admin_keys::create,
        super::admin_keys::list,
        super::admin_keys::retrieve,
        super::admin_keys::delete,
        super::audit_logs::list,
        super::projects::create,
        super::projects::list,
        super::projects::retrieve,
        super::projects::update,
        super::projects::archive,
        super::keys::create,
        super::keys::list,
        super::keys::retrieve,
        super::keys::update,
        super::keys::delete,
        super::organizations::create,
        super::organizations::list,
        super::organizations::retrieve,
        super::organizations::update,
        super::credits::balance,
        super::credits::list,
        super::credits::create,
        super::budgets::set,
        super::budgets::list,
        super::budgets::remove,
        super::prices::list,
        super::prices::create,
        super::leases::list,
        super::leases::reclaim,
    ),
    tags(
        (name = "organizations", description = "Customers: Who pays."),
        (name = "projects", description = "Projects: What keys, limits and reports belong to."),
        (name = "keys", description = "Keys: What customers call with."),
        (name = "money", description = "Money: Credit, budgets, prices."),
        (name = "leases", description = "Leases: Capacity that was sold ahead."),
        (name = "admin keys", description = "Admin keys: What operators call with."),
        (name = "audit log", description = "Audit log: Who changed what."),
    ),
    security(("key" = [])),
    modifiers(&Common),
)]
struct Document;

/// What all routes have in common.
struct Common;

impl Modify for Common {
    fn modify(&self, api: &mut Description) {
        let mut scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        scheme.description = Some("An admin key: `spillway admin-keys create`.".to_owned());
        api.components.get_or_insert_default().add_security_scheme("key", SecurityScheme::Http(scheme));
        of_operator(api);
    }
}

/// It does not change while the process lives.
static JSON: LazyLock<String> = LazyLock::new(|| {
    serde_json::to_string(&Document::openapi())
        .expect("the document has string keys and no failing serializers")
});

/// The document.
pub async fn document() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], JSON.as_str()).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::admin::ROUTES;

    #[test]
    fn every_route_stands_in_the_document_and_references_lead_somewhere() {
        let document = serde_json::to_value(Document::openapi()).unwrap();
        let source = include_str!("../admin.rs");
        let mut routes = BTreeSet::new();
        for call in source.split(".route(ROUTES[").skip(1) {
            let (index, handlers) = call.split_once("],").unwrap();
            let handlers = handlers.split('\n').next().unwrap();
            for method in ["get", "post", "delete"] {
                if handlers.contains(&format!(" {method}(")) || handlers.contains(&format!(".{method}(")) {
                    routes.insert((ROUTES[index.parse::<usize>().unwrap()], method));
                }
            }
        }
        assert!(routes.len() > 20, "the routes of admin.rs cannot be read any more: {routes:?}");
        let mut ids = BTreeSet::new();
        let mut listed = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                listed.insert((path.as_str(), method.as_str()));
                assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{path}");
                assert!(operation["responses"]["401"].is_object(), "{method} {path} has no refusals");
            }
        }
        assert_eq!(listed, routes);
        for reference in document.to_string().split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer} is referred to and not there");
        }
    }
}
