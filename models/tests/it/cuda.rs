//! Llamas on a CUDA device against the CPU: the emulated device, tiny random networks, steps of every kind.

use std::path::Path;
use std::sync::Arc;

use kernels::cuda::emulator::{self, Order};
use kernels::{AttentionMeta, WeightType};
use models::{Architecture, Batch, KvCache, LoadError, Loaded, Model, Place, card};

use crate::random_llama::{Sizes, llama};
use crate::sample::Sample;

const BLOCK_SIZE: usize = 16;
const PAGES: usize = 40;

fn emulated() -> Place {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator");
    let library = emulator::build(&emulator::sources(), &emulator::FAMILIES, &out, false).unwrap();
    Place::Cuda(emulator::open(&library, Order::Forward).unwrap())
}

fn open(sample: &Sample, place: &Place) -> Result<Loaded, LoadError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), sample.bytes()).unwrap();
    models::load_on(file.path(), card("smollm2-135m-instruct").unwrap(), place, &|_| {})
}

const TINY: Sizes = Sizes {
    architecture: Architecture::LLAMA,
    hidden: 128,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    inner: 256,
    tied: false,
};

/// A step: tokens of sequences, each `(sequence, from, to)`, and the rows whose logits are wanted.
type Parts<'a> = &'a [(usize, usize, usize)];

/// Every sequence has its own pages, dealt out so that neighbours are strangers.
fn batch(parts: Parts, wanted: impl Fn(usize, usize) -> bool) -> Batch {
    let (sequences, pages_each) = (4, PAGES / 4);
    let mut meta =
        AttentionMeta { table_stride: pages_each, query_start: vec![0], ..AttentionMeta::default() };
    let (mut token_ids, mut logits_at) = (Vec::new(), Vec::new());
    for &(sequence, from, to) in parts {
        let page = |p: usize| ((p * sequences + sequence) * 7 % PAGES) as u32;
        meta.block_table.extend((0..pages_each).map(page));
        meta.context_len.push(to as u32);
        for position in from..to {
            if wanted(position, to) {
                logits_at.push(token_ids.len() as u32);
            }
            token_ids.push(((position * 13 + sequence * 31) % 96) as u32);
            meta.positions.push(position as u32);
            let slot = page(position / BLOCK_SIZE) as usize * BLOCK_SIZE + position % BLOCK_SIZE;
            meta.slot_mapping.push(slot as u32);
        }
        meta.query_start.push(token_ids.len() as u32);
    }
    Batch { token_ids, attention: Arc::new(meta), logits_at }
}

