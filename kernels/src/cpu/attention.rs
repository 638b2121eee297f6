//! The attention driver: which pages and positions each query sees, in a fixed order.

use half::f16;

use super::{Path, Softmax, UNIT};
use crate::parallel::{self, SharedRows};
use crate::{AttentionMeta, HeadShape, RopeTable};

/// Query rows that share one visit of a page.
const ROWS_PER_TASK: usize = 32;

/// Scores times head size below which the call is not shared out.
const INLINE_OPS: usize = 1 << 17;

/// One attention call: its shapes, indices and the geometry of the cache.
#[derive(Clone, Copy)]
pub struct AttentionJob<'a> {
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
    let mut rotated = vec![0f32; head_dim];
    for (token, row) in qkv.chunks_exact(job.shape.qkv_width()).enumerate() {
        let slot = job.meta.slot_mapping[token] as usize;
        let (k, v) = row[heads * head_dim..].split_at(kv_heads * head_dim);
        for kv_head in 0..kv_heads {
            let at = job.place(slot / job.block_size, kv_head, slot % job.block_size);
            rotated.copy_from_slice(&k[kv_head * head_dim..][..head_dim]);
            job.rope.rotate(job.meta.positions[token] as usize, &mut rotated);
            (path.narrow)(&rotated, &mut k_cache[at..][..head_dim]);
            (path.narrow)(&v[kv_head * head_dim..][..head_dim], &mut v_cache[at..][..head_dim]);
        }
    }
}

pub(super) fn attend(path: &Path, job: &AttentionJob<'_>, qkv: &[f32], cache: &[f16], out: &mut [f32]) {
    let width = job.shape.heads * job.shape.head_dim;
    assert_eq!(qkv.len(), job.meta.positions.len() * job.shape.qkv_width(), "qkv does not match the tokens");
    assert_eq!(out.len(), job.meta.positions.len() * width, "output does not match the tokens");
    assert_eq!(cache.len(), 2 * job.half(), "cache does not match its geometry");
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
    let rows = positions.len() * group;
    let queries = rotated_queries(job, task, qkv);
    let mut sums = vec![0f32; rows * head_dim];
    let mut states = vec![Softmax { max: f32::NEG_INFINITY, sum: 0.0 }; rows];
    let unit = job.block_size.min(UNIT);
    let (mut k, mut v) = (vec![0f32; unit * head_dim], vec![0f32; unit * head_dim]);
    let (k_cache, v_cache) = cache.split_at(job.half());
    let context = positions.iter().max().map_or(0, |p| *p as usize + 1);
    for page in 0..context.div_ceil(job.block_size) {
        let block = job.meta.block_table[task.sequence * job.meta.table_stride + page] as usize;
        for offset in (0..job.block_size).step_by(unit) {
            let start = page * job.block_size + offset;
            if start >= context {
                break;
            }
            let seen = unit.min(job.block_size - offset).min(context - start);
            let (at, len) = (job.place(block, task.kv_head, offset), seen * head_dim);
            (path.widen)(&k_cache[at..][..len], &mut k[..len]);
            (path.widen)(&v_cache[at..][..len], &mut v[..len]);
            for row in 0..rows {
                // A query's units are cut at absolute positions, whatever else shares the visit.
                let visible =
                    (positions[row / group] as usize + 1).saturating_sub(start).min(seen) * head_dim;
                if visible > 0 {
                    let (q, sum) =
                        (&queries[row * head_dim..][..head_dim], &mut sums[row * head_dim..][..head_dim]);
                    (path.attend)(q, &k[..visible], &v[..visible], &mut states[row], sum);
                }
            }
        }
    }
    for (sum, state) in sums.chunks_exact_mut(head_dim).zip(&states) {
        let inverse = 1.0 / state.sum;
        sum.iter_mut().for_each(|value| *value *= inverse);
    }
    for (token, values) in task.tokens.clone().zip(sums.chunks_exact(group * head_dim)) {
        // SAFETY: tasks cover disjoint pairs of token and key/value head, and each writes the columns of its own.
        unsafe { out.store(token, task.kv_head * group * head_dim, values) };
    }
}

/// The task's queries, rotated and scaled, `[tokens * group, head_dim]`.
fn rotated_queries(job: &AttentionJob<'_>, task: &Task, qkv: &[f32]) -> Vec<f32> {
    let (group, head_dim) = (job.shape.group(), job.shape.head_dim);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut queries = Vec::with_capacity(task.tokens.len() * group * head_dim);
    for token in task.tokens.clone() {
        let from = token * job.shape.qkv_width() + task.kv_head * group * head_dim;
        let start = queries.len();
        queries.extend_from_slice(&qkv[from..][..group * head_dim]);
        for head in queries[start..].chunks_exact_mut(head_dim) {
            job.rope.rotate(job.meta.positions[token] as usize, head);
            head.iter_mut().for_each(|value| *value *= scale);
        }
    }
    queries
}
