//! Root-mean-square normalisation.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use crate::cpu;

/// `x / sqrt(mean(x^2) + eps) * weight` for each row of `x` `[t, k]`; `weight` is `[k]`. All f32.
///
/// # Errors
/// If shapes or types do not match.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let ((_, k), n) = (x.dims2()?, weight.dims1()?);
    if k != n || k == 0 {
        bail!("rms_norm: rows of {k} with a weight of {n}");
    }
    x.contiguous()?.apply_op2_no_bwd(&weight.contiguous()?, &RmsNorm { eps })
}

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (cpu::slice_of::<f32>(x, xl)?, cpu::slice_of::<f32>(w, wl)?);
        let mut out = vec![0f32; x.len()];
        cpu::path().rms_norm(x, w, self.eps, &mut out);
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }
}
