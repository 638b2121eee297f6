//! BERT (Devlin et al., 2018): post-norm blocks, learned positions, every token sees all others.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use kernels::PackedMatrix;
use rayon::prelude::*;

use super::config::Head;
use super::{Encoder, EncoderConfig, Sequences};
use crate::card::Pooling;
use crate::safetensors::TensorFile;
use crate::weights::WeightError;

type Loading<T> = std::result::Result<T, WeightError>;

pub(super) struct Bert {
    config: EncoderConfig,
    words: Arc<PackedMatrix>,
    /// `[positions, hidden]`, row-major.
    positions: Vec<f32>,
    /// `[types, hidden]`, row-major.
    types: Vec<f32>,
    /// A bias of zeros, scale and shift of the first norm.
    norm: Tensor,
    blocks: Vec<Block>,
    classifier: Option<Classifier>,
}

/// Weights of one block; a norm's parameters are `[3, hidden]`: the bias of the layer before it, scale, shift.
struct Block {
    qkv: Arc<PackedMatrix>,
    qkv_bias: Tensor,
    attention_output: Arc<PackedMatrix>,
    attention_norm: Tensor,
    up: Arc<PackedMatrix>,
    up_bias: Tensor,
    down: Arc<PackedMatrix>,
    norm: Tensor,
}

/// From the first row of a pair to its logit.
struct Classifier {
    dense: Arc<PackedMatrix>,
    dense_bias: Vec<f32>,
    weight: Vec<f32>,
    bias: f32,
}

impl Bert {
    /// Takes the weights of `file`; every tensor must be known.
    pub(super) fn load(file: TensorFile, config: EncoderConfig) -> Loading<Self> {
        // Models with a head of their own nest the network under its name.
        let prefix = if file.has("bert.embeddings.word_embeddings.weight") { "bert." } else { "" };
        let name = |part: &str| format!("{prefix}{part}");
        let hidden = config.hidden;
        let words = file.matrix(&[(&name("embeddings.word_embeddings.weight"), config.vocab)], hidden)?;
        let positions =
            file.values(&name("embeddings.position_embeddings.weight"), &[config.positions, hidden])?;
        let types = file.values(&name("embeddings.token_type_embeddings.weight"), &[config.types, hidden])?;
        let norm = Tensor::cat(
            &[
                Tensor::zeros((1, hidden), candle_core::DType::F32, &Device::Cpu)?,
                file.vectors(
                    &[&name("embeddings.LayerNorm.weight"), &name("embeddings.LayerNorm.bias")],
                    hidden,
                )?,
            ],
            0,
        )?;
        let blocks = (0..config.layers)
            .into_par_iter()
            .map(|i| Block::load(&file, &name(&format!("encoder.layer.{i}.")), &config))
            .collect::<Loading<Vec<_>>>()?;
        let classifier = match config.head {
            Head::CrossEncoder => Some(Classifier::load(&file, prefix, hidden)?),
            Head::Embedding { .. } => None,
        };
        // A table of 0, 1, 2 ..., and the head of the pre-training that an embedder has no use for.
        let spare = [name("embeddings.position_ids"), name("pooler.dense.weight"), name("pooler.dense.bias")];
        file.finish(|tensor| spare.iter().any(|spare| spare == tensor))?;
        Ok(Self { config, words, positions, types, norm, blocks, classifier })
    }

    fn check(&self, sequences: &Sequences) -> Result<()> {
        let Sequences { token_ids, type_ids, starts } = sequences;
        if type_ids.len() != token_ids.len()
            || starts.last().map(|end| *end as usize) != Some(token_ids.len())
        {
            candle_core::bail!("{} tokens with {} types end at {starts:?}", token_ids.len(), type_ids.len());
        }
        for ends in starts.windows(2) {
            let length = ends[1].saturating_sub(ends[0]) as usize;
            if length == 0 || length > self.config.positions {
                candle_core::bail!(
                    "a sequence of {length} tokens, the model takes 1 to {}",
                    self.config.positions
                );
            }
        }
        if let Some(ty) = type_ids.iter().find(|ty| **ty as usize >= self.config.types) {
            candle_core::bail!("segment {ty} of {}", self.config.types);
        }
        Ok(())
    }

    /// Sum of position and segment vectors of every token, `[t, hidden]`.
    fn places(&self, sequences: &Sequences) -> Result<Tensor> {
        let hidden = self.config.hidden;
        let mut out = Vec::with_capacity(sequences.token_ids.len() * hidden);
        for ends in sequences.starts.windows(2) {
            for (position, token) in (ends[0] as usize..ends[1] as usize).enumerate() {
                let ty = sequences.type_ids[token] as usize * hidden;
                let rows = self.positions[position * hidden..].iter().zip(&self.types[ty..][..hidden]);
                out.extend(rows.map(|(position, ty)| position + ty));
            }
        }
        Tensor::from_vec(out, (sequences.token_ids.len(), hidden), &Device::Cpu)
    }

