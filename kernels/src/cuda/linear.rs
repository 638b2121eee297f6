//! Launches of `linear.cu` and `linear_small.cu`: `y = x W^T`.

use half::{bf16, f16};

use super::device::{CudaError, Device, DeviceBuffer, Launch, Params, ensure};
use crate::{WeightType, packed};

/// Most rows of x that the weight-streaming kernels take.
pub const SMALL_BATCH: usize = 8;

const THREADS: u32 = 256;
/// Rows of W of a block of the weight-streaming kernels.
const SMALL_ROWS: usize = 16;
/// Tile of the kernel for many rows.
const TILE: usize = 128;

/// A weight matrix `[rows, cols]` on a device.
pub struct DeviceMatrix {
    rows: usize,
    cols: usize,
    data: Data,
}

enum Data {
    Bf16(DeviceBuffer<bf16>),
    /// 4 bits a weight, packed as linear_small.cu reads it, and `[rows, cols / 32]` pairs of scale and minimum.
    U4 {
        weights: DeviceBuffer<u8>,
        scales: DeviceBuffer<u32>,
    },
}

impl DeviceMatrix {
    /// Takes over `values` `[rows, cols]`.
    ///
    /// # Errors
    /// A shape the kernels cannot work with, another number of values, or no memory.
    pub fn bf16(device: &Device, rows: usize, cols: usize, values: &[bf16]) -> Result<Self, CudaError> {
        ensure!(
            rows > 0 && rows.is_multiple_of(2) && cols > 0 && cols.is_multiple_of(32),
            "a matrix of {rows} x {cols}: CUDA kernels need an even number of rows and whole groups of 32 columns"
        );
        ensure!(values.len() == rows * cols, "{} values for {rows} x {cols}", values.len());
        Ok(Self { rows, cols, data: Data::Bf16(device.upload(values)?) })
    }

    /// Takes over 4-bit blocks of 32 as GGUF files have them (`Q4_0`, `Q4_1`), exactly.
    ///
    /// # Errors
    /// Another type, a shape the kernels cannot work with, another number of bytes, or no memory.
    pub fn u4(
        device: &Device,
        ty: WeightType,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<Self, CudaError> {
        ensure!(matches!(ty, WeightType::Q4_0 | WeightType::Q4_1), "{ty:?} weights have no 4-bit kernel");
        ensure!(
            rows > 0 && rows.is_multiple_of(2) && cols > 0 && cols.is_multiple_of(128),
            "a 4-bit matrix of {rows} x {cols}: CUDA kernels need an even number of rows and whole groups of 128 columns"
        );
        ensure!(
            ty.row_bytes(cols).is_some_and(|row| bytes.len() == row * rows),
            "{} bytes for {rows} x {cols}",
            bytes.len()
        );
        let (weights, scales) = pack_u4(ty, rows, cols, bytes);
        let data = Data::U4 { weights: device.upload(&weights)?, scales: device.upload(&scales)? };
        Ok(Self { rows, cols, data })
    }

    /// Outputs of a product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs of a product.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Data::Bf16(values) => values.len() * 2,
            Data::U4 { weights, scales } => weights.len() + scales.len() * 4,
        }
    }

    /// The values, if they are bf16: an embedding table.
    pub fn as_bf16(&self) -> Option<&DeviceBuffer<bf16>> {
        match &self.data {
            Data::Bf16(values) => Some(values),
            Data::U4 { .. } => None,
        }
    }
}

/// File blocks to the layout of `multiply_u4`: `[ceil(rows / 8), cols / 128, 8 rows, 4 lanes]` times 16 bytes.
fn pack_u4(ty: WeightType, rows: usize, cols: usize, bytes: &[u8]) -> (Vec<u8>, Vec<u32>) {
    let (row_bytes, tiles) = (bytes.len() / rows, cols / 128);
    let mut weights = vec![0u8; rows.div_ceil(8) * tiles * 8 * 64];
    let mut scales = vec![0u32; rows * cols / 32];
    let mut quants = [0u8; 32];
    for row in 0..rows {
        for block in 0..cols / 32 {
            let source = &bytes[row * row_bytes + block * ty.block_bytes()..][..ty.block_bytes()];
            let (scale, min) = packed::read_group(ty, source, 0, &mut quants);
            scales[row * (cols / 32) + block] =
                u32::from(f16::from_f32(scale).to_bits()) | u32::from(f16::from_f32(min).to_bits()) << 16;
            let tile = ((row / 8 * tiles + block / 4) * 8 + row % 8) * 64;
            for (lane, eight) in quants.chunks_exact(8).enumerate() {
                let order = [0, 2, 4, 6, 1, 3, 5, 7];
                let word = (0..8).fold(0u32, |word, i| word | u32::from(eight[order[i]]) << (4 * i));
                weights[tile + lane * 16 + block % 4 * 4..][..4].copy_from_slice(&word.to_le_bytes());
            }
        }
    }
    (weights, scales)
}

