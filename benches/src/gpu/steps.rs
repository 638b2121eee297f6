//! Whole steps of a network with weights made from a seed.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use kernels::AttentionMeta;
use models::{Batch, KvCache, Model, Place};

use crate::shapes::Shapes;
use crate::table::{Floor, Table};

const BLOCK_SIZE: usize = 16;
const RUNS: usize = 20;

/// Adds the figures of decode and prefill steps.
pub(crate) fn run(
    device: usize,
    shapes: &Shapes,
    seed: u64,
    table: &mut Table,
) -> Result<(), Box<dyn Error>> {
    let place = Place::cuda(device)?;
    let model = models::synthetic(shapes.network.clone(), &place, seed)?;
    let (batches, context) = shapes.steps;
    let most = batches.iter().max().map_or(1, |sequences| sequences * context.div_ceil(BLOCK_SIZE));
    let longest = shapes.prompts.iter().max().map_or(1, |tokens| tokens.div_ceil(BLOCK_SIZE));
    let cache = model.new_cache(most.max(longest), BLOCK_SIZE)?;
    let (layers, vocab) = (shapes.network.layers, shapes.network.vocab);
    for &sequences in batches {
        let seconds = median(model.as_ref(), &cache, &step(sequences, context, 1, vocab))?;
        let name = format!("decode step, {layers} layers, {sequences} x {context}");
        table.push(name, seconds, Floor::None, Some(sequences as f64));
    }
    for &tokens in shapes.prompts {
        let seconds = median(model.as_ref(), &cache, &step(1, tokens, tokens, vocab))?;
        let name = format!("prefill step, {layers} layers, {tokens}");
        table.push(name, seconds, Floor::None, Some(tokens as f64));
    }
    Ok(())
}

fn step(sequences: usize, context: usize, new: usize, vocab: usize) -> Batch {
    let pages = context.div_ceil(BLOCK_SIZE);
    let mut meta = AttentionMeta { table_stride: pages, query_start: vec![0], ..AttentionMeta::default() };
    for sequence in 0..sequences {
        let page = |index: usize| (sequence * pages + index) as u32;
        meta.block_table.extend((0..pages).map(page));
        meta.context_len.push(context as u32);
        for position in context - new..context {
            meta.positions.push(position as u32);
            let slot = page(position / BLOCK_SIZE) as usize * BLOCK_SIZE + position % BLOCK_SIZE;
            meta.slot_mapping.push(slot as u32);
        }
        meta.query_start.push(meta.positions.len() as u32);
    }
    let tokens = sequences * new;
    Batch {
        token_ids: (0..tokens).map(|i| (i * 7919 % vocab) as u32).collect(),
        attention: Arc::new(meta),
        logits_at: (1..=sequences).map(|end| (end * new - 1) as u32).collect(),
    }
}

/// Seconds of a step from its indices to its logits on the host, after one that captures it.
fn median(model: &dyn Model, cache: &KvCache, batch: &Batch) -> Result<f64, Box<dyn Error>> {
    model.forward(batch, cache)?;
    let mut seconds = Vec::new();
    for _ in 0..RUNS {
        let began = Instant::now();
        model.forward(batch, cache)?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[RUNS / 2])
}
