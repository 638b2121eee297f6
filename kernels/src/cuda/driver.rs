//! A GPU through its driver: one stream, its own copy of every kernel, and nothing that waits unless it has to.
//!
//! The driver's library is looked for when the first device is opened, so that a program with this in it starts anywhere.

mod context;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{DriverError, result, sys};

use context::Context;

use super::device::{Backend, CudaError, Device, Launch, ParamBytes, Replay};

/// Oldest driver that loads what the compiler of `kernels/cuda/toolkit` makes: CUDA 13.0.
const DRIVER_VERSION: i32 = 13_000;
/// Page-locked memory that uploads go through, so that the host need not wait for the device: many steps' indices.
const STAGING_BYTES: usize = 4 << 20;

/// Opens device `index`.
pub(super) fn open(index: usize) -> Result<Device, CudaError> {
    // SAFETY: loading the driver's library has no precondition.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::Absent("this machine has no CUDA driver (libcuda.so.1)".to_owned()));
    }
    let mut version = 0;
    // SAFETY: the call writes one number, and may come before `cuInit`.
    checked("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) }.result())?;
    if version < DRIVER_VERSION {
        let (found, needed) = (version_text(version), version_text(DRIVER_VERSION));
        return Err(CudaError::Absent(format!(
            "its driver is for CUDA {found}, {needed} or newer is needed"
        )));
    }
    result::init().map_err(|error| CudaError::Absent(error.to_string()))?;
    let count = checked("cuDeviceGetCount", result::device::get_count())?;
    let ordinal = i32::try_from(index).ok().filter(|ordinal| *ordinal < count);
    let ordinal =
        ordinal.ok_or_else(|| CudaError::Absent(format!("the driver sees {count}, not a number {index}")))?;
    let device = checked("cuDeviceGet", result::device::get(ordinal))?;
    let context = Arc::new(Context::new(device)?);
    let name = checked("cuDeviceGetName", result::device::get_name(device))?;
    let staging = Mutex::new(Staging::new()?);
    Ok(Device::new(Driver { name, index, context, staging, capturing: AtomicBool::new(false) }))
}

fn version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Gives a failed call its name.
fn checked<T>(call: &'static str, outcome: Result<T, DriverError>) -> Result<T, CudaError> {
    outcome.map_err(|error| CudaError::Driver { call, reason: error.to_string() })
}

/// Page-locked memory that uploads leave the host through.
struct Staging {
    start: *mut u8,
    used: usize,
}

// SAFETY: plain memory, behind a mutex.
unsafe impl Send for Staging {}

impl Staging {
    /// In the context that this thread is in.
    fn new() -> Result<Self, CudaError> {
        let mut start = std::ptr::null_mut();
        // SAFETY: the call writes one address.
        checked("cuMemAllocHost", unsafe { sys::cuMemAllocHost_v2(&mut start, STAGING_BYTES) }.result())?;
        Ok(Self { start: start.cast(), used: 0 })
    }
}

struct Driver {
    name: String,
    index: usize,
    context: Arc<Context>,
    staging: Mutex<Staging>,
    capturing: AtomicBool,
}

impl Driver {
    /// Enters the context, unless a graph is captured, which `what` would break.
    fn enter_uncaptured(&self, what: &'static str) -> Result<(), CudaError> {
        if self.capturing.load(Ordering::Acquire) {
            return Err(CudaError::Capturing(what));
        }
        self.context.enter()
    }

    fn staging(&self) -> MutexGuard<'_, Staging> {
        self.staging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stream(&self) -> sys::CUstream {
        self.context.stream
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.context.enter().and_then(|()| self.context.wait());
        // SAFETY: from `Staging::new`, and no copy is under way.
        let _ = unsafe { sys::cuMemFreeHost(self.staging().start.cast()) };
    }
}

impl Backend for Driver {
    fn describe(&self) -> String {
        format!("cuda:{} ({})", self.index, self.name)
    }

    fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.context.enter()?;
        checked("cuMemGetInfo", result::mem_get_info())
    }

    fn alloc(&self, bytes: usize) -> Result<u64, CudaError> {
        self.enter_uncaptured("an allocation")?;
        // SAFETY: all use of it is in the order of the one stream.
        match unsafe { result::malloc_async(self.stream(), bytes) } {
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Err(CudaError::Memory { bytes }),
            outcome => checked("cuMemAllocAsync", outcome),
        }
    }

    fn free(&self, address: u64) {
        // Nobody could act on a failure here.
        let _ = self.context.enter();
        // SAFETY: the address comes from `alloc`, its buffer is gone, and earlier work comes earlier in the stream.
        let _ = unsafe { result::free_async(address, self.stream()) };
    }

    fn zero(&self, address: u64, bytes: usize) -> Result<(), CudaError> {
        self.enter_uncaptured("memory was set")?;
        // SAFETY: the caller keeps within the allocation.
        checked("cuMemsetD8Async", unsafe { result::memset_d8_async(address, 0, bytes, self.stream()) })
    }

    fn upload(&self, address: u64, bytes: &[u8]) -> Result<(), CudaError> {
        self.enter_uncaptured("an upload")?;
        if bytes.is_empty() {
            return Ok(());
        }
        let copy = |from: &[u8]| {
            // SAFETY: the caller keeps within the allocation; `from` stays as it is until the copy is done, see below.
            checked("cuMemcpyHtoDAsync", unsafe { result::memcpy_htod_async(address, from, self.stream()) })
        };
        if bytes.len() > STAGING_BYTES {
            copy(bytes)?;
            return self.context.wait();
        }
        let mut staging = self.staging();
        if staging.used + bytes.len() > STAGING_BYTES {
            self.context.wait()?;
            staging.used = 0;
        }
        // SAFETY: within the staging memory, in a part that no copy under way reads: the device has read all before
        // `used` was last set to 0.
        let part = unsafe {
            let part = std::slice::from_raw_parts_mut(staging.start.add(staging.used), bytes.len());
            part.copy_from_slice(bytes);
            part
        };
        staging.used += bytes.len();
        copy(part)
    }

    fn download(&self, address: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        self.enter_uncaptured("a download")?;
        let mut staging = self.staging();
        if !bytes.is_empty() {
            // SAFETY: the caller keeps within the allocation; `bytes` is borrowed until the copy is done.
            let copied = unsafe { result::memcpy_dtoh_async(bytes, address, self.stream()) };
            checked("cuMemcpyDtoHAsync", copied)?;
        }
        self.context.wait()?;
        staging.used = 0;
        Ok(())
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), CudaError> {
        self.enter_uncaptured("a copy")?;
        // SAFETY: the caller keeps within the allocations, which are two.
        checked("cuMemcpyDtoDAsync", unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream()) })
    }

    fn wait(&self) -> Result<(), CudaError> {
        self.enter_uncaptured("a wait")?;
        self.context.wait()
    }

    fn launch(&self, kernel: &'static str, launch: Launch, params: ParamBytes<'_>) -> Result<(), CudaError> {
        let refused = |reason: String| CudaError::Launch { kernel: kernel.to_owned(), reason };
        let found =
            self.context.kernels.get(kernel).ok_or_else(|| refused("there is no such kernel".to_owned()))?;
        if found.params_bytes != params.len {
            return Err(refused(format!(
                "its parameter block has {} bytes, not {}",
                found.params_bytes, params.len
            )));
        }
        let shared = u32::try_from(launch.shared_bytes)
            .map_err(|_| refused(format!("{} bytes of shared memory", launch.shared_bytes)))?;
        self.context.enter()?;
        let ([x, y, z], mut pointers) = (launch.grid, [params.start.cast_mut()]);
        // SAFETY: the parameter block has the size the kernel reads, and the driver copies it before it returns; the
        // addresses in it are the callers' (see `Params`).
        let launched = unsafe {
            let (grid, block) = ((x, y, z), (launch.threads, 1, 1));
            result::launch_kernel(found.function, grid, block, shared, self.stream(), &mut pointers)
        };
        launched.map_err(|error| refused(format!("{launch:?}: {error}")))
    }

    fn begin_capture(&self) -> Result<(), CudaError> {
        self.enter_uncaptured("a second capture")?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`.
        checked("cuStreamBeginCapture", unsafe { result::stream::begin_capture(self.stream(), mode) })?;
        self.capturing.store(true, Ordering::Release);
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn Replay>, CudaError> {
        self.context.enter()?;
        self.capturing.store(false, Ordering::Release);
        // SAFETY: the stream is being captured; the graph is needed only to make its executable form.
        unsafe {
            let graph = checked("cuStreamEndCapture", result::stream::end_capture(self.stream()))?;
            let mut executable = std::ptr::null_mut();
            let made = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0).result();
            let _ = result::graph::destroy(graph);
            checked("cuGraphInstantiate", made)?;
            let recording = Recording { context: Arc::clone(&self.context), graph: executable };
            checked("cuGraphUpload", result::graph::upload(executable, self.stream()))?;
            Ok(Box::new(recording))
        }
    }
}

struct Recording {
    context: Arc<Context>,
    graph: sys::CUgraphExec,
}

// SAFETY: as for `Context`.
unsafe impl Send for Recording {}

impl Replay for Recording {
    fn launch(&self) -> Result<(), CudaError> {
        self.context.enter()?;
        // SAFETY: the graph is whole, and `Device` keeps the memory of its buffers.
        checked("cuGraphLaunch", unsafe { result::graph::launch(self.graph, self.context.stream) })
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // SAFETY: made in `end_capture`; the driver lets a launch under way finish.
        let _ = unsafe { result::graph::exec_destroy(self.graph) };
    }
}
