//! Queries over a unit of positions, in tiles of three, two and one queries that share the loads of keys and values.
//!
//! A query's sums are made in the same order whatever the tile, so the tile does not show in the bits.

use std::arch::x86_64::*;

use half::f16;

use super::super::{Softmax, UNIT, Unit};
use super::math::{exp, largest, load, store, sum};

/// A type that keys and values come in.
trait Element: Copy {
    /// Eight values as f32.
    ///
    /// # Safety
    /// `from` must point to eight values, and the machine must have AVX2, FMA and F16C.
    unsafe fn load8(from: *const Self) -> __m256;
}

impl Element for f32 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load8(from: *const Self) -> __m256 {
        // SAFETY: the caller vouches for eight values.
        unsafe { _mm256_loadu_ps(from) }
    }
}

impl Element for f16 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load8(from: *const Self) -> __m256 {
        // SAFETY: the caller vouches for eight values of two bytes.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.cast()) })
    }
}

/// The values at `at`, from a slice whose length tells the bound.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load8<T: Element>(values: &[T], at: usize) -> __m256 {
    debug_assert!(at + 8 <= values.len(), "{at} + 8 of {}", values.len());
    let values = &values[at..][..8];
    // SAFETY: the slice has eight values; this function requires the same instructions.
    unsafe { T::load8(values.as_ptr()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn attend(q: &[f32], unit: Unit<'_>, states: &mut [Softmax], acc: &mut [f32]) {
    match unit {
        Unit::Half { k, v } => tiles(q, k, v, states, acc),
        Unit::Single { k, v } => tiles(q, k, v, states, acc),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tiles<T: Element>(q: &[f32], k: &[T], v: &[T], states: &mut [Softmax], acc: &mut [f32]) {
    let (rows, width) = (states.len(), q.len() / states.len());
    let mut from = 0;
    while from < rows {
        let count = match rows - from {
            1 => 1,
            2 | 4 => 2,
            _ => 3,
        };
        let part = from * width..(from + count) * width;
        let (q, acc, states) = (&q[part.clone()], &mut acc[part], &mut states[from..][..count]);
        match count {
            1 => tile::<T, 1>(q, k, v, states, acc),
            2 => tile::<T, 2>(q, k, v, states, acc),
            _ => tile::<T, 3>(q, k, v, states, acc),
        }
        from += count;
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<T: Element, const R: usize>(q: &[f32], k: &[T], v: &[T], states: &mut [Softmax], acc: &mut [f32]) {
    let width = q.len() / R;
    let n = k.len() / width;
    let mut scores = [[f32::NEG_INFINITY; UNIT]; R];
    dots(q, k, width, &mut scores);
    let mut keep = [0f32; R];
    for ((state, scores), keep) in states.iter_mut().zip(&mut scores).zip(&mut keep) {
        *keep = soften(&mut scores[..n.next_multiple_of(8)], state);
    }
    let wide = width / 32 * 32;
    for at in (0..wide).step_by(32) {
        accumulate::<T, R, 4>(&scores, v, n, width, at, &keep, acc);
    }
    for at in (wide..width).step_by(8) {
        accumulate::<T, R, 1>(&scores, v, n, width, at, &keep, acc);
    }
}

/// Turns scores into `exp(score - max)`, adds them to the state, and returns the factor for what was summed before.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn soften(scores: &mut [f32], state: &mut Softmax) -> f32 {
    let mut max = _mm256_set1_ps(state.max);
    for j in (0..scores.len()).step_by(8) {
        max = _mm256_max_ps(max, load(scores, j));
    }
    let max = largest(max);
    let keep = _mm256_cvtss_f32(exp(_mm256_set1_ps(state.max - max)));
    let mut total = _mm256_setzero_ps();
    for j in (0..scores.len()).step_by(8) {
        let p = exp(_mm256_sub_ps(load(scores, j), _mm256_set1_ps(max)));
        total = _mm256_add_ps(total, p);
        store(scores, j, p);
    }
    *state = Softmax { max, sum: state.sum * keep + sum(total) };
    keep
}

/// Products of `R` queries with each key, four keys at a time and then one by one.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots<T: Element, const R: usize>(q: &[f32], k: &[T], width: usize, scores: &mut [[f32; UNIT]; R]) {
    let n = k.len() / width;
    assert!(n <= UNIT && q.len() == R * width && width.is_multiple_of(8), "{n} keys of {width} values");
    let fours = n / 4 * 4;
    for j in (0..fours).step_by(4) {
        let mut t = [[_mm256_setzero_ps(); 4]; R];
        for at in (0..width).step_by(8) {
            for i in 0..4 {
                // SAFETY: key `j + i` is one of the `n`, and `at + 8 <= width` because the width is whole vectors.
                let key = unsafe { T::load8(k.as_ptr().add((j + i) * width + at)) };
                for (r, t) in t.iter_mut().enumerate() {
                    // SAFETY: query `r` is one of `R` of `width` values; `at` as above.
                    let query = unsafe { f32::load8(q.as_ptr().add(r * width + at)) };
                    t[i] = _mm256_fmadd_ps(query, key, t[i]);
                }
            }
        }
        for (t, scores) in t.iter().zip(scores.iter_mut()) {
            // Pairwise sums leave, in each 128-bit half, half sums of the four keys.
            let halves = _mm256_hadd_ps(_mm256_hadd_ps(t[0], t[1]), _mm256_hadd_ps(t[2], t[3]));
            let four = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
            let target = &mut scores[j..][..4];
            // SAFETY: the target has four values.
            unsafe { _mm_storeu_ps(target.as_mut_ptr(), four) };
        }
    }
    for j in fours..n {
        for (q, scores) in q.chunks_exact(width).zip(scores.iter_mut()) {
            let mut total = _mm256_setzero_ps();
            for at in (0..width).step_by(8) {
                total = _mm256_fmadd_ps(load(q, at), load8(k, j * width + at), total);
            }
            scores[j] = sum(total);
        }
    }
}

/// `acc = acc * keep + sum of p[j] * v[j]` of each query, for the `8 W` columns from `at` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn accumulate<T: Element, const R: usize, const W: usize>(
    p: &[[f32; UNIT]; R],
    v: &[T],
    n: usize,
    width: usize,
    at: usize,
    keep: &[f32; R],
    acc: &mut [f32],
) {
    assert!(
        n <= UNIT && v.len() >= n * width && at + 8 * W <= width,
        "{n} values of {width}, columns from {at}"
    );
    let mut sums = [[_mm256_setzero_ps(); W]; R];
    for (r, (sums, keep)) in sums.iter_mut().zip(keep).enumerate() {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = _mm256_mul_ps(load(acc, r * width + at + 8 * i), _mm256_set1_ps(*keep));
        }
    }
    for j in 0..n {
        for i in 0..W {
            // SAFETY: value `j` is one of the `n`, and its columns up to `at + 8 W` are inside the width (checked above).
            let value = unsafe { T::load8(v.as_ptr().add(j * width + at + 8 * i)) };
            for (sums, p) in sums.iter_mut().zip(p) {
                sums[i] = _mm256_fmadd_ps(_mm256_set1_ps(p[j]), value, sums[i]);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (i, sum) in sums.iter().enumerate() {
            store(acc, r * width + at + 8 * i, *sum);
        }
    }
}
