//! The CUDA kernels on the emulator: each kernel's own source against float references, over random shapes.
//!
//! Each test runs here in forward lane order; `faults` runs all of them again under the sanitizers in every order.

mod attention;
mod faults;
mod gate;
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

fn out() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator")
}

/// The emulated device.
fn device() -> Device {
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

/// Values that bf16 holds exactly.
fn values(rng: &mut Rng, count: usize, scale: f32) -> Vec<bf16> {
    (0..count).map(|_| bf16::from_f32(rng.signed() * scale)).collect()
}

fn widen(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|v| v.to_f32()).collect()
}
