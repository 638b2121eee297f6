//! Seeded data and comparison.

use half::f16;
use kernels::WeightType;

pub(crate) const TYPES: [WeightType; 8] = [
    WeightType::F32,
    WeightType::F16,
    WeightType::BF16,
    WeightType::Q4_0,
    WeightType::Q4_1,
    WeightType::Q8_0,
    WeightType::Q4K,
    WeightType::Q6K,
];

/// A small generator (splitmix64).
pub(crate) struct Rng(pub u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Uniform in -1..1.
    pub(crate) fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.signed()).collect()
    }

    pub(crate) fn shuffled(&mut self, count: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..count as u32).collect();
        for i in (1..count).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// Where the f16 scales of a block are.
fn scale_fields(ty: WeightType) -> &'static [usize] {
    match ty {
        WeightType::Q4_0 | WeightType::Q8_0 => &[0],
        WeightType::Q4_1 | WeightType::Q4K => &[0, 2],
        WeightType::Q6K => &[208],
        _ => &[],
    }
}

/// Random weights of `rows` rows in the file format of `ty`, with scales of ordinary size.
pub(crate) fn weights(ty: WeightType, rows: usize, cols: usize, rng: &mut Rng) -> Vec<u8> {
    let count = rows * cols;
    match ty {
        WeightType::F32 => (0..count).flat_map(|_| rng.signed().to_le_bytes()).collect(),
        WeightType::F16 => (0..count).flat_map(|_| f16::from_f32(rng.signed()).to_le_bytes()).collect(),
        WeightType::BF16 => {
            (0..count).flat_map(|_| half::bf16::from_f32(rng.signed()).to_le_bytes()).collect()
        }
        _ => {
            let mut data: Vec<u8> =
                (0..count / ty.block_len() * ty.block_bytes()).map(|_| rng.next() as u8).collect();
            for block in data.chunks_exact_mut(ty.block_bytes()) {
                for at in scale_fields(ty) {
                    block[*at..at + 2].copy_from_slice(&f16::from_f32(rng.signed() * 0.05).to_le_bytes());
                }
            }
            data
        }
    }
}

pub(crate) fn dequantized(ty: WeightType, data: &[u8]) -> Vec<f32> {
    let mut out = vec![0f32; data.len() / ty.block_bytes() * ty.block_len()];
    kernels::dequantize(ty, data, &mut out);
    out
}

/// Asserts `|actual - expected| <= bound` for each value.
#[track_caller]
pub(crate) fn assert_close(actual: &[f32], expected: &[f64], bound: impl Fn(usize) -> f64, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: lengths");
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(*a) - e).abs();
        assert!(error <= bound(i), "{what}: value {i} is {a}, expected {e} within {}", bound(i));
    }
}

/// Bits of the values, so that a comparison tells -0 from 0 and NaN from NaN.
pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Runs `f` without worker threads, to compare with the default.
pub(crate) fn single_thread<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    kernels::on_one_thread(f)
}
