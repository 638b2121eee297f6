//! One query over a unit of positions.

use std::arch::x86_64::*;

use super::super::{Softmax, UNIT};
use super::math::{exp, largest, load, store, sum};

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn attend(q: &[f32], k: &[f32], v: &[f32], state: &mut Softmax, acc: &mut [f32]) {
    let width = q.len();
    let n = k.len() / width;
    let mut scores = [f32::NEG_INFINITY; UNIT];
    let whole = n / 8 * 8;
    for j in (0..whole).step_by(8) {
        store(&mut scores, j, eight_dots(q, &k[j * width..][..8 * width]));
    }
    for j in whole..n {
        scores[j] = dot(q, &k[j * width..][..width]);
    }
    let padded = n.next_multiple_of(8);
    let mut max = _mm256_set1_ps(state.max);
    for j in (0..padded).step_by(8) {
        max = _mm256_max_ps(max, load(&scores, j));
    }
    let max = largest(max);
    let keep = if max == state.max { 1.0 } else { _mm256_cvtss_f32(exp(_mm256_set1_ps(state.max - max))) };
    let mut total = _mm256_setzero_ps();
    for j in (0..padded).step_by(8) {
        let p = exp(_mm256_sub_ps(load(&scores, j), _mm256_set1_ps(max)));
        total = _mm256_add_ps(total, p);
        store(&mut scores, j, p);
    }
    *state = Softmax { max, sum: state.sum * keep + sum(total) };
    let wide = width / 64 * 64;
    for at in (0..wide).step_by(64) {
        accumulate::<8>(&scores[..n], v, width, at, keep, acc);
    }
    for at in (wide..width).step_by(8) {
        accumulate::<1>(&scores[..n], v, width, at, keep, acc);
    }
}

/// `acc = acc * keep + sum of p[j] * v[j]` for the `8 W` columns from `at` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn accumulate<const W: usize>(p: &[f32], v: &[f32], width: usize, at: usize, keep: f32, acc: &mut [f32]) {
    let acc = &mut acc[at..][..8 * W];
    let mut sums = [_mm256_setzero_ps(); W];
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = _mm256_mul_ps(load(acc, 8 * i), _mm256_set1_ps(keep));
    }
    for (p, v) in p.iter().zip(v.chunks_exact(width)) {
        let (p, v) = (_mm256_set1_ps(*p), &v[at..][..8 * W]);
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = _mm256_fmadd_ps(p, load(v, 8 * i), *sum);
        }
    }
    for (i, sum) in sums.iter().enumerate() {
        store(acc, 8 * i, *sum);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot(q: &[f32], k: &[f32]) -> f32 {
    let mut total = _mm256_setzero_ps();
    for at in (0..q.len()).step_by(8) {
        total = _mm256_fmadd_ps(load(q, at), load(k, at), total);
    }
    sum(total)
}

/// Products of `q` with eight consecutive keys.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn eight_dots(q: &[f32], k: &[f32]) -> __m256 {
    let width = q.len();
    assert!(width.is_multiple_of(8) && k.len() == 8 * width, "eight keys of {width} values");
    let mut t = [_mm256_setzero_ps(); 8];
    for at in (0..width).step_by(8) {
        let q = load(q, at);
        for (j, t) in t.iter_mut().enumerate() {
            // SAFETY: key `j` starts at `j * width`, and `at + 8 <= width` because the width is a multiple of eight.
            let k = unsafe { _mm256_loadu_ps(k.as_ptr().add(j * width + at)) };
            *t = _mm256_fmadd_ps(q, k, *t);
        }
    }
    // Pairwise sums leave, in each 128-bit half, the half sums of four keys.
    let low = _mm256_hadd_ps(_mm256_hadd_ps(t[0], t[1]), _mm256_hadd_ps(t[2], t[3]));
    let high = _mm256_hadd_ps(_mm256_hadd_ps(t[4], t[5]), _mm256_hadd_ps(t[6], t[7]));
    let first = _mm256_permute2f128_ps::<0x20>(low, high);
    let second = _mm256_permute2f128_ps::<0x31>(low, high);
    _mm256_add_ps(first, second)
}
