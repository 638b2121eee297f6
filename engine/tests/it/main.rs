//! Integration tests of the engine.

mod cuda;
mod embedder;
mod failures;
mod fairness;
mod golden;
mod grammar;
#[path = "../../../models/tests/it/random_llama.rs"]
mod random_llama;
#[allow(dead_code)] // the writer of files serves other tests too
#[path = "../../../models/tests/it/sample.rs"]
mod sample;
mod scheduler_properties;
mod scoring;
mod streams;
mod submit;
mod support;