/// Largest difference of the two networks' logits over the deviation of theirs.
fn difference(batch: &Batch, one: (&dyn Model, &KvCache), other: (&dyn Model, &KvCache)) -> f32 {
    let run = |(model, cache): (&dyn Model, &KvCache)| {
        let logits = model.forward(batch, cache).unwrap();
        assert_eq!(logits.dims(), [batch.logits_at.len(), 96]);
        logits.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let (one, other) = (run(one), run(other));
    let deviation = (one.iter().map(|x| x * x).sum::<f32>() / one.len().max(1) as f32).sqrt();
    let largest = one.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    if one.is_empty() { 0.0 } else { largest / deviation }
}

/// Prompts in chunks, decodes alone and together, both in one step, a shrinking batch, a step without logits.
const STEPS: [Parts; 10] = [
    &[(0, 0, 21)],
    &[(0, 21, 22)],
    &[(0, 22, 23), (1, 0, 17)],
    &[(0, 23, 24), (1, 17, 18)],
    &[(2, 0, 40), (1, 18, 19)],
    &[(0, 24, 25), (1, 19, 20), (2, 40, 41)],
    &[(2, 41, 42), (3, 0, 1)],
    &[(3, 1, 2), (0, 25, 26), (2, 42, 43), (1, 20, 21)],
    &[(1, 21, 23), (3, 2, 20)],
    &[(2, 43, 44)],
];

/// Rounding to bf16 moves a logit by less than this, in deviations.
const TOLERANCE: f32 = 0.06;

fn agrees(sizes: &Sizes, seed: u64, ty: impl Fn(&str) -> WeightType) {
    println!("{sizes:?}, seed {seed}");
    let (stored, plain) = llama(sizes, seed, ty);
    let cpu = open(&plain, &Place::Cpu).unwrap_or_else(|e| panic!("{e}"));
    let cuda = open(&stored, &emulated()).unwrap_or_else(|e| panic!("{e}"));
    let caches = [&cpu, &cuda].map(|loaded| loaded.model.new_cache(PAGES, BLOCK_SIZE).unwrap());
    for (index, parts) in STEPS.into_iter().enumerate() {
        let batch = batch(parts, |position, to| match index {
            8 => false,
            2 => position % 3 == 0,
            _ => position + 1 == to,
        });
        let found = difference(&batch, (cpu.model.as_ref(), &caches[0]), (cuda.model.as_ref(), &caches[1]));
        assert!(found < TOLERANCE, "step {index}: {found}");
    }
}

#[test]
fn bf16_weights_give_the_logits_of_the_cpu() {
    agrees(&TINY, 1, |_| WeightType::BF16);
}

#[test]
fn packed_and_mixed_weights_give_the_logits_of_the_cpu() {
    agrees(&TINY, 2, |_| WeightType::Q4_1);
    let tied = Sizes { heads: 2, kv_heads: 1, layers: 1, tied: true, ..TINY };
    agrees(&tied, 3, |_| WeightType::Q4_0);
    agrees(&tied, 4, |name| if name.contains("attn_v") { WeightType::F16 } else { WeightType::Q8_0 });
    agrees(&Sizes { hidden: 96, head_dim: 80, ..tied }, 5, |_| WeightType::F32);
}

#[test]
fn biases_and_normalised_heads_give_the_logits_of_the_cpu() {
    for architecture in [Architecture::QWEN2, Architecture::QWEN3] {
        agrees(&Sizes { architecture, ..TINY }, 10, |_| WeightType::BF16);
    }
}

#[test]
fn long_contexts_are_read_in_pieces() {
    let (stored, plain) = llama(&Sizes { layers: 1, ..TINY }, 6, |_| WeightType::BF16);
    let (cpu, cuda) = (open(&plain, &Place::Cpu).unwrap(), open(&stored, &emulated()).unwrap());
    let models = [cpu.model.as_ref(), cuda.model.as_ref()];
    let caches = models.map(|model| model.new_cache(72, BLOCK_SIZE).unwrap());
    let meta = |from: usize, to: usize| AttentionMeta {
        query_start: vec![0, (to - from) as u32],
        context_len: vec![to as u32],
        block_table: (0..72).rev().collect(),
        table_stride: 72,
        positions: (from as u32..to as u32).collect(),
        slot_mapping: (from..to).map(|p| ((71 - p / 16) * 16 + p % 16) as u32).collect(),
    };
    for (from, to) in [(0, 510), (510, 511), (511, 512), (512, 513), (513, 1030), (1030, 1031)] {
        let token_ids = (from..to).map(|p| (p * 29 % 96) as u32).collect();
        let batch =
            Batch { token_ids, attention: Arc::new(meta(from, to)), logits_at: vec![(to - from - 1) as u32] };
        let found = difference(&batch, (models[0], &caches[0]), (models[1], &caches[1]));
        assert!(found < TOLERANCE, "{from} to {to}: {found}");
    }
}

#[test]
fn what_a_device_cannot_do_is_refused_by_name() {
    let place = emulated();
    let (odd_heads, _) = llama(&Sizes { head_dim: 32, ..TINY }, 7, |_| WeightType::BF16);
    let loaded = open(&odd_heads, &place).unwrap_or_else(|e| panic!("{e}"));
    let refused = loaded.model.new_cache(8, 16).err().unwrap().to_string();
    assert!(refused.contains("heads of 32 values have no CUDA kernel"), "{refused}");
    let (good, _) = llama(&TINY, 8, |_| WeightType::BF16);
    let loaded = open(&good, &place).unwrap();
    let refused = loaded.model.new_cache(8, 8).err().unwrap().to_string();
    assert!(refused.contains("pages of 8 positions"), "{refused}");
    let (narrow, _) = llama(&Sizes { hidden: 40, ..TINY }, 9, |_| WeightType::BF16);
    let refused = open(&narrow, &place).err().unwrap().to_string();
    assert!(refused.contains("x 40: CUDA kernels need"), "{refused}");
    // A cache of one place does not serve a network in another.
    let cpu = open(&good, &Place::Cpu).unwrap();
    let batch = batch(&[(0, 0, 3)], |_, _| true);
    let elsewhere = cpu.model.new_cache(8, 16).unwrap();
    assert!(loaded.model.forward(&batch, &elsewhere).is_err());
    assert!(cpu.model.forward(&batch, &loaded.model.new_cache(8, 16).unwrap()).is_err());
}
