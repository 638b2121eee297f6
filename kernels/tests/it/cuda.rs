//! The CUDA kernels on the emulator: each kernel's own source against float references, over random shapes.
//!
//! Each test runs here in forward lane order; `faults` runs all of them again under the sanitizers in every order, and
//! `driver` through the driver's interface. With `KERNELS_DEVICE=cuda` they run on the GPU.

mod attention;
#[cfg(feature = "cuda")]
mod driver;
mod faults;
mod gate;
mod launches;
mod linear;
mod rows;
mod sampling;

use std::path::{Path, PathBuf};

use half::bf16;
use kernels::cuda::Device;
use kernels::cuda::emulator::{self, Order};

use crate::support::Rng;

/// Names the library that tests use in place of the plain one, and the lane order.
const LIBRARY: &str = "KERNELS_EMULATOR";
const ORDER: &str = "KERNELS_EMULATOR_ORDER";
/// `cuda`: tests run on the first device that the driver has.
const DEVICE: &str = "KERNELS_DEVICE";

fn out() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator")
}

/// The emulated device, unless the driver's is wanted.
fn device() -> Device {
    if std::env::var_os(DEVICE).is_some_and(|device| device == "cuda") {
        return kernels::cuda::open(0).expect("a CUDA device");
    }
    static BUILD: std::sync::Mutex<Option<PathBuf>> = std::sync::Mutex::new(None);
    let mut library = BUILD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let library = library.get_or_insert_with(|| match std::env::var_os(LIBRARY) {
        Some(path) => path.into(),
        None => emulator::build(&emulator::sources(), &emulator::FAMILIES, &out(), false)
            .expect("g++ compiles the kernels"),
    });
    let order = match std::env::var(ORDER).as_deref() {
        Ok("reverse") => Order::Reverse,
        Ok("shuffled") => Order::Shuffled,
        _ => Order::Forward,
    };
    emulator::open(library, order).expect("the library loads")
}

/// A generator: of the same values each time, unless `KERNELS_SEED` gives a number for others.
fn rng(seed: u64) -> Rng {
    let other: u64 = std::env::var("KERNELS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    println!("seed {seed}, KERNELS_SEED {other}");
    Rng(seed ^ other << 16)
}

/// Values that bf16 holds exactly.
fn values(rng: &mut Rng, count: usize, scale: f32) -> Vec<bf16> {
    (0..count).map(|_| bf16::from_f32(rng.signed() * scale)).collect()
}

fn widen(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|v| v.to_f32()).collect()
}

/// All that a process said.
fn text(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}
