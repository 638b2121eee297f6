//! Rotary embedding, cache write and paged attention, over element types, head sizes, windows and caps.

use half::bf16;
use kernels::cuda::attention::{self, AttentionRule, DecodeScratch};
use kernels::cuda::rope::{self, DeviceRope, QkvExtras};
use kernels::cuda::{CacheElement, Device, DeviceBatch, DeviceBuffer, PagedCache};
use kernels::{AttentionMeta, HeadShape, RopeTable};

use super::{device, rng, values, widen};
use crate::support::{Rng, assert_close};

const FP8: CacheElement = CacheElement::Fp8 { key_scale: 0.01, value_scale: 0.02 };

struct Case {
    shape: HeadShape,
    element: CacheElement,
    block_size: usize,
    interleaved: bool,
    rule: AttentionRule,
}

/// Sequences on a device, with all their qkv.
struct World {
    case: Case,
    device: Device,
    rope: RopeTable,
    on_device: DeviceRope,
    extras: QkvExtras,
    cache: PagedCache,
    pages: Vec<Vec<u32>>,
    qkv: Vec<Vec<bf16>>,
}

fn case(heads: (usize, usize, usize), element: CacheElement, block_size: usize) -> Case {
    let (heads, kv_heads, head_dim) = heads;
    let shape = HeadShape { heads, kv_heads, head_dim };
    let rule = AttentionRule { scale: 1.0 / (head_dim as f32).sqrt(), window: None, soft_cap: None };
    Case { shape, element, block_size, interleaved: false, rule }
}

impl World {
    fn new(case: Case, lengths: &[usize], rng: &mut Rng) -> Self {
        let device = device();
        let needed: Vec<usize> = lengths.iter().map(|len| len.div_ceil(case.block_size)).collect();
        let num_blocks = needed.iter().sum::<usize>() + 2;
        let mut free = rng.shuffled(num_blocks);
        let pages = needed.iter().map(|count| free.split_off(free.len() - count)).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let rope = RopeTable::new(case.shape.head_dim, longest, 10000.0, None, case.interleaved);
        let on_device = DeviceRope::new(&device, &rope).expect("rope");
        let qkv = lengths.iter().map(|len| values(rng, len * case.shape.qkv_width(), 2.0)).collect();
        let cache =
            PagedCache::new(&device, case.element, &case.shape, num_blocks, case.block_size).expect("cache");
        Self { case, device, rope, on_device, extras: QkvExtras::default(), cache, pages, qkv }
    }

    /// A step over `(sequence, from, to)` token ranges: its indices and its qkv.
    fn step(&self, parts: &[(usize, usize, usize)]) -> (AttentionMeta, Vec<bf16>) {
        let (size, width) = (self.case.block_size, self.case.shape.qkv_width());
        let stride = parts.iter().map(|(s, ..)| self.pages[*s].len()).max().unwrap_or(0);
        let mut meta = AttentionMeta { table_stride: stride, query_start: vec![0], ..Default::default() };
        let mut qkv = Vec::new();
        for &(sequence, from, to) in parts {
            let pages = &self.pages[sequence];
            meta.context_len.push(to as u32);
            meta.block_table.extend(pages.iter().copied().chain(std::iter::repeat(u32::MAX)).take(stride));
            for position in from..to {
                meta.positions.push(position as u32);
                meta.slot_mapping.push((pages[position / size] as usize * size + position % size) as u32);
            }
            meta.query_start.push(meta.positions.len() as u32);
            qkv.extend_from_slice(&self.qkv[sequence][from * width..to * width]);
        }
        (meta, qkv)
    }

    /// Runs the step: rotated queries, and what attention gives; `split_len` of decode.
    fn run(&self, parts: &[(usize, usize, usize)], split_len: usize) -> (Vec<bf16>, Vec<bf16>) {
        let (meta, qkv) = self.step(parts);
        let pages = self.pages.iter().map(Vec::len).max().unwrap_or(0);
        let mut batch = DeviceBatch::new(&self.device, 512, 8, pages).expect("batch");
        let ids = vec![0; meta.positions.len()];
        batch.fill(&ids, &meta, &self.cache, self.rope.max_positions(), 3).expect("indices");
        let shape = &self.case.shape;
        let mut padded = qkv;
        padded.resize(batch.tokens() * shape.qkv_width(), bf16::NAN);
        let qkv = self.device.upload(&padded).expect("qkv");
        let width = shape.heads * shape.head_dim;
        let query: DeviceBuffer<bf16> = self.device.zeros(batch.tokens() * width).expect("query");
        let out = self.device.zeros(batch.tokens() * width).expect("out");
        rope::rope_cache(&qkv, &self.extras, &self.on_device, &batch, &self.cache, &query).expect("rope");
        let scratch = DecodeScratch::new(&self.cache, 8, 8).expect("scratch");
        attention::prefill(&query, &self.cache, &batch, &self.case.rule, &out).expect("prefill");
        attention::decode(&query, &self.cache, &batch, &self.case.rule, split_len, None, &scratch, &out)
            .expect("decode");
        let tokens = meta.positions.len();
        (query.read(tokens * width).expect("query"), out.read(tokens * width).expect("out"))
    }

