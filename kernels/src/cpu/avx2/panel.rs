//! One panel of weights times rows of activations, in tiles of 4 to 1 rows.
//!
//! A row's sums are made in the same order whatever the tile, so the tile does not show in the bits.
//!
//! A tile of 4 rows keeps eight sums, two vectors of weights and one of activations in registers. Left to itself the
//! compiler reorders the products row by row and spills the weights, so multiply and add stand in [`asm!`] statements,
//! whose order it keeps.

use std::arch::asm;
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
            rest @ 1..4 => rest,
            _ => 4,
        };
        let out = &mut out[from..][..count];
        match count {
            1 => tile::<1>(kind, panel, rows, from, m, out),
            2 => tile::<2>(kind, panel, rows, from, m, out),
            3 => tile::<3>(kind, panel, rows, from, m, out),
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
            // The first tile of a panel fetches the next panel, so that it does not wait for memory.
            let ahead = if from == 0 { panel.len() } else { 0 };
            match kind {
                Kind::U4Half => nibbles::<M, 320>(panel, &x, ahead),
                Kind::U4Single => nibbles::<M, 384>(panel, &x, ahead),
                Kind::I8By32 => bytes_by_32::<M>(panel, &x, ahead),
                _ => bytes_by_16::<M>(panel, &x, ahead),
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

/// `w x` of unsigned `w` and signed `x`, neighbours added: 16 sums of two products.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn products(w: __m256i, x: __m256i) -> __m256i {
    let pairs;
    // SAFETY: one register instruction of AVX2, which this function requires.
    unsafe {
        asm!("vpmaddubsw {p}, {w}, {x}", p = out(ymm_reg) pairs, w = in(ymm_reg) w, x = in(ymm_reg) x,
            options(nomem, nostack, preserves_flags));
    }
    pairs
}

/// `sums += products(w, x)` in 16 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_products(sums: &mut __m256i, w: __m256i, x: __m256i) {
    // SAFETY: register instructions of AVX2, which this function requires.
    unsafe {
        asm!("vpmaddubsw {p}, {w}, {x}", "vpaddw {s}, {s}, {p}", p = out(ymm_reg) _, w = in(ymm_reg) w,
            x = in(ymm_reg) x, s = inout(ymm_reg) *sums, options(nomem, nostack, preserves_flags));
    }
}

/// `sums += w x` of signed bytes in 32 bits. The sign of the weight moves to the activation, because one factor must be
/// unsigned; `magnitude` is the weight without it. Two products of at most 128 * 127 fit 16 bits, four would not.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_signed(sums: &mut __m256i, w: __m256i, magnitude: __m256i, x: __m256i, ones: __m256i) {
    // SAFETY: register instructions of AVX2, which this function requires.
    unsafe {
        asm!("vpsignb {p}, {x}, {w}", "vpmaddubsw {p}, {m}, {p}", "vpmaddwd {p}, {p}, {o}", "vpaddd {s}, {s}, {p}",
            p = out(ymm_reg) _, x = in(ymm_reg) x, w = in(ymm_reg) w, m = in(ymm_reg) magnitude, o = in(ymm_reg) ones,
            s = inout(ymm_reg) *sums, options(nomem, nostack, preserves_flags));
    }
}

/// Asks for the cache lines that lie `ahead` bytes after `block`; for none if that is 0.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fetch(block: &[u8], ahead: usize) {
    if ahead > 0 {
        for line in (0..block.len()).step_by(64) {
            // Beyond the last panel the address may lie outside of the matrix; a prefetch is a hint and never faults.
            _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().wrapping_add(ahead + line).cast());
        }
    }
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
fn nibbles<const M: usize, const BLOCK: usize>(
    panel: &[u8],
    x: &[&[QuantBlock]; M],
    ahead: usize,
) -> [Pair; M] {
    let (low, ones) = (_mm256_set1_epi8(0x0f), _mm256_set1_epi16(1));
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for (g, block) in panel.as_chunks::<BLOCK>().0.iter().enumerate() {
        fetch(block, ahead);
        let x = at_block(x, g);
        // Eight products of at most 15 * 127 in each 16-bit sum: 2 * 8 * 15 * 127 = 30480 fits.
        let mut dots = [[_mm256_setzero_si256(); 2]; M];
        for c in 0..4 {
            let w = [load_bytes(block, 64 * c), load_bytes(block, 64 * c + 32)];
            let lows = [_mm256_and_si256(w[0], low), _mm256_and_si256(w[1], low)];
            for (dots, x) in dots.iter_mut().zip(&x) {
                let x = lane(&x.q, 4 * c);
                for i in 0..2 {
                    if c == 0 {
                        dots[i] = products(lows[i], x);
                    } else {
                        add_products(&mut dots[i], lows[i], x);
                    }
                }
            }
            let highs = [_mm256_srli_epi16::<4>(w[0]), _mm256_srli_epi16::<4>(w[1])];
            let highs = [_mm256_and_si256(highs[0], low), _mm256_and_si256(highs[1], low)];
            for (dots, x) in dots.iter_mut().zip(&x) {
                let x = lane(&x.q, 16 + 4 * c);
                for i in 0..2 {
                    add_products(&mut dots[i], highs[i], x);
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

/// 8-bit panels in groups of 32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bytes_by_32<const M: usize>(panel: &[u8], x: &[&[QuantBlock]; M], ahead: usize) -> [Pair; M] {
    let ones = _mm256_set1_epi16(1);
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for (g, block) in panel.as_chunks::<544>().0.iter().enumerate() {
        fetch(block, ahead);
        let x = at_block(x, g);
        let mut dots = [[_mm256_setzero_si256(); 2]; M];
        for c in 0..8 {
            for i in 0..2 {
                let w = load_bytes(block, 64 * c + 32 * i);
                let magnitude = _mm256_abs_epi8(w);
                for (dots, x) in dots.iter_mut().zip(&x) {
                    add_signed(&mut dots[i], w, magnitude, lane(&x.q, 4 * c), ones);
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
fn bytes_by_16<const M: usize>(panel: &[u8], x: &[&[QuantBlock]; M], ahead: usize) -> [Pair; M] {
    let ones = _mm256_set1_epi16(1);
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for (g, block) in panel.as_chunks::<320>().0.iter().enumerate() {
        fetch(block, ahead);
        let x = at_block(x, g / 2);
        // Eight products of at most 32 * 127 in each 16-bit sum: 32512 fits.
        let mut dots = [[_mm256_setzero_si256(); 2]; M];
        for c in 0..4 {
            for i in 0..2 {
                let w = load_bytes(block, 64 * c + 32 * i);
                let magnitude = _mm256_abs_epi8(w);
                for (dots, x) in dots.iter_mut().zip(&x) {
                    let x = lane(&x.q, g % 2 * 16 + 4 * c);
                    add_products(&mut dots[i], magnitude, _mm256_sign_epi8(x, w));
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
