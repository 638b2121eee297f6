//! A device, its memory, and launches on it.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use half::{bf16, f16};

/// What went wrong on a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// This machine has no usable CUDA driver or device.
    #[error("no CUDA device: {0}")]
    Absent(String),
    /// A driver call failed.
    #[error("{call} failed: {reason}")]
    Driver {
        /// The call.
        call: &'static str,
        /// The driver's word for it.
        reason: String,
    },
    /// A kernel could not be launched.
    #[error("kernel {kernel}: {reason}")]
    Launch {
        /// The kernel.
        kernel: String,
        /// Why.
        reason: String,
    },
    /// The device has no memory for a buffer.
    #[error("no device memory for {bytes} bytes")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// Sizes that do not go together.
    #[error("{0}")]
    Shape(String),
    /// A copy between host and device while launches are captured.
    #[error("{0} while a graph is captured")]
    Capturing(&'static str),
}

/// Refuses sizes that do not go together.
macro_rules! ensure {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            return Err($crate::cuda::CudaError::Shape(format!($($message)*)));
        }
    };
}
pub(crate) use ensure;

/// Types that device memory may hold: plain bits, any of which is a value.
///
/// # Safety
/// Every bit pattern must be valid, and there must be no padding.
pub unsafe trait Element: Copy + Default + Send + Sync + 'static {}
// SAFETY: numbers without padding.
unsafe impl Element for u8 {}
// SAFETY: as above.
unsafe impl Element for i8 {}
// SAFETY: as above.
unsafe impl Element for u32 {}
// SAFETY: as above.
unsafe impl Element for f32 {}
// SAFETY: as above.
unsafe impl Element for f16 {}
// SAFETY: as above.
unsafe impl Element for bf16 {}

/// Parameter block of a kernel: the mirror of a struct in a kernel source.
///
/// # Safety
/// The layout (`repr(C)`) must be that of the C++ struct, and every address in it must be valid for what the kernel does
/// with it. The size is checked where that is possible.
pub(crate) unsafe trait Params: Copy {}

/// Grid, threads of a block, and bytes of dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    pub(crate) grid: [u32; 3],
    pub(crate) threads: u32,
    pub(crate) shared_bytes: usize,
}

/// The bytes of a parameter block.
#[derive(Clone, Copy)]
pub(crate) struct ParamBytes<'a> {
    pub(crate) start: *const std::ffi::c_void,
    pub(crate) len: usize,
    life: PhantomData<&'a ()>,
}

/// Launches that were captured, in a backend's own form.
pub(crate) trait Replay: Send {
    fn launch(&self) -> Result<(), CudaError>;
}

/// What carries out allocations, copies and launches, in order.
///
/// Addresses come from `alloc` of the same backend; callers keep within the allocation.
pub(crate) trait Backend: Send + Sync {
    fn describe(&self) -> String;
    /// Free and total bytes.
    fn memory(&self) -> Result<(usize, usize), CudaError>;
    /// At least 16-byte aligned; the contents may be anything.
    fn alloc(&self, bytes: usize) -> Result<u64, CudaError>;
    fn free(&self, address: u64);
    fn zero(&self, address: u64, bytes: usize) -> Result<(), CudaError>;
    fn upload(&self, address: u64, bytes: &[u8]) -> Result<(), CudaError>;
    /// Waits for everything before it.
    fn download(&self, address: u64, bytes: &mut [u8]) -> Result<(), CudaError>;
    /// From one allocation to another.
    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), CudaError>;
    /// Until everything before it is done.
    fn wait(&self) -> Result<(), CudaError>;
    fn launch(&self, kernel: &'static str, launch: Launch, params: ParamBytes<'_>) -> Result<(), CudaError>;
    fn begin_capture(&self) -> Result<(), CudaError>;
    fn end_capture(&self) -> Result<Box<dyn Replay>, CudaError>;
}

/// A CUDA device, or the emulator. Clones share it. All work on it happens in the order in which it is asked for.
#[derive(Clone)]
pub struct Device {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Box<dyn Backend>,
    retired: Mutex<Retired>,
}

/// A graph keeps addresses, not buffers: what goes while there are graphs is given back after the last of them.
#[derive(Default)]
struct Retired {
    graphs: usize,
    addresses: Vec<u64>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device({})", self.describe())
    }
}

impl Device {
    pub(crate) fn new(backend: impl Backend + 'static) -> Self {
        Self { shared: Arc::new(Shared { backend: Box::new(backend), retired: Mutex::default() }) }
    }

    fn backend(&self) -> &dyn Backend {
        self.shared.backend.as_ref()
    }

