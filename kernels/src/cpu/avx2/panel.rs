//! One panel of weights times rows of activations, in tiles of 4, 2 and 1 rows.
//!
//! A row's sums are made in the same order whatever the tile, so the tile does not show in the bits.

use std::arch::x86_64::*;

use super::super::{QuantBlock, Rows};
use super::math::store;
use crate::packed::{Kind, PANEL};

/// Two vectors: the 16 rows of a panel.
type Pair = [__m256; 2];

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn panel(kind: Kind, panel: &[u8], rows: Rows<'_>, out: &mut [[f32; PANEL]]) {
    let m = out.len();
    let mut from = 0;
    while from < m {
        let count = match m - from {
            1 => 1,
            2 | 3 => 2,
            _ => 4,
        };
        let out = &mut out[from..][..count];
        match count {
            1 => tile::<1>(kind, panel, rows, from, m, out),
            2 => tile::<2>(kind, panel, rows, from, m, out),
            _ => tile::<4>(kind, panel, rows, from, m, out),
        }
        from += count;
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<const M: usize>(
    kind: Kind,
    panel: &[u8],
    rows: Rows<'_>,
    from: usize,
    m: usize,
    out: &mut [[f32; PANEL]],
) {
    let sums = match rows {
        Rows::Quant(blocks) => {
            let width = blocks.len() / m;
            let mut x = [&blocks[..0]; M];
            for (i, x) in x.iter_mut().enumerate() {
                *x = &blocks[(from + i) * width..][..width];
            }
            match kind {
                Kind::U4Half => nibbles::<M, 320>(panel, &x),
                Kind::U4Single => nibbles::<M, 384>(panel, &x),
                Kind::I8By32 => bytes_by_32::<M>(panel, &x),
                _ => bytes_by_16::<M>(panel, &x),
            }
        }
        Rows::Float(values) => {
            let width = values.len() / m;
            let mut x = [&values[..0]; M];
            for (i, x) in x.iter_mut().enumerate() {
                *x = &values[(from + i) * width..][..width];
            }
            match kind {
                Kind::F32 => floats::<M, 64>(panel, &x, |block| pair_f32(block)),
                Kind::F16 => floats::<M, 32>(panel, &x, |block| pair_f16(block)),
                _ => floats::<M, 32>(panel, &x, |block| pair_bf16(block)),
            }
        }
    };
    for (out, sums) in out.iter_mut().zip(&sums) {
        store(out, 0, sums[0]);
        store(out, 8, sums[1]);
    }
}

/// Block `g` of each row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn at_block<'a, const M: usize>(x: &[&'a [QuantBlock]; M], g: usize) -> [&'a QuantBlock; M] {
    let mut blocks = [&x[0][g]; M];
    for (block, x) in blocks.iter_mut().zip(x) {
        *block = &x[g];
    }
    blocks
}

/// `count` as a number the compiler does not know. Unrolled fully, the loops over lanes are reordered row by row, and
/// the weights spill to the stack; a single row has too few registers in use for that.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn lanes<const M: usize>(count: usize) -> usize {
    if M == 1 { count } else { std::hint::black_box(count) }
}

/// Four activations, repeated in every lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn lane(q: &[i8; 32], at: usize) -> __m256i {
    let q = &q[at..][..4];
    // SAFETY: the slice has four bytes, and the read need not be aligned.
    _mm256_set1_epi32(unsafe { q.as_ptr().cast::<i32>().read_unaligned() })
}

/// The 32 bytes from `at` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_bytes(bytes: &[u8], at: usize) -> __m256i {
    let bytes = &bytes[at..][..32];
    // SAFETY: the slice has 32 bytes, and the load need not be aligned.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pair_f32(bytes: &[u8]) -> Pair {
    [_mm256_castsi256_ps(load_bytes(bytes, 0)), _mm256_castsi256_ps(load_bytes(bytes, 32))]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pair_f16(bytes: &[u8]) -> Pair {
    let v = load_bytes(bytes, 0);
    [_mm256_cvtph_ps(_mm256_castsi256_si128(v)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(v))]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pair_bf16(bytes: &[u8]) -> Pair {
    let v = load_bytes(bytes, 0);
    let low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(v));
    let high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<1>(v));
    [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))]
}

/// `sums += integer dot * (weight scale * activation scale)` for 16 rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_scaled(sums: &mut Pair, dots: &[__m256i; 2], scales: &Pair, x_scale: f32) {
    let x_scale = _mm256_set1_ps(x_scale);
    for i in 0..2 {
        sums[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[i]), _mm256_mul_ps(scales[i], x_scale), sums[i]);
    }
}

