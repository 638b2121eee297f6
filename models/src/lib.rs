//! What a network is: weight files, architectures, tokenizer, chat template and model cards.
//!
//! It does not know who asked, when, or in which order sequences are served.
//!
//! A model file is opened by [`load`], which checks it before it believes it: header ([`gguf`]), sizes
//! ([`config`]), weights, tokenizer ([`Tokenizer`]) and chat template ([`ChatTemplate`]). What comes out is a
//! [`Model`], whose only verb is one forward pass over a ragged [`Batch`] and a paged [`KvCache`].
//!
//! Embedders and cross-encoders are opened by [`load_encoder`] from safetensors and become an [`Encoder`], whose only verb is
//! one pass over whole [`Sequences`].
#![forbid(unsafe_code)]

mod architecture;
pub mod card;
pub mod chat_template;
mod checkpoint;
pub mod config;
mod cuda;
pub mod decoder;
pub mod dialect;
pub mod encoder;
pub mod fetch;
pub mod gguf;
mod layers;
mod llama;
mod load;
mod model;
mod place;
pub mod safetensors;
pub mod tokenizer;
mod weights;

pub use architecture::Architecture;
pub use card::{
    Card, CardError, Companion, EmbeddingCard, FileSpec, ModelKind, Pooling, SamplingDefaults, Source, card,
    cards,
};
pub use chat_template::{ChatMessage, ChatTemplate, Conversation, Prompt, TemplateError, Tool, ToolCall};
pub use checkpoint::CheckpointError;
pub use config::{ConfigError, ModelConfig};
#[doc(hidden)]
pub use cuda::synthetic;
pub use decoder::Decoder;
pub use dialect::{Dialect, OutputParser, Said, ToolSyntax};
pub use encoder::{
    Encoder, EncoderInput, EncoderLoadError, EncoderTokenizer, LoadedEncoder, Sequences, load_encoder,
};
pub use fetch::{import, pull};
pub use load::{LoadError, Loaded, load, load_on};
pub use model::{Batch, KvCache, Model};
pub use place::Place;
pub use tokenizer::{TokenizeError, Tokenizer, TokenizerError};
pub use weights::WeightError;
