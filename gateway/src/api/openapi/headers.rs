//! Headers of all routes in the document.

use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{Object, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{Components, OpenApi, Ref, RefOr, Required};

use super::operations;
use crate::api::auth::{MAX_IDEMPOTENCY_KEY, RECEIPT};
use crate::api::idempotency::{ORIGINAL, REPLAYED, UPLOADS};

const IDEMPOTENCY_KEY: &str = "IdempotencyKey";
const SIGNED_RECEIPT: &str = "SignedReceipt";

/// How the routes end whose answers can carry a receipt.
const BILLED: &[&str] = &[
    "/chat/completions",
    "/completions",
    "/messages",
    "/responses",
    "/responses/compact",
    "/embeddings",
    "/rerank",
    "/score",
];

/// Name, type and meaning of what answers carry.
const OF_ANSWERS: &[(&str, Type, &str)] = &[
    ("x-request-id", Type::String, "Names the request in receipts and reports."),
    ("openai-processing-ms", Type::Integer, "Time until the answer's header."),
];

/// What answers to a caller with a key carry besides.
const OF_LIMITS: &[(&str, Type, &str)] = &[
    ("x-ratelimit-limit-requests", Type::Integer, "Requests per minute."),
    ("x-ratelimit-remaining-requests", Type::Integer, "What is left of them."),
    ("x-ratelimit-reset-requests", Type::String, "Until all of them are, like `1m3s`."),
    ("x-ratelimit-limit-tokens", Type::Integer, "Tokens per minute."),
    ("x-ratelimit-remaining-tokens", Type::Integer, "What is left of them."),
    ("x-ratelimit-reset-tokens", Type::String, "Until all of them are, like `1m3s`."),
];

/// What answers to a request with an `Idempotency-Key` may carry.
const OF_REPEATS: &[(&str, Type, &str)] = &[
    (REPLAYED, Type::Boolean, "`true`: the answer, or its beginning, was there before."),
    (ORIGINAL, Type::String, "The request that was carried out, and billed."),
];

/// What a refusal carries where another attempt has a chance, and where it has none.
const OF_REFUSALS: &[(&str, Type, &str)] = &[
    ("retry-after", Type::Integer, "Seconds after which the same request has a chance."),
    ("retry-after-ms", Type::Integer, "The same in milliseconds."),
    ("x-should-retry", Type::Boolean, "`false`: the same request has no chance."),
];

/// Adds what requests and answers carry in their headers.
pub(super) fn add(api: &mut OpenApi) {
    let components = api.components.get_or_insert_default();
    describe(components, &[OF_ANSWERS, OF_LIMITS, OF_REPEATS, OF_REFUSALS].concat());
    refused(components, &[OF_ANSWERS, OF_LIMITS, OF_REFUSALS].concat());
    components.parameters.insert(IDEMPOTENCY_KEY.to_owned(), RefOr::T(idempotency_key()));
    components.parameters.insert(SIGNED_RECEIPT.to_owned(), RefOr::T(signed_receipt()));
    for (path, item) in &mut api.paths.paths {
        if let Some(operation) = item.post.as_mut().filter(|_| path != UPLOADS) {
            let is_billed = BILLED.iter().any(|end| path.ends_with(end));
            for name in [Some(IDEMPOTENCY_KEY), is_billed.then_some(SIGNED_RECEIPT)].into_iter().flatten() {
                let reference = Ref::new(format!("#/components/parameters/{name}"));
                operation.parameters.get_or_insert_default().push(RefOr::Ref(reference));
            }
            successes(operation, OF_REPEATS);
        }
        for operation in operations(item) {
            successes(operation, OF_ANSWERS);
            if operation.security.is_none() {
                successes(operation, OF_LIMITS);
            }
        }
    }
}

/// The same for routes without limits and replays.
pub(super) fn add_plain(api: &mut OpenApi) {
    let components = api.components.get_or_insert_default();
    let headers = [OF_ANSWERS, OF_REFUSALS].concat();
    describe(components, &headers);
    refused(components, &headers);
    let all = api.paths.paths.values_mut().flat_map(operations);
    all.for_each(|operation| successes(operation, OF_ANSWERS));
}

fn describe(components: &mut Components, headers: &[(&str, Type, &str)]) {
    for (name, kind, about) in headers {
        let schema: Object = ObjectBuilder::new().schema_type(SchemaType::new(kind.clone())).build();
        let header: Header = HeaderBuilder::new().schema(Some(schema)).description(Some(*about)).build();
        components.headers.insert((*name).to_owned(), RefOr::T(header));
    }
}

/// Adds headers to the refusals.
fn refused(components: &mut Components, headers: &[(&str, Type, &str)]) {
    for response in components.responses.values_mut() {
        if let RefOr::T(response) = response {
            response.headers.extend(headers.iter().map(|(name, ..)| reference(name)));
        }
    }
}

fn signed_receipt() -> Parameter {
    let about = "`true`: what the answer cost comes with it as `receipt`, signed; a stream has it in its last events.";
    let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["true", "false"])).build();
    ParameterBuilder::new()
        .name(RECEIPT)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(about))
        .schema(Some(schema))
        .build()
}

fn idempotency_key() -> Parameter {
    let about = "Sent again with the same key, a request is the same request: it runs once, is billed once and has one \
                 answer.";
    let schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(MAX_IDEMPOTENCY_KEY))
        .pattern(Some("^[ -~]*$"))
        .build();
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(about))
        .schema(Some(schema))
        .build()
}

/// Adds headers to the answers of an operation that are no refusals.
fn successes(operation: &mut Operation, headers: &[(&str, Type, &str)]) {
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            response.headers.extend(headers.iter().map(|(name, ..)| reference(name)));
        }
    }
}

fn reference(name: &str) -> (String, RefOr<Header>) {
    (name.to_owned(), RefOr::Ref(Ref::new(format!("#/components/headers/{name}"))))
}
