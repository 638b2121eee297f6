//! The emulator catches what it is there for; and every kernel test again, under the sanitizers, in every lane order.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kernels::cuda::emulator::{self, FAMILIES};

use super::{LIBRARY, ORDER, out, text};

/// Runs this program's tests of `filter` on `library`, whose sanitizers have to be loaded first.
fn run(library: &Path, order: &str, filter: &str) -> Output {
    let sanitizer = Command::new("g++").arg("-print-file-name=libasan.so").output().expect("g++ runs");
    let sanitizer = String::from_utf8(sanitizer.stdout).expect("a path");
    Command::new(std::env::current_exe().expect("this program"))
        .args([filter, "--test-threads=1", "--skip", "faults", "--skip", "gate", "--skip", "driver"])
        .env("LD_PRELOAD", sanitizer.trim())
        .env("ASAN_OPTIONS", "detect_leaks=0")
        .env(LIBRARY, library)
        .env(ORDER, order)
        .output()
        .expect("this program runs")
}

#[test]
fn every_kernel_passes_under_sanitizers_in_every_lane_order() {
    let library =
        emulator::build(&emulator::sources(), &FAMILIES, &out(), true).expect("g++ compiles the kernels");
    for order in ["forward", "reverse", "shuffled"] {
        let output = run(&library, order, "cuda::");
        let text = text(&output);
        assert!(output.status.success(), "{order} order:\n{text}");
        assert!(!text.contains(" 0 passed"), "{order} order ran nothing:\n{text}");
    }
}

/// A copy of the sources in which `from` of `family` has become `to`, compiled.
fn planted(name: &str, family: &str, from: &str, to: &str) -> PathBuf {
    let folder = out().join(format!("planted-{name}-{}", std::process::id()));
    let sources = emulator::sources();
    fs::create_dir_all(folder.join("emulator")).expect("a folder");
    for part in ["", "emulator"] {
        for entry in fs::read_dir(sources.join(part)).expect("sources") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                let to = folder.join(part).join(path.file_name().expect("a file"));
                fs::copy(&path, to).expect("a copy");
            }
        }
    }
    let file = folder.join(format!("{family}.cu"));
    let source = fs::read_to_string(&file).expect("a source");
    assert!(source.contains(from), "{family} does not contain {from:?}");
    fs::write(&file, source.replacen(from, to, 1)).expect("written");
    let library = emulator::build(&folder, &[family], &out(), true).expect("g++ compiles the fault");
    fs::remove_dir_all(&folder).expect("the copy goes");
    library
}

#[test]
fn a_missing_barrier_is_caught() {
    let barrier = "  __syncthreads();\n  for (unsigned i = threadIdx.x; i < SMALL_ROWS";
    let library =
        planted("barrier", "linear_small", barrier, "  for (unsigned i = threadIdx.x; i < SMALL_ROWS");
    let output = run(&library, "forward", "cuda::linear::four_bit");
    assert!(!output.status.success() && text(&output).contains("expected"), "{}", text(&output));
}

#[test]
fn a_store_out_of_bounds_is_caught() {
    let guard = "if (batch >= params.m || row >= params.n) continue;";
    let library = planted("store", "linear_small", guard, "if (row >= params.n) continue;");
    let output = run(&library, "forward", "cuda::linear::four_bit");
    assert!(!output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("heap-buffer-overflow"), "{}", text(&output));
}

#[test]
fn a_divergent_warp_operation_is_caught() {
    let sum = "x += __shfl_xor_sync(ALL_LANES, x, distance);\n  return x;\n}\n\n// Largest rank";
    let part = "if (threadIdx.x % 32 < 30) x += __shfl_xor_sync(ALL_LANES, x, distance);\n  return x;\n}\n\n// Largest rank";
    let library = planted("warp", "sampling", sum, part);
    let output = run(&library, "forward", "cuda::sampling::draws");
    assert!(!output.status.success() && text(&output).contains("emulator: sample:"), "{}", text(&output));
}
