//! Element types of weights as files store them, and their plain dequantisation.

use half::{bf16, f16};

/// Element types of weights as stored in files (the GGUF names).
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// 16-bit brain float.
    BF16,
    /// 32 weights of 4 bits, one f16 scale, fixed offset 8.
    Q4_0,
    /// 32 weights of 4 bits, f16 scale and minimum.
    Q4_1,
    /// 32 weights of 8 bits, one f16 scale.
    Q8_0,
    /// 256 weights of 4 bits in 8 groups with 6-bit scales and minimums.
    Q4K,
    /// 256 weights of 6 bits in 16 groups with 8-bit scales.
    Q6K,
}

impl WeightType {
    /// Number of weights in one block.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q6K => 256,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q6K => 210,
        }
    }

    /// Bytes of a row of `cols` weights; `None` if `cols` is not a multiple of the block length or the size overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }
}

/// Little-endian f16 at `at`.
pub(crate) fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// The 6-bit scale and minimum of sub-block `j` (0..8) of a Q4_K block; `packed` is its 12-byte field.
pub(crate) fn q4k_scale_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let scale = (packed[j + 4] & 0x0f) | ((packed[j - 4] >> 6) << 4);
        let min = (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4);
        (scale, min)
    }
}

/// Weight `i` (0..256) of a Q6_K block as a signed integer in -32..32.
pub(crate) fn q6k_quant(block: &[u8], i: usize) -> i8 {
    // Two halves of 128; each has 64 bytes of low nibbles and 32 bytes holding four 2-bit high parts.
    let (half, within) = (i / 128, i % 128);
    let (quarter, lane) = (within / 32, within % 32);
    let low_byte = block[half * 64 + (quarter % 2) * 32 + lane];
    let low = if quarter < 2 { low_byte & 0x0f } else { low_byte >> 4 };
    let high = (block[128 + half * 32 + lane] >> (2 * quarter)) & 3;
    ((high << 4) | low) as i8 - 32
}

/// Scale of the 16 weights of group `g` (0..16) of a Q6_K block.
pub(crate) fn q6k_scale(block: &[u8], g: usize) -> f32 {
    f16_at(block, 208) * f32::from(block[192 + g] as i8)
}

/// Dequantises whole blocks in plain loops.
///
/// # Panics
/// If `out` is not a whole number of blocks or `data` is not exactly as long as those blocks.
pub fn dequantize(ty: WeightType, data: &[u8], out: &mut [f32]) {
    assert_eq!(
        ty.row_bytes(out.len()),
        Some(data.len()),
        "{ty:?}: data does not match {} weights",
        out.len()
    );
    let blocks = data.chunks_exact(ty.block_bytes()).zip(out.chunks_exact_mut(ty.block_len()));
    for (block, out) in blocks {
        dequantize_block(ty, block, out);
    }
}

fn dequantize_block(ty: WeightType, b: &[u8], out: &mut [f32]) {
    match ty {
        WeightType::F32 => out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        WeightType::F16 => out[0] = f16_at(b, 0),
        WeightType::BF16 => out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        WeightType::Q4_0 => {
            let d = f16_at(b, 0);
            for i in 0..16 {
                out[i] = f32::from((b[2 + i] & 0x0f) as i8 - 8) * d;
                out[16 + i] = f32::from((b[2 + i] >> 4) as i8 - 8) * d;
            }
        }
        WeightType::Q4_1 => {
            let (d, min) = (f16_at(b, 0), f16_at(b, 2));
            for i in 0..16 {
                out[i] = f32::from(b[4 + i] & 0x0f) * d + min;
                out[16 + i] = f32::from(b[4 + i] >> 4) * d + min;
            }
        }
        WeightType::Q8_0 => {
            let d = f16_at(b, 0);
            for (o, q) in out.iter_mut().zip(&b[2..]) {
                *o = f32::from(*q as i8) * d;
            }
        }
        WeightType::Q4K => {
            let (d, dmin) = (f16_at(b, 0), f16_at(b, 2));
            for j in 0..8 {
                let (scale, min) = q4k_scale_min(&b[4..16], j);
                let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
                for i in 0..32 {
                    let byte = b[16 + (j / 2) * 32 + i];
                    let q = if j % 2 == 0 { byte & 0x0f } else { byte >> 4 };
                    out[j * 32 + i] = f32::from(q) * scale - min;
                }
            }
        }
        WeightType::Q6K => {
            for (i, o) in out.iter_mut().enumerate() {
                *o = q6k_scale(b, i / 16) * f32::from(q6k_quant(b, i));
            }
        }
    }
}
