//! A decoder as an embedder: the network of a chat model reads a text, and the row of its last token is the vector.

use std::path::Path;
use std::sync::Arc;

use candle_core::Result;
use kernels::AttentionMeta;

use super::{
    Encoder, EncoderConfig, EncoderConfigError, EncoderLoadError, EncoderTokenizer, Head, LoadedEncoder,
    Sequences, normalize,
};
use crate::card::{Card, EmbeddingCard, ModelKind, Pooling};
use crate::llama::Llama;
use crate::load::open_llama;
use crate::model::{Batch, Model};

/// Tokens of a page of the keys and values, which live for one step.
const PAGE: usize = 32;

struct LastToken {
    network: Llama,
    config: EncoderConfig,
}

/// Loads the GGUF file at `path`, whose card must ask for the last token.
pub(super) fn load(path: &Path, card: Card) -> std::result::Result<LoadedEncoder, EncoderLoadError> {
    let embedding = match (card.kind, &card.embedding) {
        (ModelKind::Embedding, Some(embedding)) if embedding.pooling == Pooling::Last => embedding.clone(),
        (ModelKind::Embedding, Some(embedding)) => {
            let reason = "a decoder's vector is that of the last token";
            let value = format!("{:?}", embedding.pooling).to_lowercase();
            return Err(EncoderConfigError::Field { field: "embedding.pooling", value, reason }.into());
        }
        (kind, _) => return Err(EncoderLoadError::Kind(kind)),
    };
    let EmbeddingCard { normalize, append_eos, .. } = embedding;
    let (network, tokenizer) = open_llama(path, card.context_len)?;
    let sizes = network.config();
    let config = EncoderConfig {
        hidden: sizes.hidden,
        layers: sizes.layers,
        heads: sizes.heads,
        intermediate: sizes.intermediate,
        vocab: sizes.vocab,
        positions: sizes.context_len,
        types: 1,
        max_tokens: sizes.context_len,
        norm_eps: sizes.rms_eps,
        head: Head::Embedding { pooling: Pooling::Last, normalize },
    };
    let tokenizer = Arc::new(EncoderTokenizer::of_decoder(tokenizer, append_eos));
    Ok(LoadedEncoder { encoder: Box::new(LastToken { network, config }), tokenizer, card })
}

impl LastToken {
    /// All sequences as prompts of one step, and the pages that they take.
    fn batch(&self, sequences: &Sequences) -> Result<(Batch, usize)> {
        let Sequences { token_ids, type_ids, starts } = sequences;
        if starts.first() != Some(&0) || starts.last().map(|end| *end as usize) != Some(token_ids.len()) {
            candle_core::bail!("{} tokens lie between {starts:?}", token_ids.len());
        }
        if let Some(ty) = type_ids.iter().find(|ty| **ty > 0) {
            candle_core::bail!("segment {ty} of 1");
        }
        let lengths = || starts.windows(2).map(|ends| ends[1].saturating_sub(ends[0]) as usize);
        if let Some(length) = lengths().find(|length| !(1..=self.config.positions).contains(length)) {
            candle_core::bail!(
                "a sequence of {length} tokens, the model takes 1 to {}",
                self.config.positions
            );
        }
        let table_stride = lengths().map(|length| length.div_ceil(PAGE)).max().unwrap_or(0);
        let mut meta =
            AttentionMeta { query_start: starts.clone(), table_stride, ..AttentionMeta::default() };
        let mut pages = 0;
        for length in lengths() {
            meta.positions.extend(0..length as u32);
            meta.slot_mapping.extend((pages * PAGE) as u32..(pages * PAGE + length) as u32);
            let row_end = meta.block_table.len() + table_stride;
            meta.block_table.extend(pages as u32..(pages + length.div_ceil(PAGE)) as u32);
            meta.block_table.resize(row_end, 0);
            meta.context_len.push(length as u32);
            pages += length.div_ceil(PAGE);
        }
        let logits_at = starts[1..].iter().map(|end| end - 1).collect();
        Ok((Batch { token_ids: token_ids.clone(), attention: Arc::new(meta), logits_at }, pages))
    }
}

impl Encoder for LastToken {
    fn config(&self) -> &EncoderConfig {
        &self.config
    }

    fn encode(&self, sequences: &Sequences) -> Result<Vec<Vec<f32>>> {
        if sequences.is_empty() {
            return Ok(Vec::new());
        }
        let (batch, pages) = self.batch(sequences)?;
        let cache = self.network.new_cache(pages, PAGE)?;
        let mut vectors = self.network.rows(&batch, &cache)?.to_vec2()?;
        if matches!(self.config.head, Head::Embedding { normalize: true, .. }) {
            vectors.iter_mut().for_each(|vector| normalize(vector));
        }
        Ok(vectors)
    }
}