/// Where a product goes.
pub enum Product<'a> {
    /// Rounded to brain floats.
    Bf16(&'a DeviceBuffer<bf16>),
    /// As summed.
    F32(&'a DeviceBuffer<f32>),
}

impl Product<'_> {
    fn parts(&self) -> (u64, usize, u32) {
        match self {
            Self::Bf16(y) => (y.address(), y.len(), 0),
            Self::F32(y) => (y.address(), y.len(), 1),
        }
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct LinearSmallParams {
    x: u64,
    weight: u64,
    scales: u64,
    y: u64,
    m: u32,
    n: u32,
    k: u32,
    y_is_float: u32,
}
// SAFETY: the mirror of LinearSmallParams in linear_small.cu.
unsafe impl Params for LinearSmallParams {}

#[derive(Clone, Copy)]
#[repr(C)]
struct LinearParams {
    x: u64,
    weight: u64,
    y: u64,
    m: u32,
    n: u32,
    k: u32,
    y_is_float: u32,
}
// SAFETY: the mirror of LinearParams in linear.cu.
unsafe impl Params for LinearParams {}

/// The first `m` rows of `x` `[m, cols]` times the transpose of `w`: `[m, rows]`. Sums are f32.
///
/// Up to [`SMALL_BATCH`] rows stream the weights once; 4-bit weights take more rows in groups of that size.
///
/// # Errors
/// Sizes that do not go together, or what the driver reports.
pub fn matmul(x: &DeviceBuffer<bf16>, m: usize, w: &DeviceMatrix, y: &Product<'_>) -> Result<(), CudaError> {
    let (address, len, y_is_float) = y.parts();
    ensure!(
        x.len() >= m * w.cols && len >= m * w.rows,
        "matmul: {m} rows of {} values with {} x {} into {len}",
        x.len(),
        w.rows,
        w.cols
    );
    let (n, k, size) = (w.rows as u32, w.cols as u32, if y_is_float == 1 { 4 } else { 2 });
    if let (Data::Bf16(values), true) = (&w.data, m > SMALL_BATCH) {
        let params = LinearParams {
            x: x.address(),
            weight: values.address(),
            y: address,
            m: m as u32,
            n,
            k,
            y_is_float,
        };
        // Three stages of both operands, rows padded by 8 values.
        let shared_bytes = 3 * 2 * TILE * (32 + 8) * size_of::<bf16>();
        let grid = [w.rows.div_ceil(TILE) as u32, m.div_ceil(TILE) as u32, 1];
        return x.device().launch("linear_bf16", Launch { grid, threads: THREADS, shared_bytes }, &params);
    }
    let (kernel, weight, scales) = match &w.data {
        Data::Bf16(values) => ("linear_small_bf16", values.address(), 0),
        Data::U4 { weights, scales } => ("linear_small_u4", weights.address(), scales.address()),
    };
    for first in (0..m).step_by(SMALL_BATCH) {
        let params = LinearSmallParams {
            x: x.address() + (first * w.cols * 2) as u64,
            weight,
            scales,
            y: address + (first * w.rows * size) as u64,
            m: (m - first).min(SMALL_BATCH) as u32,
            n,
            k,
            y_is_float,
        };
        let launch = Launch {
            grid: [w.rows.div_ceil(SMALL_ROWS) as u32, 1, 1],
            threads: THREADS,
            shared_bytes: THREADS as usize / 32 * SMALL_ROWS * SMALL_BATCH * size_of::<f32>(),
        };
        x.device().launch(kernel, launch, &params)?;
    }
    Ok(())
}