    /// Attention of `query` over what the cache holds, in f64.
    fn reference(&self, query: &[bf16], cache: &[f32], parts: &[(usize, usize, usize)]) -> Vec<f64> {
        let shape = &self.case.shape;
        let tokens = parts.iter().flat_map(|(sequence, from, to)| (*from..*to).map(|p| (*sequence, p)));
        let rows = tokens.flat_map(|token| (0..shape.heads).map(move |head| (token, head)));
        let queries = query.chunks_exact(shape.head_dim);
        queries.zip(rows).flat_map(|(q, ((s, p), head))| self.attend_one(q, cache, s, p, head)).collect()
    }

    fn attend_one(
        &self,
        q: &[bf16],
        cache: &[f32],
        sequence: usize,
        position: usize,
        head: usize,
    ) -> Vec<f64> {
        let Case { shape, block_size, rule, .. } = &self.case;
        let (d, half) = (shape.head_dim, cache.len() / 2);
        let first = rule.window.map_or(0, |window| (position + 1).saturating_sub(window as usize));
        let place = |p: usize| {
            let page = self.pages[sequence][p / block_size] as usize;
            ((page * shape.kv_heads + head / shape.group()) * block_size + p % block_size) * d
        };
        let scores: Vec<f64> = (first..=position)
            .map(|p| {
                let k = &cache[place(p)..][..d];
                let dot: f64 = q.iter().zip(k).map(|(q, k)| f64::from(q.to_f32()) * f64::from(*k)).sum();
                let score = dot * f64::from(rule.scale);
                rule.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
            })
            .collect();
        let max = scores.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
        let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        let mut out = vec![0.0; d];
        for (score, p) in scores.iter().zip(first..) {
            let weight = (score - max).exp() / total;
            out.iter_mut()
                .zip(&cache[half + place(p)..][..d])
                .for_each(|(o, v)| *o += weight * f64::from(*v));
        }
        out
    }

    /// Holds a step to the reference. Weights are rounded to 8 or 11 bits, the output to 8.
    fn check(&self, parts: &[(usize, usize, usize)], split_len: usize, what: &str) {
        let (query, out) = self.run(parts, split_len);
        let expected = self.reference(&query, &self.cache.to_f32().expect("cache"), parts);
        assert_close(&widen(&out), &expected, |i| 0.008 + 0.008 * expected[i].abs(), what);
    }
}

#[test]
fn prefill_then_decode_agree_with_the_reference() {
    let mut rng = rng(221);
    let elements = [CacheElement::F16, CacheElement::BF16, FP8, CacheElement::Int8];
    let shapes = [(6, 2, 64), (2, 2, 80), (4, 1, 96), (8, 2, 128), (2, 1, 256), (11, 1, 64)];
    for (index, heads) in shapes.into_iter().enumerate() {
        // Each shape meets two element types, each type three shapes.
        for element in [elements[index % 4], elements[(index + 1 + index / 4) % 4]] {
            let block_size = [16, 32, 48][index % 3];
            let world = World::new(case(heads, element, block_size), &[70, 21, 1, 40], &mut rng);
            let what = format!("{heads:?} {element:?}, pages of {block_size}");
            world.check(&[(0, 0, 50), (2, 0, 1), (1, 0, 20)], 64, &format!("{what}: prefill"));
            // A later chunk on a cached prefix, beside decodes of another length.
            world.check(&[(1, 20, 21), (0, 50, 69), (3, 0, 40)], 64, &format!("{what}: chunk"));
            world.check(&[(0, 69, 70)], 64, &format!("{what}: decode"));
        }
    }
}

#[test]
fn windows_and_caps() {
    let mut rng = rng(222);
    for (index, (window, soft_cap)) in
        [(Some(7), None), (None, Some(2.0)), (Some(33), Some(5.0)), (Some(100), None), (Some(1), None)]
            .into_iter()
            .enumerate()
    {
        for element in [CacheElement::F16, CacheElement::Int8] {
            let mut case = case((4, 2, [64, 96][index % 2]), element, 16);
            case.rule = AttentionRule { window, soft_cap, scale: 0.3 };
            case.interleaved = index % 2 == 1;
            let world = World::new(case, &[150, 90], &mut rng);
            let what = format!("window {window:?}, cap {soft_cap:?}, {element:?}");
            world.check(&[(0, 0, 149), (1, 0, 89)], 64, &format!("{what}: prefill"));
            world.check(&[(0, 149, 150), (1, 89, 90)], 64, &format!("{what}: decode"));
        }
    }
}

