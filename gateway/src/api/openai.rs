//! The OpenAI-compatible surface.

pub mod chat;
mod chat_messages;
pub mod chat_request;
mod chat_tools;
pub mod completion_request;
pub mod completions;
pub mod embeddings;
mod format;
pub mod models;
pub mod moderations;
pub mod params;
pub mod surface;
pub mod wire;
