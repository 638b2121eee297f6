//! Activations times packed weights, as a candle op.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, bail};

use crate::PackedMatrix;
use crate::cpu::{self, Fused};

/// What [`matmul_fused`] does before and after multiplying. All tensors f32.
#[derive(Clone, Debug, Default)]
pub struct Fusion {
    /// Weight `[k]` and epsilon of an RMS norm of the input rows.
    pub norm: Option<(Tensor, f32)>,
    /// Give `silu(first half) * second half` of each output row.
    pub gated: bool,
    /// Add this, of the output's shape.
    pub residual: Option<Tensor>,
}

/// `x` `[m, k]` f32 times the transpose of `w` `[n, k]`: `[m, n]` f32.
///
/// With quantised weights the activations are quantised to 8 bits in groups of 32 first.
///
/// # Errors
/// If `x` is not `[m, k]` of f32.
pub fn matmul(x: &Tensor, w: &Arc<PackedMatrix>) -> Result<Tensor> {
    matmul_fused(x, std::slice::from_ref(w), Fusion::default())
}

/// The same for matrices stacked by rows, with the ops that surround it in a transformer: one pass over the activations
/// where separate ops take several. The numbers are those of the separate ops.
///
/// # Errors
/// If shapes or types do not match.
pub fn matmul_fused(x: &Tensor, parts: &[Arc<PackedMatrix>], fusion: Fusion) -> Result<Tensor> {
    let (m, k) = x.dims2()?;
    if parts.is_empty() {
        bail!("matmul: no weights");
    }
    if let Some(w) = parts.iter().find(|w| w.cols() != k) {
        bail!("matmul: rows of {k} with a matrix of {} columns", w.cols());
    }
    let rows: usize = parts.iter().map(|w| w.rows()).sum();
    if fusion.gated && !rows.is_multiple_of(2) {
        bail!("matmul: {rows} outputs have no two equal halves");
    }
    let width = if fusion.gated { rows / 2 } else { rows };
    if let Some((weight, _)) = fusion.norm.as_ref().filter(|(weight, _)| weight.dims() != [k]) {
        bail!("matmul: rows of {k} with a norm of {:?}", weight.dims());
    }
    if let Some(residual) = fusion.residual.as_ref().filter(|r| r.dims() != [m, width]) {
        bail!("matmul: outputs of {m} x {width} with a residual of {:?}", residual.dims());
    }
    x.contiguous()?.apply_op1_no_bwd(&Matmul { parts, width, fusion })
}

struct Matmul<'a> {
    parts: &'a [Arc<PackedMatrix>],
    width: usize,
    fusion: Fusion,
}

impl CustomOp1 for Matmul<'_> {
    fn name(&self) -> &'static str {
        "packed-matmul"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (m, _) = layout.shape().dims2()?;
        let x = cpu::slice_of::<f32>(x, layout)?;
        let mut out = vec![0f32; m * self.width];
        let norm = self.fusion.norm.as_ref().map(|(weight, eps)| (weight.storage_and_layout(), *eps));
        let norm = match &norm {
            Some(((storage, layout), eps)) => Some((values(storage, layout)?, *eps)),
            None => None,
        };
        let residual = self.fusion.residual.as_ref().map(Tensor::storage_and_layout);
        let residual = match &residual {
            Some((storage, layout)) => Some(values(storage, layout)?),
            None => None,
        };
        let parts: Vec<&PackedMatrix> = self.parts.iter().map(Arc::as_ref).collect();
        let fused = Fused { norm, gated: self.fusion.gated, residual };
        cpu::path().matmul_fused(x, &parts, &fused, &mut out);
        Ok((CpuStorage::F32(out), Shape::from((m, self.width))))
    }
}

fn values<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(storage) => cpu::slice_of::<f32>(storage, layout),
        _ => bail!("matmul: a norm or residual is not in main memory"),
    }
}
