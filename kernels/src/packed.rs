//! Weight matrices in panels of 16 rows, the form all matmul paths read.
//!
//! A panel holds its 16 rows side by side, block after block along the columns:
//!
//! | kind | columns | bytes of a block |
//! |---|---|---|
//! | `U4Half` | 32 | 256 nibbles, 16 f16 scales, 16 f16 minimums |
//! | `U4Single` | 32 | 256 nibbles, 16 f32 scales, 16 f32 minimums |
//! | `I8By32` | 32 | 512 i8, 16 f16 scales |
//! | `I8By16` | 16 | 256 i8, 16 f32 scales |
//! | `F32`, `F16`, `BF16` | 1 | 16 values |
//!
//! Quants come in lanes of four consecutive columns of one row: lane `c` (columns `4c..4c+4`) of row `r` is at
//! `64 c + 4 r`. In a 4-bit block the low nibbles are columns 0..16 and the high nibbles columns 16..32.
//! Rows beyond the matrix are zero.

use half::f16;
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::WeightType;
use crate::alloc::HugeBytes;
use crate::weight_type::{dequantize, f16_at, q4k_scale_min, q6k_quant, q6k_scale};

/// Rows of a panel.
pub(crate) const PANEL: usize = 16;

/// How a panel stores its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    U4Half,
    U4Single,
    I8By32,
    I8By16,
    F32,
    F16,
    BF16,
}

impl Kind {
    /// Columns of a block.
    pub(crate) const fn columns(self) -> usize {
        match self {
            Self::U4Half | Self::U4Single | Self::I8By32 => 32,
            Self::I8By16 => 16,
            Self::F32 | Self::F16 | Self::BF16 => 1,
        }
    }

    /// Bytes of a block.
    pub(crate) const fn block_bytes(self) -> usize {
        match self {
            Self::U4Half | Self::I8By16 => 320,
            Self::U4Single => 384,
            Self::I8By32 => 544,
            Self::F32 => 64,
            Self::F16 | Self::BF16 => 32,
        }
    }

    /// Whether activations are quantised to 8 bits for it.
    pub(crate) const fn is_quantized(self) -> bool {
        self.columns() > 1
    }

    fn of(ty: WeightType, data: &[u8]) -> Self {
        // The minimum -8d of a Q4_0 block is exact in f16 unless it overflows.
        let fits = |block: &[u8]| (f16_at(block, 0) * 8.0).abs() <= f16::MAX.to_f32();
        match ty {
            WeightType::F32 => Self::F32,
            WeightType::F16 => Self::F16,
            WeightType::BF16 => Self::BF16,
            WeightType::Q4_0 if data.chunks_exact(ty.block_bytes()).all(fits) => Self::U4Half,
            WeightType::Q4_1 => Self::U4Half,
            WeightType::Q4_0 | WeightType::Q4K => Self::U4Single,
            WeightType::Q8_0 => Self::I8By32,
            WeightType::Q6K => Self::I8By16,
        }
    }
}

/// Why weights could not be packed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// A matrix without rows or columns.
    #[error("a matrix of {rows} x {cols} has no weights")]
    Empty {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
    },
    /// The columns are not whole blocks.
    #[error("{cols} columns are not a multiple of the block length {block_len} of {ty:?}")]
    Columns {
        /// Columns asked for.
        cols: usize,
        /// Weights in a block.
        block_len: usize,
        /// The weight type.
        ty: WeightType,
    },
    /// The data has another length than the shape needs.
    #[error("{rows} x {cols} weights need {expected} bytes, got {actual}")]
    Length {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
    /// The system has no memory for the packed form.
    #[error("no memory for {bytes} bytes of packed weights")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
    },
}

/// Weight matrix `[rows, cols]` packed in 16-row panels, on huge pages where the system has them.
pub struct PackedMatrix {
    rows: usize,
    cols: usize,
    kind: Kind,
    panel_bytes: usize,
    data: HugeBytes,
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedMatrix({} x {}, {:?})", self.rows, self.cols, self.kind)
    }
}

