//! Kernels and whole steps on a GPU, against what the memory and the arithmetic of the same GPU give.
//!
//! `benches/gpu/check` builds it, packs it and says how to run it. Every figure is the median of several replays of a
//! captured graph. Prints one table; `--json FILE` writes the same. On a machine without a GPU it says so and ends.

mod ops;
mod shapes;
mod steps;
mod table;

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use half::bf16;
use kernels::cuda::{CudaError, Device};
use rayon::prelude::*;
use shapes::Shapes;
use table::Table;

#[derive(Parser)]
struct Arguments {
    /// Which GPU.
    #[arg(long, default_value_t = 0)]
    device: usize,
    /// Where the figures go as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Rates that another program measured in the same run, JSON: {"copy_gb_s": n, "matmul_tflop_s": n, ...}.
    #[arg(long)]
    rates: Option<PathBuf>,
    /// Seed of all values.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Layers of the network whose steps are timed; 32 is the real shape.
    #[arg(long, default_value_t = 32)]
    layers: usize,
    /// Tiny shapes: whether all of it runs, not how fast.
    #[arg(long)]
    tiny: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let device = kernels::cuda::open(arguments.device)?;
    println!("{}, seed {}", device.describe(), arguments.seed);
    let rates = match &arguments.rates {
        Some(path) => serde_json::from_slice(&std::fs::read(path)?)?,
        None => serde_json::Value::Null,
    };
    let shapes = if arguments.tiny { Shapes::tiny() } else { Shapes::full(arguments.layers) };
    let mut table = Table::new(rates);
    ops::run(&device, &shapes, arguments.seed, &mut table)?;
    drop(device);
    steps::run(arguments.device, &shapes, arguments.seed, &mut table)?;
    print!("{}", table.text());
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&table.json())?)?;
    }
    Ok(())
}

const RUNS: usize = 9;

/// Median seconds of `run`, which is carried out once before.
fn median_seconds(device: &Device, mut run: impl FnMut() -> Result<(), CudaError>) -> Result<f64, CudaError> {
    run()?;
    device.wait()?;
    let mut seconds = Vec::new();
    for _ in 0..RUNS {
        let began = Instant::now();
        run()?;
        device.wait()?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[RUNS / 2])
}

/// Median seconds of the launches in `launch`, `repeats` of them in one graph.
fn graph_seconds(
    device: &Device,
    repeats: usize,
    launch: impl Fn() -> Result<(), CudaError>,
) -> Result<f64, CudaError> {
    let graph = device.capture(|| (0..repeats).try_for_each(|_| launch()))?;
    Ok(median_seconds(device, || graph.launch())? / repeats as f64)
}

/// Values in -1..1 that differ from one place to the next.
fn bf16_values(seed: u64, count: usize) -> Vec<bf16> {
    let value = |i: usize| {
        let mixed = (i as u64 ^ seed << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        bf16::from_f32(mixed as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..count).into_par_iter().map(value).collect()
}