    /// The rows of the last layer, `[t, hidden]` row-major.
    fn rows(&self, sequences: &Sequences) -> Result<Vec<f32>> {
        let eps = self.config.norm_eps;
        let starts: Arc<[u32]> = Arc::from(sequences.starts.as_slice());
        let words = kernels::embed(&sequences.token_ids, &self.words, &Device::Cpu)?;
        let mut x = kernels::add_norm(&words, &self.places(sequences)?, &self.norm, eps)?;
        for block in &self.blocks {
            let qkv = kernels::matmul(&x, &block.qkv)?;
            let seen = kernels::attend_all(&qkv, &block.qkv_bias, &starts, self.config.heads)?;
            let seen = kernels::matmul(&seen, &block.attention_output)?;
            x = kernels::add_norm(&seen, &x, &block.attention_norm, eps)?;
            let inner = kernels::bias_gelu(&kernels::matmul(&x, &block.up)?, &block.up_bias)?;
            x = kernels::add_norm(&kernels::matmul(&inner, &block.down)?, &x, &block.norm, eps)?;
        }
        x.flatten_all()?.to_vec1()
    }

    fn result(&self, rows: &[f32]) -> Result<Vec<f32>> {
        let hidden = self.config.hidden;
        let mut vector = match (self.config.head, &self.classifier) {
            (_, Some(classifier)) => return Ok(vec![classifier.logit(&rows[..hidden])?]),
            (Head::Embedding { pooling: Pooling::Mean, .. }, _) => mean(rows, hidden),
            (Head::Embedding { pooling: Pooling::Cls, .. } | Head::CrossEncoder, _) => {
                rows[..hidden].to_vec()
            }
            (Head::Embedding { pooling: Pooling::Last, .. }, _) => rows[rows.len() - hidden..].to_vec(),
        };
        if matches!(self.config.head, Head::Embedding { normalize: true, .. }) {
            crate::encoder::normalize(&mut vector);
        }
        Ok(vector)
    }
}

impl Encoder for Bert {
    fn config(&self) -> &EncoderConfig {
        &self.config
    }

    fn encode(&self, sequences: &Sequences) -> Result<Vec<Vec<f32>>> {
        if sequences.is_empty() {
            return Ok(Vec::new());
        }
        self.check(sequences)?;
        let rows = self.rows(sequences)?;
        let of = |ends: &[u32]| {
            &rows[ends[0] as usize * self.config.hidden..ends[1] as usize * self.config.hidden]
        };
        sequences.starts.windows(2).map(|ends| self.result(of(ends))).collect()
    }
}

fn mean(rows: &[f32], hidden: usize) -> Vec<f32> {
    let mut sums = vec![0f64; hidden];
    for row in rows.chunks_exact(hidden) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    let count = (rows.len() / hidden) as f64;
    sums.into_iter().map(|sum| (sum / count) as f32).collect()
}

impl Block {
    fn load(file: &TensorFile, prefix: &str, config: &EncoderConfig) -> Loading<Self> {
        let (hidden, inner) = (config.hidden, config.intermediate);
        let name = |part: &str| format!("{prefix}{part}");
        let own = |part: &str| {
            [name(&format!("attention.self.{part}.weight")), name(&format!("attention.self.{part}.bias"))]
        };
        let [q, k, v] = ["query", "key", "value"].map(own);
        let norm = |layer: &str| -> Loading<Tensor> {
            let [bias, weight, shift] = ["dense.bias", "LayerNorm.weight", "LayerNorm.bias"]
                .map(|part| name(&format!("{layer}.{part}")));
            file.vectors(&[&bias, &weight, &shift], hidden)
        };
        Ok(Self {
            qkv: file.matrix(&[(&q[0], hidden), (&k[0], hidden), (&v[0], hidden)], hidden)?,
            qkv_bias: file.vectors(&[&q[1], &k[1], &v[1]], hidden)?.flatten_all()?,
            attention_output: file.matrix(&[(&name("attention.output.dense.weight"), hidden)], hidden)?,
            attention_norm: norm("attention.output")?,
            up: file.matrix(&[(&name("intermediate.dense.weight"), inner)], hidden)?,
            up_bias: file.vectors(&[&name("intermediate.dense.bias")], inner)?,
            down: file.matrix(&[(&name("output.dense.weight"), hidden)], inner)?,
            norm: norm("output")?,
        })
    }
}

impl Classifier {
    fn load(file: &TensorFile, prefix: &str, hidden: usize) -> Loading<Self> {
        let bias = file.values("classifier.bias", &[1])?;
        Ok(Self {
            dense: file.matrix(&[(&format!("{prefix}pooler.dense.weight"), hidden)], hidden)?,
            dense_bias: file.values(&format!("{prefix}pooler.dense.bias"), &[hidden])?,
            weight: file.values("classifier.weight", &[1, hidden])?,
            bias: bias[0],
        })
    }

    fn logit(&self, first: &[f32]) -> Result<f32> {
        let first = Tensor::from_slice(first, (1, first.len()), &Device::Cpu)?;
        let dense: Vec<f32> = kernels::matmul(&first, &self.dense)?.flatten_all()?.to_vec1()?;
        let pooled = dense.iter().zip(&self.dense_bias).map(|(x, b)| (x + b).tanh());
        Ok(pooled.zip(&self.weight).map(|(x, w)| x * w).sum::<f32>() + self.bias)
    }
}