impl PackedMatrix {
    /// Packs `rows` rows of `cols` weights stored row after row in `data`.
    ///
    /// # Errors
    /// If the shape is empty, `cols` is not whole blocks, `data` has another length, or memory is short.
    pub fn pack(ty: WeightType, rows: usize, cols: usize, data: &[u8]) -> Result<Self, PackError> {
        if rows == 0 || cols == 0 {
            return Err(PackError::Empty { rows, cols });
        }
        let row_bytes =
            ty.row_bytes(cols).ok_or(PackError::Columns { cols, block_len: ty.block_len(), ty })?;
        let expected = row_bytes.saturating_mul(rows);
        if data.len() != expected {
            return Err(PackError::Length { rows, cols, expected, actual: data.len() });
        }
        let kind = Kind::of(ty, data);
        let panel_bytes = cols / kind.columns() * kind.block_bytes();
        let bytes = rows.div_ceil(PANEL).saturating_mul(panel_bytes);
        let mut packed = HugeBytes::zeroed(bytes).ok_or(PackError::Memory { bytes })?;
        packed
            .par_chunks_mut(panel_bytes)
            .zip(rayon::slice::ParallelSlice::par_chunks(data, row_bytes * PANEL))
            .for_each(|(panel, source)| {
                for (row, source) in source.chunks_exact(row_bytes).enumerate() {
                    pack_row(ty, kind, source, row, panel);
                }
            });
        Ok(Self { rows, cols, kind, panel_bytes, data: packed })
    }

