//! Steps of a real model without engine and HTTP: the ceiling of what a server can reach on this machine.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use kernels::AttentionMeta;
use models::{Batch, Card, KvCache, Model};

/// Times decode and prefill steps of a GGUF model.
#[derive(Parser)]
struct Args {
    /// The model file.
    model: PathBuf,
    /// Sequences in a decode step.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32])]
    decode: Vec<usize>,
    /// Tokens of each sequence in the cache before a decode step.
    #[arg(long, default_value_t = 256)]
    context: usize,
    /// Tokens of a prefill step.
    #[arg(long, value_delimiter = ',', default_values_t = [128, 512])]
    prefill: Vec<usize>,
    /// Timed steps of each kind.
    #[arg(long, default_value_t = 20)]
    steps: usize,
}

const BLOCK: usize = 32;

/// `sequences` that compute `len` tokens each after `start` cached ones; each has pages of its own.
fn batch(sequences: usize, start: usize, len: usize) -> Batch {
    let end = start + len;
    let pages = end.div_ceil(BLOCK);
    let mut meta = AttentionMeta { table_stride: pages, query_start: vec![0], ..AttentionMeta::default() };
    let (mut token_ids, mut logits_at) = (Vec::new(), Vec::new());
    for sequence in 0..sequences {
        meta.block_table.extend((0..pages).map(|page| (sequence * pages + page) as u32));
        for position in start..end {
            meta.positions.push(position as u32);
            meta.slot_mapping.push((sequence * pages * BLOCK + position) as u32);
            token_ids.push(((sequence * 31 + position * 7) % 1000) as u32);
        }
        meta.context_len.push(end as u32);
        meta.query_start.push(token_ids.len() as u32);
        logits_at.push(token_ids.len() as u32 - 1);
    }
    Batch { token_ids, attention: Arc::new(meta), logits_at }
}

fn time(
    name: &str,
    model: &dyn Model,
    cache: &KvCache,
    batch: &Batch,
    steps: usize,
) -> candle_core::Result<()> {
    let mut times = Vec::with_capacity(steps);
    for _ in 0..steps + 2 {
        let begin = Instant::now();
        model.forward(batch, cache)?;
        times.push(begin.elapsed().as_secs_f64());
    }
    // The first two warm up.
    times.drain(..2);
    times.sort_unstable_by(f64::total_cmp);
    let (tokens, best, median) = (batch.token_ids.len() as f64, times[0], times[steps / 2]);
    println!(
        "| {name} | {:.2} | {:.2} | {:.0} | {:.0} |",
        median * 1e3,
        best * 1e3,
        tokens / median,
        tokens / best
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let begin = Instant::now();
    let loaded = models::load(&args.model, Card::from_file(&args.model)?, &|_| ())?;
    println!("instruction set {}, loaded in {:.2} s\n", kernels::isa(), begin.elapsed().as_secs_f64());
    println!("| step | median ms | best ms | tok/s | best |\n|---|---|---|---|---|");
    let model = loaded.model.as_ref();
    let longest = args.prefill.iter().copied().max().unwrap_or(1).div_ceil(BLOCK);
    let sequences = args.decode.iter().copied().max().unwrap_or(1);
    let blocks = longest.max(sequences * (args.context + 1).div_ceil(BLOCK));
    let cache = model.new_cache(blocks, BLOCK)?;
    for &count in &args.decode {
        // Real values, so that no time is measured on zeros.
        model.forward(&batch(count, 0, args.context), &cache)?;
        let name = format!("decode {count} at {}", args.context);
        time(&name, model, &cache, &batch(count, args.context, 1), args.steps)?;
    }
    for &tokens in &args.prefill {
        time(&format!("prefill {tokens}"), model, &cache, &batch(1, 0, tokens), args.steps)?;
    }
    Ok(())
}
