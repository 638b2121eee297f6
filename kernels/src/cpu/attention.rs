//! The attention driver: which pages and positions each query sees, in a fixed order.

use std::cell::Cell;

use half::f16;

use super::{Path, Softmax, UNIT, Unit};
use crate::parallel::{self, SharedRows};
use crate::{AttentionMeta, HeadShape, QkvExtras, RopeTable};

/// Query rows that share one visit of a page.
const ROWS_PER_TASK: usize = 32;

/// Tokens from which a task widens each page once instead of at every use. The bits are the same.
const WIDEN_FROM: usize = 3;

/// Scores times head size below which the call is not shared out.
const INLINE_OPS: usize = 1 << 17;

/// One attention call: its shapes, indices and the geometry of the cache.
#[derive(Clone, Copy)]
pub struct AttentionJob<'a> {
    /// What comes before the rotation.
    pub extras: &'a QkvExtras,
    /// Rotary table.
    pub rope: &'a RopeTable,
    /// Head counts.
    pub shape: &'a HeadShape,
    /// The ragged batch.
    pub meta: &'a AttentionMeta,
    /// Pages of the cache.
    pub num_blocks: usize,
    /// Positions per page.
    pub block_size: usize,
}

/// The queries `tokens` of one sequence, for the query heads of one key/value head.
struct Task {
    sequence: usize,
    kv_head: usize,
    tokens: std::ops::Range<usize>,
}

impl AttentionJob<'_> {
    /// Values of the k half of the cache.
    fn half(&self) -> usize {
        self.num_blocks * self.shape.kv_heads * self.block_size * self.shape.head_dim
    }

    /// Where the head `kv_head` of position `offset` of `page` starts in a half of the cache.
    fn place(&self, page: usize, kv_head: usize, offset: usize) -> usize {
        ((page * self.shape.kv_heads + kv_head) * self.block_size + offset) * self.shape.head_dim
    }

    /// Applies the extras to `heads`, which are the heads from number `first` on of a row of q, k and v.
    fn prepare(&self, path: &Path, first: usize, heads: &mut [f32]) {
        let HeadShape { heads: queries, kv_heads, head_dim } = *self.shape;
        if let Some(bias) = &self.extras.bias {
            heads.iter_mut().zip(&bias[first * head_dim..]).for_each(|(value, bias)| *value += bias);
        }
        let Some((query, key, eps)) = &self.extras.norm else { return };
        for (number, head) in (first..queries + kv_heads).zip(heads.chunks_exact_mut(head_dim)) {
            let weight = if number < queries { query } else { key };
            let scale = (path.norm_scale)(head, *eps);
            head.iter_mut().zip(weight).for_each(|(value, weight)| *value *= scale * weight);
        }
    }

    fn tasks(&self) -> Vec<Task> {
        let tokens_per_task = (ROWS_PER_TASK / self.shape.group()).max(1);
        let mut tasks = Vec::new();
        for (sequence, bounds) in self.meta.query_start.windows(2).enumerate() {
            let (from, to) = (bounds[0] as usize, bounds[1] as usize);
            for start in (from..to).step_by(tokens_per_task) {
                let tokens = start..to.min(start + tokens_per_task);
                tasks.extend((0..self.shape.kv_heads).map(|kv_head| Task {
                    sequence,
                    kv_head,
                    tokens: tokens.clone(),
                }));
            }
        }
        tasks
    }
}

pub(super) fn write_cache(path: &Path, job: &AttentionJob<'_>, qkv: &[f32], cache: &mut [f16]) {
    let HeadShape { heads, kv_heads, head_dim } = *job.shape;
    let (k_cache, v_cache) = cache.split_at_mut(job.half());
    let mut kv = vec![0f32; 2 * kv_heads * head_dim];
    for (token, row) in qkv.chunks_exact(job.shape.qkv_width()).enumerate() {
        let slot = job.meta.slot_mapping[token] as usize;
        kv.copy_from_slice(&row[heads * head_dim..]);
        job.prepare(path, heads, &mut kv);
        let (k, v) = kv.split_at_mut(kv_heads * head_dim);
        for (kv_head, (k, v)) in k.chunks_exact_mut(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
            let at = job.place(slot / job.block_size, kv_head, slot % job.block_size);
            job.rope.rotate_with(path.rotate_pairs, job.meta.positions[token] as usize, k);
            (path.narrow)(k, &mut k_cache[at..][..head_dim]);
            (path.narrow)(v, &mut v_cache[at..][..head_dim]);
        }
    }
}

pub(super) fn attend(path: &Path, job: &AttentionJob<'_>, qkv: &[f32], cache: &[f16], out: &mut [f32]) {
    let width = job.shape.heads * job.shape.head_dim;
    assert_eq!(qkv.len(), job.meta.positions.len() * job.shape.qkv_width(), "qkv does not match the tokens");
    assert_eq!(out.len(), job.meta.positions.len() * width, "output does not match the tokens");
    assert_eq!(cache.len(), 2 * job.half(), "cache does not match its geometry");
    // Overlapping sequences would let two tasks write the same row.
    assert!(job.meta.query_start.is_sorted(), "query offsets {:?} are not sorted", job.meta.query_start);
    let tasks = job.tasks();
    let scores: usize = job.meta.positions.iter().map(|p| *p as usize + 1).sum();
    let out = SharedRows::new(out, width);
    let run = |task: usize| run_task(path, job, &tasks[task], qkv, cache, &out);
    if scores * width < INLINE_OPS {
        (0..tasks.len()).for_each(run);
    } else {
        parallel::for_each(tasks.len(), run);
    }
}

