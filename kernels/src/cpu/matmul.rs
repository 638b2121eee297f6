//! The matmul driver: quantises activations once, then shares the panels out.

use super::{Path, QuantBlock, Rows};
use crate::PackedMatrix;
use crate::packed::PANEL;
use crate::parallel::{self, SharedRows};

/// Rows handled per visit of a panel, so that their activations stay in the second-level cache.
const ROW_BLOCK: usize = 128;

/// Multiply-adds of a parallel task that are worth a thread's wake-up (about 20 us).
const TASK_OPS: usize = 1 << 20;

/// Weight bytes of a task, for the case that memory is the limit.
const TASK_BYTES: usize = 128 << 10;

pub(super) fn run(path: &Path, x: &[f32], w: &PackedMatrix, out: &mut [f32]) {
    let (k, n) = (w.cols(), w.rows());
    assert_eq!(x.len() % k, 0, "{} activations in rows of {k}", x.len());
    let m = x.len() / k;
    assert_eq!(out.len(), m * n, "{m} rows of {n} outputs");
    if w.kind().is_quantized() {
        let mut blocks = vec![QuantBlock::default(); m * k / 32];
        let width = k / 32;
        parallel::by_rows(&mut blocks, width, 512_usize.div_ceil(width), |row, out| {
            (path.quantize)(&x[row * k..][..k], out);
        });
        panels(path, Rows::Quant(&blocks), w, out);
    } else {
        panels(path, Rows::Float(x), w, out);
    }
}

fn panels(path: &Path, rows: Rows<'_>, w: &PackedMatrix, out: &mut [f32]) {
    let n = w.rows();
    let m = out.len() / n;
    if m == 0 {
        return;
    }
    let total = w.panels();
    let by_ops = TASK_OPS / (w.cols() * PANEL * m).max(1);
    let by_bytes = TASK_BYTES / w.panel(0).len().max(1);
    let per_task = by_ops.min(by_bytes).clamp(1, total);
    let out = SharedRows::new(out, n);
    parallel::for_each(total.div_ceil(per_task), |task| {
        let mut tile = [[0f32; PANEL]; ROW_BLOCK];
        for from in (0..m).step_by(ROW_BLOCK) {
            let tile = &mut tile[..ROW_BLOCK.min(m - from)];
            let rows = rows.slice(from, tile.len(), m);
            for panel in task * per_task..total.min((task + 1) * per_task) {
                (path.panel)(w.kind(), w.panel(panel), rows, tile);
                let column = panel * PANEL;
                let width = PANEL.min(n - column);
                for (row, values) in tile.iter().enumerate() {
                    // SAFETY: a panel is visited by one task alone, and only it writes these columns.
                    unsafe { out.store(from + row, column, &values[..width]) };
                }
            }
        }
    });
}

impl<'a> Rows<'a> {
    /// `count` rows from row `from` of `m` in all.
    fn slice(self, from: usize, count: usize, m: usize) -> Self {
        match self {
            Self::Quant(blocks) => {
                let width = blocks.len() / m;
                Self::Quant(&blocks[from * width..][..count * width])
            }
            Self::Float(values) => {
                let width = values.len() / m;
                Self::Float(&values[from * width..][..count * width])
            }
        }
    }
}
