//! Arithmetic on buffers: the ops a transformer step is made of, each behind one signature over candle tensors.
//!
//! | op | what it does |
//! |---|---|
//! | [`matmul`], [`matmul_fused`] | activations times a [`PackedMatrix`] (4-bit, 8-bit or float panels), with the norm before it and the activation or sum after it |
//! | [`embed`] | rows of a [`PackedMatrix`] as f32 |
//! | [`attention`] | rotary embedding, write to the paged cache, causal attention over the pages |
//! | [`attend_all`], [`add_norm`], [`bias_gelu`] | what bidirectional encoders need: no cache, every token sees all |
//! | [`rms_norm`], [`silu_mul`], [`select_rows`] | the small ones |
//! | [`dequantize`] | the file formats of [`WeightType`] in plain form |
//!
//! Each op has a plain twin in [`mod@reference`], and each instruction set ([`cpu::paths`]) is held to it by tests.
//! Results are independent of the batch: a row's bits do not depend on how many rows share the call, on the number of
//! threads, or on how a prompt is cut into chunks.
//!
//! The crate knows nothing about models, sequences or requests. It is the only one with `unsafe` code.
//!
//! An op shares its work among the cores through the crate's own worker threads.

mod activation;
mod alloc;
mod attention;
pub mod cpu;
pub mod cuda;
mod embed;
mod encoder;
mod layer_cache;
mod matmul;
mod meta;
mod norm;
mod packed;
mod parallel;
mod pool;
pub mod reference;
mod rope;
mod weight_type;

pub use activation::silu_mul;
pub use attention::{QkvExtras, attention};
pub use embed::{embed, select_rows};
pub use encoder::{add_norm, attend_all, bias_gelu};
pub use layer_cache::LayerCache;
pub use matmul::{Fusion, matmul, matmul_fused};
pub use meta::{AttentionMeta, HeadShape};
pub use norm::rms_norm;
pub use packed::{PackError, PackedMatrix};
pub use parallel::for_each_mut;
pub use pool::on_one_thread;
pub use rope::RopeTable;
pub use weight_type::{WeightType, dequantize};

/// Name of the instruction set the ops use on this machine: `"avx2"` or `"portable"`.
pub fn isa() -> &'static str {
    cpu::path().name()
}
