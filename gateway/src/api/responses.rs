//! The Responses surface: `POST /v1/responses` and what can be done with an answer later.

mod background;
pub(in crate::api) mod compact;
mod conversation;
pub(in crate::api) mod create;
mod events;
mod input;
pub(in crate::api) mod items;
mod memory;
mod object;
mod request;
mod sealed;
mod settings;
pub(in crate::api) mod socket;
pub(in crate::api) mod stored;
mod surface;

pub use compact::compact;
pub use create::{create, input_tokens, prepare};
pub use socket::{Sockets, connect};
pub use stored::{cancel, delete, input_items, retrieve};
pub use surface::Answer;
