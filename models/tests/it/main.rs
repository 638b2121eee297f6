//! The crate from outside: hostile files, the real demo model, templates and fetching.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests are tests too

mod architectures;
mod checkpoint;
mod cuda;
mod encoder;
mod fetching;
mod gguf_corpus;
mod last_token;
mod random_llama;
mod real_model;
mod sample;
mod sentencepiece;
mod templates;