    fn retired(&self) -> MutexGuard<'_, Retired> {
        self.shared.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, address: u64) {
        let mut retired = self.retired();
        if retired.graphs > 0 {
            retired.addresses.push(address);
        } else {
            self.backend().free(address);
        }
    }

    /// Its name, for people.
    pub fn describe(&self) -> String {
        self.backend().describe()
    }

    /// Free and total memory in bytes.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.backend().memory()
    }

    /// A buffer of `len` values that may be anything.
    pub(crate) fn reserve<T: Element>(&self, len: usize) -> Result<DeviceBuffer<T>, CudaError> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or(CudaError::Memory { bytes: usize::MAX })?;
        let address = self.backend().alloc(bytes.max(16))?;
        Ok(DeviceBuffer { device: self.clone(), address, len, element: PhantomData })
    }

    /// A buffer of `len` zeros.
    ///
    /// # Errors
    /// No memory, or what the driver reports.
    pub fn zeros<T: Element>(&self, len: usize) -> Result<DeviceBuffer<T>, CudaError> {
        let buffer = self.reserve(len)?;
        self.backend().zero(buffer.address, len * size_of::<T>())?;
        Ok(buffer)
    }

    /// A buffer with the values `from`.
    ///
    /// # Errors
    /// No memory, or what the driver reports.
    pub fn upload<T: Element>(&self, from: &[T]) -> Result<DeviceBuffer<T>, CudaError> {
        let mut buffer = self.reserve(from.len())?;
        buffer.write(from)?;
        Ok(buffer)
    }

    pub(crate) fn launch<P: Params>(
        &self,
        kernel: &'static str,
        launch: Launch,
        params: &P,
    ) -> Result<(), CudaError> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        let bytes =
            ParamBytes { start: std::ptr::from_ref(params).cast(), len: size_of::<P>(), life: PhantomData };
        self.backend().launch(kernel, launch, bytes)
    }

    /// Waits until all work so far is done.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn wait(&self) -> Result<(), CudaError> {
        self.backend().wait()
    }

    /// Records the launches that `record` makes instead of carrying them out; copies are refused meanwhile. The memory of
    /// buffers that go is kept as long as there are graphs on the device.
    ///
    /// # Errors
    /// What `record` or the driver reports.
    pub fn capture(&self, record: impl FnOnce() -> Result<(), CudaError>) -> Result<Graph, CudaError> {
        let hold = Hold::new(self);
        self.backend().begin_capture()?;
        let recorded = record();
        // Capturing ends in any case.
        let replay = self.backend().end_capture()?;
        recorded?;
        Ok(Graph { replay, _hold: hold })
    }
}

/// Captured launches.
pub struct Graph {
    replay: Box<dyn Replay>,
    _hold: Hold,
}

/// Counts a graph as long as it lives.
struct Hold {
    device: Device,
}

impl Hold {
    fn new(device: &Device) -> Self {
        device.retired().graphs += 1;
        Self { device: device.clone() }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut retired = self.device.retired();
        retired.graphs -= 1;
        if retired.graphs == 0 {
            // Launches so far come earlier in the order of the device.
            retired.addresses.drain(..).for_each(|address| self.device.backend().free(address));
        }
    }
}

impl Graph {
    /// Carries them out again, on what their buffers hold now.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn launch(&self) -> Result<(), CudaError> {
        self.replay.launch()
    }
}

/// `len` values on a device.
pub struct DeviceBuffer<T: Element> {
    device: Device,
    address: u64,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> Drop for DeviceBuffer<T> {
    fn drop(&mut self) {
        self.device.release(self.address);
    }
}

impl<T: Element> DeviceBuffer<T> {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device it lies on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// Replaces the first `from.len()` values.
    ///
    /// # Errors
    /// More values than the buffer has, or what the driver reports.
    pub fn write(&mut self, from: &[T]) -> Result<(), CudaError> {
        ensure!(from.len() <= self.len, "{} values for a buffer of {}", from.len(), self.len);
        // SAFETY: `Element` types have no padding, so all their bytes are initialised.
        let bytes = unsafe { std::slice::from_raw_parts(from.as_ptr().cast::<u8>(), size_of_val(from)) };
        self.device.backend().upload(self.address, bytes)
    }

    /// Takes over all values of `from`, on the device.
    ///
    /// # Errors
    /// Another length, or what the driver reports.
    pub fn copy_from(&mut self, from: &Self) -> Result<(), CudaError> {
        ensure!(from.len == self.len, "{} values for a buffer of {}", from.len, self.len);
        self.device.backend().copy(self.address, from.address, self.len * size_of::<T>())
    }

    /// The first `len` values, after all work so far.
    ///
    /// # Errors
    /// More values than the buffer has, or what the driver reports.
    pub fn read(&self, len: usize) -> Result<Vec<T>, CudaError> {
        ensure!(len <= self.len, "{len} values from a buffer of {}", self.len);
        let mut out = vec![T::default(); len];
        // SAFETY: any bytes make valid `Element`s.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<u8>(), len * size_of::<T>()) };
        self.device.backend().download(self.address, bytes)?;
        Ok(out)
    }

    /// All values, after all work so far.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn to_vec(&self) -> Result<Vec<T>, CudaError> {
        self.read(self.len)
    }
}
