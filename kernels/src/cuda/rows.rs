//! Launches of `norm.cu`: what works on each row by itself.

use half::bf16;

use super::device::{CudaError, DeviceBuffer, Launch, Params, ensure};

const THREADS: u32 = 256;
/// Floats with which a block adds up over its warps.
const SCRATCH: usize = THREADS as usize / 32;
/// Values of a row that fit the shared memory every device has.
const MAX_WIDTH: usize = 40 * 1024;

/// Where a normalised or activated row goes.
pub enum RowsOut<'a> {
    /// As 16-bit brain floats.
    Bf16(&'a DeviceBuffer<bf16>),
    /// As e4m3 bytes with one scale a row, chosen from the row's largest magnitude.
    Fp8(&'a DeviceBuffer<u8>, &'a DeviceBuffer<f32>),
}

impl RowsOut<'_> {
    /// Addresses of values and scales, after a check for room.
    fn addresses(&self, rows: usize, width: usize) -> Result<(u64, u64), CudaError> {
        let (len, scales) = match self {
            Self::Bf16(out) => (out.len(), rows),
            Self::Fp8(out, scales) => (out.len(), scales.len()),
        };
        ensure!(
            len >= rows * width && scales >= rows,
            "{rows} rows of {width} into {len} values, {scales} scales"
        );
        Ok(match self {
            Self::Bf16(out) => (out.address(), 0),
            Self::Fp8(out, scales) => (out.address(), scales.address()),
        })
    }

    fn is_fp8(&self) -> bool {
        matches!(self, Self::Fp8(..))
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct NormParams {
    residual: u64,
    delta: u64,
    weight: u64,
    rows: u64,
    out: u64,
    scales: u64,
    width: u32,
    eps: f32,
}
// SAFETY: the mirror of NormParams in norm.cu.
unsafe impl Params for NormParams {}

/// Adds `delta` to the residual stream where there is one, then writes `x / sqrt(mean(x^2) + eps) * weight` of the first
/// `rows` rows, or of the rows that `pick` names, in that order. All rows are as long as `weight`.
///
/// # Errors
/// Sizes that do not go together, or what the driver reports.
pub fn rms_norm(
    residual: &DeviceBuffer<f32>,
    delta: Option<&DeviceBuffer<bf16>>,
    weight: &DeviceBuffer<f32>,
    eps: f32,
    rows: usize,
    pick: Option<&PickedRows>,
    out: &RowsOut<'_>,
) -> Result<(), CudaError> {
    let width = weight.len();
    ensure!(width > 0 && width.is_multiple_of(4) && width <= MAX_WIDTH, "rms_norm: rows of {width}");
    ensure!(
        residual.len() >= rows * width && delta.is_none_or(|delta| delta.len() >= rows * width),
        "rms_norm: {rows} rows of {width} of {} values",
        residual.len()
    );
    let count = pick.map_or(rows, |pick| pick.count);
    ensure!(pick.is_none_or(|pick| pick.below <= rows), "rms_norm: picked rows are beyond {rows}");
    let (target, scales) = out.addresses(count, width)?;
    let params = NormParams {
        residual: residual.address(),
        delta: delta.map_or(0, DeviceBuffer::address),
        weight: weight.address(),
        rows: pick.map_or(0, |pick| pick.rows.address()),
        out: target,
        scales,
        width: width as u32,
        eps,
    };
    let launch = Launch {
        grid: [count as u32, 1, 1],
        threads: THREADS,
        shared_bytes: (width + SCRATCH) * size_of::<f32>(),
    };
    let kernel = if out.is_fp8() { "rms_norm_fp8" } else { "rms_norm_bf16" };
    residual.device().launch(kernel, launch, &params)
}

/// Numbers of rows, known to be below a bound.
pub struct PickedRows {
    rows: DeviceBuffer<u32>,
    count: usize,
    below: usize,
}

impl PickedRows {
    /// Room for `max` numbers.
    ///
    /// # Errors
    /// No memory, or what the driver reports.
    pub fn new(device: &super::Device, max: usize) -> Result<Self, CudaError> {
        Ok(Self { rows: device.zeros(max)?, count: 0, below: 0 })
    }

    /// Takes over `rows`, each at most once.
    ///
    /// # Errors
    /// More than there is room for, one twice, or what the driver reports.
    pub fn fill(&mut self, rows: &[u32]) -> Result<(), CudaError> {
        // A row that is named twice would get its delta twice.
        let mut sorted = rows.to_vec();
        sorted.sort_unstable();
        ensure!(sorted.windows(2).all(|pair| pair[0] != pair[1]), "a row is picked twice");
        self.rows.write(rows)?;
        self.count = rows.len();
        self.below = sorted.last().map_or(0, |row| *row as usize + 1);
        Ok(())
    }

    /// How many rows are picked.
    pub fn count(&self) -> usize {
        self.count
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct SiluMulParams {
    gate_up: u64,
    out: u64,
    scales: u64,
    width: u32,
    padding: u32,
}
// SAFETY: the mirror of SiluMulParams in norm.cu.
unsafe impl Params for SiluMulParams {}

/// `silu(gate) * up` of `rows` rows `[2 * width]` of `gate_up`, the gate in the first half.
///
/// # Errors
/// Sizes that do not go together, or what the driver reports.
pub fn silu_mul(
    gate_up: &DeviceBuffer<bf16>,
    rows: usize,
    width: usize,
    out: &RowsOut<'_>,
) -> Result<(), CudaError> {
    ensure!(width > 0 && width.is_multiple_of(8), "silu_mul: rows of 2 x {width}");
    ensure!(gate_up.len() >= rows * 2 * width, "silu_mul: {rows} rows of {} values", gate_up.len());
    let (target, scales) = out.addresses(rows, width)?;
    let params =
        SiluMulParams { gate_up: gate_up.address(), out: target, scales, width: width as u32, padding: 0 };
    let (kernel, shared) = if out.is_fp8() {
        ensure!(width <= MAX_WIDTH, "silu_mul: a quantised row of {width} is beyond {MAX_WIDTH}");
        ("silu_mul_fp8", (width + SCRATCH) * size_of::<f32>())
    } else {
        ("silu_mul_bf16", 0)
    };
    let launch = Launch { grid: [rows as u32, 1, 1], threads: THREADS, shared_bytes: shared };
    gate_up.device().launch(kernel, launch, &params)
}

#[derive(Clone, Copy)]
#[repr(C)]
struct EmbedParams {
    ids: u64,
    table: u64,
    out: u64,
    width: u32,
    vocab: u32,
}
// SAFETY: the mirror of EmbedParams in norm.cu.
unsafe impl Params for EmbedParams {}

/// The first `rows` of `ids` as rows of `table` `[vocab, width]`; an id beyond the table gives zeros.
///
/// # Errors
/// Sizes that do not go together, or what the driver reports.
pub fn embed(
    ids: &DeviceBuffer<u32>,
    rows: usize,
    table: &DeviceBuffer<bf16>,
    width: usize,
    out: &DeviceBuffer<f32>,
) -> Result<(), CudaError> {
    ensure!(
        width > 0 && width.is_multiple_of(8) && table.len().is_multiple_of(width),
        "embed: rows of {width} in a table of {}",
        table.len()
    );
    ensure!(
        ids.len() >= rows && out.len() >= rows * width,
        "embed: {rows} rows of {} ids into {} values",
        ids.len(),
        out.len()
    );
    let params = EmbedParams {
        ids: ids.address(),
        table: table.address(),
        out: out.address(),
        width: width as u32,
        vocab: (table.len() / width) as u32,
    };
    let launch = Launch { grid: [rows as u32, 1, 1], threads: THREADS, shared_bytes: 0 };
    ids.device().launch("embed", launch, &params)
}
