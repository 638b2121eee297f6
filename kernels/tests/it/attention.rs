//! Paged attention on every path: values, bits, and checks.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use half::f16;
use kernels::cpu::{self, AttentionJob, Path};
use kernels::{AttentionMeta, HeadShape, LayerCache, QkvExtras, RopeTable, reference};

use crate::support::{Rng, assert_close, bits, single_thread};

/// Sequences with their pages, and the qkv of all their tokens.
struct World {
    shape: HeadShape,
    extras: QkvExtras,
    rope: RopeTable,
    block_size: usize,
    num_blocks: usize,
    pages: Vec<Vec<u32>>,
    /// Per sequence `[len, qkv_width]`.
    qkv: Vec<Vec<f32>>,
}

impl World {
    fn new(shape: HeadShape, block_size: usize, lengths: &[usize], interleaved: bool, rng: &mut Rng) -> Self {
        let needed: Vec<usize> = lengths.iter().map(|len| len.div_ceil(block_size)).collect();
        let num_blocks = needed.iter().sum::<usize>() + 3;
        let mut free = rng.shuffled(num_blocks);
        let pages = needed.iter().map(|count| free.split_off(free.len() - count)).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let rope = RopeTable::new(shape.head_dim, longest, 10000.0, None, interleaved);
        let scale = 3.0;
        let qkv = lengths
            .iter()
            .map(|len| rng.values(len * shape.qkv_width()).iter().map(|v| v * scale).collect())
            .collect();
        Self { shape, extras: QkvExtras::default(), rope, block_size, num_blocks, pages, qkv }
    }

    /// A step over `(sequence, from, to)` token ranges.
    fn step(&self, parts: &[(usize, usize, usize)]) -> (AttentionMeta, Vec<f32>) {
        let stride = parts.iter().map(|(s, ..)| self.pages[*s].len()).max().unwrap_or(0);
        let mut meta = AttentionMeta { table_stride: stride, query_start: vec![0], ..Default::default() };
        let mut qkv = Vec::new();
        for &(sequence, from, to) in parts {
            let pages = &self.pages[sequence];
            meta.context_len.push(to as u32);
            meta.block_table.extend(pages.iter().copied().chain(std::iter::repeat(u32::MAX)).take(stride));
            for position in from..to {
                meta.positions.push(position as u32);
                let slot =
                    pages[position / self.block_size] as usize * self.block_size + position % self.block_size;
                meta.slot_mapping.push(slot as u32);
            }
            meta.query_start.push(meta.positions.len() as u32);
            let width = self.shape.qkv_width();
            qkv.extend_from_slice(&self.qkv[sequence][from * width..to * width]);
        }
        (meta, qkv)
    }

    fn job<'a>(&'a self, meta: &'a AttentionMeta) -> AttentionJob<'a> {
        AttentionJob {
            extras: &self.extras,
            rope: &self.rope,
            shape: &self.shape,
            meta,
            num_blocks: self.num_blocks,
            block_size: self.block_size,
        }
    }

    fn empty_cache(&self) -> Vec<f16> {
        // What a page holds before it is written must not matter.
        vec![f16::NAN; 2 * self.num_blocks * self.shape.kv_heads * self.block_size * self.shape.head_dim]
    }

