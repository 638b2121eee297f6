//! Integration tests of the engine.

mod embedder;
mod failures;
mod fairness;
mod golden;
mod grammar;
mod scheduler_properties;
mod scoring;
mod streams;
mod submit;
mod support;
