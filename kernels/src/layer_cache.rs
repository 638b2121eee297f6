//! Paged storage of keys and values.

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, bail};

use half::f16;
use half::vec::HalfBitsVecExt;

use crate::HeadShape;

/// Paged K and V of one layer: a tensor `[2, num_blocks, kv_heads, block_size, head_dim]` of f16.
///
/// Pages are zero and cost memory only once written. Clones share the storage.
#[derive(Clone, Debug)]
pub struct LayerCache {
    tensor: Tensor,
    num_blocks: usize,
    block_size: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl LayerCache {
    /// Makes a cache of `num_blocks` pages of `block_size` positions.
    ///
    /// # Errors
    /// If a size is zero, a head shape is not usable, or the number of slots does not fit 32 bits.
    pub fn new(num_blocks: usize, block_size: usize, shape: &HeadShape, device: &Device) -> Result<Self> {
        let mut caches = Self::for_layers(1, num_blocks, block_size, shape, device)?;
        Ok(caches.pop().expect("one layer was asked for"))
    }

    /// The same for each of `layers`. All are parts of one tensor, because a large one costs nothing until it is
    /// written: an allocator may hand out used memory for smaller ones, which has to be cleared.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn for_layers(
        layers: usize,
        num_blocks: usize,
        block_size: usize,
        shape: &HeadShape,
        device: &Device,
    ) -> Result<Vec<Self>> {
        shape.check()?;
        let slots = num_blocks.checked_mul(block_size).filter(|slots| u32::try_from(*slots).is_ok());
        if num_blocks == 0 || block_size == 0 || slots.is_none() {
            bail!("cache: {num_blocks} pages of {block_size} positions are not usable");
        }
        let dims = &[layers, 2, num_blocks, shape.kv_heads, block_size, shape.head_dim];
        let all = zeros(&dims[..], device)?;
        let (kv_heads, head_dim) = (shape.kv_heads, shape.head_dim);
        (0..layers)
            .map(|layer| Ok(Self { tensor: all.get(layer)?, num_blocks, block_size, kv_heads, head_dim }))
            .collect()
    }

    /// The storage, `[2, num_blocks, kv_heads, block_size, head_dim]` f16.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Number of pages.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Positions per page.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    pub(crate) fn check(&self, shape: &HeadShape) -> Result<()> {
        if (self.kv_heads, self.head_dim) != (shape.kv_heads, shape.head_dim) {
            bail!(
                "attention: cache of {} heads of {} used with {} heads of {}",
                self.kv_heads,
                self.head_dim,
                shape.kv_heads,
                shape.head_dim
            );
        }
        Ok(())
    }
}

/// Zeros, of which main memory holds only what has been written: the allocator hands out untouched pages for integers
/// that are zero, but not for floats, which it would write one by one.
fn zeros(dims: &[usize], device: &Device) -> Result<Tensor> {
    if !device.is_cpu() {
        return Tensor::zeros(dims, DType::F16, device);
    }
    let values: Vec<f16> = vec![0_u16; dims.iter().product()].reinterpret_into();
    let tensor = Tensor::from_vec(values, dims, device)?;
    advise_huge_pages(&tensor);
    Ok(tensor)
}

/// Asks for huge pages behind a cache in main memory: attention jumps from page to page of it.
fn advise_huge_pages(tensor: &Tensor) {
    let (storage, _) = tensor.storage_and_layout();
    if let Storage::Cpu(CpuStorage::F16(values)) = &*storage {
        crate::alloc::advise_huge_pages(values);
    }
}