    /// Number of rows (outputs of a matmul).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (inputs of a matmul).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of the packed form.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Writes row `row` as f32.
    ///
    /// # Panics
    /// If `row` is not below `rows` or `out` is not `cols` long.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "a row has {} weights", self.cols);
        let blocks = self.panel(row / PANEL).chunks_exact(self.kind.block_bytes());
        for (block, out) in blocks.zip(out.chunks_exact_mut(self.kind.columns())) {
            unpack_block(self.kind, block, row % PANEL, out);
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Number of panels.
    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    pub(crate) fn panel(&self, index: usize) -> &[u8] {
        &self.data[index * self.panel_bytes..][..self.panel_bytes]
    }
}

/// Writes one row of the file's blocks to place `row` of a panel.
fn pack_row(ty: WeightType, kind: Kind, source: &[u8], row: usize, panel: &mut [u8]) {
    if !kind.is_quantized() {
        let size = ty.block_bytes();
        for (value, block) in source.chunks_exact(size).zip(panel.chunks_exact_mut(kind.block_bytes())) {
            block[row * size..][..size].copy_from_slice(value);
        }
        return;
    }
    let per_block = ty.block_len() / kind.columns();
    let mut quants = [0u8; 32];
    for (index, block) in panel.chunks_exact_mut(kind.block_bytes()).enumerate() {
        let source = &source[index / per_block * ty.block_bytes()..][..ty.block_bytes()];
        let (scale, min) = read_group(ty, source, index % per_block, &mut quants);
        let quants = &quants[..kind.columns()];
        match kind {
            Kind::U4Half => {
                pack_nibbles(quants, row, block);
                block[256 + 2 * row..][..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
                block[288 + 2 * row..][..2].copy_from_slice(&f16::from_f32(min).to_le_bytes());
            }
            Kind::U4Single => {
                pack_nibbles(quants, row, block);
                block[256 + 4 * row..][..4].copy_from_slice(&scale.to_le_bytes());
                block[320 + 4 * row..][..4].copy_from_slice(&min.to_le_bytes());
            }
            Kind::I8By32 => {
                pack_bytes(quants, row, block);
                block[512 + 2 * row..][..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            }
            _ => {
                pack_bytes(quants, row, block);
                block[256 + 4 * row..][..4].copy_from_slice(&scale.to_le_bytes());
            }
        }
    }
}

fn pack_nibbles(quants: &[u8], row: usize, block: &mut [u8]) {
    for i in 0..16 {
        block[i / 4 * 64 + row * 4 + i % 4] = quants[i] | (quants[16 + i] << 4);
    }
}

fn pack_bytes(quants: &[u8], row: usize, block: &mut [u8]) {
    for (i, quant) in quants.iter().enumerate() {
        block[i / 4 * 64 + row * 4 + i % 4] = *quant;
    }
}

/// Reads group `g` of a file block: its quants (unsigned nibbles or signed bytes), and `(scale, minimum)`.
pub(crate) fn read_group(ty: WeightType, b: &[u8], g: usize, quants: &mut [u8; 32]) -> (f32, f32) {
    match ty {
        WeightType::Q4_0 | WeightType::Q4_1 => {
            let nibbles = &b[b.len() - 16..];
            for i in 0..16 {
                quants[i] = nibbles[i] & 0x0f;
                quants[16 + i] = nibbles[i] >> 4;
            }
            let scale = f16_at(b, 0);
            (scale, if ty == WeightType::Q4_0 { -8.0 * scale } else { f16_at(b, 2) })
        }
        WeightType::Q8_0 => {
            quants.copy_from_slice(&b[2..34]);
            (f16_at(b, 0), 0.0)
        }
        WeightType::Q4K => {
            for (i, quant) in quants.iter_mut().enumerate() {
                *quant = (b[16 + g / 2 * 32 + i] >> (4 * (g % 2))) & 0x0f;
            }
            let (scale, min) = q4k_scale_min(&b[4..16], g);
            (f16_at(b, 0) * f32::from(scale), -(f16_at(b, 2) * f32::from(min)))
        }
        WeightType::Q6K => {
            for (i, quant) in quants[..16].iter_mut().enumerate() {
                *quant = q6k_quant(b, g * 16 + i) as u8;
            }
            (q6k_scale(b, g), 0.0)
        }
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => (1.0, 0.0),
    }
}

/// Little-endian f32 at `at`.
pub(crate) fn f32_at(bytes: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// `(scale, minimum)` of row `row` in a quantised block.
pub(crate) fn scale_min(kind: Kind, block: &[u8], row: usize) -> (f32, f32) {
    match kind {
        Kind::U4Half => (f16_at(block, 256 + 2 * row), f16_at(block, 288 + 2 * row)),
        Kind::U4Single => (f32_at(block, 256 + 4 * row), f32_at(block, 320 + 4 * row)),
        Kind::I8By32 => (f16_at(block, 512 + 2 * row), 0.0),
        Kind::I8By16 => (f32_at(block, 256 + 4 * row), 0.0),
        Kind::F32 | Kind::F16 | Kind::BF16 => (1.0, 0.0),
    }
}

fn unpack_block(kind: Kind, block: &[u8], row: usize, out: &mut [f32]) {
    match kind {
        Kind::F32 => dequantize(WeightType::F32, &block[row * 4..][..4], out),
        Kind::F16 => dequantize(WeightType::F16, &block[row * 2..][..2], out),
        Kind::BF16 => dequantize(WeightType::BF16, &block[row * 2..][..2], out),
        Kind::U4Half | Kind::U4Single => {
            let (scale, min) = scale_min(kind, block, row);
            for i in 0..16 {
                let byte = block[i / 4 * 64 + row * 4 + i % 4];
                out[i] = f32::from(byte & 0x0f) * scale + min;
                out[16 + i] = f32::from(byte >> 4) * scale + min;
            }
        }
        Kind::I8By32 | Kind::I8By16 => {
            let (scale, _) = scale_min(kind, block, row);
            for (i, o) in out.iter_mut().enumerate() {
                *o = f32::from(block[i / 4 * 64 + row * 4 + i % 4] as i8) * scale;
            }
        }
    }
}
