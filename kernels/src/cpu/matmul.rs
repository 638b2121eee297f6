//! The matmul driver: prepares the activations once, shares the panels out, and finishes a tile while it is in the
//! cache.

use std::cell::Cell;

use super::{Path, QuantBlock, Rows};
use crate::PackedMatrix;
use crate::packed::PANEL;
use crate::parallel::{self, SharedRows};

/// Rows whose activations stay in the second-level cache while all panels of a task visit them.
const ROW_BLOCK: usize = 128;

/// Rows of a tile in the first-level cache between multiplication and store.
const TILE: usize = 16;

/// Multiply-adds of a parallel task: some 5 us, against less than 1 us to claim it.
const TASK_OPS: usize = 1 << 19;

/// Weight bytes of a task, for the case that memory is the limit.
const TASK_BYTES: usize = 64 << 10;

/// Activations of a task that prepares them.
const PREPARE: usize = 16 << 10;

thread_local! {
    /// Kept from call to call, so that a step allocates nothing for it.
    static BLOCKS: Cell<Vec<QuantBlock>> = const { Cell::new(Vec::new()) };
}

/// What a matmul does to its rows before and after multiplying.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fused<'a> {
    /// Normalise the input rows first: weight (as long as a row) and epsilon of an RMS norm.
    pub norm: Option<(&'a [f32], f32)>,
    /// Give `silu(first half) * second half` of each output row.
    pub gated: bool,
    /// Add this, of the output's shape.
    pub residual: Option<&'a [f32]>,
}

impl Fused<'_> {
    /// Width of the output for `rows` stacked weight rows.
    pub(crate) fn width(&self, rows: usize) -> usize {
        if self.gated { rows / 2 } else { rows }
    }
}

/// `x` `[m, k]` times the transposes of the stacked `parts`, with what `fused` asks for, into `out`.
pub(super) fn run(path: &Path, x: &[f32], parts: &[&PackedMatrix], fused: &Fused<'_>, out: &mut [f32]) {
    let k = parts[0].cols();
    let rows: usize = parts.iter().map(|w| w.rows()).sum();
    assert!(
        parts.iter().all(|w| w.cols() == k) && x.len().is_multiple_of(k),
        "{} values, rows of {k}",
        x.len()
    );
    let (m, width) = (x.len() / k, fused.width(rows));
    assert_eq!(out.len(), m * width, "{m} rows of {width} outputs");
    assert!(fused.residual.is_none_or(|r| r.len() == out.len()), "the residual has another shape");
    assert!(fused.norm.is_none_or(|(weight, _)| weight.len() == k), "the norm has another width");
    if m == 0 {
        return;
    }
    let in_tile = parts.len() == 1 && rows.is_multiple_of(2 * PANEL);
    if fused.gated && !in_tile {
        // The halves are not whole panels of one matrix.
        assert!(fused.residual.is_none(), "gated outputs in parts have no residual");
        let mut both = vec![0f32; m * rows];
        run(path, x, parts, &Fused { norm: fused.norm, ..Fused::default() }, &mut both);
        return path.silu_mul(&both, width, out);
    }
    let normed =
        fused.norm.filter(|_| !parts.iter().all(|w| w.kind().is_quantized())).map(|(weight, eps)| {
            let mut normed = vec![0f32; x.len()];
            path.rms_norm(x, weight, eps, &mut normed);
            normed
        });
    let (x, norm) = normed.as_ref().map_or((x, fused.norm), |normed| (normed, None));
    let mut blocks = BLOCKS.take();
    if parts.iter().any(|w| w.kind().is_quantized()) {
        quantize(path, x, k, norm, &mut blocks);
    }
    let out = SharedRows::new(out, width);
    let mut column = 0;
    for w in parts {
        let rows = if w.kind().is_quantized() { Rows::Quant(&blocks) } else { Rows::Float(x) };
        Product { path, rows, m, w, column, fused, out: &out }.run();
        column += w.rows();
    }
    BLOCKS.set(blocks);
}

fn quantize(path: &Path, x: &[f32], k: usize, norm: Option<(&[f32], f32)>, blocks: &mut Vec<QuantBlock>) {
    // Whatever was there is overwritten.
    blocks.resize(x.len() / 32, QuantBlock::default());
    parallel::by_rows(blocks, k / 32, PREPARE.div_ceil(k), |row, out| {
        let x = &x[row * k..][..k];
        let norm = norm.map(|(weight, eps)| (weight, (path.norm_scale)(x, eps)));
        (path.quantize)(x, norm, out);
    });
}

/// One weight matrix's share of a call.
struct Product<'a> {
    path: &'a Path,
    rows: Rows<'a>,
    m: usize,
    w: &'a PackedMatrix,
    /// Where its outputs start in a row.
    column: usize,
    fused: &'a Fused<'a>,
    out: &'a SharedRows<'a>,
}

impl Product<'_> {
    fn run(&self) {
        let w = self.w;
        // A gated task takes panels in pairs.
        let (units, panels) = if self.fused.gated { (w.panels() / 2, 2) } else { (w.panels(), 1) };
        let by_ops = TASK_OPS / (panels * w.cols() * PANEL * self.m);
        let by_bytes = TASK_BYTES / (panels * w.panel(0).len());
        let per_task = by_ops.min(by_bytes).clamp(1, units);
        parallel::for_each(units.div_ceil(per_task), |task| {
            let mut tiles = [[[0f32; PANEL]; TILE]; 2];
            for from in (0..self.m).step_by(ROW_BLOCK) {
                let to = self.m.min(from + ROW_BLOCK);
                for unit in task * per_task..units.min((task + 1) * per_task) {
                    for row in (from..to).step_by(TILE) {
                        self.tile(unit, row, TILE.min(to - row), &mut tiles);
                    }
                }
            }
        });
    }

    /// `count` rows from row `from` on, times one panel, or times a gate's and its factor's.
    fn tile(&self, unit: usize, from: usize, count: usize, tiles: &mut [[[f32; PANEL]; TILE]; 2]) {
        let rows = self.rows.slice(from, count, self.m);
        let [first, second] = tiles;
        let (first, second) = (&mut first[..count], &mut second[..count]);
        (self.path.panel)(self.w.kind(), self.w.panel(unit), rows, first);
        if self.fused.gated {
            (self.path.panel)(self.w.kind(), self.w.panel(self.w.panels() / 2 + unit), rows, second);
            self.path.gate(first.as_flattened_mut(), second.as_flattened());
        }
        let begin = unit * PANEL;
        let width = PANEL.min(self.fused.width(self.w.rows()) - begin);
        let column = self.column + begin;
        for (row, values) in first.iter().enumerate() {
            // SAFETY: a panel is visited by one task alone, and only it writes these columns.
            let out = unsafe { self.out.part(from + row, column, width) };
            let residual =
                self.fused.residual.map(|r| &r[(from + row) * self.out.width() + column..][..width]);
            // Whole panels have a length that the compiler knows.
            match (<&mut [f32; PANEL]>::try_from(&mut *out), residual) {
                (Ok(out), None) => *out = *values,
                (Ok(out), Some(residual)) => add(out, residual, values),
                (Err(_), None) => out.copy_from_slice(&values[..width]),
                (Err(_), Some(residual)) => add(out, residual, values),
            }
        }
    }
}

#[inline]
fn add(out: &mut [f32], a: &[f32], b: &[f32]) {
    out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = a + b);
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