/// Working memory of a task, kept by the thread from task to task.
#[derive(Default)]
struct Work {
    queries: Vec<f32>,
    sums: Vec<f32>,
    states: Vec<Softmax>,
    /// Whether the keys and values of a unit are widened first.
    widens: bool,
    wide_k: Vec<f32>,
    wide_v: Vec<f32>,
}

thread_local! {
    static WORK: Cell<Work> = Cell::default();
}

impl Work {
    /// Fills in the queries of `task`, and nothing summed yet.
    fn start(&mut self, path: &Path, job: &AttentionJob<'_>, task: &Task, qkv: &[f32]) {
        rotate_queries(path, job, task, qkv, &mut self.queries);
        let rows = task.tokens.len() * job.shape.group();
        self.sums.clear();
        self.sums.resize(rows * job.shape.head_dim, 0.0);
        self.states.clear();
        self.states.resize(rows, Softmax { max: f32::NEG_INFINITY, sum: 0.0 });
        self.widens = task.tokens.len() >= WIDEN_FROM;
        if self.widens {
            let unit = job.block_size.min(UNIT) * job.shape.head_dim;
            self.wide_k.resize(unit, 0.0);
            self.wide_v.resize(unit, 0.0);
        }
    }
}

fn run_task(
    path: &Path,
    job: &AttentionJob<'_>,
    task: &Task,
    qkv: &[f32],
    cache: &[f16],
    out: &SharedRows<'_>,
) {
    let (group, head_dim) = (job.shape.group(), job.shape.head_dim);
    let positions = &job.meta.positions[task.tokens.clone()];
    let unit = job.block_size.min(UNIT);
    let mut work = WORK.take();
    work.start(path, job, task, qkv);
    let caches = cache.split_at(job.half());
    let context = positions.iter().max().map_or(0, |p| *p as usize + 1);
    let table = &job.meta.block_table[task.sequence * job.meta.table_stride..];
    for (page, block) in table[..context.div_ceil(job.block_size)].iter().enumerate() {
        if let Some(next) = table.get(page + 1).filter(|_| (page + 1) * job.block_size < context) {
            let at = job.place(*next as usize, task.kv_head, 0);
            (path.prefetch)(&caches.0[at..][..unit * head_dim]);
            (path.prefetch)(&caches.1[at..][..unit * head_dim]);
        }
        for offset in (0..job.block_size).step_by(unit) {
            let start = page * job.block_size + offset;
            let seen = unit.min(job.block_size - offset).min(context.saturating_sub(start)) * head_dim;
            let at = job.place(*block as usize, task.kv_head, offset);
            let (k, v) = (&caches.0[at..][..seen], &caches.1[at..][..seen]);
            attend_unit(path, &mut work, positions, start, k, v);
        }
    }
    for (sum, state) in work.sums.chunks_exact_mut(head_dim).zip(&work.states) {
        let inverse = 1.0 / state.sum;
        sum.iter_mut().for_each(|value| *value *= inverse);
    }
    for (token, values) in task.tokens.clone().zip(work.sums.chunks_exact(group * head_dim)) {
        // SAFETY: tasks cover disjoint pairs of token and key/value head, and each writes the columns of its own.
        unsafe { out.store(token, task.kv_head * group * head_dim, values) };
    }
    WORK.set(work);
}

/// Lets each token of a task attend to the positions `start..` that it may see of `k` and `v`.
///
/// A query's units are cut at absolute positions, whatever else shares the visit.
fn attend_unit(path: &Path, work: &mut Work, positions: &[u32], start: usize, k: &[f16], v: &[f16]) {
    let rows = work.states.len() / positions.len();
    let head_dim = work.sums.len() / work.states.len();
    if work.widens {
        (path.widen)(k, &mut work.wide_k[..k.len()]);
        (path.widen)(v, &mut work.wide_v[..v.len()]);
    }
    for (token, position) in positions.iter().enumerate() {
        let visible = ((*position as usize + 1).saturating_sub(start) * head_dim).min(k.len());
        if visible == 0 {
            continue;
        }
        let unit = if work.widens {
            Unit::Single { k: &work.wide_k[..visible], v: &work.wide_v[..visible] }
        } else {
            Unit::Half { k: &k[..visible], v: &v[..visible] }
        };
        let part = token * rows * head_dim..(token + 1) * rows * head_dim;
        let states = &mut work.states[token * rows..][..rows];
        (path.attend)(&work.queries[part.clone()], unit, states, &mut work.sums[part]);
    }
}

/// The task's queries, prepared, rotated and scaled, `[tokens * group, head_dim]`.
fn rotate_queries(path: &Path, job: &AttentionJob<'_>, task: &Task, qkv: &[f32], queries: &mut Vec<f32>) {
    let (group, head_dim) = (job.shape.group(), job.shape.head_dim);
    let scale = 1.0 / (head_dim as f32).sqrt();
    queries.clear();
    for token in task.tokens.clone() {
        let from = token * job.shape.qkv_width() + task.kv_head * group * head_dim;
        let start = queries.len();
        queries.extend_from_slice(&qkv[from..][..group * head_dim]);
        job.prepare(path, task.kv_head * group, &mut queries[start..]);
        for head in queries[start..].chunks_exact_mut(head_dim) {
            job.rope.rotate_with(path.rotate_pairs, job.meta.positions[token] as usize, head);
            head.iter_mut().for_each(|value| *value *= scale);
        }
    }
}
