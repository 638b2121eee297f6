//! Row-wise helpers: loads, sums, exp, conversion, norm, activation.

use std::arch::x86_64::*;

use half::f16;

use super::super::{QuantBlock, Scaling, TINY};

/// Eight values from `at` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load(values: &[f32], at: usize) -> __m256 {
    let values = &values[at..][..8];
    // SAFETY: the slice has eight values.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

/// Writes eight values from `at` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store(values: &mut [f32], at: usize, v: __m256) {
    let values = &mut values[at..][..8];
    // SAFETY: the slice has eight values.
    unsafe { _mm256_storeu_ps(values.as_mut_ptr(), v) }
}

/// Sum of the eight lanes, in a fixed order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sum(v: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// Largest of the eight lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn largest(v: __m256) -> f32 {
    let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}

/// `exp` to about one unit in the last place; 0 below -87, clamped at 88.
///
/// `exp(x) = 2^n exp(r)` with `n = round(x / ln 2)`, and the Taylor polynomial of degree 7 for `|r| <= ln 2 / 2`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn exp(x: __m256) -> __m256 {
    let low = _mm256_set1_ps(-87.0);
    let in_range = _mm256_cmp_ps::<_CMP_GE_OQ>(x, low);
    let x = _mm256_min_ps(_mm256_max_ps(x, low), _mm256_set1_ps(88.0));
    let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm256_mul_ps(
        x,
        _mm256_set1_ps(std::f32::consts::LOG2_E),
    ));
    // ln 2 in two parts, so that the product with n loses nothing.
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693_359_4), x);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.121_944_4e-4), r);
    let mut p = _mm256_set1_ps(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(coefficient));
    }
    let exponent = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
    _mm256_and_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(exponent)), in_range)
}

