//! For the readers' own tests: what they read is what the document lists.

use std::collections::BTreeSet;

use serde_json::Value;
use utoipa::OpenApi;

use super::Document;
use crate::api::fields::taken;

/// The document as JSON.
pub(crate) fn document() -> Value {
    serde_json::to_value(Document::openapi()).unwrap()
}

/// Fails unless `read`, which reads a request that is right, takes exactly the fields that the document lists for `schema`.
pub(crate) fn assert_documented(schema: &str, read: impl FnOnce()) {
    taken::start();
    read();
    let read: BTreeSet<String> = taken::finish();
    let document = document();
    let properties = &document["components"]["schemas"][schema]["properties"];
    let listed: BTreeSet<String> =
        properties.as_object().unwrap_or_else(|| panic!("no schema {schema}")).keys().cloned().collect();
    let unlisted: Vec<_> = read.difference(&listed).collect();
    assert!(unlisted.is_empty(), "{schema} in api/openapi/ lacks fields that are read: {unlisted:?}");
    let unread: Vec<_> = listed.difference(&read).collect();
    assert!(unread.is_empty(), "{schema} in api/openapi/ has fields that nobody reads: {unread:?}");
}
