//! Requests as sequences: text in, text and `Usage` out.
//!
//! It knows nothing of HTTP, keys or money.
#![forbid(unsafe_code)]
