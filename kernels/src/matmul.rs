//! Activations times packed weights, as a candle op.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::{PackedMatrix, cpu};

/// `x` `[m, k]` f32 times the transpose of `w` `[n, k]`: `[m, n]` f32.
///
/// With quantised weights the activations are quantised to 8 bits in groups of 32 first.
///
/// # Errors
/// If `x` is not `[m, k]` of f32.
pub fn matmul(x: &Tensor, w: &Arc<PackedMatrix>) -> Result<Tensor> {
    let (_, k) = x.dims2()?;
    if k != w.cols() {
        bail!("matmul: rows of {k} with a matrix of {} columns", w.cols());
    }
    x.contiguous()?.apply_op1_no_bwd(&Matmul { w: Arc::clone(w) })
}

struct Matmul {
    w: Arc<PackedMatrix>,
}

impl CustomOp1 for Matmul {
    fn name(&self) -> &'static str {
        "packed-matmul"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (m, _) = layout.shape().dims2()?;
        let x = cpu::slice_of::<f32>(x, layout)?;
        let mut out = vec![0f32; m * self.w.rows()];
        cpu::path().matmul(x, &self.w, &mut out);
        Ok((CpuStorage::F32(out), Shape::from((m, self.w.rows()))))
    }
}
