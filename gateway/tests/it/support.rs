//! What the tests share: the server process, a raw HTTP client, the reading of streams and of exports.

mod config;
mod export;
mod http;
mod invariants;
mod postgres;
mod redis;
mod rng;
mod scale;
mod server;
mod socket;
mod stream;
mod tools;
mod watchdog;

pub(crate) use self::postgres::{database, number};
pub(crate) use self::redis::Redis;
pub(crate) use config::{Config, KeyOptions, model_id, model_path};
pub(crate) use export::{Row, Totals};
pub(crate) use http::{Method, Reply, Wire};
pub(crate) use invariants::{Seen, Trial};
pub(crate) use rng::Rng;
pub(crate) use scale::{seed, trials};
pub(crate) use server::{Server, cli, command, data_folder, eventually, said, shared};
pub(crate) use socket::Socket;
pub(crate) use stream::{Events, Item, Transcript, Usage};
pub(crate) use tools::{focus_python, frameworks_python, node_modules, python, schemathesis_python};

use serde_json::{Value, json};

/// A chat request with one user message; `extra` is merged over it.
pub(crate) fn chat(content: &str, extra: Value) -> Value {
    merged(
        json!({"model": model_id(), "messages": [{"role": "user", "content": content}], "max_tokens": 16}),
        extra,
    )
}

/// `base` with every member of the object `extra` set over it; a member that is null in `extra` and named in the
/// base as well is removed.
pub(crate) fn merged(mut base: Value, extra: Value) -> Value {
    let target = base.as_object_mut().expect("the base request is an object");
    for (name, value) in extra.as_object().expect("the extra fields are an object") {
        if value.is_null() && target.contains_key(name) {
            target.shift_remove(name);
        } else {
            target.insert(name.clone(), value.clone());
        }
    }
    base
}
