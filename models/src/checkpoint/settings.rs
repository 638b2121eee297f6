//! `config.json`: sizes and constants, under GGUF's keys.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::{CheckpointError, json, refused};
use crate::architecture::Architecture;
use crate::gguf::Value;

/// Widest head, as in [`ModelConfig`](crate::ModelConfig).
const MAX_HEAD_DIM: u64 = 1 << 10;

/// What is read of `config.json`; what says nothing about the numbers is passed over.
#[derive(Deserialize)]
pub(super) struct Config {
    model_type: String,
    hidden_size: u64,
    num_hidden_layers: u64,
    num_attention_heads: u64,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    intermediate_size: u64,
    max_position_embeddings: u64,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    /// What newer versions write instead of the two above.
    rope_parameters: Option<Rope>,
    sliding_window: Option<u64>,
    use_sliding_window: Option<bool>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    hidden_act: Option<String>,
    pub(super) tie_word_embeddings: Option<bool>,
}

#[derive(Clone, Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

/// Whether the directory's network continues texts.
pub(crate) fn is_decoder(dir: &Path) -> bool {
    #[derive(Deserialize)]
    struct Named {
        #[serde(default)]
        architectures: Vec<String>,
    }
    json::<Named>(dir, "config.json")
        .is_ok_and(|config| config.architectures.iter().any(|name| name.ends_with("ForCausalLM")))
}

pub(super) fn read(dir: &Path) -> Result<Config, CheckpointError> {
    let config: Config = json(dir, "config.json")?;
    if config.attention_bias || config.mlp_bias {
        return Err(refused("attention_bias or mlp_bias", true, "not supported"));
    }
    match config.hidden_act.as_deref() {
        None | Some("silu") => Ok(config),
        Some(other) => Err(refused("hidden_act", format!("{other:?}"), "only \"silu\" is supported")),
    }
}

impl Config {
    fn rope(&self) -> Option<&Rope> {
        self.rope_parameters.as_ref().or(self.rope_scaling.as_ref())
    }

    fn head_dim(&self) -> u64 {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    fn theta(&self) -> f64 {
        let newer = self.rope_parameters.as_ref().and_then(|rope| rope.rope_theta);
        newer.or(self.rope_theta).unwrap_or(10_000.0)
    }

    /// The longest sequence whose tokens all see each other.
    fn context_len(&self) -> u64 {
        // Qwen2 names a window that it does not use.
        let window = self.sliding_window.filter(|_| self.use_sliding_window.unwrap_or(true));
        window.unwrap_or(u64::MAX).min(self.max_position_embeddings)
    }
}

/// The settings under GGUF's keys.
pub(super) fn metadata(config: &Config) -> Result<BTreeMap<String, Value>, CheckpointError> {
    let name = if config.model_type == "mistral" { "llama" } else { config.model_type.as_str() };
    if Architecture::named(name).is_none() {
        let reason = "supported are llama, mistral, qwen2 and qwen3";
        return Err(refused("model_type", format!("{:?}", config.model_type), reason));
    }
    let sizes = [
        ("embedding_length", config.hidden_size),
        ("block_count", config.num_hidden_layers),
        ("attention.head_count", config.num_attention_heads),
        ("attention.head_count_kv", config.num_key_value_heads.unwrap_or(config.num_attention_heads)),
        ("attention.key_length", config.head_dim()),
        ("attention.value_length", config.head_dim()),
        ("feed_forward_length", config.intermediate_size),
        ("context_length", config.context_len()),
    ];
    let floats =
        [("attention.layer_norm_rms_epsilon", config.rms_norm_eps), ("rope.freq_base", config.theta())];
    let key = |key: &str| format!("{name}.{key}");
    let mut metadata: BTreeMap<String, Value> =
        sizes.into_iter().map(|(name, size)| (key(name), Value::Unsigned(size))).collect();
    metadata.extend(floats.map(|(name, value)| (key(name), Value::Float(value))));
    metadata.insert("general.architecture".to_owned(), Value::String(name.to_owned()));
    Ok(metadata)
}

/// What the frequency of each rotated pair is divided by, where that is not 1 (Llama 3.1: long periods are stretched by
/// `factor`, short ones kept, those between blended).
pub(super) fn frequency_factors(config: &Config) -> Result<Option<Vec<f32>>, CheckpointError> {
    let Some(rope) = config.rope() else { return Ok(None) };
    match rope.rope_type.as_deref() {
        None | Some("default") => return Ok(None),
        Some("llama3") => {}
        Some(other) => {
            let reason = "supported are \"default\" and \"llama3\"";
            return Err(refused("rope_type", format!("{other:?}"), reason));
        }
    }
    let (Some(factor), Some(low), Some(high), Some(original)) =
        (rope.factor, rope.low_freq_factor, rope.high_freq_factor, rope.original_max_position_embeddings)
    else {
        let reason =
            "it needs factor, low_freq_factor, high_freq_factor and original_max_position_embeddings";
        return Err(refused("rope_type", "\"llama3\"", reason));
    };
    let head_dim = config.head_dim();
    if head_dim > MAX_HEAD_DIM {
        return Err(refused("head_dim", head_dim, "1024 is the most"));
    }
    let stretched = |pair: u64| {
        let wavelength = std::f64::consts::TAU * config.theta().powf((2 * pair) as f64 / head_dim as f64);
        let kept = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 / ((1.0 - kept) / factor + kept)) as f32
    };
    Ok(Some((0..head_dim / 2).map(stretched).collect()))
}