/// 4-bit panels: groups of 32 with scale and minimum; `BLOCK` bytes tell f16 from f32 scales.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles<const M: usize, const BLOCK: usize>(panel: &[u8], x: &[&[QuantBlock]; M]) -> [Pair; M] {
    let low = _mm256_set1_epi8(0x0f);
    let (ones, lanes) = (_mm256_set1_epi16(1), lanes::<M>(4));
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for (g, block) in panel.as_chunks::<BLOCK>().0.iter().enumerate() {
        let x = at_block(x, g);
        // Eight products of at most 15 * 127 in each 16-bit sum: 2 * 8 * 15 * 127 = 30480 fits.
        let mut dots = [[_mm256_setzero_si256(); 2]; M];
        for c in 0..lanes {
            // Tells the compiler that the reads are in bounds.
            let c = c % 4;
            let w = [load_bytes(block, 64 * c), load_bytes(block, 64 * c + 32)];
            let lows = [_mm256_and_si256(w[0], low), _mm256_and_si256(w[1], low)];
            let highs = [_mm256_srli_epi16::<4>(w[0]), _mm256_srli_epi16::<4>(w[1])];
            let highs = [_mm256_and_si256(highs[0], low), _mm256_and_si256(highs[1], low)];
            for (dots, x) in dots.iter_mut().zip(&x) {
                let (first, second) = (lane(&x.q, 4 * c), lane(&x.q, 16 + 4 * c));
                for i in 0..2 {
                    dots[i] = _mm256_add_epi16(dots[i], _mm256_maddubs_epi16(lows[i], first));
                    dots[i] = _mm256_add_epi16(dots[i], _mm256_maddubs_epi16(highs[i], second));
                }
            }
        }
        let (scales, mins) = if BLOCK == 320 {
            (pair_f16(&block[256..]), pair_f16(&block[288..]))
        } else {
            (pair_f32(&block[256..]), pair_f32(&block[320..]))
        };
        for ((sums, dots), x) in sums.iter_mut().zip(&dots).zip(&x) {
            let dots = [_mm256_madd_epi16(dots[0], ones), _mm256_madd_epi16(dots[1], ones)];
            add_scaled(sums, &dots, &scales, x.scale);
            let x_sum = _mm256_set1_ps(x.sum);
            for i in 0..2 {
                sums[i] = _mm256_fmadd_ps(mins[i], x_sum, sums[i]);
            }
        }
    }
    sums
}

/// 8-bit panels in groups of 32. The sign of a weight moves to the activation, because one factor must be unsigned.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bytes_by_32<const M: usize>(panel: &[u8], x: &[&[QuantBlock]; M]) -> [Pair; M] {
    let (ones, lanes) = (_mm256_set1_epi16(1), lanes::<M>(8));
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for (g, block) in panel.as_chunks::<544>().0.iter().enumerate() {
        let x = at_block(x, g);
        let mut dots = [[_mm256_setzero_si256(); 2]; M];
        for c in 0..lanes {
            // Tells the compiler that the reads are in bounds.
            let c = c % 8;
            let w = [load_bytes(block, 64 * c), load_bytes(block, 64 * c + 32)];
            let magnitudes = [_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])];
            for (dots, x) in dots.iter_mut().zip(&x) {
                let x = lane(&x.q, 4 * c);
                for i in 0..2 {
                    // Two products of at most 128 * 127: 32512 fits 16 bits, four would not.
                    let pairs = _mm256_maddubs_epi16(magnitudes[i], _mm256_sign_epi8(x, w[i]));
                    dots[i] = _mm256_add_epi32(dots[i], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        let scales = pair_f16(&block[512..]);
        for ((sums, dots), x) in sums.iter_mut().zip(&dots).zip(&x) {
            add_scaled(sums, dots, &scales, x.scale);
        }
    }
    sums
}

/// 8-bit panels in groups of 16 with weights of at most 32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bytes_by_16<const M: usize>(panel: &[u8], x: &[&[QuantBlock]; M]) -> [Pair; M] {
    let (ones, lanes) = (_mm256_set1_epi16(1), lanes::<M>(4));
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for (g, block) in panel.as_chunks::<320>().0.iter().enumerate() {
        let x = at_block(x, g / 2);
        // Eight products of at most 32 * 127 in each 16-bit sum: 32512 fits.
        let mut dots = [[_mm256_setzero_si256(); 2]; M];
        for c in 0..lanes {
            // Tells the compiler that the reads are in bounds.
            let c = c % 4;
            let w = [load_bytes(block, 64 * c), load_bytes(block, 64 * c + 32)];
            let magnitudes = [_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])];
            for (dots, x) in dots.iter_mut().zip(&x) {
                let x = lane(&x.q, g % 2 * 16 + 4 * c);
                for i in 0..2 {
                    let pairs = _mm256_maddubs_epi16(magnitudes[i], _mm256_sign_epi8(x, w[i]));
                    dots[i] = _mm256_add_epi16(dots[i], pairs);
                }
            }
        }
        let scales = pair_f32(&block[256..]);
        for ((sums, dots), x) in sums.iter_mut().zip(&dots).zip(&x) {
            let dots = [_mm256_madd_epi16(dots[0], ones), _mm256_madd_epi16(dots[1], ones)];
            add_scaled(sums, &dots, &scales, x.scale);
        }
    }
    sums
}

/// Float panels: `BLOCK` bytes a column, widened by `load`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn floats<const M: usize, const BLOCK: usize>(
    panel: &[u8],
    x: &[&[f32]; M],
    load: impl Fn(&[u8]) -> Pair,
) -> [Pair; M] {
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for (column, block) in panel.as_chunks::<BLOCK>().0.iter().enumerate() {
        let w = load(block);
        for (sums, x) in sums.iter_mut().zip(x) {
            let x = _mm256_set1_ps(x[column]);
            for i in 0..2 {
                sums[i] = _mm256_fmadd_ps(w[i], x, sums[i]);
            }
        }
    }
    sums
}
