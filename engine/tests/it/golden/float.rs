//! A Llama in plain f32 over dequantised weights: no cache, no batch, one sequence at a time.

use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{D, DType, Device, IndexOp, Result, Tensor};

pub(crate) struct Llama {
    heads: usize,
    kv_heads: usize,
    eps: f64,
    theta: f64,
    embedding: Tensor,
    blocks: Vec<Block>,
    norm: Tensor,
}

struct Block {
    norm: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    ffn_norm: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
}

pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|logit| *logit == best).expect("logits are numbers") as u32
}

impl Llama {
    pub(crate) fn open(path: &Path) -> Self {
        Self::read(path).expect("the reference loads")
    }

    fn read(path: &Path) -> Result<Self> {
        let mut file = std::fs::File::open(path)?;
        let content = Content::read(&mut file)?;
        let get = |key: &str| content.metadata.get(&format!("llama.{key}")).expect("the file says it");
        let size = |key: &str| get(key).to_u32().map(|n| n as usize);
        let layers = size("block_count")?;
        let (heads, kv_heads) = (size("attention.head_count")?, size("attention.head_count_kv")?);
        let eps = f64::from(get("attention.layer_norm_rms_epsilon").to_f32()?);
        let base: Option<&Value> = content.metadata.get("llama.rope.freq_base");
        let theta = f64::from(base.map_or(Ok(10_000.0), Value::to_f32)?);
        let mut weight = |name: &str| content.tensor(&mut file, name, &Device::Cpu)?.dequantize(&Device::Cpu);
        let (embedding, norm) = (weight("token_embd.weight")?, weight("output_norm.weight")?);
        let blocks = (0..layers)
            .map(|i| {
                let mut part = |name: &str| weight(&format!("blk.{i}.{name}.weight"));
                Ok(Block {
                    norm: part("attn_norm")?,
                    q: part("attn_q")?,
                    k: part("attn_k")?,
                    v: part("attn_v")?,
                    o: part("attn_output")?,
                    ffn_norm: part("ffn_norm")?,
                    gate: part("ffn_gate")?,
                    up: part("ffn_up")?,
                    down: part("ffn_down")?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { heads, kv_heads, eps, theta, embedding, blocks, norm })
    }

    /// The logits after each of the positions `rows` of `tokens`.
    pub(crate) fn logits(&self, tokens: &[u32], rows: &[u32]) -> Vec<Vec<f32>> {
        self.forward(tokens, rows).and_then(|logits| logits.to_vec2()).expect("the reference runs")
    }

    fn forward(&self, tokens: &[u32], rows: &[u32]) -> Result<Tensor> {
        let mut x = self.embedding.index_select(&Tensor::new(tokens, &Device::Cpu)?, 0)?;
        for block in &self.blocks {
            x = (&x + self.attend(block, &self.rms(&x, &block.norm)?)?)?;
            let h = self.rms(&x, &block.ffn_norm)?;
            let gated = (linear(&h, &block.gate)?.silu()? * linear(&h, &block.up)?)?;
            x = (&x + linear(&gated, &block.down)?)?;
        }
        let last = x.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?;
        linear(&self.rms(&last, &self.norm)?, &self.embedding)
    }

    fn rms(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        x.broadcast_div(&scale)?.broadcast_mul(weight)
    }

    fn attend(&self, block: &Block, x: &Tensor) -> Result<Tensor> {
        let t = x.dim(0)?;
        let split = |y: Tensor, heads: usize| y.reshape((t, heads, ()))?.transpose(0, 1)?.contiguous();
        let q = self.rotate(&split(linear(x, &block.q)?, self.heads)?)?;
        let k = self.rotate(&split(linear(x, &block.k)?, self.kv_heads)?)?;
        let v = split(linear(x, &block.v)?, self.kv_heads)?;
        let head_dim = q.dim(2)?;
        let hidden: Vec<f32> =
            (0..t * t).map(|at| if at % t > at / t { f32::NEG_INFINITY } else { 0.0 }).collect();
        let mask = Tensor::from_vec(hidden, (t, t), &Device::Cpu)?;
        let mut heads = Vec::new();
        for head in 0..self.heads {
            let shared = head / (self.heads / self.kv_heads);
            let scores = (q.i(head)?.matmul(&k.i(shared)?.t()?)? / (head_dim as f64).sqrt())?;
            let weights = (scores + &mask)?;
            let max = weights.max_keepdim(D::Minus1)?;
            let exp = weights.broadcast_sub(&max)?.exp()?;
            let weights = exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?;
            heads.push(weights.matmul(&v.i(shared)?)?);
        }
        linear(&Tensor::cat(&heads, 1)?, &block.o)
    }

    /// Rotates neighbouring pairs of `[heads, t, head_dim]`.
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (heads, t, head_dim) = x.dims3()?;
        let angles: Vec<f32> = (0..t * head_dim / 2)
            .map(|i| {
                let (position, pair) = (i / (head_dim / 2), i % (head_dim / 2));
                (position as f64 * self.theta.powf(-2.0 * pair as f64 / head_dim as f64)) as f32
            })
            .collect();
        let angles = Tensor::from_vec(angles, (1, t, head_dim / 2), &Device::Cpu)?.to_dtype(DType::F32)?;
        let (sin, cos) = (angles.sin()?, angles.cos()?);
        let pairs = x.reshape((heads, t, head_dim / 2, 2))?;
        let (a, b) = (pairs.i((.., .., .., 0))?, pairs.i((.., .., .., 1))?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
        Tensor::stack(&[first, second], 3)?.reshape((heads, t, head_dim))?.contiguous()
    }
}

/// `x` `[t, k]` times the transpose of `w` `[n, k]`.
fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    x.matmul(&w.t()?)
}
