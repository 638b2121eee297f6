//! The gated activation of feed-forward layers.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::cpu;

/// `silu(gate) * up` for each row of `gate_up` `[t, 2 * f]` f32 (gate in the first half): `[t, f]`.
///
/// # Errors
/// If the shape is not `[t, even]` or the type is not f32.
pub fn silu_mul(gate_up: &Tensor) -> Result<Tensor> {
    let (_, width) = gate_up.dims2()?;
    if width == 0 || width % 2 != 0 {
        bail!("silu_mul: a row of {width} has no two equal halves");
    }
    gate_up.contiguous()?.apply_op1_no_bwd(&SiluMul)
}

struct SiluMul;

impl CustomOp1 for SiluMul {
    fn name(&self) -> &'static str {
        "silu-mul"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (t, width) = layout.shape().dims2()?;
        let x = cpu::slice_of::<f32>(x, layout)?;
        let mut out = vec![0f32; t * width / 2];
        cpu::path().silu_mul(x, width / 2, &mut out);
        Ok((CpuStorage::F32(out), Shape::from((t, width / 2))))
    }
}