/// Asks for the cache lines of `values`.
pub(super) fn prefetch(values: &[f16]) {
    for line in values.chunks(32) {
        // SAFETY: a prefetch only hints; the address is inside the slice. Every x86-64 has the instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widen(from: &[f16], to: &mut [f32]) {
    let (from, from_rest) = from.as_chunks::<8>();
    let (to, to_rest) = to.as_chunks_mut::<8>();
    for (from, to) in from.iter().zip(to) {
        // SAFETY: both sides have eight values; f16 is two bytes.
        unsafe {
            let half = _mm_loadu_si128(from.as_ptr().cast());
            _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(half));
        }
    }
    from_rest.iter().zip(to_rest).for_each(|(from, to)| *to = from.to_f32());
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn narrow(from: &[f32], to: &mut [f16]) {
    let (from, from_rest) = from.as_chunks::<8>();
    let (to, to_rest) = to.as_chunks_mut::<8>();
    for (from, to) in from.iter().zip(to) {
        // SAFETY: both sides have eight values; f16 is two bytes.
        unsafe {
            let single = _mm256_loadu_ps(from.as_ptr());
            let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(single);
            _mm_storeu_si128(to.as_mut_ptr().cast(), half);
        }
    }
    from_rest.iter().zip(to_rest).for_each(|(from, to)| *to = f16::from_f32(*from));
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quantize(x: &[f32], norm: Option<Scaling<'_>>, out: &mut [QuantBlock]) {
    let sign = _mm256_set1_ps(-0.0);
    for (g, (x, block)) in x.chunks_exact(32).zip(out).enumerate() {
        let mut v = [load(x, 0), load(x, 8), load(x, 16), load(x, 24)];
        if let Some((weight, scale)) = norm {
            for (i, v) in v.iter_mut().enumerate() {
                let scaled = _mm256_mul_ps(*v, _mm256_set1_ps(scale));
                *v = _mm256_mul_ps(scaled, load(weight, 32 * g + 8 * i));
            }
        }
        let mut magnitude = _mm256_setzero_ps();
        for v in &v {
            magnitude = _mm256_max_ps(magnitude, _mm256_andnot_ps(sign, *v));
        }
        let amax = largest(magnitude);
        let inverse = if amax < TINY { 0.0 } else { 127.0 / amax };
        block.scale = if amax < TINY { 0.0 } else { amax / 127.0 };
        let inverse = _mm256_set1_ps(inverse);
        // The conversion rounds half to even.
        let mut i = [_mm256_setzero_si256(); 4];
        for (i, v) in i.iter_mut().zip(&v) {
            *i = _mm256_cvtps_epi32(_mm256_mul_ps(*v, inverse));
        }
        let total = _mm256_add_epi32(_mm256_add_epi32(i[0], i[1]), _mm256_add_epi32(i[2], i[3]));
        let total = sum_i32(total);
        let words = [_mm256_packs_epi32(i[0], i[1]), _mm256_packs_epi32(i[2], i[3])];
        let bytes = _mm256_packs_epi16(words[0], words[1]);
        // The packs work in 128-bit halves; this brings the groups of four back in order.
        let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        // SAFETY: `q` has 32 bytes.
        unsafe { _mm256_storeu_si256(block.q.as_mut_ptr().cast(), bytes) };
        block.sum = block.scale * total as f32;
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_i32(v: __m256i) -> i32 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
}

/// `1 / sqrt(mean(x^2) + eps)`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn norm_scale(x: &[f32], eps: f32) -> f32 {
    let whole = x.len() / 8 * 8;
    let mut squares = [_mm256_setzero_ps(); 2];
    for (i, at) in (0..whole).step_by(8).enumerate() {
        let v = load(x, at);
        squares[i % 2] = _mm256_fmadd_ps(v, v, squares[i % 2]);
    }
    let rest: f32 = x[whole..].iter().map(|v| v * v).sum();
    let total = sum(_mm256_add_ps(squares[0], squares[1])) + rest;
    1.0 / (total / x.len() as f32 + eps).sqrt()
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let whole = x.len() / 8 * 8;
    let scale = norm_scale(x, eps);
    for at in (0..whole).step_by(8) {
        let scaled = _mm256_mul_ps(load(x, at), _mm256_set1_ps(scale));
        store(out, at, _mm256_mul_ps(scaled, load(weight, at)));
    }
    for i in whole..x.len() {
        out[i] = x[i] * scale * weight[i];
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn gate(gate: &mut [f32], up: &[f32]) {
    let whole = gate.len() / 8 * 8;
    let one = _mm256_set1_ps(1.0);
    for at in (0..whole).step_by(8) {
        let g = load(gate, at);
        let e = exp(_mm256_sub_ps(_mm256_setzero_ps(), g));
        store(gate, at, _mm256_mul_ps(_mm256_div_ps(g, _mm256_add_ps(one, e)), load(up, at)));
    }
    for (gate, up) in gate[whole..].iter_mut().zip(&up[whole..]) {
        *gate = *gate / (1.0 + (-*gate).exp()) * up;
    }
}

/// Rotates the pairs `(2i, 2i + 1)` of a head; cosines and sines are half as many. The products are rounded before
/// they are added, as the plain form does it.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn rotate_pairs(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    let spread = |values: &[f32], at: usize| {
        let values = &values[at..][..4];
        // SAFETY: the slice has four values.
        let four = unsafe { _mm_loadu_ps(values.as_ptr()) };
        _mm256_permutevar8x32_ps(_mm256_castps128_ps256(four), twice)
    };
    let whole = head.len() / 8 * 8;
    for at in (0..whole).step_by(8) {
        let (v, cos, sin) = (load(head, at), spread(cos, at / 2), spread(sin, at / 2));
        let swapped = _mm256_permute_ps::<0b10_11_00_01>(v);
        store(head, at, _mm256_addsub_ps(_mm256_mul_ps(v, cos), _mm256_mul_ps(swapped, sin)));
    }
    crate::rope::rotate_pairs(&mut head[whole..], &cos[whole / 2..], &sin[whole / 2..]);
}
