//! With the feature `cuda`: the kernels for every target, to be embedded.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder of compiled kernels to embed in place of those that would be made here.
const READY: &str = "KERNELS_FATBINS";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    for name in ["CUDA_HOME", READY] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=cuda");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo names the folder"));
    if let Err(message) = make(&out) {
        println!("cargo:warning={message}");
        std::process::exit(1);
    }
}

fn make(out: &Path) -> Result<(), String> {
    if let Some(ready) = std::env::var_os(READY) {
        return copy(Path::new(&ready), out);
    }
    let home = std::env::var_os("CUDA_HOME").unwrap_or_else(|| "/usr/local/cuda".into());
    if !Path::new(&home).join("bin/nvcc").exists() {
        return Err(format!(
            "the feature cuda needs nvcc 13, and {home:?} has no bin/nvcc: set CUDA_HOME, for which \
             `export CUDA_HOME=$(kernels/cuda/toolkit target/cuda)` fetches the compiler"
        ));
    }
    let status = Command::new("cuda/compile").arg(&home).arg(out).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("kernels/cuda/compile ended with {status}")),
        Err(error) => Err(format!("kernels/cuda/compile: {error}")),
    }
}

fn copy(ready: &Path, out: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{READY} = {ready:?}: {error}");
    for entry in std::fs::read_dir(ready).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if let (Some("fatbin"), Some(name)) = (path.extension().and_then(|e| e.to_str()), path.file_name()) {
            println!("cargo:rerun-if-changed={}", path.display());
            std::fs::copy(&path, out.join(name)).map_err(failed)?;
        }
    }
    Ok(())
}
