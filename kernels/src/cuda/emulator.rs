//! A device for machines without a GPU: every kernel source compiled by g++ and run by `kernels/cuda/emulator`.
//!
//! It shows wrong results, missing barriers, divergent warp operations, misaligned vector accesses and, under a sanitizer,
//! accesses outside an allocation. It says nothing about time, and it does not see races between blocks.

use std::collections::hash_map::DefaultHasher;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::hash::{Hash, Hasher};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use super::device::{Backend, CudaError, Device, Launch, ParamBytes, Replay};

/// The order in which the threads of a block get their turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Order {
    /// By number.
    Forward,
    /// Against it.
    Reverse,
    /// Shuffled, another way in each block.
    Shuffled,
}

/// Where the kernel sources are.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda")
}

/// The kernel families, each a `.cu` file of [`sources`].
pub const FAMILIES: [&str; 7] =
    ["attention_decode", "attention_prefill", "linear", "linear_small", "norm", "rope_cache", "sampling"];

/// What is compiled with the kernels: the interface used here, and the driver's.
const PARTS: [&str; 2] = ["library.cpp", "driver.cpp"];
/// Bytes that the emulated device says it has.
const MEMORY: usize = 256 << 20;

const FLAGS: [&str; 9] = [
    "-std=c++17",
    "-O1",
    "-fPIC",
    "-march=native",
    "-ftls-model=initial-exec",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-Wall",
    "-Wno-unknown-pragmas",
];
const SANITIZE: [&str; 4] =
    ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1", "-fno-omit-frame-pointer"];

/// Compiles `families` from `sources` into a library in `out`, which is made if it is not there; done before, it costs
/// nothing. With `sanitize`, errors of address and undefined behaviour end the process.
///
/// # Errors
/// No g++, or what it complains about.
pub fn build(sources: &Path, families: &[&str], out: &Path, sanitize: bool) -> io::Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (FLAGS, SANITIZE, sanitize, families).hash(&mut hasher);
    for folder in [sources.to_path_buf(), sources.join("emulator")] {
        let mut files: Vec<PathBuf> =
            fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        files.sort();
        for file in files.iter().filter(|file| file.is_file()) {
            (file.file_name(), fs::read(file)?).hash(&mut hasher);
        }
    }
    let library = out.join(format!("libemulator-{:016x}.so", hasher.finish()));
    if !library.exists() {
        // Another process may build the same: each works in its own folder, and the last rename wins.
        let work = out.join(format!("{:016x}-{}", hasher.finish(), std::process::id()));
        fs::create_dir_all(&work)?;
        let built = compile(sources, families, &work, sanitize)?;
        fs::rename(built, &library)?;
        fs::remove_dir_all(&work)?;
    }
    Ok(library)
}

fn compile(sources: &Path, families: &[&str], work: &Path, sanitize: bool) -> io::Result<PathBuf> {
    let flags: Vec<&str> = FLAGS.iter().chain(SANITIZE.iter().filter(|_| sanitize)).copied().collect();
    let files = families.iter().map(|name| sources.join(format!("{name}.cu")));
    let mut objects = Vec::new();
    let mut running: Vec<Child> = Vec::new();
    for (index, file) in files.chain(PARTS.map(|part| sources.join("emulator").join(part))).enumerate() {
        // Two at a time: a build machine may have no more cores.
        if running.len() == 2 {
            finish(running.remove(0))?;
        }
        let object = work.join(format!("{index}.o"));
        running.push(
            Command::new("g++")
                .args(&flags)
                .args(["-x", "c++", "-c"])
                .arg(&file)
                .arg("-o")
                .arg(&object)
                .spawn()?,
        );
        objects.push(object);
    }
    running.into_iter().try_for_each(finish)?;
    let library = work.join("libemulator.so");
    finish(Command::new("g++").args(&flags).arg("-shared").args(&objects).arg("-o").arg(&library).spawn()?)?;
    Ok(library)
}

fn finish(mut child: Child) -> io::Result<()> {
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("g++ ended with {status}"))) }
}

/// The device that `library` (of [`build`]) emulates.
///
/// # Errors
/// The library cannot be loaded.
pub fn open(library: &Path, order: Order) -> Result<Device, CudaError> {
    let library = Library::open(library).map_err(CudaError::Absent)?;
    Ok(Device::new(Emulator { library: Arc::new(library), order, captured: Mutex::default() }))
}

type LaunchFn =
    unsafe extern "C" fn(*const c_char, *const c_uint, c_uint, c_uint, *const c_void, usize, c_int) -> c_int;
type AllocFn = unsafe extern "C" fn(usize) -> *mut c_void;
type FreeFn = unsafe extern "C" fn(*mut c_void);

struct Library {
    launch: LaunchFn,
    alloc: AllocFn,
    free: FreeFn,
}