#[test]
fn a_sequence_does_not_depend_on_its_neighbours() {
    let mut rng = rng(223);
    let world = World::new(case((8, 2, 64), CacheElement::F16, 16), &[200, 130, 17], &mut rng);
    world.run(&[(0, 0, 199), (1, 0, 129), (2, 0, 16)], 64);
    let width = 8 * 64;
    let alone = world.run(&[(1, 129, 130)], 64).1;
    let among = world.run(&[(0, 199, 200), (1, 129, 130), (2, 16, 17)], 64).1;
    assert_eq!(among[width..2 * width], alone);
}

#[test]
fn queries_and_cache_are_what_the_definition_says() {
    let mut rng = rng(224);
    let shape = HeadShape { heads: 4, kv_heads: 2, head_dim: 64 };
    for interleaved in [false, true] {
        let mut own = case((4, 2, 64), CacheElement::F16, 16);
        own.interleaved = interleaved;
        let mut world = World::new(own, &[20], &mut rng);
        let bias = rng.values(shape.qkv_width());
        let (q_norm, k_norm) = (rng.values(64), rng.values(64));
        let upload = |v: &[f32]| world.device.upload(v).expect("weights");
        world.extras =
            QkvExtras { bias: Some(upload(&bias)), norm: Some((upload(&q_norm), upload(&k_norm), 1e-6)) };
        let (query, _) = world.run(&[(0, 0, 20)], 64);
        let cache = world.cache.to_f32().expect("cache");
        let half = cache.len() / 2;
        for position in 0..20 {
            let row: Vec<f64> = world.qkv[0][position * shape.qkv_width()..][..shape.qkv_width()]
                .iter()
                .zip(&bias)
                .map(|(x, b)| f64::from(x.to_f32()) + f64::from(*b))
                .collect();
            for head in 0..8 {
                let mut x = row[head * 64..][..64].to_vec();
                if head < 6 {
                    let weight = if head < 4 { &q_norm } else { &k_norm };
                    let scale = 1.0 / (x.iter().map(|v| v * v).sum::<f64>() / 64.0 + 1e-6).sqrt();
                    x.iter_mut().zip(weight).for_each(|(x, w)| *x *= scale * f64::from(*w));
                    kernels::reference::rotate(&mut x, position, 10000.0, 64, interleaved);
                }
                let page = world.pages[0][position / 16] as usize;
                let place = ((page * 2 + head % 2) * 16 + position % 16) * 64;
                let found = match head {
                    0..4 => widen(&query[(position * 4 + head) * 64..][..64]),
                    4..6 => cache[place..][..64].to_vec(),
                    _ => cache[half + place..][..64].to_vec(),
                };
                assert_close(&found, &x, |i| 1e-3 + x[i].abs() / 250.0, &format!("{position}, head {head}"));
            }
        }
    }
}

#[test]
fn what_has_no_kernel_is_refused() {
    let device = device();
    let shape = |head_dim| HeadShape { heads: 2, kv_heads: 1, head_dim };
    assert!(PagedCache::new(&device, CacheElement::F16, &shape(72), 4, 16).is_err());
    assert!(PagedCache::new(&device, CacheElement::F16, &shape(64), 4, 24).is_err());
    let cache = PagedCache::new(&device, CacheElement::F16, &shape(64), 4, 16).expect("cache");
    let mut batch = DeviceBatch::new(&device, 4, 2, 1).expect("batch");
    let good = AttentionMeta {
        query_start: vec![0, 1],
        context_len: vec![3],
        block_table: vec![1],
        table_stride: 1,
        positions: vec![2],
        slot_mapping: vec![18],
    };
    batch.fill(&[0], &good, &cache, 8, 0).expect("indices");
    let cases: [(&str, AttentionMeta); 4] = [
        ("page 4", AttentionMeta { block_table: vec![4], ..good.clone() }),
        ("slot 64", AttentionMeta { slot_mapping: vec![64], ..good.clone() }),
        ("positions", AttentionMeta { positions: vec![1], ..good.clone() }),
        ("beyond", AttentionMeta { context_len: vec![9], positions: vec![8], ..good.clone() }),
    ];
    for (word, meta) in cases {
        let error = batch.fill(&[0], &meta, &cache, 8, 0).expect_err(word).to_string();
        assert!(error.contains(word) || error.contains("pages"), "{word}: {error}");
    }
}
