//! A Llama network in plain 32-bit floats, straight from its file: no quantised activations, no paged cache, no shared
//! code with the kernels but the dequantisation of a row.

use kernels::dequantize;
use models::ModelConfig;
use models::gguf::GgufFile;
use rayon::prelude::*;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Partial sums of a product.
const LANES: usize = 16;
/// Tokens that share a visit of the weights.
const TOKENS: usize = 16;

pub(crate) struct Network {
    file: GgufFile,
    config: ModelConfig,
}

impl Network {
    pub(crate) fn open(path: &std::path::Path) -> Fallible<Self> {
        let file = GgufFile::open(path)?;
        let config = ModelConfig::from_header(file.header())?;
        if file.header().tensor("rope_freqs.weight").is_some() {
            return Err("a model with stretched rotary periods has no float reference here".into());
        }
        Ok(Self { file, config })
    }

    /// Logits after each of `tokens`, `[tokens, vocab]`.
    pub(crate) fn logits(&self, tokens: &[u32]) -> Fallible<Vec<f32>> {
        let (config, width) = (&self.config, self.config.hidden);
        let embedding = self.tensor("token_embd.weight")?;
        let mut x: Vec<f32> =
            tokens.iter().flat_map(|id| &embedding[*id as usize * width..][..width]).copied().collect();
        for layer in 0..config.layers {
            let tensor = |part: &str| self.tensor(&format!("blk.{layer}.{part}.weight"));
            let normed = self.norm(&x, &tensor("attn_norm")?);
            let of_normed =
                |part: &str| -> Fallible<Vec<f32>> { Ok(product(&normed, &tensor(part)?, width)) };
            let (q, k, v) = (of_normed("attn_q")?, of_normed("attn_k")?, of_normed("attn_v")?);
            let attended = self.attend(q, k, &v);
            add(&mut x, &product(&attended, &tensor("attn_output")?, config.heads * config.head_dim));
            let normed = self.norm(&x, &tensor("ffn_norm")?);
            let mut inner = product(&normed, &tensor("ffn_gate")?, width);
            let up = product(&normed, &tensor("ffn_up")?, width);
            inner.iter_mut().zip(&up).for_each(|(gate, up)| *gate = *gate / (1.0 + (-*gate).exp()) * up);
            add(&mut x, &product(&inner, &tensor("ffn_down")?, config.intermediate));
        }
        let last = self.norm(&x, &self.tensor("output_norm.weight")?);
        let head = self.file.header().tensor("output.weight").map(|_| self.tensor("output.weight"));
        Ok(product(&last, &head.unwrap_or(Ok(embedding))?, width))
    }

    fn tensor(&self, name: &str) -> Fallible<Vec<f32>> {
        let info = self.file.header().tensor(name).ok_or_else(|| format!("tensor {name:?} is missing"))?;
        let (mut bytes, mut values) = (Vec::new(), vec![0f32; info.rows() * info.cols()]);
        self.file.append_tensor(info, &mut bytes)?;
        dequantize(info.ty, &bytes, &mut values);
        Ok(values)
    }

    fn norm(&self, x: &[f32], weight: &[f32]) -> Vec<f32> {
        let rows = x.chunks_exact(weight.len()).flat_map(|row| {
            let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / row.len() as f64;
            let scale = (1.0 / (mean + f64::from(self.config.rms_eps)).sqrt()) as f32;
            row.iter().zip(weight).map(move |(x, w)| x * scale * w)
        });
        rows.collect()
    }

    /// Rotates neighbouring pairs of each head of each row.
    fn rotate(&self, rows: &mut [f32], heads: usize) {
        let (dim, theta) = (self.config.rotary_dim, f64::from(self.config.rope_theta));
        for (position, row) in rows.chunks_exact_mut(heads * self.config.head_dim).enumerate() {
            for head in row.chunks_exact_mut(self.config.head_dim) {
                for (i, pair) in head[..dim].chunks_exact_mut(2).enumerate() {
                    let angle = position as f64 * theta.powf(-((2 * i) as f64) / dim as f64);
                    let (sin, cos) = (angle.sin() as f32, angle.cos() as f32);
                    (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos);
                }
            }
        }
    }

    /// Causal attention, `[tokens, heads * head_dim]`.
    fn attend(&self, mut q: Vec<f32>, mut k: Vec<f32>, v: &[f32]) -> Vec<f32> {
        let &ModelConfig { heads, kv_heads, head_dim: dim, .. } = &self.config;
        self.rotate(&mut q, heads);
        self.rotate(&mut k, kv_heads);
        let mut out = vec![0f32; q.len()];
        out.par_chunks_exact_mut(dim).enumerate().for_each(|(index, out)| {
            let (position, head) = (index / heads, index % heads / (heads / kv_heads));
            let row =
                |of: &'_ [f32], at: usize| -> Vec<f32> { of[(at * kv_heads + head) * dim..][..dim].to_vec() };
            let scale = 1.0 / (dim as f32).sqrt();
            let scores: Vec<f32> =
                (0..=position).map(|p| dot(&q[index * dim..][..dim], &row(&k, p)) * scale).collect();
            let max = scores.iter().fold(f32::NEG_INFINITY, |max, score| max.max(*score));
            let weights: Vec<f32> = scores.iter().map(|score| (score - max).exp()).collect();
            let total: f32 = weights.iter().sum();
            for (p, weight) in weights.iter().enumerate() {
                out.iter_mut().zip(row(v, p)).for_each(|(out, v)| *out += weight / total * v);
            }
        });
        out
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// `x` `[t, k]` times the transpose of `w` `[n, k]`: `[t, n]`.
fn product(x: &[f32], w: &[f32], k: usize) -> Vec<f32> {
    let n = w.len() / k;
    let mut out = vec![0f32; x.len() / k * n];
    out.par_chunks_mut(TOKENS * n).zip(x.par_chunks(TOKENS * k)).for_each(|(out, x)| {
        for (row, w) in w.chunks_exact(k).enumerate() {
            for (out, x) in out.chunks_exact_mut(n).zip(x.chunks_exact(k)) {
                out[row] = dot(x, w);
            }
        }
    });
    out
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}
