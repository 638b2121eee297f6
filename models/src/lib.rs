//! What a network is: weight files, architectures, tokenizer, chat template and model cards.
//!
//! It does not know who asked, when, or in which order sequences are served.
#![forbid(unsafe_code)]
