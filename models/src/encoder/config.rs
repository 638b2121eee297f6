//! Sizes and constants of an encoder, from `config.json` and the card, checked against each other.

use serde::Deserialize;

use crate::card::{Card, ModelKind, Pooling};

/// Above these nothing is a sound model.
const MAX_WIDTH: usize = 1 << 16;
const MAX_LAYERS: usize = 1 << 10;
const MAX_VOCAB: usize = 1 << 24;

/// How the rows of the last layer become the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// One vector a text.
    Embedding {
        /// Which rows count.
        pooling: Pooling,
        /// Whether the vector is brought to length 1.
        normalize: bool,
    },
    /// One logit a pair of texts: first row, dense layer, tanh, linear classifier.
    CrossEncoder,
}

/// Sizes and constants of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    /// Width of the residual stream, and of an embedder's vectors.
    pub hidden: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads; divides `hidden`.
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Words in the vocabulary.
    pub vocab: usize,
    /// Rows of the position table.
    pub positions: usize,
    /// Rows of the segment table.
    pub types: usize,
    /// Longest sequence to serve: the smaller of positions and the card's own limit.
    pub max_tokens: usize,
    /// Epsilon of the normalisation.
    pub norm_eps: f32,
    /// From rows to the result.
    pub head: Head,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum EncoderConfigError {
    /// Not the JSON we expect.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A field with a value that is not supported or makes no sense.
    #[error("{field} is {value}: {reason}")]
    Field {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        reason: &'static str,
    },
}

/// The fields of a BERT-like `config.json` that shape the arithmetic.
#[derive(Debug, Deserialize)]
pub(super) struct ConfigJson {
    pub(super) model_type: String,
    #[serde(default)]
    pub(super) architectures: Vec<String>,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    pub(super) max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f32,
    hidden_act: String,
    #[serde(default)]
    position_embedding_type: Option<String>,
    #[serde(default)]
    id2label: Option<serde_json::Map<String, serde_json::Value>>,
}

impl EncoderConfig {
    /// Reads `config.json`; what the file does not say comes from the card.
    ///
    /// # Errors
    /// See [`EncoderConfigError`].
    pub fn from_json(text: &[u8], card: &Card) -> Result<Self, EncoderConfigError> {
        let json: ConfigJson = serde_json::from_slice(text)?;
        let field = |field, value: String, reason| Err(EncoderConfigError::Field { field, value, reason });
        if json.model_type != "bert" {
            return field("model_type", format!("{:?}", json.model_type), "only \"bert\" is supported");
        }
        if json.hidden_act != "gelu" {
            return field("hidden_act", format!("{:?}", json.hidden_act), "only \"gelu\" is supported");
        }
        if json.position_embedding_type.as_deref().is_some_and(|kind| kind != "absolute") {
            let value = format!("{:?}", json.position_embedding_type);
            return field("position_embedding_type", value, "only \"absolute\" is supported");
        }
        let sizes = [
            ("hidden_size", json.hidden_size, MAX_WIDTH),
            ("num_hidden_layers", json.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", json.num_attention_heads, MAX_WIDTH),
            ("intermediate_size", json.intermediate_size, MAX_WIDTH),
            ("vocab_size", json.vocab_size, MAX_VOCAB),
            ("max_position_embeddings", json.max_position_embeddings, MAX_WIDTH),
            ("type_vocab_size", json.type_vocab_size, MAX_WIDTH),
        ];
        if let Some((name, value, _)) = sizes.into_iter().find(|(_, value, max)| !(1..=*max).contains(value))
        {
            return field(name, value.to_string(), "not a size that a model can have");
        }
        if !json.hidden_size.is_multiple_of(json.num_attention_heads * 8) {
            let reason = "the heads must divide the width, and be a multiple of 8 wide";
            return field("num_attention_heads", json.num_attention_heads.to_string(), reason);
        }
        if !(json.layer_norm_eps.is_finite() && json.layer_norm_eps >= 0.0) {
            return field("layer_norm_eps", json.layer_norm_eps.to_string(), "a small number, not negative");
        }
        let head = match card.kind {
            ModelKind::Rerank => Head::CrossEncoder,
            _ => {
                let embedding = card.embedding.clone().unwrap_or_default();
                Head::Embedding { pooling: embedding.pooling, normalize: embedding.normalize }
            }
        };
        let labels = json.id2label.as_ref().map_or(2, serde_json::Map::len);
        if head == Head::CrossEncoder && labels != 1 {
            return field("id2label", labels.to_string(), "a cross-encoder with one label is needed");
        }
        let own = json.max_position_embeddings;
        Ok(Self {
            hidden: json.hidden_size,
            layers: json.num_hidden_layers,
            heads: json.num_attention_heads,
            intermediate: json.intermediate_size,
            vocab: json.vocab_size,
            positions: own,
            types: json.type_vocab_size,
            max_tokens: card.context_len.unwrap_or(own).min(own),
            norm_eps: json.layer_norm_eps,
            head,
        })
    }
}
