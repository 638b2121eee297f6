use std::collections::BTreeSet;

use super::testing::document;

/// Routes of `app.rs` as the document spells them: method and path.
fn routes() -> BTreeSet<(String, String)> {
    let source = include_str!("../../app.rs");
    let public = source.split("pub fn public").nth(1).unwrap().split("\n}\n").next().unwrap();
    let mut routes = BTreeSet::new();
    for call in public.split(".route(").skip(1) {
        let (path, handlers) = call.split_once(',').unwrap();
        let path = path.trim().trim_matches('"').replace("{*", "{");
        let handlers = handlers.split("\n        .").next().unwrap();
        for method in ["get", "post", "put", "patch", "delete"] {
            if handlers.contains(&format!(" {method}(")) || handlers.contains(&format!(".{method}(")) {
                routes.insert((method.to_owned(), path.clone()));
            }
        }
    }
    routes
}

#[test]
fn every_route_stands_in_the_document_and_the_other_way_round() {
    let document = document();
    let mut listed = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            listed.insert((method.clone(), path.clone()));
        }
    }
    let routes = routes();
    assert!(routes.len() > 30, "the routes of app.rs cannot be read any more: {routes:?}");
    let missing: Vec<_> = routes.difference(&listed).collect();
    assert!(
        missing.is_empty(),
        "routes of app.rs that are not in the document: {missing:?}. Put #[utoipa::path(...)] over the handler and its \
         name into `paths` of api/openapi.rs; another name of a documented route goes into `ALIASES` there."
    );
    let gone: Vec<_> = listed.difference(&routes).collect();
    assert!(gone.is_empty(), "routes of the document that are not in app.rs: {gone:?}");
}

#[test]
fn references_lead_somewhere_and_ids_are_unique() {
    let document = document();
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer} is referred to and not there");
    }
    let mut ids = BTreeSet::new();
    let tags: Vec<_> = document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].clone()).collect();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id), "{method} {path}: the id {id} occurs twice");
            assert!(tags.contains(&operation["tags"][0]), "{method} {path} has a tag without a title");
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path}");
            assert!(operation["responses"]["500"].is_object(), "{method} {path} has no refusals");
        }
    }
}

#[test]
fn requests_that_cost_take_an_idempotency_key() {
    let document = document();
    let key = serde_json::json!({"$ref": "#/components/parameters/IdempotencyKey"});
    let takes = |path: &str, method: &str| {
        let parameters = document["paths"][path][method]["parameters"].as_array();
        parameters.is_some_and(|parameters| parameters.contains(&key))
    };
    assert!(takes("/v1/chat/completions", "post") && takes("/v1/batches", "post"));
    assert!(!takes("/v1/files", "post") && !takes("/v1/models", "get"));
    let headers = &document["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["headers"];
    assert!(headers["x-request-id"].is_object() && headers["idempotent-replayed"].is_object(), "{headers}");
    let refused = &document["components"]["responses"]["Refusal503"]["headers"];
    assert!(refused["retry-after"].is_object(), "{refused}");
}

#[test]
fn refusals_come_from_the_table() {
    let document = document();
    let refusal = &document["components"]["responses"]["Refusal429"]["description"];
    assert!(refusal.as_str().unwrap().contains("rate_limit_exceeded"), "{refusal}");
    let chat = &document["paths"]["/v1/chat/completions"]["post"]["responses"];
    assert!(chat["415"].is_object() && chat["429"].is_object() && !chat["402"].is_object(), "{chat}");
    let message = &document["paths"]["/v1/messages"]["post"]["responses"];
    assert!(message["529"].is_object() && message["402"].is_object(), "{message}");
    let details = &document["components"]["schemas"]["RateDetails"]["properties"];
    assert!(details["admitted_now"].is_object(), "{details}");
    let keys = &document["paths"]["/v1/receipts/keys"]["get"]["responses"];
    assert!(!keys["401"].is_object() && !keys["413"].is_object(), "{keys}");
}
