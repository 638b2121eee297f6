//! Plain Rust, for machines without a path of their own.

use half::{bf16, f16};

use super::{Path, QuantBlock, Rows, Scaling, Softmax, TINY, UNIT, Unit};
use crate::packed::{Kind, PANEL, f32_at, scale_min};
use crate::weight_type::f16_at;

pub(super) static PATH: Path = Path {
    name: "portable",
    quantize,
    norm_scale,
    panel,
    rms_norm,
    gate,
    rotate_pairs: crate::rope::rotate_pairs,
    attend,
    widen: |from, to| from.iter().zip(to).for_each(|(from, to)| *to = from.to_f32()),
    narrow: |from, to| from.iter().zip(to).for_each(|(from, to)| *to = f16::from_f32(*from)),
    prefetch: |_| (),
};

fn quantize(x: &[f32], norm: Option<Scaling<'_>>, out: &mut [QuantBlock]) {
    let mut values = [0f32; 32];
    for (g, (x, block)) in x.chunks_exact(32).zip(out).enumerate() {
        values.copy_from_slice(x);
        if let Some((weight, scale)) = norm {
            values.iter_mut().zip(&weight[32 * g..]).for_each(|(x, weight)| *x = *x * scale * weight);
        }
        let x = &values;
        let largest = x.iter().fold(0f32, |a, v| a.max(v.abs()));
        let inverse = if largest < TINY { 0.0 } else { 127.0 / largest };
        block.scale = if largest < TINY { 0.0 } else { largest / 127.0 };
        let mut sum = 0;
        for (q, v) in block.q.iter_mut().zip(x) {
            *q = (v * inverse).round_ties_even() as i8;
            sum += i32::from(*q);
        }
        block.sum = block.scale * sum as f32;
    }
}

fn panel(kind: Kind, panel: &[u8], rows: Rows<'_>, out: &mut [[f32; PANEL]]) {
    match rows {
        Rows::Quant(blocks) => {
            let width = blocks.len() / out.len();
            for (row, out) in blocks.chunks_exact(width).zip(out) {
                *out = quantized_row(kind, panel, row);
            }
        }
        Rows::Float(values) => {
            let width = values.len() / out.len();
            for (row, out) in values.chunks_exact(width).zip(out) {
                *out = float_row(kind, panel, row);
            }
        }
    }
}

fn quantized_row(kind: Kind, panel: &[u8], x: &[QuantBlock]) -> [f32; PANEL] {
    let mut sums = [0f32; PANEL];
    for (index, block) in panel.chunks_exact(kind.block_bytes()).enumerate() {
        let x = &x[index * kind.columns() / 32];
        let dots = match kind {
            Kind::U4Half | Kind::U4Single => dot_nibbles(block, &x.q),
            _ => dot_bytes(block, &x.q[index * kind.columns() % 32..][..kind.columns()]),
        };
        for (row, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
            let (scale, min) = scale_min(kind, block, row);
            *sum += dot as f32 * (scale * x.scale);
            if matches!(kind, Kind::U4Half | Kind::U4Single) {
                *sum += min * x.sum;
            }
        }
    }
    sums
}

fn dot_nibbles(block: &[u8], x: &[i8; 32]) -> [i32; PANEL] {
    let mut dots = [0i32; PANEL];
    for (lane, bytes) in block[..256].chunks_exact(64).enumerate() {
        for (dot, bytes) in dots.iter_mut().zip(bytes.chunks_exact(4)) {
            for (i, byte) in bytes.iter().enumerate() {
                *dot += i32::from(byte & 0x0f) * i32::from(x[lane * 4 + i]);
                *dot += i32::from(byte >> 4) * i32::from(x[16 + lane * 4 + i]);
            }
        }
    }
    dots
}

fn dot_bytes(block: &[u8], x: &[i8]) -> [i32; PANEL] {
    let mut dots = [0i32; PANEL];
    for (x, bytes) in x.chunks_exact(4).zip(block.chunks_exact(64)) {
        for (dot, bytes) in dots.iter_mut().zip(bytes.chunks_exact(4)) {
            *dot += bytes.iter().zip(x).map(|(w, x)| i32::from(*w as i8) * i32::from(*x)).sum::<i32>();
        }
    }
    dots
}

fn float_row(kind: Kind, panel: &[u8], x: &[f32]) -> [f32; PANEL] {
    let mut sums = [0f32; PANEL];
    for (x, block) in x.iter().zip(panel.chunks_exact(kind.block_bytes())) {
        for (row, sum) in sums.iter_mut().enumerate() {
            let weight = match kind {
                Kind::F32 => f32_at(block, 4 * row),
                Kind::F16 => f16_at(block, 2 * row),
                _ => bf16::from_le_bytes([block[2 * row], block[2 * row + 1]]).to_f32(),
            };
            *sum += x * weight;
        }
    }
    sums
}

/// Sum of products in eight lanes, so that the compiler may use vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    for (a, b) in a8.iter().zip(b8) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

fn norm_scale(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = norm_scale(x, eps);
    for (out, (x, w)) in out.iter_mut().zip(x.iter().zip(weight)) {
        *out = x * scale * w;
    }
}

fn gate(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + (-*gate).exp()) * up;
    }
}

fn attend(q: &[f32], unit: Unit<'_>, states: &mut [Softmax], acc: &mut [f32]) {
    let width = q.len() / states.len();
    for ((q, acc), state) in q.chunks_exact(width).zip(acc.chunks_exact_mut(width)).zip(states) {
        match unit {
            Unit::Half { k, v } => attend_row(q, k, v, f16::to_f32, state, acc),
            Unit::Single { k, v } => attend_row(q, k, v, |value| value, state, acc),
        }
    }
}

fn attend_row<T: Copy>(
    q: &[f32],
    k: &[T],
    v: &[T],
    widen: impl Fn(T) -> f32,
    state: &mut Softmax,
    acc: &mut [f32],
) {
    let mut scores = [0f32; UNIT];
    let scores = &mut scores[..k.len() / q.len()];
    for (score, k) in scores.iter_mut().zip(k.chunks_exact(q.len())) {
        *score = q.iter().zip(k).map(|(q, k)| q * widen(*k)).sum();
    }
    let max = scores.iter().fold(state.max, |a, b| a.max(*b));
    let keep = (state.max - max).exp();
    scores.iter_mut().for_each(|score| *score = (*score - max).exp());
    *state = Softmax { max, sum: state.sum * keep + scores.iter().sum::<f32>() };
    acc.iter_mut().for_each(|value| *value *= keep);
    for (p, v) in scores.iter().zip(v.chunks_exact(q.len())) {
        for (acc, v) in acc.iter_mut().zip(v) {
            *acc += p * widen(*v);
        }
    }
}
