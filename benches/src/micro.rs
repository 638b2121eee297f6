//! Micro-benchmarks of the kernels: packed-weight matmul in GOPS and GB/s, one table line a shape and batch.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use clap::Parser;
use kernels::{PackedMatrix, WeightType};

/// Times the packed matmul on the demo model's shapes or on one given shape.
#[derive(Parser)]
struct Args {
    /// Output rows of the weight; with --cols replaces the built-in shapes.
    #[arg(long, requires = "cols")]
    rows: Option<usize>,
    /// Columns (inner dimension) of the weight.
    #[arg(long)]
    cols: Option<usize>,
    /// Batch sizes.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16, 128])]
    batch: Vec<usize>,
    /// Milliseconds to spend on each cell.
    #[arg(long, default_value_t = 200)]
    cell_ms: u64,
}

/// Name, weight type, rows, columns: the matrices of one layer of the demo model, and its head.
const SHAPES: [(&str, WeightType, usize, usize); 5] = [
    ("qkv", WeightType::Q4_1, 960, 576),
    ("o", WeightType::Q4_1, 576, 576),
    ("gate+up", WeightType::Q4_1, 3072, 576),
    ("down", WeightType::Q4_1, 576, 1536),
    ("head", WeightType::Q8_0, 49152, 576),
];

/// Deterministic bytes whose f16 scales are small and finite, so that no product overflows.
fn weight_bytes(weight: WeightType, rows: usize, cols: usize) -> Option<Vec<u8>> {
    let (block, scales) = (weight.block_bytes(), if weight == WeightType::Q4_1 { 2 } else { 1 });
    let mut data = vec![0u8; rows * weight.row_bytes(cols)?];
    for (index, chunk) in data.chunks_exact_mut(block).enumerate() {
        for (at, byte) in chunk.iter_mut().enumerate() {
            *byte = (index.wrapping_mul(31) ^ at.wrapping_mul(97)) as u8;
        }
        for scale in chunk.chunks_exact_mut(2).take(scales) {
            scale.copy_from_slice(&0x2000u16.to_le_bytes());
        }
    }
    Some(data)
}

/// Median time of one call.
fn median(budget: Duration, mut call: impl FnMut()) -> Duration {
    let begin = Instant::now();
    let mut samples = Vec::new();
    while begin.elapsed() < budget || samples.len() < 3 {
        let start = Instant::now();
        call();
        samples.push(start.elapsed());
    }
    samples.sort_unstable();
    samples[samples.len() / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let shapes = match (args.rows, args.cols) {
        (Some(rows), Some(cols)) => vec![("given", WeightType::Q4_1, rows, cols)],
        _ => SHAPES.to_vec(),
    };
    println!("instruction set: {}", kernels::isa());
    println!("| matrix | rows x cols | batch | us | GOPS | weight GB/s |\n|---|---|---|---|---|---|");
    for (name, weight, rows, cols) in shapes {
        let data =
            weight_bytes(weight, rows, cols).ok_or("columns are not a multiple of the block length")?;
        let packed = Arc::new(PackedMatrix::pack(weight, rows, cols, &data)?);
        for &batch in &args.batch {
            let values: Vec<f32> = (0..batch * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
            let x = Tensor::from_vec(values, (batch, cols), &Device::Cpu)?;
            kernels::matmul(&x, &packed)?;
            let mut failed = None;
            let time = median(Duration::from_millis(args.cell_ms), || {
                failed = kernels::matmul(&x, &packed).err().or(failed.take());
            });
            if let Some(error) = failed {
                return Err(error.into());
            }
            let seconds = time.as_secs_f64();
            println!(
                "| {name} | {rows} x {cols} | {batch} | {:.1} | {:.0} | {:.1} |",
                seconds * 1e6,
                2.0 * (rows * cols * batch) as f64 / seconds / 1e9,
                packed.bytes() as f64 / seconds / 1e9
            );
        }
    }
    Ok(())
}
