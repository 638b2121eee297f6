//! The ops on slices, for each instruction set of this machine.
//!
//! The candle ops of the crate use [`path`]; tests hold every one of [`paths`] to the reference.

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod encoder;
mod matmul;
mod portable;

use std::sync::OnceLock;

use candle_core::{CpuStorage, Layout, Result, WithDType, bail};
use half::f16;

pub use attention::AttentionJob;
pub use encoder::AddNorm;
pub use matmul::Fused;

use crate::PackedMatrix;
use crate::packed::{Kind, PANEL};
use crate::parallel;

/// 32 activations as 8-bit integers.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct QuantBlock {
    /// `round(x / scale)`, in -127..=127.
    pub(crate) q: [i8; 32],
    /// Largest magnitude / 127.
    pub(crate) scale: f32,
    /// `scale` times the sum of `q`.
    pub(crate) sum: f32,
}

/// Rows of activations `[m, k]` in the form a panel kind asks for.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// `[m, k / 32]`.
    Quant(&'a [QuantBlock]),
    /// `[m, k]`.
    Float(&'a [f32]),
}

/// Running state of a softmax over blocks of positions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Softmax {
    /// Largest score so far.
    pub(crate) max: f32,
    /// Sum of `exp(score - max)` so far.
    pub(crate) sum: f32,
}

/// Keys and values of up to [`UNIT`] consecutive positions, `[positions, head_dim]` each.
#[derive(Clone, Copy)]
pub(crate) enum Unit<'a> {
    /// As the cache has them.
    Half { k: &'a [f16], v: &'a [f16] },
    /// Widened, for many queries.
    Single { k: &'a [f32], v: &'a [f32] },
}

/// Most positions in one [`Path`] `attend` call.
pub(crate) const UNIT: usize = 64;

/// Activations below this are zero: the inverse of their scale would not be finite.
pub(crate) const TINY: f32 = 1e-30;

/// The second half of an RMS norm: weight and scale that a row is multiplied with.
pub(crate) type Scaling<'a> = (&'a [f32], f32);

/// The ops for one instruction set.
pub struct Path {
    name: &'static str,
    /// Quantises 32 values a block; with a norm's weight and scale, their product with both.
    quantize: fn(&[f32], Option<Scaling<'_>>, &mut [QuantBlock]),
    /// `1 / sqrt(mean(x^2) + eps)`.
    norm_scale: fn(&[f32], f32) -> f32,
    /// One panel times `out.len()` rows.
    panel: fn(Kind, &[u8], Rows<'_>, &mut [[f32; PANEL]]),
    /// One row: x, weight, eps, out.
    rms_norm: fn(&[f32], &[f32], f32, &mut [f32]),
    /// gate = silu(gate) * up.
    gate: fn(&mut [f32], &[f32]),
    /// Rotates neighbouring pairs: head, and half as many cosines and sines.
    rotate_pairs: fn(&mut [f32], &[f32], &[f32]),
    /// Queries that see the same positions: q `[rows, head_dim]`, positions, states `[rows]`, sums `[rows, head_dim]`.
    attend: fn(&[f32], Unit<'_>, &mut [Softmax], &mut [f32]),
    widen: fn(&[f16], &mut [f32]),
    narrow: fn(&[f32], &mut [f16]),
    /// Asks for memory that is read soon.
    prefetch: fn(&[f16]),
}

static CHOSEN: OnceLock<&'static Path> = OnceLock::new();

/// The fastest path of this machine, chosen once.
pub fn path() -> &'static Path {
    CHOSEN.get_or_init(|| paths().last().copied().unwrap_or(&portable::PATH))
}

/// Makes [`path`] the one of that name, to compare them. False if this machine has none such, or one is in use already.
pub fn choose(name: &str) -> bool {
    paths().into_iter().find(|path| path.name == name).is_some_and(|path| CHOSEN.set(path).is_ok())
}

/// All paths that this machine can run, the fastest last.
pub fn paths() -> Vec<&'static Path> {
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
    let mut paths = vec![&portable::PATH];
    #[cfg(target_arch = "x86_64")]
    paths.extend(avx2::path());
    paths
}

/// Values of one parallel task in row-wise ops; less is done inline.
const ROW_TASK: usize = 32 * 1024;

impl Path {
    /// `"portable"` or the instruction set's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// `x` `[m, k]` times the transpose of `w` `[n, k]` into `out` `[m, n]`.
    ///
    /// # Panics
    /// If the lengths do not match.
    pub fn matmul(&self, x: &[f32], w: &PackedMatrix, out: &mut [f32]) {
        matmul::run(self, x, &[w], &Fused::default(), out);
    }

    /// The same for matrices that are stacked by rows, fused with what comes before and after. Equal to the separate
    /// ops, bit for bit, where a gated row is a multiple of 8.
    ///
    /// # Panics
    /// If the lengths do not match.
    pub fn matmul_fused(&self, x: &[f32], parts: &[&PackedMatrix], fused: &Fused<'_>, out: &mut [f32]) {
        matmul::run(self, x, parts, fused, out);
    }

    /// `gate = silu(gate) * up`.
    fn gate(&self, gate: &mut [f32], up: &[f32]) {
        (self.gate)(gate, up);
    }

    /// Normalises the rows of `x`, each as long as `weight`, into `out`.
    ///
    /// # Panics
    /// If the lengths do not match.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let k = weight.len();
        assert!(
            k > 0 && x.len() == out.len() && x.len().is_multiple_of(k),
            "{} values in rows of {k}",
            x.len()
        );
        self.by_rows(out, k, |row, out| (self.rms_norm)(&x[row * k..][..k], weight, eps, out));
    }

    /// `silu(first half) * second half` of the rows of `x` `[t, 2 * f]` into `out` `[t, f]`.
    ///
    /// # Panics
    /// If the lengths do not match.
    pub fn silu_mul(&self, x: &[f32], f: usize, out: &mut [f32]) {
        assert!(
            f > 0 && x.len() == 2 * out.len() && out.len().is_multiple_of(f),
            "{} values, f {f}",
            x.len()
        );
        self.by_rows(out, f, |row, out| {
            let (gate, up) = x[row * 2 * f..][..2 * f].split_at(f);
            out.copy_from_slice(gate);
            self.gate(out, up);
        });
    }

    /// Writes the rotated k and the v of each token of `qkv` to its slot of `cache`
    /// (`[2, num_blocks, kv_heads, block_size, head_dim]`).
    ///
    /// # Panics
    /// If the lengths or an index of the job do not match.
    pub fn write_cache(&self, job: &AttentionJob<'_>, qkv: &[f32], cache: &mut [f16]) {
        attention::write_cache(self, job, qkv, cache);
    }

    /// Attends from each rotated q of `qkv` to the positions of `cache` up to its own; `out` is `[t, heads * head_dim]`.
    ///
    /// # Panics
    /// If the lengths or an index of the job do not match.
    pub fn attend(&self, job: &AttentionJob<'_>, qkv: &[f32], cache: &[f16], out: &mut [f32]) {
        attention::attend(self, job, qkv, cache, out);
    }

    /// Calls `f` with each row of `out`, on all cores if there is enough to do.
    fn by_rows(&self, out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
        parallel::by_rows(out, width, ROW_TASK.div_ceil(width), f);
    }
}

/// The contiguous values that `layout` names in `storage`.
pub(crate) fn slice_of<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&storage.as_slice::<T>()?[from..to]),
        None => bail!("a tensor of {:?} is not contiguous", layout.shape()),
    }
}
