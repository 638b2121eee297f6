//! The device behind the driver's interface: on a machine without a GPU, a stand-in for the driver's library over the
//! emulator. Each test here runs one or more of this program's tests in a process of its own, which finds the stand-in first.

use std::path::PathBuf;
use std::process::{Command, Output};

use kernels::cuda::emulator::{self, FAMILIES};

use super::{DEVICE, out, text};

/// A folder with the stand-in under the driver's name.
fn stand_in() -> PathBuf {
    let library =
        emulator::build(&emulator::sources(), &FAMILIES, &out(), false).expect("g++ compiles the kernels");
    let folder = library.with_extension("driver");
    std::fs::create_dir_all(&folder).expect("a folder");
    let link = folder.join("libcuda.so");
    // Tests of one process share it.
    match std::os::unix::fs::symlink(&library, &link) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => panic!("{link:?}: {error}"),
        _ => folder,
    }
}

/// Runs this program's tests of `filter` on the device that the driver gives.
fn run(filter: &str) -> Output {
    Command::new(std::env::current_exe().expect("this program"))
        .args([filter, "--test-threads=1", "--skip", "faults", "--skip", "gate", "--skip", "driver"])
        .env("LD_LIBRARY_PATH", stand_in())
        .env(DEVICE, "cuda")
        .output()
        .expect("this program runs")
}

fn passes(filter: &str) {
    let output = run(filter);
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains(" 0 passed"), "ran nothing:\n{text}");
}

#[test]
fn attention_passes_through_the_driver() {
    passes("cuda::attention");
}

#[test]
fn rows_matrices_and_sampling_pass_through_the_driver() {
    for filter in ["cuda::rows", "cuda::linear", "cuda::sampling"] {
        passes(filter);
    }
}

#[test]
fn graphs_and_errors_pass_through_the_driver() {
    passes("cuda::launches");
}
