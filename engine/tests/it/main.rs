//! Integration tests of the engine.

mod failures;
mod golden;
mod grammar;
mod scheduler_properties;
mod streams;
mod submit;
mod support;
