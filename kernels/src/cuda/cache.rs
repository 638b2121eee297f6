//! Paged storage of keys and values on a device.

use half::{bf16, f16};

use super::device::{CudaError, Device, DeviceBuffer, ensure};
use crate::HeadShape;

/// Head sizes that attention kernels exist for.
pub(crate) const HEAD_DIMS: [usize; 5] = [64, 80, 96, 128, 256];
/// A page is a multiple of so many positions: a tensor-core step of decode never crosses a page.
pub(crate) const PAGE_MULTIPLE: usize = 16;

/// How a cache stores its values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CacheElement {
    /// 16-bit IEEE floats.
    F16,
    /// 16-bit brain floats.
    BF16,
    /// 8-bit floats (e4m3), each standing for itself times a scale of the layer.
    Fp8 {
        /// Scale of keys.
        key_scale: f32,
        /// Scale of values.
        value_scale: f32,
    },
    /// 8-bit integers with an f32 scale for each position and head.
    Int8,
}

impl CacheElement {
    /// Bytes of one value, without scales.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::Fp8 { .. } | Self::Int8 => 1,
        }
    }

    /// Scales of keys and values that the whole layer shares.
    pub(crate) fn scales(self) -> (f32, f32) {
        match self {
            Self::Fp8 { key_scale, value_scale } => (key_scale, value_scale),
            _ => (1.0, 1.0),
        }
    }

    /// Picks the kernel of this element type.
    pub(crate) fn pick(self, [f16, bf16, fp8, int8]: [&'static str; 4]) -> &'static str {
        match self {
            Self::F16 => f16,
            Self::BF16 => bf16,
            Self::Fp8 { .. } => fp8,
            Self::Int8 => int8,
        }
    }
}

/// Paged K and V of one layer on a device: `[2, num_blocks, kv_heads, block_size, head_dim]`, as
/// [`LayerCache`](crate::LayerCache) lays them out. What a page holds before it is written may be anything.
pub struct PagedCache {
    pub(crate) data: DeviceBuffer<u8>,
    /// Int8: `[2, num_blocks, kv_heads, block_size]`.
    pub(crate) scales: Option<DeviceBuffer<f32>>,
    pub(crate) element: CacheElement,
    pub(crate) shape: HeadShape,
    pub(crate) num_blocks: usize,
    pub(crate) block_size: usize,
}

impl PagedCache {
    /// A cache of `num_blocks` pages of `block_size` positions.
    ///
    /// # Errors
    /// A head size without a kernel, a page that is not a multiple of 16 positions, or no memory.
    pub fn new(
        device: &Device,
        element: CacheElement,
        shape: &HeadShape,
        num_blocks: usize,
        block_size: usize,
    ) -> Result<Self, CudaError> {
        ensure!(
            HEAD_DIMS.contains(&shape.head_dim),
            "heads of {} values have no CUDA kernel (there are {HEAD_DIMS:?})",
            shape.head_dim
        );
        ensure!(
            shape.kv_heads > 0 && shape.heads > 0 && shape.heads.is_multiple_of(shape.kv_heads),
            "{} heads cannot share {} key/value heads",
            shape.heads,
            shape.kv_heads
        );
        ensure!(
            block_size > 0 && block_size.is_multiple_of(PAGE_MULTIPLE),
            "pages of {block_size} positions: CUDA attention needs a multiple of {PAGE_MULTIPLE}"
        );
        let positions = num_blocks.checked_mul(block_size).filter(|slots| u32::try_from(*slots).is_ok());
        let positions = positions
            .ok_or_else(|| CudaError::Shape(format!("{num_blocks} pages of {block_size} are too many")))?;
        let rows = 2 * positions * shape.kv_heads;
        let scales = if element == CacheElement::Int8 { Some(device.reserve(rows)?) } else { None };
        let data = device.reserve(rows * shape.head_dim * element.bytes())?;
        Ok(Self { data, scales, element, shape: shape.clone(), num_blocks, block_size })
    }

    /// Bytes that one position takes in one layer, scales included.
    pub fn bytes_per_position(element: CacheElement, shape: &HeadShape) -> usize {
        let scale = if element == CacheElement::Int8 { size_of::<f32>() } else { 0 };
        2 * shape.kv_heads * (shape.head_dim * element.bytes() + scale)
    }

    /// Number of pages.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Positions of a page.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// All keys, then all values, widened: `[2, num_blocks, kv_heads, block_size, head_dim]`. For comparisons.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn to_f32(&self) -> Result<Vec<f32>, CudaError> {
        let bytes = self.data.to_vec()?;
        let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        Ok(match self.element {
            CacheElement::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            CacheElement::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            CacheElement::Fp8 { key_scale, value_scale } => {
                let half = bytes.len() / 2;
                let scale = |i| if i < half { key_scale } else { value_scale };
                bytes.iter().enumerate().map(|(i, b)| fp8_to_f32(*b) * scale(i)).collect()
            }
            CacheElement::Int8 => {
                let scales = self.scales.as_ref().map_or(Ok(Vec::new()), DeviceBuffer::to_vec)?;
                let head_dim = self.shape.head_dim;
                let value = |(i, b): (usize, &u8)| f32::from(*b as i8) * scales[i / head_dim];
                bytes.iter().enumerate().map(value).collect()
            }
        })
    }
}

/// An e4m3 value: sign, 4 bits of exponent with bias 7, 3 of mantissa; 0x7f is NaN, there is no infinity.
fn fp8_to_f32(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let magnitude = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}
