//! What is timed: the shapes of an 8B network, or tiny ones that only show that all of it runs.

use kernels::HeadShape;
use models::{Architecture, ModelConfig};

/// Sizes of all that is timed.
pub(crate) struct Shapes {
    /// Bytes of the copy that gives the bandwidth.
    pub(crate) copy: usize,
    pub(crate) heads: HeadShape,
    /// Sequences and their tokens.
    pub(crate) decode: &'static [(usize, usize)],
    /// New tokens and all tokens of a sequence.
    pub(crate) prefill: &'static [(usize, usize)],
    /// Rows and columns of weights.
    pub(crate) linear: &'static [(usize, usize)],
    /// Rows of activations.
    pub(crate) batches: &'static [usize],
    pub(crate) network: ModelConfig,
    /// Decoding sequences of a step, and the tokens each has.
    pub(crate) steps: (&'static [usize], usize),
    /// Tokens of a prompt.
    pub(crate) prompts: &'static [usize],
}

impl Shapes {
    /// Those of Llama 3.1 8B, with so many layers.
    pub(crate) fn full(layers: usize) -> Self {
        Self {
            copy: 1 << 30,
            heads: HeadShape { heads: 32, kv_heads: 8, head_dim: 128 },
            decode: &[(1, 8192), (8, 8192), (32, 8192), (128, 2048), (256, 1024)],
            prefill: &[(2048, 2048), (8192, 8192), (512, 8192)],
            linear: &[(6144, 4096), (28_672, 4096), (4096, 14_336), (128_256, 4096)],
            batches: &[1, 8, 32, 256, 2048],
            network: ModelConfig {
                architecture: Architecture::LLAMA,
                hidden: 4096,
                layers,
                heads: 32,
                kv_heads: 8,
                head_dim: 128,
                intermediate: 14_336,
                vocab: 128_256,
                context_len: 8192,
                rms_eps: 1e-5,
                rope_theta: 500_000.0,
                rotary_dim: 128,
            },
            steps: (&[1, 8, 32, 128, 256], 1024),
            prompts: &[512, 2048],
        }
    }

    /// Small enough for the stand-in for a driver.
    pub(crate) fn tiny() -> Self {
        let full = Self::full(1);
        Self {
            copy: 1 << 20,
            heads: HeadShape { heads: 4, kv_heads: 2, head_dim: 64 },
            decode: &[(1, 600), (2, 40)],
            prefill: &[(20, 20), (5, 40)],
            linear: &[(64, 128)],
            batches: &[1, 300],
            network: ModelConfig {
                hidden: 128,
                heads: 4,
                kv_heads: 2,
                head_dim: 64,
                intermediate: 256,
                vocab: 96,
                context_len: 128,
                rotary_dim: 64,
                ..full.network
            },
            steps: (&[1, 3], 40),
            prompts: &[20],
        }
    }
}
