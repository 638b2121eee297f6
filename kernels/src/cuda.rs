//! The ops on a CUDA device: kernels in `kernels/cuda`, their launches here.
//!
//! | module | kernels |
//! |---|---|
//! | [`attention`] | paged attention: split-KV decode and combine, ragged prefill |
//! | [`rows`] | embedding rows, normalisation with residual, gated activation |
//! | [`rope`] | from qkv to rotated queries and written cache |
//! | [`linear`] | `x W^T` for few rows (bf16, 4-bit) and for many |
//! | [`sampling`] | penalties, grammar mask, filters and the seeded draw |
//!
//! A [`Device`] runs them: the GPU through the driver (feature `cuda`), or [`emulator`], which compiles the very same
//! sources for the CPU and is what proves them on a machine without a GPU. Buffers stay on the device; no tensor library
//! is in between, so that a step's launches can be captured into a [`Graph`] and replayed.
//!
//! Every launch function checks sizes against its buffers; indices that kernels follow are checked on the host when a
//! [`DeviceBatch`] is filled.

pub mod attention;
mod batch;
mod cache;
mod device;
#[cfg(feature = "cuda")]
mod driver;
#[cfg(not(feature = "cuda"))]
mod driver {
    use super::{CudaError, Device};

    /// What a build without the driver's interface has to say.
    pub(super) fn open(index: usize) -> Result<Device, CudaError> {
        Err(CudaError::Absent(format!("cuda:{index} needs a build with the feature \"cuda\"")))
    }
}
#[doc(hidden)]
pub mod emulator;
pub mod linear;
pub mod rope;
pub mod rows;
pub mod sampling;

pub use batch::DeviceBatch;
pub use cache::{CacheElement, PagedCache};
pub use device::{CudaError, Device, DeviceBuffer, Element, Graph};

/// Opens the GPU of this number, as the driver counts them. Nothing of the driver is needed before.
///
/// # Errors
/// [`CudaError::Absent`] if this build, the machine or the driver has no such GPU; what the driver reports.
pub fn open(index: usize) -> Result<Device, CudaError> {
    driver::open(index)
}
