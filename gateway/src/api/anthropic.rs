//! The Anthropic-compatible surface: `POST /v1/messages` and its errors.

mod content;
mod error;
pub mod messages;
mod request;
mod surface;
mod tools;

pub use error::{dress, speaks, status_of};
