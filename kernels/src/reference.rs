//! Every op in plain loops over f64: the oracle that the fast paths are held to.

pub mod encoder;

use half::f16;

use crate::{AttentionMeta, HeadShape, QkvExtras, RopeTable};

/// `x` `[m, k]` times the transpose of `w` `[n, k]`: `[m, n]`.
pub fn matmul(x: &[f32], w: &[f32], k: usize) -> Vec<f64> {
    x.chunks_exact(k)
        .flat_map(|x| {
            w.chunks_exact(k).map(|w| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum())
        })
        .collect()
}

/// Activations as the quantised paths see them: 8 bits with one scale for each 32 values.
pub fn round_activations(x: &[f32]) -> Vec<f32> {
    x.chunks(32)
        .flat_map(|group| {
            let scale = group.iter().fold(0f32, |a, v| a.max(v.abs())) / 127.0;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            group.iter().map(move |v| (v * inverse).round_ties_even() * scale)
        })
        .collect()
}

/// `x / sqrt(mean(x^2) + eps) * weight` for each row as long as `weight`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    x.chunks_exact(weight.len())
        .flat_map(|row| {
            let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / row.len() as f64;
            let scale = 1.0 / (mean + f64::from(eps)).sqrt();
            row.iter().zip(weight).map(move |(x, w)| f64::from(*x) * scale * f64::from(*w))
        })
        .collect()
}

/// `silu(first half) * second half` of rows of `2 * f`.
pub fn silu_mul(x: &[f32], f: usize) -> Vec<f64> {
    x.chunks_exact(2 * f)
        .flat_map(|row| {
            let (gate, up) = row.split_at(f);
            gate.iter().zip(up).map(|(g, u)| {
                let g = f64::from(*g);
                g / (1.0 + (-g).exp()) * f64::from(*u)
            })
        })
        .collect()
}

/// Rotary embedding of one head at `position`, straight from the definition.
pub fn rotate(head: &mut [f64], position: usize, theta: f64, rotary_dim: usize, interleaved: bool) {
    let half = rotary_dim / 2;
    for i in 0..half {
        let angle = position as f64 * theta.powf(-((2 * i) as f64) / rotary_dim as f64);
        let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
        let (x, y) = (head[a], head[b]);
        head[a] = x * angle.cos() - y * angle.sin();
        head[b] = x * angle.sin() + y * angle.cos();
    }
}

/// Rows of q, k and v as they are before the rotation: `extras` applied.
pub fn prepare_qkv(qkv: &[f32], extras: &QkvExtras, shape: &HeadShape) -> Vec<f32> {
    let mut out = qkv.to_vec();
    for row in out.chunks_exact_mut(shape.qkv_width()) {
        let bias = extras.bias.iter().flatten();
        row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
        let Some((query, key, eps)) = &extras.norm else { continue };
        for (number, head) in row.chunks_exact_mut(shape.head_dim).enumerate() {
            let weight = match number {
                n if n < shape.heads => query,
                n if n < shape.heads + shape.kv_heads => key,
                _ => continue,
            };
            let normed = rms_norm(head, weight, *eps);
            head.iter_mut().zip(normed).for_each(|(value, normed)| *value = normed as f32);
        }
    }
    out
}

/// Writes the rotated k and the v of each token to its slot of `cache`
/// (`[2, num_blocks, kv_heads, block_size, head_dim]`).
pub fn write_cache(
    qkv: &[f32],
    cache: &mut [f16],
    block_size: usize,
    rope: &RopeTable,
    shape: &HeadShape,
    meta: &AttentionMeta,
) {
    let d = shape.head_dim;
    let half = cache.len() / 2;
    for (token, row) in qkv.chunks_exact(shape.qkv_width()).enumerate() {
        let slot = meta.slot_mapping[token] as usize;
        for head in 0..shape.kv_heads {
            let place = ((slot / block_size * shape.kv_heads + head) * block_size + slot % block_size) * d;
            let mut k = row[(shape.heads + head) * d..][..d].to_vec();
            rope.rotate(meta.positions[token] as usize, &mut k);
            let v = &row[(shape.heads + shape.kv_heads + head) * d..][..d];
            for i in 0..d {
                cache[place + i] = f16::from_f32(k[i]);
                cache[half + place + i] = f16::from_f32(v[i]);
            }
        }
    }
}

/// Causal attention of each token over its sequence's pages: `[t, heads * head_dim]`.
pub fn attend(
    qkv: &[f32],
    cache: &[f16],
    block_size: usize,
    rope: &RopeTable,
    shape: &HeadShape,
    meta: &AttentionMeta,
) -> Vec<f64> {
    let d = shape.head_dim;
    let mut out = Vec::new();
    for sequence in 0..meta.sequences() {
        let table = &meta.block_table[sequence * meta.table_stride..][..meta.table_stride];
        for token in meta.query_start[sequence] as usize..meta.query_start[sequence + 1] as usize {
            let position = meta.positions[token] as usize;
            for head in 0..shape.heads {
                let mut q = qkv[token * shape.qkv_width() + head * d..][..d].to_vec();
                rope.rotate(position, &mut q);
                let kv_head = head / shape.group();
                let place = |p: usize| {
                    let page = table[p / block_size] as usize;
                    ((page * shape.kv_heads + kv_head) * block_size + p % block_size) * d
                };
                out.extend(attend_one(&q, cache, position, place));
            }
        }
    }
    out
}

/// Softmax-weighted mean of the values at positions `0..=position`; `place` gives where a position's head starts.
fn attend_one(q: &[f32], cache: &[f16], position: usize, place: impl Fn(usize) -> usize) -> Vec<f64> {
    let (k_cache, v_cache) = cache.split_at(cache.len() / 2);
    let scale = 1.0 / (q.len() as f64).sqrt();
    let scores: Vec<f64> = (0..=position)
        .map(|p| {
            let k = &k_cache[place(p)..][..q.len()];
            q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() * scale
        })
        .collect();
    let max = scores.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
    let mut out = vec![0f64; q.len()];
    for (p, score) in scores.iter().enumerate() {
        let weight = (score - max).exp() / total;
        for (out, v) in out.iter_mut().zip(&v_cache[place(p)..][..q.len()]) {
            *out += weight * f64::from(*v);
        }
    }
    out
}