impl Library {
    fn open(path: &Path) -> Result<Self, String> {
        let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
        // SAFETY: a valid C string; the library's constructors only fill a list.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            return Err(last_error());
        }
        let symbol = |name: &CStr| {
            // SAFETY: the handle is open and is never closed.
            let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
            if address.is_null() { Err(last_error()) } else { Ok(address) }
        };
        let (launch, alloc, free) =
            (symbol(c"emulator_launch")?, symbol(c"emulator_alloc")?, symbol(c"emulator_free")?);
        // SAFETY: these are the signatures in emulator/library.cpp.
        unsafe {
            Ok(Self {
                launch: std::mem::transmute::<*mut c_void, LaunchFn>(launch),
                alloc: std::mem::transmute::<*mut c_void, AllocFn>(alloc),
                free: std::mem::transmute::<*mut c_void, FreeFn>(free),
            })
        }
    }

    fn launch(&self, call: &Call, order: Order) -> Result<(), CudaError> {
        let Call { name, launch, params } = call;
        // SAFETY: the parameter block is as long as it says; the addresses in it are the callers' (see `Params`).
        let code = unsafe {
            (self.launch)(
                name.as_ptr(),
                launch.grid.as_ptr(),
                launch.threads,
                u32::try_from(launch.shared_bytes).unwrap_or(u32::MAX),
                params.as_ptr().cast(),
                params.len(),
                order as c_int,
            )
        };
        let reason = match code {
            0 => return Ok(()),
            1 => "there is no such kernel".to_owned(),
            2 => format!("its parameter block is not of {} bytes", params.len()),
            _ => format!("{launch:?} is beyond the limits of a device"),
        };
        Err(CudaError::Launch { kernel: name.to_string_lossy().into_owned(), reason })
    }
}

fn last_error() -> String {
    // SAFETY: the pointer is null or a C string that lives until the next call on this thread.
    let message = unsafe { libc::dlerror() };
    if message.is_null() {
        return "unknown error".to_owned();
    }
    // SAFETY: not null, see above.
    unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned()
}

/// A launch with its own copy of the parameters.
#[derive(Clone)]
struct Call {
    name: CString,
    launch: Launch,
    params: Vec<MaybeUninit<u8>>,
}

struct Emulator {
    library: Arc<Library>,
    order: Order,
    captured: Mutex<Option<Vec<Call>>>,
}

impl Emulator {
    fn captured(&self) -> std::sync::MutexGuard<'_, Option<Vec<Call>>> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse_copies(&self, what: &'static str) -> Result<(), CudaError> {
        if self.captured().is_some() { Err(CudaError::Capturing(what)) } else { Ok(()) }
    }
}

impl Backend for Emulator {
    fn describe(&self) -> String {
        format!("emulator, {:?} lane order", self.order)
    }

    fn memory(&self) -> Result<(usize, usize), CudaError> {
        Ok((MEMORY, MEMORY))
    }

    fn alloc(&self, bytes: usize) -> Result<u64, CudaError> {
        if bytes > MEMORY {
            return Err(CudaError::Memory { bytes });
        }
        // SAFETY: plain allocation.
        let memory = unsafe { (self.library.alloc)(bytes) };
        if memory.is_null() { Err(CudaError::Memory { bytes }) } else { Ok(memory as u64) }
    }

    fn free(&self, address: u64) {
        // SAFETY: the address comes from `alloc`, and its buffer is gone.
        unsafe { (self.library.free)(address as *mut c_void) }
    }

    fn zero(&self, address: u64, bytes: usize) -> Result<(), CudaError> {
        self.refuse_copies("memory was set")?;
        // SAFETY: the caller keeps within the allocation.
        unsafe { std::ptr::write_bytes(address as *mut u8, 0, bytes) };
        Ok(())
    }

    fn upload(&self, address: u64, bytes: &[u8]) -> Result<(), CudaError> {
        self.refuse_copies("an upload")?;
        // SAFETY: the caller keeps within the allocation, which no Rust reference points to.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        Ok(())
    }

    fn download(&self, address: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        self.refuse_copies("a download")?;
        // SAFETY: as in `upload`.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), CudaError> {
        self.refuse_copies("a copy")?;
        // SAFETY: the caller keeps within the allocations, which no Rust reference points to.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    fn wait(&self) -> Result<(), CudaError> {
        self.refuse_copies("a wait")
    }

    fn launch(&self, kernel: &'static str, launch: Launch, params: ParamBytes<'_>) -> Result<(), CudaError> {
        // SAFETY: `ParamBytes` points to that many bytes; padding among them is not looked at.
        let bytes = unsafe { std::slice::from_raw_parts(params.start.cast::<MaybeUninit<u8>>(), params.len) };
        let name = CString::new(kernel)
            .map_err(|e| CudaError::Launch { kernel: kernel.to_owned(), reason: e.to_string() })?;
        let call = Call { name, launch, params: bytes.to_vec() };
        if let Some(calls) = self.captured().as_mut() {
            calls.push(call);
            return Ok(());
        }
        self.library.launch(&call, self.order)
    }

    fn begin_capture(&self) -> Result<(), CudaError> {
        self.refuse_copies("a second capture")?;
        *self.captured() = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn Replay>, CudaError> {
        let calls = self.captured().take().unwrap_or_default();
        Ok(Box::new(Recording { library: Arc::clone(&self.library), order: self.order, calls }))
    }
}

struct Recording {
    library: Arc<Library>,
    order: Order,
    calls: Vec<Call>,
}

impl Replay for Recording {
    fn launch(&self) -> Result<(), CudaError> {
        self.calls.iter().try_for_each(|call| self.library.launch(call, self.order))
    }
}
