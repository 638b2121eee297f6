//! What sets one Llama-like network apart from another: a new one is a new row here.

/// The differences between networks of pre-norm blocks with grouped-query attention and a gated feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    /// `general.architecture`, and the prefix of the metadata's keys.
    pub name: &'static str,
    /// Whether rotation pairs neighbours, for which files store q and k permuted; else the halves of a head (NeoX).
    pub interleaved_rope: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether each head of q and k is normalised before the rotation.
    pub head_norm: bool,
}

impl Architecture {
    /// Llama 2 and 3, and what follows them: Mistral, SmolLM.
    pub const LLAMA: Self = Self { name: "llama", interleaved_rope: true, qkv_bias: false, head_norm: false };
    /// Qwen2 and Qwen2.5.
    pub const QWEN2: Self = Self { name: "qwen2", interleaved_rope: false, qkv_bias: true, head_norm: false };
    /// Qwen3 without experts.
    pub const QWEN3: Self = Self { name: "qwen3", interleaved_rope: false, qkv_bias: false, head_norm: true };

    /// All that this crate can run.
    pub const ALL: [Self; 3] = [Self::LLAMA, Self::QWEN2, Self::QWEN3];

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|architecture| architecture.name == name)
    }
}
