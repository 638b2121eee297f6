//! What a device is opened to: context, stream, memory pool and kernels.

use std::collections::HashMap;
use std::ffi::{CStr, c_void};

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute};

use super::checked;
use crate::cuda::CudaError;

/// What `kernels/cuda/compile` made of each family.
macro_rules! images {
    ($($family:literal),*) => {
        [$(include_bytes!(concat!(env!("OUT_DIR"), "/", $family, ".fatbin")).as_slice()),*]
    };
}
static IMAGES: [&[u8]; 7] = images!(
    "attention_decode",
    "attention_prefill",
    "linear",
    "linear_small",
    "norm",
    "rope_cache",
    "sampling"
);

/// Oldest architecture there is code for.
const COMPUTE_CAPABILITY: (i32, i32) = (8, 0);

/// A kernel that is loaded.
pub(super) struct Kernel {
    pub(super) function: sys::CUfunction,
    /// Size of its parameter block.
    pub(super) params_bytes: usize,
}

/// The handles of a device.
pub(super) struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
    pub(super) stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    pub(super) kernels: HashMap<String, Kernel>,
}

// SAFETY: the driver's handles may be used from any thread; each call enters the context first.
unsafe impl Send for Context {}
// SAFETY: as above; nothing in it changes after it was made.
unsafe impl Sync for Context {}

impl Context {
    pub(super) fn new(device: sys::CUdevice) -> Result<Self, CudaError> {
        let attribute = |attribute| {
            // SAFETY: the device was got from the driver.
            checked("cuDeviceGetAttribute", unsafe { result::device::get_attribute(device, attribute) })
        };
        let capability = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        if capability < COMPUTE_CAPABILITY {
            let ((major, minor), needed) = (capability, COMPUTE_CAPABILITY);
            return Err(CudaError::Absent(format!(
                "its compute capability is {major}.{minor}, {}.{} or newer is needed",
                needed.0, needed.1
            )));
        }
        let shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        // SAFETY: as above. What is made from here on is given back when `self` goes.
        let context = checked("cuDevicePrimaryCtxRetain", unsafe { result::primary_ctx::retain(device) })?;
        let mut this = Self {
            device,
            context,
            stream: std::ptr::null_mut(),
            modules: Vec::new(),
            kernels: HashMap::new(),
        };
        this.enter()?;
        this.stream =
            checked("cuStreamCreate", result::stream::create(result::stream::StreamKind::NonBlocking))?;
        this.keep_memory()?;
        for image in IMAGES {
            this.load(image, shared)?;
        }
        Ok(this)
    }

    /// Makes it the context of this thread's calls.
    pub(super) fn enter(&self) -> Result<(), CudaError> {
        // SAFETY: the context lives as long as `self`.
        checked("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.context) })
    }

    /// Freed memory stays with the device's pool, where the next allocation finds it at once.
    fn keep_memory(&self) -> Result<(), CudaError> {
        let mut threshold = u64::MAX;
        // SAFETY: the device is valid, and the attribute is a 64-bit number.
        unsafe {
            let pool =
                checked("cuDeviceGetDefaultMemPool", result::device::get_default_mem_pool(self.device))?;
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            let value = (&raw mut threshold).cast::<c_void>();
            checked("cuMemPoolSetAttribute", result::mem_pool::set_attribute(pool, attribute, value))
        }
    }

    /// Loads all kernels of an image now, because the driver may not do so while a graph is captured. Each may use all
    /// the shared memory a block can have.
    fn load(&mut self, image: &[u8], shared: i32) -> Result<(), CudaError> {
        // The driver reads words.
        let words: Vec<u64> = image
            .chunks(8)
            .map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_ne_bytes(word)
            })
            .collect();
        // SAFETY: the image is whole and aligned; the driver keeps no reference to it.
        let module =
            checked("cuModuleLoadData", unsafe { result::module::load_data(words.as_ptr().cast()) })?;
        self.modules.push(module);
        let mut count = 0;
        // SAFETY: the module is loaded.
        let counted = unsafe { sys::cuModuleGetFunctionCount(&mut count, module) };
        checked("cuModuleGetFunctionCount", counted.result())?;
        let mut functions = vec![std::ptr::null_mut(); count as usize];
        // SAFETY: there is room for `count` handles.
        let listed = unsafe { sys::cuModuleEnumerateFunctions(functions.as_mut_ptr(), count, module) };
        checked("cuModuleEnumerateFunctions", listed.result())?;
        for function in functions {
            let (mut name, mut offset, mut params_bytes) = (std::ptr::null(), 0, 0);
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is one of the module's; its name lives as long as the module.
            let name = unsafe {
                checked("cuFuncLoad", sys::cuFuncLoad(function).result())?;
                let info = sys::cuFuncGetParamInfo(function, 0, &mut offset, &mut params_bytes);
                checked("cuFuncGetParamInfo", info.result())?;
                checked(
                    "cuFuncSetAttribute",
                    result::function::set_function_attribute(function, attribute, shared),
                )?;
                checked("cuFuncGetName", sys::cuFuncGetName(&mut name, function).result())?;
                CStr::from_ptr(name)
            };
            self.kernels.insert(name.to_string_lossy().into_owned(), Kernel { function, params_bytes });
        }
        Ok(())
    }

    pub(super) fn wait(&self) -> Result<(), CudaError> {
        // SAFETY: the stream lives as long as `self`.
        checked("cuStreamSynchronize", unsafe { result::stream::synchronize(self.stream) })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // Nobody could act on a failure here.
        let _ = self.enter();
        if !self.stream.is_null() {
            let _ = self.wait();
            // SAFETY: made in `new`, and nobody uses it any more.
            let _ = unsafe { result::stream::destroy(self.stream) };
        }
        for module in &self.modules {
            // SAFETY: loaded in `load`, and its work is done.
            let _ = unsafe { result::module::unload(*module) };
        }
        // SAFETY: retained in `new`.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}
