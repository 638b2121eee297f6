//! Where a network runs.

use kernels::cuda::{CudaError, Device};

/// The processor that a network runs on.
#[derive(Clone, Debug, Default)]
pub enum Place {
    /// This machine's cores.
    #[default]
    Cpu,
    /// A CUDA device.
    Cuda(Device),
}

impl Place {
    /// CUDA device `index`.
    ///
    /// # Errors
    /// There is none, this build has no CUDA, or what the driver reports.
    pub fn cuda(index: usize) -> Result<Self, CudaError> {
        kernels::cuda::open(index).map(Self::Cuda)
    }

    /// Memory of a device that nothing has taken yet, in bytes; the CPU's is not counted.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn free_memory(&self) -> Result<Option<usize>, CudaError> {
        match self {
            Self::Cpu => Ok(None),
            Self::Cuda(device) => device.memory().map(|(free, _)| Some(free)),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(device) => f.write_str(&device.describe()),
        }
    }
}
