//! Sizes and constants of a network, read from metadata and checked against each other.

use crate::architecture::Architecture;
use crate::gguf::{GgufError, Header};

/// Sizes and constants of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// What sets the network apart.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Words in the vocabulary, rows of the embedding.
    pub vocab: usize,
    /// Longest sequence in tokens.
    pub context_len: usize,
    /// Epsilon of the normalisation.
    pub rms_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Leading values of a head that are rotated; even, at most `head_dim`.
    pub rotary_dim: usize,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The metadata is unreadable or incomplete.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    /// An architecture without an implementation.
    #[error("architecture {0:?} is not supported (supported: {supported:?})", supported = Architecture::ALL.map(|one| one.name))]
    Architecture(String),
    /// A value outside its range.
    #[error("{key} is {value}, expected {expected}")]
    Range {
        /// The metadata key.
        key: String,
        /// The value found.
        value: String,
        /// The allowed range.
        expected: String,
    },
    /// A feature of the architecture that is not implemented.
    #[error("{key} = {value} is not supported")]
    Unsupported {
        /// The metadata key.
        key: String,
        /// The value found.
        value: String,
    },
}

struct Keys<'a> {
    header: &'a Header,
    architecture: &'a str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn optional_size(&self, key: &str, limit: usize) -> Result<Option<usize>, ConfigError> {
        let key = self.name(key);
        let Some(value) = self.header.unsigned(&key)? else { return Ok(None) };
        match usize::try_from(value) {
            Ok(n) if (1..=limit).contains(&n) => Ok(Some(n)),
            _ => Err(range(key, value, format!("1 to {limit}"))),
        }
    }

    fn size(&self, key: &str, limit: usize) -> Result<usize, ConfigError> {
        Ok(self.optional_size(key, limit)?.ok_or_else(|| GgufError::Missing(self.name(key)))?)
    }

    fn float(&self, key: &str, default: Option<f64>, low: f64, high: f64) -> Result<f32, ConfigError> {
        let key = self.name(key);
        let value = self.header.float(&key)?.or(default).ok_or_else(|| GgufError::Missing(key.clone()))?;
        if !(low..=high).contains(&value) {
            return Err(range(key, value, format!("{low} to {high}")));
        }
        #[allow(clippy::cast_possible_truncation)]
        Ok(value as f32)
    }
}

fn range(key: String, value: impl ToString, expected: String) -> ConfigError {
    ConfigError::Range { key, value: value.to_string(), expected }
}

impl ModelConfig {
    /// Reads and checks the configuration. The vocabulary's size is that of the token embedding.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn from_header(header: &Header) -> Result<Self, ConfigError> {
        const ARCHITECTURE: &str = "general.architecture";
        let name = header.string(ARCHITECTURE)?.ok_or_else(|| GgufError::Missing(ARCHITECTURE.to_owned()))?;
        let Some(architecture) = Architecture::named(name) else {
            return Err(ConfigError::Architecture(name.to_owned()));
        };
        let keys = Keys { header, architecture: name };
        let hidden = keys.size("embedding_length", 1 << 16)?;
        let heads = keys.size("attention.head_count", 1 << 10)?;
        let head_dim = match keys.optional_size("attention.key_length", 1 << 10)? {
            Some(n) => n,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                let key = keys.name("attention.head_count");
                return Err(range(key, heads, format!("a divisor of the embedding length {hidden}")));
            }
        };
        let config = Self {
            architecture,
            hidden,
            layers: keys.size("block_count", 1 << 10)?,
            heads,
            kv_heads: keys.optional_size("attention.head_count_kv", heads)?.unwrap_or(heads),
            head_dim,
            intermediate: keys.size("feed_forward_length", 1 << 20)?,
            vocab: vocab(&keys)?,
            context_len: keys.size("context_length", 1 << 20)?,
            rms_eps: keys.float("attention.layer_norm_rms_epsilon", None, 0.0, 0.1)?,
            rope_theta: keys.float("rope.freq_base", Some(10_000.0), 1.0, 1e9)?,
            rotary_dim: keys.optional_size("rope.dimension_count", head_dim)?.unwrap_or(head_dim),
        };
        config.check(&keys)?;
        Ok(config)
    }

    fn check(&self, keys: &Keys) -> Result<(), ConfigError> {
        let Self { heads, kv_heads, head_dim, rotary_dim, .. } = *self;
        if heads % kv_heads != 0 {
            let key = keys.name("attention.head_count_kv");
            return Err(range(key, kv_heads, format!("a divisor of the {heads} heads")));
        }
        // The attention kernels work on whole vectors of eight.
        if head_dim % 8 != 0 {
            let key = keys.name("attention.key_length");
            return Err(range(key, head_dim, "a multiple of 8".to_owned()));
        }
        if rotary_dim % 2 != 0 {
            return Err(range(keys.name("rope.dimension_count"), rotary_dim, "an even number".to_owned()));
        }
        let value_dim = keys.optional_size("attention.value_length", 1 << 10)?.unwrap_or(head_dim);
        if value_dim != head_dim {
            let key = keys.name("attention.value_length");
            return Err(range(key, value_dim, format!("the key length {head_dim}")));
        }
        let experts = keys.name("expert_count");
        if let Some(n) = keys.header.unsigned(&experts)?.filter(|&n| n > 0) {
            return Err(ConfigError::Unsupported { key: experts, value: n.to_string() });
        }
        let scaling = keys.name("rope.scaling.type");
        match keys.header.string(&scaling)? {
            None | Some("none") => Ok(()),
            Some(other) => Err(ConfigError::Unsupported { key: scaling, value: other.to_owned() }),
        }
    }
}

fn vocab(keys: &Keys) -> Result<usize, ConfigError> {
    const EMBEDDING: &str = "token_embd.weight";
    let embedding = keys.header.tensor(EMBEDDING).ok_or_else(|| GgufError::Missing(EMBEDDING.to_owned()))?;
    let vocab = embedding.rows();
    if !(1..=1 << 20).contains(&vocab) {
        return Err(range(EMBEDDING.to_owned(), vocab, format!("1 to {} rows", 1 << 20)));
    }
    match keys.optional_size("vocab_size", 1 << 20)? {
        Some(declared) if declared != vocab => {
            Err(range(keys.name("vocab_size"), declared, format!("the embedding's {vocab} rows")))
        }
        _ => Ok(vocab),
    }
}