    fn run(&self, path: &Path, cache: &mut [f16], parts: &[(usize, usize, usize)]) -> Vec<f32> {
        let (meta, qkv) = self.step(parts);
        let mut out = vec![f32::NAN; meta.positions.len() * self.shape.heads * self.shape.head_dim];
        path.write_cache(&self.job(&meta), &qkv, cache);
        path.attend(&self.job(&meta), &qkv, cache, &mut out);
        out
    }
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> HeadShape {
    HeadShape { heads, kv_heads, head_dim }
}

#[test]
fn agrees_with_the_reference() {
    let mut rng = Rng(41);
    let cases = [
        (shape(9, 3, 64), 16, vec![50, 1, 33]),
        (shape(4, 4, 8), 1, vec![5, 9]),
        (shape(8, 2, 128), 24, vec![70]),
        (shape(4, 1, 80), 100, vec![130, 99, 2]),
        (shape(2, 1, 96), 7, vec![20]),
        (shape(40, 1, 16), 32, vec![3, 40]),
    ];
    for (index, (shape, block_size, lengths)) in cases.into_iter().enumerate() {
        let world = World::new(shape, block_size, &lengths, index % 2 == 0, &mut rng);
        let parts: Vec<_> = lengths.iter().enumerate().map(|(s, len)| (s, 0, *len)).collect();
        let (meta, qkv) = world.step(&parts);
        let mut cache = world.empty_cache();
        reference::write_cache(&qkv, &mut cache, block_size, &world.rope, &world.shape, &meta);
        let expected = reference::attend(&qkv, &cache, block_size, &world.rope, &world.shape, &meta);
        for path in cpu::paths() {
            let mut own = world.empty_cache();
            let out = world.run(path, &mut own, &parts);
            let same = own.iter().zip(&cache).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{} case {index}: the cache differs", path.name());
            assert_close(&out, &expected, |_| 2e-5, &format!("{} case {index}", path.name()));
        }
    }
}

#[test]
fn biases_and_normalised_heads_come_before_the_rotation() {
    let mut rng = Rng(46);
    for (index, shape) in [shape(6, 2, 64), shape(4, 4, 8), shape(8, 1, 128)].into_iter().enumerate() {
        let mut world = World::new(shape, 16, &[40, 3], false, &mut rng);
        let head_dim = world.shape.head_dim;
        let norm = (rng.values(head_dim), rng.values(head_dim), 1e-6);
        let bias = Some(rng.values(world.shape.qkv_width()));
        for extras in [
            QkvExtras { bias: bias.clone(), norm: None },
            QkvExtras { bias: None, norm: Some(norm.clone()) },
            QkvExtras { bias, norm: Some(norm) },
        ] {
            world.extras = extras;
            let parts = [(0, 0, 40), (1, 0, 3)];
            let (meta, qkv) = world.step(&parts);
            let qkv = reference::prepare_qkv(&qkv, &world.extras, &world.shape);
            let mut cache = world.empty_cache();
            reference::write_cache(&qkv, &mut cache, 16, &world.rope, &world.shape, &meta);
            let expected = reference::attend(&qkv, &cache, 16, &world.rope, &world.shape, &meta);
            for path in cpu::paths() {
                let mut own = world.empty_cache();
                let out = world.run(path, &mut own, &parts);
                // Keys are rounded to f16 after sums in another order.
                assert_close(&out, &expected, |_| 4e-3, &format!("{} case {index}", path.name()));
                let mut cache = world.empty_cache();
                let mut pieces = world.run(path, &mut cache, &[(0, 0, 39)]);
                pieces.extend(world.run(path, &mut cache, &[(0, 39, 40)]));
                assert_eq!(bits(&pieces), bits(&out[..pieces.len()]), "{} case {index}: pieces", path.name());
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_chunks_neighbours_or_threads() {
    let mut rng = Rng(42);
    for block_size in [16, 5, 70] {
        let world = World::new(shape(9, 3, 64), block_size, &[50, 41, 120], true, &mut rng);
        let width = world.shape.heads * world.shape.head_dim;
        for path in cpu::paths() {
            let whole = world.run(path, &mut world.empty_cache(), &[(0, 0, 50)]);
            for chunk in [7, 1, 49] {
                let mut cache = world.empty_cache();
                let mut pieces = Vec::new();
                for from in (0..50).step_by(chunk) {
                    pieces.extend(world.run(path, &mut cache, &[(0, from, 50.min(from + chunk))]));
                }
                assert_eq!(bits(&pieces), bits(&whole), "{}: chunks of {chunk}", path.name());
            }
            // Decode steps of the first sequence beside prefills of others.
            let mut cache = world.empty_cache();
            world.run(path, &mut cache, &[(2, 0, 13), (0, 0, 30)]);
            world.run(path, &mut cache, &[(0, 30, 49), (1, 0, 41)]);
            let mixed = world.run(path, &mut cache, &[(1, 40, 41), (0, 49, 50), (2, 13, 120)]);
            assert_eq!(
                bits(&mixed[width..2 * width]),
                bits(&whole[49 * width..]),
                "{}: beside others",
                path.name()
            );
            let alone = single_thread(|| world.run(path, &mut world.empty_cache(), &[(0, 0, 50)]));
            assert_eq!(bits(&alone), bits(&whole), "{}: one thread", path.name());
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let mut rng = Rng(43);
    let mut world = World::new(shape(2, 1, 16), 4, &[30], false, &mut rng);
    world.qkv[0].iter_mut().for_each(|v| *v *= 100.0);
    let (meta, qkv) = world.step(&[(0, 0, 30)]);
    for path in cpu::paths() {
        let mut cache = world.empty_cache();
        let out = world.run(path, &mut cache, &[(0, 0, 30)]);
        let expected = reference::attend(&qkv, &cache, 4, &world.rope, &world.shape, &meta);
        assert_close(&out, &expected, |i| 1e-2 + 1e-3 * expected[i].abs(), path.name());
    }
}

#[test]
fn the_candle_op_writes_its_cache_and_attends() {
    let mut rng = Rng(44);
    let world = World::new(shape(4, 2, 32), 8, &[20, 6], false, &mut rng);
    let layers =
        LayerCache::for_layers(3, world.num_blocks, 8, &world.shape, &Device::Cpu).expect("three caches");
    let cache = &layers[1];
    let rope = Arc::new(RopeTable::new(32, 20, 10000.0, None, false));
    let mut plain = vec![f16::ZERO; 2 * world.num_blocks * 2 * 8 * 32];
    for parts in [vec![(0, 0, 19)], vec![(0, 19, 20), (1, 0, 6)]] {
        let (meta, qkv) = world.step(&parts);
        let (t, meta) = (meta.positions.len(), Arc::new(meta));
        let tensor = Tensor::from_vec(qkv, (t, world.shape.qkv_width()), &Device::Cpu).expect("tensor");
        let out = kernels::attention(&tensor, cache, &Arc::default(), &rope, &world.shape, &meta)
            .expect("attention");
        assert_eq!(out.dims(), [t, 4 * 32]);
        let expected = world.run(cpu::path(), &mut plain, &parts);
        assert_eq!(out.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("values"), expected);
    }
    let stored =
        |layer: usize| layers[layer].tensor().flatten_all().and_then(|t| t.to_vec1::<f16>()).expect("values");
    assert!(stored(1) == plain);
    assert!([0, 2].iter().all(|layer| stored(*layer).iter().all(|value| *value == f16::ZERO)));
}

/// Bytes of this process in main memory.
#[cfg(target_os = "linux")]
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc(5)");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[cfg(target_os = "linux")]
#[test]
fn a_cache_takes_memory_only_where_it_is_written() {
    let (shape, before) = (shape(8, 8, 128), resident());
    // Two gibibytes: what other tests take meanwhile is far less than half of that.
    let caches = LayerCache::for_layers(4, 4096, 32, &shape, &Device::Cpu).expect("four caches");
    let bytes: usize = caches.iter().map(|cache| cache.tensor().elem_count() * 2).sum();
    assert_eq!(bytes, 2 << 30);
    let taken = resident().saturating_sub(before);
    assert!(taken < 1 << 30, "{taken} bytes are taken by a cache of {bytes}");
}

#[test]
fn wrong_indices_are_refused() {
    let mut rng = Rng(45);
    let world = World::new(shape(2, 1, 8), 4, &[6], false, &mut rng);
    let cache = LayerCache::new(world.num_blocks, 4, &world.shape, &Device::Cpu).expect("cache");
    let rope = Arc::new(RopeTable::new(8, 6, 10000.0, None, false));
    let (good, qkv) = world.step(&[(0, 0, 6)]);
    let tensor = Tensor::from_vec(qkv, (6, world.shape.qkv_width()), &Device::Cpu).expect("tensor");
    let attempt = |meta: AttentionMeta| {
        kernels::attention(&tensor, &cache, &Arc::default(), &rope, &world.shape, &Arc::new(meta))
            .map_err(|e| e.to_string())
    };
    assert!(attempt(good.clone()).is_ok());
    let blocks = world.num_blocks as u32;
    let cases: [(&str, AttentionMeta); 6] = [
        ("slot", AttentionMeta { slot_mapping: vec![0, 1, 2, 3, 4, blocks * 4], ..good.clone() }),
        ("page", AttentionMeta { block_table: vec![0, blocks], ..good.clone() }),
        ("position 6", AttentionMeta { positions: vec![0, 1, 2, 3, 4, 6], ..good.clone() }),
        ("offsets", AttentionMeta { query_start: vec![0, 5], ..good.clone() }),
        ("9 tokens need 3 pages", AttentionMeta { context_len: vec![9], ..good.clone() }),
        ("tokens", AttentionMeta { slot_mapping: vec![0; 5], ..good.clone() }),
    ];
    for (word, meta) in cases {
        let error = attempt(meta).expect_err(word);
        assert!(error.contains(word), "{word}: {error}");
    }
    let other = shape(2, 2, 8);
    let good = Arc::new(good);
    let with = |extras: QkvExtras, shape| {
        kernels::attention(&tensor, &cache, &Arc::new(extras), &rope, shape, &good)
    };
    assert!(with(QkvExtras::default(), &other).is_err());
    let short = |len| QkvExtras { bias: Some(vec![0.0; len]), ..QkvExtras::default() };
    assert!(with(short(32), &world.shape).is_ok() && with(short(31), &world.shape).is_err());
    let norm = |len| QkvExtras { norm: Some((vec![1.0; 8], vec![1.0; len], 1e-6)), ..QkvExtras::default() };
    assert!(with(norm(8), &world.shape).is_ok() && with(norm(9), &world.shape).is_err());
    assert!(LayerCache::new(0, 4, &world.shape, &Device::Cpu).is_err());
    assert!(LayerCache::new(4, 4, &shape(3, 2, 8), &Device::Cpu).is_err());
    assert!(LayerCache::new(4, 4, &shape(2, 1, 12), &Device::Cpu).is_err());
}
