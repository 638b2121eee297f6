//! The OpenAI-compatible surface.

pub mod chat;
pub mod chat_request;
pub mod completion_request;
pub mod completions;
pub mod models;
pub mod moderations;
pub mod params;
pub mod surface;
pub mod wire;
