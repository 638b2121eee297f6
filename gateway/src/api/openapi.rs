//! The document of this API, made from the code: `GET /openapi.json`, and `GET /docs` to read and try it.
//!
//! A route comes in by `#[utoipa::path(...)]` over its handler and its name in [`Document`]'s `paths`. What all routes have
//! in common - key, refusals, other names of the same route - is added by [`Common`].

pub mod capacity;
pub mod chat;
mod headers;
pub mod items;
pub mod jobs;
pub mod leases;
pub mod messages;
pub mod parts;
pub mod refusals;
pub mod reports;
pub mod responses;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod vectors;

use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response as Answer};
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi as Description, RefOr, Response};
use utoipa::{Modify, OpenApi};

use super::{anthropic, azure, batches, files, openai, organization, receipts, rerank, tokenize};

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Spillway",
        version = env!("CARGO_PKG_VERSION"),
        description = "Inference on compute that would otherwise run idle. The surfaces of OpenAI and Anthropic are \
                       spoken as their clients expect; fields that are not listed are refused by name.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        openai::chat::create,
        openai::completions::create,
        anthropic::messages::create,
        anthropic::messages::count_tokens,
        super::responses::create::create,
        super::responses::create::input_tokens,
        super::responses::socket::connect,
        super::responses::compact::compact,
        super::responses::stored::retrieve,
        super::responses::stored::delete,
        super::responses::stored::cancel,
        super::responses::stored::input_items,
        openai::embeddings::create,
        rerank::rerank,
        rerank::score,
        tokenize::tokenize,
        tokenize::detokenize,
        openai::moderations::create,
        openai::models::list,
        openai::models::retrieve,
        azure::chat,
        azure::completions,
        azure::embeddings,
        super::capacity::retrieve,
        super::quote::create,
        super::leases::offers,
        super::leases::create,
        super::leases::list,
        super::leases::retrieve,
        super::leases::end,
        files::upload::create,
        files::list,
        files::retrieve,
        files::delete,
        files::content,
        batches::create,
        batches::list,
        batches::retrieve,
        batches::cancel,
        organization::usage::completions,
        organization::usage::embeddings,
        organization::usage::costs,
        receipts::retrieve,
        receipts::keys,
        document,
        page,
    ),
    tags(
        (name = "chat", description = "Chat and completions: As OpenAI's clients speak; extensions are marked."),
        (name = "responses", description = "Responses: Conversations that the server keeps, if wanted, and can go on with."),
        (name = "messages", description = "Messages: As Anthropic's clients speak; refusals have their form, too."),
        (name = "vectors", description = "Vectors and ranking: Embeddings, and documents in order of what they have to say."),
        (name = "models", description = "Models and capacity: What is served, what it costs, and what is left of it."),
        (name = "tokens", description = "Tokens: Texts as models read them."),
        (name = "moderations", description = "Moderation: The operator's content rules, applied to your texts."),
        (name = "files", description = "Files: Input and output of batches, and whatever else you keep."),
        (name = "batches", description = "Batches: Many requests in a file, done when there is room and for less."),
        (name = "reports", description = "Usage, costs, receipts: What was used, what it cost, and the proof of it."),
        (name = "aliases", description = "Other names: Azure's names of the same routes, and others."),
        (name = "documentation", description = "Documentation: This page and what it is made from."),
    ),
    security(("key" = [])),
    modifiers(&Common),
)]
pub struct Document;

/// Routes that are others by another name.
const ALIASES: &[(&str, &str)] = &[
    ("/openai/v1/chat/completions", "/v1/chat/completions"),
    ("/openai/v1/completions", "/v1/completions"),
    ("/openai/v1/embeddings", "/v1/embeddings"),
    ("/openai/v1/responses", "/v1/responses"),
    ("/openai/v1/models", "/v1/models"),
    ("/.well-known/spillway-receipts.json", "/v1/receipts/keys"),
];

/// What all routes have in common.
struct Common;

impl Modify for Common {
    fn modify(&self, api: &mut Description) {
        let mut scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        scheme.description =
            Some("Your API key. The headers `api-key` and `x-api-key` are taken, too.".to_owned());
        api.components.get_or_insert_default().add_security_scheme("key", SecurityScheme::Http(scheme));
        for (alias, route) in ALIASES {
            if let Some(item) = api.paths.paths.get(*route) {
                let mut item = item.clone();
                for operation in operations(&mut item) {
                    operation.operation_id =
                        operation.operation_id.take().map(|id| format!("{id}_{}", slug(alias)));
                    operation.tags = Some(vec!["aliases".to_owned()]);
                }
                api.paths.paths.insert((*alias).to_owned(), item);
            }
        }
        api.paths.paths.values_mut().flat_map(operations).for_each(untyped_events);
        refusals::add(api);
        headers::add(api);
    }
}

/// What the operator's routes have in common: their refusals and headers.
pub(super) fn of_operator(api: &mut Description) {
    refusals::add(api);
    headers::add_plain(api);
    let components = api.components.get_or_insert_default();
    // Nothing there speaks as Anthropic does.
    components.responses.retain(|name, _| !name.starts_with("Message"));
    components.schemas.retain(|name, _| !name.starts_with("Message"));
}

/// Events are a text of many JSON values, which the schema of one value cannot describe.
fn untyped_events(operation: &mut Operation) {
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(Response { content, .. }) = response
            && let Some(RefOr::T(events)) = content.get_mut("text/event-stream")
        {
            events.schema = None;
        }
    }
}

/// The operations of a route.
fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete].into_iter().flatten()
}

fn slug(path: &str) -> String {
    path.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// The document as it is served; it does not change while the process lives.
static JSON: LazyLock<String> = LazyLock::new(|| {
    serde_json::to_string(&Document::openapi())
        .expect("the document has string keys and no failing serializers")
});

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "documentation",
    security(()),
    responses((status = 200, description = "OpenAPI 3.1.", body = Object)),
)]
pub async fn document() -> Answer {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], JSON.as_str()).into_response()
}

/// A page to read this document with, and to try it.
#[utoipa::path(
    get,
    path = "/docs",
    tag = "documentation",
    security(()),
    responses((status = 200, description = "The page.", body = String, content_type = "text/html")),
)]
pub async fn page() -> Answer {
    // Nothing is loaded from elsewhere, and nobody may put the page, with a key in it, into a frame.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)),
    ];
    (headers, include_str!("openapi/page.html")).into_response()
}
