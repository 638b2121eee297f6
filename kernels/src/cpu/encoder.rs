//! What bidirectional encoders (BERT and its like) need beside matmul: attention without a cache, layer norm, GELU.
//!
//! Norm and activation are plain loops that the compiler turns into vectors; on machines with AVX2 they are compiled
//! a second time for it.

use super::{Path, ROW_TASK, Softmax, UNIT, Unit};
use crate::parallel::{self, SharedRows};

/// Scores times head size below which the call is not shared out.
const INLINE_OPS: usize = 1 << 16;
/// Sums run in this many lanes, in the same order on every machine.
const LANES: usize = 8;

impl Path {
    /// Attention of every token to every token of its own sequence.
    ///
    /// `qkv` is `[t, 3 * width]` (queries, keys, values), `bias` `[3 * width]` is added to each row, sequence `i` has the
    /// rows `starts[i]..starts[i + 1]`, `out` is `[t, width]`. Scores are scaled by `1 / sqrt(width / heads)`.
    ///
    /// # Panics
    /// If the lengths do not match, or `starts` is not sorted.
    pub fn attend_all(&self, qkv: &[f32], bias: &[f32], starts: &[u32], heads: usize, out: &mut [f32]) {
        let width = bias.len() / 3;
        let tokens = starts.last().map_or(0, |last| *last as usize);
        assert!(
            heads > 0 && width.is_multiple_of(heads) && bias.len() == 3 * width,
            "{width} in {heads} heads"
        );
        assert_eq!(
            (qkv.len(), out.len()),
            (tokens * 3 * width, tokens * width),
            "{tokens} tokens of {width}"
        );
        // Overlapping sequences would let two tasks write the same row.
        assert!(starts.is_sorted(), "sequence offsets {starts:?} are not sorted");
        let scores: usize = starts.windows(2).map(|ends| ((ends[1] - ends[0]) as usize).pow(2)).sum();
        let shared = SharedRows::new(out, width);
        let run = |task: usize| {
            let (sequence, head) = (task / heads, task % heads);
            let (from, to) = (starts[sequence] as usize, starts[sequence + 1] as usize);
            let rows = &qkv[from * 3 * width..to * 3 * width];
            let sums = self.attend_head(rows, bias, width, head, width / heads);
            for (row, sums) in sums.chunks_exact(width / heads).enumerate() {
                // SAFETY: each task has a pair of sequence and head of its own, so no other writes these columns.
                unsafe { shared.store(from + row, head * (width / heads), sums) };
            }
        };
        let tasks = starts.len().saturating_sub(1) * heads;
        if scores * width < INLINE_OPS { (0..tasks).for_each(run) } else { parallel::for_each(tasks, run) }
    }

    /// One head of one sequence: `[rows, head_dim]`.
    fn attend_head(
        &self,
        rows: &[f32],
        bias: &[f32],
        width: usize,
        head: usize,
        head_dim: usize,
    ) -> Vec<f32> {
        let scale = 1.0 / (head_dim as f32).sqrt();
        let part = |which: usize, scale: f32| -> Vec<f32> {
            let columns = which * width + head * head_dim..which * width + (head + 1) * head_dim;
            let bias = &bias[columns.clone()];
            let row = |row: &[f32]| {
                row[columns.clone()].iter().zip(bias).map(|(x, b)| (x + b) * scale).collect::<Vec<_>>()
            };
            rows.chunks_exact(3 * width).flat_map(row).collect()
        };
        let (q, k, v) = (part(0, scale), part(1, 1.0), part(2, 1.0));
        let mut states = vec![Softmax { max: f32::NEG_INFINITY, sum: 0.0 }; q.len() / head_dim];
        let mut sums = vec![0f32; q.len()];
        if !states.is_empty() {
            for (k, v) in k.chunks(UNIT * head_dim).zip(v.chunks(UNIT * head_dim)) {
                (self.attend)(&q, Unit::Single { k, v }, &mut states, &mut sums);
            }
        }
        for (sums, state) in sums.chunks_exact_mut(head_dim).zip(&states) {
            let inverse = 1.0 / state.sum;
            sums.iter_mut().for_each(|sum| *sum *= inverse);
        }
        sums
    }

    /// `norm(x + bias + residual) * weight + shift` of each row into `out`, all rows as long as `norm.bias`.
    ///
    /// # Panics
    /// If the lengths do not match.
    pub fn add_norm(&self, x: &[f32], residual: &[f32], norm: AddNorm<'_>, out: &mut [f32]) {
        let k = norm.bias.len();
        assert!(k > 0 && norm.weight.len() == k && norm.shift.len() == k, "parameters of {k} values");
        assert!(
            x.len() == out.len() && residual.len() == out.len() && out.len().is_multiple_of(k),
            "rows of {k}"
        );
        self.by_rows(out, k, |row, out| {
            let at = row * k..(row + 1) * k;
            vectorised(|| add_norm_row(&x[at.clone()], &residual[at.clone()], norm, out));
        });
    }

    /// `gelu(x + bias)` in place, with the exact (error function) form; rows as long as `bias`.
    ///
    /// # Panics
    /// If the lengths do not match.
    pub fn bias_gelu(&self, x: &mut [f32], bias: &[f32]) {
        let k = bias.len();
        assert!(k > 0 && x.len().is_multiple_of(k), "{} values in rows of {k}", x.len());
        parallel::by_rows(x, k, (ROW_TASK / 4).div_ceil(k), |_, row| vectorised(|| gelu_row(row, bias)));
    }
}

/// Parameters of [`Path::add_norm`].
#[derive(Clone, Copy, Debug)]
pub struct AddNorm<'a> {
    /// Added before the norm.
    pub bias: &'a [f32],
    /// Scale after it.
    pub weight: &'a [f32],
    /// Added after it.
    pub shift: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
}

/// Runs `f`, compiled for AVX2 where the machine has it.
#[inline(always)]
fn vectorised(f: impl FnOnce()) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn wide(f: impl FnOnce()) {
            f();
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: both features were just detected.
            return unsafe { wide(f) };
        }
    }
    f();
}

#[inline(always)]
fn add_norm_row(x: &[f32], residual: &[f32], norm: AddNorm<'_>, out: &mut [f32]) {
    let k = out.len() as f32;
    for (out, ((x, r), b)) in out.iter_mut().zip(x.iter().zip(residual).zip(norm.bias)) {
        *out = x + r + b;
    }
    let mean = sum(out, |v| v) / k;
    let variance = sum(out, |v| (v - mean) * (v - mean)) / k;
    let scale = 1.0 / (variance + norm.eps).sqrt();
    for (out, (w, s)) in out.iter_mut().zip(norm.weight.iter().zip(norm.shift)) {
        *out = (*out - mean) * scale * w + s;
    }
}

#[inline(always)]
fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (whole, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for values in whole {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane += f(*value);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|value| f(*value)).sum::<f32>()
}

#[inline(always)]
fn gelu_row(x: &mut [f32], bias: &[f32]) {
    for (x, bias) in x.iter_mut().zip(bias) {
        *x = gelu(*x + bias);
    }
}

/// `x / 2 * (1 + erf(x / sqrt 2))`; the error function after Abramowitz and Stegun, 7.1.26 (absolute error 1.5e-7).
#[inline(always)]
fn gelu(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut p = 1.061_405_4;
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = p * t + coefficient;
    }
    // Half of `1 - erf(z)`; the tail of the normal distribution.
    let tail = 0.5 * p * t * exp_of_negative(-z * z);
    x.max(0.0) - x.abs() * tail
}

/// `exp(x)` for `x <= 0`; 0 below -87. As the vector code of the paths does it: `2^n exp(r)`, `|r| <= ln 2 / 2`.
#[inline(always)]
fn exp_of_negative(x: f32) -> f32 {
    /// Adding it leaves the rounded number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.max(-87.0);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let mut p = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + coefficient;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < -87.0 { 0.0 } else { p * power }
}
